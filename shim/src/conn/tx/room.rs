//! Room on the ring: who waits for it, and a reader that does not make any.

use super::{Put, producer, tcp};
use crate::conn::{Conn, Sock, flag, rx, twice};
use crate::{clock, epoll};
use protocol::shm::cdc;
use protocol::shm::ring::Producer;
use protocol::shm::sync::fence;
use std::sync::atomic::Ordering::*;

/// A full ring whose reader has not moved for this long: TCP, which buffers more. Each time that the
/// reader turned out to have been merely busy, this connection waits four times as long.
const STALL_NS: u64 = 100_000_000;

/// How long the reader of a full ring may stand still now.
pub fn patience(conn: &Conn) -> u64 {
    STALL_NS << (2 * conn.tx.stalls.load(Relaxed).min(2))
}

/// No room: tells the peer, so that its next update rings, and looks once more.
pub(super) fn full(sock: Sock, producer: &Producer) -> Option<Put> {
    if say_blocked(sock) {
        sock.row().full.fetch_add(1, Relaxed);
        return None;
    }
    if stalled(sock, producer.consumed.position) {
        twice::leave_ring(sock);
        return None;
    }
    Some(Put::Full)
}

/// Whether the reader of a full ring has not moved for longer than [`patience`] allows.
fn stalled(sock: Sock, consumed: u64) -> bool {
    let now = clock::now();
    let since = sock.tx.stalled.load(Relaxed);
    if since == 0 || sock.tx.stalled_at.load(Relaxed) != consumed {
        sock.tx.stalled_at.store(consumed, Relaxed);
        sock.tx.stalled.store(now, Relaxed);
        return false;
    }
    if now - since < patience(&sock) {
        return false;
    }
    sock.tx.stalls.fetch_add(1, Relaxed);
    true
}

/// The program waits for space: the peer's next update is to ring.
pub fn want_room(sock: Sock) {
    if !has_room(&sock) {
        say_blocked(sock);
    }
}

/// Tells the peer that we wait for space, if it was not told. True: look once more.
fn say_blocked(sock: Sock) -> bool {
    sock.set(flag::NOSPACE);
    let (_, told) = sock.rx.word.load();
    if told & cdc::flag::WRITE_BLOCKED != 0 {
        return false;
    }
    // Its sets have to look after a reader that does not move.
    epoll::stir(sock.conn);
    rx::change_flags(&sock, cdc::flag::WRITE_BLOCKED, 0);
    // SYNC: sleep/publish. The peer's update before this is seen now; one after it rings.
    fence(SeqCst);
    true
}

/// Whoever saw that there was no room is owed an edge, if there is some by now. Whether it is still to come.
pub fn owes_space(sock: Sock) -> bool {
    if !sock.has(flag::NOSPACE) {
        return false;
    }
    let room = match sock.tx_ring() {
        true => has_room(&sock),
        false => tcp::has_room(sock),
    };
    if room {
        space_came(sock);
    }
    !room
}

/// Space has come after the ring was full: an edge for edge-triggered sets.
pub fn space_came(sock: Sock) {
    if sock.clear(flag::NOSPACE) {
        sock.tx.edges.fetch_add(1, AcqRel);
        rx::change_flags(&sock, 0, cdc::flag::WRITE_BLOCKED);
    }
}

/// Takes a direction off a full ring whose reader does not move, for those who wait for space.
pub fn give_up_if_stalled(sock: Sock) {
    let Some(own) = sock.own() else { return };
    let mut producer = producer(&sock);
    if producer.refresh(own).is_ok()
        && producer.free() < producer.size / 4
        && stalled(sock, producer.consumed.position)
        && let Some(held) = sock.tx.lock.try_lock()
    {
        // Not amid a send that a signal handler has interrupted.
        if sock.tx_ring() && !held.nested() {
            twice::leave_ring(sock);
        }
        sock.tx.lock.unlock(held);
    }
}

/// Free bytes of the ring, for a send that waits.
#[inline]
pub fn room(conn: &Conn) -> u32 {
    let Some(own) = conn.own() else {
        return u32::MAX;
    };
    let mut producer = producer(conn);
    if producer.refresh(own).is_err() {
        return u32::MAX;
    }
    producer.free()
}

/// Whether poll and epoll say that there is space: as in the kernel, not for the first free byte.
#[inline]
pub fn has_room(conn: &Conn) -> bool {
    room(conn) >= conn.tx.size.load(Relaxed) / 4
}
