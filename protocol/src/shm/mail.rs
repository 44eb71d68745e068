//! How far a client has read the messages that the daemon counts in its mailbox.
//!
//! All threads look at the count, and one at a time reads. Who finds another one at it leaves to that one what it has seen
//! counted, and may sleep until something comes of it: so whoever has read looks once more.

use super::sync::{AtomicU32, Ordering, fence};

/// The count up to which messages were read.
#[derive(Debug, Default)]
pub struct Mail(AtomicU32);

impl Mail {
    #[cfg(not(loom))]
    pub const fn nothing() -> Self {
        Mail(AtomicU32::new(0))
    }

    /// There is a new mailbox. By who reads.
    pub fn begin(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Whether something is to be read when the mailbox says `count`, or when there is none.
    pub fn has_come(&self, count: Option<u32>) -> bool {
        count != Some(self.0.load(Ordering::Relaxed))
    }

    /// Reads what has come, with `read`, all of it, if nobody else is at that: the lock is had with `try_lock`.
    pub fn take<Held>(
        &self,
        count: impl Fn() -> Option<u32>,
        try_lock: impl Fn() -> Option<Held>,
        read: impl Fn(),
        unlock: impl Fn(Held),
    ) {
        loop {
            // SYNC: mail. Who finds the lock held has seen a count that its holder will see.
            fence(Ordering::SeqCst);
            let Some(held) = try_lock() else {
                return;
            };
            // By who reads only: the messages may be those that somebody else has overlooked.
            if let Some(count) = count() {
                self.0.store(count, Ordering::Relaxed);
            }
            read();
            unlock(held);
            // SYNC: mail. As above.
            fence(Ordering::SeqCst);
            let now = count();
            if now.is_none() || !self.has_come(now) {
                return;
            }
        }
    }
}
