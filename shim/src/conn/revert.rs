//! The way back to TCP, both halves, and the reset of a peer that breaks the rules.

use super::{Conn, Sock, died, flag, handshake, onto_ring, phase, ready, rx, step, twice, tx};
use crate::{clock, ctx, epoll, fds, os, sandbox, short, trace};
use protocol::reason;
use protocol::shm::cdc::{self, Place};
use protocol::shm::pair::{Carrier, Direction, GateState, Order, PairSlot};
use protocol::shm::ring::span;
use protocol::shm::sync::fence;
use protocol::stats::Mode;
use protocol::trace::Kind;
use std::ffi::c_int;
use std::sync::atomic::Ordering::*;

/// How long a process that must get out waits for the peer's library to repeat what lies unread.
const WAIT_NS: u64 = 100_000_000;

/// The sending direction goes back to TCP behind what is published. The caller holds the lock.
pub fn finish(sock: Sock, code: u32) {
    let Some(slot) = sock.slot() else { return };
    let word = slot.direction(sock.role());
    let end = tx::producer(&sock).produced.position;
    match word.finish(end) {
        Ok(()) => {
            sock.tx.ring.store(0, Release);
            sock.reason(code);
            trace::event(&sock, Kind::SendTcp, code, end);
            off_ring(&sock);
            // A reader asleep on an empty ring is woken by what follows over TCP, but one that
            // watches for the end of the handover is not.
            tx::wake_watchers(&sock);
        }
        Err(direction) => follow_freeze(sock, direction),
    }
    sock.tx.left.store(sock.tx.sent.load(Relaxed), Relaxed);
    sock.tx.retry.store(0, Relaxed);
}

/// Until when the daemon's last order holds.
fn until(conn: &Conn, order: Order) -> u64 {
    if order.word() != conn.tx.order.load(Acquire) {
        let until = match order.milliseconds() {
            0 => 0,
            ms => clock::now() + ms * 1_000_000,
        };
        // Two threads that see it at once differ by as much as they are apart.
        conn.tx.until.store(until, Relaxed);
        conn.tx.order.store(order.word(), Release);
    }
    conn.tx.until.load(Relaxed)
}

/// Whether the daemon wants the direction off the ring, on which it is, and nobody followed yet.
pub fn recalled(conn: &Conn, slot: &PairSlot) -> bool {
    let order = slot.order();
    if order.word() == conn.tx.held.load(Relaxed) {
        return false;
    }
    if clock::now() < until(conn, order) {
        return true;
    }
    // Over, or taken back, before it was followed.
    conn.tx.held.store(order.word(), Relaxed);
    false
}

/// Whether the daemon wants the connection on TCP now.
pub fn held(conn: &Conn, slot: &PairSlot) -> bool {
    let order = slot.order();
    order.milliseconds() != 0 && clock::now() < until(conn, order)
}

/// The sending direction leaves the ring as the daemon wants. The caller holds the lock.
pub fn follow_recall(sock: Sock, slot: &PairSlot) {
    sock.tx.held.store(slot.order().word(), Relaxed);
    finish(sock, reason::REVERTED);
}

/// The receiver has frozen the ring: what it did not take is repeated over TCP. The caller holds
/// the send lock.
pub fn follow_freeze(sock: Sock, direction: Direction) {
    twice::go_on(sock, direction);
    if sock.tx.ring.swap(0, AcqRel) == 0 {
        return;
    }
    if direction.carrier == Carrier::Frozen && rests_on_ring(sock) {
        // The word stays: what lies there is the receiver's to take.
    } else if direction.carrier == Carrier::Frozen {
        let Some(from) = end_taking(sock, direction) else {
            return reset(sock);
        };
        sock.tx.repeat.store(from + 1, Release);
    }
    sock.reason(reason::REVERTED);
    trace::event(&sock, Kind::SendTcp, reason::REVERTED, direction.position);
    off_ring(&sock);
    if sock.tx.repeat.load(Relaxed) != 0 {
        repeat(sock);
    }
}

/// Whether the receiver of a frozen ring reads nothing any more that comes over TCP: it has shut its socket
/// for reading, and what were repeated would be answered by a reset. If it is gone altogether, and has left
/// something unread, that reset is due now.
fn rests_on_ring(sock: Sock) -> bool {
    if sock.has(flag::DEAD) {
        // There is nobody, as the program knows already.
        return true;
    }
    if died::unseen(sock) {
        // It is reported once.
        sock.owe(died::reset(sock));
        return true;
    }
    tx::peer_flags(&sock) & cdc::flag::CLOSED != 0
}

