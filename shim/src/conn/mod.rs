//! A connection: its state, in memory that the fork family shares.
//!
//! Everything is atomic: threads and forked processes look at it together. Who may write what:
//! `tx` its lock's holder, `rx` its lock's holder, `phase` and `step` by compare-and-swap.

pub mod alive;
pub mod claim;
pub mod close;
pub mod died;
mod halves;
pub mod handshake;
pub mod hope;
pub mod kept;
pub mod life;
pub mod onto_ring;
pub mod outbox;
pub mod passed;
pub mod plain;
pub mod quick;
pub mod ready;
pub mod revert;
pub mod rx;
mod state;
pub mod twice;
pub mod tx;

pub use halves::{Rx, Tx};
pub use state::{flag, phase, step};

use crate::lock::Lock;
use crate::{family, trace};
use outbox::{Inbox, Outbox};
use plain::Plain;
use protocol::ids::Role;
use protocol::shm::life::Life;
use protocol::shm::pair::PairSlot;
use protocol::shm::ring::{DmbHeader, RING_AT};
use protocol::stats::{Row, shut};
use protocol::trace::Kind;
use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Conn {
    /// Odd while in use.
    pub generation: AtomicU32,
    /// Its place in the table of the family.
    pub number: AtomicU32,
    pub phase: AtomicU32,
    /// Errno of the kernel's that a call met after it had moved something, for the next call.
    pub owed: AtomicU32,
    pub flags: AtomicU32,
    pub step: AtomicU32,
    /// Processes that hold it.
    pub holders: AtomicU32,
    pub plain: Plain,
    /// Threads asleep in one of our waits for it.
    pub sleepers: AtomicU32,
    /// Changes between sending and receiving. Odd: the last call sent.
    pub exchanges: AtomicU32,
    /// Bytes that long splices have moved, see `calls::file`.
    pub spliced: AtomicU32,
    /// Process whose session claimed it.
    pub claimant: AtomicU32,
    /// Counts the claims: an answer to an older one is told from that to the last.
    pub claims: AtomicU32,
    /// Link group, index + 1 in the table of the process that paired it.
    pub lgr: AtomicU32,
    pub reason_to_send: AtomicU32,
    /// Counts the shutdowns: after each the kernel wakes all who wait for anything.
    pub shutdowns: AtomicU32,
    /// Total bytes at which a claim is tried again; while it waits, at which it may be taken back.
    pub reclaim_at: AtomicU64,
    /// Clock of the last claim; then of the wish to have it back.
    pub claimed_at: AtomicU64,
    pub pair: AtomicU64,
    slot: AtomicU64,
    own: AtomicU64,
    peer: AtomicU64,
    pub own_token: AtomicU64,
    pub peer_token: AtomicU64,
    pub own_index: AtomicU32,
    pub peer_index: AtomicU32,
    /// Contexts that watch the connection, as published to the peer.
    pub watchers: [AtomicU64; 2],
    pub watch_lock: Lock,
    /// The context in which a call slept on it last, + 1.
    pub slept_in: AtomicU32,
    pub outbox: Outbox,
    pub inbox: Inbox,
    pub tx: Tx,
    pub rx: Rx,
}

/// The errors with which the kernel gives a connection up: the peer's reset, no answer any more
/// (keepalive, TCP_USER_TIMEOUT), and an administrator's `ss -K`.
fn breaks(errno: i32) -> bool {
    matches!(
        errno,
        libc::ECONNRESET | libc::ETIMEDOUT | libc::ECONNABORTED
    )
}

impl Conn {
    #[inline]
    pub fn index(&self) -> u32 {
        self.number.load(Relaxed)
    }

