//! Receiving: from the ring, or from TCP in steps that do not wait.

use super::{Conn, Sock, died, flag, handshake, onto_ring, phase, quick, ready, revert, tx};
use crate::iov::{Iov, pour};
use crate::{clock, os, trace};
use protocol::shm::cdc::{self, Cursor, Place};
use protocol::shm::pair::{Carrier, Direction, GateState, PairSlot};
use protocol::shm::ring::{Consumer, DmbHeader, Span};
use protocol::shm::sync::fence;
use protocol::trace::Kind;
use std::ffi::c_int;
use std::sync::atomic::Ordering::*;

/// While the ring is empty, how often the TCP socket is asked for an end of the stream by calls
/// that do not wait (those that wait watch it anyway).
const LOOK_US: u64 = 50;

/// Between looks at a gate that the sender holds for a switch.
const SWITCH_NS: u64 = 20_000;

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

#[inline(never)]
fn any_way(sock: Sock, sink: Sink<'_>, flags: c_int) -> Got {
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
            from_ring(sock, sink, flags)
        } else {
            from_tcp(sock, sink, flags)
        };
        if let Some(got) = got {
            return got;
        }
    }
    // The peer keeps changing the direction word under us.
    revert::reset(sock);
    Got::Error(libc::ECONNRESET)
}

/// `None`: look again, the carrier has changed.
fn from_ring(sock: Sock, sink: Sink<'_>, flags: c_int) -> Option<Got> {
    let own = sock.own()?;
    let mut consumer = consumer(&sock);
    let room = sink.room().min(u32::MAX as usize) as u32;
    // The line of the peer's cursor stays with the peer while what was seen before is enough: it can
    // publish several small messages there for one look of ours.
    let mut looked = consumer.available() < room;
    if looked && !look(sock, own, &mut consumer) {
        revert::reset(sock);
        return None;
    }
    let n = consumer.available().min(room);
    if n == 0 {
        return empty_ring(sock, &consumer);
    }
    let n = match copy_out(sock, consumer.span(n), sink, flags) {
        Ok(n) => n,
        Err(e) => return Some(Got::Error(e)),
    };
    if flags & libc::MSG_PEEK == 0 {
        let before = consumer.consumed.position;
        consumer.consumed = consumer.after(n);
        let after = consumer.consumed.position;
        if sock
            .rx
            .consumed
            .compare_exchange(before, after, AcqRel, Acquire)
            .is_err()
        {
            // A signal handler received while we copied: what we copied is its, ours comes next.
            return None;
        }
        if let Some(slot) = sock.slot() {
            slot.counts(sock.role()).taken.store(after, Release);
        }
        sock.row().smc_rx.count(n);
        if !looked && consumer.may_owe_update() {
            looked = look(sock, own, &mut consumer);
        }
        if looked {
            let (_, peer_flags) = Cursor::from_word(own.consumer.load(Acquire));
            if consumer.owes_update(peer_flags) {
                confirm(&sock, consumer.consumed, peer_flags);
            }
        }
    }
    Some(Got::Bytes(n as usize))
}

/// Copies a span of the ring to where the program wants it; gives how many bytes that were.
fn copy_out(sock: Sock, span: Span, sink: Sink<'_>, flags: c_int) -> Result<u32, i32> {
    if flags & libc::MSG_TRUNC == 0 {
        match sink {
            Sink::Buffers(iov, skip) => iov.copy_from_ring(skip, sock.own_ring(), span),
            Sink::Descriptor(fd, _) => return pour(fd, sock.own_ring(), span).map(|n| n as u32),
            Sink::Nothing => {}
        }
    }
    Ok(span.first + span.second)
}

/// When this end has frozen its ring and the sender has not noticed yet: the direction word. What
/// lies on the ring is still this end's to take.
pub fn frozen(conn: &Conn) -> Option<Direction> {
    if conn.rx.frozen.load(Acquire) == 0 {
        return None;
    }
    let direction = conn.slot()?.direction(conn.role().peer()).load();
    (direction.carrier == Carrier::Frozen).then_some(direction)
}

