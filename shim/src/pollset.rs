//! poll on a list in which some connections go through the state machine.

use crate::conn::ready;
use crate::conn::{Sock, claim, tx};
use crate::ctx::{self, Ctx};
use crate::fds::{self, Meaning};
use crate::{clock, daemon, epoll, family, lgr, os, wait};
use libc::pollfd;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

/// While rings are ready, how often the kernel is asked about the other descriptors.
const KERNEL_US: u64 = 40;

static ASKED: AtomicU64 = AtomicU64::new(0);
static SPIN: AtomicU32 = AtomicU32::new(0);

/// Lists longer than this go through a mapping of their own.
pub const SHORT: usize = 64;

fn careful(fd: i32) -> Option<Sock> {
    fds::sock(fd).filter(|sock| sock.careful())
}

/// What has to happen before the kernel may be asked: sets that are watched from outside leave
/// their rings. Tells whether the list has careful connections.
pub fn prepare(list: &[pollfd]) -> bool {
    let mut found = false;
    for one in list {
        match fds::meaning(one.fd) {
            Meaning::Conn(sock) => found |= sock.careful(),
            Meaning::Set(index) => epoll::watched(index),
            // To be asked about as something that is not there.
            Meaning::Ours => found = true,
            Meaning::None => {}
        }
    }
    found
}

/// Polls `list`; `scratch` has one place more. Gives the number of entries with events.
pub fn poll(
    list: &mut [pollfd],
    scratch: &mut [pollfd],
    timeout: Option<u64>,
    mask: Option<*const libc::sigset_t>,
) -> Result<usize, i32> {
    let end = timeout.map(clock::after);
    let mut spun = false;
    loop {
        if claim::waiting() {
            daemon::poll();
        }
        let rings = look(list, scratch);
        if rings && !kernel_tells(list) && !due() {
            return Ok(settle(list, scratch, false));
        }
        if rings || timeout == Some(0) {
            ask(list, scratch, Some(0), mask)?;
            return Ok(settle(list, scratch, true));
        }
        if !spun && spin(list) {
            spun = true;
            continue;
        }
        let left = end.map(|end| end.saturating_sub(clock::now()));
        if left == Some(0) {
            // The wait may have been just long enough for a reader that stands still.
            give_up(list);
            look(list, scratch);
            ask(list, scratch, Some(0), mask)?;
            return Ok(settle(list, scratch, true));
        }
        sleep(list, scratch, left, mask)?;
        let n = settle(list, scratch, true);
        if n != 0 {
            return Ok(n);
        }
    }
}

/// Whether something of the list can be answered by the kernel only: then an answer without it
/// would be shorter than that of the kernel's own poll.
fn kernel_tells(list: &[pollfd]) -> bool {
    let by_ring = |sock: Sock| sock.rx_ring() && sock.tx_ring() && !ready::ending(sock);
    list.iter()
        .any(|one| one.fd >= 0 && !careful(one.fd).is_some_and(by_ring))
}

fn due() -> bool {
    let now = clock::ticks();
    if now.wrapping_sub(ASKED.load(Relaxed)) < clock::per_us() * KERNEL_US {
        return false;
    }
    ASKED.store(now, Relaxed);
    true
}

/// Prepares what the kernel is to be asked, and tells whether a ring has something to report.
fn look(list: &[pollfd], scratch: &mut [pollfd]) -> bool {
    let mut found = false;
    for (one, copy) in list.iter().zip(scratch.iter_mut()) {
        *copy = pollfd { revents: 0, ..*one };
        if matches!(fds::meaning(one.fd), Meaning::Ours) {
            copy.fd = i32::MAX;
        }
        if let Some(sock) = careful(one.fd) {
            ready::service(sock);
            copy.events = ready::kernel_events(sock, one.events);
            found |= ready::combine(sock, one.events, 0) != 0;
        }
    }
    found
}

/// Takes directions off full rings whose readers do not move, for a program that wants to send.
fn give_up(list: &[pollfd]) {
    let waits = list.iter().filter(|one| one.events & ready::OUT != 0);
    for sock in waits.filter_map(|one| careful(one.fd)) {
        if sock.tx_ring() {
            tx::give_up_if_stalled(sock);
        }
    }
}

fn ask(
    list: &[pollfd],
    scratch: &mut [pollfd],
    limit: Option<u64>,
    mask: Option<*const libc::sigset_t>,
) -> Result<(), i32> {
    let asked = scratch.get_mut(..list.len()).unwrap_or(&mut []);
    os::ppoll(asked, limit, mask).map(drop)
}

