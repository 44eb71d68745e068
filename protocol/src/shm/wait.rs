//! The wait page: which contexts of a process family are asleep.
//!
//! A *context* is a sleeping thread or an epoll set, and owns a doorbell (a timerfd). Its word here
//! is written by its family only; peers map the page read-only. The protocol against lost wake-ups:
//!
//! * sleeper: [`WaitWord::enter`], then look at everything it waits for once more, then sleep;
//! * producer: publish, full fence, [`WaitWord::epoch_if_asleep`]; ring once per epoch.
//!
//! `enter` ends with a full fence, so one of the two always sees the other.
//!
//! A set with many connections does not look at all of them: those that were quiet for a while it
//! calls *cold*, and relies on [`Hints`] for them. The protocol against lost hints:
//!
//! * set: publish [`COLD`], full fence, look at the connection once more; it stays hot when there is
//!   something. Before each look at the hot ones, [`Hints::take`]: what it names becomes hot.
//! * producer: publish, full fence, and when the watcher is cold, [`Hints::put`], before it looks
//!   whether the context sleeps.

use super::sync::{AtomicU64, Ordering, fence_behind_rmw};

/// Bit of a watcher's entry in a DMB: the connection is cold to it.
pub const COLD: u16 = 1 << 15;

/// Contexts of a family.
pub const CONTEXTS: usize = 256;
/// Bytes of the wait page: a cache line for each context.
pub const PAGE_LEN: usize = CONTEXTS * 64;

/// Epoch in the upper 48 bits, number of sleepers in the lower 16; and the generation of the context's
/// doorbell, which is another one when another process of the family takes the context over, with
/// [`WaitWord::is_shared`] above it. Alone on its cache line.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct WaitWord(AtomicU64, AtomicU64);

const SLEEPERS: u64 = 0xffff;
/// Several peers have the doorbell, and each could silence it.
const SHARED: u64 = 1 << 63;

impl WaitWord {
    /// Owner: the context has a new doorbell. It is announced, with [`WaitWord::bell`], before anybody
    /// sleeps.
    pub fn new_bell(&self) {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.1.fetch_and(!SHARED, Ordering::SeqCst);
    }

    /// Owner: a second peer is given the doorbell.
    pub fn share(&self) {
        self.1.fetch_or(SHARED, Ordering::SeqCst);
    }

    /// Whether somebody else than this peer may have silenced the doorbell.
    pub fn is_shared(&self) -> bool {
        self.1.load(Ordering::Relaxed) & SHARED != 0
    }

    /// Generation of the doorbell.
    pub fn bell(&self) -> u32 {
        self.1.load(Ordering::SeqCst) as u32
    }

    /// One more sleeper, in a new epoch. The caller looks again before it sleeps.
    pub fn enter(&self) {
        self.0.fetch_add(SLEEPERS + 2, Ordering::SeqCst);
        // SYNC: sleep/publish. Orders the store above before the caller's second look; the
        // producer's fence orders its data before its load of this word.
        fence_behind_rmw();
    }

    /// The doorbell was silenced: it may ring again for those who still sleep. The caller looks at
    /// everything once more afterwards.
    pub fn renew(&self) {
        self.0.fetch_add(SLEEPERS + 1, Ordering::SeqCst);
        fence_behind_rmw();
    }

    /// One sleeper less.
    pub fn leave(&self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }

    /// The epoch, when somebody sleeps. The caller has published and fenced (SYNC: sleep/publish).
    pub fn epoch_if_asleep(&self) -> Option<u64> {
        let word = self.0.load(Ordering::Relaxed);
        (word & SLEEPERS != 0).then_some(word >> 16)
    }

    /// Whether somebody sleeps; for the context's own process.
    pub fn sleepers(&self) -> bool {
        self.0.load(Ordering::Relaxed) & SLEEPERS != 0
    }
}

/// Which cold connections of one context have something new: a bit for each, by a number that the
/// context's owner has given it. Several connections may share a bit. A cache line in the arena,
/// written by both sides; what it says is only where to look.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Hints([AtomicU64; 8]);

/// Bits of a context's hints.
pub const HINTS: u32 = 512;
/// Bytes of the hints for all contexts of one side.
pub const HINTS_LEN: usize = CONTEXTS * 64;

impl Hints {
    /// Producer, after it has published and fenced.
    pub fn put(&self, number: u32) {
        if let Some(word) = self.0.get((number / 64 % 8) as usize) {
            word.fetch_or(1 << (number % 64), Ordering::SeqCst);
            // SYNC: sleep/publish. The sleeper looks for hints after it has entered.
            fence_behind_rmw();
        }
    }

    pub fn any(&self) -> bool {
        // SYNC: cold. Who finds that another has taken a hint off sees what that one made hot.
        self.0.iter().any(|word| word.load(Ordering::Acquire) != 0)
    }

    /// Gives each number that was put to `heat`, and then takes it off: who finds no hint finds the
    /// connection hot. The caller looks at the hot connections afterwards, and keeps them from
    /// becoming cold meanwhile.
    pub fn take(&self, mut heat: impl FnMut(u32)) {
        for (at, word) in (0..).zip(&self.0) {
            let put = word.load(Ordering::Acquire);
            let mut bits = put;
            while bits != 0 {
                heat(at * 64 + bits.trailing_zeros());
                bits &= bits - 1;
            }
            if put != 0 {
                // SYNC: cold. Acquires what was published before the hints that are taken off, also
                // before those that came since the load.
                word.fetch_and(!put, Ordering::SeqCst);
            }
        }
    }
}

const _: () = assert!(size_of::<Hints>() == 64 || cfg!(loom));
