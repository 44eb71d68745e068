//! The CLC handshake on the TCP stream (design §4).
//!
//! Everything here is a step that never waits; calls on the connection take as many steps as can be
//! taken. A message is sent only while the peer's gate is held and all that we sent was consumed, so
//! it is exactly the next thing that the peer's library finds on the stream.

mod answer;
mod put;
mod take;

pub use put::push;
pub use take::take_locked;

use super::{Conn, Sock, flag, onto_ring, phase, revert, step};
use crate::{clock, epoll, lgr, os, trace};
use protocol::shm::pair::{Carrier, GateState, PairSlot};
use protocol::trace::Kind;
use std::sync::atomic::Ordering::*;

/// A sender that never lets its stream run empty waits for the peer, when it has something to put
/// onto the stream for the handshake, or is to go onto the ring: at most this long,
const PAUSE_NS: u64 = 20_000_000;
/// and only while the peer does read. One that shares its core with others stands still for some
/// slices of theirs.
const STILL_NS: u64 = 12_000_000;
/// To a peer that has not moved for this long the core is left for a moment. By sleep: sched_yield gives
/// whole slices away where cores are short.
const IDLE_NS: u64 = 50_000;
/// Bytes sent in this end's turn before such a pause, so that only a stream of some volume is ever
/// held back; and between pauses, twice as many after each that was in vain.
const PAUSE_BYTES: u64 = 64 << 10;

/// Takes all steps that can be taken now.
#[inline]
pub fn pump(sock: Sock) {
    if sock.phase() == phase::PAIRED && !(sock.tx_ring() && sock.rx_ring()) {
        steps(sock);
    }
}

fn steps(sock: Sock) {
    let Some(slot) = sock.slot() else { return };
    for _ in 0..8 {
        let now = sock.step.load(Acquire);
        if now == step::OVER {
            return over(sock, slot);
        }
        if !sock.has(flag::GATED) && !open_gate(sock, slot) {
            return;
        }
        if !sock.inbox.is_empty() {
            // What it asks for is the next turn's: a message that is due must not wait for traffic.
            if !take::read_message(sock, slot) {
                return;
            }
            // A thread that looked meanwhile has left alone what lies behind it on the stream.
            epoll::ask(sock.conn);
            epoll::rouse(sock.conn);
            continue;
        }
        let incoming = slot.gate(sock.role().peer());
        let moved = if incoming.state() == GateState::Busy {
            take::message(sock, slot)
        } else {
            match now {
                step::START if sock.has(flag::CLIENT) => put::message(sock, slot),
                step::ACCEPT | step::CONFIRM | step::ACK | step::DECLINE => {
                    put::message(sock, slot)
                }
                step::ESTABLISHED => return onto_ring::enter(sock, slot),
                _ => false,
            }
        };
        if !moved {
            return;
        }
    }
}

/// Whether it is this end's turn: a message is to be sent, or the direction may go onto the ring. While
/// it is the peer's, pausing would only keep the program from reading what the peer waits for.
fn has_turn(sock: Sock, slot: &PairSlot) -> bool {
    match sock.step.load(Acquire) {
        step::START => sock.has(flag::CLIENT),
        step::ACCEPT | step::CONFIRM | step::ACK | step::DECLINE => true,
        // A sender that TCP makes wait runs when the reader takes something, and so finds the
        // reader's gate shut each time.
        step::ESTABLISHED => onto_ring::is_read(&sock, slot) && !revert::held(&sock, slot),
        _ => false,
    }
}

