//! Receiving: from the ring, or from TCP in steps that do not wait.

pub mod pace;
mod ring;
mod tcp;

pub use ring::{drained, frozen};
pub use tcp::{at_mark, crosses_over, marked, message_ahead, up_to_mark};

use super::{Conn, Sock, handshake, onto_ring, phase, quick, revert, twice, tx};
use crate::iov::Iov;
use protocol::shm::cdc::{self, Cursor, Place};
use protocol::shm::pair::{Carrier, PairSlot};
use protocol::shm::ring::Consumer;
use protocol::shm::sync::fence;
use std::ffi::c_int;
use std::sync::atomic::Ordering::*;

/// What one step of a receive came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    /// Bytes; 0 is the end of the stream.
    Bytes(usize),
    /// Nothing there now.
    Empty,
    Error(i32),
}

/// Where received bytes go.
#[derive(Clone, Copy, Debug)]
pub enum Sink<'a> {
    /// The program's buffers, from an offset on.
    Buffers(&'a Iov, usize),
    /// A descriptor that takes at most so many bytes (splice).
    Descriptor(c_int, usize),
    /// Nowhere: a look whether anything is there. For peeking only.
    Nothing,
}

impl Sink<'_> {
    fn room(&self) -> usize {
        match *self {
            Sink::Buffers(iov, skip) => iov.len - skip,
            Sink::Descriptor(_, len) => len,
            Sink::Nothing => 1,
        }
    }
}

/// The private state of the receiving end, as a value.
#[inline]
pub fn consumer(conn: &Conn) -> Consumer {
    let size = conn.rx.size.load(Relaxed).max(1);
    let consumed = conn.rx.consumed.load(Acquire);
    let consumed = Place::by(consumed, size, conn.rx.inverse.load(Relaxed));
    let produced = conn.rx.produced.load(Relaxed).max(consumed.position);
    Consumer {
        size,
        base: conn.rx.base.load(Relaxed),
        consumed,
        produced: consumed.near(produced, size),
        confirmed: conn.rx.confirmed.load(Relaxed),
    }
}

/// One step. Never waits.
#[inline]
pub fn once(sock: Sock, sink: Sink<'_>, flags: c_int) -> Got {
    if let Sink::Buffers(iov, skip) = sink
        && let Some(n) = quick::receive(sock, iov, skip, flags)
    {
        return Got::Bytes(n);
    }
    any_way(sock, sink, flags)
}

/// As [`once`], where the short way was tried just before.
#[inline(never)]
pub fn any_way(sock: Sock, sink: Sink<'_>, flags: c_int) -> Got {
    if !sock.rx_ring() || !sock.tx_ring() {
        handshake::pump(sock);
    }
    let held = sock.rx.lock.lock();
    let got = step(sock, sink, flags);
    sock.rx.lock.unlock(held);
    got
}

fn step(sock: Sock, sink: Sink<'_>, flags: c_int) -> Got {
    for _ in 0..1000 {
        let got = if sock.rx_ring() {
            ring::from_ring(sock, sink, flags)
        } else {
            tcp::from_tcp(sock, sink, flags)
        };
        if let Some(got) = got {
            return got;
        }
    }
    // The peer keeps changing the direction word under us.
    revert::reset(sock);
    Got::Error(libc::ECONNRESET)
}

/// Peeks behind the `n` bytes that one carrier has, at what the other holds next. Gives how many
/// bytes there are.
pub fn peek_beyond(sock: Sock, n: usize, sink: Sink<'_>, flags: c_int) -> usize {
    let Some(slot) = sock.slot().filter(|_| sock.phase() == phase::PAIRED) else {
        return 0;
    };
    let held = sock.rx.lock.lock();
    let end = sock.rx.consumed.load(Acquire) + n as u64;
    let direction = slot.direction(sock.role().peer()).load();
    let got = if sock.rx_ring() {
        let ends =
            direction.carrier == Carrier::Final && direction.position_after(end, end).is_some();
        // Not beyond urgent data.
        (ends && !tcp::marked(sock) && twice::settled(sock, slot))
            .then(|| tcp::receive(sock, sink, flags | libc::MSG_PEEK, usize::MAX))
    } else {
        let ends = onto_ring::up_to_seam(&sock, slot) == Some(n as u64) && left_behind(&sock) != 0;
        ends.then(|| ring::from_ring(sock, sink, flags | libc::MSG_PEEK))
            .flatten()
    };
    sock.rx.lock.unlock(held);
    match got {
        Some(Got::Bytes(more)) => more,
        Some(Got::Error(e)) => {
            // The kernel has given it up.
            sock.owe(e);
            0
        }
        _ => 0,
    }
}