/// Tells the receiver of a frozen ring that it comes over TCP from now on, and gives from where. `None`:
/// the peer breaks the rules.
fn end_taking(sock: Sock, mut frozen: Direction) -> Option<u64> {
    let word = sock.slot()?.direction(sock.role());
    let producer = tx::producer(&sock);
    // Each time in vain the receiver has taken something of what is there.
    for _ in 0..=producer.size {
        let (from, end) = (producer.consumed.position, producer.produced.position);
        let from = frozen.position_after(from, end)?;
        match word.repeat(frozen) {
            Ok(()) => return Some(from),
            Err(now) if now.carrier == Carrier::Frozen => frozen = now,
            Err(_) => return None,
        }
    }
    None
}

/// Repeats over TCP what the receiver left on the ring. True: all of it is given to the kernel, or what was not stays
/// where it is.
pub fn repeat(sock: Sock) -> bool {
    let Some(slot) = sock.slot() else { return true };
    let twice = slot.direction(sock.role()).load().carrier == Carrier::Twice;
    let producer = tx::producer(&sock);
    loop {
        let from = sock.tx.repeat.load(Relaxed).wrapping_sub(1);
        let end = producer.produced.position;
        if from >= end && twice {
            twice::over(sock, slot, false);
            return true;
        }
        if from >= end {
            let _ = slot.direction(sock.role()).to_tcp();
            sock.tx.consumed.store(end, Relaxed);
            sock.tx.repeat.store(0, Release);
            return true;
        }
        let place = Place::at(from, producer.size.max(1));
        let span = span(
            place.cursor,
            (end - from) as u32,
            producer.size,
            producer.base,
        );
        let n = span.first as usize;
        let at = sock.peer_ring().wrapping_add(span.at as usize);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // An error that the kernel has to report is for the program's next call.
        let sent = match ready::has_error(sock) {
            true => Err(libc::EPIPE),
            false => os::send_raw(sock.fd, at, n, flags),
        };
        match sent {
            Ok(n) => {
                sock.tx.sent.fetch_add(n as u64, AcqRel);
                sock.row().tcp_tx.fetch_add(n as u64, Relaxed);
                sock.tx.repeat.store(from + n as u64 + 1, Release);
            }
            Err(libc::EINTR) => {}
            Err(libc::EAGAIN) if twice => {
                twice::over(sock, slot, true);
                return true;
            }
            Err(libc::EAGAIN) => return false,
            // The connection is dead: there is nobody to repeat it for.
            Err(e) => {
                // EPIPE is what the kernel says from now on.
                if e != libc::EPIPE && !died::in_order_after(&sock, e) {
                    sock.owe(e);
                }
                if twice {
                    twice::over(sock, slot, true);
                    return true;
                }
                sock.tx.repeat.store(end + 1, Release);
            }
        }
    }
}

/// The receiving direction shall go back to TCP. The caller holds the receive lock.
fn freeze(sock: Sock, slot: &PairSlot) {
    // Also before this end has followed the sender onto the ring.
    if !sock.rx_ring() && onto_ring::up_to_seam(&sock, slot).is_none() {
        return;
    }
    let consumer = rx::consumer(&sock);
    rx::confirm(&sock, consumer.consumed, 0);
    let direction = slot.direction(sock.role().peer());
    // If not, the sender was first: the ring is drained up to its end.
    if direction.freeze(consumer.consumed.position).is_ok() {
        sock.rx.frozen.store(1, Release);
        if sock.rx.ring.swap(0, AcqRel) != 0 {
            trace::event(&sock, Kind::ReceiveTcp, 0, consumer.consumed.position);
            off_ring(&sock);
        }
        tx::wake_watchers(&sock);
    }
}

/// After a freeze that the sender has followed: both ends agree again where the ring is empty. The
/// caller holds the receive lock.
pub fn thaw(sock: Sock, slot: &PairSlot) {
    if slot.direction(sock.role().peer()).load().carrier != Carrier::Tcp {
        return;
    }
    let Some(own) = sock.own() else { return };
    let mut consumer = rx::consumer(&sock);
    if consumer.refresh(own).is_err() {
        return reset(sock);
    }
    let end = consumer.produced;
    let repeated = end.position.saturating_sub(consumer.consumed.position);
    sock.rx.repeated.fetch_add(repeated, AcqRel);
    sock.rx.produced.store(end.position, Relaxed);
    sock.rx.consumed.store(end.position, Release);
    slot.counts(sock.role()).taken.store(end.position, Release);
    rx::confirm(&sock, end, 0);
    sock.rx.frozen.store(0, Release);
}

