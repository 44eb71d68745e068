//! Connections that have shown little traffic yet: one word for each, in the statistics table.
//!
//! Most connections are short, and a place in the memory of the family, a row and whatever else a connection on
//! a ring needs would be made and given back for nothing. So a process begins with a word at the number of the
//! descriptor, which has all that matters so far; the connection is entered in full when it has shown enough
//! traffic, or something is asked of it that a word does not tell (a fork, a duplicate, ...). A block of such
//! words belongs to one process.
//!
//! All changes are compare-and-swap of the whole word, so that its counts are exact at the moment in which it
//! is replaced by the name of the connection. Whatever becomes of it, it goes on counting the calls that were begun
//! while it was short: until they are over no other connection begins in it, so none can count for that.

use crate::shm::sync::{self, Ordering::*};
use crate::stats::add;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// Descriptors of a process that can have a word.
pub const FDS: usize = 4096;
/// Processes of a family that have words.
pub const BLOCKS: usize = 64;

/// Calls in the kernel, whatever the word says beside.
const CALLS: u64 = 0x3f;
const EXCHANGES_AT: u32 = 6;
const EXCHANGES: u64 = 0x1f;
const SENT_AT: u32 = 11;
const TAKEN_AT: u32 = 31;
const COUNT_BITS: u32 = 20;
const COUNT: u64 = (1 << COUNT_BITS) - 1;
/// This end called connect.
pub const CLIENT: u64 = 1 << 51;
/// Connected, or on its way there.
pub const CONNECTED: u64 = 1 << 52;
/// O_NONBLOCK of the open file description.
pub const NONBLOCK: u64 = 1 << 53;
/// The program called shutdown.
pub const SHUT_WR: u64 = 1 << 54;
pub const SHUT_RD: u64 = 1 << 55;
/// It is in a set of epoll's.
pub const REGISTERED: u64 = 1 << 56;
const SHORT: u64 = 1 << 57;
/// Entered in full; above the calls is the name that the process has for it.
const MOVED: u64 = 1 << 58;
const NAME_AT: u32 = 6;
const AGE_AT: u32 = 59;
/// Highest age of a word.
pub const AGES: u32 = 0x1f;

/// Most exchanges, and bytes in both directions, of which a word can tell.
pub const EXCHANGES_MAX: u32 = EXCHANGES as u32;
pub const BYTES_MAX: u64 = COUNT;

/// What the word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word(pub u64);

impl Word {
    /// A new connection, with some of the flags above. Its age tells it from others before it at that number.
    pub fn new(age: u32, flags: u64) -> Word {
        Word(SHORT | flags | u64::from(age & AGES) << AGE_AT)
    }

    /// Its calls and its age, and nothing else.
    fn bare(self) -> u64 {
        self.0 & (CALLS | u64::from(AGES) << AGE_AT)
    }

    /// What follows when it is closed.
    fn over(self) -> Word {
        Word(self.bare())
    }

    /// What follows when it is entered in full.
    fn moved(self, name: u32) -> Word {
        Word(MOVED | self.bare() | u64::from(name) << NAME_AT)
    }

    /// Whether it counts.
    #[inline]
    pub fn is_short(self) -> bool {
        self.0 & SHORT != 0
    }

    /// The name of the connection that was entered in its place.
    pub fn name(self) -> Option<u32> {
        (self.0 & MOVED != 0).then_some((self.0 >> NAME_AT) as u32)
    }

    #[inline]
    pub fn age(self) -> u32 {
        (self.0 >> AGE_AT) as u32
    }

    #[inline]
    pub fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    pub fn with(self, flags: u64, on: bool) -> Word {
        Word(if on { self.0 | flags } else { self.0 & !flags })
    }

    /// Calls in the kernel.
    #[inline]
    pub fn calls(self) -> u32 {
        (self.0 & CALLS) as u32
    }

    /// One call more. `None`: so many are not counted.
    #[inline]
    fn entered(self) -> Option<Word> {
        (self.0 & CALLS != CALLS).then_some(Word(self.0 + 1))
    }

    /// Changes between sending and receiving. Odd: the last call sent.
    #[inline]
    pub fn exchanges(self) -> u32 {
        (self.0 >> EXCHANGES_AT & EXCHANGES) as u32
    }

