//! Link groups of this process: the mapped arena, the channel over which the two processes pass
//! each other doorbells, and the peer's wait page.
//!
//! The channel's messages are never taken off it, only peeked at by number: every process of a fork
//! family finds each doorbell there, whoever looked first.

mod asleep;
mod mapped;

pub use asleep::wake_again;

use crate::conn::Conn;
use crate::ctx::Ctx;
use crate::{daemon, epoll, family, os, ownfd};
use mapped::Mapped;
use protocol::shm::HINTS_AT;
use protocol::shm::life::Kept;
use protocol::shm::sync::{fence, fence_behind_rmw};
use protocol::shm::wait::{CONTEXTS, Hints};
use protocol::stats::ROWS;
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering::*};

pub const MAX: usize = 1024;
/// Tries at the lock of the channels before it is passed over: some ten milliseconds, in which that of a process
/// that has died is freed.
const PEEK_TRIES: u32 = 260;

pub struct LinkGroup {
    /// Name given by the daemon; 0: entry free.
    pub id: AtomicU32,
    /// Session in which it was: the next daemon counts from the beginning again.
    session: AtomicU32,
    /// Connections of this process in it.
    pub conns: AtomicU32,
    pub mapped: Mapped,
    /// Threads that look at the arena without having a connection in it.
    visitors: AtomicU32,
    /// A connection of this process has got as far as Accept.
    pub contacted: AtomicBool,
    channel: AtomicI32,
    /// Contexts of ours that were announced on the channel.
    announced: [AtomicU64; CONTEXTS / 64],
    /// Messages of the channel that were looked at.
    seen: AtomicU32,
}

/// Link groups to which context N of this process was announced since it has its doorbell.
static ANNOUNCED: [AtomicU32; CONTEXTS] = [const { AtomicU32::new(0) }; CONTEXTS];

/// Doorbells of a link group's peer, and the epoch in which each was rung last.
struct Bells {
    fd: [AtomicI32; CONTEXTS],
    rung: [AtomicU64; CONTEXTS],
    /// Which generation of the context's doorbell `fd` is.
    of: [AtomicU32; CONTEXTS],
}

static GROUPS: [LinkGroup; MAX] = [const {
    LinkGroup {
        id: AtomicU32::new(0),
        session: AtomicU32::new(0),
        conns: AtomicU32::new(0),
        mapped: Mapped::nothing(),
        visitors: AtomicU32::new(0),
        contacted: AtomicBool::new(false),
        channel: AtomicI32::new(-1),
        announced: [const { AtomicU64::new(0) }; CONTEXTS / 64],
        seen: AtomicU32::new(0),
    }
}; MAX];

/// The link group, index + 1, that stays mapped in this process for connection N.
static MEMBERS: [Kept; ROWS] = [const { Kept::nothing() }; ROWS];

/// The last connection in a link group of an earlier session has ended.
static DONE_WITH: AtomicBool = AtomicBool::new(false);

/// One more than the highest place that ever was in use.
static HIGH: AtomicU32 = AtomicU32::new(0);

static BELLS: [Bells; MAX] = [const {
    Bells {
        // None, but zeros take no room in the file; `enter` says so.
        fd: [const { AtomicI32::new(0) }; CONTEXTS],
        rung: [const { AtomicU64::new(0) }; CONTEXTS],
        of: [const { AtomicU32::new(0) }; CONTEXTS],
    }
}; MAX];

/// The groups that there are or were: a child pays for each page of the others that it looks at.
fn used() -> &'static [LinkGroup] {
    let high = HIGH.load(Acquire) as usize;
    GROUPS.get(..high).unwrap_or(&GROUPS)
}

/// Link group by index + 1, as a connection stores it.
pub fn get(index: u32) -> Option<&'static LinkGroup> {
    GROUPS.get((index as usize).wrapping_sub(1))
}

/// The link group named `id` in a session with the daemon: its index + 1.
pub fn find(session: u32, id: u32) -> Option<u32> {
    used()
        .iter()
        .position(|g| g.id.load(Acquire) == id && g.session.load(Relaxed) == session)
        .map(|i| i as u32 + 1)
}

