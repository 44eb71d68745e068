//! CLC Proposal: everything that the client could do.
//!
//! A chain of parts, found by offsets:
//!
//! ```text
//! base 40 │ smcd block 40 │ v1 prefixes 8+17n │ v2 extension 40+32n │ SMC-D v2 ext 48+10n │ trailer 4
//! ```
//!
//! The order is fixed, so the offsets are redundant: they are checked against the one place where
//! each part can be.
#![forbid(unsafe_code)]

use super::codec::{Reader, Writer};
use super::{
    Error, Eyecatcher, Header, Kind, List, MAX_GID_ENTRIES, MAX_UEIDS, MAX_V6_PREFIXES, Malformed,
    SmcType, VERSION_1, VERSION_2,
};
use crate::ids::{Eid, Gid};

const BASE_LEN: usize = 40;
const SMCD_LEN: u16 = 40;
/// Bytes of the smcd block behind its offset field.
const SMCD_REST: u16 = 28;
const PREFIX_LEN: u16 = 8;
const V6_PREFIX_LEN: u16 = 17;
const V2_LEN: u16 = 40;
/// Bytes of the fixed v2 extension behind its offset field.
const V2_REST: u16 = 32;
const EID_LEN: u16 = 32;
const SMCD_V2_LEN: u16 = 48;
const GID_CHID_LEN: u16 = 10;

/// A Proposal (RFC 7609 appendix A for the v1 parts, net/smc/smc_clc.h for the others).
///
/// Which parts go on the wire follows from the types: `prefix` when `typev1` is not N, `v2` when
/// `typev2` is not N, `v2.smcd` when `typev2` has D. A part that is due but `None` is encoded so
/// that the reader finds it missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// 1 (RFC 7609) or 2.
    pub version: u8,
    /// Offered as v1.
    pub typev1: SmcType,
    /// Offered as v2; N in version 1.
    pub typev2: SmcType,
    /// For SMC-R v1; zeros otherwise.
    pub rdma: RdmaPeer,
    /// `None` only in a version-1 Proposal of a sender that does not know SMC-D.
    pub smcd: Option<SmcdV1>,
    pub prefix: Option<Prefix>,
    pub v2: Option<V2Ext>,
}

/// Identity of an SMC-R v1 client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RdmaPeer {
    /// Instance number (2 bytes) and part of the RoCE MAC (6 bytes).
    pub id_for_peer: [u8; 8],
    pub gid: [u8; 16],
    pub mac: [u8; 6],
}

/// The ISM device offered for SMC-D v1; zeros when none is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SmcdV1 {
    pub gid: u64,
    pub chid: u16,
}

/// The client's IP subnet: SMC v1 works within one only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefix {
    /// IPv4 subnet, as it stands in the address.
    pub subnet: [u8; 4],
    /// Bits of `subnet` that count.
    pub len: u8,
    pub v6: List<V6Prefix, MAX_V6_PREFIXES>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct V6Prefix {
    pub prefix: [u8; 16],
    /// Bits of `prefix` that count.
    pub len: u8,
}

/// v2 extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V2Ext {
    /// UEIDs, in the order in which the client would like them.
    pub eids: List<Eid, MAX_UEIDS>,
    /// Newest release that the client speaks, 4 bits.
    pub release: u8,
    /// The SEID of `smcd` takes part in the match.
    pub seid_on: bool,
    /// SMC-R v2 only; zeros otherwise.
    pub roce_gid: [u8; 16],
    /// SMC-R v2 only.
    pub max_conns: u8,
    /// SMC-R v2 only.
    pub max_links: u8,
    /// [`super::FEATURE_EMULATED_ISM`]
    pub feature_mask: u16,
    /// SMC-D v2 extension.
    pub smcd: Option<SmcdV2Ext>,
}

/// SMC-D v2 extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SmcdV2Ext {
    /// System EID; zeros on everything but s390.
    pub seid: Eid,
    /// Raw entries; [`SmcdV2Ext::devices`] reads them.
    pub entries: List<GidChid, MAX_GID_ENTRIES>,
}

/// One 10-byte entry: an ISM device, or one half of an Emulated-ISM device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GidChid {
    pub gid: u64,
    pub chid: u16,
}

/// An ISM device that the client offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// `ext` is 0 for hardware ISM.
    pub gid: Gid,
    pub chid: u16,
}

/// CHIDs from `0xFF00` belong to devices made in software (loopback, virtio), which have 128-bit
/// GIDs (`SMC_EMULATED_ISM_CHID_MASK`).
pub const fn is_emulated(chid: u16) -> bool {
    chid & 0xff00 == 0xff00
}

impl Device {
    /// The one or two entries that announce this device.
    pub fn entries(self) -> List<GidChid, 2> {
        let entry = |gid| GidChid {
            gid,
            chid: self.chid,
        };
        let wanted = if is_emulated(self.chid) { 2 } else { 1 };
        List::from_first(
            [entry(self.gid.gid), entry(self.gid.ext)]
                .into_iter()
                .take(wanted),
        )
    }
}

