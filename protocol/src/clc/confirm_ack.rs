//! ConfirmAck: the server's answer to Confirm, an extension of libsmclo.
//!
//! In SMC-D nobody answers a Confirm: the client uses the shared memory as soon as it has sent it,
//! and a server that then fails to attach to the client's DMB can only kill the connection. As
//! libsmclo promises to fall back to TCP instead, its client waits for this message, or for a
//! Decline, before it leaves TCP. Real SMC peers never see it: they and libsmclo never talk CLC.
//!
//! ```text
//!  0  8  header: eyecatcher SMCD, type 5, length 24, version 2, typev1 D
//!  8  8  token that the Confirm carried
//! 16  4  reserved, zero
//! 20  4  trailer SMCD
//! ```
#![forbid(unsafe_code)]

use super::codec::{Reader, Writer};
use super::{Error, Eyecatcher, Header, Kind, Malformed, SmcType, VERSION_2};
use crate::ids::DmbToken;

/// "Your Confirm is good: shared memory from here on."
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfirmAck {
    /// The token of the Confirm that this answers.
    pub token: DmbToken,
}

impl ConfirmAck {
    /// Bytes of the message.
    pub const LEN: usize = 24;

    /// Writes the message; gives its length in bytes, [`ConfirmAck::LEN`].
    pub fn encode(&self, out: &mut [u8; Self::LEN]) -> usize {
        self.write(out)
    }

    pub(super) fn write(&self, out: &mut [u8]) -> usize {
        let mode = SmcType::D as u8;
        let header = Header::new(Eyecatcher::Smcd, Kind::ConfirmAck, VERSION_2, 0, mode);
        let mut w = Writer::new(out, header);
        w.u64(self.token.0);
        w.zeros(4);
        w.finish()
    }

    pub(super) fn read(header: Header, mut r: Reader<'_>) -> Result<Self, Error> {
        if header.version != VERSION_2 {
            return Err(Malformed::Version(header.version).into());
        }
        if header.len != Self::LEN {
            return Err(Malformed::Length(header.len).into());
        }
        let mode = SmcType::from_bits(header.typev1);
        if mode != SmcType::D {
            return Err(Malformed::Type(mode).into());
        }
        let token = DmbToken(r.u64()?);
        r.trailer()?;
        Ok(ConfirmAck { token })
    }
}
