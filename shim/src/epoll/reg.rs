//! Registrations: one descriptor of a connection in one set.

use super::report;
use super::set::{self, Set};
use crate::conn::{Conn, Sock, kept};
use crate::lock::Lock;
use crate::{clock, family, fds, os};
use protocol::stats::ROWS;
use std::ffi::c_int;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering::*};

pub const MAX: usize = 1 << 17;

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
}

#[derive(Debug)]
pub struct Reg {
    pub state: AtomicU32,
    /// Counts the uses of this entry; the tag carries its low bits.
    pub generation: AtomicU32,
    pub set: AtomicU32,
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
    /// Events that the kernel gave and that may still hold.
    pub kernel: AtomicU32,
    /// Which directions were on a ring at the last look: bits 0 and 1.
    pub carriers: AtomicU32,
    /// Counts the kernel's edges, and those for urgent data.
    pub edges: AtomicU32,
    pub urgent: AtomicU32,
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
    /// What a look that found nothing went by: while it is the same, so is the answer.
    pub calm: AtomicU64,
    /// The wait that put it last.
    pub round: AtomicU32,
    /// Place on the set's active list + 1; 0: cold.
    pub place: AtomicU32,
    /// Looks in vain since something became of it.
    pub vain: AtomicU32,
    /// The set's context is in the list of the connection's watchers.
    pub watched: AtomicU32,
    /// Clock of the program's last change.
    pub armed: AtomicU64,
    /// Next registration of the same connection, index + 1.
    pub next: AtomicU32,
}

/// `MAX` registrations, all zeros at first; null until a program makes one. Not a static array: it takes
/// more address space than all the rest, and most programs have no set.
static REGS: AtomicPtr<Reg> = AtomicPtr::new(std::ptr::null_mut());
/// First registration of connection N, index + 1.
static HEADS: [AtomicU32; ROWS] = [const { AtomicU32::new(0) }; ROWS];
/// Free entries, linked by `next`; entries from `FRESH` on were never used.
static FREE: AtomicU32 = AtomicU32::new(0);
static FRESH: AtomicU32 = AtomicU32::new(0);
/// Held while lists change. Never while anything is waited for.
pub static LISTS: Lock = Lock::new();

#[inline]
pub fn get(index: u32) -> Option<&'static Reg> {
    let regs = REGS.load(Acquire);
    if regs.is_null() || index as usize >= MAX {
        return None;
    }
    // SAFETY: `map` has put room for MAX there, which stays; zeros are a Reg, and all of it is atomic.
    unsafe { regs.add(index as usize).as_ref() }
}

/// Makes the table, once. The caller holds [`LISTS`].
pub(super) fn map() -> Option<()> {
    if REGS.load(Relaxed).is_null() {
        let at = os::map_anonymous(MAX * size_of::<Reg>()).ok()?;
        REGS.store(at.cast(), Release);
    }
    Some(())
}

fn head(conn: &Conn) -> &'static AtomicU32 {
    static NONE: AtomicU32 = AtomicU32::new(0);
    HEADS.get(conn.index() as usize).unwrap_or(&NONE)
}

/// Whether the connection is in a set.
pub fn any(conn: &Conn) -> bool {
    head(conn).load(Acquire) != 0
}

/// Registrations of a connection. The caller holds [`LISTS`].
pub fn of(conn: &Conn) -> impl Iterator<Item = &'static Reg> {
    let mut at = head(conn).load(Acquire);
    std::iter::from_fn(move || {
        let reg = get(at.checked_sub(1)?)?;
        at = reg.next.load(Relaxed);
        Some(reg)
    })
}

impl Reg {
    pub fn index(&self) -> u32 {
        ((self as *const Reg as usize - REGS.load(Relaxed) as usize) / size_of::<Reg>()) as u32
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

    pub fn converted(&self) -> bool {
        matches!(self.state.load(Acquire), state::OURS | state::DORMANT)
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
            self.kernel.fetch_or(libc::EPOLLIN as u32, AcqRel);
        }
        Ok(())
    }