/// A link group within one process counts twice, once for each side: the lowest bit, as the daemon
/// names both alike (ids are multiples of 256).
pub fn side_id(lgr: u32, side: u8) -> u32 {
    lgr | u32::from(side & 1)
}

/// Enters a new link group of a session. All three descriptors are the library's from here on; the arena's and
/// the wait page's are closed once mapped.
pub fn add(session: u32, id: u32, len: u64, fds: [c_int; 3]) -> Result<u32, i32> {
    let [arena, channel, wait] = fds;
    let free = |g: &LinkGroup| {
        g.id.load(Relaxed) == 0 && g.id.compare_exchange(0, u32::MAX, AcqRel, Relaxed).is_ok()
    };
    let place = GROUPS.iter().zip(1..).find(|(g, _)| free(g));
    let mapped = match place {
        Some((g, _)) => g.mapped.map(len, arena, wait),
        None => Err(libc::ENOSPC),
    };
    os::close(arena);
    os::close(wait);
    // Where its messages cannot be peeked at by position, nobody could ever be woken.
    let peeks =
        mapped.and_then(|()| os::set_sockopt_int(channel, libc::SOL_SOCKET, libc::SO_PEEK_OFF, 0));
    let channel = match peeks {
        Ok(()) => ownfd::raise(channel),
        Err(e) => {
            os::close(channel);
            Err(e)
        }
    };
    let (g, index) = place.ok_or(libc::ENOSPC)?;
    match channel {
        Ok(channel) => {
            g.begin(session, channel);
            HIGH.fetch_max(index, AcqRel);
            g.id.store(id, Release);
            Ok(index)
        }
        Err(e) => {
            if mapped.is_ok() {
                g.mapped.cover();
            }
            g.id.store(0, Release);
            Err(e)
        }
    }
}

/// A link group stays mapped for a connection.
pub fn join(conn: &Conn, group: u32) {
    if let (Some(place), Some(joined)) = (MEMBERS.get(conn.index() as usize), get(group)) {
        joined.conns.fetch_add(1, AcqRel);
        left(place.keep(conn.generation.load(Relaxed), group));
    }
}

/// This process has no more to do with the connection of that generation.
pub fn leave(index: u32, generation: u32) {
    left(
        MEMBERS
            .get(index as usize)
            .map_or(0, |place| place.let_go(generation)),
    );
}

fn left(group: u32) {
    if let Some(group) = get(group)
        && group.conns.fetch_sub(1, AcqRel) == 1
        && group.session.load(Relaxed) != daemon::nth_session()
    {
        DONE_WITH.store(true, Release);
    }
}

/// Whether [`sweep`] has something to give up that it had not before.
pub fn worth_a_sweep() -> bool {
    DONE_WITH.load(Relaxed) && DONE_WITH.swap(false, AcqRel)
}

/// Connections that a relative has ended.
fn leave_those_gone() {
    let high = family::table().map_or(0, |table| table.high.load(Relaxed));
    for (index, place) in (0..high).zip(&MEMBERS) {
        if let Some(generation) = place.generation()
            && family::conn(index).is_some_and(|c| c.generation.load(Acquire) != generation)
        {
            leave(index, generation);
        }
    }
}

/// Gives up link groups that no connection uses and none will: the peer is gone, or they are not of this session with
/// the daemon (the last one's, or a parent's), so that no pair is put in them any more. The peer, which sees the channel
/// closed then, does the same. Called by who reads what the daemon says, as [`add`] and [`join`] are.
pub fn sweep(session: u32) {
    epoll::sweep();
    leave_those_gone();
    for (i, g) in used().iter().enumerate() {
        let id = g.id.load(Acquire);
        if id == 0 || id == u32::MAX || g.conns.load(Acquire) != 0 {
            continue;
        }
        let channel = g.channel.load(Relaxed);
        let of_now = g.session.load(Relaxed) == session;
        if of_now && !os::hung_up(channel)
            || g.id
                .compare_exchange(id, u32::MAX, SeqCst, Relaxed)
                .is_err()
        {
            continue;
        }
        if g.visitors.load(SeqCst) != 0 {
            g.id.store(id, Release);
            continue;
        }
        ownfd::close(channel);
        g.mapped.cover();
        if let Some(bells) = BELLS.get(i) {
            for (fd, rung) in bells.fd.iter().zip(&bells.rung) {
                let old = fd.swap(-1, AcqRel);
                if old >= 0 {
                    ownfd::close(old);
                }
                rung.store(0, Relaxed);
            }
        }
        g.id.store(0, Release);
    }
}

