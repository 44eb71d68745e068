//! Waiting: first a bounded spin where it has paid off, then asleep on the TCP sockets and the
//! doorbell of a context.

use crate::conn::ready;
use crate::conn::{Conn, Sock, flag, kept, onto_ring, phase, rx, tx};
use crate::ctx::{self, Ctx, bed};
use crate::{clock, config, copy, daemon, errno, lgr, os, real};
use protocol::shm::sync::fence;
use protocol::shm::wait::{COLD, HINTS};
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering::*};

/// What a thread waits for on one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    In,
    /// As `In`, and urgent data wakes.
    Urgent,
    Out,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Look again.
    Ready,
    /// Look again: urgent data has come, and nothing else that can be seen.
    Urgent,
    TimedOut,
    /// A signal handler ran.
    Interrupted,
}

/// Sleep of a context that the peer could not be told of.
pub const BLIND_NS: u64 = 1_000_000;

/// Enters `ctx` in the list that the peer looks at after it has published; where there is no peer yet, for
/// [`introduce`]. False: no room.
pub fn watch(conn: &Conn, ctx: Ctx) -> bool {
    let held = conn.watch_lock.lock();
    let done = announce(conn, ctx) && replace(conn, 0, ctx.number as u16 + 1);
    conn.watch_lock.unlock(held);
    done
}

/// Lets the peer, if there is one, have the doorbell of `ctx`. The caller holds the lock of the list.
fn announce(conn: &Conn, ctx: Ctx) -> bool {
    let Some(peer) = conn.peer() else {
        return true;
    };
    peer.hint.store(conn.index() % HINTS, Relaxed);
    lgr::get(conn.lgr.load(Relaxed)).is_some_and(|group| group.announce(ctx))
}

/// The connection has come to have a peer, who is to wake those as well who sleep already: what has come over TCP since
/// may have woken them, and was taken by another thread before they looked.
pub fn introduce(conn: &Conn) {
    let Some(peer) = conn.peer() else { return };
    let held = conn.watch_lock.lock();
    for (own, published) in conn.watchers.iter().zip(&peer.watchers) {
        let word = own.load(Relaxed);
        for shift in [0, 16, 32, 48] {
            let entry = (word >> shift) as u16 & !COLD;
            if let Some(ctx) = u32::from(entry).checked_sub(1).and_then(ctx::own)
                && !announce(conn, ctx)
            {
                // It has to look for itself from time to time.
                ctx.ring();
            }
        }
        published.store(word, SeqCst);
    }
    conn.watch_lock.unlock(held);
}

/// Whether `ctx` is in the list already.
pub fn watches(conn: &Conn, ctx: Ctx) -> bool {
    conn.watchers.iter().any(|word| {
        let word = word.load(Relaxed);
        [0, 16, 32, 48]
            .iter()
            .any(|shift| (word >> shift) as u16 == ctx.number as u16 + 1)
    })
}

pub fn unwatch(conn: &Conn, ctx: Ctx) {
    edit_watchers(conn, ctx.number as u16 + 1, 0);
}

/// As [`unwatch`], for a connection that is cold to `ctx`.
pub fn unwatch_cold(conn: &Conn, ctx: Ctx) {
    edit_watchers(conn, (ctx.number as u16 + 1) | COLD, 0);
}

/// Whether the peer, after it has published, is to leave a hint for `ctx`, which does not look at
/// the connection by itself any more. Ends with a full fence.
pub fn call_cold(conn: &Conn, ctx: Ctx, cold: bool) -> bool {
    let hot = ctx.number as u16 + 1;
    let done = match cold {
        true => edit_watchers(conn, hot, hot | COLD),
        false => edit_watchers(conn, hot | COLD, hot),
    };
    // SYNC: cold. The caller looks once more; the producer looks here after it has published.
    fence(SeqCst);
    done
}

/// Replaces one entry `from` of the list by `to`.
fn edit_watchers(conn: &Conn, from: u16, to: u16) -> bool {
    let held = conn.watch_lock.lock();
    let done = replace(conn, from, to);
    conn.watch_lock.unlock(held);
    done
}

/// The caller holds the lock of the list.
fn replace(conn: &Conn, from: u16, to: u16) -> bool {
    for (i, own) in conn.watchers.iter().enumerate() {
        let word = own.load(Relaxed);
        for shift in [0, 16, 32, 48] {
            if (word >> shift) as u16 == from {
                let word = word & !(0xffff << shift) | u64::from(to) << shift;
                own.store(word, Relaxed);
                if let Some(published) = conn.peer().and_then(|peer| peer.watchers.get(i)) {
                    published.store(word, SeqCst);
                }
                return true;
            }
        }
    }
    false
}

