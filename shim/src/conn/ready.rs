//! Readiness of a connection: what poll, select and epoll report.

use super::{Sock, died, flag, handshake, onto_ring, phase, revert, rx, twice, tx};
use crate::{fds, os};
use protocol::shm::cdc;
use protocol::shm::pair::{Carrier, GateState, PairSlot};
use std::ffi::c_int;
use std::sync::atomic::Ordering::*;

pub const IN: i16 = libc::POLLIN | libc::POLLRDNORM;
pub const OUT: i16 = libc::POLLOUT | libc::POLLWRNORM;
pub const GONE: i16 = libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR;

/// Takes care of what the peer has changed: handshake messages, a direction that moved.
pub fn service(sock: Sock) {
    if sock.phase() != phase::PAIRED {
        return;
    }
    let Some(slot) = sock.slot() else { return };
    if !sock.rx_ring() || !sock.tx_ring() {
        handshake::pump(sock);
    }
    let incoming = slot.direction(sock.role().peer()).load().carrier;
    let moved = if sock.rx_ring() {
        incoming != Carrier::Ring && rx::available(&sock) == 0
    } else {
        onto_ring::gone(&sock, slot) || sock.rx.frozen.load(Relaxed) != 0
    };
    let came_twice = incoming == Carrier::TwiceAll || twice::comes(&sock, slot);
    if (moved || came_twice)
        && let Some(held) = sock.rx.lock.try_lock()
    {
        if came_twice {
            twice::settled(sock, slot);
        }
        if sock.rx_ring() {
            rx::drained(sock);
        } else if sock.rx.frozen.load(Relaxed) != 0 {
            revert::thaw(sock, slot);
        } else {
            onto_ring::follow(&sock, slot);
        }
        sock.rx.lock.unlock(held);
    }
    let outgoing = slot.direction(sock.role()).load();
    let left = sock.tx_ring()
        && (outgoing.carrier != Carrier::Ring
            || revert::recalled(&sock, slot)
            || tx::must_leave(sock, tx::peer_flags(&sock)));
    if (left || sock.tx.repeat.load(Relaxed) != 0)
        && let Some(held) = sock.tx.lock.try_lock()
    {
        // Only what holds under the lock counts: another thread may have followed already.
        let outgoing = slot.direction(sock.role()).load();
        if sock.tx_ring() && outgoing.carrier == Carrier::Frozen {
            revert::follow_freeze(sock, outgoing);
        } else if sock.tx_ring() && revert::recalled(&sock, slot) {
            revert::follow_recall(sock, slot);
        } else if sock.tx_ring() {
            revert::finish(sock, protocol::reason::PEER_CLOSING);
        } else if sock.tx.repeat.load(Relaxed) != 0 {
            revert::repeat(sock);
        }
        sock.tx.lock.unlock(held);
    }
}

/// A descriptor has come from another process. It may be the other end of a connection of this one, or a set with it,
/// and what lies unread on its ring waits for this end.
pub fn catch_up() {
    let waits = |sock: &Sock| {
        let direction = |slot: &PairSlot| slot.direction(sock.role()).load();
        sock.phase() == phase::PAIRED
            && sock.tx_ring()
            && sock
                .slot()
                .is_some_and(|slot| direction(slot).carrier == Carrier::Frozen)
    };
    fds::socks(0, c_int::MAX).filter(waits).for_each(service);
}

/// Whether the receiving direction is on the ring, but goes on over TCP behind what lies there.
pub fn tcp_is_next(sock: Sock) -> bool {
    sock.rx_ring()
        && sock
            .slot()
            .is_some_and(|slot| slot.direction(sock.role().peer()).load().carrier != Carrier::Ring)
}

/// Notes what the kernel says about the end of the stream. True: the peer is newly known to have
/// ended it, and [`service`] has something to do.
pub fn note_gone(sock: Sock, from_kernel: i16) -> bool {
    says_gone(sock, from_kernel) && sock.on_ring() && sock.set(flag::FIN_SEEN)
}

