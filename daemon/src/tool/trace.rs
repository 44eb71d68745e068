//! `smclo trace`: what happened to a connection.

use crate::report::{Trace, TraceEvent};
use crate::tool::table::{BOLD, Cell, FAINT, GOOD, Table, WARN, paint};
use clap::builder::styling::Style;
use std::fmt::Write as _;
use std::net::SocketAddr;

/// Which connections are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// One end has this port.
    Port(u16),
    /// One end is this.
    End(SocketAddr),
}

impl Wanted {
    pub fn parse(text: &str) -> Result<Self, String> {
        let why = "a connection is named by a port or by ADDRESS:PORT of one end";
        let port = |text: &str| text.parse().ok().filter(|port| *port != 0);
        if let Some(port) = port(text) {
            return Ok(Wanted::Port(port));
        }
        let end: SocketAddr = text.parse().map_err(|_| why)?;
        if end.port() == 0 {
            return Err(why.into());
        }
        Ok(Wanted::End(end))
    }

    pub fn port(self) -> u16 {
        match self {
            Wanted::Port(port) => port,
            Wanted::End(end) => end.port(),
        }
    }

    pub fn is(self, trace: &Trace) -> bool {
        let Wanted::End(end) = self else { return true };
        let ends = [&trace.local, &trace.peer];
        ends.iter().any(|text| text.parse() == Ok(end))
    }
}

pub fn text(traces: &[Trace]) -> String {
    let mut out = String::new();
    for t in traces {
        if !out.is_empty() {
            out.push('\n');
        }
        let role = if t.client { "connected" } else { "accepted" };
        let state = if t.closed { ", closed" } else { "" };
        let title = format!(
            "{} {}  {} [{}], {role}{state}",
            t.local, t.peer, t.program, t.pid
        );
        let _ = writeln!(out, "{}", paint(BOLD, &title));
        let mut table = Table::new();
        let start = t.events.first().map_or(0, |e| e.time_ns);
        for e in &t.events {
            table.row(vec![
                Cell::new(format!("  {}", clock(e.time_ns))).style(FAINT),
                Cell::number(format!("+{:.3} ms", millis(start, e.time_ns))).style(FAINT),
                Cell::new(&e.words).style(colour(e)),
                Cell::new(&e.reason),
            ]);
        }
        out.push_str(&table.finish());
    }
    out
}

fn millis(from: u64, to: u64) -> f64 {
    to.saturating_sub(from) as f64 / 1e6
}

/// Time of day in UTC.
fn clock(ns: u64) -> String {
    let (seconds, micros) = (ns / 1_000_000_000, ns / 1000 % 1_000_000);
    let (h, m, s) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{h:02}:{m:02}:{s:02}.{micros:06}Z")
}

fn colour(e: &TraceEvent) -> Style {
    match e.event.as_str() {
        "SendRing" | "ReceiveRing" => GOOD,
        "Barred" | "Refused" | "SendTcp" | "ReceiveTcp" | "Reset" | "HandshakeOver" => WARN,
        _ => Style::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_named_by_port_or_end() {
        assert_eq!(Wanted::parse("80"), Ok(Wanted::Port(80)));
        let end = Wanted::parse("[::1]:80").unwrap();
        assert_eq!(end.port(), 80);
        for bad in ["", "0", "65536", "host:80", "1.2.3.4", "1.2.3.4:0", "-1"] {
            assert!(Wanted::parse(bad).is_err(), "{bad}");
        }
        let trace = Trace {
            local: "127.0.0.1:5".into(),
            peer: "[::1]:80".into(),
            ..Trace::default()
        };
        assert!(end.is(&trace) && !Wanted::parse("[::2]:80").unwrap().is(&trace));
    }

    #[test]
    fn the_story_is_told_in_order() {
        let event = |time_ns, event: &str, words: &str| TraceEvent {
            time_ns,
            event: event.into(),
            words: words.into(),
            ..TraceEvent::default()
        };
        let trace = Trace {
            program: "web".into(),
            events: vec![
                event(3_723_000_001_000, "Claimed", "claimed"),
                event(3_723_001_501_000, "Closed", "closed"),
            ],
            ..Trace::default()
        };
        let text = anstream::adapter::strip_str(&text(&[trace])).to_string();
        assert!(text.contains("01:02:03.000001Z"), "{text}");
        assert!(text.contains("+1.500 ms  closed"), "{text}");
    }
}