/// Whether looking at the connection could bring something, judged without a lock.
fn hint(sock: Sock, want: Want) -> bool {
    if sock.has(flag::RESET | flag::DEAD) {
        return true;
    }
    let Some(slot) = sock.slot() else {
        return false;
    };
    match want {
        // The peer may wait for what it left on the ring to be repeated: see `ready::service`.
        Want::In | Want::Urgent if sock.tx_ring() && tx::disturbed(&sock) => true,
        Want::In | Want::Urgent if sock.rx_ring() => {
            rx::available(&sock) != 0 || sock.has(flag::FIN_SEEN) || rx::carrier_moved(&sock, slot)
        }
        Want::In | Want::Urgent => onto_ring::gone(&sock, slot) || rx::available(&sock) != 0,
        Want::Out if sock.tx_ring() => tx::room(&sock) != 0 || tx::disturbed(&sock),
        Want::Out => false,
    }
}

/// CPUs of the machine, looked up once. Not those that this process may use: a process that is
/// pinned to one CPU gains from spinning when its peer runs on another, and [`same_cpu`] tells.
fn cpus() -> u32 {
    static CPUS: AtomicU32 = AtomicU32::new(0);
    match CPUS.load(Relaxed) {
        0 => {
            let online = os::online_cpus();
            CPUS.store(online, Relaxed);
            online
        }
        n => n,
    }
}

#[inline]
fn this_cpu() -> u32 {
    let mut aux = 0;
    // SAFETY: x86-64 with rdtscp; Linux keeps the CPU number in the low 12 bits of TSC_AUX.
    unsafe { core::arch::x86_64::__rdtscp(&mut aux) };
    aux & 0xfff
}

/// Says where we wait, and tells whether the peer waited on the same CPU last: then spinning would
/// only keep it from running.
pub fn same_cpu(conn: &Conn) -> bool {
    let (Some(own), Some(peer)) = (conn.own(), conn.peer()) else {
        return true;
    };
    let here = this_cpu() + 1;
    if peer.cpu.load(Relaxed) != here {
        peer.cpu.store(here, Relaxed);
    }
    own.cpu.load(Relaxed) == here
}

/// Whether the peer waited on another CPU last.
#[inline]
pub fn far(conn: &Conn) -> bool {
    let there = conn.own().map_or(0, |own| own.cpu.load(Relaxed));
    there != 0 && there != this_cpu() + 1
}

/// Score of spinning: up when it pays, down when it does not; at 0 only every 16th wait tries.
const SCORE_MAX: u32 = 8;

/// Whether to spin now, given the score word (score in the low byte, skipped waits above).
pub fn worth_spinning(score: &AtomicU32) -> bool {
    if config::spin_us() == 0 || cpus() < 2 {
        return false;
    }
    let word = score.load(Relaxed);
    if word & 0xff != 0xff {
        // 0xff marks a score of nothing; new connections start in the middle.
        return true;
    }
    let skipped = (word >> 8) + 1;
    score.store(0xff | (skipped & 0xf) << 8, Relaxed);
    skipped & 0xf == 0
}

pub fn spun(score: &AtomicU32, hit: bool) {
    let word = score.load(Relaxed) & 0xff;
    let level = match word {
        0 => SCORE_MAX / 2,
        0xff => 0,
        n => n.min(SCORE_MAX),
    };
    let level = if hit {
        (level + 1).min(SCORE_MAX)
    } else {
        level.saturating_sub(1)
    };
    score.store(if level == 0 { 0xff } else { level }, Relaxed);
}

/// Cache lines of the payload for which a receive that spins asks.
const LINES: usize = 4;

/// Spins until `ready(how often it was asked)` or the budget ends. Without sched_yield: where cores are short it
/// gives away a slice to each of the others, milliseconds for a wait of microseconds.
pub fn spin(mut ready: impl FnMut(u32) -> bool) -> bool {
    let end = clock::ticks() + clock::per_us() * u64::from(config::spin_us());
    loop {
        for turn in 0..8 {
            if ready(turn) {
                return true;
            }
            std::hint::spin_loop();
        }
        if clock::ticks() >= end {
            return false;
        }
    }
}

