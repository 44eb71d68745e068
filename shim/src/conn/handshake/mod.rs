//! The CLC handshake on the TCP stream.
//!
//! Everything here is a step that never waits; calls on the connection take as many steps as can be
//! taken. A message is sent only while the peer's gate is held and all that we sent was consumed, so
//! it is exactly the next thing that the peer's library finds on the stream.

mod answer;
mod pause;
mod put;
mod take;

pub use pause::pause;
pub use put::push;
pub use take::take_locked;

use super::{Conn, Sock, claim, flag, onto_ring, phase, step};
use crate::{epoll, lgr, trace};
use protocol::reason;
use protocol::shm::pair::{Carrier, GateState, PairSlot};
use protocol::trace::Kind;
use std::sync::atomic::Ordering::*;

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
        if now >= step::OVER {
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

/// Lets the peer send CLC messages: from now on each call looks for them.
fn open_gate(sock: Sock, slot: &PairSlot) -> bool {
    if sock.plain.calls() != 0 || !epoll::convert(sock.conn) {
        return false;
    }
    let Some(held) = sock.rx.lock.try_lock() else {
        return false;
    };
    // The pair may have been found void meanwhile: then nobody looks for messages any more.
    let awaited = sock.phase() == phase::PAIRED && sock.plain.calls() == 0;
    if awaited {
        publish_taken(&sock, slot);
    }
    let open = awaited && slot.gate(sock.role().peer()).open();
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

/// The handshake ended without SMC: the connection is plain again, for good unless it had not begun.
fn over(sock: Sock, slot: &PairSlot) {
    let void = sock.step.load(Acquire) == step::VOID;
    let Some(held) = sock.rx.lock.try_lock() else {
        return;
    };
    let moved = leave_handshake(sock, slot);
    sock.rx.lock.unlock(held);
    if !moved {
        return;
    }
    let why = sock.row().reason.load(Relaxed);
    trace::event(&sock, Kind::HandshakeOver, why, 0);
    // With the phase changed: this looks at the connection, and would come here again.
    epoll::restore(sock.conn);
    // A registration that has to keep our tag is ours for good.
    if void && !sock.has(flag::LEAVE) && !epoll::tags(sock.conn) {
        sock.clear(flag::GATED);
        claim::missed(sock.conn, reason::NO_PEER_YET);
        sock.change_phase(phase::BARRED, phase::PLAIN);
    }
}

/// The caller holds the receive lock, so that nobody opens the gate anew.
fn leave_handshake(sock: Sock, slot: &PairSlot) -> bool {
    let shut = slot.gate(sock.role().peer()).shut();
    let moved = slot.direction(sock.role().peer()).load().carrier != Carrier::Tcp;
    // As long as a message of ours lies unread, an end of the peer's may look like a reset.
    let unread = slot.gate(sock.role()).state() == GateState::Busy;
    !(moved || unread || sock.on_ring()) && shut && sock.change_phase(phase::PAIRED, phase::BARRED)
}