/// From a frozen ring: the direction word says, to both ends, what was taken from there.
fn from_frozen(
    sock: Sock,
    slot: &PairSlot,
    direction: Direction,
    sink: Sink<'_>,
    flags: c_int,
) -> Option<Got> {
    let own = sock.own()?;
    let mut consumer = consumer(&sock);
    let sound = look(sock, own, &mut consumer);
    let end = consumer.produced.position;
    // More than this end knows of: whoever took it was interrupted.
    let Some(here) = direction
        .position_after(consumer.consumed.position, end)
        .filter(|_| sound)
    else {
        revert::reset(sock);
        return None;
    };
    consumer.consumed = consumer.after((here - consumer.consumed.position) as u32);
    let room = sink.room().min(u32::MAX as usize) as u32;
    let n = consumer.available().min(room);
    if n == 0 {
        let got = receive(sock, sink, flags, usize::MAX);
        // What the sender put there before its end comes first.
        let more =
            got == Got::Bytes(0) && look(sock, own, &mut consumer) && left_behind(&sock) != 0;
        return (!more).then_some(got);
    }
    let n = match copy_out(sock, consumer.span(n), sink, flags) {
        Ok(n) => n,
        Err(e) => return Some(Got::Error(e)),
    };
    if flags & libc::MSG_PEEK == 0 {
        let after = consumer.after(n).position;
        let word = slot.direction(sock.role().peer());
        // It comes over TCP after all, or a signal handler has taken it.
        word.take_frozen(direction, after).ok()?;
        sock.rx.consumed.fetch_max(after, AcqRel);
        slot.counts(sock.role()).taken.store(after, Release);
        sock.row().smc_rx.count(n);
    }
    Some(Got::Bytes(n as usize))
}

