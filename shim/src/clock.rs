//! Time for deadlines (monotonic nanoseconds) and for spinning (time-stamp counter).

use crate::os;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

/// Monotonic nanoseconds.
pub fn now() -> u64 {
    os::clock_monotonic()
}

/// The time `ns` from now; the end of time, if it is beyond that.
pub fn after(ns: u64) -> u64 {
    now().saturating_add(ns)
}

/// The time-stamp counter.
#[inline]
pub fn ticks() -> u64 {
    // SAFETY: x86-64 has the instruction.
    unsafe { core::arch::x86_64::_rdtsc() }
}

static START: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static PER_US: AtomicU32 = AtomicU32::new(0);

/// Notes the start of the measurement of the counter's rate.
pub fn start() {
    START[0].store(ticks(), Relaxed);
    START[1].store(now(), Relaxed);
}

/// Ticks in a microsecond.
#[inline]
pub fn per_us() -> u64 {
    u64::from(match PER_US.load(Relaxed) {
        0 => measure(),
        n => n,
    })
}

/// Nanoseconds since `began` of the time-stamp counter; a thousandth less rather than more.
pub fn ns_since(began: u64) -> u64 {
    let ticks = i64::try_from(ticks().wrapping_sub(began)).unwrap_or(0);
    (ticks.max(0) as u64).saturating_mul(1000) / (per_us() + 1)
}

fn measure() -> u32 {
    let (t0, n0) = (START[0].load(Relaxed), START[1].load(Relaxed));
    let (t, n) = (ticks(), now());
    // Before a millisecond has passed the quotient is rough: take it, but do not keep it.
    let us = (n.saturating_sub(n0) / 1000).max(1);
    let rate = (t.saturating_sub(t0) / us).clamp(500, 10_000) as u32;
    if us >= 1000 {
        PER_US.store(rate, Relaxed);
    }
    if us < 20 { 2500 } else { rate }
}