impl SmcdV2Ext {
    /// The devices behind the entries: an Emulated-ISM device takes two neighbours with the same
    /// CHID, {gid, chid} {ext, chid}; the first of them without its second is skipped.
    pub fn devices(&self) -> impl Iterator<Item = Device> + '_ {
        let mut rest: &[GidChid] = &self.entries;
        std::iter::from_fn(move || {
            loop {
                let (entry, tail) = rest.split_first()?;
                rest = tail;
                let mut ext = 0;
                if is_emulated(entry.chid) {
                    match tail.split_first() {
                        Some((second, after)) if second.chid == entry.chid => {
                            ext = second.gid;
                            rest = after;
                        }
                        _ => continue,
                    }
                }
                return Some(Device {
                    gid: Gid {
                        gid: entry.gid,
                        ext,
                    },
                    chid: entry.chid,
                });
            }
        })
    }
}

impl Proposal {
    /// Shortest: base, prefixes without IPv6, trailer (RFC 7609).
    pub const MIN_LEN: usize = BASE_LEN + PREFIX_LEN as usize + Eyecatcher::LEN;
    /// Longest: all parts, 8 IPv6 prefixes, 8 UEIDs, 8 GID entries.
    pub const MAX_LEN: usize = BASE_LEN
        + SMCD_LEN as usize
        + PREFIX_LEN as usize
        + V6_PREFIX_LEN as usize * MAX_V6_PREFIXES
        + V2_LEN as usize
        + EID_LEN as usize * MAX_UEIDS
        + SMCD_V2_LEN as usize
        + GID_CHID_LEN as usize * MAX_GID_ENTRIES
        + Eyecatcher::LEN;

    /// Writes the message to the front of `out`; gives its length in bytes.
    pub fn encode(&self, out: &mut [u8; Self::MAX_LEN]) -> usize {
        let v1 = self.version == VERSION_1;
        let version = if v1 { VERSION_1 } else { VERSION_2 };
        let typev2 = if v1 { SmcType::N } else { self.typev2 };
        let typev2_bits = if v1 { 0 } else { typev2 as u8 };
        let prefix = (self.typev1 != SmcType::N).then(|| self.prefix.unwrap_or_default());
        let smcd = if v1 {
            self.smcd
        } else {
            Some(self.smcd.unwrap_or_default())
        };
        let prefix_len = prefix.map_or(0, |p| PREFIX_LEN + V6_PREFIX_LEN * p.v6.len() as u16);
        let v2 = match typev2 {
            SmcType::N => None,
            _ => self.v2,
        };

        let header = Header::new(
            Eyecatcher::Smcr,
            Kind::Proposal,
            version,
            typev2_bits,
            self.typev1 as u8,
        );
        let mut w = Writer::new(out, header);
        w.bytes(&self.rdma.id_for_peer);
        w.bytes(&self.rdma.gid);
        w.bytes(&self.rdma.mac);
        w.u16(match (prefix, smcd) {
            (Some(_), Some(_)) => SMCD_LEN,
            _ => 0,
        });
        if let Some(smcd) = smcd {
            w.u64(smcd.gid);
            w.u16(smcd.chid);
            w.u16(v2.map_or(0, |_| SMCD_REST + prefix_len));
            w.zeros(usize::from(SMCD_REST));
        }
        if let Some(prefix) = prefix {
            prefix.write(&mut w);
        }
        if let Some(v2) = v2 {
            v2.write(typev2, &mut w);
        }
        w.finish()
    }

    pub(super) fn read(header: Header, mut r: Reader<'_>) -> Result<Self, Error> {
        let v1 = header.version == VERSION_1;
        let typev1 = SmcType::from_bits(header.typev1);
        let typev2 = if v1 {
            SmcType::N
        } else {
            SmcType::from_bits(header.typev2)
        };
        if v1 && typev1 == SmcType::N {
            return Err(Malformed::Type(typev1).into());
        }
        let rdma = RdmaPeer {
            id_for_peer: r.array()?,
            gid: r.array()?,
            mac: r.array()?,
        };
        let iparea = r.u16()?;
        // With a v1 offer the field says where the prefixes are: behind the smcd block, or, for
        // SMC-R from an old sender, right here.
        let whole = iparea == SMCD_LEN;
        if iparea > SMCD_LEN || typev1 != SmcType::N && !whole && (!v1 || typev1.has_d()) {
            return Err(Malformed::Offset(iparea).into());
        }
        let mut v2_offset = 0;
        let smcd = if !v1 || whole {
            let smcd = SmcdV1 {
                gid: r.u64()?,
                chid: r.u16()?,
            };
            v2_offset = r.u16()?;
            r.skip(usize::from(SMCD_REST))?;
            Some(smcd)
        } else {
            r.skip(usize::from(iparea))?;
            None
        };
        let mut v2_place = SMCD_REST;
        let prefix = if typev1 == SmcType::N {
            None
        } else {
            let prefix = Prefix::read(&mut r)?;
            v2_place += PREFIX_LEN + V6_PREFIX_LEN * prefix.v6.len() as u16;
            Some(prefix)
        };
        let v2 = if typev2 == SmcType::N {
            None
        } else if v2_offset == v2_place {
            Some(V2Ext::read(typev2, header, &mut r)?)
        } else {
            return Err(Malformed::Offset(v2_offset).into());
        };
        if r.left() != Eyecatcher::LEN {
            return Err(Malformed::Length(header.len).into());
        }
        r.trailer()?;
        Ok(Proposal {
            version: header.version,
            typev1,
            typev2,
            rdma,
            smcd,
            prefix,
            v2,
        })
    }
}

