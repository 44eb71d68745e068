//! Waiting: first a bounded spin where it has paid off, then asleep on the TCP sockets and the
//! doorbell of a context.

pub mod spin;
mod watchers;

pub use watchers::{call_cold, introduce, unwatch, unwatch_cold, watch, watches};

use crate::conn::{Sock, flag, kept, onto_ring, phase, ready, rx, tx};
use crate::ctx::{self, Ctx, bed};
use crate::{clock, daemon, errno, lgr, os, real};
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::atomic::Ordering::*;

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
    /// Look again, and often: nobody can ring, see [`BLIND_NS`].
    Blind,
    TimedOut,
    /// A signal handler ran.
    Interrupted,
}

/// Sleep of a context that the peer could not be told of.
pub const BLIND_NS: u64 = 1_000_000;

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

/// As [`doze`], for what the program has not called poll for: RLIMIT_NOFILE bounds poll's lists.
pub fn by_poll_or_select(
    fds: &mut [libc::pollfd],
    limit: Option<u64>,
    mask: Option<*const libc::sigset_t>,
) -> Result<usize, i32> {
    match doze(fds, limit, mask) {
        Err(e) if e != libc::EINTR => by_select(fds, limit, mask).map_err(|other| match other {
            libc::EINTR => other,
            _ => e,
        }),
        done => done,
    }
}

#[cold]
fn by_select(
    fds: &mut [libc::pollfd],
    limit: Option<u64>,
    mask: Option<*const libc::sigset_t>,
) -> Result<usize, i32> {
    let mut sets = os::Sets::of(fds).ok_or(libc::EINVAL)?;
    let time = sets.limit(limit).map(os::timespec);
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let [read, write, except] = sets.pointers();
    errno::keep(|| {
        let (count, mask) = (sets.count(), mask.unwrap_or(std::ptr::null()));
        // SAFETY: the sets live in this frame, as does the time; the program's signal set.
        match unsafe { real::pselect(count, read, write, except, time, mask) } {
            0.. => Ok(()),
            _ => Err(errno::get()),
        }
    })?;
    Ok(sets.tell(fds))
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
        let result = by_poll_or_select(&mut fds, limit, None);
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
        Ok(0) if may_ring && !watched => Wake::Blind,
        Ok(_) if told & (ready::IN | libc::POLLPRI) == libc::POLLPRI => Wake::Urgent,
        Ok(_) => Wake::Ready,
        Err(libc::EINTR) => Wake::Interrupted,
        Err(_) => {
            // Refused: as without a doorbell.
            match os::nap(limit.map_or(BLIND_NS, |ns| ns.min(BLIND_NS))) {
                Ok(()) => Wake::Ready,
                Err(_) => Wake::Interrupted,
            }
        }
    }
}
