//! What a reader that stands still has left on the ring goes over TCP as well, before the sender goes on there: so all of
//! the stream lies in the kernel in order, and whoever goes on reading, with the library or without, finds it.
//!
//! The sender does not wait for the reader, and does not know for sure how far it has come: what it took meanwhile
//! comes once more, and it lets it fall. Which bytes those are both know from the direction word and the counts
//! ([`protocol::shm::pair`]).

use super::{Conn, Sock, phase, ready, revert, rx, step, tx};
use crate::{fds, lock, os, trace};
use protocol::reason;
use protocol::shm::cdc;
use protocol::shm::pair::{Carrier, Direction, PairSlot};
use protocol::trace::Kind;
use std::ffi::c_int;
use std::sync::atomic::Ordering::*;

/// Between looks at what the sender is about to do.
const MOMENT_NS: u64 = 20_000;

/// Sender: the reader of a full ring does not move, and TCP buffers more. The caller holds the lock.
pub fn leave_ring(sock: Sock) {
    if begin(sock).is_none() {
        revert::finish(sock, reason::READER_STALLED);
    }
}

/// Sender: a context of the peer's sleeps on, whatever it is rung. What its connections have left on the ring goes over TCP
/// as well, and the kernel wakes it.
pub fn wake_over_tcp(group: u32, context: u32) {
    for sock in fds::socks(0, c_int::MAX) {
        if sock.lgr.load(Relaxed) == group
            && sock.tx_ring()
            && tx::is_watched_by(&sock, context)
            && has_unread(&sock)
            && let Some(held) = sock.tx.lock.try_lock()
        {
            if sock.tx_ring() && !held.nested() {
                leave_ring(sock);
            }
            sock.tx.lock.unlock(held);
        }
    }
}

/// Sender: whether the reader has not taken all of the ring.
fn has_unread(sock: &Sock) -> bool {
    let Some(slot) = sock.slot() else {
        return false;
    };
    let taken = slot.counts(sock.role().peer()).taken.load(Acquire);
    taken != tx::producer(sock).produced.position
}

/// `None`: the direction is to leave the ring as it does otherwise.
fn begin(sock: Sock) -> Option<()> {
    let (slot, own) = (sock.slot()?, sock.own()?);
    let mut producer = tx::producer(&sock);
    let flags = producer.refresh(own).ok()?;
    let taken = slot.counts(sock.role().peer()).taken.load(Acquire);
    let there = producer.consumed.position..=producer.produced.position;
    if flags & (cdc::flag::CLOSED | cdc::flag::ABORT) != 0 || !there.contains(&taken) {
        return None;
    }
    let word = slot.direction(sock.role());
    word.twice(taken).ok()?;
    sock.tx.left.store(sock.tx.sent.load(Relaxed), Relaxed);
    sock.tx.retry.store(0, Relaxed);
    go_on(sock, word.load());
    sock.reason(reason::READER_STALLED);
    Some(())
}

/// Sender: TCP gets what lies on the ring. Once, also where a signal handler that sends has come between, or whoever
/// began with it has been killed. The caller holds the lock.
pub fn go_on(sock: Sock, direction: Direction) {
    let Some(slot) = sock.slot() else { return };
    if direction.carrier != Carrier::Twice {
        return;
    }
    let producer = tx::producer(&sock);
    let (from, end) = (producer.consumed.position, producer.produced.position);
    let Some(from) = direction.position_after(from, end) else {
        return revert::reset(sock);
    };
    if sock.tx.repeat.load(Relaxed) == 0 {
        // Before anybody finds the direction off the ring.
        sock.tx.repeat.store(from + 1, Release);
        if slot.direction(sock.role()).load() != direction {
            sock.tx.repeat.store(0, Release);
        }
    }
    if sock.tx.ring.swap(0, AcqRel) != 0 {
        trace::event(&sock, Kind::SendTcp, reason::READER_STALLED, end);
        revert::off_ring(&sock);
        revert::repeat(sock);
    }
}

/// Sender: TCP has taken all of it, or `part` of it, and does not take more now. That is left to the ring: what follows comes behind
/// both.
pub fn over(sock: Sock, slot: &PairSlot, part: bool) {
    let word = slot.direction(sock.role());
    let _ = match part {
        false => word.twice_all(),
        true => {
            let sent = sock.tx.sent.load(Acquire);
            slot.counts(sock.role()).behind.store(sent, Release);
            word.twice_in_part(tx::producer(&sock).produced.position)
        }
    };
    sock.tx.repeat.store(0, Release);
    tx::wake_watchers(&sock);
}

/// Receiver: whether TCP brings, or may bring, what is on the ring too.
pub fn comes(conn: &Conn, slot: &PairSlot) -> bool {
    conn.rx_ring()
        && match slot.direction(conn.role().peer()).load().carrier {
            Carrier::Twice | Carrier::TwiceAll => true,
            Carrier::Final => debt(conn, slot) != 0,
            _ => false,
        }
}

