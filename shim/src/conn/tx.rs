//! Sending: onto the ring, or over TCP in steps that do not wait.

use super::{Conn, Sock, alive, died, flag, handshake, quick, ready, revert, twice};
use crate::iov::Iov;
use crate::{clock, copy, ctx, epoll, lgr, lock, os, wait};
use protocol::shm::cdc::{self, Cursor, Place};
use protocol::shm::pair::{Carrier, PairSlot};
use protocol::shm::ring::{DmbHeader, Producer, Span};
use protocol::shm::sync::fence;
use protocol::shm::wait::COLD;
use std::ffi::c_int;
use std::sync::atomic::Ordering::*;

/// Longest piece that is given to TCP at once while the connection may change carriers.
const TCP_CHUNK: usize = 256 << 10;
/// Longest piece of a file that goes over TCP at once.
const FILE_PIECE: usize = 64 << 10;
/// Longest piece of a pipe: less than what is free in a socket that poll calls writable.
const PIPE_PIECE: usize = 16 << 10;
/// A full ring whose reader has not moved for this long: TCP, which buffers more. Each time that the
/// reader turned out to have been merely busy, this connection waits four times as long.
const STALL_NS: u64 = 100_000_000;

/// How long the reader of a full ring may stand still now.
pub fn patience(conn: &Conn) -> u64 {
    STALL_NS << (2 * conn.tx.stalls.load(Relaxed).min(2))
}

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
            return over_tcp(sock, source, flags);
        }
        match onto_ring(sock, source) {
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

fn over_tcp(sock: Sock, source: Source<'_>, flags: c_int) -> Put {
    if sock.tx.repeat.load(Relaxed) != 0 {
        if !revert::repeat(sock) {
            return Put::Full;
        }
        if let Some(error) = sock.take_owed() {
            return Put::Error(error);
        }
    }
    if died::unseen(sock) {
        return Put::Error(died::reset(sock));
    }
    let sent = match source {
        Source::Buffers(iov, skip) => {
            let limit = match source.len() > TCP_CHUNK && stays_on_tcp(sock) {
                true => usize::MAX,
                false => TCP_CHUNK,
            };
            iov.tcp_send(sock.fd, skip, limit, flags)
        }
        Source::File(fd, offset, len) => file_over_tcp(sock.fd, fd, offset, len, flags),
        // The flag is about the pipe: into a socket without room the call would wait.
        Source::Pipe(..) if !has_tcp_room(sock) => Err(libc::EAGAIN),
        Source::Pipe(fd, len) => {
            os::splice(fd, sock.fd, len.min(PIPE_PIECE), libc::SPLICE_F_NONBLOCK)
        }
    };
    match sent {
        Ok(n) => {
            sock.count_tcp_sent(n as u64);
            if sock.has(flag::BEHIND_MESSAGE) && flags & libc::MSG_MORE == 0 {
                super::handshake::push(sock);
            }
            Put::Bytes(n)
        }
        Err(libc::EAGAIN) => {
            // An edge is owed when there is room.
            if sock.set(flag::NOSPACE) {
                epoll::stir(sock.conn);
                // A receive of no bytes waits for the room as well.
                if sock.sleepers.load(Acquire) != 0 {
                    ctx::ring_sleepers();
                }
            }
            Put::Full
        }
        Err(e) if died::in_order_after(&sock, e) => {
            Put::Bytes(died::swallow(&sock, source.len().min(TCP_CHUNK)))
        }
        Err(libc::EPIPE) if matches!(source, Source::Pipe(..)) => Put::Broken,
        Err(libc::EPIPE) if died::unseen(sock) => Put::Error(died::reset(sock)),
        Err(e) => {
            sock.note_error(e);
            Put::Error(e)
        }
    }
}

/// Whether the direction will not change carriers any more. Then the kernel gets all of a send at once: as
/// it does by itself, it takes what it has room for before it looks at a reset.
fn stays_on_tcp(sock: Sock) -> bool {
    sock.has(flag::LEAVE | flag::FIN_SEEN | flag::SHUT_WR)
        || os::poll_one(sock.fd, libc::POLLRDHUP, 0).unwrap_or(0) & ready::GONE != 0
}

/// Whether TCP takes something, or has an error to report.
fn has_tcp_room(sock: Sock) -> bool {
    os::poll_one(sock.fd, ready::OUT, 0) != Ok(0)
}

/// A piece of a file, through a buffer (which a small stack has no room for): sendfile itself would
/// wait.
fn file_over_tcp(
    sock: c_int,
    fd: c_int,
    offset: i64,
    len: usize,
    flags: c_int,
) -> Result<usize, i32> {
    let room = len.min(FILE_PIECE);
    let piece = os::map_anonymous(room)?;
    let list = libc::iovec {
        iov_base: piece.cast(),
        iov_len: room,
    };
    let sent = os::preadv(fd, &list, 1, offset).and_then(|n| match n {
        0 => Ok(0),
        n => os::send_raw(
            sock,
            piece,
            n,
            flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        ),
    });
    os::munmap(piece, room);
    sent
}

/// `None`: the direction is over TCP from here on.
fn onto_ring(sock: Sock, source: Source<'_>) -> Option<Put> {
    let slot = sock.slot()?;
    let (own, peer) = (sock.own()?, sock.peer()?);
    let direction = slot.direction(sock.role()).load();
    if direction.carrier != Carrier::Ring {
        revert::follow_freeze(sock, direction);
        return None;
    }
    if revert::recalled(&sock, slot) {
        revert::follow_recall(sock, slot);
        return None;
    }
    let mut producer = producer(&sock);
    let known = producer.consumed.position;
    let Ok(flags) = producer.refresh(own) else {
        revert::reset(sock);
        return Some(Put::Error(libc::ECONNRESET));
    };
    let leaving = must_leave(sock, flags);
    if leaving && died_half_closed(sock, flags, producer.produced.position) {
        // The kernel would have reset the connection for what lies unread.
        sock.set(flag::DEAD);
        revert::finish(sock, protocol::reason::PEER_CLOSING);
        return Some(Put::Error(libc::EPIPE));
    }
    let unread = producer.consumed.position != producer.produced.position;
    if leaving || unread && !alive::lives(sock, producer.produced.position) {
        if sock.has(flag::FIN_SEEN) && died::killed_with_unread(&sock) {
            return Some(Put::Error(died::reset(sock)));
        }
        revert::finish(sock, protocol::reason::PEER_CLOSING);
        return None;
    }
    if producer.consumed.position != known {
        sock.tx
            .consumed
            .fetch_max(producer.consumed.position, Release);
    }
    let want = source.len().min(u32::MAX as usize) as u32;
    if want == 0 {
        return Some(Put::Bytes(0));
    }
    let n = want.min(producer.free());
    if n == 0 {
        return full(sock, &producer);
    }
    producer.rebase(n, &slot.counts(sock.role().peer()).taken);
    sock.tx.base.store(producer.base, Relaxed);
    let span = producer.span(n);
    let sndbuf = sock.tx.sndbuf.load(Relaxed) as *mut u8;
    let ring = sock.peer_ring();
    let far = n >= copy::LONG as u32 && wait::far(&sock);
    let filled = match sndbuf.is_null() {
        true => source.fill(ring, span, far),
        false => source.fill(sndbuf, span, false),
    };
    let n = match filled {
        Ok(0) => return Some(Put::Bytes(0)),
        Ok(n) => n.min(span.bytes() as usize) as u32,
        Err(e) => {
            return Some(if e == libc::EAGAIN {
                Put::Full
            } else {
                Put::Error(e)
            });
        }
    };
    if !sndbuf.is_null() {
        move_data(sndbuf, ring, producer.span(n), far);
    }
    if !publish(sock, &mut producer, n, peer) {
        return None;
    }
    left_frozen(sock, slot);
    Some(Put::Bytes(n as usize))
}

/// After a publication, under the lock: a receiver that froze the ring looks for what it left there, once;
/// what it did not see, we do.
#[inline]
pub(super) fn left_frozen(sock: Sock, slot: &PairSlot) {
    let direction = slot.direction(sock.role()).load();
    if direction.carrier == Carrier::Frozen {
        revert::follow_freeze(sock, direction);
    }
}

/// `move_data` of the loopback device: from the sndbuf to the same place of the peer's RMB.
fn move_data(from: *const u8, to: *mut u8, span: Span, far: bool) {
    let at = span.at as usize;
    // SAFETY: sndbuf and ring have the same size, and the span lies in it.
    unsafe {
        copy::to_ring(from.add(at), to.add(at), span.first as usize, far);
        copy::to_ring(from, to, span.second as usize, far);
    }
}

/// Publishes `n` bytes that lie in the ring behind the produced position. False: a signal handler
/// has sent in the meantime, and the bytes go behind its bytes.
fn publish(sock: Sock, producer: &mut Producer, n: u32, peer: &DmbHeader) -> bool {
    let before = producer.produced.position;
    let after = producer.after(n);
    let roomy = producer.free() >= producer.size / 4;
    if !lock::publish(&sock.tx.produced, before, after.position) {
        sock.tx.produced.fetch_and(!INTERRUPTED, AcqRel);
        return false;
    }
    producer.publish(peer, after);
    sock.row().smc_tx.count(n);
    sock.tx.stalled.store(0, Relaxed);
    if sock.has(flag::NOSPACE) {
        // Room has come, of which sets have to hear that did not look meanwhile; and the end of this wait is that of a receive
        // of no bytes.
        if roomy || sock.sleepers.load(Relaxed) != 0 {
            space_came(sock);
        } else {
            sock.clear(flag::NOSPACE);
            super::rx::change_flags(&sock, 0, cdc::flag::WRITE_BLOCKED);
        }
    }
    wake_watchers(&sock);
    true
}

/// Wakes those of the peer's contexts that sleep and watch the connection.
#[inline]
pub fn wake_watchers(conn: &Conn) {
    // SYNC: sleep/publish. What was published before is seen by a sleeper that enters after.
    fence(SeqCst);
    if let Some(own) = conn.own()
        && own.watchers.iter().any(|word| word.load(Relaxed) != 0)
    {
        wake(conn, own);
    }
}

/// Whether that context of the peer's watches the connection.
pub fn is_watched_by(conn: &Conn, context: u32) -> bool {
    let entry = |word: u64, shift| u32::from((word >> shift) as u16 & !COLD);
    conn.own().is_some_and(|own| {
        let mut words = own.watchers.iter().map(|word| word.load(Relaxed));
        words.any(|word| {
            [0, 16, 32, 48]
                .iter()
                .any(|n| entry(word, *n) == context + 1)
        })
    })
}

#[inline(never)]
fn wake(conn: &Conn, own: &DmbHeader) {
    let Some(group) = lgr::get(conn.lgr.load(Relaxed)) else {
        return;
    };
    // As in the kernel, who came last is woken first.
    for word in own.watchers.iter().rev() {
        let mut list = word.load(Relaxed);
        while list != 0 {
            let shift = (63 - list.leading_zeros()) & !15;
            let entry = (list >> shift) as u16;
            list &= !(0xffff << shift);
            let Some(context) = u32::from(entry & !COLD).checked_sub(1) else {
                continue;
            };
            if entry & COLD != 0 {
                group.hint(context, own.hint.load(Relaxed));
            }
            if group.wake(context) {
                conn.row().rings.fetch_add(1, Relaxed);
            }
        }
    }
}

/// No room: tells the peer, so that its next update rings, and looks once more.
fn full(sock: Sock, producer: &Producer) -> Option<Put> {
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
pub fn stalled(sock: Sock, consumed: u64) -> bool {
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
    super::rx::change_flags(&sock, cdc::flag::WRITE_BLOCKED, 0);
    // SYNC: sleep/publish. The peer's update before this is seen now; one after it rings.
    fence(SeqCst);
    true
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

/// The peer ended after a half-close, without closing, and left some of what we sent unread.
fn died_half_closed(sock: Sock, flags: u16, produced: u64) -> bool {
    let closed = cdc::flag::CLOSED | cdc::flag::ABORT;
    flags & (closed | cdc::flag::DONE_WRITING) == cdc::flag::DONE_WRITING
        && sock
            .slot()
            .is_some_and(|slot| slot.counts(sock.role().peer()).taken.load(Acquire) != produced)
}

/// The peer's flags, as published.
#[inline]
pub fn peer_flags(conn: &Conn) -> u16 {
    conn.own()
        .map_or(0, |own| Cursor::from_word(own.consumer.load(Acquire)).1)
}

/// Whoever saw that there was no room is owed an edge, if there is some by now. Whether it is still to come.
pub fn owes_space(sock: Sock) -> bool {
    if !sock.has(flag::NOSPACE) {
        return false;
    }
    let room = match sock.tx_ring() {
        true => has_room(&sock),
        false => has_tcp_room(sock),
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
        super::rx::change_flags(&sock, 0, cdc::flag::WRITE_BLOCKED);
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