    #[inline]
    pub fn sent(self) -> u64 {
        self.0 >> SENT_AT & COUNT
    }

    #[inline]
    pub fn taken(self) -> u64 {
        self.0 >> TAKEN_AT & COUNT
    }

    /// A call is over that has sent, or taken, `n` bytes. `None`: that is more than a word can tell.
    #[inline]
    fn left(self, n: u64, sent: bool) -> Option<Word> {
        if n == 0 {
            return Some(Word(self.0 - 1));
        }
        let (at, count) = match sent {
            true => (SENT_AT, self.sent()),
            false => (TAKEN_AT, self.taken()),
        };
        let turns = u64::from(self.exchanges().is_multiple_of(2) == sent);
        let fits = n <= COUNT - count && u64::from(self.exchanges()) + turns <= EXCHANGES;
        fits.then(|| Word(self.0 - 1 + (n << at) + (turns << EXCHANGES_AT)))
    }
}

/// How a call has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It is counted.
    Counted(Word),
    /// It is not over: the word cannot tell of it, and the connection has to be entered in full first.
    Unfit,
    /// The connection was entered under that name, and the call is to be counted there.
    Moved(u32),
    /// The connection is closed.
    Closed,
}

/// A word that threads change.
#[derive(Debug)]
#[repr(transparent)]
pub struct Shared(sync::AtomicU64);

impl Shared {
    #[cfg(loom)]
    pub fn with(word: Word) -> Shared {
        Shared(sync::AtomicU64::new(word.0))
    }

    // SYNC: short. Who finds the name of a connection finds what was written into it before.
    #[inline]
    pub fn now(&self) -> Word {
        Word(self.0.load(Acquire))
    }

    #[inline]
    fn swap(&self, from: Word, to: Word) -> bool {
        // SYNC: short, and the note of a registration before [`REGISTERED`].
        self.0
            .compare_exchange(from.0, to.0, AcqRel, Relaxed)
            .is_ok()
    }

    /// Begins a connection at a number that the kernel has given to the caller. `None`: calls on an earlier one are not
    /// over.
    #[inline]
    pub fn begin(&self, flags: u64) -> Option<Word> {
        loop {
            let word = self.now();
            if word.calls() == 0 {
                let new = Word::new(word.age() + 1, flags);
                if self.swap(word, new) {
                    return Some(new);
                }
            } else if !word.is_short() || self.swap(word, word.over()) {
                return None;
            }
        }
    }

    /// The word of the connection of that age, while it is short.
    #[inline]
    pub fn still(&self, age: u32) -> Option<Word> {
        let word = self.now();
        (word.is_short() && word.age() == age).then_some(word)
    }

    /// Changes it. False: it is not short any more, or has no such next word.
    #[inline]
    fn change(&self, age: u32, next: impl Fn(Word) -> Option<Word>) -> bool {
        while let Some(word) = self.still(age) {
            match next(word) {
                Some(to) if self.swap(word, to) => return true,
                Some(_) => {}
                None => return false,
            }
        }
        false
    }

    /// Sets or clears flags. False: it is not short any more.
    #[inline]
    pub fn put(&self, age: u32, flags: u64, on: bool) -> bool {
        self.change(age, |word| Some(word.with(flags, on)))
    }

    /// Begins a call. False: it is not short any more, or has too many.
    #[inline]
    pub fn enter(&self, age: u32) -> bool {
        self.change(age, Word::entered)
    }

    /// Ends a call that [`Shared::enter`] has begun and that has sent, or taken, `n` bytes; `odd`: of which no word can
    /// tell.
    #[inline]
    pub fn leave(&self, age: u32, n: u64, sent: bool, odd: bool) -> Left {
        while let Some(word) = self.still(age) {
            let Some(next) = word.left(n, sent).filter(|_| !odd) else {
                return Left::Unfit;
            };
            if self.swap(word, next) {
                return Left::Counted(next);
            }
        }
        self.leave_late(age)
    }

