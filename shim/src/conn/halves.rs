//! What is known of each direction of a connection. Written by whoever holds its lock, if nothing else is said.

use crate::lock::Lock;
use protocol::shm::consumer_word::ConsumerWord;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// Send half.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Tx {
    pub lock: Lock,
    /// Non-zero: this direction is on the ring.
    pub ring: AtomicU32,
    pub size: AtomicU32,
    /// Offset in the ring of what the cursors count as 0 ([`protocol::shm::ring::rebase`]).
    pub base: AtomicU32,
    /// [`protocol::shm::cdc::inverse`] of the size.
    pub inverse: AtomicU64,
    /// Ring position published.
    pub produced: AtomicU64,
    /// The peer's ring position as checked last.
    pub consumed: AtomicU64,
    /// Private copy-mode buffer, or 0.
    pub sndbuf: AtomicU64,
    /// Application bytes given to TCP.
    pub sent: AtomicU64,
    /// While what lies on the ring goes over TCP, because the peer has frozen it or stands still: its next position, + 1.
    pub repeat: AtomicU64,
    /// Clock of the first look that found the ring full without movement, or 0.
    pub stalled: AtomicU64,
    /// Peer position at that look.
    pub stalled_at: AtomicU64,
    /// Times that the reader of a full ring seemed to stand still.
    pub stalls: AtomicU32,
    /// Clock of the last look at the TCP socket while the peer did not read.
    pub looked: AtomicU64,
    /// Count of the daemon's messages at that look; for how many sends the clock need not be asked, of how many, and
    /// when it was asked last ([`crate::conn::alive`]).
    pub said: AtomicU32,
    pub trusted: AtomicU32,
    pub trust: AtomicU32,
    pub clocked: AtomicU64,
    /// Counts the times that space came after the ring was full.
    pub edges: AtomicU32,
    /// Bytes sent at which to pause for the way onto the ring, or 0.
    pub retry: AtomicU64,
    /// Bytes that had gone over TCP when the direction left the ring.
    pub left: AtomicU64,
    pub backoff: AtomicU32,
    /// The daemon's order to stay on TCP that was followed last ([`protocol::shm::pair::PairSlot::order`]).
    pub held: AtomicU64,
    /// The one that was seen last, and until when it holds by our clock.
    pub order: AtomicU64,
    pub until: AtomicU64,
}

/// Receive half.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Rx {
    pub lock: Lock,
    /// Non-zero: this direction is on the ring.
    pub ring: AtomicU32,
    pub size: AtomicU32,
    /// As the peer has published it with the position seen last.
    pub base: AtomicU32,
    /// [`protocol::shm::cdc::inverse`] of the size.
    pub inverse: AtomicU64,
    /// Ring position taken.
    pub consumed: AtomicU64,
    /// The peer's ring position as checked last.
    pub produced: AtomicU64,
    /// Ring position published to the peer.
    pub confirmed: AtomicU64,
    /// Application bytes taken from TCP.
    pub taken: AtomicU64,
    /// Clock of the last look at the TCP socket while the ring was empty.
    pub looked: AtomicU64,
    /// Non-zero: we froze the ring and the sender has not followed yet.
    pub frozen: AtomicU32,
    /// The consumer cursor's word, which carries all flags.
    pub word: ConsumerWord,
    /// See `rx::pace`: ticks between two looks, when the last was, and what this end had sent by then.
    pub pace: AtomicU32,
    pub paced_at: AtomicU64,
    pub sent_by_then: AtomicU64,
    /// Whether spinning has paid off, see `wait::spin::worth_spinning`.
    pub spin: AtomicU32,
    /// Counts the times that the kernel says anew that there are bytes to read.
    pub edges: AtomicU32,
    /// Ring positions whose bytes came over TCP after all.
    pub repeated: AtomicU64,
    /// Bytes of the handshake's messages that were taken from TCP.
    pub messages: AtomicU64,
}
