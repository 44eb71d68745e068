//! A set: its descriptor numbers, its doorbell, and how its registrations come and go.

use super::active::Active;
use super::reg::{self, LISTS, Reg};
use super::{convert, dormant};
use crate::conn::ready::IN;
use crate::conn::{Conn, Sock, kept, revert};
use crate::ctx::{self, Ctx};
use crate::{clock, family, fds, os, ownfd};
use protocol::reason;
use protocol::shm::pair::GateState;
use std::ffi::c_int;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::*};

pub const MAX: usize = 4096;

/// Values of [`Set::foreign`]: inherited over a fork and not used yet; passed on, watched by another
/// set, or used by several processes.
const INHERITED: u32 = 1;
const KERNEL_ONLY: u32 = 2;

/// Registrations of a set that are converted at a time.
const CURIOUS: usize = 8;

pub struct Set {
    /// Descriptors of this process for it; 0: entry free.
    refs: AtomicU32,
    epfd: AtomicI32,
    /// Not zero: only the kernel sees all of it.
    foreign: AtomicU32,
    /// Names the set in the family.
    id: AtomicU32,
    /// Context number + 1, and its doorbell.
    ctx: AtomicU32,
    bell: AtomicI32,
    /// Converted registrations.
    count: AtomicU32,
    /// Those of them that each wait looks at.
    pub active: Active,
    /// Where the next look starts, so that none of the ready ones starves.
    pub turn: AtomicU32,
    /// Outputs filled since the last look at the kernel's set.
    pub filled: AtomicU32,
    /// Counts the waits.
    pub round: AtomicU32,
    /// Counts the registrations that have changed hands between the kernel and us.
    pub handed: AtomicU32,
    /// Clock of the last look at the kernel's set.
    pub looked: AtomicU64,
    /// Clock before the last wait that brought all that the kernel had to tell.
    pub drained: AtomicU64,
    /// Edge-triggered registrations, index + 1, that are about to be converted: after each such wait
    /// it is noted how much they have been told of.
    curious: [AtomicU32; CURIOUS],
    pub spin: AtomicU32,
    /// Spins that have hit and are not counted in the totals yet; approximate when threads share the set.
    pub hits: AtomicU64,
    /// Its rings have had something since it slept last: only then is it worth a spin.
    pub lively: AtomicU32,
}

static SETS: [Set; MAX] = [const {
    Set {
        refs: AtomicU32::new(0),
        epfd: AtomicI32::new(-1),
        foreign: AtomicU32::new(0),
        id: AtomicU32::new(0),
        ctx: AtomicU32::new(0),
        bell: AtomicI32::new(-1),
        count: AtomicU32::new(0),
        active: Active::new(),
        turn: AtomicU32::new(0),
        filled: AtomicU32::new(0),
        round: AtomicU32::new(1),
        handed: AtomicU32::new(0),
        looked: AtomicU64::new(0),
        drained: AtomicU64::new(0),
        curious: [const { AtomicU32::new(0) }; CURIOUS],
        spin: AtomicU32::new(0),
        hits: AtomicU64::new(0),
        lively: AtomicU32::new(0),
    }
}; MAX];

/// One more than the highest place that ever was in use.
static HIGH: AtomicU32 = AtomicU32::new(0);

/// Upper half of the tags of this process; told apart from the program's data by chance of 2^-32
/// and by the state of the registration.
static SECRET: AtomicU32 = AtomicU32::new(0);
const BELL: u32 = u32::MAX;

fn secret() -> u32 {
    match SECRET.load(Relaxed) {
        0 => {
            let drawn = (clock::ticks() as u32).wrapping_mul(0x9e37_79b1) | 1;
            let _ = SECRET.compare_exchange(0, drawn, Relaxed, Relaxed);
            SECRET.load(Relaxed)
        }
        n => n,
    }
}

/// Before a fork: the child is to know tags that its parent puts into a set of both.
pub fn forking() {
    secret();
}

/// Width of a registration's number in a tag; its generation is above. The highest generation is
/// left to [`BELL`].
const INDEX_BITS: u32 = 17;
const GENERATIONS: u32 = (1 << (32 - INDEX_BITS)) - 1;

fn place(reg: &Reg) -> u32 {
    (reg.generation.load(Relaxed) % GENERATIONS) << INDEX_BITS | reg.index()
}

pub fn tag(reg: &Reg) -> u64 {
    u64::from(secret()) << 32 | u64::from(place(reg))
}

fn bell_tag() -> u64 {
    u64::from(secret()) << 32 | u64::from(BELL)
}

