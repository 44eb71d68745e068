//! The table in which a process family publishes its connections to the daemon.
//!
//! A memfd made by the shim, sealed, mapped writable by the family (the process and the children
//! that it forked) and read-only by the daemon. In this order:
//!
//! * the header: totals of the connections that are gone;
//! * the rows: one for each connection;
//! * the text of the user's policy file, which the daemon reads for the family;
//! * the traces ([`crate::trace`]): what happened to single connections;
//! * the words ([`crate::short`]) of connections that have no row yet.
//!
//! Counters are relaxed. Those of one direction share a cache line, have one writer at a time (the
//! holder of that direction's lock) and are therefore added to by [`add`], without a locked
//! instruction; the others are `fetch_add`ed.

use crate::ctl::Endpoint;
use crate::reason;
use crate::short::Words;
use crate::trace::{self, Trace};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

pub const MAGIC: u32 = 0x534d_4354;
pub const VERSION: u32 = 3;
/// Connections that a family can hold; further ones are TCP and not listed.
pub const ROWS: usize = 1 << 16;
/// Distinct reasons that are counted apart.
pub const REASONS: usize = 62;
/// Classes of message sizes, see [`size_class`].
pub const SIZES: usize = 7;
/// Longest text of a user's policy.
pub const TEXT_LEN: usize = 16 << 10;

/// Class of a message of `n` bytes: up to 64, 512, 4K, 32K, 256K, 2M, and more.
pub const fn size_class(n: u32) -> usize {
    let above = n.saturating_sub(1) >> 6;
    let class = (u32::BITS - above.leading_zeros()).div_ceil(3) as usize;
    if class < SIZES { class } else { SIZES - 1 }
}

/// Largest message of each class but the last.
pub const SIZE_BOUNDS: [u32; SIZES - 1] = [64, 512, 4096, 32 << 10, 256 << 10, 2 << 20];

/// Adds to a counter that has one writer at a time.
#[inline]
pub fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
}

/// What carries a connection now ([`Row::mode`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Mode {
    /// Row not in use.
    Free = 0,
    /// Created, neither connected nor listening.
    Init = 1,
    Listen = 2,
    /// TCP; [`Row::reason`] says why.
    Tcp = 3,
    /// At least one direction is on a ring.
    Smcd = 4,
}

/// What went over the ring in one direction.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Carried {
    pub bytes: AtomicU64,
    /// Messages by [`size_class`]: pieces as they were put onto the ring or taken off it, which is
    /// what the program's call moved unless the ring had less.
    pub sizes: [AtomicU64; SIZES],
}

impl Carried {
    /// Counts one message. The caller holds the direction's lock.
    #[inline]
    pub fn count(&self, n: u32) {
        add(&self.bytes, u64::from(n));
        if let Some(class) = self.sizes.get(size_class(n)) {
            add(class, 1);
        }
    }
}

/// Bits of [`Row::shut`].
pub mod shut {
    /// The program shut the connection for writing.
    pub const WRITING: u32 = 1;
    /// The program shut the connection for reading.
    pub const READING: u32 = 2;
    /// The peer's end of stream was seen.
    pub const PEER: u32 = 4;
}

/// One connection.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Row {
    /// A [`Mode`].
    pub mode: AtomicU32,
    /// Process that used the connection last (as it sees itself).
    pub pid: AtomicU32,
    /// [`crate::reason`] code while on TCP.
    pub reason: AtomicU32,
    /// Reason code of the peer's Decline, or 0.
    pub peer_diagnosis: AtomicU32,
    /// Of the socket, as `ls -l /proc/PID/fd` shows it.
    pub inode: AtomicU64,
    pub lgr: AtomicU32,
    /// Non-zero: this end connected, else accepted.
    pub client: AtomicU32,
    /// Bits of [`shut`].
    pub shut: AtomicU32,
    /// Its trace, index + 1, or 0.
    pub trace: AtomicU32,
    pub upgrades: AtomicU32,
    pub reverts: AtomicU32,
    pub token: AtomicU64,
    pub peer_token: AtomicU64,

    pub smc_tx: Carried,
    pub smc_rx: Carried,

    pub tcp_tx: AtomicU64,
    pub tcp_rx: AtomicU64,
    /// Doorbells rung at the peer.
    pub rings: AtomicU64,
    /// Times that a thread slept for this connection.
    pub sleeps: AtomicU64,
    pub spin_hits: AtomicU64,
    pub spin_misses: AtomicU64,
    /// Times that a send found the ring full.
    pub full: AtomicU64,
    pub dmb_len: AtomicU32,
    pub peer_dmb_len: AtomicU32,

    /// `SO_COOKIE` of the socket, once claimed.
    pub cookie: AtomicU64,
    /// [`Endpoint`]s as words: address (2), port and scope (1).
    pub local: [AtomicU64; 3],
    pub peer: [AtomicU64; 3],
    /// While [`Row::inode`] is 0: a descriptor of the connection, in the process `pid`. It says the
    /// rest: the family enters inode and addresses only of connections that last.
    pub fd: AtomicU32,
    /// Private send buffer of the copy mode, or 0.
    pub sndbuf_len: AtomicU32,
}