/// Spins where that has paid off lately. True: the connection may have something for a call that wants
/// `want`.
pub fn spin_for(sock: Sock, want: Want) -> bool {
    let ring = match want {
        Want::In | Want::Urgent => sock.rx_ring(),
        Want::Out => sock.tx_ring(),
    };
    let Some(own) = sock.own().filter(|_| ring) else {
        return false;
    };
    // What nearly always ends the spin, and costs one load: a receive waits on an empty ring.
    let (word, seen) = match want {
        Want::In | Want::Urgent => (&own.producer, rx::consumer(&sock).consumed.cursor.word(0)),
        Want::Out => (&own.consumer, own.consumer.load(Relaxed)),
    };
    if same_cpu(&sock) || !worth_spinning(&sock.rx.spin) {
        return false;
    }
    // The first lines of the payload come with that of the cursor instead of after it. After a small message, which
    // lies in that line as well, it is left to the peer, who writes there next.
    let (payload, lines) = match want {
        Want::In | Want::Urgent if !own.has_small() => {
            let at = rx::consumer(&sock).span(1).at as usize;
            (sock.own_ring().wrapping_add(at), LINES)
        }
        _ => (std::ptr::from_ref(own).cast_mut().cast(), 1),
    };
    let hit = spin(|turn| {
        for line in 0..lines {
            copy::prefetch(payload.wrapping_add(64 * line));
        }
        word.load(Relaxed) != seen || turn == 0 && hint(sock, want)
    });
    spun(&sock.rx.spin, hit);
    let row = sock.row();
    match hit {
        true => &row.spin_hits,
        false => &row.spin_misses,
    }
    .fetch_add(1, Relaxed);
    hit
}

/// What a sleeper has entered in places that others look at.
struct Asleep {
    sock: Sock,
    ctx: Option<Ctx>,
    watched: bool,
    rung: bool,
}

/// Ends a sleep. Called by libc: after the sleep, or when the thread is cancelled in it, or leaves
/// it by longjmp.
unsafe extern "C" fn wake_up(asleep: *mut c_void) {
    // SAFETY: `sleep` has registered its own value, which lives until then.
    let asleep = unsafe { &*asleep.cast::<Asleep>() };
    let sock = asleep.sock;
    if let Some(ctx) = asleep.ctx {
        ctx.word().leave();
        if asleep.rung {
            ctx.drain();
        }
        if asleep.watched {
            unwatch(sock.conn, ctx);
        }
        ctx.give_back();
    }
    if sock.life().unpin() {
        // It was closed while we slept, and we are the last who knew it.
        crate::conn::close::finish(sock.conn);
    }
}

/// `struct _pthread_cleanup_buffer`
#[repr(C)]
struct Cleanup {
    routine: *mut c_void,
    arg: *mut c_void,
    kind: c_int,
    previous: *mut c_void,
}

unsafe extern "C" {
    fn _pthread_cleanup_push(
        buffer: *mut Cleanup,
        routine: unsafe extern "C" fn(*mut c_void),
        arg: *mut c_void,
    );
    fn _pthread_cleanup_pop(buffer: *mut Cleanup, execute: c_int);
}

/// Runs `sleep`, then `undo(arg)`; the latter also when the thread is cancelled in its sleep, or
/// leaves it by longjmp.
///
/// # Safety
/// `undo(arg)` is sound once, at any time from now until this function returns.
pub unsafe fn undone<R>(
    undo: unsafe extern "C" fn(*mut c_void),
    arg: *mut c_void,
    sleep: impl FnOnce() -> R,
) -> R {
    let mut cleanup = MaybeUninit::<Cleanup>::uninit();
    // SAFETY: the buffer lives in this frame, to its end or until libc has unwound it.
    unsafe { _pthread_cleanup_push(cleanup.as_mut_ptr(), undo, arg) };
    let result = sleep();
    // SAFETY: filled in by the push.
    unsafe { _pthread_cleanup_pop(cleanup.as_mut_ptr(), 1) };
    result
}

/// ppoll of libc, which is a point of cancellation as the program's own call is.
pub fn doze(
    fds: &mut [libc::pollfd],
    limit: Option<u64>,
    mask: Option<*const libc::sigset_t>,
) -> Result<usize, i32> {
    let time = limit.map(os::timespec);
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    errno::keep(|| {
        let count = fds.len() as libc::nfds_t;
        let mask = mask.unwrap_or(std::ptr::null());
        // SAFETY: pointers to locals, and the program's signal set.
        let n = unsafe { real::ppoll(fds.as_mut_ptr(), count, time, mask) };
        usize::try_from(n).map_err(|_| errno::get())
    })
}

