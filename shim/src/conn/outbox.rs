//! CLC messages in memory of the family: the one that is to be sent next, or was sent last, and the
//! one that was taken off the stream and is still to be acted on.

use protocol::clc::{self, Message};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

/// A message of at most `WORDS * 8` bytes.
#[derive(Debug)]
#[repr(C)]
pub struct Kept<const WORDS: usize> {
    len: AtomicU32,
    words: [AtomicU64; WORDS],
}

/// Accept and Confirm are the longest that are kept for sending (130 bytes).
pub type Outbox = Kept<17>;
pub type Inbox = Kept<{ clc::MAX_LEN.div_ceil(8) }>;

impl<const WORDS: usize> Default for Kept<WORDS> {
    fn default() -> Self {
        Kept {
            len: AtomicU32::new(0),
            words: [const { AtomicU64::new(0) }; WORDS],
        }
    }
}

impl<const WORDS: usize> Kept<WORDS> {
    /// Keeps the bytes of a message.
    pub fn put_bytes(&self, bytes: &[u8]) {
        for (word, part) in self.words.iter().zip(bytes.chunks(8)) {
            let mut raw = [0; 8];
            for (to, from) in raw.iter_mut().zip(part) {
                *to = *from;
            }
            word.store(u64::from_ne_bytes(raw), Relaxed);
        }
        self.len.store(bytes.len() as u32, Release);
    }

    /// Keeps a message. The caller publishes it by changing the step.
    pub fn put(&self, message: &Message) {
        let mut packet = [0u8; clc::MAX_LEN];
        let len = message.encode(&mut packet);
        self.put_bytes(packet.get(..len).unwrap_or(&[]));
    }

    pub fn is_empty(&self) -> bool {
        self.len.load(Acquire) == 0
    }

    /// Copies the message out; gives its length.
    pub fn get(&self, packet: &mut [u8; clc::MAX_LEN]) -> usize {
        self.copy(packet);
        (self.len.load(Acquire) as usize).min(WORDS * 8)
    }

    /// Takes the message out, once. Gives its length; 0: there was none.
    pub fn take(&self, packet: &mut [u8; clc::MAX_LEN]) -> usize {
        self.copy(packet);
        (self.len.swap(0, AcqRel) as usize).min(WORDS * 8)
    }

    fn copy(&self, packet: &mut [u8; clc::MAX_LEN]) {
        for (word, part) in self.words.iter().zip(packet.chunks_mut(8)) {
            for (to, from) in part.iter_mut().zip(word.load(Relaxed).to_ne_bytes()) {
                *to = from;
            }
        }
    }

    pub fn message(&self) -> Option<Message> {
        let mut packet = [0u8; clc::MAX_LEN];
        let len = self.get(&mut packet);
        clc::decode(packet.get(..len)?).ok()
    }

    /// Forgets the message.
    pub fn clear(&self) {
        self.len.store(0, Release);
    }
}
