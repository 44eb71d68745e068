//! The end of a connection in this process and in the family.

use super::{Conn, Sock, claim, flag, kept, passed, phase, revert, rx, twice, tx};
use crate::{clock, daemon, epoll, family, fds, lgr, lock, os, sandbox, trace};
use protocol::reason;
use protocol::shm::cdc;
use protocol::shm::pair::Carrier;
use protocol::stats::{Mode, Row, TableHeader};
use std::ffi::c_int;
use std::sync::atomic::Ordering::*;

/// Longest time that a close waits for what must be repeated over TCP.
const LINGER_NS: u64 = 2_000_000_000;
/// The same for a CLC message that the peer has announced and is about to send. Between the two it can
/// only be held up by the scheduler; and what came after the close would make it a reset.
const MESSAGE_NS: u64 = 1_000_000_000;

/// Closes a descriptor of a connection.
pub fn close(sock: Sock, kernel_close: impl FnOnce() -> c_int) -> c_int {
    let conn = sock.conn;
    kept::closing(sock);
    if fds::count(conn) != 1 {
        // The kernel's registrations outlive the descriptor.
        epoll::closing(sock);
        fds::drop_conn(sock);
        let result = kernel_close();
        kept::renamed(conn);
        return result;
    }
    if conn.has(flag::GIVEN) || escaped(conn) {
        epoll::leave_to_kernel(conn);
    }
    let kept = kept::keep(sock);
    let held = conn.holders.load(Acquire) > 1;
    if kept || held {
        epoll::closing(sock);
    }
    if held && !kept {
        epoll::outlived(sock);
    }
    if !kept {
        prepare(sock);
    }
    let pair = conn.pair.load(Relaxed);
    if fds::drop_conn(sock) != Some(0) {
        return kernel_close();
    }
    let result = if kept {
        // The kernel's sets go on reporting it, as long as the call keeps it.
        kernel_close()
    } else {
        epoll::forget(conn);
        gone(conn, pair, kernel_close)
    };
    if kept {
        kept::settle(conn);
    }
    result
}

/// Whether somebody may have it whom we do not see.
fn escaped(conn: &Conn) -> bool {
    conn.has(flag::LEAVE) && conn.row().reason.load(Relaxed) == reason::ESCAPED
}

/// Ends the connection here, under a descriptor that the program does not see.
pub fn end(sock: Sock, kernel_close: impl FnOnce() -> c_int) {
    if sock.holders.load(Acquire) > 1 {
        epoll::outlived(sock);
    }
    prepare(sock);
    epoll::forget(sock.conn);
    gone(sock.conn, sock.conn.pair.load(Relaxed), kernel_close);
}

fn prepare(sock: Sock) {
    if sock.holders.load(Acquire) <= 1 {
        part(sock);
    } else {
        // The child that goes on with it may claim it anew.
        claim::withdraw(sock.conn, phase::PLAIN);
    }
}

fn gone(conn: &Conn, pair: u64, kernel_close: impl FnOnce() -> c_int) -> c_int {
    if conn.row().pid.load(Relaxed) == lock::pid() {
        conn.row().pid.store(0, Relaxed);
    }
    // What is still seen from afar stays mapped.
    let seen = epoll::watched_afar(conn);
    let result = kernel_close();
    if conn.life().leave() {
        if pair != 0 {
            daemon::release(pair);
        }
        passed::closed(conn);
        finish(conn);
    } else if !seen {
        lgr::leave(conn.index(), conn.generation.load(Relaxed));
    }
    result
}

/// Shuts the gate, so that no CLC message comes any more: one that lay unread when the kernel
/// closes the socket would make it a reset, and throw away what we have queued.
fn end_handshake(sock: Sock) {
    let Some(slot) = sock.slot() else { return };
    let end = clock::now() + MESSAGE_NS;
    loop {
        let held = sock.rx.lock.lock();
        let shut = revert::close_gate(sock, slot);
        if shut {
            super::onto_ring::follow(&sock, slot);
        }
        // Nor what was taken from the ring already. What is unread makes it a reset anyway.
        let settled = shut && (rx::on_ring(&sock) != 0 || twice::settled(sock, slot));
        sock.rx.lock.unlock(held);
        if settled || clock::now() >= end {
            break;
        }
        let _ = os::poll_one(sock.fd, libc::POLLIN, 1);
    }
}

