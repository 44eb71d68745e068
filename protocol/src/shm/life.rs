//! How long a connection's place in the memory of a fork family is its own, and how long a process keeps mapped what
//! the connection looks at.

use super::sync::{AtomicU32, AtomicU64, Ordering, fence, fence_behind_rmw};

/// What decides about the end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Life<'a> {
    /// Processes that hold it.
    pub holders: &'a AtomicU32,
    /// Threads that are not through with it.
    pub sleepers: &'a AtomicU32,
    /// Odd while in use.
    pub generation: &'a AtomicU32,
}

impl Life<'_> {
    /// From here on, until [`Life::unpin`], the place is not used again. False: it is not the connection of that
    /// generation any more.
    pub fn pin(&self, generation: u32) -> bool {
        self.sleepers.fetch_add(1, Ordering::AcqRel);
        // SYNC: close/sleep. As for who sleeps on it.
        fence_behind_rmw();
        // Held first: where that is another connection's doing already, so is the generation.
        let held = self.holders.load(Ordering::Acquire) != 0;
        held && self.generation.load(Ordering::Acquire) == generation
    }

    /// This thread is through with it. True: nobody else may know that nobody holds it, so [`Life::end`] is due.
    pub fn unpin(&self) -> bool {
        let last = self.sleepers.fetch_sub(1, Ordering::AcqRel) == 1;
        // SYNC: close/sleep. Either we see that nobody holds it, or the last holder that nobody sleeps.
        fence_behind_rmw();
        last && self.holders.load(Ordering::Acquire) == 0
    }

    /// This process does not hold it any more. True: nobody does, and [`Life::end`] is due.
    pub fn leave(&self) -> bool {
        self.holders.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Ends the connection, if nobody holds it and nobody sleeps on it. Gives its generation to the one caller who is
    /// to give its place back.
    pub fn end(&self) -> Option<u32> {
        // SYNC: close/sleep. The holders were counted down before.
        fence(Ordering::SeqCst);
        // Before the look at who holds it: of a connection that has come into the place since, this is not the generation.
        let generation = self.generation.load(Ordering::Acquire);
        if generation & 1 == 0
            || self.holders.load(Ordering::Acquire) != 0
            || self.sleepers.load(Ordering::Acquire) != 0
        {
            return None;
        }
        let next = generation.wrapping_add(1);
        self.generation
            .compare_exchange(generation, next, Ordering::AcqRel, Ordering::Relaxed)
            .ok()
    }

    /// A new connection in a place that was given back, held by this process.
    pub fn begin(&self) {
        self.holders.store(1, Ordering::Release);
        self.generation.fetch_add(1, Ordering::AcqRel);
    }
}

/// What a process keeps mapped for the connection in some place: its number, which is not 0, beside the generation.
#[derive(Debug, Default)]
pub struct Kept(AtomicU64);

impl Kept {
    #[cfg(not(loom))]
    pub const fn nothing() -> Self {
        Kept(AtomicU64::new(0))
    }

    /// Gives what was kept for an earlier connection, or 0.
    pub fn keep(&self, generation: u32, what: u32) -> u32 {
        let word = u64::from(generation) << 32 | u64::from(what);
        self.0.swap(word, Ordering::AcqRel) as u32
    }

    /// The generation for which something is kept.
    pub fn generation(&self) -> Option<u32> {
        let word = self.0.load(Ordering::Acquire);
        (word as u32 != 0).then_some((word >> 32) as u32)
    }

    /// Gives what is kept for the connection of that generation, once; or 0.
    pub fn let_go(&self, generation: u32) -> u32 {
        let word = self.0.load(Ordering::Acquire);
        let same = (word >> 32) as u32 == generation;
        let gone = same
            && self
                .0
                .compare_exchange(word, 0, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        if gone { word as u32 } else { 0 }
    }
}

/// Something was passed over that threads asleep are to make up for.
#[derive(Debug, Default)]
pub struct Missed(AtomicU32);

impl Missed {
    #[cfg(not(loom))]
    pub const fn nothing() -> Self {
        Missed(AtomicU32::new(0))
    }

    /// The caller rings all who sleep afterwards.
    pub fn note(&self) {
        self.0.store(1, Ordering::Release);
    }

    /// For who is about to sleep, and has said so.
    pub fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    /// True: it is the caller who makes up for it, and rings those who sleep once more then.
    pub fn take(&self) -> bool {
        self.any() && self.0.swap(0, Ordering::AcqRel) != 0
    }
}
