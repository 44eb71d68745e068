//! The tables for a terminal.

use super::{number, or_dash, published};
use crate::leg::{self, TCP};
use crate::place::Placement;
use crate::results::{Cell, Results, Row};
use crate::targets;
use std::fmt::Write;

const TITLE: usize = 44;

pub fn table(results: &Results) -> String {
    let mut text = String::new();
    for placement in Placement::ALL {
        let rows: Vec<&Row> = results
            .rows
            .iter()
            .filter(|r| r.placement == placement)
            .collect();
        if !rows.is_empty() {
            medians(&mut text, placement, &rows);
            costs(&mut text, placement, &rows);
        }
    }
    for standing in &results.standing {
        let _ = writeln!(text, "\n{}", standing.words());
    }
    published_ratios(&mut text, results);
    reached(&mut text, results);
    for failure in results.failures() {
        let _ = write!(text, "\nfailed: {failure}\n");
    }
    text
}

/// Legs of some rows, in the order of [`leg::ALL`].
pub fn legs_of(rows: &[&Row]) -> Vec<&'static str> {
    let has = |key: &str| rows.iter().any(|r| r.cell(key).is_some());
    let keys = leg::ALL.iter().map(|l| l.key);
    keys.filter(|k| has(k)).collect()
}

fn shimmed(key: &str) -> bool {
    leg::by_key(key).is_some_and(|l| l.shimmed())
}

fn medians(text: &mut String, placement: Placement, rows: &[&Row]) {
    let legs = legs_of(rows);
    let _ = write!(
        text,
        "\n{}\n\n{:TITLE$} {:>6}",
        placement.words(),
        "median (lowest - highest)",
        ""
    );
    for key in &legs {
        let width = width(key);
        let _ = write!(text, "  {:>width$}", leg::title(key));
    }
    text.push('\n');
    for row in rows {
        let label = &row.workload;
        let _ = write!(text, "{:TITLE$} {:>6}", label.title, label.unit);
        for key in &legs {
            let cell = row.cell(key);
            let median = or_dash(cell.and_then(Cell::median).map(number));
            let _ = write!(text, "  {median:>8}");
            if *key != TCP {
                let ratio = row.ratio(key, TCP).map(|r| format!("{}x", number(r)));
                let _ = write!(text, " {:>7}", or_dash(ratio));
            }
            if shimmed(key) {
                let _ = write!(text, " {:>7}", or_dash(cell.and_then(share)));
            }
        }
        text.push('\n');
        if row.cells.iter().any(|c| c.runs.len() > 1) {
            ranges(text, row, &legs);
        }
    }
    text.push_str(
        "x: times as good as TCP in the same run; %: share of the bytes that went over SMC, counted\n\
         by the library at both ends (`smclo stats`).\n",
    );
}

fn width(key: &str) -> usize {
    match key {
        TCP => 8,
        _ if shimmed(key) => 24,
        _ => 16,
    }
}

fn share(cell: &Cell) -> Option<String> {
    cell.share().map(|s| format!("{:.1} %", s * 100.0))
}

fn ranges(text: &mut String, row: &Row, legs: &[&str]) {
    let _ = write!(text, "{:TITLE$} {:>6}", "", "");
    for key in legs {
        let range = row.cell(key).and_then(Cell::range);
        let range = range.map(|(low, high)| format!("{}-{}", number(low), number(high)));
        let width = width(key);
        let _ = write!(text, "  {:>width$}", or_dash(range));
    }
    text.push('\n');
}

/// What an operation costs, all processes together.
fn costs(text: &mut String, placement: Placement, rows: &[&Row]) {
    let legs = legs_of(rows);
    let short = placement.short();
    let _ = write!(
        text,
        "\n{:TITLE$} {:>11}",
        format!("CPU us (context switches) each, {short}"),
        ""
    );
    for key in &legs {
        let _ = write!(text, "  {:>16}", leg::title(key));
    }
    text.push('\n');
    for row in rows {
        let label = &row.workload;
        let _ = write!(text, "{:TITLE$} {:>11}", label.title, label.operation);
        for key in &legs {
            let cost = row.cell(key).and_then(|cell| {
                let switches = cell.per_operation(|s| (s.voluntary + s.involuntary) as f64)?;
                Some(format!("{} ({switches:.3})", number(cell.cpu_us()?)))
            });
            let _ = write!(text, "  {:>16}", or_dash(cost));
        }
        text.push('\n');
    }
}

fn published_ratios(text: &mut String, results: &Results) {
    let measured = |workload: &str| results.rows.iter().any(|r| r.workload.key == workload);
    let rows: Vec<_> = published::RFC
        .iter()
        .filter(|p| measured(p.workload))
        .collect();
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(
        text,
        "\n{:TITLE$} {:>12} {:>12} {:>12}",
        "published elsewhere, kernel, times TCP", "UNIX domain", "SMC copy", "SMC no-copy"
    );
    for p in rows {
        let ratio = |value: Option<f64>| or_dash(value.map(|v| format!("{:.2}x", p.ratio(v))));
        let (unix, copy, nocopy) = (ratio(p.unix), ratio(Some(p.copy)), ratio(Some(p.nocopy)));
        let _ = writeln!(text, "{:TITLE$} {unix:>12} {copy:>12} {nocopy:>12}", p.what);
    }
}

fn reached(text: &mut String, results: &Results) {
    let verdicts = targets::verdicts(results);
    if verdicts.is_empty() {
        return;
    }
    let _ = writeln!(
        text,
        "\n{:TITLE$} {:>10} {:>10}",
        "targets", "measured", "wanted"
    );
    for v in verdicts {
        let name = format!("{} {} ({})", v.workload, v.measure, v.placement.short());
        let met = if v.met { "" } else { "  missed" };
        let _ = writeln!(
            text,
            "{name:TITLE$} {:>10} {:>10}{met}",
            number(v.got),
            v.wanted
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::sample::{cell, row};

    #[test]
    fn a_table_has_what_matters() {
        let mut fast = cell("nocopy", &[1.0]);
        fast.runs[0].smc = Some(crate::results::Smc {
            smc_bytes: 3,
            tcp_bytes: 1,
            ..Default::default()
        });
        let results = Results {
            rows: vec![row("sockperf-pp", true, vec![cell("tcp", &[20.0]), fast])],
            ..Default::default()
        };
        let text = table(&results);
        for part in [
            "the sockperf-pp",
            "20.00x",
            "75.0 %",
            "1.88x",
            "≥ 40  missed",
        ] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
    }

    #[test]
    fn what_failed_is_told() {
        let mut broken = cell("tcp", &[]);
        broken.failures.push("no such program".into());
        let results = Results {
            rows: vec![row("a", true, vec![broken])],
            ..Default::default()
        };
        assert!(table(&results).contains("failed: no such program"));
    }
}
