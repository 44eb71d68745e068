//! Connections that this process has closed, that a relative holds, and that a set of its has still: the kernel goes
//! on reporting them to whoever has the set.
//!
//! What is on the ring lies in memory that stays mapped. What the kernel would say is asked of an epoll set of the
//! library's own, the *lookout*: it does not keep open what is in it, so that the end of the connection is not put off.
//! Nobody rings for such a connection, so a wait looks every millisecond.

use super::reg::{self, Reg, state};
use super::set::{self, Set};
use super::shown;
use super::table::Table;
use crate::conn::ready::{self, GONE, IN, OUT};
use crate::conn::{Conn, Sock, close};
use crate::{family, os, ownfd};
use protocol::stats::ROWS;
use std::ffi::c_int;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::*};

static LOOKOUT: AtomicI32 = AtomicI32::new(-1);
/// Generation of connection N that is watched so. Its link group stays.
static WATCHED: [AtomicU32; ROWS] = [const { AtomicU32::new(0) }; ROWS];
/// Connections that are or were.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Events of the lookout that are taken at a time, and how often.
const EVENTS: usize = 32;
const ROUNDS: usize = 64;

/// Whether there may be any.
#[inline]
pub fn any() -> bool {
    COUNT.load(Relaxed) != 0
}

pub fn watches(conn: &Conn) -> bool {
    any()
        && WATCHED
            .get(conn.index() as usize)
            .is_some_and(|word| word.load(Relaxed) == conn.generation.load(Relaxed))
}

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Conn> {
    let high = match any() {
        true => family::table().map_or(0, |table| table.high.load(Relaxed)),
        false => 0,
    };
    (0..high)
        .filter_map(family::conn)
        .filter(|conn| watches(conn))
}

/// The last descriptor here is about to be closed, and others hold the connection. True: from now on it is seen
/// from afar.
pub fn watch(sock: Sock) -> bool {
    let Some(watched) = WATCHED.get(sock.index() as usize) else {
        return false;
    };
    let Some(lookout) = lookout() else {
        return false;
    };
    let mut event = libc::epoll_event {
        events: (IN | OUT | libc::POLLPRI | libc::POLLRDHUP) as u32,
        u64: name(sock.conn),
    };
    // A relative with the same lookout may have entered it under the same number.
    let entered = os::epoll_ctl(lookout, libc::EPOLL_CTL_ADD, sock.fd, &mut event);
    if !matches!(entered, Ok(()) | Err(libc::EEXIST)) {
        return false;
    }
    if watched.swap(sock.generation.load(Relaxed), AcqRel) == 0 {
        COUNT.fetch_add(1, AcqRel);
    }
    true
}

/// Forgets connections that are gone.
pub fn sweep() {
    if !any() {
        return;
    }
    for (index, watched) in (0..).zip(&WATCHED) {
        let generation = watched.load(Relaxed);
        if generation != 0
            && family::conn(index).is_some_and(|c| c.generation.load(Relaxed) != generation)
            && watched
                .compare_exchange(generation, 0, AcqRel, Relaxed)
                .is_ok()
        {
            COUNT.fetch_sub(1, AcqRel);
        }
    }
}

fn name(conn: &Conn) -> u64 {
    u64::from(conn.generation.load(Relaxed)) << 32 | u64::from(conn.index())
}

fn lookout() -> Option<c_int> {
    let there = LOOKOUT.load(Acquire);
    if there >= 0 {
        return Some(there);
    }
    let made = os::epoll_create().and_then(ownfd::raise).ok()?;
    match LOOKOUT.compare_exchange(-1, made, AcqRel, Acquire) {
        Ok(_) => Some(made),
        Err(first) => {
            ownfd::close(made);
            Some(first)
        }
    }
}

pub fn moved(from: c_int, to: c_int) {
    let _ = LOOKOUT.compare_exchange(from, to, AcqRel, Relaxed);
}

/// What the kernel says of the connection. Nothing: it is gone, which a holder that was killed has told nobody; one that
/// is there has room to send, unless it is full, and then its ring is not in use.
fn kernel_says(conn: &Conn) -> i16 {
    let name = name(conn);
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
    // What was told goes to the end of the queue: each round brings others.
    for _ in 0..ROUNDS {
        let at = events.as_mut_ptr();
        let (lookout, none) = (LOOKOUT.load(Acquire), std::ptr::null());
        let n = os::epoll_wait(lookout, at, EVENTS as c_int, Some(0), none).unwrap_or(0);
        if let Some(event) = events.iter().take(n).find(|event| { event.u64 } == name) {
            return event.events as i16;
        }
        if n < EVENTS {
            break;
        }
    }
    0
}