/// In the child of a fork: the parent's other threads are not here.
pub fn forked() {
    for g in used() {
        g.visitors.store(0, Relaxed);
    }
}

/// The own context `number` has a new doorbell, which nobody knows of.
pub fn renew(number: u32) {
    for g in used() {
        if let Some(word) = g.announced.get(number as usize / 64) {
            word.fetch_and(!(1 << (number % 64)), AcqRel);
        }
    }
    if let Some(count) = ANNOUNCED.get(number as usize) {
        count.store(0, Relaxed);
    }
}

pub fn moved(from: c_int, to: c_int) {
    for g in used() {
        let _ = g.channel.compare_exchange(from, to, AcqRel, Relaxed);
    }
    for bells in BELLS.iter().take(used().len()) {
        for fd in &bells.fd {
            let _ = fd.compare_exchange(from, to, AcqRel, Relaxed);
        }
    }
}

impl LinkGroup {
    /// Of a link group that is entered: what the last one of the place has left.
    fn begin(&self, session: u32, channel: c_int) {
        self.session.store(session, Relaxed);
        self.channel.store(channel, Relaxed);
        self.conns.store(0, Relaxed);
        self.seen.store(0, Relaxed);
        self.contacted.store(false, Relaxed);
        for word in &self.announced {
            word.store(0, Relaxed);
        }
        for fd in BELLS.get(self.index()).iter().flat_map(|bells| &bells.fd) {
            fd.store(-1, Relaxed);
        }
    }

    fn index(&self) -> usize {
        (self as *const LinkGroup as usize - GROUPS.as_ptr() as usize) / size_of::<LinkGroup>()
    }

    /// Whether the peer's processes have all ended, or have no connection in it any more.
    pub fn peer_gone(&self) -> bool {
        os::hung_up(self.channel.load(Relaxed))
    }

    /// Lets the peer have the doorbell of `ctx`, once. False: it does not fit the channel, and the
    /// sleeper must look for itself from time to time.
    pub fn announce(&self, ctx: Ctx) -> bool {
        let Some(word) = self.announced.get(ctx.number as usize / 64) else {
            return false;
        };
        let bit = 1 << (ctx.number % 64);
        if word.load(Acquire) & bit != 0 {
            return true;
        }
        if word.fetch_or(bit, AcqRel) & bit != 0 {
            return true;
        }
        let channel = self.channel.load(Relaxed);
        let name = u64::from(ctx.number) | u64::from(ctx.word().bell()) << 32;
        let count = ANNOUNCED.get(ctx.number as usize);
        // Before this peer can silence what another one rings.
        if count.is_some_and(|count| count.fetch_add(1, AcqRel) != 0) {
            ctx.word().share();
        }
        let sent = os::send_fd(channel, &name.to_ne_bytes(), ctx.bell);
        if sent.is_ok() {
            // Another thread may have relied on the announcement before it was made.
            ctx.ring();
        } else {
            word.fetch_and(!bit, AcqRel);
            if let Some(count) = count {
                count.fetch_sub(1, AcqRel);
            }
        }
        // Where nobody is left to ring it, the kernel has all there is to tell.
        sent.is_ok() || self.peer_gone()
    }

    /// The hints for context `n` of side `side`.
    fn hints(&self, side: u32, n: u32) -> Option<&Hints> {
        let n = side as usize % 2 * CONTEXTS + n as usize % CONTEXTS;
        let at = self
            .mapped
            .arena()
            .wrapping_add(HINTS_AT + n * size_of::<Hints>());
        // SAFETY: a link group is entered only when `add` has mapped an arena that is longer than the
        // hints, and from then on something always lies there.
        unsafe { at.cast::<Hints>().as_ref() }
    }

