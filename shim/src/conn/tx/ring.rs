//! A step of a send onto the ring.

use super::{INTERRUPTED, Put, Source, must_leave, producer, room, wake_watchers};
use crate::conn::{Sock, alive, died, flag, revert, rx};
use crate::{copy, lock, wait};
use protocol::shm::cdc;
use protocol::shm::pair::{Carrier, PairSlot};
use protocol::shm::ring::{DmbHeader, Producer, Span};
use std::sync::atomic::Ordering::*;

/// `None`: the direction is over TCP from here on.
pub(super) fn onto_ring(sock: Sock, source: Source<'_>) -> Option<Put> {
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
        return room::full(sock, &producer);
    }
    producer.rebase(n, &slot.counts(sock.role().peer()).taken);
    sock.tx.base.store(producer.base, Relaxed);
    let span = producer.span(n);
    let sndbuf = sock.tx.sndbuf.load(Relaxed) as *mut u8;
    let ring = sock.peer_ring();
    let far = n >= copy::LONG as u32 && wait::spin::far(&sock);
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
pub(in crate::conn) fn left_frozen(sock: Sock, slot: &PairSlot) {
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
            room::space_came(sock);
        } else {
            sock.clear(flag::NOSPACE);
            rx::change_flags(&sock, 0, cdc::flag::WRITE_BLOCKED);
        }
    }
    wake_watchers(&sock);
    true
}

/// The peer ended after a half-close, without closing, and left some of what we sent unread.
fn died_half_closed(sock: Sock, flags: u16, produced: u64) -> bool {
    let closed = cdc::flag::CLOSED | cdc::flag::ABORT;
    flags & (closed | cdc::flag::DONE_WRITING) == cdc::flag::DONE_WRITING
        && sock
            .slot()
            .is_some_and(|slot| slot.counts(sock.role().peer()).taken.load(Acquire) != produced)
}