/// Whether poll bits of the kernel's say that the peer has ended the stream.
pub fn says_gone(sock: Sock, from_kernel: i16) -> bool {
    let mut gone = from_kernel & GONE;
    if sock.has(flag::SHUT_RD) {
        // Our own shutdown says nothing about the peer.
        gone &= !libc::POLLRDHUP;
        if sock.has(flag::SHUT_WR) {
            gone &= !libc::POLLHUP;
        }
    }
    gone != 0
}

/// Whether the peer has ended the stream. Behind an own shutdown poll says the same before and after, and one of another
/// process to which this end was passed, or under another entry, is no end: the state of the connection tells. Not when
/// it is closed behind own shutdowns, which the kernel does by itself when bytes come for which nobody is there.
pub fn has_ended(sock: Sock) -> bool {
    let said = || says_gone(sock, os::poll_one(sock.fd, libc::POLLRDHUP, 0).unwrap_or(0));
    match os::end_of(sock.fd) {
        os::End::Open => false,
        os::End::Fin => sock.has(flag::SHUT_RD) || said(),
        os::End::Closed => said(),
    }
}

/// Whether the kernel has a lasting answer about the end of the stream, which is to be part of each
/// answer of ours.
#[inline]
pub fn ending(sock: Sock) -> bool {
    sock.has(flag::FIN_SEEN | flag::SHUT_RD)
}

/// The same, also where the peer has said on the ring that it ends the stream, of which the kernel is about to tell, or
/// does already.
#[inline]
pub fn ends_soon(sock: Sock) -> bool {
    const SAID: u16 = cdc::flag::CLOSED | cdc::flag::ABORT | cdc::flag::DONE_WRITING;
    ending(sock) || tx::peer_flags(&sock) & SAID != 0
}

/// Whether what lies on the TCP socket is a handshake message, or comes once more, and is not the program's.
pub fn message_coming(sock: Sock) -> bool {
    sock.slot().is_some_and(|slot| {
        slot.gate(sock.role().peer()).state() == GateState::Busy || twice::comes(&sock, slot)
    })
}

/// Asks the kernel, and takes a handshake message off the stream rather than calling it readable:
/// there are programs for which a read that gives EAGAIN then is an error.
pub fn ask_kernel(sock: Sock, events: i16) -> i16 {
    ask_behind(sock, events).0
}

/// As [`ask_kernel`]; and whether that is all: false while another thread takes such a message, behind
/// which there may be bytes.
pub fn ask_behind(sock: Sock, events: i16) -> (i16, bool) {
    for _ in 0..4 {
        let seen = died::mask(sock, os::poll_one(sock.fd, events, 0).unwrap_or(0));
        if seen & IN == 0 || !message_coming(sock) {
            return (seen, true);
        }
        service(sock);
    }
    let seen = os::poll_one(sock.fd, events & !IN, 0).unwrap_or(0);
    (died::mask(sock, seen), false)
}

/// Whether TCP has bytes or an end of the stream, SO_RCVLOWAT or not.
pub fn something_there(sock: Sock) -> bool {
    os::poll_one(sock.fd, IN | libc::POLLRDHUP, 0) != Ok(0)
        || os::ioctl_int(sock.fd, libc::FIONREAD).is_ok_and(|n| n > 0)
}

/// Bytes that have come over TCP; `unread`: also those that lie there.
pub fn come_over_tcp(sock: Sock, unread: bool) -> u64 {
    let coming = || message_coming(sock);
    // The kernel says how much is unread up to the mark of urgent data only, and its byte counts in neither. Where
    // the connection is on TCP for good, nobody counts what is taken.
    if (sock.has(flag::URGENT) || sock.phase() == phase::BARRED)
        && !coming()
        && let Ok(bytes) = os::tcp_bytes(sock.fd)
    {
        let messages = sock.rx.messages.load(Acquire);
        let left = match unread {
            true => 0,
            false => os::ioctl_int(sock.fd, libc::FIONREAD).unwrap_or(0) as u64,
        };
        return bytes.received.wrapping_sub(messages + left);
    }
    // What was taken first: bytes that are taken meanwhile must not be counted twice.
    let taken = sock.rx.taken.load(Acquire);
    match unread && !coming() {
        true => taken + os::ioctl_int(sock.fd, libc::FIONREAD).unwrap_or(0) as u64,
        false => taken,
    }
}

