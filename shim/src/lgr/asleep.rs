//! Peers that sleep on although they were to be woken.
//!
//! Either their doorbell could not be had: out of descriptors, or of memory. Or it was rung in vain: a context has one for
//! all of its peers, and each of them can take off what another has rung. Who has rung one that others have as well
//! looks, before its own sleeps, whether the sleeper has woken since. If not, it rings again, and at last has the kernel
//! wake it: by bytes over TCP.

use super::{BELLS, GROUPS, LinkGroup, get, used};
use crate::clock;
use crate::conn::twice;
use crate::os;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::*};

/// Some peer sleeps whose doorbell could not be had.
static UNHEARD: AtomicU32 = AtomicU32::new(0);
/// Between attempts to get it.
const UNHEARD_NS: u64 = 2_000_000;

/// Rings that may come to nothing, each where its context belongs: a [`Doubt`].
static DOUBTS: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];
static DOUBTFUL: AtomicU32 = AtomicU32::new(0);
/// After this time it is rung again, and after twice that time woken otherwise.
const DOUBT_MS: u64 = 50;
const AGAIN: u64 = 1;

/// A context that was rung at a time in milliseconds, and how often again. Zero: none.
#[derive(Clone, Copy)]
struct Doubt(u64);

impl Doubt {
    fn new(group: usize, context: u32, again: u64, now: u64) -> Self {
        Doubt(now << 24 | again.min(15) << 20 | (group as u64 + 1) << 8 | u64::from(context & 0xff))
    }

    fn group(self) -> u32 {
        (self.0 >> 8) as u32 & 0xfff
    }

    fn context(self) -> u32 {
        self.0 as u32 & 0xff
    }

    fn again(self) -> u64 {
        self.0 >> 20 & 15
    }

    /// Milliseconds since it was rung, up to some hours.
    fn age(self, now: u64) -> u64 {
        now.wrapping_sub(self.0 >> 24) & 0xff_ffff
    }
}

const _: () = assert!(GROUPS.len() < 1 << 12 && super::CONTEXTS <= 1 << 8);

fn milliseconds() -> u64 {
    clock::now() / 1_000_000
}

/// A doorbell could not be had.
pub(super) fn unheard() {
    UNHEARD.store(1, Release);
}

/// A context of the peer's was rung, whose doorbell others have as well, or could not be had.
#[cold]
pub(super) fn doubt(group: usize, context: u32) {
    let at = (group * 7 + context as usize) % DOUBTS.len();
    if let Some(place) = DOUBTS.get(at) {
        place.store(Doubt::new(group, context, 0, milliseconds()).0, Release);
        DOUBTFUL.store(1, Release);
    }
}

/// Before a sleep of our own: tries to wake those who sleep on. Gives how long the sleep may last, as long as there are
/// some.
pub fn wake_again() -> Option<u64> {
    let unheard = (UNHEARD.load(Acquire) != 0).then(|| {
        fetch_again();
        UNHEARD_NS
    });
    if DOUBTFUL.load(Acquire) == 0 {
        return unheard;
    }
    match (unheard, ring_again()) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Tries once more to get the doorbells that could not be had; those are rung.
fn fetch_again() {
    if UNHEARD.swap(0, AcqRel) == 0 {
        return;
    }
    for (group, bells) in used().iter().zip(&BELLS) {
        if !matches!(group.id.load(Acquire), 0 | u32::MAX) {
            group.fetch_bells(bells);
            let waits = |(fd, rung): (&AtomicI32, &AtomicU64)| {
                fd.load(Acquire) < 0 && rung.load(Acquire) != 0
            };
            if !group.peer_gone() && bells.fd.iter().zip(&bells.rung).any(waits) {
                unheard();
            }
        }
    }
}

/// Rings those who still sleep as they did when they were rung, and gives the time until the next look at them.
#[cold]
fn ring_again() -> Option<u64> {
    DOUBTFUL.store(0, Release);
    let now = milliseconds();
    let mut next: Option<u64> = None;
    for place in &DOUBTS {
        let doubt = Doubt(place.load(Acquire));
        if doubt.0 == 0 {
            continue;
        }
        let group = get(doubt.group());
        let Some(bell) = group.and_then(|group| group.sleeps_on(doubt.context())) else {
            // What another thread has put there meanwhile stays.
            let _ = place.compare_exchange(doubt.0, 0, AcqRel, Relaxed);
            continue;
        };
        let (wait, age) = (DOUBT_MS << doubt.again(), doubt.age(now));
        let left = if age < wait {
            wait - age
        } else if doubt.again() < AGAIN {
            if bell >= 0 {
                os::ring(bell);
            }
            let index = doubt.group() as usize - 1;
            let again = Doubt::new(index, doubt.context(), doubt.again() + 1, now);
            let _ = place.compare_exchange(doubt.0, again.0, AcqRel, Relaxed);
            wait * 2
        } else {
            if place.compare_exchange(doubt.0, 0, AcqRel, Relaxed).is_ok() {
                twice::wake_over_tcp(doubt.group(), doubt.context());
            }
            continue;
        };
        DOUBTFUL.store(1, Release);
        next = Some(next.map_or(left, |ms| ms.min(left)));
    }
    next.map(|ms| ms * 1_000_000)
}

impl LinkGroup {
    /// The doorbell of the peer's context `n`, if that sleeps in the epoch in which it was rung; below 0: not to be had.
    fn sleeps_on(&self, n: u32) -> Option<i32> {
        if matches!(self.id.load(Acquire), 0 | u32::MAX) {
            return None;
        }
        let bells = BELLS.get(self.index())?;
        let (fd, rung) = (bells.fd.get(n as usize)?, bells.rung.get(n as usize)?);
        let epoch = self.mapped.wait_word(n as usize)?.epoch_if_asleep()?;
        (rung.load(Acquire) == epoch << 1 | 1).then(|| fd.load(Acquire))
    }
}