/// Fills in the program's results. Gives the number of entries with events.
fn settle(list: &mut [pollfd], scratch: &mut [pollfd], asked: bool) -> usize {
    let mut count = 0;
    for (one, copy) in list.iter_mut().zip(scratch.iter_mut()) {
        let from_kernel = if asked { copy.revents } else { 0 };
        one.revents = match careful(one.fd) {
            Some(sock) => {
                let mut from_kernel = from_kernel;
                if from_kernel != 0 {
                    ready::note_gone(sock, from_kernel);
                    // A handshake message is not the program's.
                    ready::service(sock);
                    let ask = ready::kernel_events(sock, one.events);
                    from_kernel = ready::ask_kernel(sock, ask);
                }
                ready::combine(sock, one.events, from_kernel)
            }
            None => from_kernel,
        };
        if one.revents != 0 {
            count += 1;
        }
    }
    count
}

fn spin(list: &[pollfd]) -> bool {
    let mut apart = false;
    for one in list {
        if let Some(sock) = careful(one.fd)
            && sock.on_ring()
        {
            apart |= !wait::same_cpu(&sock);
        }
    }
    if !apart || list.len() > 256 || !wait::worth_spinning(&SPIN) {
        return false;
    }
    let hit = wait::spin(|_| {
        list.iter().any(|one| {
            careful(one.fd).is_some_and(|sock| {
                ready::ring_mask(sock, one.events) & one.events != 0
                    || (sock.tx_ring() && tx::disturbed(&sock))
            })
        })
    });
    wait::spun(&SPIN, hit);
    if let Some(table) = family::table() {
        let counter = if hit {
            &table.totals.spin_hits
        } else {
            &table.totals.spin_misses
        };
        counter.fetch_add(1, Relaxed);
    }
    hit
}

/// What a sleeper has entered in places that others look at.
struct Asleep {
    ctx: Option<Ctx>,
    list: *const pollfd,
    count: usize,
    rung: bool,
}

/// Ends a sleep, see [`wait::undone`].
unsafe extern "C" fn wake_up(asleep: *mut c_void) {
    // SAFETY: `sleep` has registered its own value, and the list is that of its caller.
    let (asleep, list) = unsafe {
        let asleep = &*asleep.cast::<Asleep>();
        (
            asleep,
            std::slice::from_raw_parts(asleep.list, asleep.count),
        )
    };
    let Some(ctx) = asleep.ctx else { return };
    ctx.word().leave();
    if asleep.rung {
        ctx.drain();
    }
    for one in list {
        // It may have left the ring for good while we slept.
        if let Some(sock) = fds::sock(one.fd) {
            wait::unwatch(sock.conn, ctx);
        }
    }
    ctx.give_back();
}

fn sleep(
    list: &[pollfd],
    scratch: &mut [pollfd],
    limit: Option<u64>,
    mask: Option<*const libc::sigset_t>,
) -> Result<(), i32> {
    if let Some(table) = family::table() {
        table.totals.sleeps.fetch_add(1, Relaxed);
    }
    let mut limit = limit;
    let ctx = ctx::take();
    let mut blind = ctx.is_none();
    for one in list {
        let Some(sock) = careful(one.fd) else {
            continue;
        };
        if let Some(ctx) = ctx {
            // Once, however often the connection is in the list.
            blind |= sock.slot().is_some()
                && !wait::watches(sock.conn, ctx)
                && !wait::watch(sock.conn, ctx);
        }
        if sock.tx_ring() && one.events & ready::OUT != 0 {
            tx::want_room(sock);
            tx::give_up_if_stalled(sock);
            let patience = tx::patience(&sock);
            limit = Some(limit.map_or(patience, |ns| ns.min(patience)));
        }
    }
    if blind {
        limit = Some(limit.map_or(1_000_000, |ns| ns.min(1_000_000)));
    }
    if let Some(often) = lgr::unheard() {
        lgr::try_again();
        limit = Some(limit.map_or(often, |ns| ns.min(often)));
    }
    if let Some(ctx) = ctx {
        ctx.word().enter();
    }
    let mut asleep = Asleep {
        ctx,
        list: list.as_ptr(),
        count: list.len(),
        rung: false,
    };
    let at = &raw mut asleep;
    let rest = || {
        let found = look(list, scratch);
        if let Some(bell) = scratch.get_mut(list.len()) {
            let fd = ctx.map_or(-1, |ctx| ctx.bell);
            *bell = pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            };
        }
        let asked = scratch.get_mut(..list.len() + 1).unwrap_or(&mut []);
        let result = wait::doze(asked, if found { Some(0) } else { limit }, mask);
        // SAFETY: lives in this frame.
        unsafe { (*at).rung = asked.last().is_some_and(|bell| bell.revents != 0) };
        result
    };
    // SAFETY: `asleep` and the list live longer than the sleep, and nothing is undone elsewhere.
    if unsafe { wait::undone(wake_up, at.cast(), rest) }? != 0 {
        daemon::keep_in_touch();
    }
    Ok(())
}