    pub fn kernel_ctl(&self, op: c_int, mut event: libc::epoll_event) -> Result<(), i32> {
        let set = set::get(self.set.load(Relaxed)).ok_or(libc::EBADF)?;
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
        if events & libc::EPOLLPRI as u32 != 0 {
            self.urgent.fetch_add(1, AcqRel);
        }
        // In this order: see `look`.
        self.edges.fetch_add(1, AcqRel);
        self.kernel.fetch_or(events, AcqRel);
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
            self.kernel.fetch_or(libc::EPOLLIN as u32, AcqRel);
        }
        self.disarmed.store(0, Release);
    }
}

/// Notes a registration that the kernel has taken. The caller holds [`LISTS`].
pub fn add(set: &'static Set, sock: Sock, event: &libc::epoll_event) -> Option<&'static Reg> {
    map()?;
    let at = FREE.load(Relaxed);
    let reg = match at.checked_sub(1).and_then(get) {
        Some(reg) => {
            FREE.store(reg.next.load(Relaxed), Relaxed);
            reg
        }
        None => get(FRESH.fetch_add(1, Relaxed))?,
    };
    reg.generation.fetch_add(1, Relaxed);
    for word in [
        &reg.installed,
        &reg.kernel,
        &reg.urgent,
        &reg.gone,
        &reg.round,
        &reg.carriers,
        &reg.tries,
    ] {
        word.store(0, Relaxed);
    }
    reg.set.store(set.index(), Relaxed);
    reg.via.store(-1, Relaxed);
    reg.fd.store(sock.fd, Relaxed);
    reg.conn.store(sock.index(), Relaxed);
    reg.conn_generation
        .store(sock.generation.load(Relaxed), Relaxed);
    reg.arm(event);
    let head = head(sock.conn);
    reg.next.store(head.load(Relaxed), Relaxed);
    head.store(reg.index() + 1, Release);
    reg.state.store(state::KERNEL, Release);
    Some(reg)
}

/// The registration of `sock` in `set`. The caller holds [`LISTS`].
pub fn find(set: &Set, sock: Sock) -> Option<&'static Reg> {
    of(sock.conn)
        .find(|reg| reg.set.load(Relaxed) == set.index() && reg.fd.load(Relaxed) == sock.fd)
}

/// Any registration of a connection in `set`. The caller holds [`LISTS`].
pub fn find_in(set: &Set, conn: &Conn) -> Option<&'static Reg> {
    of(conn).find(|reg| reg.set.load(Relaxed) == set.index())
}

/// Takes a registration out of its lists. The caller holds [`LISTS`].
pub fn remove(conn: &Conn, reg: &'static Reg) {
    let mut link = head(conn);
    while let Some(at) = get(link.load(Relaxed).wrapping_sub(1)) {
        if std::ptr::eq(at, reg) {
            link.store(reg.next.load(Relaxed), Release);
            break;
        }
        link = &at.next;
    }
    let converted = reg.converted();
    reg.state.store(state::FREE, Release);
    if let Some(set) = set::get(reg.set.load(Relaxed)) {
        set.dropped(reg, conn, converted);
    }
    reg.next.store(FREE.load(Relaxed), Relaxed);
    FREE.store(reg.index() + 1, Relaxed);
}

/// The last descriptor of a connection in this process is gone; the kernel drops it from its sets.
pub fn forget(conn: &Conn) {
    if !any(conn) {
        return;
    }
    let held = LISTS.lock();
    while let Some(reg) = of(conn).next() {
        remove(conn, reg);
    }
    LISTS.unlock(held);
}

/// Descriptor and events, for those who wait.
#[inline]
pub fn output(reg: &Reg, events: u32) -> libc::epoll_event {
    libc::epoll_event {
        events,
        u64: reg.data.load(Relaxed),
    }
}

/// In the child of a fork: nobody else runs.
pub fn forked() {
    LISTS.reset();
}
