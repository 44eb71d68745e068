//! Registrations: one descriptor of a connection in one set.

use super::set::{self, Set};
use super::table::{self, Table};
use super::{afar, report, wait};
use crate::conn::{Conn, Sock, kept};
use crate::{clock, ctx, family, fds, os};
use protocol::shm::announced::Announced;
use protocol::shm::life::Missed;
use std::ffi::c_int;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::*};

/// Two names of one thing.
const ROOM: u32 = (libc::EPOLLOUT | libc::EPOLLWRNORM) as u32;

/// Where a registration stands.
pub mod state {
    pub const FREE: u32 = 0;
    /// As the program made it.
    pub const KERNEL: u32 = 1;
    /// Converted: tagged and edge-triggered in the kernel.
    pub const OURS: u32 = 2;
    /// Converted, and deleted by the program: see [`super::super::dormant`].
    pub const DORMANT: u32 = 3;
    /// As the program made it, but for our tag: what has been told is not to be told again, see
    /// [`super::super::convert`].
    pub const TAGGED: u32 = 4;
    /// As the program made it; what lies on the ring is told of beside, see [`super::super::shown`].
    pub const SHOWN: u32 = 5;
}

/// What all know who have the set, see [`table`].
#[derive(Debug)]
pub struct Reg {
    pub state: AtomicU32,
    /// Its place in its table.
    pub number: AtomicU32,
    /// Counts the uses of this entry; the tag carries its low bits.
    pub generation: AtomicU32,
    /// Place and name of the set.
    pub set: AtomicU32,
    pub set_id: AtomicU32,
    pub fd: AtomicI32,
    /// Another descriptor of the connection, once that one is closed.
    via: AtomicI32,
    pub conn: AtomicU32,
    pub conn_generation: AtomicU32,
    /// What the program asked for.
    pub events: AtomicU32,
    pub data: AtomicU64,
    /// One-shot: not to be reported until re-armed.
    pub disarmed: AtomicU32,
    /// What the kernel's set holds, while converted.
    pub installed: AtomicU32,
    /// What the kernel has told of, and may still hold.
    pub announced: Announced,
    /// Counts its reports for our tag.
    pub heard: AtomicU32,
    /// Which directions were on a ring at the last look: bits 0 and 1.
    pub carriers: AtomicU32,
    /// Ends of the stream that the kernel has told of.
    pub gone: AtomicU32,
    /// Edge-triggered: mark of what was reported last.
    pub reported: AtomicU64,
    /// Edge-triggered, before it is converted: mark of the last wait that brought all there was; 0: not
    /// known.
    pub noted: AtomicU64,
    /// Attempts to convert it for which that was missing.
    pub tries: AtomicU32,
    /// Edge-triggered: stamp of the last look that found nothing to report.
    pub quiet: AtomicU64,
    /// Clock of the program's last change.
    pub armed: AtomicU64,
    /// Next registration of the same connection, index + 1.
    pub next: AtomicU32,
}

/// Whether the connection is in a set.
#[inline]
pub fn any(conn: &Conn) -> bool {
    table::knowing(conn).next().is_some()
}

/// Tries of a caller that may hold another table: relatives who share two could wait for each other. A second.
const PATIENCE: u32 = 20_000;

/// A table was passed over, and what was to be done there was not.
static MISSED: Missed = Missed::nothing();

