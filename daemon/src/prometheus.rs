//! Statistics as Prometheus reads them (text format 0.0.4).

use crate::report::{Counts, Sizes, Stats, UserStats};
use protocol::stats::SIZE_BOUNDS;
use std::fmt::Write as _;

struct Page(String);

type Sample<'a> = (&'a [(&'a str, &'a str)], u64);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            let open = if i == 0 { '{' } else { ',' };
            let text = text.replace('\\', "\\\\").replace('"', "\\\"");
            let _ = write!(self.0, "{open}{label}=\"{text}\"");
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{close} {value}");
    }

    fn metric(&mut self, name: &str, kind: &str, help: &str, samples: &[Sample<'_>]) {
        self.family(name, kind, help);
        for (labels, value) in samples {
            self.sample(name, labels, *value);
        }
    }

    fn histogram(&mut self, name: &str, direction: &str, sizes: &Sizes, sum: u64) {
        let direction = ("direction", direction);
        let mut below = 0;
        for (n, bound) in sizes.iter().zip(SIZE_BOUNDS) {
            below += n;
            let labels = [direction, ("le", &bound.to_string())];
            self.sample(&format!("{name}_bucket"), &labels, below);
        }
        let all = sizes.iter().sum();
        self.sample(&format!("{name}_bucket"), &[direction, ("le", "+Inf")], all);
        self.sample(&format!("{name}_sum"), &[direction], sum);
        self.sample(&format!("{name}_count"), &[direction], all);
    }
}

/// All of it; users as far as they are in `s`.
pub fn text(s: &Stats) -> String {
    let mut page = Page(String::new());
    counters(&mut page, &s.counts);
    gauges(&mut page, s);
    if !s.users.is_empty() {
        users(&mut page, &s.users);
    }
    page.0
}

/// A counter only ever grows: connections that may yet be accelerated are no part of it.
fn ended_plain(c: &Counts) -> u64 {
    c.plain.saturating_sub(c.plain_now)
}

fn counters(page: &mut Page, c: &Counts) {
    page.metric(
        "smclo_connections_total",
        "counter",
        "Connections that were accelerated, and that ended without.",
        &[
            (&[("outcome", "accelerated")], c.accelerated),
            (&[("outcome", "plain")], ended_plain(c)),
        ],
    );
    let name = "smclo_fallbacks_total";
    page.family(name, "counter", "Connections that ended on TCP, by reason.");
    for (reason, count) in &c.fallbacks {
        let now = c.fallbacks_now.get(reason).copied().unwrap_or(0);
        page.sample(name, &[("reason", reason)], count.saturating_sub(now));
    }
    page.metric(
        "smclo_bytes_total",
        "counter",
        "Payload bytes, by what carried them.",
        &[
            (&[("carrier", "smc"), ("direction", "sent")], c.smc_tx_bytes),
            (
                &[("carrier", "smc"), ("direction", "received")],
                c.smc_rx_bytes,
            ),
            (&[("carrier", "tcp"), ("direction", "sent")], c.tcp_tx_bytes),
            (
                &[("carrier", "tcp"), ("direction", "received")],
                c.tcp_rx_bytes,
            ),
        ],
    );
    let name = "smclo_message_bytes";
    page.family(name, "histogram", "Messages over SMC-D, by size.");
    page.histogram(name, "sent", &c.sent_sizes, c.smc_tx_bytes);
    page.histogram(name, "received", &c.received_sizes, c.smc_rx_bytes);
    for (name, help, value) in [
        (
            "smclo_upgrades_total",
            "Directions that went onto a ring.",
            c.upgrades,
        ),
        (
            "smclo_reverts_total",
            "Directions that went back to TCP.",
            c.reverts,
        ),
        (
            "smclo_ring_full_total",
            "Sends that found the ring full.",
            c.ring_full,
        ),
        (
            "smclo_doorbells_total",
            "Sleeping peers that were woken.",
            c.rings,
        ),
        (
            "smclo_sleeps_total",
            "Times that a thread slept for a connection.",
            c.sleeps,
        ),
    ] {
        page.metric(name, "counter", help, &[(&[], value)]);
    }
    page.metric(
        "smclo_spins_total",
        "counter",
        "Spins before a sleep, by result.",
        &[
            (&[("result", "hit")], c.spin_hits),
            (&[("result", "miss")], c.spin_misses),
        ],
    );
}

