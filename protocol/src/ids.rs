//! Newtypes for the field's identifiers, so that a token is never mistaken for a GID.

use std::fmt;

/// 128-bit GID of a loopback device: the two halves as they stand in a CLC Proposal.
///
/// `gid` is what SMC-D calls the GID; `ext` is the extension that Emulated-ISM devices
/// (CHID `0xFF00..=0xFFFF`) send in the entry that follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Gid {
    pub gid: u64,
    pub ext: u64,
}

impl Gid {
    /// The GID of a UUID given as its 16 bytes in the order in which they are printed.
    pub const fn from_uuid(bytes: u128) -> Self {
        Gid {
            gid: (bytes >> 64) as u64,
            ext: bytes as u64,
        }
    }

    pub const fn as_u128(self) -> u128 {
        (self.gid as u128) << 64 | self.ext as u128
    }
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.gid, self.ext)
    }
}

/// Channel id of the loopback device (`SMC_LO_RESERVED_CHID`).
pub const LOOPBACK_CHID: u16 = 0xffff;

/// An enterprise id as it stands on the wire: 32 bytes, blank padded.
pub type Eid = [u8; 32];

/// The UEID that every daemon has unless told otherwise, so that it works unconfigured.
pub const DEFAULT_UEID: Eid = *b"SMCLO.DEFAULT-UEID              ";

/// SMC-D buffer token: random, unique within the daemon that made it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct DmbToken(pub u64);

/// Which end of the TCP connection a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    Client = 0,
    Server = 1,
}

impl Role {
    pub const fn peer(self) -> Role {
        match self {
            Role::Client => Role::Server,
            Role::Server => Role::Client,
        }
    }
}