/// Calls `f` with each table that has registrations of a connection, its lists held. False: a relative has held one for
/// so long that it was passed over (it waits for another one of ours, or is stopped). Then all is looked at anew by
/// whoever waits next.
pub fn each(conn: &Conn, mut f: impl FnMut(&'static Table)) -> bool {
    let mut all = true;
    for table in table::knowing(conn) {
        if let Some(held) = table.lists.lock_within(PATIENCE) {
            f(table);
            table.lists.unlock(held);
        } else {
            all = false;
        }
    }
    if !all {
        MISSED.note();
        ctx::ring_sleepers();
    }
    all
}

/// In a wait: makes up for what [`each`] has passed over, if anything. The kernel is asked about every registration.
#[inline]
pub fn make_up() {
    if MISSED.take() {
        set::live().for_each(Set::look_at_all);
    }
}

/// Whether there is something to make up for.
pub fn missed() -> bool {
    MISSED.any()
}

impl Reg {
    pub fn number(&self) -> u32 {
        self.number.load(Relaxed)
    }

    #[inline]
    fn ours(&self, fd: c_int) -> Option<Sock> {
        let sock = fds::sock(fd)?;
        let same = sock.index() == self.conn.load(Relaxed)
            && sock.generation.load(Relaxed) == self.conn_generation.load(Relaxed);
        same.then_some(sock)
    }

    /// The connection; by another descriptor when the registered one, which it outlives, is closed.
    pub fn sock(&self) -> Option<Sock> {
        let known = [&self.fd, &self.via];
        if let Some(sock) = known.iter().find_map(|fd| self.ours(fd.load(Relaxed))) {
            return Some(sock);
        }
        let conn = family::conn(self.conn.load(Relaxed))?;
        if conn.generation.load(Relaxed) != self.conn_generation.load(Relaxed) {
            return None;
        }
        let Some(fd) = fds::any_fd(conn) else {
            // A call that waits keeps it.
            return kept::find(conn);
        };
        let sock = self.ours(fd)?;
        self.via.store(sock.fd, Relaxed);
        Some(sock)
    }

    /// Whether its connection is gone, which the kernel has told nobody.
    pub fn over(&self) -> bool {
        let generation = self.conn_generation.load(Relaxed);
        family::conn(self.conn.load(Relaxed))
            .is_none_or(|conn| conn.generation.load(Relaxed) != generation)
    }

    /// Whether the kernel's set holds our tag for it.
    pub fn tagged(&self) -> bool {
        self.converted() || self.state.load(Acquire) == state::TAGGED
    }

    pub fn converted(&self) -> bool {
        matches!(self.state.load(Acquire), state::OURS | state::DORMANT)
    }

    /// Whether this process may have something to report of it.
    pub fn told_here(&self) -> bool {
        self.converted() || self.state.load(Acquire) == state::SHOWN
    }

    #[inline]
    pub fn asked(&self) -> u32 {
        self.events.load(Relaxed)
    }

    /// What the kernel's set has to hold for a converted registration: only what TCP can tell.
    fn needed(&self, sock: Sock) -> u32 {
        let mut events = libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET;
        events |= self.asked() as c_int & libc::EPOLLPRI;
        if !sock.tx_ring() && self.asked() & ROOM != 0 {
            events |= libc::EPOLLOUT;
        }
        events as u32
    }

    /// Brings the kernel's registration up to date, if it lacks something.
    pub fn install(&self, sock: Sock) -> Result<(), i32> {
        let needed = self.needed(sock);
        if needed & !self.installed.load(Relaxed) == 0 {
            return Ok(());
        }
        self.put(libc::EPOLL_CTL_MOD, sock)
    }

    /// Enters the registration in the kernel's set as ours.
    pub fn put(&self, op: c_int, sock: Sock) -> Result<(), i32> {
        let needed = self.needed(sock);
        let event = libc::epoll_event {
            events: needed,
            u64: set::tag(self),
        };
        self.kernel_ctl(op, event)?;
        self.installed.store(needed, Relaxed);
        self.carriers.fetch_or(report::carriers(sock), Relaxed);
        // What holds already is asked at the next look.
        if !(sock.rx_ring() && sock.tx_ring()) {
            self.announced.note(libc::EPOLLIN as u32);
        }
        Ok(())
    }

    pub fn kernel_ctl(&self, op: c_int, mut event: libc::epoll_event) -> Result<(), i32> {
        let set = set::of(self).ok_or(libc::EBADF)?;
        let fd = self.fd.load(Relaxed);
        // The number may belong to somebody else by now, whom the kernel would change instead.
        self.ours(fd).ok_or(libc::EBADF)?;
        os::epoll_ctl(set.epfd(), op, fd, &mut event)
    }

    /// The program waits for space to send.
    pub fn wants_room(&self) -> bool {
        self.asked() & ROOM != 0 && self.disarmed.load(Relaxed) == 0
    }

    /// The kernel reported `events` for the tag of this registration.
    pub fn note(&self, events: u32) {
        self.heard.fetch_add(1, AcqRel);
        self.announced.note(events);
    }

    /// The program made or changed the registration.
    pub fn arm(&self, event: &libc::epoll_event) {
        self.events.store(event.events, Relaxed);
        self.data.store(event.u64, Relaxed);
        self.reported.store(0, Relaxed);
        self.noted.store(0, Relaxed);
        self.quiet.store(0, Relaxed);
        self.armed.store(clock::ticks(), Release);
        // What the kernel would say is asked, except where it can have nothing to say.
        let silent = self
            .sock()
            .is_some_and(|sock| sock.tx_ring() && sock.rx_ring());
        if !silent {
            self.announced.note(libc::EPOLLIN as u32);
        }
        self.disarmed.store(0, Release);
    }
}

/// Notes a registration that the kernel has taken. The caller holds the lists of the set.
pub fn add(set: &'static Set, sock: Sock, event: &libc::epoll_event) -> Option<&'static Reg> {
    let table = set.table()?;
    let reg = table.take()?;
    reg.generation.fetch_add(1, Relaxed);
    for word in [&reg.installed, &reg.gone, &reg.carriers, &reg.tries] {
        word.store(0, Relaxed);
    }
    reg.announced.reset();
    reg.set.store(set.index(), Relaxed);
    reg.set_id.store(set.id(), Relaxed);
    reg.via.store(-1, Relaxed);
    reg.fd.store(sock.fd, Relaxed);
    reg.conn.store(sock.index(), Relaxed);
    reg.conn_generation
        .store(sock.generation.load(Relaxed), Relaxed);
    reg.arm(event);
    table.link(sock.conn, reg);
    reg.state.store(state::KERNEL, Release);
    Some(reg)
}

/// The registration of `sock` in `set`. The caller holds the lists of the set.
pub fn find(set: &Set, sock: Sock) -> Option<&'static Reg> {
    let mut regs = set.known()?.of(sock.conn);
    regs.find(|reg| set.has(reg) && reg.fd.load(Relaxed) == sock.fd)
}

/// Takes a registration out of its lists. The caller holds those of its table.
pub fn remove(table: &'static Table, conn: &Conn, reg: &'static Reg) {
    table.unlink(conn, reg);
    reg.state.store(state::FREE, Release);
    if let Some(set) = set::of(reg) {
        set.dropped(reg);
    }
    table.give_back(reg);
}

/// The last descriptor of a connection in this process is about to go. When no other process holds it, the kernel
/// drops it from its sets.
pub fn forget(conn: &Conn) {
    let last = conn.holders.load(Acquire) <= 1;
    let mut polled = false;
    each(conn, |table| {
        for reg in table.of(conn) {
            polled |= set::of(reg).is_some_and(Set::foreign);
            match set::of(reg) {
                // The kernel goes on reporting it, under our tag.
                Some(_) if !last && reg.state.load(Relaxed) == state::TAGGED => {}
                Some(_) if !last && afar::watches(conn) => {}
                Some(set) if !last && set.spread() => set.dropped(reg),
                None if !last => {}
                _ => remove(table, conn, reg),
            }
        }
    });
    if polled {
        set::live().for_each(wait::settle_bell);
    }
}

/// Descriptor and events, for those who wait.
#[inline]
pub fn output(reg: &Reg, events: u32) -> libc::epoll_event {
    libc::epoll_event {
        events,
        u64: reg.data.load(Relaxed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    /// A table that somebody else holds for long is passed over, and made up for before the next wait.
    #[test]
    fn passed_over_and_made_up_for() {
        let made = || -> Option<()> {
            let epfd = crate::calls::epoll::create1(libc::EPOLL_CLOEXEC);
            let set = set::live().find(|set| set.epfd() == epfd)?;
            assert!(family::ready());
            let sock = Sock {
                fd: -1,
                conn: family::allocate()?,
            };
            let event = libc::epoll_event {
                events: libc::EPOLLIN as u32,
                u64: 1,
            };
            let table = set.table()?;
            let held = table.lists.lock();
            let reg = add(set, sock, &event)?;
            let mine = set.enter(reg)?;
            assert!(set.active.prepare());
            mine.counted.store(1, Relaxed);
            reg.state.store(state::OURS, Relaxed);
            reg.announced.over(reg.announced.seen());
            table.lists.unlock(held);
            let (taken, wait_taken) = channel();
            let (over, wait_over) = channel();
            let holder = std::thread::spawn(move || {
                let held = table.lists.lock();
                let _ = taken.send(());
                let _ = wait_over.recv();
                table.lists.unlock(held);
            });
            wait_taken.recv().ok()?;
            assert!(!each(sock.conn, |_| unreachable!()));
            over.send(()).ok()?;
            holder.join().ok()?;
            assert!(!reg.announced.seen().anything() && mine.place.load(Relaxed) == 0);
            make_up();
            assert!(reg.announced.seen().anything() && mine.place.load(Relaxed) != 0);
            let held = table.lists.lock();
            remove(table, sock.conn, reg);
            table.lists.unlock(held);
            assert_eq!(mine.place.load(Relaxed), 0);
            let mut looked = false;
            assert!(each(sock.conn, |_| looked = true) && !looked);
            Some(())
        };
        assert_eq!(made(), Some(()));
    }
}
