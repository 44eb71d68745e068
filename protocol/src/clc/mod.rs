//! SMC CLC (connection layer control) messages: how two ends agree on SMC-D over their TCP
//! connection.
//!
//! ```text
//! client                      server
//!   Proposal      ───────────▶            what the client can do
//!                 ◀───────────  Accept    the mode chosen, and the server's DMB
//!   Confirm       ───────────▶            the client's DMB
//!                 ◀───────────  ConfirmAck   (ours: SMC-D itself has no answer here)
//! ```
//!
//! Either end may send a [`Decline`] in place of its message; both then stay on TCP. The layouts are
//! those of RFC 7609 (v1) and of Linux `net/smc/smc_clc.{c,h}` (v2.0 and v2.1), SMC-D only; the
//! Linux 6.12 bytes in `tests/golden` are the oracle. [`negotiate`] decides what to answer.
//!
//! To take a message out of a stream: wait for [`HEADER_LEN`] bytes, ask [`message_len`], wait for
//! that many, [`decode`] them. Nothing here allocates, panics or reads past what it is given.
#![forbid(unsafe_code)]

mod accept;
mod codec;
mod confirm_ack;
mod decline;
mod error;
mod list;
pub mod negotiate;
mod proposal;

pub use accept::{AcceptConfirm, FirstContact, Mode};
pub use confirm_ack::ConfirmAck;
pub use decline::Decline;
pub use error::{Error, Malformed, Misbehaving, Unsupported};
pub use list::List;
pub use proposal::{
    Device, GidChid, Prefix, Proposal, RdmaPeer, SmcdV1, SmcdV2Ext, V2Ext, V6Prefix, is_emulated,
};

use codec::Reader;

/// Bytes of the common header.
pub const HEADER_LEN: usize = 8;
/// No message that [`message_len`] lets pass is longer: the longest possible Proposal. (Linux takes
/// longer Accepts and throws the surplus away; nobody sends them.)
pub const MAX_LEN: usize = Proposal::MAX_LEN;

/// `SMC_V1`
pub const VERSION_1: u8 = 1;
/// `SMC_V2`
pub const VERSION_2: u8 = 2;
/// Newest release of version 2 that we speak: v2.1 (`SMC_RELEASE`).
pub const RELEASE: u8 = 1;
/// `SMC_CLC_OS_LINUX`
pub const OS_LINUX: u8 = 2;
/// Feature bit "I know Emulated-ISM devices" (`SMC_SPF_EMULATED_ISM_DEV`).
pub const FEATURE_EMULATED_ISM: u16 = 1;
/// UEIDs in one Proposal (`SMC_CLC_MAX_UEID`).
pub const MAX_UEIDS: usize = 8;
/// GID entries in one Proposal (`SMCD_CLC_MAX_V2_GID_ENTRIES`).
pub const MAX_GID_ENTRIES: usize = 8;
/// IPv6 prefixes in one Proposal (`SMC_CLC_MAX_V6_PREFIX`).
pub const MAX_V6_PREFIXES: usize = 8;

/// The four bytes that open and close each message: "SMCR" or "SMCD" in EBCDIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eyecatcher {
    /// `SMC_EYECATCHER`: Proposal and Decline always, Accept and Confirm for SMC-R.
    Smcr,
    /// `SMCD_EYECATCHER`: Accept and Confirm for SMC-D, and our ConfirmAck.
    Smcd,
}

impl Eyecatcher {
    pub const LEN: usize = 4;

    pub const fn bytes(self) -> [u8; 4] {
        match self {
            Eyecatcher::Smcr => [0xe2, 0xd4, 0xc3, 0xd9],
            Eyecatcher::Smcd => [0xe2, 0xd4, 0xc3, 0xc4],
        }
    }

    /// `None`: not the start (or end) of a CLC message.
    pub const fn from_bytes(bytes: [u8; 4]) -> Option<Self> {
        match bytes {
            [0xe2, 0xd4, 0xc3, 0xd9] => Some(Eyecatcher::Smcr),
            [0xe2, 0xd4, 0xc3, 0xc4] => Some(Eyecatcher::Smcd),
            _ => None,
        }
    }
}

