//! epoll_ctl for a descriptor of a connection in one of our sets.

use super::reg::{self, Reg, state};
use super::set::Set;
use super::share::{adopt, let_go};
use super::table::Table;
use super::{convert, dormant, shown};
use crate::conn::{Sock, flag, phase, rx, step};
use crate::{errno, os, real};
use std::ffi::c_int;
use std::sync::atomic::Ordering::*;

/// The call of the program.
pub fn ctl(
    set: &'static Set,
    epfd: c_int,
    op: c_int,
    sock: Sock,
    event: *mut libc::epoll_event,
) -> c_int {
    let settled = sock.phase() == phase::BARRED && !reg::any(sock.conn);
    if settled || event.is_null() && op != libc::EPOLL_CTL_DEL {
        // SAFETY: the program's own arguments.
        let result = unsafe { real::epoll_ctl(epfd, op, sock.fd, event) };
        if result == 0 && op != libc::EPOLL_CTL_DEL {
            // SAFETY: the kernel has read it.
            set.note_own(unsafe { event.read_unaligned() }.events);
        }
        return result;
    }
    let foreign = set.foreign();
    if foreign {
        errno::keep(|| {
            adopt(set.index());
            // Whoever sleeps on the set hears at once of what the kernel has.
            if op == libc::EPOLL_CTL_ADD && sock.careful() {
                let_go(sock);
            }
        });
    }
    let Some(table) = set.table() else {
        // SAFETY: the program's own arguments.
        let result = unsafe { real::epoll_ctl(epfd, op, sock.fd, event) };
        if result == 0 && op == libc::EPOLL_CTL_ADD && sock.careful() {
            errno::keep(|| let_go(sock));
        }
        return result;
    };
    let event = match op {
        libc::EPOLL_CTL_DEL => None,
        // SAFETY: not null; the program promises an event, as it would to the kernel.
        _ => Some(unsafe { event.read_unaligned() }),
    };
    let held = table.lists.lock();
    let result = locked(set, table, op, sock, event);
    table.lists.unlock(held);
    match result {
        Ok(seen) => {
            if !seen && sock.careful() {
                errno::keep(|| match foreign {
                    true => shown::all(sock.conn),
                    false => let_go(sock),
                });
            }
            0
        }
        Err(e) => errno::fail(e),
    }
}

/// Whether the connection may use a ring, or has something on one yet, so that its registrations must
/// be ours.
fn rings(sock: Sock) -> bool {
    sock.phase() == phase::PAIRED
        && (!sock.has(flag::LEAVE) || rx::available(&sock) != 0)
        && sock.step.load(Acquire) < step::OVER
}

/// Whether a registration that is ours has a reason to be.
fn may_be_ours(set: &Set, sock: Sock) -> bool {
    sock.on_ring() || rings(sock) && !set.foreign()
}

/// False: only the kernel sees this registration, and the connection must stay on TCP.
fn locked(
    set: &'static Set,
    table: &'static Table,
    op: c_int,
    sock: Sock,
    event: Option<libc::epoll_event>,
) -> Result<bool, i32> {
    let kernel = |mut event: libc::epoll_event| {
        set.note_own(event.events);
        os::epoll_ctl(set.epfd(), op, sock.fd, &mut event)
    };
    let known = reg::find(set, sock);
    if let Some(reg) = known.filter(|reg| reg.state.load(Relaxed) == state::DORMANT) {
        return on_dormant(set, table, op, sock, event, reg);
    }
    match (op, event) {
        (libc::EPOLL_CTL_ADD, Some(event)) => add(set, table, sock, event, known),
        (libc::EPOLL_CTL_MOD, Some(event)) => match known {
            // It is armed anew, as the kernel does it.
            Some(reg) if reg.state.load(Relaxed) == state::OURS && !may_be_ours(set, sock) => {
                kernel(event)?;
                reg.arm(&event);
                shown::settle(set, reg);
                Ok(true)
            }
            Some(reg) if reg.state.load(Relaxed) == state::OURS => {
                if event.events & libc::EPOLLEXCLUSIVE as u32 != 0 {
                    return Err(libc::EINVAL);
                }
                reg.arm(&event);
                let seen = set.heat(reg, sock.conn);
                reg.install(sock)?;
                set.rouse(reg);
                Ok(seen)
            }
            Some(reg) if set.converts(event.events) && rings(sock) => {
                reg.arm(&event);
                match convert::put_ours(set, reg, sock, op) {
                    Some(result) => result.map(|()| true),
                    None => kernel(event).map(|()| false),
                }
            }
            known => {
                kernel(event)?;
                if let Some(reg) = known {
                    reg.arm(&event);
                    shown::settle(set, reg);
                }
                Ok(true)
            }
        },
        (libc::EPOLL_CTL_DEL, _)
            if rings(sock)
                && set.converts(0)
                && let Some(reg) = known.filter(|reg| reg.converted()) =>
        {
            dormant::lay(reg);
            Ok(true)
        }
        (libc::EPOLL_CTL_DEL, _) => {
            kernel(libc::epoll_event { events: 0, u64: 0 })?;
            if let Some(reg) = known {
                reg::remove(table, sock.conn, reg);
            }
            Ok(true)
        }
        (_, event) => {
            kernel(event.unwrap_or(libc::epoll_event { events: 0, u64: 0 }))?;
            Ok(true)
        }
    }
}

/// As [`locked`], where the program has deleted the registration, but the kernel's set has it still.
fn on_dormant(
    set: &'static Set,
    table: &'static Table,
    op: c_int,
    sock: Sock,
    event: Option<libc::epoll_event>,
    reg: &'static Reg,
) -> Result<bool, i32> {
    match (op, event) {
        (libc::EPOLL_CTL_ADD, Some(event)) => {
            if set.converts(event.events) && rings(sock) && dormant::revive(set, reg, sock, &event)
            {
                return Ok(true);
            }
            dormant::bury(table, sock.conn, reg);
            add(set, table, sock, event, None)
        }
        (libc::EPOLL_CTL_MOD, Some(event)) if event.events & libc::EPOLLEXCLUSIVE as u32 != 0 => {
            Err(libc::EINVAL)
        }
        (libc::EPOLL_CTL_MOD | libc::EPOLL_CTL_DEL, _) => Err(libc::ENOENT),
        _ => Err(libc::EINVAL),
    }
}

fn add(
    set: &'static Set,
    table: &'static Table,
    sock: Sock,
    event: libc::epoll_event,
    stale: Option<&'static Reg>,
) -> Result<bool, i32> {
    let op = libc::EPOLL_CTL_ADD;
    let kernel = |mut event: libc::epoll_event| {
        set.note_own(event.events);
        os::epoll_ctl(set.epfd(), op, sock.fd, &mut event)
    };
    let Some(reg) = reg::add(set, sock, &event) else {
        return kernel(event).map(|()| false);
    };
    let converts = set.converts(event.events);
    let result = match (converts && rings(sock)).then(|| convert::put_ours(set, reg, sock, op)) {
        Some(Some(result)) => result.map(|()| true),
        // The peer may use the ring at once, and this set could not see it.
        Some(None) => kernel(event).map(|()| false),
        None => kernel(event).map(|()| converts),
    };
    match (&result, stale) {
        (Ok(_), Some(stale)) => reg::remove(table, sock.conn, stale),
        (Err(_), _) => reg::remove(table, sock.conn, reg),
        _ => {}
    }
    result
}
