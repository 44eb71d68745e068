//! What can be wrong with a message. None of it ends a connection: it stays on TCP.
#![forbid(unsafe_code)]

use super::{Decline, Kind, SmcType, VERSION_2};
use crate::reason;

/// Bytes that are no well-formed message. Linux ends the connection on these (`EPROTO`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Malformed {
    /// Fewer bytes than a field, or than the message's own length, needs.
    Short { need: usize, have: usize },
    /// The message does not begin with an eyecatcher.
    Eyecatcher([u8; 4]),
    /// It does not end with one.
    Trailer([u8; 4]),
    /// No such message type.
    Kind(u8),
    /// Version below 1.
    Version(u8),
    /// Total length, as the header says, that this type and version cannot have.
    Length(usize),
    /// A type field (`SMC_TYPE_*`) that this message cannot have.
    Type(SmcType),
    /// An offset field that leads somewhere else than to the part that it is for.
    Offset(u16),
    /// More list entries than the protocol has room for.
    Count(u8),
}

/// A good message at the wrong moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Misbehaving {
    /// Another message was due.
    Unexpected { want: Kind, got: Kind },
}

/// A good message that asks for what we do not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unsupported {
    /// Accept or Confirm for SMC-R, of this version.
    Rdma { version: u8 },
}

/// Why bytes are not a usable message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    Malformed(Malformed),
    Misbehaving(Misbehaving),
    Unsupported(Unsupported),
}

impl From<Malformed> for Error {
    fn from(e: Malformed) -> Self {
        Error::Malformed(e)
    }
}

impl Error {
    /// The [`crate::reason`] code of the Decline that answers this.
    pub const fn reason(&self) -> u32 {
        match self {
            Error::Malformed(_) | Error::Misbehaving(_) => reason::PROTOCOL,
            Error::Unsupported(Unsupported::Rdma { .. }) => reason::MODEUNSUPP,
        }
    }

    /// The Decline that answers this, in the version of the offending message where that is known.
    pub fn decline(&self) -> Decline {
        let version = match self {
            Error::Unsupported(Unsupported::Rdma { version }) => *version,
            _ => VERSION_2,
        };
        Decline::new(version, self.reason())
    }
}
