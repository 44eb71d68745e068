//! Messages between a shim (or the tool) and the daemon.
//!
//! One message is one packet of a Unix `SOCK_SEQPACKET` socket: an 8-byte [`Header`] and a body of
//! fixed-size fields in host byte order (both ends are on one host). Descriptors travel beside the
//! packet by `SCM_RIGHTS`; each message says which. A reader checks magic, version and length and
//! treats anything else as a protocol error of that peer.

use crate::ids::{Eid, Gid, Role};
use wire::from;

mod fields;
mod verb;
mod wire;

pub use fields::{DmbPlace, Endpoint, Settings};
pub use verb::{Verb, ss};
pub use wire::{DecodeError, Wire};

pub const MAGIC: u16 = 0x5c10;
/// Version of everything in this module and of the shared-memory layouts it hands out.
pub const VERSION: u16 = 11;
/// No message is longer.
pub const MAX_MESSAGE: usize = 1024;
/// No message carries more descriptors.
pub const MAX_FDS: usize = 4;
/// UEIDs that a daemon may have (`SMC_MAX_UEID` of the kernel).
pub const MAX_UEIDS: usize = 4;

/// Where programs look for the daemon when `SMCLO_SOCKET` is not set, in this order:
/// [`SYSTEM_SOCKET`], then `/run/user/UID/smclo/smclod.sock` when `/run/user/UID` exists, then
/// `/tmp/.smclo-UID/smclod.sock`. `XDG_RUNTIME_DIR` is deliberately not consulted: it is often
/// unset under sudo and systemd, and two programs of one user must find the same daemon.
/// UID is the effective one. The per-user directories must belong to that uid with mode 0700.
pub const SYSTEM_SOCKET: &str = "/run/smclo/smclod.sock";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: u16,
    pub len: u16,
}

pub const HEADER_LEN: usize = 8;

/// A message that can be sent: its kind number, and its size with the header.
pub trait Message: Wire {
    const KIND: u16;

    /// Writes header and body; gives the number of bytes.
    fn encode(&self, out: &mut [u8; MAX_MESSAGE]) -> usize {
        let len = HEADER_LEN + Self::SIZE;
        MAGIC.put(&mut out[0..]);
        VERSION.put(&mut out[2..]);
        Self::KIND.put(&mut out[4..]);
        (len as u16).put(&mut out[6..]);
        self.put(&mut out[HEADER_LEN..len]);
        len
    }

    /// Reads the body of a packet whose header says [`Message::KIND`].
    fn decode(packet: &[u8]) -> Result<Self, DecodeError> {
        if packet.len() != HEADER_LEN + Self::SIZE {
            return Err(DecodeError::Length);
        }
        Self::get(&packet[HEADER_LEN..])
    }
}

/// Checks the header of a packet.
pub fn header(packet: &[u8]) -> Result<Header, DecodeError> {
    if packet.len() < HEADER_LEN {
        return Err(DecodeError::Length);
    }
    if u16::get(packet)? != MAGIC {
        return Err(DecodeError::Magic);
    }
    let version = u16::get(&packet[2..])?;
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    let header = Header {
        kind: u16::get(&packet[4..])?,
        len: u16::get(&packet[6..])?,
    };
    if usize::from(header.len) != packet.len() {
        return Err(DecodeError::Length);
    }
    Ok(header)
}

