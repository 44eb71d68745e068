//! A set: its descriptor numbers, its doorbell, and how its registrations come and go.

use super::active::Active;
use super::reg::{self, Reg};
use super::table::{self, Table, View};
use crate::config::{self, Policy};
use crate::conn::ready::IN;
use crate::conn::{Conn, kept};
use crate::ctx::{self, Ctx};
use crate::{clock, family, fds, lock, os, ownfd};
use std::ffi::c_int;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::*};

pub const MAX: usize = 4096;

/// Values of [`Set::foreign`]: inherited over a fork and not used yet; watched by poll or another set, or used by
/// several processes; passed on to a process that does not know our tags.
pub const INHERITED: u32 = 1;
pub const KERNEL_ONLY: u32 = 2;
pub const PASSED: u32 = 3;

/// Bits of [`Set::marks`]: it has gone over a fork; another set was entered in it.
const SPREAD: u32 = 1;
const OUTER: u32 = 2;

/// Registrations of a set that are converted at a time.
const CURIOUS: usize = 8;

pub struct Set {
    /// Descriptors of this process for it; 0: entry free.
    refs: AtomicU32,
    epfd: AtomicI32,
    /// Not zero: only the kernel sees all of it.
    pub foreign: AtomicU32,
    /// [`SPREAD`], [`OUTER`].
    marks: AtomicU32,
    /// Not zero: programs may have it that do not know our tags.
    pub given: AtomicU32,
    /// Names the set in the family.
    id: AtomicU32,
    /// Slot of the table that has its registrations, + 1.
    home: AtomicU32,
    /// Context number + 1, and its doorbell.
    ctx: AtomicU32,
    pub bell: AtomicI32,
    /// Converted registrations.
    pub count: AtomicU32,
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
    /// Not zero: a registration of the program's own fires once, and the kernel does not say for what when it has.
    pub once: AtomicU32,
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
        marks: AtomicU32::new(0),
        given: AtomicU32::new(0),
        id: AtomicU32::new(0),
        home: AtomicU32::new(0),
        ctx: AtomicU32::new(0),
        bell: AtomicI32::new(-1),
        count: AtomicU32::new(0),
        active: Active::new(),
        turn: AtomicU32::new(0),
        filled: AtomicU32::new(0),
        round: AtomicU32::new(1),
        handed: AtomicU32::new(0),
        once: AtomicU32::new(0),
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

/// Before a fork: the child is to know what its parent will put into a set of both.
pub fn forking() {
    secret();
    if family::table().is_some() {
        for set in live() {
            set.marks.fetch_or(SPREAD, Relaxed);
            set.table();
        }
    }
}

/// Width of a registration's number in a tag; its generation is above. The highest generation is
/// left to [`BELL`].
const INDEX_BITS: u32 = 17;
const GENERATIONS: u32 = (1 << (32 - INDEX_BITS)) - 1;

fn place(reg: &Reg) -> u32 {
    (reg.generation.load(Relaxed) % GENERATIONS) << INDEX_BITS | reg.number()
}

pub fn tag(reg: &Reg) -> u64 {
    u64::from(secret()) << 32 | u64::from(place(reg))
}

fn bell_tag() -> u64 {
    u64::from(secret()) << 32 | u64::from(BELL)
}

/// Whether an event's data may be a tag of this process.
#[inline]
pub fn may_be_tag(data: u64) -> bool {
    (data >> 32) as u32 == SECRET.load(Relaxed) && data >> 32 != 0
}

/// What a kernel event of a set means.
pub enum Tagged {
    Program,
    Bell,
    Reg(&'static Reg),
    /// Of a registration that is gone.
    Stale,
}

pub fn get(index: u32) -> Option<&'static Set> {
    SETS.get(index as usize)
}

/// The set of a registration, if this process has it.
pub fn of(reg: &Reg) -> Option<&'static Set> {
    get(reg.set.load(Relaxed)).filter(|set| set.has(reg) && set.refs.load(Relaxed) != 0)
}

