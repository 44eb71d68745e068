//! The way of a direction onto the ring, as its sender and its receiver take it.

use super::{Conn, Sock, flag, revert, rx, tx};
use crate::{log, trace};
use protocol::shm::pair::{Carrier, GateState, PairSlot};
use protocol::stats::Mode;
use protocol::trace::Kind;
use std::sync::atomic::Ordering::*;

/// Whether the peer reads: it has taken all, or at least something of what went over TCP since the
/// direction was on the ring last. To a reader that stands still TCP is the better carrier.
fn is_read(conn: &Conn, slot: &PairSlot) -> bool {
    let consumed = slot.counts(conn.role().peer()).consumed.load(Acquire);
    consumed == conn.tx.sent.load(Acquire) || consumed > conn.tx.left.load(Relaxed)
}

/// Whether the own direction is to go onto the ring. Not one that would leave it at once, as at the next look it would come back.
pub fn is_wanted(sock: Sock, slot: &PairSlot) -> bool {
    !sock.has(flag::FIN_SEEN | flag::SHUT_WR)
        && !tx::must_leave(sock, tx::peer_flags(&sock))
        && is_read(&sock, slot)
        && !revert::held(&sock, slot)
}

/// Established: the own direction goes onto the ring. What is on its way over TCP comes first: the
/// receiver takes it up to the seam, and then turns to the ring.
pub fn enter(sock: Sock, slot: &PairSlot) {
    if sock.tx_ring() || slot.gate(sock.role()).state() != GateState::Open || !is_wanted(sock, slot)
    {
        return;
    }
    let Some(held) = sock.tx.lock.try_lock() else {
        return;
    };
    switch(sock, slot);
    sock.tx.lock.unlock(held);
}

fn switch(sock: Sock, slot: &PairSlot) {
    let (Some(own), gate) = (sock.own(), slot.gate(sock.role())) else {
        return;
    };
    if sock.tx_ring() || sock.tx.repeat.load(Relaxed) != 0 {
        return;
    }
    let mut producer = tx::producer(&sock);
    if producer.refresh(own).is_err() {
        return revert::reset(sock);
    }
    let empty = producer.consumed.position == producer.produced.position;
    if !empty || slot.direction(sock.role()).load().carrier != Carrier::Tcp {
        return;
    }
    if !gate.hold_for_switch() {
        return;
    }
    let start = producer.produced.position;
    let sent = sock.tx.sent.load(Acquire);
    slot.counts(sock.role()).seam.store(sent, Release);
    if slot.direction(sock.role()).to_ring(start).is_ok() {
        sock.tx.consumed.store(start, Relaxed);
        sock.tx.stalled.store(0, Relaxed);
        sock.tx.backoff.store(0, Relaxed);
        sock.tx.ring.store(1, Release);
        // Whoever found TCP full: the ring has room.
        tx::space_came(sock);
        trace::event(&sock, Kind::SendRing, 0, start);
        on_ring(&sock);
    }
    gate.switched();
}

/// A direction went onto the ring.
pub fn on_ring(conn: &Conn) {
    let row = conn.row();
    row.mode.store(Mode::Smcd as u32, Relaxed);
    row.upgrades.fetch_add(1, Relaxed);
    if conn.set(flag::ACCELERATED) {
        log::accelerated(conn);
    }
}

/// When the sender has moved the receiving direction onto the ring, and this end not yet, or has
/// frozen it: bytes that are to be taken from TCP before the ring's. The sender may have left the ring
/// again since; what it put there comes first all the same.
pub fn up_to_seam(conn: &Conn, slot: &PairSlot) -> Option<u64> {
    let sender = conn.role().peer();
    let direction = slot.direction(sender).load();
    let size = conn.rx.size.load(Relaxed);
    let gone = match conn.rx.frozen.load(Acquire) {
        0 => !conn.rx_ring() && direction.has_gone_onto_ring(conn.rx.consumed.load(Relaxed), size),
        _ => direction.carrier == Carrier::Frozen,
    };
    let seam = || slot.counts(sender).seam.load(Acquire);
    gone.then(|| seam().wrapping_sub(conn.rx.taken.load(Acquire)))
}

/// Whether the ring is where the receiving direction goes on now, and this end has not followed yet.
pub fn gone(conn: &Conn, slot: &PairSlot) -> bool {
    conn.rx.frozen.load(Acquire) == 0 && up_to_seam(conn, slot) == Some(0)
}

/// The receiving direction, when the sender has moved it. The caller holds the receive lock.
pub fn follow(conn: &Conn, slot: &PairSlot) -> bool {
    if !gone(conn, slot) {
        return false;
    }
    conn.rx.ring.store(1, Release);
    rx::note_ring(conn);
    trace::event(conn, Kind::ReceiveRing, 0, conn.rx.consumed.load(Relaxed));
    on_ring(conn);
    true
}