fn gauges(page: &mut Page, s: &Stats) {
    page.metric(
        "smclo_other_versions_total",
        "counter",
        "Sessions refused because the program has another version of the library.",
        &[(&[], s.other_versions)],
    );
    let name = "smclo_tcp_connections";
    page.family(name, "gauge", "Connections that are on TCP now, by reason.");
    for (reason, count) in &s.counts.fallbacks_now {
        page.sample(name, &[("reason", reason)], *count);
    }
    for (name, help, value) in [
        (
            "smclo_connections",
            "Connections that exist now.",
            s.counts.connections,
        ),
        ("smclo_dmbs", "DMBs of the device.", s.dmbs),
        ("smclo_dmb_bytes", "Bytes of these DMBs.", s.dmb_bytes),
        ("smclo_link_groups", "Link groups.", s.link_groups),
        (
            "smclo_claims_waiting",
            "Claims whose other end has not come.",
            s.claims_waiting,
        ),
        ("smclo_clients", "Client processes.", s.clients),
    ] {
        page.metric(name, "gauge", help, &[(&[], value)]);
    }
}

fn users(page: &mut Page, users: &[UserStats]) {
    let name = "smclo_user_connections_total";
    page.family(name, "counter", "Connections of a user, by outcome.");
    for u in users {
        let uid = u.uid.to_string();
        for (outcome, value) in [
            ("accelerated", u.counts.accelerated),
            ("plain", ended_plain(&u.counts)),
        ] {
            page.sample(name, &[("uid", &uid), ("outcome", outcome)], value);
        }
    }
    let name = "smclo_user_bytes_total";
    page.family(
        name,
        "counter",
        "Payload bytes of a user, by what carried them.",
    );
    for u in users {
        let uid = u.uid.to_string();
        for (carrier, value) in [("smc", u.counts.smc_bytes), ("tcp", u.counts.tcp_bytes)] {
            page.sample(name, &[("uid", &uid), ("carrier", carrier)], value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_prometheus() {
        let stats = Stats {
            counts: Counts {
                smc_tx_bytes: 700,
                sent_sizes: [1, 2, 0, 0, 0, 0, 4],
                fallbacks: [("NOT_LOCAL".to_string(), 3)].into(),
                ..Counts::default()
            },
            users: vec![UserStats {
                uid: 33,
                ..UserStats::default()
            }],
            ..Stats::default()
        };
        let text = text(&stats);
        for line in [
            "smclo_fallbacks_total{reason=\"NOT_LOCAL\"} 3",
            "smclo_bytes_total{carrier=\"smc\",direction=\"sent\"} 700",
            "smclo_message_bytes_bucket{direction=\"sent\",le=\"64\"} 1",
            "smclo_message_bytes_bucket{direction=\"sent\",le=\"512\"} 3",
            "smclo_message_bytes_bucket{direction=\"sent\",le=\"2097152\"} 3",
            "smclo_message_bytes_bucket{direction=\"sent\",le=\"+Inf\"} 7",
            "smclo_message_bytes_count{direction=\"sent\"} 7",
            "smclo_clients 0",
            "smclo_user_bytes_total{uid=\"33\",carrier=\"tcp\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        // Each family is named once, before its samples.
        let mut seen = std::collections::HashSet::new();
        for line in text.lines().filter(|l| l.starts_with("# TYPE ")) {
            assert!(seen.insert(line.to_owned()), "{line}");
        }
    }
}
