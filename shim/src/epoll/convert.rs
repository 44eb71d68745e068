//! How a connection's registrations become ours, and the program's again.

use super::reg::{self, Reg, state};
use super::set::{self, Set};
use super::table::Table;
use super::{dormant, shown};
use crate::conn::ready::IN;
use crate::conn::{Conn, Sock, flag};
use crate::os;
use std::ffi::c_int;
use std::sync::atomic::Ordering::*;

/// How often a connection puts off its conversion for a wait of the program on the set.
const TRIES: u32 = 16;

/// Whether some registration of the connection cannot be converted.
pub fn forbids(conn: &Conn) -> bool {
    let mut forbidden = false;
    let all = reg::each(conn, |table| {
        forbidden |= table
            .of(conn)
            .filter(|reg| reg.state.load(Relaxed) != state::DORMANT)
            .any(|reg| set::of(reg).is_some_and(|set| !set.converts(reg.asked())));
    });
    forbidden || !all
}

/// Whether some registration of the connection has our tag in the kernel's set.
pub fn tags(conn: &Conn) -> bool {
    let mut tagged = false;
    let all = reg::each(conn, |table| tagged |= table.of(conn).any(Reg::tagged));
    tagged || !all
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
    let mut done = true;
    let all = reg::each(conn, |table| {
        done = done && table.of(conn).all(|reg| convert_one(conn, reg).is_some());
    });
    done && all
}

/// Converts what was registered while the connection was plain. What the kernel still has to tell
/// the program must not be lost. The caller holds the lists.
fn convert_one(conn: &Conn, reg: &'static Reg) -> Option<()> {
    if reg.converted() {
        return Some(());
    }
    let Some(set) = set::of(reg) else {
        // A relative's, which the connection has left.
        return Some(());
    };
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
    // Before the look at the set: what comes behind it is news.
    let now = reg.standing(sock, 0, 0);
    // A look at the whole set since the registration has brought all that there was to tell then.
    let drained = set.drained.load(Relaxed) > reg.armed.load(Relaxed);
    let later = || reg.tries.fetch_add(1, Relaxed) < TRIES && set.curious(reg);
    let told = match reg.noted.load(Relaxed) {
        _ if !edge || sock.has(flag::NOSPACE) => false,
        _ if set.quiet() => true,
        _ if !drained && later() => return None,
        _ if !drained => false,
        0 if later() => return None,
        0 => true,
        // What has come since is news, taken or not.
        noted => noted == reg.standing(sock, IN, IN),
    };
    if !set.take_in(reg, conn) {
        return None;
    }
    if told {
        reg.reported.store(now, Release);
    }
    reg.state.store(state::OURS, Release);
    if reg.put(libc::EPOLL_CTL_MOD, sock).is_err() {
        reg.state.store(state::KERNEL, Release);
        set.dropped(reg);
        return None;
    }
    Some(())
}

/// Makes a registration ours with the program's own call. `None`: not possible. The caller holds
/// the lists.
pub fn put_ours(set: &Set, reg: &'static Reg, sock: Sock, op: c_int) -> Option<Result<(), i32>> {
    if !set.take_in(reg, sock.conn) {
        return None;
    }
    reg.state.store(state::OURS, Release);
    let result = reg.put(op, sock);
    if result.is_err() {
        reg.state.store(state::KERNEL, Release);
        set.dropped(reg);
    } else {
        // The bell of `take_in` may have been heard and silenced before there was anything to see.
        set.rouse(reg);
    }
    Some(result)
}

/// The connection is on TCP for good: the program's own registrations again.
pub fn restore(conn: &Conn) {
    reg::each(conn, |table| {
        for reg in table.of(conn) {
            give_back(table, conn, reg);
        }
    });
}

