//! The word that carries the consumer cursor and all flags, as its writer keeps it.
//!
//! Threads of both directions change it: a receive moves the cursor, a send sets and clears flags.
//! What stands in the peer's DMB can be written by the peer and is never read back; the truth is an
//! **image** in private memory. Each change goes into the image first, then whoever finds nobody
//! publishing publishes the newest image; the others leave it to that one.
//!
//! Without that a thread that was held up could store an old cursor over a newer one.

use super::cdc::Cursor;
use super::ring::DmbHeader;
use super::sync::{AtomicU64, Ordering};

/// Image of a consumer word, and who publishes it. All zero is a valid start.
#[derive(Debug, Default)]
#[repr(C)]
pub struct ConsumerWord {
    image: AtomicU64,
    /// Changes since somebody began to publish; 0: nobody does.
    pending: AtomicU64,
}

impl ConsumerWord {
    /// Cursor and flags as changed last, published or about to be.
    pub fn load(&self) -> (Cursor, u16) {
        Cursor::from_word(self.image.load(Ordering::Acquire))
    }

    /// Forgets everything, for a new connection that nobody else uses yet.
    pub fn reset(&self) {
        self.image.store(0, Ordering::Relaxed);
        self.pending.store(0, Ordering::Relaxed);
    }

    /// Moves the cursor in a ring of `size` bytes. It never goes back: a caller that a signal handler
    /// has overtaken changes nothing.
    pub fn confirm(&self, peer: Option<&DmbHeader>, cursor: Cursor, size: u32) {
        self.change(peer, |word| {
            let (old, flags) = Cursor::from_word(word);
            match old.distance(cursor, size) {
                Ok(_) => cursor.word(flags),
                Err(_) => word,
            }
        });
    }

    /// Sets and clears flags.
    pub fn change_flags(&self, peer: Option<&DmbHeader>, set: u16, clear: u16) {
        self.change(peer, |word| {
            let (cursor, flags) = Cursor::from_word(word);
            cursor.word(flags & !clear | set)
        });
    }

    fn change(&self, peer: Option<&DmbHeader>, f: impl Fn(u64) -> u64) {
        let _ = self
            .image
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| Some(f(word)));
        let Some(peer) = peer else { return };
        // SYNC: consumer-word. Read-modify-writes of `pending` are in one order: either the
        // publisher's last one below comes later, fails, and so sees our image, or we publish.
        if self.pending.fetch_add(1, Ordering::AcqRel) != 0 {
            return;
        }
        let mut seen = 1;
        loop {
            let newest = self.image.load(Ordering::Acquire);
            // SYNC: ring-space. Pairs with the load in `Producer::refresh`.
            peer.consumer.store(newest, Ordering::Release);
            match self
                .pending
                .compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::cdc::{Place, flag};
    use super::*;

    fn published(peer: &DmbHeader) -> (Cursor, u16) {
        Cursor::from_word(peer.consumer.load(Ordering::Relaxed))
    }

    #[test]
    fn cursor_and_flags_change_apart() {
        let (word, peer) = (ConsumerWord::default(), DmbHeader::default());
        word.change_flags(Some(&peer), flag::WRITE_BLOCKED, 0);
        let at = Place::at(70, 64).cursor;
        word.confirm(Some(&peer), Place::at(40, 64).cursor, 64);
        word.confirm(Some(&peer), at, 64);
        assert_eq!(published(&peer), (at, flag::WRITE_BLOCKED));
        word.change_flags(Some(&peer), flag::CLOSED, flag::WRITE_BLOCKED);
        assert_eq!(published(&peer), (at, flag::CLOSED));
        assert_eq!(word.load(), published(&peer));
    }

    #[test]
    fn the_cursor_does_not_go_back() {
        let (word, peer) = (ConsumerWord::default(), DmbHeader::default());
        let at = Place::at(64, 64).cursor;
        word.confirm(Some(&peer), at, 64);
        word.confirm(Some(&peer), Place::at(63, 64).cursor, 64);
        assert_eq!(published(&peer), (at, 0));
    }

    #[test]
    fn a_change_before_there_is_a_peer_is_published_with_the_next() {
        let (word, peer) = (ConsumerWord::default(), DmbHeader::default());
        word.change_flags(None, flag::DONE_WRITING, 0);
        word.confirm(Some(&peer), Place::at(1, 64).cursor, 64);
        assert_eq!(published(&peer).1, flag::DONE_WRITING);
    }
}
