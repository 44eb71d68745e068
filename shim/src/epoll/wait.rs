//! epoll_wait on a set with converted registrations.

use super::output::Output;
use super::reg;
use super::set::{Set, Tagged};
use super::spin::spin;
use super::{afar, shown};
use crate::conn::tx;
use crate::wait as threads;
use crate::{clock, daemon, errno, family, lgr, os, real};
use protocol::shm::wait::WaitWord;
use std::ffi::{c_int, c_void};
use std::sync::atomic::Ordering::*;

/// While rings keep a set busy, how often the kernel's set is asked too; and after how many outputs
/// that the rings filled, so that what only the kernel sees gets its turn.
const KERNEL_US: u64 = 40;
const KERNEL_TURN: u32 = 4;

/// Waits as epoll_pwait2 does; `timeout` in nanoseconds. Gives the number of events.
///
/// # Safety
/// `events` points to room for `max` events, `mask` is null or points to a signal set.
pub unsafe fn wait(
    set: &'static Set,
    events: *mut libc::epoll_event,
    max: usize,
    timeout: Option<u64>,
    mask: *const libc::sigset_t,
) -> Result<usize, i32> {
    let mut out = Output {
        at: events,
        max,
        used: 0,
        round: set.round.fetch_add(1, Relaxed),
    };
    let handed = set.handed.load(Acquire);
    collect(set, &mut out, timeout, mask)?;
    if set.handed.load(Acquire) != handed {
        out.unite();
    }
    Ok(out.used)
}

/// Fills the output; returns when it has something, or the time is over.
fn collect(
    set: &'static Set,
    out: &mut Output,
    timeout: Option<u64>,
    mask: *const libc::sigset_t,
) -> Result<(), i32> {
    // The clock is not read for a wait that finds something at once.
    let mut end = None;
    let mut spun = false;
    loop {
        reg::make_up();
        let mut asked = None;
        if afar::any() && out.max > 1 {
            // What the set has of those is part of what the lookout says of them, and no news behind it.
            let places = out.max;
            out.max = places / 2;
            let result = ask_kernel(set, out, Some(0), mask);
            out.max = places;
            asked = Some(result?);
        }
        // First the hints, then what is hot: see `Hints::take`.
        let due = asked.is_none() && due(set);
        let hinted = (due || asked.is_some()) && set.take_hints();
        // When it is the kernel's turn, places are left to it.
        let places = out.max;
        let its_turn = set.filled.load(Relaxed) >= KERNEL_TURN;
        out.max = match (its_turn, due) {
            (true, _) => 0,
            (_, true) => places.div_ceil(2),
            _ => places,
        };
        scan(set, out);
        out.max = places;
        if out.used == 0 && !hinted && set.take_hints() {
            scan(set, out);
        }
        if out.used != 0 && !due {
            return Ok(());
        }
        if out.used != 0 || its_turn || timeout == Some(0) {
            // Not twice: it would say once more what holds.
            let rung = match asked {
                Some(rung) => rung,
                None => ask_kernel(set, out, Some(0), mask)?,
            };
            // With what the kernel has told of ours.
            scan(set, out);
            if rung {
                heard(set, out);
            }
            if out.used != 0 || timeout == Some(0) {
                return Ok(());
            }
        }
        let end = *end.get_or_insert_with(|| timeout.map(|ns| clock::now().saturating_add(ns)));
        if !spun && set.lively.swap(0, Relaxed) != 0 && spin(set) {
            spun = true;
            continue;
        }
        let left = end.map(|end| end.saturating_sub(clock::now()));
        if left == Some(0) {
            let _ = ask_kernel(set, out, Some(0), mask)?;
            scan(set, out);
            return Ok(());
        }
        let rung = sleep(set, out, left, mask)?;
        scan(set, out);
        if rung {
            heard(set, out);
        }
        if out.used != 0 {
            return Ok(());
        }
    }
}

fn kernel_turn() -> u64 {
    clock::per_us() * KERNEL_US
}