    /// As [`Shared::leave`], where the connection was closed or entered in full.
    #[cold]
    fn leave_late(&self, age: u32) -> Left {
        loop {
            let word = self.now();
            // Never: the word waits for this call.
            if word.age() != age || word.calls() == 0 {
                return Left::Closed;
            }
            if self.swap(word, Word(word.0 - 1)) {
                return word.name().map_or(Left::Closed, Left::Moved);
            }
        }
    }

    /// The connection with that word is entered in full. False: the word has changed.
    pub fn enter_in_full(&self, word: Word, name: u32) -> bool {
        self.swap(word, word.moved(name))
    }

    /// Ends the connection. Gives its last word to the one caller who is to count it.
    #[inline]
    pub fn close(&self, age: u32) -> Option<Word> {
        loop {
            let word = self.still(age)?;
            if self.swap(word, word.over()) {
                return Some(word);
            }
        }
    }

    /// Forgets everything: of a process that has died. Gives the last word.
    pub fn bury(&self) -> Word {
        Word(self.0.swap(0, Relaxed))
    }
}

/// What lies at the number of a descriptor.
#[derive(Debug)]
#[repr(C)]
pub struct Place {
    pub word: Shared,
    /// Connections that have ended here, and their bytes. Who ends one is alone here until the kernel gives the number
    /// to somebody else.
    pub ended: AtomicU64,
    pub sent: AtomicU64,
    pub taken: AtomicU64,
}

impl Place {
    /// Counts a connection that has ended.
    pub fn end(&self, word: Word) {
        add(&self.ended, 1);
        add(&self.sent, word.sent());
        add(&self.taken, word.taken());
    }
}

/// The words of all processes of a family. All zeros at first.
#[derive(Debug)]
#[repr(C)]
pub struct Words {
    /// The process whose block it is, or 0.
    pub owners: [AtomicU32; BLOCKS],
    /// One more than its highest number that was in use.
    pub high: [AtomicU32; BLOCKS],
    pub pad: [AtomicU64; 448],
    pub blocks: [Block; BLOCKS],
}

pub type Block = [Place; FDS];

const _: () = assert!(std::mem::offset_of!(Words, blocks) == 4096);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_counts() {
        let word = Word::new(AGES, CLIENT | REGISTERED);
        let one = |word: Word, n, sent| word.entered().and_then(|word| word.left(n, sent));
        let word = one(word, 100, true).unwrap();
        let word = one(word, 5, true).unwrap();
        let word = one(word, COUNT, false).unwrap();
        assert_eq!((word.sent(), word.taken()), (105, COUNT));
        assert_eq!((word.exchanges(), word.calls(), word.age()), (2, 0, AGES));
        assert!(word.has(CLIENT) && word.has(REGISTERED) && !word.has(CONNECTED));
        // The first taken is no exchange: nothing was sent before it.
        let server = one(Word::new(0, 0), 7, false).unwrap();
        assert_eq!((server.exchanges(), server.taken()), (0, 7));
        // Nothing more than fits.
        assert_eq!(one(word, 1, false), None);
        assert_eq!(one(word, COUNT - 104, true), None);
        assert_eq!(one(word, 0, false).unwrap(), word);
    }

    #[test]
    fn a_word_counts_calls_and_exchanges_as_far_as_it_can() {
        let mut word = Word::new(3, 0);
        for _ in 0..CALLS {
            word = word.entered().unwrap();
        }
        assert_eq!((word.entered(), word.calls()), (None, CALLS as u32));
        let mut word = Word::new(3, 0);
        for n in 0..EXCHANGES {
            word = word.entered().and_then(|w| w.left(1, n % 2 == 0)).unwrap();
        }
        assert_eq!(word.exchanges(), EXCHANGES_MAX);
        assert_eq!(word.entered().and_then(|w| w.left(1, false)), None);
    }

    #[test]
    fn a_word_gives_way_to_a_name() {
        let word = Word::new(9, CONNECTED).entered().unwrap();
        let moved = word.moved(0x4001_0203);
        assert_eq!((moved.name(), moved.age()), (Some(0x4001_0203), 9));
        assert!(!moved.is_short() && word.is_short() && word.name().is_none());
        let over = word.over();
        assert!(!over.is_short() && over.name().is_none() && over.age() == 9);
        assert_eq!((moved.calls(), over.calls()), (1, 1));
    }
}