macro_rules! messages {
    ($( $(#[$doc:meta])* $name:ident = $kind:literal { $( $(#[$fdoc:meta])* $field:ident: $t:ty, )* } )*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name { $( $(#[$fdoc])* pub $field: $t, )* }

        impl Wire for $name {
            const SIZE: usize = 0 $( + <$t as Wire>::SIZE )*;
            #[allow(unused_assignments, unused_variables, unused_mut)]
            fn put(&self, out: &mut [u8]) {
                let mut at = 0;
                $( self.$field.put(from(out, at)); at += <$t as Wire>::SIZE; )*
            }
            #[allow(unused_assignments, unused_variables, unused_mut)]
            fn get(raw: &[u8]) -> Result<Self, DecodeError> {
                let mut at = 0;
                $(
                    let $field = <$t as Wire>::get(raw.get(at..).ok_or(DecodeError::Length)?)?;
                    at += <$t as Wire>::SIZE;
                )*
                Ok($name { $($field),* })
            }
        }

        impl Message for $name {
            const KIND: u16 = $kind;
        }
    )*};
}

messages! {
    /// Shim → daemon, first message. Two descriptors: the statistics table
    /// ([`crate::stats`]) and the wait page ([`crate::shm::wait`]), both memfds that the shim made
    /// and sealed against shrinking. The daemon hands the wait page on to peers read-only.
    Hello = 1 {
        pid: u32,
        /// Bits of [`hello`].
        flags: u32,
        /// Random number shared by a process and the children that it forked.
        family: u128,
        /// Name of the program, NUL padded.
        program: [u8; 16],
        /// What `smclo run --require` has named the run, or 0.
        run: u64,
    }
    /// Daemon → shim, answer to [`Hello`]. One descriptor: the mailbox, a read-only memfd of one
    /// page whose first word (`AtomicU32`) the daemon increments after it has sent messages.
    Welcome = 2 {
        gid: Gid,
        /// Non-zero: the SEID takes part in the match.
        seid_on: u8,
        seid: Eid,
        ueid_count: u8,
        ueids: [Eid; MAX_UEIDS],
        client: u32,
        /// What the policy says for this program.
        settings: Settings,
    }
    /// Shim → daemon: "this socket is one end of a local connection worth accelerating".
    Claim = 3 {
        /// The shim's own name for the connection; comes back in the answer.
        claim: u64,
        /// `SO_COOKIE` of the socket.
        cookie: u64,
        /// `SO_NETNS_COOKIE` of the socket.
        netns: u64,
        role: Role,
        local: Endpoint,
        peer: Endpoint,
        /// Server: `SO_ORIGINAL_DST` when it is there and differs from `local`; else zeros.
        original: Endpoint,
        /// Bytes wanted for the own RMB.
        rmb_size: u32,
        /// Non-zero: another process has passed the socket to this one ([`Passed`]).
        received: u8,
    }
    /// Shim → daemon: the claim is taken back. The daemon may have made a pair of it meanwhile.
    Withdraw = 4 {
        claim: u64,
        /// 1: for good (the connection closed or must stay TCP). A pair that was made of the claim is
        /// void, and its other end told so by [`Refused`]. 0: only if there is no pair yet; answered
        /// by [`Refused`] with `NO_PEER_YET`, unless [`Paired`] is on its way.
        last: u32,
    }
    /// Daemon → shim: both ends are claimed and verified. Descriptors: none when `fresh` is 0, else
    /// three: the arena of the link group (memfd), this side's end of the link group's channel
    /// (`SOCK_SEQPACKET` pair), and the peer's wait page (read-only memfd).
    Paired = 5 {
        claim: u64,
        /// Names the pair to the daemon: [`Release`], `PeerGone`.
        pair: u64,
        role: Role,
        /// 1: the first pair of this link group in this process.
        fresh: u8,
        /// Which of the two sides of the link group this is: 0 or 1.
        side: u8,
        /// Link group, named alike to both sides; the CLC link id is made from it.
        lgr: u32,
        arena_len: u64,
        /// Byte offset of the pair slot in the arena ([`crate::shm::pair::PairSlot`]).
        slot: u64,
        own: DmbPlace,
        peer: DmbPlace,
        /// Name of the peer program, NUL padded, for the logs.
        program: [u8; 16],
    }
    /// Daemon → shim: the claim came to nothing; or, after [`Paired`], the pair, because the other end
    /// never took it.
    Refused = 6 {
        claim: u64,
        /// [`crate::reason`] code.
        reason: u32,
    }
    /// Shim → daemon: this end is through with the pair: unregister the own DMB, detach from the
    /// peer's. A DMB is reused only when both ends have released it.
    Release = 7 {
        pair: u64,
    }
    /// Daemon → shim: the other process is gone (`signal_event`). Only a hint; TCP is the truth.
    PeerGone = 8 {
        pair: u64,
    }
    /// Daemon → shim: EIDs changed; same meaning as in [`Welcome`].
    Eids = 9 {
        seid_on: u8,
        ueid_count: u8,
        ueids: [Eid; MAX_UEIDS],
    }
    /// Shim → daemon: a doorbell (one descriptor, a timerfd or an eventfd) of this process. With it the daemon
    /// wakes a thread or a set that sleeps, so that it looks at its connections.
    Bell = 10 {
        context: u32,
    }
    /// Shim → daemon: this process has passed a socket on over a Unix socket.
    Passed = 11 {
        /// `SO_COOKIE` of the socket.
        cookie: u64,
        /// 1: it was passed once, and nobody from whom it came holds it any more: whoever received it
        /// may claim it. 0: nobody may from now on, because several may hold it.
        free: u8,
    }
    /// Tool → daemon: a question or an order, see [`Verb`]. Answered by [`Reply`].
    Request = 20 {
        verb: u16,
        /// Argument of `UeidAdd` and `UeidDel`: the EID.
        eid: Eid,
        arg: u64,
    }
    /// Tool → daemon: the pair that this DMB token belongs to goes back to TCP, both directions, and
    /// stays there for a time ([`crate::shm::pair::Order`]); 0: it may go onto the
    /// ring again at once. Answered by [`Reply`].
    Hold = 22 {
        token: u64,
        milliseconds: u64,
    }
    /// Daemon → tool. When `len` is not 0, one descriptor: a read-only memfd with `len` bytes of
    /// JSON. `error` is 0 or an errno.
    Reply = 21 {
        error: u32,
        len: u64,
    }
}

/// Bits of [`Hello::flags`].
pub mod hello {
    /// `SMCLO_POLICY` is set: no file turns connections of this process off or on.
    pub const OWN_POLICY: u32 = 1;
    /// Doorbells of the process are eventfds, not timers. It is paired with its like only.
    pub const EVENTFDS: u32 = 2;
}