/// Looks how far the peer has published. False: it has published nonsense. The caller holds the lock.
fn look(sock: Sock, own: &DmbHeader, consumer: &mut Consumer) -> bool {
    if consumer.refresh(own).is_err() {
        return false;
    }
    sock.rx.base.store(consumer.base, Relaxed);
    sock.rx.produced.store(consumer.produced.position, Relaxed);
    true
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
        (ends && os::ioctl_int(sock.fd, SIOCATMARK) != Ok(1))
            .then(|| receive(sock, sink, flags | libc::MSG_PEEK, usize::MAX))
    } else {
        let ends = onto_ring::up_to_seam(&sock, slot) == Some(n as u64) && left_behind(&sock) != 0;
        ends.then(|| from_ring(sock, sink, flags | libc::MSG_PEEK))
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

fn empty_ring(sock: Sock, consumer: &Consumer) -> Option<Got> {
    let (slot, own) = (sock.slot()?, sock.own()?);
    let word = slot.direction(sock.role().peer());
    let direction = word.load();
    let here = consumer.consumed;
    match direction.carrier {
        Carrier::Ring => {}
        Carrier::Final => {
            // F may lie beyond what is published so far only while the sender is about to publish.
            if direction
                .position_after(here.position, here.position)
                .is_none()
            {
                let mut again = *consumer;
                if again.refresh(own).is_ok() && again.available() != 0 {
                    return None;
                }
                if sock.has(flag::FIN_SEEN) {
                    // It never will: what it has announced is lost.
                    revert::reset(sock);
                    return None;
                }
                return Some(Got::Empty);
            }
            if word.to_tcp().is_ok() {
                confirm(&sock, here, 0);
                sock.rx.ring.store(0, Release);
                trace::event(&sock, Kind::ReceiveTcp, 0, here.position);
                revert::off_ring(&sock);
            }
            return None;
        }
        Carrier::Frozen | Carrier::Repeating | Carrier::Tcp => {
            sock.rx.ring.store(0, Release);
            return None;
        }
    }
    let (_, flags) = Cursor::from_word(own.consumer.load(Acquire));
    let closing = cdc::flag::CLOSED | cdc::flag::ABORT | cdc::flag::DONE_WRITING;
    if flags & closing == 0 && !sock.has(flag::FIN_SEEN | flag::SHUT_RD | flag::RESET | flag::DEAD)
    {
        let now = clock::ticks();
        if now.wrapping_sub(sock.rx.looked.load(Relaxed)) < clock::per_us() * LOOK_US {
            return Some(Got::Empty);
        }
        sock.rx.looked.store(now, Relaxed);
    }
    let mut byte = [0u8];
    let look = os::recv(sock.fd, &mut byte, libc::MSG_PEEK | libc::MSG_DONTWAIT);
    if look == Err(libc::EAGAIN) || look == Err(libc::EINTR) {
        return Some(Got::Empty);
    }
    // The stream has ended, or the carrier has changed. What was published on the ring before comes
    // first: it is visible now that the kernel's word of the end has reached us.
    let mut again = *consumer;
    if again.refresh(own).is_err() || again.available() != 0 {
        return None;
    }
    if word.load() != direction {
        return None;
    }
    if let Ok(n) = look
        && n > 0
    {
        // Bytes on TCP while the ring carries: the peer broke the protocol.
        revert::reset(sock);
        return None;
    }
    if look.is_err() || !sock.has(flag::SHUT_RD) {
        sock.set(flag::FIN_SEEN);
    }
    Some(ended(sock, look))
}

/// The kernel says that the stream has ended while the ring carried it.
fn ended(sock: Sock, look: Result<usize, i32>) -> Got {
    if let Err(e) = look {
        // The error is reported once, by this call: the kernel has given it up.
        sock.note_error(e);
        return Got::Error(e);
    }
    if let Some(error) = sock.take_owed() {
        return Got::Error(error);
    }
    // After our own shutdown the kernel's 0 says nothing about the peer.
    if !sock.has(flag::SHUT_RD | flag::DEAD) && died::killed_with_unread(&sock) {
        return Got::Error(died::reset(sock));
    }
    Got::Bytes(0)
}

fn from_tcp(sock: Sock, sink: Sink<'_>, flags: c_int) -> Option<Got> {
    if let Some(error) = died::take_reset(sock) {
        return Some(Got::Error(error));
    }
    let Some(slot) = sock.slot().filter(|_| sock.phase() == phase::PAIRED) else {
        return Some(receive(sock, sink, flags, usize::MAX));
    };
    let gate = slot.gate(sock.role().peer());
    let was_open = match gate.state() {
        GateState::Busy => {
            return if handshake::take_locked(sock, slot) {
                None
            } else {
                Some(Got::Empty)
            };
        }
        // The sender is about to change the direction word; it rings when it has published.
        GateState::Switch => return switching(sock, slot),
        GateState::Shut => false,
        // While we look and read, the gate is ours: neither a CLC message nor a switch onto the
        // ring can come between.
        GateState::Open if gate.shut() => true,
        GateState::Open => return None,
    };
    if sock.rx.frozen.load(Acquire) != 0 {
        revert::thaw(sock, slot);
    }
    let got = match onto_ring::up_to_seam(&sock, slot) {
        None => Some(receive(sock, sink, flags, usize::MAX)),
        Some(0) if let Some(direction) = frozen(&sock) => {
            from_frozen(sock, slot, direction, sink, flags)
        }
        Some(0) => {
            onto_ring::follow(&sock, slot);
            None
        }
        Some(n) if n <= i64::MAX as u64 => Some(receive(sock, sink, flags, n as usize)),
        // The seam lies before what was taken already.
        Some(_) => {
            revert::reset(sock);
            None
        }
    };
    if was_open {
        handshake::publish_taken(&sock, slot);
        gate.open();
    }
    got
}

/// The sender holds the gate for a moment, for one that does not wait. If it died with it, the gate is
/// ours to take: all that is on TCP lies before the seam, wherever that is.
fn switching(sock: Sock, slot: &PairSlot) -> Option<Got> {
    let gate = slot.gate(sock.role().peer());
    let gone = os::poll_one(sock.fd, libc::POLLRDHUP, 0).unwrap_or(0) & ready::GONE != 0;
    if gate.state() != GateState::Switch {
        return None;
    }
    if gone {
        gate.switched();
        return None;
    }
    os::sleep_ns(SWITCH_NS);
    Some(Got::Empty)
}

/// A plain receive of at most `limit` bytes that does not wait, counted.
fn receive(sock: Sock, sink: Sink<'_>, flags: c_int, limit: usize) -> Got {
    let result = match sink {
        // The call has something: it goes not beyond urgent data, and leaves an error to the next.
        Sink::Buffers(_, 1..) if !ready::something_there(sock) => Err(libc::EAGAIN),
        Sink::Buffers(_, 1..) if ready::only_error(sock) => return Got::Bytes(0),
        Sink::Buffers(iov, skip) => iov.tcp_recv(sock.fd, skip, limit, flags & !libc::MSG_WAITALL),
        // The flag is about the pipe: on a socket where nothing is, the call would wait.
        Sink::Descriptor(..) if !ready::something_there(sock) && !at_mark(sock) => {
            Err(libc::EAGAIN)
        }
        Sink::Descriptor(fd, len) => {
            os::splice(sock.fd, fd, len.min(limit), libc::SPLICE_F_NONBLOCK)
        }
        // Not a peek at a byte, which would go beyond an urgent one.
        Sink::Nothing => os::recv(sock.fd, &mut [], libc::MSG_DONTWAIT),
    };
    match result {
        Ok(0)
            if sock.owed.load(Relaxed) != 0
                // A receive of no bytes gives 0 also where the stream goes on.
                && (!matches!(sink, Sink::Nothing) || ready::has_ended(sock))
                && let Some(error) = sock.take_owed() =>
        {
            Got::Error(error)
        }
        // What it sent last came over TCP, and what it left on the ring was not read.
        Ok(0)
            if !sock.has(flag::SHUT_RD | flag::DEAD)
                && died::killed_with_unread(&sock)
                && ready::has_ended(sock) =>
        {
            Got::Error(died::reset(sock))
        }
        Ok(n) => {
            if flags & libc::MSG_PEEK == 0 && n != 0 {
                sock.count_tcp_taken(n as u64);
            }
            Got::Bytes(n)
        }
        Err(libc::EAGAIN) => Got::Empty,
        Err(e) if died::in_order_after(&sock, e) => Got::Bytes(0),
        Err(e) => {
            sock.note_error(e);
            Got::Error(e)
        }
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
        peer.kind.store(cdc::CDC_TYPE, Relaxed);
    }
}

/// Whether the sender has taken the direction off the ring, and all of the ring was taken.
pub fn carrier_moved(conn: &Conn, slot: &PairSlot) -> bool {
    let direction = slot.direction(conn.role().peer()).load();
    let here = conn.rx.consumed.load(Acquire);
    match direction.carrier {
        Carrier::Ring => false,
        Carrier::Final => direction.position_after(here, here).is_some(),
        Carrier::Tcp | Carrier::Frozen | Carrier::Repeating => true,
    }
}

/// The direction has left the ring: follows when all of it was taken. The caller holds the lock.
pub fn drained(sock: Sock) {
    let Some(own) = sock.own() else { return };
    let mut consumer = consumer(&sock);
    if consumer.refresh(own).is_ok() && consumer.available() == 0 {
        let _ = empty_ring(sock, &consumer);
    }
}

/// How many bytes have come over the ring, also of those that lie behind what is still to be taken
/// from TCP.
pub fn arrived(conn: &Conn) -> u64 {
    let mut consumer = consumer(conn);
    let position = match conn.own().filter(|_| ring_is_next(conn)) {
        Some(own) if consumer.refresh(own).is_ok() => consumer.produced.position,
        _ => consumer.consumed.position,
    };
    position.wrapping_sub(conn.rx.repeated.load(Acquire))
}

const SIOCATMARK: u64 = 0x8905;

/// Whether a receive has come to the mark of urgent data, where each ends.
pub fn at_mark(sock: Sock) -> bool {
    available(&sock) == 0 && os::ioctl_int(sock.fd, SIOCATMARK) == Ok(1)
}

/// After a receive: whether the stream goes on on the other carrier, so that one call gives what lies
/// on both sides of the seam. Not behind the mark of urgent data, where each receive ends.
pub fn crosses_over(sock: Sock) -> bool {
    let Some(slot) = sock.slot().filter(|_| sock.phase() == phase::PAIRED) else {
        return false;
    };
    if !sock.rx_ring() {
        return onto_ring::gone(&sock, slot) || available(&sock) != 0;
    }
    slot.direction(sock.role().peer()).load().carrier != Carrier::Ring
        && available(&sock) == 0
        && os::ioctl_int(sock.fd, SIOCATMARK) == Ok(0)
}

/// Whether a CLC message is the next thing on the TCP stream, or about to be: then there are no
/// bytes of the program on it.
pub fn message_ahead(conn: &Conn) -> bool {
    conn.phase() == phase::PAIRED
        && conn
            .slot()
            .is_some_and(|slot| slot.gate(conn.role().peer()).state() == GateState::Busy)
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
