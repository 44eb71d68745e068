//! Wait contexts of this process: a [doorbell](crate::os::new_bell) and a word on the wait page each.
//!
//! Taken by a thread for the time that it sleeps, or by an epoll set for good. A context that a
//! sleeper never gives back (longjmp out of a wait) is lost to the process; there are 256.

pub mod bed;

use crate::conn::Conn;
use crate::{family, os, ownfd};
use protocol::shm::sync::fence;
use protocol::shm::wait::{CONTEXTS, WaitWord};
use std::ffi::c_int;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering::*};

/// Doorbell of context N of this process, or -1.
static BELLS: [AtomicI32; CONTEXTS] = [const { AtomicI32::new(-1) }; CONTEXTS];
/// 0: not ours; 1: ours and free; 2: taken.
static STATE: [AtomicU8; CONTEXTS] = [const { AtomicU8::new(0) }; CONTEXTS];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ctx {
    pub number: u32,
    pub bell: c_int,
}

impl Ctx {
    pub fn word(self) -> &'static WaitWord {
        family::wait_word(self.number)
    }

    /// Silences the doorbell. The caller looks at what it waits for afterwards.
    pub fn drain(self) {
        os::silence(self.bell);
        self.word().renew();
    }

    /// Rings it from within the process.
    pub fn ring(self) {
        os::ring(self.bell);
    }

    /// As [`Ctx::ring`], unless it rings already: to ring anew would be news to who watches it edge-triggered.
    pub fn ring_once(self) {
        if os::poll_one(self.bell, libc::POLLIN, 0) != Ok(libc::POLLIN) {
            self.ring();
        }
    }

    pub fn give_back(self) {
        if let Some(state) = STATE.get(self.number as usize) {
            state.store(1, Release);
        }
    }
}

/// Rings all contexts of this process in which somebody sleeps.
pub fn ring_sleepers() {
    // SYNC: sleep/leave. The change that sleepers are to see is visible before we look for them.
    fence(SeqCst);
    for (n, (state, bell)) in STATE.iter().zip(&BELLS).enumerate() {
        if state.load(Acquire) == 2 && family::wait_word(n as u32).sleepers() {
            os::ring(bell.load(Acquire));
        }
    }
}

/// A context for one sleeper or one set.
pub fn take() -> Option<Ctx> {
    let ctx = take_any()?;
    ctx.rise();
    Some(ctx)
}

/// A context for a sleep on the connection: the one that it had last, if that is free. The caller sleeps in its
/// [`bed`], or calls [`Ctx::rise`].
pub fn take_for(conn: &Conn) -> Option<Ctx> {
    let number = conn.slept_in.load(Relaxed).wrapping_sub(1);
    let again = || {
        let state = STATE.get(number as usize)?;
        state.compare_exchange(1, 2, AcqRel, Relaxed).ok()?;
        own(number)
    };
    again().or_else(|| {
        let ctx = take_any()?;
        conn.slept_in.store(ctx.number + 1, Relaxed);
        Some(ctx)
    })
}

fn take_any() -> Option<Ctx> {
    for (n, state) in STATE.iter().enumerate() {
        if state.load(Relaxed) == 1 && state.compare_exchange(1, 2, AcqRel, Relaxed).is_ok() {
            let bell = BELLS.get(n)?.load(Acquire);
            return Some(Ctx {
                number: n as u32,
                bell,
            });
        }
    }
    let number = family::take_context()?;
    let bell = os::new_bell().and_then(ownfd::raise);
    let Ok(bell) = bell else {
        family::give_context(number);
        return None;
    };
    BELLS.get(number as usize)?.store(bell, Release);
    STATE.get(number as usize)?.store(2, Release);
    family::wait_word(number).new_bell();
    crate::lgr::renew(number);
    crate::daemon::bell(number, bell);
    Some(Ctx { number, bell })
}

/// A context of this process that is taken.
pub fn own(number: u32) -> Option<Ctx> {
    let (state, bell) = (STATE.get(number as usize)?, BELLS.get(number as usize)?);
    let bell = bell.load(Acquire);
    (state.load(Acquire) == 2).then_some(Ctx { number, bell })
}

/// The contexts of this process.
pub fn each(mut f: impl FnMut(Ctx)) {
    for (n, (state, bell)) in STATE.iter().zip(&BELLS).enumerate() {
        if state.load(Acquire) != 0 {
            f(Ctx {
                number: n as u32,
                bell: bell.load(Acquire),
            });
        }
    }
}

pub fn moved(from: c_int, to: c_int) {
    for bell in &BELLS {
        let _ = bell.compare_exchange(from, to, AcqRel, Relaxed);
    }
    bed::moved(from, to);
}

/// In the child of a fork: leaves the doorbell of the parent's context `number` open.
pub fn disown(number: u32) {
    if let (Some(state), Some(bell)) = (STATE.get(number as usize), BELLS.get(number as usize)) {
        state.store(0, Release);
        bell.store(-1, Release);
        bed::forked(number as usize);
    }
}

/// In the child of a fork: the parent's contexts are not ours.
pub fn forked() {
    for (n, (state, bell)) in STATE.iter().zip(&BELLS).enumerate() {
        if state.swap(0, AcqRel) != 0 {
            ownfd::close(bell.swap(-1, AcqRel));
            bed::forked(n);
        }
    }
}

/// The process ends: its numbers can be used again.
pub fn ending() {
    for (n, state) in STATE.iter().enumerate() {
        if state.load(Relaxed) != 0 {
            family::give_context(n as u32);
        }
    }
}