/// Message types, numbered as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Proposal = 1,
    Accept = 2,
    Confirm = 3,
    Decline = 4,
    /// libsmclo's own; see [`ConfirmAck`].
    ConfirmAck = 5,
}

impl Kind {
    const fn from_u8(n: u8) -> Option<Self> {
        Some(match n {
            1 => Kind::Proposal,
            2 => Kind::Accept,
            3 => Kind::Confirm,
            4 => Kind::Decline,
            5 => Kind::ConfirmAck,
            _ => return None,
        })
    }

    /// Shortest total length of this kind in any version.
    const fn min_len(self) -> usize {
        match self {
            Kind::Proposal => Proposal::MIN_LEN,
            Kind::Accept | Kind::Confirm => AcceptConfirm::V1_LEN,
            Kind::Decline => Decline::V1_LEN,
            Kind::ConfirmAck => ConfirmAck::LEN,
        }
    }
}

/// The 2-bit type fields of the header (`SMC_TYPE_*`): what is offered, or what was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SmcType {
    R = 0,
    D = 1,
    /// Neither.
    N = 2,
    /// Both.
    B = 3,
}

impl SmcType {
    const fn from_bits(n: u8) -> Self {
        match n & 3 {
            0 => SmcType::R,
            1 => SmcType::D,
            2 => SmcType::N,
            _ => SmcType::B,
        }
    }

    /// SMC-D is among what this says.
    pub const fn has_d(self) -> bool {
        matches!(self, SmcType::D | SmcType::B)
    }

    /// SMC-R is among what this says.
    pub const fn has_r(self) -> bool {
        matches!(self, SmcType::R | SmcType::B)
    }
}

/// The first 8 bytes of a message, taken apart.
#[derive(Clone, Copy, Debug)]
struct Header {
    eyecatcher: Eyecatcher,
    kind: Kind,
    len: usize,
    /// 1 to 15; what is above 2 is treated as 2, as Linux does.
    version: u8,
    /// Bits 3-2 and 1-0 of the last byte, not interpreted.
    typev2: u8,
    typev1: u8,
}

impl Header {
    /// Header to send; the length is filled in later.
    fn new(eyecatcher: Eyecatcher, kind: Kind, version: u8, typev2: u8, typev1: u8) -> Self {
        Header {
            eyecatcher,
            kind,
            len: 0,
            version,
            typev2,
            typev1,
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        let eyecatcher = r.array()?;
        let eyecatcher =
            Eyecatcher::from_bytes(eyecatcher).ok_or(Malformed::Eyecatcher(eyecatcher))?;
        let kind = r.u8()?;
        let kind = Kind::from_u8(kind).ok_or(Malformed::Kind(kind))?;
        let len = usize::from(r.u16()?);
        let bits = r.u8()?;
        let version = bits >> 4;
        if version < VERSION_1 {
            return Err(Malformed::Version(version).into());
        }
        if len < kind.min_len() || len > MAX_LEN {
            return Err(Malformed::Length(len).into());
        }
        Ok(Header {
            eyecatcher,
            kind,
            len,
            version: version.min(VERSION_2),
            typev2: bits >> 2 & 3,
            typev1: bits & 3,
        })
    }
}

/// Total bytes, header and trailer included, of the message that begins with `head`.
///
/// # Errors
/// [`Malformed`] when `head` is no CLC header: eyecatcher, type, version, or a length that no
/// message of this type has.
pub fn message_len(head: &[u8; HEADER_LEN]) -> Result<usize, Error> {
    Header::read(&mut Reader::new(head)).map(|header| header.len)
}

/// Whether fewer than [`HEADER_LEN`] bytes can be the start of a message.
pub fn may_begin(start: &[u8]) -> bool {
    [Eyecatcher::Smcr, Eyecatcher::Smcd].iter().any(|e| {
        let same = start.iter().zip(e.bytes()).take_while(|(a, b)| **a == *b);
        same.count() == start.len().min(Eyecatcher::LEN)
    })
}

/// Whether the bytes end as a message does. If not, the length in its header is wrong, and nobody
/// can tell where it ends.
pub fn is_whole(bytes: &[u8]) -> bool {
    let end = bytes.last_chunk();
    end.is_some_and(|end| Eyecatcher::from_bytes(*end).is_some())
}

/// Any message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nothing here allocates")]
pub enum Message {
    Proposal(Proposal),
    Accept(AcceptConfirm),
    Confirm(AcceptConfirm),
    Decline(Decline),
    ConfirmAck(ConfirmAck),
}

/// What came where one kind of message was due: that, or a Decline in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received<T> {
    Message(T),
    Declined(Decline),
}