    /// Leaves a hint for the peer's context `n`, to which the connection that is `number` to it is
    /// cold. The caller has published, with a full fence behind it.
    pub fn hint(&self, n: u32, number: u32) {
        let peer = (self.id.load(Relaxed) & 1) ^ 1;
        if let Some(hints) = self.hints(peer, n) {
            hints.put(number);
        }
    }

    /// Calls `f` with the hints for the own context `n`, unless the link group is gone.
    pub fn visit<T>(&self, n: u32, f: impl FnOnce(&Hints) -> T) -> Option<T> {
        self.visitors.fetch_add(1, SeqCst);
        let id = self.id.load(SeqCst);
        let found = match id {
            0 | u32::MAX => None,
            _ => self.hints(id & 1, n).map(f),
        };
        self.visitors.fetch_sub(1, Release);
        found
    }

    /// Wakes the peer's context `n` when it sleeps and was not rung in this sleep. The caller has
    /// published, with a full fence behind it.
    pub fn wake(&self, n: u32) -> bool {
        let Some(word) = self.mapped.wait_word(n as usize) else {
            return false;
        };
        let Some(epoch) = word.epoch_if_asleep() else {
            return false;
        };
        let Some(bells) = BELLS.get(self.index()) else {
            return false;
        };
        let at = n as usize;
        let (Some(fd), Some(rung), Some(of)) =
            (bells.fd.get(at), bells.rung.get(at), bells.of.get(at))
        else {
            return false;
        };
        let mark = epoch << 1 | 1;
        if rung.swap(mark, AcqRel) == mark {
            return false;
        }
        if word.is_shared() {
            asleep::doubt(self.index(), n);
        }
        // Either this look finds the bell, or who installs it finds the mark.
        fence_behind_rmw();
        let valid = word.bell();
        let known = || fd.load(Acquire) >= 0 && of.load(Acquire) == valid;
        if !known() {
            self.fetch_bells(bells);
        }
        let bell = fd.load(Acquire);
        if bell >= 0 {
            os::ring(bell);
        }
        if !known() {
            asleep::unheard();
            // Perhaps never, where there are no more descriptors.
            asleep::doubt(self.index(), n);
        }
        bell >= 0
    }

    /// Looks at the channel's messages that were not looked at yet.
    fn fetch_bells(&self, bells: &Bells) {
        // The place at which a socket is peeked at belongs to the socket, which the family shares.
        let Some(lock) = family::peek_lock() else {
            return;
        };
        match lock.lock_within(PEEK_TRIES) {
            // We are a signal handler: the call that it has interrupted goes on with this, and rings.
            Some(held) if held.nested() => lock.unlock(held),
            Some(held) => {
                self.look_at_channel(bells);
                lock.unlock(held);
            }
            // Whoever holds it was abandoned in the middle: without it a bell may be missed.
            None => self.look_at_channel(bells),
        }
    }

    fn look_at_channel(&self, bells: &Bells) {
        let channel = self.channel.load(Relaxed);
        loop {
            let number = self.seen.load(Acquire);
            let mut data = [0u8; 8];
            let Ok(bell) = os::peek_fd(channel, number * 8, &mut data) else {
                return;
            };
            if self
                .seen
                .compare_exchange(number, number + 1, AcqRel, Relaxed)
                .is_err()
            {
                os::close(bell);
                continue;
            }
            if os::is_no_bell(bell) {
                os::close(bell);
                continue;
            }
            let bell = ownfd::adopt(bell);
            install(bells, u64::from_ne_bytes(data), bell);
        }
    }
}

/// Enters a doorbell of the peer's. `name`: number of the context, and generation of the bell above.
fn install(bells: &Bells, name: u64, bell: c_int) {
    let at = name as u32 as usize;
    let (Some(fd), Some(rung), Some(of)) = (bells.fd.get(at), bells.rung.get(at), bells.of.get(at))
    else {
        return ownfd::close(bell);
    };
    let old = fd.swap(bell, AcqRel);
    of.store((name >> 32) as u32, Release);
    if old >= 0 {
        ownfd::close(old);
    }
    fence(SeqCst);
    if rung.load(Acquire) != 0 {
        os::ring(bell);
    }
}
