//! Sending: onto the ring, or over TCP in steps that do not wait.

mod ring;
mod room;
mod tcp;
mod watchers;

pub(super) use ring::left_frozen;
pub use room::{give_up_if_stalled, has_room, owes_space, patience, room, space_came, want_room};
pub use watchers::{is_watched_by, wake_watchers};

use super::{Conn, Sock, died, flag, handshake, quick, revert};
use crate::iov::Iov;
use crate::{lgr, os};
use protocol::shm::cdc::{self, Cursor, Place};
use protocol::shm::pair::Carrier;
use protocol::shm::ring::{Producer, Span};
use std::ffi::c_int;
use std::sync::atomic::Ordering::*;

/// Bit of [`super::Tx::produced`]: a signal handler sent on this connection while a send of the same
/// thread was copying. It went around the ring, and the interrupted send must not publish.
pub(super) const INTERRUPTED: u64 = 1 << 63;

/// Where sent bytes come from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// The program's buffers, from an offset on.
    Buffers(&'a Iov, usize),
    /// A file at an offset, at most so many bytes.
    File(c_int, i64, usize),
    /// A pipe that holds at least so many bytes.
    Pipe(c_int, usize),
}

impl Source<'_> {
    fn len(&self) -> usize {
        match *self {
            Source::Buffers(iov, skip) => iov.len - skip,
            Source::File(_, _, len) | Source::Pipe(_, len) => len,
        }
    }

    /// Puts bytes into `span` of a ring; gives how many.
    fn fill(&self, ring: *mut u8, span: Span, far: bool) -> Result<usize, i32> {
        let (list, count) = crate::iov::ring_iovecs(ring, span);
        match *self {
            Source::Buffers(iov, skip) => {
                iov.copy_to_ring(skip, ring, span, far);
                Ok(span.bytes() as usize)
            }
            Source::File(fd, offset, _) => os::preadv(fd, list.as_ptr(), count, offset),
            Source::Pipe(fd, _) => os::readv(fd, list.as_ptr(), count),
        }
    }
}

/// What one step of a send came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    Bytes(usize),
    /// No room now.
    Full,
    /// An errno; EPIPE raises SIGPIPE as the flags say.
    Error(i32),
    /// EPIPE, and the kernel has raised SIGPIPE.
    Broken,
}

/// The private state of the sending end, as a value.
#[inline]
pub fn producer(conn: &Conn) -> Producer {
    let size = conn.tx.size.load(Relaxed).max(1);
    let produced = conn.tx.produced.load(Acquire) & !INTERRUPTED;
    let produced = Place::by(produced, size, conn.tx.inverse.load(Relaxed));
    Producer {
        size,
        base: conn.tx.base.load(Relaxed),
        produced,
        consumed: produced.near(conn.tx.consumed.load(Acquire), size),
    }
}

/// One step. Never waits.
#[inline]
pub fn once(sock: Sock, source: Source<'_>, flags: c_int) -> Put {
    if let Source::Buffers(iov, skip) = source
        && let Some(n) = quick::send(sock, iov, skip)
    {
        return Put::Bytes(n);
    }
    any_way(sock, source, flags)
}

#[inline(never)]
fn any_way(sock: Sock, source: Source<'_>, flags: c_int) -> Put {
    if !sock.tx_ring() {
        handshake::pump(sock);
        handshake::pause(sock);
    }
    let held = sock.tx.lock.lock();
    if held.nested() {
        // The interrupted send owns the free part of the ring: this one goes over TCP.
        if sock.tx_ring() {
            revert::finish(sock, protocol::reason::REVERTED);
        }
        sock.tx.produced.fetch_or(INTERRUPTED, AcqRel);
    } else if sock.tx.produced.load(Relaxed) & INTERRUPTED != 0 {
        sock.tx.produced.fetch_and(!INTERRUPTED, AcqRel);
    }
    let put = step(sock, source, flags);
    sock.tx.lock.unlock(held);
    put
}

fn step(sock: Sock, source: Source<'_>, flags: c_int) -> Put {
    if let Some(error) = sock.take_owed() {
        return Put::Error(error);
    }
    // After an own shutdown the kernel answers: it may have a reset to report.
    if sock.has(flag::RESET | flag::DEAD) {
        if let Some(error) = died::take_reset(sock) {
            return Put::Error(error);
        }
        if sock.has(flag::DEAD) {
            return Put::Error(libc::EPIPE);
        }
    }
    loop {
        if !sock.tx_ring() {
            return tcp::over_tcp(sock, source, flags);
        }
        match ring::onto_ring(sock, source) {
            Some(put) => return put,
            // The direction went back to TCP; maybe there is nobody who takes what it carried.
            None => {
                if let Some(error) = sock.take_owed() {
                    return Put::Error(error);
                }
            }
        }
    }
}

/// Whether the sending direction has to go back to TCP, so that a reset and a broken pipe are the
/// kernel's: the peer has closed or is gone, or the program wants the kernel's socket. `flags` are
/// the peer's.
pub fn must_leave(sock: Sock, flags: u16) -> bool {
    if sock.has(flag::LEAVE) || flags & (cdc::flag::CLOSED | cdc::flag::ABORT) != 0 {
        return true;
    }
    if flags & cdc::flag::DONE_WRITING == 0 {
        return sock.has(flag::FIN_SEEN);
    }
    // A peer that has only said that it will write no more still reads, as long as it lives: then
    // its end of the channel is open.
    lgr::get(sock.lgr.load(Relaxed)).is_none_or(lgr::LinkGroup::peer_gone)
}

/// The peer's flags, as published.
#[inline]
pub fn peer_flags(conn: &Conn) -> u16 {
    conn.own()
        .map_or(0, |own| Cursor::from_word(own.consumer.load(Acquire)).1)
}

/// A direction that has left the ring, or whose peer wants attention, shows here without a lock.
pub fn disturbed(conn: &Conn) -> bool {
    let Some(slot) = conn.slot() else {
        return false;
    };
    let closed = cdc::flag::CLOSED | cdc::flag::ABORT;
    slot.direction(conn.role()).load().carrier != Carrier::Ring
        || revert::recalled(conn, slot)
        || conn.has(flag::LEAVE | flag::RESET | flag::DEAD)
        || peer_flags(conn) & closed != 0
        || (conn.has(flag::FIN_SEEN) && peer_flags(conn) & cdc::flag::DONE_WRITING == 0)
}