/// Receiver, `TwiceAll`: goes on with TCP where it stands. False: what it has taken already is still to come there, or what
/// follows; until then it may take more from the ring. The caller holds the receive lock.
pub fn turn(sock: Sock, slot: &PairSlot, direction: Direction) -> Result<bool, i32> {
    let (ring, Some(own)) = (sock.rx_ring(), sock.own()) else {
        return Ok(true);
    };
    let mut consumer = rx::consumer(&sock);
    let (here, size) = (consumer.consumed.position, consumer.size);
    let seam = &slot.counts(sock.role().peer()).seam;
    let beyond = match ring {
        true => sock.rx.taken.load(Acquire).wrapping_sub(seam.load(Acquire)),
        // Not there yet: it reads on on TCP.
        false => 0,
    };
    let owed = direction.owed(here, size, beyond);
    let (Ok(()), Some(owed)) = (consumer.refresh(own), owed) else {
        revert::reset(sock);
        return Ok(false);
    };
    if owed != 0 && let_fall(sock, owed)? != 0 {
        return Ok(false);
    }
    let end = consumer.produced.position;
    let there = os::ioctl_int(sock.fd, libc::FIONREAD).unwrap_or(0) as u64;
    if !ring {
        pass(sock, slot, here);
    } else if there == 0 && end != here {
        // There was something to be read, and is at any time.
        return Ok(false);
    }
    let earliest = here.saturating_sub(size.into());
    if slot.direction(sock.role().peer()).to_tcp().is_ok() {
        let from = direction.position_after(earliest, here).unwrap_or(here);
        sock.rx.repeated.fetch_add(end - from, AcqRel);
        if ring {
            off_ring(sock, slot);
        }
        if there < end - here {
            // What was reported of the ring is on its way once more.
            sock.rx.edges.fetch_add(1, AcqRel);
        }
    }
    Ok(true)
}

/// Receiver of a direction that TCP carries: what is left on the ring comes there.
pub fn off_ring(sock: Sock, slot: &PairSlot) {
    let here = sock.rx.consumed.load(Acquire);
    if pass(sock, slot, here) && sock.rx.ring.swap(0, AcqRel) != 0 {
        trace::event(&sock, Kind::ReceiveTcp, 0, here);
        revert::off_ring(&sock);
    }
}

/// The ring counts as taken from `here` on. False: a signal handler was first.
fn pass(sock: Sock, slot: &PairSlot, here: u64) -> bool {
    let mut consumer = rx::consumer(&sock);
    let known = sock.own().map(|own| consumer.refresh(own));
    let end = consumer.produced;
    if known != Some(Ok(())) || !lock::publish(&sock.rx.consumed, here, end.position) {
        return false;
    }
    sock.rx.produced.store(end.position, Relaxed);
    slot.counts(sock.role()).taken.store(end.position, Release);
    rx::confirm(&sock, end, 0);
    true
}

/// Receiver of a `Final` direction: how many bytes TCP brings that are on the ring too.
pub fn debt(conn: &Conn, slot: &PairSlot) -> u64 {
    let behind = slot.counts(conn.role().peer()).behind.load(Acquire);
    behind.saturating_sub(conn.rx.taken.load(Acquire))
}

/// Receiver of a `Final` direction: lets fall what is there of the [`debt`]. True: that is all. The caller holds the receive
/// lock.
pub fn pay(sock: Sock, slot: &PairSlot) -> Result<bool, i32> {
    let debt = match sock.rx_ring() {
        true => debt(&sock, slot),
        // What lies before the seam comes first.
        false => 0,
    };
    if debt > sock.rx.size.load(Relaxed).into() {
        revert::reset(sock);
        return Ok(false);
    }
    Ok(debt == 0 || let_fall(sock, debt)? == 0)
}

/// Receiver of a `Twice` direction: if its sender has died, all that TCP has is on the ring too, and is let fall. False: it is
/// at it, for a moment.
pub fn forget(sock: Sock, slot: &PairSlot) -> bool {
    let word = slot.direction(sock.role().peer());
    let gone = os::poll_one(sock.fd, libc::POLLRDHUP, 0).unwrap_or(0) & ready::GONE != 0;
    // One that has ended the stream had done with it before.
    if word.load().carrier != Carrier::Twice {
        return false;
    }
    if !gone {
        os::sleep_ns(MOMENT_NS);
        return false;
    }
    let _ = let_fall(sock, sock.rx.size.load(Relaxed).into());
    true
}

/// Takes so many bytes from TCP, which nobody is to see. Gives how many are still to come.
fn let_fall(sock: Sock, mut n: u64) -> Result<u64, i32> {
    while n != 0 {
        match os::discard(sock.fd, n as usize) {
            Ok(0) => return Ok(0),
            Ok(some) => {
                sock.rx.taken.fetch_add(some as u64, AcqRel);
                sock.row().tcp_rx.fetch_add(some as u64, Relaxed);
                n = n.saturating_sub(some as u64);
            }
            Err(libc::EINTR) => {}
            Err(libc::EAGAIN) => return Ok(n),
            Err(e) => return Err(e),
        }
    }
    Ok(0)
}

/// Receiver, before something that only the kernel's socket is to carry, or its end: whether TCP has nothing any more that
/// was taken from the ring. The caller holds the receive lock.
pub fn settled(sock: Sock, slot: &PairSlot) -> bool {
    // Nor where the peer has broken the rules.
    let over = sock.phase() != phase::PAIRED || sock.step.load(Relaxed) == step::OVER;
    if over || sock.rx.frozen.load(Relaxed) != 0 {
        return true;
    }
    let direction = slot.direction(sock.role().peer()).load();
    let done = match direction.carrier {
        Carrier::TwiceAll => turn(sock, slot, direction),
        Carrier::Final => pay(sock, slot),
        Carrier::Twice => Ok(forget(sock, slot)),
        _ => Ok(true),
    };
    // An error is for the program's next call, and there is nothing to come.
    done.unwrap_or_else(|e| {
        sock.owe(e);
        true
    })
}