/// Publishes the consumer cursor, and wakes the peer when it waits for space.
pub fn confirm(conn: &Conn, place: Place, peer_flags: u16) {
    conn.rx.confirmed.fetch_max(place.position, Relaxed);
    conn.rx
        .word
        .confirm(conn.peer(), place.cursor, conn.rx.size.load(Relaxed));
    if peer_flags & cdc::flag::WRITE_BLOCKED == 0 {
        // SYNC: sleep/publish. A sender that blocks now sets its flag before it looks again.
        fence(SeqCst);
        let Some(own) = conn.own() else { return };
        let (_, now) = Cursor::from_word(own.consumer.load(Relaxed));
        if now & cdc::flag::WRITE_BLOCKED == 0 {
            return;
        }
    }
    tx::wake_watchers(conn);
}

/// Sets and clears flags of the CDC message that we publish.
pub fn change_flags(conn: &Conn, set: u16, clear: u16) {
    conn.rx.word.change_flags(conn.peer(), set, clear);
}

/// The receiving direction has gone onto the ring: the peer's kind word says so.
pub fn note_ring(conn: &Conn) {
    if let Some(peer) = conn.peer() {
        peer.kind.store(cdc::CDC_TYPE.into(), Relaxed);
    }
}

/// Whether the sender has taken the direction off the ring, and all of the ring was taken.
pub fn carrier_moved(conn: &Conn, slot: &PairSlot) -> bool {
    let direction = slot.direction(conn.role().peer()).load();
    let here = conn.rx.consumed.load(Acquire);
    match direction.carrier {
        // What TCP brings of it wakes.
        Carrier::Ring | Carrier::Twice | Carrier::TwiceAll => false,
        Carrier::Final => {
            direction.position_after(here, here).is_some() && twice::debt(conn, slot) == 0
        }
        Carrier::Tcp | Carrier::Frozen | Carrier::Repeating => true,
    }
}

/// How many bytes have come over the ring, also of those that lie behind what is still to be taken
/// from TCP; without `unread`, those that were taken.
pub fn arrived(conn: &Conn, unread: bool) -> u64 {
    let mut consumer = consumer(conn);
    let position = match conn.own().filter(|_| unread && ring_is_next(conn)) {
        Some(own) if consumer.refresh(own).is_ok() => consumer.produced.position,
        _ => consumer.consumed.position,
    };
    position.wrapping_sub(conn.rx.repeated.load(Acquire))
}

/// Bytes on the ring that were not taken, whoever carries the direction now.
#[inline]
pub fn left_behind(conn: &Conn) -> u32 {
    let Some(own) = conn.own() else { return 0 };
    let mut consumer = consumer(conn);
    match consumer.refresh(own) {
        Ok(()) => consumer.available(),
        Err(_) => 0,
    }
}

/// Bytes on the ring, as far as published, that are to be taken from there.
#[inline]
pub fn available(conn: &Conn) -> u32 {
    if conn.rx_ring() || frozen(conn).is_some() {
        left_behind(conn)
    } else {
        0
    }
}

/// Whether the ring carries the direction, at once or behind what is still to be taken from TCP.
fn ring_is_next(conn: &Conn) -> bool {
    conn.rx_ring()
        || conn
            .slot()
            .is_some_and(|slot| onto_ring::up_to_seam(conn, slot).is_some())
}

/// Bytes on the ring that come next, or behind what is still to be taken from TCP.
pub fn on_ring(conn: &Conn) -> u32 {
    if ring_is_next(conn) {
        left_behind(conn)
    } else {
        0
    }
}