/// What a kernel event of a set means.
pub enum Tagged {
    Program,
    Bell,
    Reg(&'static Reg),
    /// Of a registration that is gone.
    Stale,
}

pub fn read_tag(data: u64) -> Tagged {
    if (data >> 32) as u32 != SECRET.load(Relaxed) || data >> 32 == 0 {
        return Tagged::Program;
    }
    match data as u32 {
        BELL => Tagged::Bell,
        low => reg::get(low & ((1 << INDEX_BITS) - 1))
            .filter(|reg| place(reg) == low && reg.converted())
            .map_or(Tagged::Stale, Tagged::Reg),
    }
}

pub fn get(index: u32) -> Option<&'static Set> {
    SETS.get(index as usize)
}

/// The program has made an epoll descriptor.
pub fn create(epfd: c_int) {
    if epfd < 0 {
        return;
    }
    for (index, set) in SETS.iter().enumerate() {
        if set.refs.compare_exchange(0, 1, AcqRel, Relaxed).is_ok() {
            HIGH.fetch_max(index as u32 + 1, Relaxed);
            set.epfd.store(epfd, Relaxed);
            set.foreign.store(0, Relaxed);
            set.id.store(clock::ticks() as u32 | 1, Relaxed);
            set.drained.store(0, Relaxed);
            set.count.store(0, Relaxed);
            set.turn.store(0, Relaxed);
            set.spin.store(0, Relaxed);
            if !fds::put_set(epfd, index as u32) {
                set.refs.store(0, Release);
            }
            return;
        }
    }
}

/// Another descriptor of this process for the set.
pub fn duplicated(index: u32, fd: c_int) {
    if let Some(set) = get(index)
        && fds::put_set(fd, index)
    {
        set.refs.fetch_add(1, AcqRel);
    }
}

/// A descriptor of the set is about to be closed.
pub fn set_closed(index: u32, fd: c_int) {
    let Some(set) = get(index) else { return };
    fds::clear(fd);
    if set.refs.load(Acquire) > 1 {
        set.refs.fetch_sub(1, AcqRel);
        if set.epfd() == fd {
            let other = (0..fds::high())
                .find(|n| matches!(fds::meaning(*n), fds::Meaning::Set(i) if i == index));
            set.epfd.store(other.unwrap_or(-1), Relaxed);
        }
        return;
    }
    let held = LISTS.lock();
    let open = fds::socks(0, c_int::MAX).map(|sock| sock.conn);
    for conn in open.chain(kept::all()) {
        while let Some(reg) = reg::find_in(set, conn) {
            reg::remove(conn, reg);
        }
    }
    LISTS.unlock(held);
    let ctx = set.ctx.swap(0, AcqRel);
    let bell = set.bell.swap(-1, AcqRel);
    if ctx != 0 {
        Ctx {
            number: ctx - 1,
            bell,
        }
        .give_back();
    } else if bell >= 0 {
        ownfd::close(bell);
    }
    set.refs.store(0, Release);
}

/// In the child of a fork: the sets are the parent's as well. Only those that there were: a child pays for
/// each page that it looks at.
pub fn forked() {
    reg::forked();
    let sets = SETS.iter().take(HIGH.load(Relaxed) as usize);
    for set in sets.filter(|set| set.refs.load(Relaxed) != 0) {
        set.foreign.fetch_max(INHERITED, Relaxed);
        // The context is the parent's. The doorbell is kept: only with it can the kernel's set be
        // rid of it, should the child come to use the set.
        if let Some(number) = set.ctx.swap(0, Relaxed).checked_sub(1) {
            ctx::disown(number);
        }
    }
}

/// The set is to be watched or used where only the kernel sees it: its connections go back to TCP.
pub fn escape(index: u32) {
    if let Some(set) = get(index)
        && set.foreign.swap(KERNEL_ONLY, AcqRel) != KERNEL_ONLY
    {
        set.empty();
    }
}

/// An inherited set is used, or one that a relative uses: the kernel's set is the same for both, and
/// neither sees the other's registrations.
pub fn adopt(index: u32) {
    let Some(set) = get(index) else { return };
    if set.foreign.load(Acquire) == INHERITED
        && set.ctx_or_bell()
        && let Some(word) = family::set_word(index)
    {
        word.store(set.id.load(Relaxed), Release);
    }
    escape(index);
}

/// A connection goes back to TCP because a set could not see its ring.
pub fn let_go(sock: Sock) {
    let left = revert::leave(sock, reason::EPOLL);
    // Without an answer of the peer: what it still sends comes over TCP when the own gate is shut.
    let by_tcp = || {
        let shut = sock
            .slot()
            .is_none_or(|slot| slot.gate(sock.role().peer()).state() == GateState::Shut);
        shut && !sock.rx_ring()
    };
    if left || by_tcp() {
        convert::restore(sock.conn);
    }
}

impl Set {
    pub fn index(&self) -> u32 {
        ((self as *const Set as usize - SETS.as_ptr() as usize) / size_of::<Set>()) as u32
    }

    pub fn epfd(&self) -> c_int {
        self.epfd.load(Relaxed)
    }

