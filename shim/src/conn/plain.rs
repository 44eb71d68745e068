//! Kernel calls that were begun while a connection was plain.

use std::sync::atomic::{AtomicU64, Ordering::*};

/// How many threads are in such a call. Above is the generation of the connection: a call may outlast it, and must not
/// count for the next one in its place.
#[derive(Debug, Default)]
pub struct Plain(AtomicU64);

impl Plain {
    /// For a new connection.
    pub fn begin(&self, generation: u32, calls: u32) {
        let word = u64::from(generation) << 32 | u64::from(calls);
        self.0.store(word, Relaxed);
    }

    pub fn calls(&self) -> u32 {
        self.0.load(SeqCst) as u32
    }

    /// Begins a call. Gives the generation of the connection for which it counts.
    #[inline]
    pub fn enter(&self) -> u32 {
        (self.0.fetch_add(1, SeqCst) >> 32) as u32
    }

    /// Whether this is still the connection of that generation.
    #[inline]
    pub fn is_of(&self, generation: u32) -> bool {
        (self.0.load(Relaxed) >> 32) as u32 == generation
    }

    /// Ends a call.
    #[inline]
    pub fn leave(&self, generation: u32) {
        let one_less = |word: u64| {
            let same = (word >> 32) as u32 == generation;
            (same && word as u32 != 0).then(|| word - 1)
        };
        let _ = self.0.fetch_update(SeqCst, SeqCst, one_less);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread is in a call while its connection is closed, and another comes into the place, on which there are calls
    /// as well.
    #[test]
    fn a_call_outlasts_its_connection() {
        let plain = Plain::default();
        plain.begin(1, 0);
        let late = plain.enter();
        assert!(plain.is_of(late) && plain.calls() == 1);
        plain.begin(3, 0);
        let call = plain.enter();
        plain.leave(late);
        assert!(!plain.is_of(late) && plain.calls() == 1);
        plain.leave(call);
        plain.leave(call);
        assert_eq!(plain.calls(), 0);
    }
}