/// A direction has left the ring.
pub fn off_ring(conn: &Conn) {
    epoll::ask(conn);
    epoll::stir(conn);
    let row = conn.row();
    row.reverts.fetch_add(1, Relaxed);
    if !conn.on_ring() {
        row.mode.store(Mode::Tcp as u32, Relaxed);
        if row.reason.load(Relaxed) == reason::HANDSHAKE {
            conn.reason(reason::REVERTED);
        }
    }
}

/// What an attempt to leave has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// Nothing of the stream is in memory.
    All,
    /// What lies unread comes over TCP when the peer's library runs, before anything that it sends then.
    Promised,
    Not,
}

/// Both directions back to TCP for good, because the program is about to do something that only
/// the kernel's socket can carry. True: nothing of the stream is left in memory, or, where another
/// program is to go on with it, what is comes over TCP as soon as the peer's library runs. False: some of it
/// is, for whoever is first: this process takes it from there ([`rx::frozen`]), or the peer repeats it.
pub fn leave(sock: Sock, code: u32) -> bool {
    super::claim::withdraw(sock.conn, phase::BARRED);
    if sock.phase() != phase::PAIRED {
        sock.bar(code);
        return true;
    }
    if sock.has(flag::SHUT_RD) && sock.has(flag::SHUT_WR) {
        // What were repeated over TCP now would be answered by a reset. The ring is there to be read.
        return true;
    }
    if died::is_reset(sock) {
        // Nobody repeats anything, and what was reported of it is to stay true.
        return true;
    }
    let Some(slot) = sock.slot() else { return true };
    sock.set(flag::LEAVE);
    if let Some(other) = other_end(sock) {
        unread_over_tcp(other, sock);
    }
    // Urgent data goes the other way, and what is still to be read here stays where it is.
    let patient = code != reason::OOB;
    let end = clock::now() + WAIT_NS;
    let mut late = false;
    loop {
        let left = leave_step(sock, slot, code);
        if left == Left::All {
            break;
        }
        if late || !patient && other_end(sock).is_none() {
            sock.reason(code);
            ctx::ring_sleepers();
            return code == reason::ESCAPED && left == Left::Promised;
        }
        // This thread may have had no processor all the while: what comes now counts still.
        late = clock::now() >= end;
        match other_end(sock) {
            Some(other) => ready::service(other),
            None => {
                let _ = os::poll_one(sock.fd, libc::POLLIN, 1);
            }
        }
    }
    // A handshake that was declined has its own.
    if sock.step.load(Relaxed) < step::DECLINE {
        sock.reason(code);
    }
    epoll::restore(sock.conn);
    // Sets alone look at the count; and a sandbox may forbid what this asks.
    if epoll::registered(sock.conn) && !sandbox::within() {
        let held = sock.rx.lock.lock();
        ready::leave_out_fin(sock);
        sock.rx.lock.unlock(held);
    }
    if sock.change_phase(phase::PAIRED, phase::BARRED) {
        trace::event(&sock, Kind::Barred, code, 0);
    } else {
        // Another thread has found the pair void.
        super::claim::withdraw(sock.conn, phase::BARRED);
        sock.bar(code);
    }
    // Another thread may sleep for the ring, and must look at the kernel's socket from now on.
    ctx::ring_sleepers();
    true
}

/// Lets go of those connections of the process that `which` names, by `leave`. Before that, what lies
/// unread on their rings is repeated over TCP where both ends are here.
pub fn unread_first(which: impl Fn(Sock) -> bool, mut leave: impl FnMut(Sock)) {
    let all = || fds::socks(0, c_int::MAX).filter(|sock| which(*sock));
    for sock in all().filter(unread) {
        if let Some(other) = other_end(sock) {
            unread_over_tcp(sock, other);
        }
    }
    all().for_each(&mut leave);
}

fn unread(sock: &Sock) -> bool {
    rx::on_ring(sock) != 0
}