/// Before a send over TCP: waits a little, now and then, for the stream to run empty or, when a
/// direction is to go onto the ring, for the reader to open its gate.
pub fn pause(sock: Sock) {
    if sock.phase() != phase::PAIRED || sock.tx_ring() {
        return;
    }
    let Some(slot) = sock.slot().filter(|slot| has_turn(sock, slot)) else {
        return;
    };
    let consumed = || slot.counts(sock.role().peer()).consumed.load(Relaxed);
    // One that waits in a call from before the pair was made learns of it when bytes come, and only then.
    if consumed() == 0 {
        return;
    }
    let (sent, retry) = (sock.tx.sent.load(Relaxed), &sock.tx.retry);
    let volume = sent.wrapping_sub(consumed()) >= PAUSE_BYTES;
    if retry.load(Relaxed) == 0 && !volume {
        return retry.store(sent + PAUSE_BYTES, Relaxed);
    }
    if sent < retry.load(Relaxed) || sock.has(flag::LEAVE | flag::FIN_SEEN | flag::SHUT_WR) {
        return;
    }
    let began = clock::now();
    let turn = sock.step.load(Acquire);
    let (mut moved, mut seen) = (began, consumed());
    loop {
        steps(sock);
        if sock.tx_ring() || sock.step.load(Acquire) != turn || sock.phase() != phase::PAIRED {
            sock.tx.backoff.store(0, Relaxed);
            return;
        }
        let now = clock::now();
        if consumed() != seen {
            (moved, seen) = (now, consumed());
        }
        if now - moved >= STILL_NS || now - began >= PAUSE_NS {
            break;
        }
        if now - moved >= IDLE_NS {
            os::sleep_ns(IDLE_NS);
        } else {
            std::hint::spin_loop();
        }
    }
    let doublings = sock.tx.backoff.fetch_add(1, Relaxed).min(8);
    retry.store(sent + (PAUSE_BYTES << doublings), Relaxed);
}

/// Lets the peer send CLC messages: from now on each call looks for them.
fn open_gate(sock: Sock, slot: &PairSlot) -> bool {
    if sock.plain.load(Acquire) != 0 || !epoll::convert(sock.conn) {
        return false;
    }
    let Some(held) = sock.rx.lock.try_lock() else {
        return false;
    };
    publish_taken(&sock, slot);
    let open = slot.gate(sock.role().peer()).open();
    if open {
        sock.set(flag::GATED);
        trace::event(&sock, Kind::GateOpen, 0, sock.rx.taken.load(Relaxed));
    }
    sock.rx.lock.unlock(held);
    open
}

/// Says how much of the TCP stream was consumed.
pub fn publish_taken(conn: &Conn, slot: &PairSlot) {
    slot.counts(conn.role())
        .consumed
        .store(conn.rx.taken.load(Relaxed), Release);
}

/// Everything that we sent over TCP has been consumed.
fn all_consumed(conn: &Conn, slot: &PairSlot) -> bool {
    slot.counts(conn.role().peer()).consumed.load(Acquire) == conn.tx.sent.load(Acquire)
}

/// Whether this process has used the link group before.
fn contacted(conn: &Conn) -> bool {
    lgr::get(conn.lgr.load(Relaxed)).is_some_and(|g| g.contacted.load(Acquire))
}

fn set_contacted(conn: &Conn) {
    if let Some(group) = lgr::get(conn.lgr.load(Relaxed)) {
        group.contacted.store(true, Release);
    }
}

/// The handshake ended without SMC: the connection is plain again, for good.
fn over(sock: Sock, slot: &PairSlot) {
    let Some(held) = sock.rx.lock.try_lock() else {
        return;
    };
    let shut = slot.gate(sock.role().peer()).shut();
    let moved = slot.direction(sock.role().peer()).load().carrier != Carrier::Tcp;
    sock.rx.lock.unlock(held);
    // As long as a message of ours lies unread, an end of the peer's may look like a reset.
    let unread = slot.gate(sock.role()).state() == GateState::Busy;
    if !shut || moved || unread || sock.on_ring() {
        return;
    }
    if sock.change_phase(phase::PAIRED, phase::BARRED) {
        let why = sock.row().reason.load(Relaxed);
        trace::event(&sock, Kind::HandshakeOver, why, 0);
        epoll::restore(sock.conn);
    }
}
