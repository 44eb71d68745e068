//! `smclo trace`: traces of connections that live or have ended, those of programs that are gone
//! included, for a while.

use super::Names;
use crate::report::{Trace, TraceEvent, TraceMessage, reason_name};
use crate::server::Server;
use crate::table::{EventCopy, Table, TraceCopy};
use nix::time::{ClockId, clock_gettime};
use protocol::trace::Kind;
use std::collections::VecDeque;
use std::fmt::Write as _;

/// Traces kept of programs that have ended; the newest.
const KEPT: usize = 512;
/// Traces in one answer; the newest.
const MAX_ANSWER: usize = 256;

/// Traces of programs that are gone.
#[derive(Debug, Default)]
pub(crate) struct Past(VecDeque<(u32, String, TraceCopy)>);

impl Past {
    pub(crate) fn keep(&mut self, uid: u32, program: &str, table: &Table) {
        let mut all: Vec<TraceCopy> = table.traces().collect();
        all.sort_by_key(last);
        let newest = all.split_off(all.len().saturating_sub(KEPT));
        for mut trace in newest {
            trace.closed = true;
            if self.0.len() == KEPT {
                self.0.pop_front();
            }
            self.0.push_back((uid, program.to_owned(), trace));
        }
    }
}

fn last(trace: &TraceCopy) -> u64 {
    trace.events.last().map_or(0, |e| e.time)
}

impl Server {
    /// Those with this port at either end, 0: all; oldest first.
    pub(super) fn traces(&self, uid: u32, port: u16) -> Vec<Trace> {
        let wanted = |t: &TraceCopy| port == 0 || t.local.port == port || t.peer.port == port;
        let mut names = Names::default();
        let mut all = Vec::new();
        for (owner, program, trace) in &self.past_traces.0 {
            if (uid == 0 || uid == *owner) && wanted(trace) {
                let pid = trace.events.last().map_or(0, |e| e.pid);
                all.push((trace.clone(), *owner, pid, program.clone()));
            }
        }
        for family in self.families.values() {
            let Some(owner) = self.visible_owner(family, uid) else {
                continue;
            };
            for trace in family.table.traces().filter(|t| wanted(t)) {
                let pid = trace.events.last().map_or(0, |e| e.pid);
                let (pid, program) = self.process(family, pid, &mut names);
                all.push((trace, owner, pid, program));
            }
        }
        all.sort_by_key(|(trace, ..)| last(trace));
        let newest = all.split_off(all.len().saturating_sub(MAX_ANSWER));
        let since_1970 = since_1970();
        let reports = newest.into_iter().map(|(trace, uid, pid, program)| Trace {
            program,
            pid,
            uid,
            local: trace.local.to_socket_addr().to_string(),
            peer: trace.peer.to_socket_addr().to_string(),
            client: trace.client,
            inode: trace.inode,
            closed: trace.closed,
            events: trace.events.iter().map(|e| event(e, since_1970)).collect(),
            messages: messages(&trace, since_1970),
        });
        reports.collect()
    }
}

/// What to add to the monotonic clock.
fn since_1970() -> u64 {
    let now = |clock| {
        let t = clock_gettime(clock).ok();
        t.map_or(0, |t| {
            t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64
        })
    };
    now(ClockId::CLOCK_REALTIME).saturating_sub(now(ClockId::CLOCK_MONOTONIC))
}

fn clc_name(kind: u32) -> &'static str {
    match kind {
        1 => "Proposal",
        2 => "Accept",
        3 => "Confirm",
        4 => "Decline",
        5 => "ConfirmAck",
        _ => "unknown type",
    }
}

fn event(e: &EventCopy, since_1970: u64) -> TraceEvent {
    let mut words = e.kind.words().to_owned();
    let is_clc = matches!(e.kind, Kind::ClcSent | Kind::ClcReceived);
    let _ = match e.kind {
        Kind::ClcSent | Kind::ClcReceived => {
            write!(words, ": {}, {} bytes", clc_name(e.code), e.arg)
        }
        Kind::Claimed | Kind::Postponed => write!(words, ", {} bytes over TCP so far", e.arg),
        Kind::Paired => write!(words, ", link group {:08x}", e.arg),
        Kind::SendRing | Kind::ReceiveRing | Kind::SendTcp | Kind::ReceiveTcp => {
            write!(words, ", ring position {}", e.arg)
        }
        _ => Ok(()),
    };
    let reason = if is_clc || e.code == 0 {
        String::new()
    } else {
        let words = protocol::reason::words(e.code);
        format!("{} ({:#010x}): {words}", reason_name(e.code), e.code)
    };
    TraceEvent {
        time_ns: since_1970.saturating_add(e.time),
        pid: e.pid,
        event: e.kind.name().into(),
        words,
        reason,
    }
}

fn messages(trace: &TraceCopy, since_1970: u64) -> Vec<TraceMessage> {
    let all = trace.messages.iter().map(|m| TraceMessage {
        time_ns: since_1970.saturating_add(m.time),
        sent: m.sent,
        hex: m.bytes.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        }),
    });
    all.collect()
}
