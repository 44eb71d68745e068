//! Registrations in a set that others see too: another process has it, or a program is started with it.
//!
//! In the kernel's set they are as the program made them: nothing of ours is to come out of it elsewhere. What still
//! lies on the connection's ring, until it is taken or comes over TCP, the kernel knows nothing of: this process
//! tells of it, beside what the kernel tells.

use super::reg::{self, Reg, state};
use super::set::{self, Set};
use super::table::Table;
use super::{afar, convert, dormant};
use crate::conn::ready::{self, IN};
use crate::conn::{Conn, Sock, rx};
use std::sync::atomic::Ordering::*;

/// Takes our tag out of the kernel's set. The caller holds the lists.
pub fn surrender(table: &'static Table, set: &Set, conn: &Conn, reg: &'static Reg) {
    match reg.state.load(Relaxed) {
        state::OURS | state::TAGGED => convert::own(set, reg),
        state::DORMANT => dormant::bury(table, conn, reg),
        _ => {}
    }
}

/// The kernel's set has the registration as the program made it. The caller holds the lists.
pub fn settle(set: &Set, reg: &Reg) {
    reg.state.store(state::KERNEL, Release);
    match reg.sock().filter(|sock| rest(reg, *sock).is_some()) {
        Some(sock) => show(set, reg, sock.conn),
        None => set.dropped(reg),
    }
}

fn show(set: &Set, reg: &Reg, conn: &Conn) {
    reg.state.store(state::SHOWN, Release);
    set.count_in(reg, conn);
    if set.bell_at_home().is_some() {
        set.rouse(reg);
    }
}

/// A connection that could not leave its ring altogether: what is there is told of in the sets that the kernel
/// watches.
pub fn all(conn: &Conn) {
    reg::each(conn, |table| {
        for reg in table.of(conn) {
            if reg.state.load(Relaxed) == state::KERNEL
                && let Some(set) = set::of(reg)
            {
                settle(set, reg);
            }
        }
    });
}

/// Whether something lies on the ring that the program is to be told of.
pub fn rests(reg: &Reg, conn: &Conn) -> bool {
    reg.asked() as i16 & IN != 0 && reg.disarmed.load(Acquire) == 0 && rx::available(conn) != 0
}

/// What was told of a registration may come out of the kernel's set too.
pub fn named_too(reg: &Reg) {
    if let Some(set) = set::of(reg) {
        set.handed.fetch_add(1, AcqRel);
    }
}

/// Events, and their mark, while something lies on the ring that the program may be told of.
fn rest(reg: &Reg, sock: Sock) -> Option<(u32, u64)> {
    if !rests(reg, &sock) {
        return None;
    }
    let asked = (reg.asked() & 0x3fff) as i16;
    let seen = ready::ask_kernel(sock, ready::kernel_events(sock, asked));
    let mask = ready::combine(sock, asked, seen);
    let mark = match reg.asked() & libc::EPOLLET as u32 {
        0 => 0,
        _ => reg.standing(sock, seen, mask),
    };
    let told = mark != 0 && mark == reg.reported.load(Acquire);
    (!told).then_some((mask as u16 as u32, mark))
}

/// As [`Reg::report`], for such a registration.
#[cold]
pub fn report(reg: &Reg, commit: bool) -> u32 {
    let Some(sock) = reg.sock() else {
        return afar::report(reg, commit);
    };
    ready::service(sock);
    let Some((events, mark)) = rest(reg, sock) else {
        return 0;
    };
    if commit {
        if mark != 0 && reg.reported.swap(mark, AcqRel) == mark {
            return 0;
        }
        if reg.asked() & libc::EPOLLONESHOT as u32 != 0 {
            if reg.disarmed.swap(1, AcqRel) != 0 {
                return 0;
            }
            fired(reg);
        }
        named_too(reg);
    }
    events
}

/// The kernel is to tell no more of a one-shot of which the program was told here.
fn fired(reg: &Reg) {
    let Some((set, table)) = set::of(reg).and_then(|set| Some((set, set.known()?))) else {
        return;
    };
    let held = table.lists.lock();
    // Another thread may have armed it again.
    if reg.disarmed.load(Acquire) != 0 && !convert::disarm(set, reg) {
        let event = reg::output(reg, libc::EPOLLONESHOT as u32);
        let _ = reg.kernel_ctl(libc::EPOLL_CTL_MOD, event);
    }
    table.lists.unlock(held);
}

/// Whether something may come onto the ring yet, of which the set would not hear.
pub fn unheard(reg: &Reg) -> bool {
    reg.state.load(Relaxed) == state::SHOWN && reg.sock().is_some_and(|sock| sock.on_ring())
}

/// Looked at in vain. True: all was taken, or came over TCP. The caller holds the lists.
pub fn is_over(reg: &Reg) -> bool {
    let there = |conn: &Conn| conn.on_ring() || rx::available(conn) != 0;
    let over = !match reg.sock() {
        Some(sock) => there(&sock),
        None => afar::with(reg, there).unwrap_or(false),
    };
    if over {
        reg.state.store(state::KERNEL, Release);
    }
    over
}