/// Whether it is time to ask the kernel although rings have events.
fn due(set: &Set) -> bool {
    let since = clock::ticks().wrapping_sub(set.looked.load(Relaxed));
    since >= kernel_turn() || set.filled.load(Relaxed) >= KERNEL_TURN
}

/// Puts what the rings have into the output.
fn scan(set: &Set, out: &mut Output) {
    loop {
        let moves = set.active.moves();
        walk(set, out);
        if out.used != 0 || set.active.moves() == moves {
            return;
        }
    }
}

/// One look at all that is hot, starting where the last one stopped.
fn walk(set: &Set, out: &mut Output) {
    let list = set.active.places();
    if list.is_empty() || out.full() {
        return;
    }
    let Some(view) = set.view() else { return };
    let start = set.turn.load(Relaxed) as usize % list.len();
    let (before, after) = list.split_at(start);
    for (i, place) in after.iter().chain(before).enumerate() {
        let Some((reg, mine)) = view.at(place) else {
            continue;
        };
        if !mine.is_of(reg) {
            set.cool(reg, mine);
            continue;
        }
        if mine.round.load(Relaxed) == out.round {
            continue;
        }
        let events = reg.report(true);
        if events == 0 {
            set.looked_in_vain(reg, mine);
            continue;
        }
        mine.vain.store(0, Relaxed);
        mine.round.store(out.round, Relaxed);
        set.lively.store(1, Relaxed);
        out.put(reg::output(reg, events));
        if out.full() {
            set.turn.store((start + i + 1) as u32, Relaxed);
            set.filled.fetch_add(1, Relaxed);
            // There may be more, for others who sleep on the set.
            if let Some(ctx) = set.ctx().filter(|ctx| ctx.word().sleepers()) {
                ctx.ring();
            }
            return;
        }
    }
}

/// Whether a look would bring something.
fn promising(set: &Set) -> bool {
    set.take_hints();
    set.any_hot(|reg| reg.report(false) != 0)
}

/// The doorbell rang.
fn heard(set: &Set, out: &mut Output) {
    if out.used == 0 {
        return quiet(set, out);
    }
    settle_bell(set);
}

/// Whoever polls the set hears of it as long as it rings: not of what was told, or is gone.
pub fn settle_bell(set: &Set) {
    if set.foreign()
        && let Some(ctx) = set.ctx()
    {
        if !promising(set) {
            ctx.drain();
        }
        if promising(set) {
            ctx.ring_once();
        }
    }
}

/// Nothing was found: the doorbell is silenced, and everything looked at once more.
fn quiet(set: &Set, out: &mut Output) {
    if let Some(ctx) = set.ctx() {
        ctx.drain();
        scan(set, out);
        if out.used != 0 {
            // Others who sleep on the set were not rung for this.
            ctx.ring();
        }
    } else {
        set.hush();
    }
}

/// Sleeps in the kernel's set. True: the doorbell rang.
fn sleep(
    set: &Set,
    out: &mut Output,
    left: Option<u64>,
    mask: *const libc::sigset_t,
) -> Result<bool, i32> {
    let sooner = |left: Option<u64>, limit: Option<u64>| match (left, limit) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    let left = sooner(left, blind(set));
    let Some(ctx) = set.ctx() else {
        return ask_kernel(set, out, left, mask);
    };
    if let Some(table) = family::table() {
        table.totals.sleeps.fetch_add(1, Relaxed);
    }
    // For these nobody is to ring.
    set.cool_dormant();
    ctx.word().enter();
    let at = ctx.word() as *const WaitWord as *mut c_void;
    let rest = || {
        if reg::missed() || promising(set) {
            return ask_kernel(set, out, Some(0), mask);
        }
        let limit = blocked_writer(set);
        if promising(set) {
            return ask_kernel(set, out, Some(0), mask);
        }
        ask_kernel(set, out, sooner(left, limit), mask)
    };
    // SAFETY: the word is never unmapped; what was entered is left once.
    unsafe { threads::undone(wake_up, at, rest) }
}

