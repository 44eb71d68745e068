//! The short way of a step: bytes that lie on the ring, or room for those that are sent. Nearly every
//! call on a ring ends here. It decides nothing: whatever is not as usual is left, as it was, to [`rx`]
//! and [`tx`], which look at all of it anew.

use super::rx::pace;
use super::{Sock, alive, flag, rx, tx};
use crate::iov::Iov;
use crate::{copy, lock};
use protocol::shm::cdc::{self, Cursor, Place};
use protocol::shm::pair::Carrier;
use protocol::shm::ring::{DmbHeader, Span, base_of, rebase, span};
use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, Ordering::*};

/// Flags of a receive that do not change what one step does.
const USUAL: c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_WAITALL;

/// What a send has to look at first.
const UNUSUAL: u32 =
    flag::RESET | flag::DEAD | flag::LEAVE | flag::FIN_SEEN | flag::SHUT_WR | flag::NOSPACE;

/// Takes what is there for the buffers from `skip` on. `None`: nothing was done.
#[inline]
pub fn receive(sock: Sock, iov: &Iov, skip: usize, flags: c_int) -> Option<usize> {
    if flags & !USUAL != 0 || iov.len == skip || !sock.rx_ring() || !sock.tx_ring() {
        return None;
    }
    let held = sock.rx.lock.try_lock()?;
    let taken = match held.nested() || !sock.rx_ring() {
        true => None,
        false => sock.own().and_then(|own| take(sock, own, iov, skip, flags)),
    };
    sock.rx.lock.unlock(held);
    taken
}

/// The caller holds the lock.
#[inline]
fn take(sock: Sock, own: &DmbHeader, iov: &Iov, skip: usize, flags: c_int) -> Option<usize> {
    let rx = &sock.rx;
    let slot = sock.slot()?;
    // What follows the ring over TCP may belong to the same call.
    if slot.direction(sock.role().peer()).load().carrier != Carrier::Ring {
        return None;
    }
    let size = rx.size.load(Relaxed);
    let before = rx.consumed.load(Acquire);
    let here = Place::by(before, size, rx.inverse.load(Relaxed));
    let known = rx.produced.load(Relaxed).saturating_sub(before) as u32;
    let room = (iov.len - skip).min(size as usize) as u32;
    // The line of the peer's cursor stays with the peer while what was seen before is enough.
    let looked = known < room;
    let (mut there, mut peer) = (known, 0);
    if looked {
        if flags & libc::MSG_DONTWAIT == 0 {
            pace::keep(&sock);
        }
        let found = published(own, here, size);
        pace::set(&sock, found.map_or(0, |n| n.saturating_sub(known)));
        there = found.filter(|n| *n >= known && *n != 0)?;
        // Both from one line, which the peer may want back.
        peer = own.consumer.load(Acquire);
        rx.base.store(base_of(own, size).ok()?, Relaxed);
        rx.produced.store(before + u64::from(there), Relaxed);
    }
    let n = there.min(room);
    // Not unless we have looked anyway.
    let small = looked
        && own.take_small(before, n, |at| {
            iov.copy_from_ring(skip, start(at), Span::whole(n))
        });
    if !small {
        let span = span(here.cursor, n, size, rx.base.load(Relaxed));
        iov.copy_from_ring(skip, sock.own_ring(), span);
    }
    let after = before + u64::from(n);
    // A signal handler may have received while we copied.
    if !lock::publish(&rx.consumed, before, after) {
        return None;
    }
    slot.counts(sock.role()).taken.store(after, Release);
    sock.row().smc_rx.count(n);
    let owed = after - rx.confirmed.load(Relaxed);
    let again = !looked && cdc::update_may_be_owed(size, owed, n);
    if again {
        there = published(own, here, size).map_or(there, |n| n.max(there));
        peer = own.consumer.load(Acquire);
    }
    if looked || again {
        let (_, said) = Cursor::from_word(peer);
        let produced = before + u64::from(there);
        if cdc::owes_update(size, after - owed, after, produced, said) {
            rx::confirm(&sock, here.advance(n, size), said);
        }
    }
    Some(n as usize)
}