/// Gives the kernel what a receiver that froze the ring has left on it.
fn hand_over(sock: Sock) {
    let Some(slot) = sock.slot() else { return };
    let held = sock.tx.lock.lock();
    let direction = slot.direction(sock.role()).load();
    if direction.carrier == Carrier::Frozen {
        revert::follow_freeze(sock, direction);
    }
    let end = clock::now() + LINGER_NS;
    while sock.tx.repeat.load(Relaxed) != 0 && !revert::repeat(sock) && clock::now() < end {
        let _ = os::poll_one(sock.fd, libc::POLLOUT, 10);
    }
    sock.tx.lock.unlock(held);
}

/// The last descriptor is about to go: what the peer must know, and what the kernel must do.
fn part(sock: Sock) {
    claim::withdraw(sock.conn, phase::BARRED);
    if sock.phase() != phase::PAIRED {
        return;
    }
    end_handshake(sock);
    hand_over(sock);
    say_closed(sock);
}

/// Tells the peer how this end has left, and the kernel how to end the connection.
fn say_closed(sock: Sock) {
    // A program that was given the descriptor may read it yet: the peer repeats it over TCP.
    let escaped = escaped(sock.conn);
    let unread = rx::on_ring(&sock) != 0;
    if unread && escaped && stays_on_ring(sock) {
        // Nobody repeats it: unread is what it is, when the last who holds the socket closes it. The kernel says so.
        rx::change_flags(&sock, cdc::flag::CLOSED, 0);
        let _ = os::set_linger(sock.fd, true, 0);
    } else if unread && !escaped {
        // As the kernel does for a socket that is closed with unread bytes.
        rx::change_flags(&sock, cdc::flag::ABORT, 0);
        let _ = os::set_linger(sock.fd, true, 0);
    } else if sock.on_ring() || !escaped {
        // Also where this end has not come onto the ring yet: the peer may be there already.
        rx::change_flags(&sock, cdc::flag::CLOSED, 0);
    }
    if sock.has(flag::SHUT_WR) {
        // The peer has had our FIN already, and may wait for space.
        tx::wake_watchers(&sock);
    }
}

/// Whether the peer does not repeat over TCP what lies on the ring: it has gone back to TCP by itself, behind that, or
/// knows that this end is shut and reads nothing any more (`revert::rests_on_ring`).
fn stays_on_ring(sock: Sock) -> bool {
    sock.has(flag::SHUT_RD) && sock.has(flag::SHUT_WR)
        || sock
            .slot()
            .is_some_and(|slot| slot.direction(sock.role().peer()).load().carrier == Carrier::Final)
}

/// Gives the connection back when nobody holds it and nobody sleeps on it any more.
pub fn finish(conn: &Conn) {
    let Some(generation) = conn.life().end() else {
        return;
    };
    trace::end(conn);
    lgr::leave(conn.index(), generation);
    let sndbuf = conn.tx.sndbuf.swap(0, AcqRel);
    if sndbuf != 0 && !sandbox::within() {
        os::munmap(sndbuf as *mut u8, conn.tx.size.load(Relaxed) as usize);
    }
    if let Some(table) = family::table() {
        fold(table, conn.row(), conn.has(flag::ACCELERATED));
    }
    family::free(conn);
}

/// Runs `f`, during which the connection is not given back, and so its place not used again. `None`: it is not
/// the one of that generation any more.
pub fn pinned<R>(conn: &'static Conn, generation: u32, f: impl FnOnce() -> R) -> Option<R> {
    let result = conn.life().pin(generation).then(f);
    if conn.life().unpin() {
        finish(conn);
    }
    result
}