/// The sets of this process.
pub fn live() -> impl Iterator<Item = &'static Set> {
    let sets = SETS.iter().take(HIGH.load(Relaxed) as usize);
    sets.filter(|set| set.refs.load(Relaxed) != 0)
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
            set.marks.store(0, Relaxed);
            set.given.store(0, Relaxed);
            set.home.store(0, Relaxed);
            set.once.store(0, Relaxed);
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
    if let Some(table) = set.known() {
        let open = fds::socks(0, c_int::MAX).map(|sock| sock.conn);
        // Relatives may go on with what is in it.
        let kept = set.spread();
        for conn in open.chain(kept::all()) {
            let held = table.lists.lock();
            for reg in table.of(conn).filter(|reg| set.has(reg)) {
                match kept {
                    true => set.dropped(reg),
                    false => reg::remove(table, conn, reg),
                }
            }
            table.lists.unlock(held);
        }
    }
    if let Some(view) = set.view() {
        let held = view.table.lists.lock();
        set.clear_list(view);
        view.table.lists.unlock(held);
    }
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
    let mut homes = 0;
    for set in live() {
        // What it has to tell of rings is found anew at its first use, also where the parent's use came behind a relative's.
        if set.foreign.load(Relaxed) != PASSED {
            set.foreign.store(INHERITED, Relaxed);
        }
        set.count.store(0, Relaxed);
        set.active.forked();
        if let Some(slot) = set.home.load(Relaxed).checked_sub(1) {
            homes |= 1 << slot;
        }
        // The context is the parent's. The doorbell is kept: only with it can the kernel's set be
        // rid of it, should the child come to use the set.
        if let Some(number) = set.ctx.swap(0, Relaxed).checked_sub(1) {
            ctx::disown(number);
        }
    }
    table::forked(homes);
}

impl Set {
    pub fn index(&self) -> u32 {
        ((self as *const Set as usize - SETS.as_ptr() as usize) / size_of::<Set>()) as u32
    }

    pub fn epfd(&self) -> c_int {
        self.epfd.load(Relaxed)
    }

    pub fn id(&self) -> u32 {
        self.id.load(Relaxed)
    }

    pub fn is_open(&self) -> bool {
        self.refs.load(Relaxed) != 0
    }

    /// Whether a registration is in it.
    pub fn has(&self, reg: &Reg) -> bool {
        reg.set.load(Relaxed) == self.index() && reg.set_id.load(Relaxed) == self.id()
    }

    /// Where its registrations are, and what this process has for itself of them.
    #[inline]
    pub fn view(&self) -> Option<View> {
        table::view(self.home.load(Acquire).wrapping_sub(1))
    }

