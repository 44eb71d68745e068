//! How a connection's registrations become ours, and the program's again.

use super::dormant;
use super::reg::{self, LISTS, Reg, state};
use super::set::{self, Set};
use crate::conn::ready::IN;
use crate::conn::{Conn, Sock, flag};
use crate::os;
use std::ffi::c_int;
use std::sync::atomic::Ordering::*;

/// How often a connection puts off its conversion for a wait of the program on the set.
const TRIES: u32 = 16;

/// Whether some registration of the connection cannot be converted.
pub fn forbids(conn: &Conn) -> bool {
    if !reg::any(conn) {
        return false;
    }
    let held = LISTS.lock();
    let forbidden = reg::of(conn)
        .filter(|reg| reg.state.load(Relaxed) != state::DORMANT)
        .any(|reg| set::get(reg.set.load(Relaxed)).is_none_or(|set| !set.converts(reg.asked())));
    LISTS.unlock(held);
    forbidden
}

/// Converts all registrations of a connection, so that a ring's readiness is seen in its sets.
/// False: that is not possible, and the connection must stay on TCP for now.
pub fn convert(conn: &Conn) -> bool {
    if !reg::any(conn) {
        return true;
    }
    if conn.holders.load(Acquire) > 1 {
        // A relative may wait on the set as well, which would not know our tags.
        return false;
    }
    let held = LISTS.lock();
    let done = reg::of(conn).all(|reg| convert_one(conn, reg).is_some());
    LISTS.unlock(held);
    done
}

/// Converts what was registered while the connection was plain. What the kernel still has to tell
/// the program must not be lost. The caller holds [`LISTS`].
fn convert_one(conn: &Conn, reg: &'static Reg) -> Option<()> {
    if reg.converted() {
        return Some(());
    }
    let set = set::get(reg.set.load(Relaxed))?;
    let sock = reg.sock()?;
    let asked = reg.asked();
    // Whether it has fired is the kernel's secret; the program tells when it re-arms.
    if !set.converts(asked) || asked & libc::EPOLLONESHOT as u32 != 0 {
        return None;
    }
    let edge = asked & libc::EPOLLET as u32 != 0;
    if edge && os::ioctl_int(sock.fd, libc::FIONREAD) != Ok(0) {
        // The program may not have been told of these bytes yet. Later, when they are taken.
        return None;
    }
    // A look at the whole set since the registration has brought all that there was to tell then.
    let told = set.drained.load(Relaxed) > reg.armed.load(Relaxed) && !sock.has(flag::NOSPACE);
    let told = match reg.noted.load(Relaxed) {
        _ if !edge || !told => false,
        0 if reg.tries.fetch_add(1, Relaxed) < TRIES && set.curious(reg) => return None,
        0 => true,
        // What has come since is news, taken or not.
        noted => noted == reg.mark(sock, IN),
    };
    if !set.take_in(reg, conn) {
        return None;
    }
    if told {
        reg.told(sock);
    }
    reg.state.store(state::OURS, Release);
    if reg.put(libc::EPOLL_CTL_MOD, sock).is_err() {
        reg.state.store(state::KERNEL, Release);
        set.dropped(reg, conn, true);
        return None;
    }
    Some(())
}

/// Makes a registration ours with the program's own call. `None`: not possible. The caller holds
/// [`LISTS`].
pub fn put_ours(set: &Set, reg: &'static Reg, sock: Sock, op: c_int) -> Option<Result<(), i32>> {
    if !set.take_in(reg, sock.conn) {
        return None;
    }
    reg.state.store(state::OURS, Release);
    let result = reg.put(op, sock);
    if result.is_err() {
        reg.state.store(state::KERNEL, Release);
        set.dropped(reg, sock.conn, true);
    } else {
        // The bell of `take_in` may have been heard and silenced before there was anything to see.
        set.rouse(reg);
    }
    Some(result)
}

/// Whether an edge-triggered registration of a connection that has left the ring is ours all the same. Not in a set
/// that goes along when a program is started, which would find our tags there.
fn stays(reg: &Reg, set: Option<&Set>) -> bool {
    let alone = |set: &Set| {
        let flags = os::fcntl(set.epfd(), libc::F_GETFD, 0);
        !set.foreign() && flags.is_ok_and(|flags| flags as c_int & libc::FD_CLOEXEC != 0)
    };
    reg.asked() & libc::EPOLLET as u32 != 0 && set.is_some_and(alone)
}

/// The connection is on TCP for good: the program's own registrations again.
pub fn restore(conn: &Conn) {
    give_back(conn, true);
}

/// As [`restore`], for one that this process loses, while others hold it.
pub fn hand_over(conn: &Conn) {
    give_back(conn, false);
}

fn give_back(conn: &Conn, may_stay: bool) {
    if !reg::any(conn) {
        return;
    }
    let held = LISTS.lock();
    for reg in reg::of(conn) {
        let set = set::get(reg.set.load(Relaxed));
        if set.is_some_and(Set::inherited) {
            // The kernel's set is the parent's, who goes on with the registration as ours.
            continue;
        }
        match reg.state.load(Relaxed) {
            // To change it would be an edge for the kernel.
            state::OURS if may_stay && stays(reg, set) => continue,
            state::OURS => {}
            state::DORMANT => {
                dormant::bury(conn, reg);
                continue;
            }
            _ => continue,
        }
        let events = match reg.disarmed.load(Relaxed) {
            0 => reg.asked(),
            _ => libc::EPOLLONESHOT as u32,
        };
        let event = reg::output(reg, events);
        // A registration whose descriptor is closed cannot be changed any more; it stays ours.
        if reg.kernel_ctl(libc::EPOLL_CTL_MOD, event).is_ok() {
            reg.state.store(state::KERNEL, Release);
            if let Some(set) = set {
                set.dropped(reg, conn, true);
            }
        }
    }
    LISTS.unlock(held);
}
