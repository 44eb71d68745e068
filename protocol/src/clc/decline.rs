//! CLC Decline: "stay on TCP", with the reason.
#![forbid(unsafe_code)]

use super::codec::{Reader, Writer};
use super::{Error, Eyecatcher, Header, Kind, Malformed, OS_LINUX, SmcType, VERSION_1, VERSION_2};
use crate::reason;

/// A Decline (RFC 7609 appendix A; `struct smc_clc_msg_decline{,_v2}` of net/smc/smc_clc.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decline {
    /// 1 (28 bytes) or 2 (44 bytes).
    pub version: u8,
    /// The link groups of the two ends disagree; goes with [`reason::SYNCERR`].
    pub out_of_sync: bool,
    /// The sender's system id: zero unless it has a RoCE device.
    pub id_for_peer: [u8; 8],
    /// Why: a [`crate::reason`] code (`peer_diagnosis`).
    pub reason: u32,
    /// Version 2: operating system (`SMC_CLC_OS_*`, 4 bits). Zero in version 1.
    pub os: u8,
    /// Version 2: four more words of diagnosis; Linux sends zeros.
    pub extra: [u32; 4],
}

impl Decline {
    /// Bytes of a version-1 Decline.
    pub const V1_LEN: usize = 28;
    /// Bytes of a version-2 Decline.
    pub const V2_LEN: usize = 44;
    /// Longest Decline in bytes.
    pub const MAX_LEN: usize = Self::V2_LEN;

    /// A Decline as Linux sends it: the out-of-sync bit follows from the reason.
    pub fn new(version: u8, reason: u32) -> Self {
        Decline {
            version,
            out_of_sync: reason == reason::SYNCERR,
            id_for_peer: [0; 8],
            reason,
            os: if version == VERSION_1 { 0 } else { OS_LINUX },
            extra: [0; 4],
        }
    }

    /// Writes the message to the front of `out`; gives its length in bytes.
    pub fn encode(&self, out: &mut [u8; Self::MAX_LEN]) -> usize {
        self.write(out)
    }

    pub(super) fn write(&self, out: &mut [u8]) -> usize {
        let sync = if self.out_of_sync { 2 } else { 0 };
        let version = if self.version == VERSION_1 {
            VERSION_1
        } else {
            VERSION_2
        };
        let header = Header::new(
            Eyecatcher::Smcr,
            Kind::Decline,
            version,
            sync,
            SmcType::R as u8,
        );
        let mut w = Writer::new(out, header);
        w.bytes(&self.id_for_peer);
        w.u32(self.reason);
        w.u8(if version == VERSION_1 {
            0
        } else {
            self.os << 4
        });
        w.zeros(3);
        if version != VERSION_1 {
            for word in self.extra {
                w.u32(word);
            }
        }
        w.finish()
    }

    /// The trailer is not looked at: newer kernels do not either.
    pub(super) fn read(header: Header, mut r: Reader<'_>) -> Result<Self, Error> {
        let mode = SmcType::from_bits(header.typev1);
        if !matches!(mode, SmcType::R | SmcType::D) {
            return Err(Malformed::Type(mode).into());
        }
        let v1 = header.version == VERSION_1;
        if header.len != if v1 { Self::V1_LEN } else { Self::V2_LEN } {
            return Err(Malformed::Length(header.len).into());
        }
        let id_for_peer = r.array()?;
        let reason = r.u32()?;
        let os = if v1 { 0 } else { r.u8()? >> 4 };
        let mut extra = [0; 4];
        if !v1 {
            r.skip(3)?;
            for word in &mut extra {
                *word = r.u32()?;
            }
        }
        Ok(Decline {
            version: header.version,
            out_of_sync: header.typev2 & 2 != 0,
            id_for_peer,
            reason,
            os,
            extra,
        })
    }
}