/// Adds a row to the totals.
fn fold(table: &TableHeader, row: &Row, accelerated: bool) {
    let mode = row.mode.swap(Mode::Free as u32, AcqRel);
    if mode == Mode::Listen as u32 || mode == Mode::Init as u32 || mode == Mode::Free as u32 {
        return;
    }
    let t = &table.totals;
    for (total, part) in [
        (&t.smc_tx.bytes, &row.smc_tx.bytes),
        (&t.smc_rx.bytes, &row.smc_rx.bytes),
        (&t.tcp_tx, &row.tcp_tx),
        (&t.tcp_rx, &row.tcp_rx),
        (&t.rings, &row.rings),
        (&t.sleeps, &row.sleeps),
        (&t.spin_hits, &row.spin_hits),
        (&t.spin_misses, &row.spin_misses),
        (&t.full, &row.full),
    ] {
        if part.load(Relaxed) != 0 {
            total.fetch_add(part.swap(0, Relaxed), Relaxed);
        }
    }
    for (total, part) in [(&t.smc_tx, &row.smc_tx), (&t.smc_rx, &row.smc_rx)] {
        for (total, part) in total.sizes.iter().zip(&part.sizes) {
            if part.load(Relaxed) != 0 {
                total.fetch_add(part.swap(0, Relaxed), Relaxed);
            }
        }
    }
    if accelerated {
        t.upgrades
            .fetch_add(u64::from(row.upgrades.swap(0, Relaxed)), Relaxed);
        t.reverts
            .fetch_add(u64::from(row.reverts.swap(0, Relaxed)), Relaxed);
        t.accelerated.fetch_add(1, Relaxed);
    } else {
        t.plain.fetch_add(1, Relaxed);
        table.count_reason(row.reason.load(Relaxed));
    }
}

/// Places that a new connection looks at.
const LOOKS: u32 = 2;

/// Gives back connections whose only holder ended without closing them.
pub fn sweep() {
    let high = family::table().map_or(0, |t| t.high.load(Relaxed));
    if family::may_miss_one() {
        (0..high)
            .filter_map(family::conn)
            .for_each(|conn| sweep_one(conn, os::process_alive));
    }
}

/// The same for a few of them, for each new connection: so there are never many more of them than of others. A
/// server with a child for each connection, which exits, would fill all places in time.
pub fn sweep_some() {
    if family::may_miss_one() && !sandbox::within() {
        family::some_places(LOOKS).for_each(|conn| sweep_one(conn, os::process_exists));
    }
}

fn sweep_one(conn: &Conn, there: fn(u32) -> bool) {
    let pid = &conn.row().pid;
    let holder = pid.load(Relaxed);
    if conn.generation.load(Acquire) & 1 == 1
        && conn.holders.load(Acquire) == 1
        && holder != 0
        && holder != lock::pid()
        && !there(holder)
        // Several may look. One does it, before the place can become another's.
        && pid.compare_exchange(holder, 0, AcqRel, Relaxed).is_ok()
        && conn.holders.compare_exchange(1, 0, AcqRel, Relaxed).is_ok()
    {
        // The daemon knows of what the holder had claimed itself.
        let pair = conn.pair.load(Relaxed);
        if pair != 0 && conn.claimant.load(Relaxed) == lock::pid() {
            daemon::release(pair);
        }
        // Mapped in that process.
        conn.tx.sndbuf.store(0, Relaxed);
        finish(conn);
    }
}

/// The kernel is about to close a descriptor without a call of the program: others that hold the
/// connection go on alone.
/// True: there are none, and it may have been on a ring.
pub fn abandon(sock: Sock) -> bool {
    let (pid, me) = (&sock.row().pid, lock::pid());
    let _ = pid.compare_exchange(me, 0, AcqRel, Relaxed);
    let alone = sock
        .holders
        .fetch_update(AcqRel, Relaxed, |n| (n > 1).then(|| n - 1))
        .is_err();
    if alone {
        // For a relative's sweep.
        pid.store(me, Relaxed);
    }
    let paired = alone && sock.phase() == phase::PAIRED;
    if paired {
        end_handshake(sock);
        hand_over(sock);
    }
    paired
}

/// The process ends, `now`: nothing of the program runs any more. Else what it leaves unread makes
/// this the end of a process that was killed, see [`died::killed_with_unread`].
pub fn at_exit(sock: Sock, now: bool) {
    if !abandon(sock) {
        return;
    }
    if now || rx::on_ring(&sock) == 0 {
        say_closed(sock);
    }
}
