//! Registrations that the program has deleted, and that the kernel's set still holds for us.
//!
//! Event loops that add and delete the same descriptor for each message (redis, ae) would pay for
//! two system calls each time. A converted registration that is deleted becomes *dormant* instead:
//! it reports nothing, and for the program it is not there. Adding it again revives it, and checks
//! what holds as the kernel would.
//!
//! It is really deleted as soon as somebody could see it: when the connection or the set goes back to
//! the kernel, and when its descriptor is closed while the connection lives on.

use super::reg::{self, Reg, state};
use super::set::{self, Set};
use super::table::Table;
use crate::conn::{Conn, Sock};
use std::sync::atomic::Ordering::*;

/// The program deletes a converted registration. The caller holds the lists.
pub fn lay(reg: &Reg) {
    reg.state.store(state::DORMANT, Release);
}

/// The program adds a dormant registration again. False: it has to be made anew. The caller holds
/// the lists.
pub fn revive(set: &Set, reg: &'static Reg, sock: Sock, event: &libc::epoll_event) -> bool {
    if !set.heat(reg, sock.conn) {
        return false;
    }
    reg.arm(event);
    reg.state.store(state::OURS, Release);
    if reg.install(sock).is_err() {
        reg.state.store(state::DORMANT, Release);
        return false;
    }
    set.rouse(reg);
    true
}

/// Deletes a dormant registration from the kernel's set, and forgets it. The caller holds the lists.
pub fn bury(table: &'static Table, conn: &Conn, reg: &'static Reg) {
    let none = libc::epoll_event { events: 0, u64: 0 };
    let _ = reg.kernel_ctl(libc::EPOLL_CTL_DEL, none);
    reg::remove(table, conn, reg);
}

/// Buries those of a connection that `which` names.
fn bury_all(conn: &Conn, which: impl Fn(&Reg) -> bool) {
    reg::each(conn, |table| {
        for reg in table.of(conn) {
            if reg.state.load(Relaxed) == state::DORMANT && which(reg) {
                bury(table, conn, reg);
            }
        }
    });
}

/// A descriptor of a connection is about to be closed, and the connection lives on: what the kernel
/// has under that number could not be deleted any more.
pub fn closing(sock: Sock) {
    bury_all(sock.conn, |reg| {
        // An inherited set is the parent's, and so is what lies in it.
        reg.fd.load(Relaxed) == sock.fd && set::of(reg).is_some_and(|set| !set.inherited())
    });
}