/// Ends a sleep, see [`threads::undone`].
unsafe extern "C" fn wake_up(word: *mut c_void) {
    // SAFETY: a word of the wait page.
    unsafe { &*word.cast::<WaitWord>() }.leave();
}

/// How long a sleep may last with a connection for which nobody rings.
fn blind(set: &Set) -> Option<u64> {
    let unheard = |reg| shown::unheard(reg) || afar::any() && afar::is_there(reg);
    (set.foreign() || afar::any())
        .then(|| set.hot().any(unheard))?
        .then_some(threads::BLIND_NS)
}

/// A sleep with a full ring lasts no longer than the reader is given (see `tx::stalled`), and one
/// while a peer could not be woken lasts as long as between two attempts.
fn blocked_writer(set: &Set) -> Option<u64> {
    let mut limit = lgr::wake_again();
    for reg in set.hot().filter(|reg| reg.wants_room()) {
        if let Some(sock) = reg.sock()
            && sock.tx_ring()
            && !tx::has_room(&sock)
        {
            // The peer's next update is to ring.
            tx::want_room(sock);
            tx::give_up_if_stalled(sock);
            let patience = tx::patience(&sock);
            limit = Some(limit.map_or(patience, |ns: u64| ns.min(patience)));
        }
    }
    limit
}

/// epoll_pwait2; a wait that may last is libc's, and so a point of cancellation.
fn kernel_wait(
    epfd: c_int,
    events: *mut libc::epoll_event,
    max: c_int,
    timeout: Option<u64>,
    mask: *const libc::sigset_t,
) -> Result<usize, i32> {
    if timeout == Some(0) {
        return os::epoll_wait(epfd, events, max, timeout, mask);
    }
    let time = timeout.map(os::timespec);
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let result = errno::keep(|| {
        // SAFETY: the caller's array and mask, a local time.
        let n = unsafe { real::epoll_pwait2(epfd, events, max, time, mask) };
        usize::try_from(n).map_err(|_| errno::get())
    });
    match result {
        // An old kernel.
        Err(libc::ENOSYS) => os::epoll_wait(epfd, events, max, timeout, mask),
        result => result,
    }
}

/// How many answers that hold only events of ours are taken in a row.
const OURS_AHEAD: usize = 8;

/// epoll_pwait2 on the kernel's set. Events of the program's own descriptors go to the output; our
/// tags are taken note of. True: the doorbell rang.
fn ask_kernel(
    set: &Set,
    out: &mut Output,
    timeout: Option<u64>,
    mask: *const libc::sigset_t,
) -> Result<bool, i32> {
    let began = clock::ticks();
    set.looked.store(began, Relaxed);
    set.filled.store(0, Relaxed);
    let room = (out.max - out.used) as c_int;
    if room == 0 {
        return Ok(false);
    }
    // SAFETY: room for `room` events behind those in use.
    let from = unsafe { out.at.add(out.used) };
    let (before, mut rung) = (out.used, false);
    let mut n = kernel_wait(set.epfd(), from, room, timeout, mask)?;
    if n != 0 {
        daemon::keep_in_touch();
    }
    let mut more = OURS_AHEAD;
    loop {
        for i in 0..n {
            // SAFETY: the kernel has written n events; those kept lie at or before the one read.
            let event = unsafe { from.add(i).read_unaligned() };
            match set.read_tag(event.u64) {
                Tagged::Program => out.put(event),
                Tagged::Bell => rung = true,
                Tagged::Reg(reg) => out.hear(set, reg, event.events),
                Tagged::Stale => {}
            }
        }
        if out.used != before || n < room as usize || more == 0 {
            if n < room as usize {
                set.drained(began);
            }
            if out.used != before {
                // What the kernel had for the program may be there still: the next wait asks again.
                set.looked.store(began.wrapping_sub(kernel_turn()), Relaxed);
            }
            return Ok(rung);
        }
        // The program has room for few, and ours took all of it: what is the program's waits behind.
        more -= 1;
        n = kernel_wait(set.epfd(), from, room, Some(0), mask).unwrap_or(0);
    }
}
