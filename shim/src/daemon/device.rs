//! The device that the daemon stands for: its names.

use protocol::ctl;
use protocol::ids::{Eid, Gid};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

/// What Welcome said of the device.
pub struct Device {
    gid: [AtomicU64; 2],
    seid_on: AtomicU32,
    seid: [AtomicU64; 4],
    ueid_count: AtomicU32,
    ueids: [[AtomicU64; 4]; ctl::MAX_UEIDS],
}

pub static DEVICE: Device = Device {
    gid: [const { AtomicU64::new(0) }; 2],
    seid_on: AtomicU32::new(0),
    seid: [const { AtomicU64::new(0) }; 4],
    ueid_count: AtomicU32::new(0),
    ueids: [const { [const { AtomicU64::new(0) }; 4] }; ctl::MAX_UEIDS],
};

fn put_eid(words: &[AtomicU64; 4], eid: &Eid) {
    for (word, part) in words.iter().zip(eid.chunks_exact(8)) {
        let raw = part.try_into().unwrap_or_default();
        word.store(u64::from_ne_bytes(raw), Relaxed);
    }
}

fn get_eid(words: &[AtomicU64; 4]) -> Eid {
    let mut eid = [0; 32];
    for (word, part) in words.iter().zip(eid.chunks_exact_mut(8)) {
        let raw = word.load(Relaxed).to_ne_bytes();
        part.iter_mut().zip(raw).for_each(|(to, from)| *to = from);
    }
    eid
}

impl Device {
    pub fn gid(&self) -> Gid {
        let [gid, ext] = &self.gid;
        Gid {
            gid: gid.load(Relaxed),
            ext: ext.load(Relaxed),
        }
    }

    pub fn seid(&self) -> Option<Eid> {
        (self.seid_on.load(Relaxed) != 0).then(|| get_eid(&self.seid))
    }

    /// The UEIDs and how many of them count.
    pub fn ueids(&self) -> ([Eid; ctl::MAX_UEIDS], usize) {
        let mut all = [[0; 32]; ctl::MAX_UEIDS];
        for (eid, words) in all.iter_mut().zip(&self.ueids) {
            *eid = get_eid(words);
        }
        (
            all,
            (self.ueid_count.load(Relaxed) as usize).min(ctl::MAX_UEIDS),
        )
    }

    pub(super) fn name(&self, gid: Gid, seid: &Eid) {
        let [low, ext] = &self.gid;
        low.store(gid.gid, Relaxed);
        ext.store(gid.ext, Relaxed);
        put_eid(&self.seid, seid);
    }

    pub(super) fn put(&self, seid_on: u8, count: u8, ueids: &[Eid; ctl::MAX_UEIDS]) {
        for (words, eid) in self.ueids.iter().zip(ueids) {
            put_eid(words, eid);
        }
        self.ueid_count.store(u32::from(count), Relaxed);
        self.seid_on.store(u32::from(seid_on), Relaxed);
    }
}