/// Sleeps until the connection may have something for a call that wants `want`. `deadline` is in
/// monotonic nanoseconds.
pub fn sleep(sock: Sock, want: Want, deadline: Option<u64>) -> Wake {
    let mut limit = None;
    if let Some(end) = deadline {
        let now = clock::now();
        if now >= end {
            return Wake::TimedOut;
        }
        limit = Some(end - now);
    }
    let mut cap = |ns: u64| limit = Some(limit.map_or(ns, |left| left.min(ns)));
    if want == Want::Out && sock.tx_ring() {
        cap(tx::patience(&sock));
    }
    if let Some(ns) = lgr::wake_again() {
        cap(ns);
    }
    sock.sleepers.fetch_add(1, AcqRel);
    // Also before there is a peer who could ring: see `kept::settle`, `introduce`.
    let ctx = ctx::take_for(sock.conn);
    let may_ring = sock.phase() != phase::BARRED;
    let watched = may_ring && ctx.is_some_and(|ctx| watch(sock.conn, ctx));
    if may_ring && !watched {
        cap(BLIND_NS);
    }
    let at_rest = watched && limit.is_none() && want == Want::Urgent && sock.rx_ring();
    let bed = ctx.filter(|ctx| at_rest && ctx.has_bed(sock));
    if let (Some(ctx), None) = (ctx, bed) {
        ctx.rise();
    }
    let asked = match want {
        Want::In => ready::IN | libc::POLLRDHUP,
        Want::Urgent => ready::IN | libc::POLLRDHUP | libc::POLLPRI,
        Want::Out => ready::OUT,
    };
    let mut fds = [
        libc::pollfd {
            fd: sock.fd,
            events: 0,
            revents: 0,
        },
        libc::pollfd {
            fd: ctx.map_or(-1, |c| c.bell),
            events: libc::POLLIN,
            revents: 0,
        },
    ];
    if let Some(ctx) = ctx {
        ctx.word().enter();
    }
    let mut asleep = Asleep {
        sock,
        ctx,
        watched,
        rung: false,
    };
    let at = &raw mut asleep;
    let mut told = 0;
    let rest = || {
        if hint(sock, want) {
            return Ok(1);
        }
        // Only now: whoever takes the connection off the ring from here on rings the context.
        let events = ready::kernel_events(sock, asked);
        sock.row().sleeps.fetch_add(1, Relaxed);
        if let Some(ctx) = bed
            && events == bed::EVENTS
            && sock.rx_ring()
        {
            told = ctx.sleep_in_bed()?;
            return Ok(1);
        }
        if let Some(tcp) = fds.first_mut() {
            tcp.events = events;
        }
        let result = doze(&mut fds, limit, None);
        let [tcp, bell] = fds;
        told = tcp.revents;
        // SAFETY: lives in this frame.
        unsafe { (*at).rung = bell.revents != 0 };
        result
    };
    // SAFETY: `asleep` lives in this frame, and nothing is undone elsewhere.
    let result = unsafe { undone(wake_up, at.cast(), rest) };
    if result.is_ok_and(|n| n != 0) {
        daemon::keep_in_touch();
    }
    if kept::means(sock) {
        ready::note_gone(sock, told);
    }
    match result {
        Ok(0) if deadline.is_some_and(|end| clock::now() >= end) => Wake::TimedOut,
        Ok(_) if told & (ready::IN | libc::POLLPRI) == libc::POLLPRI => Wake::Urgent,
        Ok(_) => Wake::Ready,
        Err(libc::EINTR) => Wake::Interrupted,
        Err(_) => {
            // RLIMIT_NOFILE allows no list of two: as without a doorbell.
            os::sleep_ns(limit.map_or(BLIND_NS, |ns| ns.min(BLIND_NS)));
            Wake::Ready
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family;
    use protocol::shm::ring::DmbHeader;

    /// Who sleeps when the connection gets its peer is known to that from then on.
    #[test]
    fn a_peer_hears_of_who_sleeps_already() {
        assert!(family::ready());
        let (Some(conn), Some(ctx)) = (family::allocate(), ctx::take()) else {
            unreachable!("room for both")
        };
        let peer = DmbHeader::default();
        let published = || peer.watchers.iter().map(|word| word.load(Relaxed)).sum();
        assert!(watch(conn, ctx) && watches(conn, ctx));
        conn.attach(std::ptr::null(), std::ptr::null(), (&raw const peer).cast());
        introduce(conn);
        assert_eq!(u64::from(ctx.number) + 1, published());
        unwatch(conn, ctx);
        assert_eq!(0u64, published());
        assert!(!watches(conn, ctx));
        conn.attach(std::ptr::null(), std::ptr::null(), std::ptr::null());
        ctx.give_back();
        conn.holders.store(0, Relaxed);
        crate::conn::close::finish(conn);
    }
}