/// What lies unread on the ring, or comes there, is repeated over TCP by the other end, which is here too: once it has
/// left the ring it does not do so any more.
fn unread_over_tcp(sock: Sock, other: Sock) {
    let Some(slot) = sock.slot() else { return };
    let held = sock.rx.lock.lock();
    if close_gate(sock, slot) {
        // Also what another thread sends in this moment, or has sent while this end had not come onto the ring yet.
        onto_ring::follow(&sock, slot);
        freeze(sock, slot);
    }
    sock.rx.lock.unlock(held);
    ready::service(other);
}

/// As [`leave`], for all connections of the process.
pub fn leave_all(code: u32) {
    short::fill(|_| true);
    unread_first(
        |_| true,
        |sock| {
            leave(sock, code);
        },
    );
}

/// The other end of the connection, when this process holds it as well: then nobody else may be
/// there to do its part.
fn other_end(sock: Sock) -> Option<Sock> {
    let pair = sock.pair.load(Relaxed);
    fds::socks(0, c_int::MAX)
        .find(|other| other.pair.load(Relaxed) == pair && !std::ptr::eq(other.conn, sock.conn))
}

/// One attempt to leave. A ring that is frozen with
/// nothing left on it is as good as TCP: what the sender puts there later, it repeats by itself.
fn leave_step(sock: Sock, slot: &PairSlot, code: u32) -> Left {
    let held = sock.tx.lock.lock();
    if sock.tx_ring() {
        finish(sock, code);
    }
    let sent = sock.tx.repeat.load(Relaxed) == 0 || repeat(sock);
    sock.tx.lock.unlock(held);
    let held = sock.rx.lock.lock();
    let shut = close_gate(sock, slot);
    if shut {
        // The sender may have switched before the gate was shut.
        onto_ring::follow(&sock, slot);
        freeze(sock, slot);
        if sock.rx.frozen.load(Relaxed) != 0 {
            thaw(sock, slot);
        }
    }
    let settled = twice::settled(sock, slot);
    let word = slot.direction(sock.role().peer());
    let (direction, here) = (word.load(), sock.rx.consumed.load(Acquire));
    let drained = direction.position_after(here, here).is_some();
    if direction.carrier == Carrier::Final
        && drained
        && settled
        && word.to_tcp().is_ok()
        && sock.rx.ring.swap(0, AcqRel) != 0
    {
        trace::event(&sock, Kind::ReceiveTcp, code, here);
        off_ring(&sock);
    }
    sock.rx.lock.unlock(held);
    let carrier = slot.direction(sock.role().peer()).load().carrier;
    // SYNC: freeze, then look for bytes; the sender publishes bytes, then looks for a freeze.
    fence(SeqCst);
    let empty = rx::left_behind(&sock) == 0;
    let rest_on_tcp = match carrier {
        Carrier::Tcp | Carrier::Repeating => true,
        Carrier::Frozen => empty,
        Carrier::Ring | Carrier::Final | Carrier::Twice | Carrier::TwiceAll => {
            empty && settled && sock.has(flag::FIN_SEEN)
        }
    };
    match carrier {
        _ if !sent || !shut => Left::Not,
        _ if rest_on_tcp => Left::All,
        Carrier::Frozen => Left::Promised,
        _ => Left::Not,
    }
}

/// Shuts the own gate, taking a message that is on its way off the stream first. The caller holds
/// the receive lock.
pub fn close_gate(sock: Sock, slot: &PairSlot) -> bool {
    let gate = slot.gate(sock.role().peer());
    if gate.state() == GateState::Open {
        trace::event(&sock, Kind::GateShut, 0, 0);
    }
    if !gate.shut() && gate.state() == GateState::Busy {
        handshake::take_locked(sock, slot);
    }
    let shut = gate.shut();
    if shut {
        sock.set(flag::GATED);
        // Whoever acts on a message that was put aside would open the gate again.
        sock.inbox.clear();
    }
    shut
}

/// The peer wrote what cannot be: the connection is reset, the process goes on.
pub fn reset(sock: Sock) {
    sock.reason(reason::PROTOCOL);
    trace::event(&sock, Kind::Reset, reason::PROTOCOL, 0);
    sock.tx.ring.store(0, Release);
    sock.rx.ring.store(0, Release);
    sock.tx.repeat.store(0, Relaxed);
    sock.set(flag::RESET);
    sock.step.store(step::OVER, Release);
    let _ = os::shutdown(sock.fd, libc::SHUT_RDWR);
    off_ring(&sock);
}