impl Prefix {
    fn write(&self, w: &mut Writer<'_>) {
        w.bytes(&self.subnet);
        w.u8(self.len);
        w.zeros(2);
        w.u8(self.v6.count());
        for v6 in self.v6.iter() {
            w.bytes(&v6.prefix);
            w.u8(v6.len);
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        let mut prefix = Prefix {
            subnet: r.array()?,
            len: r.u8()?,
            v6: List::new(),
        };
        r.skip(2)?;
        let count = r.u8()?;
        for _ in 0..count {
            let v6 = V6Prefix {
                prefix: r.array()?,
                len: r.u8()?,
            };
            if !prefix.v6.push(v6) {
                return Err(Malformed::Count(count).into());
            }
        }
        Ok(prefix)
    }
}

impl V2Ext {
    fn write(&self, typev2: SmcType, w: &mut Writer<'_>) {
        let smcd = if typev2.has_d() { self.smcd } else { None };
        w.u8(self.eids.count());
        w.u8(smcd.map_or(0, |s| s.entries.count()));
        w.u8(0);
        w.u8(self.release << 4 | u8::from(self.seid_on));
        w.zeros(2);
        w.u16(smcd.map_or(0, |_| self.smcd_place()));
        w.bytes(&self.roce_gid);
        w.u8(self.max_conns);
        w.u8(self.max_links);
        w.u16(self.feature_mask);
        w.zeros(12);
        for eid in self.eids.iter() {
            w.bytes(eid);
        }
        if let Some(smcd) = smcd {
            w.bytes(&smcd.seid);
            w.zeros(16);
            for entry in smcd.entries.iter() {
                w.u64(entry.gid);
                w.u16(entry.chid);
            }
        } else if typev2.has_d() {
            // The bytes count for the total length even when no offset leads to them.
            w.zeros(usize::from(SMCD_V2_LEN));
        }
    }

    /// What the offset field of the SMC-D v2 extension must hold.
    fn smcd_place(&self) -> u16 {
        V2_REST + EID_LEN * self.eids.len() as u16
    }

    /// A wrong offset of the SMC-D v2 extension makes it missing, no more: the kernel declines
    /// then, whereas any other offset is fatal.
    fn read(typev2: SmcType, header: Header, r: &mut Reader<'_>) -> Result<Self, Error> {
        let eid_count = r.u8()?;
        let entry_count = r.u8()?;
        if usize::from(eid_count) > MAX_UEIDS {
            return Err(Malformed::Count(eid_count).into());
        }
        if usize::from(entry_count) > MAX_GID_ENTRIES {
            return Err(Malformed::Count(entry_count).into());
        }
        r.skip(1)?;
        let bits = r.u8()?;
        r.skip(2)?;
        let smcd_offset = r.u16()?;
        let mut v2 = V2Ext {
            eids: List::new(),
            release: bits >> 4,
            seid_on: bits & 1 != 0,
            roce_gid: r.array()?,
            max_conns: r.u8()?,
            max_links: r.u8()?,
            feature_mask: r.u16()?,
            smcd: None,
        };
        r.skip(12)?;
        for _ in 0..eid_count {
            if !v2.eids.push(r.array()?) {
                return Err(Malformed::Count(eid_count).into());
            }
        }
        if typev2.has_d() {
            let mut smcd = SmcdV2Ext {
                seid: r.array()?,
                entries: List::new(),
            };
            r.skip(16)?;
            for _ in 0..entry_count {
                let entry = GidChid {
                    gid: r.u64()?,
                    chid: r.u16()?,
                };
                if !smcd.entries.push(entry) {
                    return Err(Malformed::Count(entry_count).into());
                }
            }
            v2.smcd = (smcd_offset == v2.smcd_place()).then_some(smcd);
        }
        if r.left() != Eyecatcher::LEN {
            return Err(Malformed::Length(header.len).into());
        }
        Ok(v2)
    }
}