/// The connection is about to be on TCP for good, where [`come_over_tcp`] believes the kernel. That has counted the peer's
/// FIN as a byte, and of a closed connection it does not say whether there was one: it is left out from here on. The
/// caller holds the receive lock.
pub fn leave_out_fin(sock: Sock) {
    if os::end_of(sock.fd) != os::End::Closed {
        return;
    }
    let left = os::ioctl_int(sock.fd, libc::FIONREAD).unwrap_or(0) as u64;
    let known = sock.rx.taken.load(Acquire) + sock.rx.messages.load(Acquire) + left;
    if os::tcp_bytes(sock.fd).is_ok_and(|bytes| bytes.received == known + 1) {
        sock.rx.messages.fetch_add(1, AcqRel);
    }
}

/// Bytes that have come, unread or not, so far.
pub fn come(sock: Sock) -> u64 {
    come_over_tcp(sock, true).wrapping_add(rx::arrived(&sock, true))
}

/// Whether the kernel has an error to report.
pub fn has_error(sock: Sock) -> bool {
    os::poll_one(sock.fd, 0, 0).unwrap_or(0) & libc::POLLERR != 0
}

/// Whether TCP has nothing to give but an error.
pub fn only_error(sock: Sock) -> bool {
    has_error(sock) && os::ioctl_int(sock.fd, libc::FIONREAD).is_ok_and(|n| n == 0)
}

/// What the ring says about readiness: poll bits among IN and OUT, where the program asks for them, and
/// what it does not ask for.
pub fn ring_mask(sock: Sock, asked: i16) -> i16 {
    let mut mask = 0;
    if asked & IN != 0 && (rx::available(&sock) != 0 || sock.rx_ring() && ending(sock)) {
        mask |= IN;
    }
    if asked & OUT != 0 && sock.tx_ring() && (tx::has_room(&sock) || tx::disturbed(&sock)) {
        mask |= OUT;
    }
    if sock.has(flag::SHUT_RD) {
        mask |= IN | libc::POLLRDHUP;
    }
    if sock.owed.load(Relaxed) != 0 {
        mask |= libc::POLLERR;
    }
    if sock.has(flag::RESET | flag::DEAD) {
        mask |= IN | OUT | libc::POLLHUP | libc::POLLRDHUP;
        if sock.has(flag::RESET) {
            mask |= libc::POLLERR;
        }
    }
    mask
}

/// Which of the events that the program asks for must be asked of the kernel. HUP and ERR come
/// unasked; RDHUP is asked for while a ring carries, because it tells of the peer's death, but not
/// when it is known already: a sleep for something else would end at once. IN likewise: nothing comes
/// over TCP meanwhile, unless another process that holds the connection takes it off the ring.
pub fn kernel_events(sock: Sock, asked: i16) -> i16 {
    let mut events = asked;
    if sock.rx_ring() && ending(sock) {
        events &= !IN;
    }
    if sock.tx_ring() || sock.tx.repeat.load(Relaxed) != 0 {
        events &= !OUT;
    }
    if sock.on_ring() && !ending(sock) {
        events |= libc::POLLRDHUP;
    }
    if sock.tx.repeat.load(Relaxed) != 0 {
        // Not for the program: to go on with the repetition.
        events |= libc::POLLOUT;
    }
    events
}

/// The program's answer from the kernel's: notes the end of the stream, adds what the ring says.
pub fn combine(sock: Sock, asked: i16, from_kernel: i16) -> i16 {
    note_gone(sock, from_kernel);
    let mut mask = from_kernel;
    if sock.tx.repeat.load(Relaxed) != 0 {
        mask &= !OUT;
    }
    mask |= ring_mask(sock, asked);
    mask & (asked | libc::POLLERR | libc::POLLHUP | libc::POLLNVAL)
}