    /// Where its registrations are, if there are any.
    pub fn known(&self) -> Option<&'static Table> {
        Some(self.view()?.table)
    }

    /// Where its registrations are to be.
    pub fn table(&self) -> Option<&'static Table> {
        if self.home.load(Acquire) == 0 {
            let own = table::own()? + 1;
            let _ = self.home.compare_exchange(0, own, AcqRel, Relaxed);
        }
        self.known()
    }

    pub fn read_tag(&self, data: u64) -> Tagged {
        if !may_be_tag(data) {
            return Tagged::Program;
        }
        match data as u32 {
            BELL => Tagged::Bell,
            low => self
                .view()
                .and_then(|view| Some(view.both(low & ((1 << INDEX_BITS) - 1))?.0))
                .filter(|reg| place(reg) == low && reg.tagged())
                .map_or(Tagged::Stale, Tagged::Reg),
        }
    }

    /// Whether it must be left to the kernel.
    pub fn foreign(&self) -> bool {
        self.foreign.load(Acquire) != 0 || self.spread() && self.used_elsewhere()
    }

    /// Whether it has gone over a fork.
    pub fn spread(&self) -> bool {
        self.marks.load(Acquire) & SPREAD != 0
    }

    /// Another set has been entered in it.
    pub fn note_outer(&self) {
        self.marks.fetch_or(OUTER, AcqRel);
    }

    pub fn outer(&self) -> bool {
        self.marks.load(Acquire) & OUTER != 0
    }

    /// Whether there may be something to do before it is waited on.
    pub fn special(&self) -> bool {
        self.foreign.load(Acquire) != 0
            || self.marks.load(Acquire) != 0 && (self.outer() || self.used_elsewhere())
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
    pub fn used_elsewhere(&self) -> bool {
        family::set_word(self.index())
            .is_some_and(|word| word.load(Acquire) == self.id.load(Relaxed))
    }

    /// Whether a registration with these events can be ours.
    pub fn converts(&self, events: u32) -> bool {
        events & libc::EPOLLEXCLUSIVE as u32 == 0 && !self.foreign()
    }

    /// Asks for a note of what a registration is told of. False: there are too many. The caller holds
    /// the lists.
    pub fn curious(&self, reg: &Reg) -> bool {
        let me = reg.number() + 1;
        let known = self.curious.iter().any(|at| at.load(Relaxed) == me);
        let free = || self.curious.iter().find(|at| at.load(Relaxed) == 0);
        known || free().map(|at| at.store(me, Relaxed)).is_some()
    }

    /// Whether the kernel has nothing to tell that it has not told yet.
    pub fn quiet(&self) -> bool {
        os::poll_one(self.epfd(), libc::POLLIN, 0) == Ok(0)
    }

    /// A wait, begun at `ticks`, has brought all that the kernel had to tell.
    pub fn drained(&self, ticks: u64) {
        self.drained.store(ticks, Relaxed);
        if self.curious.iter().all(|at| at.load(Relaxed) == 0) {
            return;
        }
        let Some(view) = self.view() else { return };
        let held = view.table.lists.lock();
        for at in &self.curious {
            let Some((reg, _)) = view.at(at) else {
                continue;
            };
            let waits = reg.state.load(Relaxed) == reg::state::KERNEL && self.has(reg);
            match reg.sock().filter(|_| waits) {
                Some(sock) => {
                    reg.noted.store(reg.standing(sock, IN, IN), Relaxed);
                }
                None => at.store(0, Relaxed),
            }
        }
        view.table.lists.unlock(held);
    }

    /// The set's context, once a registration is converted.
    pub fn ctx(&self) -> Option<Ctx> {
        let number = self.ctx.load(Acquire).checked_sub(1)?;
        Some(Ctx {
            number,
            bell: self.bell.load(Acquire),
        })
    }

    /// As [`Set::bell`], where nobody sees the doorbell who does not know it, and it is this process that gets it: the
    /// descriptors of a vfork child are its own.
    pub fn bell_at_home(&self) -> Option<Ctx> {
        let home = self.foreign.load(Acquire) != PASSED && !self.spread();
        let here = || os::getpid() as u32 == lock::pid();
        (home && config::policy() != Policy::Off && here()).then(|| self.bell())?
    }

    /// Makes sure that the set can be rung. The caller holds the lists.
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

    /// Takes in a registration that is being converted. The caller holds the lists.
    pub fn take_in(&self, reg: &Reg, conn: &Conn) -> bool {
        self.handed.fetch_add(1, AcqRel);
        if self.foreign() {
            return false;
        }
        let Some(ctx) = self.bell() else { return false };
        if !self.active.prepare() || !self.heat(reg, conn) {
            return false;
        }
        if let Some(mine) = self.mine(reg) {
            mine.counted.store(1, Relaxed);
        }
        // Whoever waits on a set without rings went to sleep before it had a bell.
        if self.count.fetch_add(1, AcqRel) == 0 || ctx.word().sleepers() {
            ctx.ring();
        }
        true
    }

    /// A registration is gone or is the program's again. The caller holds the lists.
    pub fn dropped(&self, reg: &Reg) {
        if let (Some(view), Some(mine)) = (self.view(), self.mine(reg)) {
            self.disown(view, mine);
        }
    }
}
