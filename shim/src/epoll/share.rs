//! A set that others see: relatives who use it too, whoever polls it, another set, another program. Only
//! the kernel sees all of it: its connections go back to TCP.

use super::reg::{self, Reg, state};
use super::set::{self, KERNEL_ONLY, PASSED, Set};
use super::sift::tells;
use super::table::Table;
use super::wait::settle_bell;
use super::{afar, convert, dormant, shown};
use crate::conn::{Conn, Sock, revert, rx};
use crate::{family, fds, os};
use protocol::reason;
use protocol::shm::pair::GateState;
use std::ffi::c_int;
use std::sync::atomic::Ordering::*;

/// The set is to be used where only the kernel sees it.
pub fn escape(index: u32) {
    if let Some(set) = set::get(index)
        && set.foreign.fetch_max(KERNEL_ONLY, AcqRel) < KERNEL_ONLY
    {
        set.empty();
    }
}

/// An inherited set is used, or one that a relative uses: neither's context wakes the other.
pub fn adopt(index: u32) {
    let Some(set) = set::get(index) else { return };
    if set.inherited()
        && let Some(word) = family::set_word(index)
    {
        word.store(set.id(), Release);
    }
    escape(index);
    // Others look at the kernel's set: what a wait tells of is to be gone from there, so that each asks it too.
    set.looked.store(0, Relaxed);
}

/// The set is about to be waited on, and [`Set::special`].
#[cold]
pub fn before_wait(set: &Set) {
    if set.outer() {
        look_into();
    }
    if set.foreign() {
        adopt(set.index());
    }
}

/// A set with others in it is about to be looked at, or to get one. The kernel looks whether these have something: a doorbell
/// is not to ring for what was taken by a call that does not know of sets, and our tags are not to be news.
pub fn look_into() {
    for inner in set::live().filter(|inner| inner.rings() && inner.foreign()) {
        settle_bell(inner);
        if !inner.quiet() && !inner.any_hot(|reg| reg.report(false) != 0) {
            tells(inner.index());
        }
    }
}

/// The set goes to a process that does not know our tags.
pub fn passed(index: u32) {
    escape(index);
    if let Some(set) = set::get(index) {
        set.foreign.store(PASSED, Release);
        set.surrender(|_| true);
        set.given.store(1, Release);
        set.remove_bell();
    }
}

/// A descriptor has come over a socket. True: it is a set that this process has, and has passed on.
pub fn returned(fd: c_int) -> bool {
    let passed = |set: &&Set| set.foreign.load(Relaxed) == PASSED;
    let Some(set) = set::live()
        .filter(passed)
        .find(|set| os::same_file(fd, set.epfd()))
    else {
        return false;
    };
    set::duplicated(set.index(), fd);
    true
}

/// A program is about to be started, which finds the sets without close-on-exec.
pub fn before_program() {
    for set in set::live().filter(|set| !set.inherited()) {
        let flags = os::fcntl(set.epfd(), libc::F_GETFD, 0);
        if !flags.is_ok_and(|flags| flags as c_int & libc::FD_CLOEXEC != 0) {
            set.surrender(off_ring);
            set.given.store(1, Release);
        }
    }
}

fn off_ring(sock: Sock) -> bool {
    !sock.on_ring()
}

/// From here on the process makes no system call but the program's own.
pub fn surrender() {
    set::live()
        .filter(|set| !set.inherited())
        .for_each(|set| set.surrender(off_ring));
}

/// A connection goes back to TCP because a set could not see its ring.
pub fn let_go(sock: Sock) {
    let left = revert::leave(sock, reason::EPOLL);
    // Without an answer of the peer: what it still sends comes over TCP when the own gate is shut.
    let by_tcp = || {
        let shut = sock
            .slot()
            .is_none_or(|slot| slot.gate(sock.role().peer()).state() == GateState::Shut);
        shut && !sock.rx_ring() && rx::available(&sock) == 0
    };
    if left || by_tcp() {
        convert::restore(sock.conn);
    } else {
        shown::all(sock.conn);
    }
}

impl Set {
    /// Takes what need not be ours out of the kernel's set.
    fn empty(&self) {
        let Some(view) = self.view() else { return };
        let mut members = false;
        for sock in fds::socks(0, c_int::MAX) {
            let held = view.table.lists.lock();
            for reg in view.table.of(sock.conn).filter(|reg| self.has(reg)) {
                if reg.state.load(Relaxed) == state::DORMANT {
                    dormant::bury(view.table, sock.conn, reg);
                } else if reg.told_here() {
                    members = true;
                    self.count_in(reg, sock.conn);
                } else {
                    // By a relative.
                    self.dropped(reg);
                }
            }
            view.table.lists.unlock(held);
        }
        for conn in afar::all() {
            let held = view.table.lists.lock();
            for reg in view.table.of(conn) {
                if self.has(reg) && matches!(reg.state.load(Relaxed), state::OURS | state::SHOWN) {
                    self.count_in(reg, conn);
                }
            }
            view.table.lists.unlock(held);
        }
        if members {
            revert::unread_first(|sock| self.counts(view.table, sock.conn), let_go);
        }
        // While a ring has to be drained first, the doorbell tells of it.
        if !self.rings() {
            self.remove_bell();
        }
    }

    fn remove_bell(&self) {
        let bell = self.bell.load(Acquire);
        if bell >= 0 {
            let mut none = libc::epoll_event { events: 0, u64: 0 };
            let _ = os::epoll_ctl(self.epfd(), libc::EPOLL_CTL_DEL, bell, &mut none);
        }
    }

    /// Whether a registration of the connection is ours.
    fn counts(&self, table: &'static Table, conn: &Conn) -> bool {
        let held = table.lists.lock();
        let found = table.of(conn).any(|reg| self.has(reg) && reg.told_here());
        table.lists.unlock(held);
        found
    }

    /// Counts a registration as converted that a relative may have converted. The caller holds the lists.
    pub fn count_in(&self, reg: &Reg, conn: &Conn) {
        if self.active.prepare()
            && self.heat(reg, conn)
            && let Some(mine) = self.mine(reg)
            && mine.counted.swap(1, Relaxed) == 0
        {
            self.count.fetch_add(1, AcqRel);
        }
    }

    /// All that the kernel has of those connections is the program's own again.
    fn surrender(&self, which: impl Fn(Sock) -> bool) {
        let Some(table) = self.known() else { return };
        for sock in fds::socks(0, c_int::MAX).filter(|sock| reg::any(sock.conn) && which(*sock)) {
            let held = table.lists.lock();
            for reg in table.of(sock.conn).filter(|reg| self.has(reg)) {
                shown::surrender(table, self, sock.conn, reg);
            }
            table.lists.unlock(held);
        }
    }

    /// Silences the doorbell, which may be the parent's.
    pub fn hush(&self) {
        let bell = self.bell.load(Acquire);
        if let Some(ctx) = self.ctx() {
            ctx.drain();
        } else if bell >= 0 {
            os::silence(bell);
        }
    }
}
