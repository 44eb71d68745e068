//! What the kernel has announced for one registration of an epoll set, and nobody has asked about yet.
//!
//! An edge is told once, to whichever thread waits in the kernel's set; the others learn of it here. A
//! look asks the kernel only while something is announced. When that brings nothing the announcement is
//! over, unless there was another meanwhile, or what lies there could not be told: then it stands, and
//! who can tell it later wakes those who sleep.

use super::sync::{AtomicU64, Ordering};

const EVENTS: u64 = 0xffff_ffff;

/// In memory of one process or of its fork family: how often there was something in the upper half, events in the lower one.
#[derive(Debug, Default)]
pub struct Announced(AtomicU64);

/// How an announcement stood before the kernel was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen(u64);

impl Seen {
    pub fn anything(self) -> bool {
        self.0 & EVENTS != 0
    }

    /// How often there was something.
    pub fn count(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub fn word(self) -> u64 {
        self.0
    }
}

impl Announced {
    /// The kernel has told of `events`, or is to be asked about them.
    pub fn note(&self, events: u32) {
        // SYNC: announced. Counted too: who ends an announcement after this has asked the kernel after it.
        let noted = |word: u64| Some(word.wrapping_add(EVENTS + 1) | u64::from(events));
        let _ = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, noted);
    }

    /// Read before the kernel is asked.
    pub fn seen(&self) -> Seen {
        Seen(self.0.load(Ordering::Acquire))
    }

    /// The kernel was asked, and has nothing. At no time is an announcement missing that came since.
    pub fn over(&self, seen: Seen) {
        let (from, to) = (seen.0, seen.0 & !EVENTS);
        let _ = self
            .0
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// For another registration.
    pub fn reset(&self) {
        self.0.fetch_and(!EVENTS, Ordering::AcqRel);
    }
}
