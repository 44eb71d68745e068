//! CLC Accept and Confirm of SMC-D: one layout, from the server and from the client.
#![forbid(unsafe_code)]

use super::codec::{Reader, Writer};
use super::{
    Error, Eyecatcher, Header, Kind, Malformed, SmcType, Unsupported, VERSION_1, VERSION_2,
};
use crate::ids::{DmbToken, Eid, Gid};

/// Where the sender receives, and what was agreed on.
///
/// RFC 7609 does not know SMC-D; the layout is `struct smc_clc_msg_accept_confirm` of
/// net/smc/smc_clc.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptConfirm {
    /// The sender's GID; the extension is sent in version 2 only.
    pub gid: Gid,
    /// The sender's receive buffer.
    pub token: DmbToken,
    /// Element within the buffer; Linux has one per buffer and sends 0.
    pub index: u8,
    /// Size code of the buffer, 4 bits ([`crate::shm::dmb_len`]; 7 to 15 are never sent by Linux).
    pub size_code: u8,
    /// The sender's number for the link group.
    pub link_id: u32,
    pub mode: Mode,
}

/// What differs between the versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    V1 {
        first_contact: bool,
    },
    V2 {
        /// One of the channels that the client offered.
        chid: u16,
        /// The EID that both have, blank padded.
        eid: Eid,
        /// Present exactly when this connection is the first of its link group.
        first_contact: Option<FirstContact>,
    },
}

/// First contact extension (`struct smc_clc_first_contact_ext`): the sender introduces itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstContact {
    /// Operating system (`SMC_CLC_OS_*`, 4 bits).
    pub os: u8,
    /// Release agreed on, 4 bits. From 1 on the extension has its second part.
    pub release: u8,
    /// ASCII, blank padded.
    pub hostname: [u8; 32],
    /// Second part: features of the sender. Not sent when `release` is 0, zero then.
    pub feature_mask: u16,
}

impl FirstContact {
    const LEN: usize = 36;
    const LEN_V2X: usize = 52;

    fn len(release: u8) -> usize {
        if release == 0 {
            Self::LEN
        } else {
            Self::LEN_V2X
        }
    }

    fn write(&self, w: &mut Writer<'_>) {
        w.u8(0);
        w.u8(self.os << 4 | (self.release & 0xf));
        w.zeros(2);
        w.bytes(&self.hostname);
        if self.release != 0 {
            w.zeros(2);
            w.u16(self.feature_mask);
            w.zeros(12);
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        r.skip(1)?;
        let bits = r.u8()?;
        r.skip(2)?;
        let mut fce = FirstContact {
            os: bits >> 4,
            release: bits & 0xf,
            hostname: r.array()?,
            feature_mask: 0,
        };
        if fce.release != 0 {
            r.skip(2)?;
            fce.feature_mask = r.u16()?;
            r.skip(12)?;
        }
        Ok(fce)
    }
}

impl AcceptConfirm {
    /// Bytes in version 1.
    pub const V1_LEN: usize = 48;
    /// Bytes in version 2 without first contact extension.
    pub const V2_LEN: usize = 78;
    /// Most bytes that we send; also what the kernel's receive buffer holds.
    pub const MAX_LEN: usize = Self::V2_LEN + FirstContact::LEN_V2X;

    const RDMA_V1_LEN: usize = 68;
    const RDMA_V2_MIN: usize = 108;

    /// 1 or 2.
    pub const fn version(&self) -> u8 {
        match self.mode {
            Mode::V1 { .. } => VERSION_1,
            Mode::V2 { .. } => VERSION_2,
        }
    }

    /// The connection is the first of a new link group.
    pub const fn first_contact(&self) -> bool {
        match self.mode {
            Mode::V1 { first_contact } => first_contact,
            Mode::V2 { first_contact, .. } => first_contact.is_some(),
        }
    }

    /// Writes an Accept to the front of `out`; gives its length: 48, 78, 114 or 130 bytes.
    pub fn encode_accept(&self, out: &mut [u8; Self::MAX_LEN]) -> usize {
        self.write(Kind::Accept, out)
    }

    /// Writes a Confirm to the front of `out`; lengths as in [`AcceptConfirm::encode_accept`].
    pub fn encode_confirm(&self, out: &mut [u8; Self::MAX_LEN]) -> usize {
        self.write(Kind::Confirm, out)
    }

    pub(super) fn write(&self, kind: Kind, out: &mut [u8]) -> usize {
        let first_contact = if self.first_contact() { 2 } else { 0 };
        let mode = SmcType::D as u8;
        let header = Header::new(Eyecatcher::Smcd, kind, self.version(), first_contact, mode);
        let mut w = Writer::new(out, header);
        w.u64(self.gid.gid);
        w.u64(self.token.0);
        w.u8(self.index);
        w.u8(self.size_code << 4);
        w.zeros(2);
        w.u32_host(self.link_id);
        match &self.mode {
            Mode::V1 { .. } => w.zeros(12),
            Mode::V2 {
                chid,
                eid,
                first_contact,
            } => {
                w.u16(*chid);
                w.bytes(eid);
                w.u64(self.gid.ext);
                if let Some(fce) = first_contact {
                    fce.write(&mut w);
                }
            }
        }
        w.finish()
    }

    /// Lengths are judged as by the kernel: exact in version 1, at least the parts that must be
    /// there in version 2. Surplus bytes are ignored, and so is the trailer of a message that is
    /// longer than the kernel's buffer.
    pub(super) fn read(header: Header, mut r: Reader<'_>) -> Result<Self, Error> {
        let v1 = header.version == VERSION_1;
        let bad_len = || Error::from(Malformed::Length(header.len));
        match SmcType::from_bits(header.typev1) {
            SmcType::D => {}
            SmcType::R => {
                let good = if v1 {
                    header.len == Self::RDMA_V1_LEN
                } else {
                    header.len >= Self::RDMA_V2_MIN
                };
                return Err(if good {
                    Error::Unsupported(Unsupported::Rdma {
                        version: header.version,
                    })
                } else {
                    bad_len()
                });
            }
            other => return Err(Malformed::Type(other).into()),
        }
        let good = if v1 {
            header.len == Self::V1_LEN
        } else {
            header.len >= Self::V2_LEN
        };
        if !good {
            return Err(bad_len());
        }
        let gid = r.u64()?;
        let token = DmbToken(r.u64()?);
        let index = r.u8()?;
        let size_code = r.u8()? >> 4;
        r.skip(2)?;
        let link_id = r.u32_host()?;
        let flag = header.typev2 & 2 != 0;
        let mut ext = 0;
        let mode = if v1 {
            Mode::V1 {
                first_contact: flag,
            }
        } else {
            let chid = r.u16()?;
            let eid = r.array()?;
            ext = r.u64()?;
            let first_contact = if flag {
                let fce = FirstContact::read(&mut r).map_err(|_| bad_len())?;
                if header.len < Self::V2_LEN + FirstContact::len(fce.release) {
                    return Err(bad_len());
                }
                Some(fce)
            } else {
                None
            };
            Mode::V2 {
                chid,
                eid,
                first_contact,
            }
        };
        if header.len <= Self::MAX_LEN {
            r.trailer()?;
        }
        Ok(AcceptConfirm {
            gid: Gid { gid, ext },
            token,
            index,
            size_code,
            link_id,
            mode,
        })
    }
}