/// Reads one whole message: `bytes` are exactly the [`message_len`] bytes of it.
///
/// Reserved fields may hold anything, as with Linux.
///
/// # Errors
/// [`Error::Malformed`] where Linux gives `EPROTO`; [`Error::Unsupported`] for SMC-R.
pub fn decode(bytes: &[u8]) -> Result<Message, Error> {
    let mut r = Reader::new(bytes);
    let header = Header::read(&mut r)?;
    if bytes.len() < header.len {
        return Err(Malformed::Short {
            need: header.len,
            have: bytes.len(),
        }
        .into());
    }
    if bytes.len() > header.len {
        return Err(Malformed::Length(header.len).into());
    }
    match header.kind {
        Kind::Proposal => Proposal::read(header, r).map(Message::Proposal),
        Kind::Accept => AcceptConfirm::read(header, r).map(Message::Accept),
        Kind::Confirm => AcceptConfirm::read(header, r).map(Message::Confirm),
        Kind::Decline => Decline::read(header, r).map(Message::Decline),
        Kind::ConfirmAck => ConfirmAck::read(header, r).map(Message::ConfirmAck),
    }
}

impl Message {
    pub const fn kind(&self) -> Kind {
        match self {
            Message::Proposal(_) => Kind::Proposal,
            Message::Accept(_) => Kind::Accept,
            Message::Confirm(_) => Kind::Confirm,
            Message::Decline(_) => Kind::Decline,
            Message::ConfirmAck(_) => Kind::ConfirmAck,
        }
    }

    /// Writes the message to the front of `out`; gives its length in bytes.
    pub fn encode(&self, out: &mut [u8; MAX_LEN]) -> usize {
        match self {
            Message::Proposal(m) => m.encode(out),
            Message::Accept(m) => m.write(Kind::Accept, out),
            Message::Confirm(m) => m.write(Kind::Confirm, out),
            Message::Decline(m) => m.write(out),
            Message::ConfirmAck(m) => m.write(out),
        }
    }

    /// For a server that waits for the client's first message.
    ///
    /// # Errors
    /// [`Misbehaving::Unexpected`] for anything but a Proposal or a Decline; likewise below.
    pub fn into_proposal(self) -> Result<Received<Proposal>, Error> {
        match self {
            Message::Proposal(m) => Ok(Received::Message(m)),
            other => other.declined(Kind::Proposal),
        }
    }

    /// For a client that has sent its Proposal.
    pub fn into_accept(self) -> Result<Received<AcceptConfirm>, Error> {
        match self {
            Message::Accept(m) => Ok(Received::Message(m)),
            other => other.declined(Kind::Accept),
        }
    }

    /// For a server that has sent its Accept.
    pub fn into_confirm(self) -> Result<Received<AcceptConfirm>, Error> {
        match self {
            Message::Confirm(m) => Ok(Received::Message(m)),
            other => other.declined(Kind::Confirm),
        }
    }

    /// For a client that has sent its Confirm.
    pub fn into_confirm_ack(self) -> Result<Received<ConfirmAck>, Error> {
        match self {
            Message::ConfirmAck(m) => Ok(Received::Message(m)),
            other => other.declined(Kind::ConfirmAck),
        }
    }

    fn declined<T>(self, want: Kind) -> Result<Received<T>, Error> {
        match self {
            Message::Decline(m) => Ok(Received::Declined(m)),
            other => Err(Error::Misbehaving(Misbehaving::Unexpected {
                want,
                got: other.kind(),
            })),
        }
    }
}
