//! What happened to single connections: the newest events of each, and the CLC messages of its
//! handshake, for `smclo trace`.
//!
//! Traces lie in the statistics table ([`crate::stats`]). A connection takes one when it is about to
//! be claimed, and writes to it where its state changes, never while data flows. The trace stays
//! after the connection has closed, until the places of all others have been used.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::*};

/// Traces of a process family.
pub const TRACES: usize = 2048;
/// Events that a trace keeps: the newest.
pub const EVENTS: usize = 24;
/// Bytes of CLC messages with their heads: those of a handshake fit.
pub const MESSAGE_BYTES: usize = 1152;
/// Head of a message: direction (1: sent), zero, length (2), time (8).
pub const MESSAGE_HEAD: usize = 12;

macro_rules! kinds {
    ($( $name:ident = $n:literal, $words:literal; )*) => {
        /// What happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Kind { $( #[doc = $words] $name = $n, )* }

        impl Kind {
            pub const ALL: &[Kind] = &[$(Kind::$name),*];

            pub fn words(self) -> &'static str {
                match self { $( Kind::$name => $words, )* }
            }

            pub fn name(self) -> &'static str {
                match self { $( Kind::$name => stringify!($name), )* }
            }
        }
    };
}

kinds! {
    Claimed = 1, "claimed at the daemon";
    Postponed = 2, "not claimed for now";
    Refused = 3, "the daemon refused";
    Withdrawn = 4, "claim taken back";
    Barred = 5, "TCP for good";
    Paired = 6, "the daemon paired both ends";
    GateOpen = 7, "gate opened for CLC messages";
    GateShut = 8, "gate shut";
    ClcSent = 9, "CLC message sent";
    ClcReceived = 10, "CLC message received";
    HandshakeOver = 11, "handshake ended without SMC-D";
    SendRing = 12, "sending over the ring from here on";
    ReceiveRing = 13, "receiving from the ring from here on";
    SendTcp = 14, "sending over TCP again";
    ReceiveTcp = 15, "receiving over TCP again";
    Reset = 16, "reset: the peer broke the protocol";
    Closed = 17, "closed";
}

impl Kind {
    pub fn from_number(n: u32) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|k| *k as u32 == n)
    }
}

#[derive(Debug)]
#[repr(C)]
pub struct Event {
    /// Monotonic clock, nanoseconds.
    pub time: AtomicU64,
    /// A [`Kind`].
    pub kind: AtomicU32,
    /// [`crate::reason`] code, or the type of a CLC message.
    pub code: AtomicU32,
    /// A ring position, a number of bytes or a link group, as the kind has it.
    pub arg: AtomicU64,
    /// Process that did it.
    pub pid: AtomicU32,
    pub zero: AtomicU32,
}

#[derive(Debug)]
#[repr(C, align(64))]
pub struct Trace {
    /// The connection that writes here, as claims name it; 0: nobody yet.
    pub owner: AtomicU64,
    /// Non-zero: the connection has closed.
    pub closed: AtomicU32,
    pub client: AtomicU32,
    pub local: [AtomicU64; 3],
    pub peer: [AtomicU64; 3],
    pub inode: AtomicU64,
    /// Events written at any time.
    pub count: AtomicU32,
    /// Bytes of `messages` in use.
    pub used: AtomicU32,
    pub spare: [AtomicU64; 6],
    pub events: [Event; EVENTS],
    pub messages: [AtomicU8; MESSAGE_BYTES],
}

const _: () = assert!(size_of::<Trace>() == 2048);

impl Trace {
    /// Empties it for a new owner.
    pub fn begin(&self, owner: u64) {
        self.owner.store(0, Relaxed);
        self.count.store(0, Relaxed);
        self.used.store(0, Relaxed);
        self.closed.store(0, Relaxed);
        self.owner.store(owner, Release);
    }

    pub fn event(&self, time: u64, pid: u32, kind: Kind, code: u32, arg: u64) {
        let n = self.count.fetch_add(1, AcqRel) as usize;
        if let Some(event) = self.events.get(n % EVENTS) {
            event.kind.store(0, Relaxed);
            event.time.store(time, Relaxed);
            event.code.store(code, Relaxed);
            event.arg.store(arg, Relaxed);
            event.pid.store(pid, Relaxed);
            event.kind.store(kind as u32, Release);
        }
    }

    /// Keeps a CLC message; what does not fit any more is left out.
    pub fn message(&self, time: u64, sent: bool, bytes: &[u8]) {
        let len = MESSAGE_HEAD + bytes.len();
        let at = self.used.load(Relaxed) as usize;
        let Some(place) = self.messages.get(at..at + len) else {
            return;
        };
        let head = [u8::from(sent), 0].into_iter();
        let head = head.chain((bytes.len() as u16).to_ne_bytes());
        let all = head.chain(time.to_ne_bytes()).chain(bytes.iter().copied());
        for (to, from) in place.iter().zip(all) {
            to.store(from, Relaxed);
        }
        self.used.store((at + len) as u32, Release);
    }
}