/// Where the bytes of these words lie, which the other end may be writing or reading.
#[inline]
fn start(words: &[AtomicU32]) -> *mut u8 {
    words.as_ptr().cast_mut().cast()
}

/// Bytes that the peer has published behind `here`; `None`: it has published nonsense.
#[inline]
fn published(own: &DmbHeader, here: Place, size: u32) -> Option<u32> {
    // SYNC: ring-data. As in `Consumer::refresh`.
    let (cursor, _) = Cursor::from_word(own.producer.load(Acquire));
    here.cursor.distance(cursor, size).ok()
}

/// Sends all of the buffers from `skip` on. `None`: nothing was done.
#[inline]
pub fn send(sock: Sock, iov: &Iov, skip: usize) -> Option<usize> {
    let len = iov.len - skip;
    let usual = sock.tx_ring() && sock.flags.load(Relaxed) & UNUSUAL == 0;
    if len == 0 || len >= copy::LONG || !usual || sock.owed.load(Relaxed) != 0 {
        return None;
    }
    // The reader has it, and looks at it: it comes while everything else is done.
    copy::prefetch_for_write(std::ptr::from_ref(sock.peer()?).cast());
    let held = sock.tx.lock.try_lock()?;
    let put = match held.nested() || !sock.tx_ring() {
        true => None,
        false => put(sock, iov, skip, len as u32),
    };
    sock.tx.lock.unlock(held);
    put
}

/// The caller holds the lock.
#[inline]
fn put(sock: Sock, iov: &Iov, skip: usize, n: u32) -> Option<usize> {
    let tx = &sock.tx;
    let (own, peer, slot) = (sock.own()?, sock.peer()?, sock.slot()?);
    let word = slot.direction(sock.role());
    let recalled = slot.order().word() != tx.held.load(Relaxed);
    let before = tx.produced.load(Acquire);
    if tx.sndbuf.load(Relaxed) != 0
        || before & tx::INTERRUPTED != 0
        || word.load().carrier != Carrier::Ring
        || recalled
    {
        return None;
    }
    let size = tx.size.load(Relaxed);
    let here = Place::by(before, size, tx.inverse.load(Relaxed));
    // SYNC: ring-space. As in `Producer::refresh`.
    let (cursor, flags) = Cursor::from_word(own.consumer.load(Acquire));
    let unread = cursor.distance(here.cursor, size).ok()?;
    let consumed = before - u64::from(unread);
    let known = tx.consumed.load(Acquire);
    if flags & (cdc::flag::CLOSED | cdc::flag::ABORT | cdc::flag::DONE_WRITING) != 0
        || consumed < known
        || size - unread < n
        || unread != 0 && !alive::lately(&sock)
    {
        return None;
    }
    if consumed != known {
        tx.consumed.fetch_max(consumed, Release);
    }
    let taken = &slot.counts(sock.role().peer()).taken;
    let base = rebase(here, n, size, tx.base.load(Relaxed), taken);
    tx.base.store(base, Relaxed);
    let span = span(here.cursor, n, size, base);
    iov.copy_to_ring(skip, sock.peer_ring(), span, false);
    let after = before + u64::from(n);
    // Else a signal handler has sent while we copied, and has left its mark.
    if !lock::publish(&tx.produced, before, after) {
        tx.produced.fetch_and(!tx::INTERRUPTED, AcqRel);
        return None;
    }
    // SYNC: ring-data. As in `Producer::publish`.
    let published = here.cursor.advance(n, size).word(0);
    peer.put_small(before, n, |at| {
        iov.copy_to_ring(skip, start(at), Span::whole(n), false)
    });
    peer.base.store(base, Relaxed);
    peer.producer.store(published, Release);
    sock.row().smc_tx.count(n);
    tx.stalled.store(0, Relaxed);
    tx::wake_watchers(&sock);
    tx::left_frozen(sock, slot);
    Some(n as usize)
}