    /// Whether it must be left to the kernel.
    pub fn foreign(&self) -> bool {
        self.foreign.load(Acquire) != 0 || self.ctx.load(Acquire) != 0 && self.used_elsewhere()
    }

    /// Whether it came over a fork.
    pub fn inherited(&self) -> bool {
        self.foreign.load(Acquire) == INHERITED
    }

    /// Whether it has converted registrations.
    pub fn rings(&self) -> bool {
        self.count.load(Acquire) != 0
    }

    /// Whether a child has come to use it.
    fn used_elsewhere(&self) -> bool {
        family::set_word(self.index())
            .is_some_and(|word| word.load(Acquire) == self.id.load(Relaxed))
    }

    /// Whether a registration with these events can be ours.
    pub fn converts(&self, events: u32) -> bool {
        events & libc::EPOLLEXCLUSIVE as u32 == 0 && !self.foreign()
    }

    /// Whether the kernel's set has or had a doorbell of ours.
    fn ctx_or_bell(&self) -> bool {
        self.ctx.load(Acquire) != 0 || self.bell.load(Acquire) >= 0
    }

    /// Takes what is ours out of the kernel's set.
    fn empty(&self) {
        if self.rings() {
            for sock in fds::socks(0, c_int::MAX) {
                dormant::leaving(self, sock.conn);
                let held = LISTS.lock();
                let member = self.heat_all(sock.conn);
                LISTS.unlock(held);
                if member {
                    let_go(sock);
                }
            }
        }
        let bell = self.bell.load(Acquire);
        // While a ring has to be drained first, the doorbell tells of it.
        if !self.rings() && bell >= 0 {
            let mut none = libc::epoll_event { events: 0, u64: 0 };
            let _ = os::epoll_ctl(self.epfd(), libc::EPOLL_CTL_DEL, bell, &mut none);
        }
    }

    /// Asks for a note of what a registration is told of. False: there are too many. The caller holds
    /// [`LISTS`].
    pub fn curious(&self, reg: &Reg) -> bool {
        let me = reg.index() + 1;
        let known = self.curious.iter().any(|at| at.load(Relaxed) == me);
        let free = || self.curious.iter().find(|at| at.load(Relaxed) == 0);
        known || free().map(|at| at.store(me, Relaxed)).is_some()
    }

    /// A wait, begun at `ticks`, has brought all that the kernel had to tell.
    pub fn drained(&self, ticks: u64) {
        self.drained.store(ticks, Relaxed);
        if self.curious.iter().all(|at| at.load(Relaxed) == 0) {
            return;
        }
        let held = LISTS.lock();
        for at in &self.curious {
            let Some(reg) = reg::get(at.load(Relaxed).wrapping_sub(1)) else {
                continue;
            };
            let waits = reg.state.load(Relaxed) == reg::state::KERNEL
                && reg.set.load(Relaxed) == self.index();
            match reg.sock().filter(|_| waits) {
                Some(sock) => {
                    reg.noted.store(reg.mark(sock, IN), Relaxed);
                }
                None => at.store(0, Relaxed),
            }
        }
        LISTS.unlock(held);
    }

    /// The set's context, once a registration is converted.
    pub fn ctx(&self) -> Option<Ctx> {
        let number = self.ctx.load(Acquire).checked_sub(1)?;
        Some(Ctx {
            number,
            bell: self.bell.load(Acquire),
        })
    }

    /// Makes sure that the set can be rung. The caller holds [`LISTS`].
    fn bell(&self) -> Option<Ctx> {
        if let Some(ctx) = self.ctx() {
            return Some(ctx);
        }
        let ctx = ctx::take()?;
        ctx.drain();
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: bell_tag(),
        };
        if os::epoll_ctl(self.epfd(), libc::EPOLL_CTL_ADD, ctx.bell, &mut event).is_err() {
            ctx.give_back();
            return None;
        }
        self.bell.store(ctx.bell, Release);
        self.ctx.store(ctx.number + 1, Release);
        Some(ctx)
    }

    /// Takes in a registration that is being converted. The caller holds [`LISTS`].
    pub fn take_in(&self, reg: &Reg, conn: &Conn) -> bool {
        self.handed.fetch_add(1, AcqRel);
        if self.foreign() {
            return false;
        }
        let Some(ctx) = self.bell() else { return false };
        if !self.active.prepare() || !self.heat(reg, conn) {
            return false;
        }
        // Whoever waits on a set without rings went to sleep before it had a bell.
        if self.count.fetch_add(1, AcqRel) == 0 || ctx.word().sleepers() {
            ctx.ring();
        }
        true
    }

    /// A registration is gone or is the program's again. The caller holds [`LISTS`].
    pub fn dropped(&self, reg: &Reg, conn: &Conn, converted: bool) {
        if converted {
            self.handed.fetch_add(1, AcqRel);
            self.unlist(reg, conn);
            self.count.fetch_sub(1, AcqRel);
        }
    }
}