const _: () = assert!(size_of::<Row>() == 5 * 64);

impl Row {
    /// Publishes an endpoint in three words.
    pub fn put_endpoint(words: &[AtomicU64; 3], e: &Endpoint) {
        let mut head = [0; 8];
        let mut tail = [0; 8];
        head.copy_from_slice(&e.addr[..8]);
        tail.copy_from_slice(&e.addr[8..]);
        words[0].store(u64::from_ne_bytes(head), Relaxed);
        words[1].store(u64::from_ne_bytes(tail), Relaxed);
        words[2].store(u64::from(e.port) | u64::from(e.scope) << 32, Relaxed);
    }

    pub fn endpoint(words: &[AtomicU64; 3]) -> Endpoint {
        let mut addr = [0; 16];
        addr[..8].copy_from_slice(&words[0].load(Relaxed).to_ne_bytes());
        addr[8..].copy_from_slice(&words[1].load(Relaxed).to_ne_bytes());
        let last = words[2].load(Relaxed);
        Endpoint {
            addr,
            port: last as u16,
            zero: 0,
            scope: (last >> 32) as u32,
        }
    }
}

/// Sums over the connections that are gone.
#[derive(Debug)]
#[repr(C)]
pub struct Totals {
    pub smc_tx: Carried,
    pub smc_rx: Carried,
    pub tcp_tx: AtomicU64,
    pub tcp_rx: AtomicU64,
    pub upgrades: AtomicU64,
    pub reverts: AtomicU64,
    pub rings: AtomicU64,
    pub sleeps: AtomicU64,
    pub spin_hits: AtomicU64,
    pub spin_misses: AtomicU64,
    pub full: AtomicU64,
    /// Connections that were on a ring at some time.
    pub accelerated: AtomicU64,
    /// Connections that were not.
    pub plain: AtomicU64,
    pub spare: AtomicU64,
}

/// Count of the connections that ended on TCP for one reason.
#[derive(Debug)]
#[repr(C)]
pub struct ReasonCount {
    /// Code, 0 while the entry is free; set once, by compare-and-swap.
    pub reason: AtomicU32,
    pub zero: AtomicU32,
    pub count: AtomicU64,
}

/// Start of the table, one page; the rows follow.
#[derive(Debug)]
#[repr(C)]
pub struct TableHeader {
    pub magic: AtomicU32,
    pub version: AtomicU32,
    /// Rows below this index have been used at some time.
    pub high: AtomicU32,
    /// Bytes of policy text that were read; more than [`TEXT_LEN`]: the file is too long.
    pub text_len: AtomicU32,
    /// Traces handed out; the next is this one, modulo [`trace::TRACES`].
    pub next_trace: AtomicU32,
    pub zero: [AtomicU32; 11],
    pub totals: Totals,
    pub reasons: [ReasonCount; REASONS],
    pub pad: [AtomicU64; 348],
}

const _: () = assert!(size_of::<TableHeader>() == 4096);

/// Offset of the first row.
pub const ROWS_AT: usize = 4096;
/// Offset of the policy text.
pub const TEXT_AT: usize = ROWS_AT + ROWS * size_of::<Row>();
/// Offset of the first trace.
pub const TRACES_AT: usize = TEXT_AT + TEXT_LEN;
/// Offset of the words.
pub const WORDS_AT: usize = (TRACES_AT + trace::TRACES * size_of::<Trace>()).next_multiple_of(4096);
pub const TABLE_LEN: usize = WORDS_AT + size_of::<Words>();

const _: () = assert!(TEXT_AT.is_multiple_of(4096) && TRACES_AT.is_multiple_of(4096));

impl TableHeader {
    /// Counts `n` connections that have ended before they were entered.
    pub fn count_short(&self, n: u64, sent: u64, taken: u64) {
        self.totals.tcp_tx.fetch_add(sent, Relaxed);
        self.totals.tcp_rx.fetch_add(taken, Relaxed);
        self.totals.plain.fetch_add(n, Relaxed);
        self.count_reasons(reason::NOT_YET, n);
    }

    /// Adds one to the count of `reason`; the last entry takes what does not fit.
    pub fn count_reason(&self, reason: u32) {
        self.count_reasons(reason, 1);
    }

    fn count_reasons(&self, reason: u32, n: u64) {
        for (i, entry) in self.reasons.iter().enumerate() {
            let seen = entry.reason.load(Relaxed);
            let mine = seen == reason
                || (seen == 0
                    && match entry.reason.compare_exchange(0, reason, Relaxed, Relaxed) {
                        Ok(_) => true,
                        Err(now) => now == reason,
                    });
            if mine || i + 1 == REASONS {
                entry.count.fetch_add(n, Relaxed);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_fall_into_their_classes() {
        for (class, bound) in SIZE_BOUNDS.into_iter().enumerate() {
            assert_eq!(size_class(bound), class);
            assert_eq!(size_class(bound + 1), class + 1);
        }
        assert_eq!(size_class(0), 0);
        assert_eq!(size_class(u32::MAX), SIZES - 1);
    }
}
