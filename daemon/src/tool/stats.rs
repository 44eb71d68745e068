//! `smclo stats`: counts of the host, of programs and of users.

use crate::report::{Counts, SIZE_NAMES, Stats};
use crate::tool::table::{BOLD, Cell, FAINT, Table, abbreviated, paint};
use protocol::reason;
use std::fmt::Write;

pub fn text(s: &Stats) -> String {
    let mut out = summary(&s.counts);
    let mut table = Table::new();
    for (name, n) in [
        ("DMBs", s.dmbs),
        ("DMB bytes", s.dmb_bytes),
        ("Link groups", s.link_groups),
        ("Claims waiting", s.claims_waiting),
        ("Client processes", s.clients),
    ] {
        table.row(vec![name.into(), Cell::number(n)]);
    }
    out.push_str(&paint(BOLD, "\nDevice\n"));
    out.push_str(&indented(&table.finish()));
    if s.other_versions != 0 {
        let _ = writeln!(
            out,
            "\nPrograms with another version of libsmclo have asked {} times: they stay on TCP \
             until they are started anew.",
            s.other_versions
        );
    }
    if !s.processes.is_empty() {
        out.push_str(&paint(BOLD, "\nPrograms that run\n"));
        out.push_str(&indented(&programs(s)));
    }
    if !s.users.is_empty() {
        out.push_str(&paint(BOLD, "\nUsers\n"));
        out.push_str(&indented(&users(s)));
    }
    out
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

fn big(n: u64) -> Cell {
    if n < 1000 {
        Cell::number(n)
    } else {
        Cell::number(format!("{n} ({})", abbreviated(n)))
    }
}

/// Share of spins that paid off.
fn rate(hits: u64, misses: u64) -> String {
    match hits + misses {
        0 => String::new(),
        all => format!(" ({:.1} % paid off)", hits as f64 * 100.0 / all as f64),
    }
}

fn summary(c: &Counts) -> String {
    let mut table = Table::new();
    let mut line = |name: &str, value: Cell| table.row(vec![name.into(), value]);
    line("Connections now", Cell::number(c.connections));
    line("Connections accelerated", Cell::number(c.accelerated));
    line("Connections on TCP only", Cell::number(c.plain));
    line("Upgrades to SMC-D", Cell::number(c.upgrades));
    line("Returns to TCP", Cell::number(c.reverts));
    line("Bytes over SMC-D", big(c.smc_bytes));
    line("Bytes over TCP", big(c.tcp_bytes));
    line("Ring found full", Cell::number(c.ring_full));
    line("Doorbells rung", Cell::number(c.rings));
    line("Sleeps", Cell::number(c.sleeps));
    let spins = format!(
        "{}{}",
        c.spin_hits.saturating_add(c.spin_misses),
        rate(c.spin_hits, c.spin_misses)
    );
    line("Spins", Cell::number(spins));
    let mut out = paint(BOLD, "Connections\n");
    out.push_str(&indented(&table.finish()));
    out.push_str(&paint(BOLD, "\nMessages over SMC-D, by bytes\n"));
    out.push_str(&indented(&sizes(c)));
    if !c.fallbacks.is_empty() {
        out.push_str(&paint(BOLD, "\nTCP because of\n"));
        out.push_str(&indented(&fallbacks(c)));
    }
    out
}

/// What the name of a reason means.
pub fn words(name: &str) -> &'static str {
    let mut all = reason::ALL.iter().copied();
    let code = all.find(|code| reason::name(*code) == name);
    code.map_or("unknown reason", reason::words)
}

fn sizes(c: &Counts) -> String {
    let mut names = [""; SIZE_NAMES.len() + 1];
    names[1..].copy_from_slice(&SIZE_NAMES);
    let mut table = Table::headed(names);
    for (name, sizes) in [("Sent", c.sent_sizes), ("Received", c.received_sizes)] {
        let counts = sizes.iter().map(Cell::number);
        table.row([Cell::new(name)].into_iter().chain(counts).collect());
    }
    table.finish()
}

/// The most frequent first.
fn fallbacks(c: &Counts) -> String {
    let mut most: Vec<_> = c.fallbacks.iter().collect();
    most.sort_by(|a, b| b.1.cmp(a.1));
    let mut table = Table::new();
    for (name, count) in most {
        table.row(vec![
            name.as_str().into(),
            Cell::number(count),
            Cell::new(words(name)).style(FAINT),
        ]);
    }
    table.finish()
}

const COUNTS: [&str; 6] = [
    "SMC-Conns",
    "TCP-Conns",
    "SMC-Bytes",
    "TCP-Bytes",
    "Back",
    "Most frequent reason",
];

fn counts(c: &Counts) -> Vec<Cell> {
    let reason = c.fallbacks.iter().max_by_key(|(_, count)| **count);
    let reason = reason.map_or(String::new(), |(name, count)| format!("{name} ({count})"));
    vec![
        Cell::number(c.accelerated),
        Cell::number(c.plain),
        Cell::number(abbreviated(c.smc_bytes)),
        Cell::number(abbreviated(c.tcp_bytes)),
        Cell::number(c.reverts),
        Cell::new(reason).style(FAINT),
    ]
}

fn programs(s: &Stats) -> String {
    let mut table = Table::headed(["Program", "UID", "PIDs"]);
    table.head(&COUNTS);
    for p in &s.processes {
        let some = p.pids.iter().take(3).map(u32::to_string);
        let mut pids = some.collect::<Vec<_>>().join(",");
        if p.pids.len() > 3 {
            pids.push_str(",..");
        }
        let mut cells = vec![p.program.as_str().into(), Cell::number(p.uid), pids.into()];
        cells.extend(counts(&p.counts));
        table.row(cells);
    }
    table.finish()
}

fn users(s: &Stats) -> String {
    let mut table = Table::headed(["UID", "DMB-Bytes"]);
    table.head(&COUNTS);
    for u in &s.users {
        let mut cells = vec![Cell::number(u.uid), Cell::number(abbreviated(u.dmb_bytes))];
        cells.extend(counts(&u.counts));
        table.row(cells);
    }
    table.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_reason_comes_first() {
        let stats = Stats {
            counts: Counts {
                fallbacks: [("NOT_LOCAL".to_string(), 1), ("OOB".to_string(), 9)].into(),
                spin_hits: 3,
                spin_misses: 1,
                smc_bytes: 8_192_000,
                ..Counts::default()
            },
            ..Stats::default()
        };
        let text = anstream::adapter::strip_str(&text(&stats)).to_string();
        assert!(text.find("OOB").unwrap() < text.find("NOT_LOCAL").unwrap());
        assert!(text.contains("urgent data"));
        assert!(text.contains("4 (75.0 % paid off)") && text.contains("8192000 (8.2M)"));
    }
}