    #[inline]
    pub fn row(&self) -> &'static Row {
        family::row(self.index())
    }

    pub fn life(&self) -> Life<'_> {
        Life {
            holders: &self.holders,
            sleepers: &self.sleepers,
            generation: &self.generation,
        }
    }

    #[inline]
    pub fn has(&self, flag: u32) -> bool {
        self.flags.load(Relaxed) & flag != 0
    }

    /// Sets a flag; tells whether it was clear.
    pub fn set(&self, flag: u32) -> bool {
        let shut = flag & (flag::SHUT_WR | flag::SHUT_RD | flag::FIN_SEEN);
        if shut != 0 {
            self.show_shut(shut);
        }
        self.flags.fetch_or(flag, AcqRel) & flag == 0
    }

    /// For the tool.
    fn show_shut(&self, flags: u32) {
        let mut bits = 0;
        for (flag, bit) in [
            (flag::SHUT_WR, shut::WRITING),
            (flag::SHUT_RD, shut::READING),
            (flag::FIN_SEEN, shut::PEER),
        ] {
            if flags & flag != 0 {
                bits |= bit;
            }
        }
        self.row().shut.fetch_or(bits, Relaxed);
    }

    pub fn clear(&self, flag: u32) -> bool {
        self.flags.fetch_and(!flag, AcqRel) & flag != 0
    }

    pub fn put(&self, flag: u32, on: bool) {
        if on {
            self.set(flag);
        } else {
            self.clear(flag);
        }
    }

    #[inline]
    pub fn role(&self) -> Role {
        if self.has(flag::CLIENT) {
            Role::Client
        } else {
            Role::Server
        }
    }

    #[inline]
    pub fn phase(&self) -> u32 {
        self.phase.load(Acquire)
    }

    pub fn change_phase(&self, from: u32, to: u32) -> bool {
        self.phase
            .compare_exchange(from, to, AcqRel, Acquire)
            .is_ok()
    }

    /// Both halves of the memory shared with the peer. `None` before [`Conn::attach`].
    #[inline]
    pub fn slot(&self) -> Option<&'static PairSlot> {
        let at = self.slot.load(Acquire) as *const PairSlot;
        // SAFETY: set by `attach` to a checked place in an arena that stays mapped in this process as long as the
        // connection is held here. Who looks without holding it finds zeros or another connection's words there
        // when it has ended meanwhile (`lgr::mapped`). All fields are atomics.
        unsafe { at.as_ref() }
    }

    /// Header of the own RMB: what the peer writes.
    #[inline]
    pub fn own(&self) -> Option<&'static DmbHeader> {
        // SAFETY: as in `slot`.
        unsafe { (self.own.load(Relaxed) as *const DmbHeader).as_ref() }
    }

    /// Header of the peer's RMB: what we write.
    #[inline]
    pub fn peer(&self) -> Option<&'static DmbHeader> {
        // SAFETY: as in `slot`.
        unsafe { (self.peer.load(Relaxed) as *const DmbHeader).as_ref() }
    }

    /// Start of the ring that the peer fills.
    #[inline]
    pub fn own_ring(&self) -> *mut u8 {
        (self.own.load(Relaxed) + u64::from(RING_AT)) as *mut u8
    }

    /// Start of the ring that we fill.
    #[inline]
    pub fn peer_ring(&self) -> *mut u8 {
        (self.peer.load(Relaxed) + u64::from(RING_AT)) as *mut u8
    }

    /// Places of the shared memory, checked by the caller against the arena.
    pub fn attach(&self, slot: *const u8, own: *const u8, peer: *const u8) {
        self.own.store(own as u64, Relaxed);
        self.peer.store(peer as u64, Relaxed);
        self.slot.store(slot as u64, Release);
    }

    /// Whether it is attached to these places.
    pub fn is_attached(&self, slot: *const u8, own: *const u8, peer: *const u8) -> bool {
        let places = [&self.slot, &self.own, &self.peer].map(|place| place.load(Acquire));
        places == [slot as u64, own as u64, peer as u64]
    }

    #[inline]
    pub fn tx_ring(&self) -> bool {
        self.tx.ring.load(Acquire) != 0
    }

    #[inline]
    pub fn rx_ring(&self) -> bool {
        self.rx.ring.load(Acquire) != 0
    }

    #[inline]
    pub fn on_ring(&self) -> bool {
        self.tx_ring() || self.rx_ring()
    }

    /// Whether calls must go through our state machine rather than straight to the kernel.
    pub fn careful(&self) -> bool {
        self.phase.load(Acquire) >= phase::CLAIMED
    }

    pub fn count_tcp_sent(&self, n: u64) {
        self.tx.sent.fetch_add(n, AcqRel);
        self.row().tcp_tx.fetch_add(n, Relaxed);
        self.count_exchange(true);
    }

    pub fn count_tcp_taken(&self, n: u64) {
        self.rx.taken.fetch_add(n, AcqRel);
        self.row().tcp_rx.fetch_add(n, Relaxed);
        self.count_exchange(false);
    }

    fn count_exchange(&self, sent: bool) {
        let seen = self.exchanges.load(Relaxed);
        if seen.is_multiple_of(2) == sent {
            // Another thread may have counted the same change.
            let next = seen.wrapping_add(1);
            let _ = self
                .exchanges
                .compare_exchange(seen, next, Relaxed, Relaxed);
        }
    }

    /// Total application bytes over TCP.
    pub fn tcp_bytes(&self) -> u64 {
        self.tx.sent.load(Relaxed) + self.rx.taken.load(Relaxed)
    }

    /// The kernel reports a broken connection once. A call that has moved something gives its
    /// count instead, and leaves the error to the next.
    pub fn owe(&self, errno: i32) {
        if breaks(errno) {
            self.owed.store(errno as u32, Release);
        }
    }

    /// After a kernel call has failed: a broken connection is reported once, to whoever came first.
    pub fn note_error(&self, errno: i32) {
        if breaks(errno) {
            self.set(flag::DEAD);
        }
    }

    pub fn take_owed(&self) -> Option<i32> {
        if self.owed.load(Relaxed) == 0 {
            return None;
        }
        let errno = self.owed.swap(0, AcqRel) as i32;
        (errno != 0).then_some(errno)
    }

    /// Says why the connection is on TCP.
    pub fn reason(&self, code: u32) {
        self.row().reason.store(code, Relaxed);
    }

    /// TCP from here on, for good. Only from phases without a pair.
    pub fn bar(&self, code: u32) {
        self.reason(code);
        for from in [phase::PLAIN, phase::CLAIMED, phase::INIT] {
            if self.change_phase(from, phase::BARRED) {
                crate::log::barred(self, code);
                trace::event(self, Kind::Barred, code, 0);
                return;
            }
        }
    }

    /// Puts all fields back for a new socket; but for the sleepers, whose count is even without that, and may be
    /// raised for a moment by who does not know yet that the last connection has gone (`close::pinned`).
    pub fn reset(&self) {
        self.flags.store(0, Relaxed);
        self.step.store(0, Relaxed);
        let next = self.generation.load(Relaxed).wrapping_add(1);
        self.plain.begin(next, 0);
        for word in [
            &self.exchanges,
            &self.spliced,
            &self.claimant,
            &self.claims,
            &self.lgr,
            &self.reason_to_send,
            &self.shutdowns,
            &self.owed,
            &self.own_index,
            &self.peer_index,
            &self.tx.ring,
            &self.tx.size,
            &self.tx.base,
            &self.tx.said,
            &self.tx.trusted,
            &self.tx.trust,
            &self.tx.edges,
            &self.tx.backoff,
            &self.tx.stalls,
            &self.rx.ring,
            &self.rx.size,
            &self.rx.base,
            &self.rx.frozen,
            &self.rx.spin,
            &self.rx.edges,
            &self.rx.pace,
        ] {
            word.store(0, Relaxed);
        }
        for word in [
            &self.rx.repeated,
            &self.rx.messages,
            &self.reclaim_at,
            &self.claimed_at,
            &self.pair,
            &self.slot,
            &self.own,
            &self.peer,
            &self.own_token,
            &self.peer_token,
            &self.watchers[0],
            &self.watchers[1],
            &self.tx.inverse,
            &self.tx.produced,
            &self.tx.consumed,
            &self.tx.sndbuf,
            &self.tx.sent,
            &self.tx.repeat,
            &self.tx.stalled,
            &self.tx.stalled_at,
            &self.tx.looked,
            &self.tx.clocked,
            &self.tx.retry,
            &self.tx.left,
            &self.tx.held,
            &self.tx.order,
            &self.tx.until,
            &self.rx.inverse,
            &self.rx.consumed,
            &self.rx.produced,
            &self.rx.confirmed,
            &self.rx.taken,
            &self.rx.looked,
            &self.rx.paced_at,
            &self.rx.sent_by_then,
        ] {
            word.store(0, Relaxed);
        }
        self.inbox.clear();
        self.rx.word.reset();
        self.tx.lock.reset();
        self.rx.lock.reset();
        self.watch_lock.reset();
        self.phase.store(phase::INIT, Release);
    }
}

/// A descriptor with the connection behind it.
#[derive(Clone, Copy, Debug)]
pub struct Sock {
    pub fd: c_int,
    pub conn: &'static Conn,
}

impl std::ops::Deref for Sock {
    type Target = Conn;
    fn deref(&self) -> &Conn {
        self.conn
    }
}