/// The connection is about to be closed here, and somebody whom we do not see may have it: the kernel goes on telling of
/// it, and what it told before perhaps once more.
pub fn leave_to_kernel(conn: &Conn) {
    reg::each(conn, |table| {
        for reg in table.of(conn) {
            let ours = matches!(
                reg.state.load(Relaxed),
                state::OURS | state::SHOWN | state::TAGGED
            );
            if let Some(set) = set::of(reg).filter(|set| ours && !set.inherited()) {
                own(set, reg);
            }
        }
    });
}

/// The kernel applies the program's rules to the registration again. The caller holds the lists.
///
/// To change it in the kernel's set would arm again what has fired, and tell the program again of what holds, so
/// where it knows already our tag stays there, and is exchanged for the program's data in each answer.
fn give_back(table: &'static Table, conn: &Conn, reg: &'static Reg) {
    // Where it is inherited, the kernel's set is the parent's, who goes on with the registration as ours.
    let Some(set) = set::of(reg).filter(|set| !set.inherited()) else {
        return;
    };
    match reg.state.load(Relaxed) {
        state::OURS => {}
        state::DORMANT => return dormant::bury(table, conn, reg),
        state::SHOWN => return shown::settle(set, reg),
        _ => return,
    }
    let fired = reg.disarmed.load(Relaxed) != 0;
    let once = reg.asked() & libc::EPOLLONESHOT as u32 != 0;
    let told = reg.asked() & libc::EPOLLET as u32 != 0 && !once && reg.report(false) == 0;
    if !fired && !told {
        return own(set, reg);
    }
    if tag(reg).is_some() {
        let sifted = set.sift(Some(reg)).is_some();
        // What came since, the kernel has told with what holds.
        if !fired && (!sifted || reg.report(false) != 0) {
            return own(set, reg);
        }
        reg.state.store(state::TAGGED, Release);
        set.dropped(reg);
    }
}

/// Puts the program's registration into the kernel's set under our tag. One that has fired is to fire there too, by
/// whatever holds, and be sifted: only then does the kernel say nothing more of it, not even an end. `None`: not
/// possible; 0: nothing holds.
fn tag(reg: &Reg) -> Option<u32> {
    const ANY: i16 = libc::POLLOUT | libc::POLLIN | libc::POLLRDHUP;
    let holds = || os::poll_one(reg.fd.load(Relaxed), ANY, 0).unwrap_or(0);
    let asked = match reg.disarmed.load(Relaxed) {
        0 => reg.asked(),
        _ => libc::EPOLLONESHOT as u32 | holds() as u16 as u32,
    };
    let event = libc::epoll_event {
        events: asked | libc::EPOLLET as u32,
        u64: set::tag(reg),
    };
    reg.kernel_ctl(libc::EPOLL_CTL_MOD, event).ok()?;
    Some(asked & !(libc::EPOLLONESHOT as u32))
}

/// A one-shot that has fired does so in the kernel's set, unseen; our tag stays there, but never comes out. False: that is
/// not possible, or could be seen. The caller holds the lists.
pub fn disarm(set: &Set, reg: &Reg) -> bool {
    set.given.load(Acquire) == 0
        && tag(reg).is_some_and(|holds| holds != 0)
        && set.sift(Some(reg)).is_some()
}

/// The kernel's report for a tagged registration was taken: it is to come once more. False: there is none to come.
pub fn tell_again(reg: &Reg) -> bool {
    reg.disarmed.load(Relaxed) == 0 && tag(reg).is_some()
}

/// The registration is the program's own again in the kernel's set. The caller holds the lists.
pub fn own(set: &Set, reg: &Reg) {
    let events = match reg.disarmed.load(Relaxed) {
        0 => reg.asked(),
        _ if disarm(set, reg) => return shown::settle(set, reg),
        // An end of the connection will be told of.
        _ => libc::EPOLLONESHOT as u32,
    };
    let event = reg::output(reg, events);
    // A registration whose descriptor is closed cannot be changed any more; it stays ours.
    if reg.kernel_ctl(libc::EPOLL_CTL_MOD, event).is_ok() {
        if events & libc::EPOLLONESHOT as u32 != 0 {
            set.once.store(1, Release);
        }
        shown::settle(set, reg);
    }
}
