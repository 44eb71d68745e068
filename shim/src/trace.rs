//! Writes what happens to a connection into its trace (`smclo trace`). Only where a state changes:
//! a connection that is never looked at for a claim has none, and data that flows leaves nothing.

use crate::conn::{Conn, claim};
use crate::{clock, family, lock};
use protocol::trace::{Kind, TRACES, Trace};
use std::sync::atomic::Ordering::*;

/// Places that are looked at for one whose connection has closed.
const LOOK: u32 = 16;

/// Gives the connection a trace, when it has none.
pub fn begin(conn: &Conn) {
    if mine(conn).is_some() {
        return;
    }
    let Some(table) = family::table() else { return };
    let mut place = None;
    for _ in 0..LOOK {
        let n = table.next_trace.fetch_add(1, Relaxed) % TRACES as u32;
        place = family::trace(n).map(|trace| (n, trace));
        if place.is_none_or(|(_, t)| t.owner.load(Relaxed) == 0 || t.closed.load(Relaxed) != 0) {
            break;
        }
    }
    let Some((n, trace)) = place else { return };
    trace.begin(0);
    let row = conn.row();
    let ends = [(&trace.local, &row.local), (&trace.peer, &row.peer)];
    for (to, from) in ends.into_iter().flat_map(|(to, from)| to.iter().zip(from)) {
        to.store(from.load(Relaxed), Relaxed);
    }
    trace.inode.store(row.inode.load(Relaxed), Relaxed);
    trace.client.store(row.client.load(Relaxed), Relaxed);
    trace.begin(claim::name(conn));
    row.trace.store(n + 1, Relaxed);
}

/// The connection's own trace. Another may have taken its place.
fn mine(conn: &Conn) -> Option<&'static Trace> {
    let n = conn.row().trace.load(Relaxed).checked_sub(1)?;
    family::trace(n).filter(|t| t.owner.load(Relaxed) == claim::name(conn))
}

pub fn event(conn: &Conn, kind: Kind, code: u32, arg: u64) {
    if let Some(trace) = mine(conn) {
        trace.event(clock::now(), lock::pid(), kind, code, arg);
    }
}

/// A CLC message that went over the stream.
pub fn message(conn: &Conn, sent: bool, bytes: &[u8]) {
    if let Some(trace) = mine(conn) {
        let now = clock::now();
        trace.message(now, sent, bytes);
        let kind = if sent {
            Kind::ClcSent
        } else {
            Kind::ClcReceived
        };
        let clc_type = bytes.get(4).copied().unwrap_or(0);
        trace.event(now, lock::pid(), kind, clc_type.into(), bytes.len() as u64);
    }
}

/// The connection is gone; its trace stays until the place is needed.
pub fn end(conn: &Conn) {
    if let Some(trace) = mine(conn) {
        trace.event(clock::now(), lock::pid(), Kind::Closed, 0, 0);
        trace.closed.store(1, Release);
    }
    conn.row().trace.store(0, Relaxed);
}