/// Whether the registration is of such a connection, which is still there.
pub fn is_there(reg: &Reg) -> bool {
    let conn = family::conn(reg.conn.load(Relaxed));
    reg.sock().is_none() && conn.is_some_and(|conn| watches(conn) && kernel_says(conn) != 0)
}

/// As [`Reg::report`], for a registration of such a connection.
#[cold]
pub fn report(reg: &Reg, commit: bool) -> u32 {
    with(reg, |conn| look(reg, conn, commit)).unwrap_or(0)
}

/// Calls `f` with the connection of such a registration, if it is one.
pub fn with<R>(reg: &Reg, f: impl FnOnce(&'static Conn) -> R) -> Option<R> {
    let generation = reg.conn_generation.load(Relaxed);
    let conn = family::conn(reg.conn.load(Relaxed)).filter(|conn| watches(conn))?;
    close::pinned(conn, generation, || f(conn))
}

fn look(reg: &Reg, conn: &'static Conn, commit: bool) -> u32 {
    let sock = Sock { fd: -1, conn };
    let beside = reg.state.load(Relaxed) == state::SHOWN;
    if beside && !shown::rests(reg, conn) {
        return 0;
    }
    let events = reg.asked();
    let asked = (events & 0x3fff) as i16;
    let heard = reg.heard.load(Acquire);
    let mut seen = kernel_says(conn);
    if seen == 0 {
        return 0;
    }
    // Whoever holds it takes the message.
    if ready::message_coming(sock) {
        seen &= !IN;
    }
    if sock.tx_ring() || sock.tx.repeat.load(Relaxed) != 0 {
        seen &= !OUT;
    }
    let mask = (seen | ready::ring_mask(sock, asked)) & (asked | GONE & !libc::POLLRDHUP);
    if mask == 0 {
        return 0;
    }
    if events & libc::EPOLLET as u32 != 0 {
        let mark = reg.mark_afar(sock, heard, mask);
        let told = &reg.reported;
        let last = told.load(Acquire);
        if mark == last || commit && told.compare_exchange(last, mark, AcqRel, Relaxed).is_err() {
            return 0;
        }
    }
    if commit && events & libc::EPOLLONESHOT as u32 != 0 && reg.disarmed.swap(1, AcqRel) != 0 {
        return 0;
    }
    if commit && beside {
        shown::named_too(reg);
    }
    mask as u16 as u32
}

/// The last descriptor of a connection here is about to be closed, and others hold it. Where this process uses a set with
/// it, it goes back to TCP if it can, for the kernel to report; in a set that only a relative uses it stays as it is.
pub fn outlived(sock: Sock) {
    let standing = || {
        let (mut ours, mut used, mut left) = (false, false, false);
        let all = reg::each(sock.conn, |table| {
            for (reg, set) in told_of(table, sock.conn) {
                left = true;
                used |= !set.inherited();
                ours |= !set.inherited() && reg.state.load(Relaxed) == state::OURS;
            }
        });
        (ours || !all, used || !all, left || !all)
    };
    if standing().0 {
        super::share::let_go(sock);
    }
    let (ours, used, left) = standing();
    if left && watch(sock) {
        // What only a relative uses is marked by it, who sees the connection as it is.
        if used {
            told(sock);
        }
    } else if left && ours {
        // Of all that is not in memory still the kernel can tell.
        super::convert::restore(sock.conn);
    }
}

/// The registrations of a connection of which this process may have something to tell, with their sets. The caller
/// holds the lists.
fn told_of(
    table: &'static Table,
    conn: &Conn,
) -> impl Iterator<Item = (&'static Reg, &'static Set)> {
    table
        .of(conn)
        .filter(|reg| matches!(reg.state.load(Relaxed), state::OURS | state::SHOWN))
        .filter_map(|reg| Some((reg, set::of(reg)?)))
}

/// What the program was told of is no news from afar, nor what the kernel says once more because its registration was
/// changed.
fn told(sock: Sock) {
    reg::each(sock.conn, |table| {
        for (reg, set) in told_of(table, sock.conn) {
            let edge = reg.asked() & libc::EPOLLET as u32 != 0;
            if !edge || set.inherited() || reg.report(false) != 0 {
                continue;
            }
            let _ = set.sift(Some(reg));
            // Before the look: what comes behind it is news.
            let heard = reg.heard.load(Acquire);
            let mark = reg.mark_afar(sock, heard, IN);
            if reg.report(false) == 0 {
                reg.reported.store(mark, Release);
            }
        }
    });
}
