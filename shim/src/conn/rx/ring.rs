//! A step of a receive while the ring carries the direction, or has carried it.

use super::{Got, Sink, confirm, consumer, left_behind, tcp};
use crate::conn::{Conn, Sock, died, flag, ready, revert, twice};
use crate::iov::pour;
use crate::{clock, lock, os, trace};
use protocol::shm::cdc::{self, Cursor};
use protocol::shm::pair::{Carrier, Direction, PairSlot};
use protocol::shm::ring::{Consumer, DmbHeader, Span};
use protocol::trace::Kind;
use std::ffi::c_int;
use std::sync::atomic::Ordering::*;

/// While the ring is empty, how often the TCP socket is asked for an end of the stream by calls
/// that do not wait (those that wait watch it anyway).
const LOOK_US: u64 = 50;

/// `None`: look again, the carrier has changed.
pub fn from_ring(sock: Sock, sink: Sink<'_>, flags: c_int) -> Option<Got> {
    let own = sock.own()?;
    if let Some(slot) = sock.slot() {
        let direction = slot.direction(sock.role().peer()).load();
        match direction.carrier {
            Carrier::TwiceAll => match twice::turn(sock, slot, direction) {
                Ok(false) if sock.rx_ring() => {}
                other => return came_twice(sock, other),
            },
            // Whoever turned there was interrupted.
            Carrier::Tcp if sock.rx_ring() => {
                twice::off_ring(sock, slot);
                sock.rx.ring.store(0, Release);
                return None;
            }
            _ => {}
        }
    }
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
        if !lock::publish(&sock.rx.consumed, before, after) {
            // A signal handler received while we copied: what we copied is its, ours comes next.
            return None;
        }
        if let Some(slot) = sock.slot() {
            slot.counts(sock.role()).taken.store(after, Release);
        }
        sock.row().smc_rx.count(n);
        if !looked && consumer.may_owe_update(n) {
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

/// After an attempt to let fall what TCP brings once more. `None`: all of that.
fn came_twice(sock: Sock, all: Result<bool, i32>) -> Option<Got> {
    match all {
        Ok(true) => None,
        Ok(false) if sock.has(flag::RESET) => None,
        // It is on its way.
        Ok(false) => Some(Got::Empty),
        Err(e) => {
            sock.note_error(e);
            Some(Got::Error(e))
        }
    }
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
    Ok(span.bytes())
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
pub fn from_frozen(
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
        let got = tcp::receive(sock, sink, flags, usize::MAX);
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
            let paid = twice::pay(sock, slot);
            if paid != Ok(true) {
                return came_twice(sock, paid);
            }
            if word.to_tcp().is_ok() {
                confirm(&sock, here, 0);
                sock.rx.ring.store(0, Release);
                trace::event(&sock, Kind::ReceiveTcp, 0, here.position);
                revert::off_ring(&sock);
            }
            return None;
        }
        Carrier::Twice => {
            if !twice::forget(sock, slot) {
                return Some(Got::Empty);
            }
        }
        // What it brings once more, or the moment in which the word has changed.
        Carrier::TwiceAll => return Some(Got::Empty),
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
    if !sock.has(flag::DEAD) && died::killed_with_unread(&sock) && ready::has_ended(sock) {
        return Got::Error(died::reset(sock));
    }
    Got::Bytes(0)
}

/// The direction has left the ring: follows when all of it was taken. The caller holds the lock.
pub fn drained(sock: Sock) {
    let Some(own) = sock.own() else { return };
    let mut consumer = consumer(&sock);
    if consumer.refresh(own).is_ok() && consumer.available() == 0 {
        let _ = empty_ring(sock, &consumer);
    }
}
