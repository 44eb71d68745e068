//! The loopback device: its identity and its table of DMBs, with the operations of `smcd_ops`.
//!
//! As in the kernel a DMB lives as long as somebody refers to it: registering counts one,
//! attaching one more. A pooled DMB stays registered, so its token survives reuse.

use nix::errno::Errno;
use protocol::ids::{DmbToken, Eid, Gid, LOOPBACK_CHID};
use protocol::reason;
use rand::Rng;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    #[error("the GID belongs to another device")]
    Unreachable,
    #[error("no DMB has this token")]
    UnknownToken,
    #[error("limit of DMBs reached")]
    TooMany,
    #[error("limit of DMBs of this user reached")]
    TooManyOfUser,
    #[error("limit of bytes of this user reached")]
    TooMuch,
}

impl DeviceError {
    /// What the kernel's device answers.
    pub fn errno(self) -> Errno {
        match self {
            DeviceError::Unreachable => Errno::ENETUNREACH,
            DeviceError::UnknownToken => Errno::EINVAL,
            DeviceError::TooMany | DeviceError::TooManyOfUser => Errno::ENOSPC,
            DeviceError::TooMuch => Errno::ENOMEM,
        }
    }

    /// [`reason`] code for the connection that wanted the DMB.
    pub fn reason(self) -> u32 {
        match self {
            DeviceError::Unreachable => reason::NOSMCD2DEV,
            DeviceError::UnknownToken => reason::INTERR,
            DeviceError::TooMany | DeviceError::TooManyOfUser => reason::MAX_DMB,
            DeviceError::TooMuch => reason::MEM,
        }
    }
}

/// An event for another client: its pair has lost the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub client: u32,
    pub pair: u64,
}

/// The optional operation `signal_event`: where events go.
pub type SignalEvent = fn(&mut Vec<Event>, Event);

/// What one user has.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    dmbs: usize,
    bytes: u64,
}

#[derive(Debug)]
struct Dmb {
    refs: u32,
    len: u32,
    uid: u32,
}

/// Limits and numbers of the device (`get_dev_attr`).
#[derive(Clone, Copy, Debug)]
pub struct DevAttr {
    pub name: &'static str,
    pub dmbs: usize,
    pub max_dmbs: usize,
    pub max_dmbs_per_uid: usize,
    pub dmb_bytes: u64,
    pub max_bytes_per_uid: u64,
}

#[derive(Debug)]
pub struct LoopbackDevice {
    gid: Gid,
    max_dmbs: usize,
    max_dmbs_per_uid: usize,
    max_bytes_per_uid: u64,
    dmbs: HashMap<DmbToken, Dmb>,
    used: HashMap<u32, Used>,
    signal_event: Option<SignalEvent>,
}

impl LoopbackDevice {
    pub fn new(gid: Gid, max_dmbs: usize, max_bytes_per_uid: u64) -> Self {
        LoopbackDevice {
            gid,
            max_dmbs,
            max_dmbs_per_uid: max_dmbs,
            max_bytes_per_uid,
            dmbs: HashMap::new(),
            used: HashMap::new(),
            signal_event: Some(|to, event| to.push(event)),
        }
    }

    /// With a limit on the DMBs of one user.
    #[must_use]
    pub fn with_max_dmbs_per_uid(mut self, most: usize) -> Self {
        self.max_dmbs_per_uid = most;
        self
    }

    /// The device without the optional operation.
    #[must_use]
    pub fn without_signal_event(mut self) -> Self {
        self.signal_event = None;
        self
    }

    /// Both halves count.
    pub fn query_remote_gid(&self, gid: Gid) -> Result<(), DeviceError> {
        if gid == self.gid {
            Ok(())
        } else {
            Err(DeviceError::Unreachable)
        }
    }

    /// Enters a DMB of `len` bytes for user `uid` and draws its token; one reference.
    pub fn register_dmb(&mut self, uid: u32, len: u32) -> Result<DmbToken, DeviceError> {
        self.register_with(uid, len, || DmbToken(rand::thread_rng().r#gen()))
    }

    fn register_with(
        &mut self,
        uid: u32,
        len: u32,
        mut draw: impl FnMut() -> DmbToken,
    ) -> Result<DmbToken, DeviceError> {
        if self.dmbs.len() >= self.max_dmbs {
            return Err(DeviceError::TooMany);
        }
        let mut used = self.used.get(&uid).copied().unwrap_or_default();
        used.dmbs += 1;
        used.bytes += u64::from(len);
        if used.dmbs > self.max_dmbs_per_uid {
            return Err(DeviceError::TooManyOfUser);
        }
        if used.bytes > self.max_bytes_per_uid {
            return Err(DeviceError::TooMuch);
        }
        loop {
            let token = draw();
            // Zero stands for "no token" in the tables of the clients.
            if token.0 == 0 {
                continue;
            }
            if let Entry::Vacant(free) = self.dmbs.entry(token) {
                free.insert(Dmb { refs: 1, len, uid });
                self.used.insert(uid, used);
                return Ok(token);
            }
        }
    }

    /// Gives the owner's reference back.
    pub fn unregister_dmb(&mut self, token: DmbToken) -> Result<(), DeviceError> {
        self.put(token)
    }

    /// One more reference; gives the length.
    pub fn attach_dmb(&mut self, token: DmbToken) -> Result<u32, DeviceError> {
        match self.dmbs.get_mut(&token) {
            Some(dmb) if dmb.refs > 0 => {
                dmb.refs += 1;
                Ok(dmb.len)
            }
            _ => Err(DeviceError::UnknownToken),
        }
    }

    pub fn detach_dmb(&mut self, token: DmbToken) -> Result<(), DeviceError> {
        self.put(token)
    }

    fn put(&mut self, token: DmbToken) -> Result<(), DeviceError> {
        let Entry::Occupied(mut entry) = self.dmbs.entry(token) else {
            return Err(DeviceError::UnknownToken);
        };
        entry.get_mut().refs -= 1;
        if entry.get().refs == 0 {
            let Dmb { len, uid, .. } = entry.remove();
            if let Entry::Occupied(mut used) = self.used.entry(uid) {
                used.get_mut().dmbs -= 1;
                used.get_mut().bytes -= u64::from(len);
                if used.get().dmbs == 0 {
                    used.remove();
                }
            }
        }
        Ok(())
    }

    /// A sender writes straight into the peer's DMB.
    pub fn support_dmb_nocopy(&self) -> bool {
        true
    }

    pub fn supports_v2(&self) -> bool {
        true
    }

    pub fn get_local_gid(&self) -> Gid {
        self.gid
    }

    pub fn get_chid(&self) -> u16 {
        LOOPBACK_CHID
    }

    pub fn get_system_eid(&self) -> Eid {
        crate::eid::SEID
    }

    pub fn get_dev_attr(&self) -> DevAttr {
        DevAttr {
            name: "loopback-ism",
            dmbs: self.dmbs.len(),
            max_dmbs: self.max_dmbs,
            max_dmbs_per_uid: self.max_dmbs_per_uid,
            dmb_bytes: self.used.values().map(|u| u.bytes).sum(),
            max_bytes_per_uid: self.max_bytes_per_uid,
        }
    }

    /// Bytes of DMBs of one user.
    pub fn bytes_of(&self, uid: u32) -> u64 {
        self.used.get(&uid).map_or(0, |u| u.bytes)
    }

    /// Optional, as in the kernel: without it nothing is told, and nothing breaks.
    pub fn signal_event(&self, to: &mut Vec<Event>, event: Event) {
        if let Some(signal) = self.signal_event {
            signal(to, event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(max: usize) -> LoopbackDevice {
        LoopbackDevice::new(Gid { gid: 1, ext: 2 }, max, 1 << 20)
    }

    #[test]
    fn both_halves_of_the_gid_count() {
        let device = device(1);
        assert!(device.query_remote_gid(Gid { gid: 1, ext: 2 }).is_ok());
        for (gid, ext) in [(1, 3), (3, 2), (2, 1), (0, 0)] {
            let err = device.query_remote_gid(Gid { gid, ext }).unwrap_err();
            assert_eq!(err.errno(), Errno::ENETUNREACH);
        }
    }

    #[test]
    fn references_keep_a_dmb() {
        let mut device = device(10);
        let token = device.register_dmb(7, 16 << 10).unwrap();
        assert_eq!(device.attach_dmb(token), Ok(16 << 10));
        // Either side may go first.
        device.unregister_dmb(token).unwrap();
        assert_eq!(device.get_dev_attr().dmbs, 1);
        device.detach_dmb(token).unwrap();
        assert_eq!(device.get_dev_attr().dmbs, 0);
        assert_eq!(device.get_dev_attr().dmb_bytes, 0);
        for op in [LoopbackDevice::unregister_dmb, LoopbackDevice::detach_dmb] {
            assert_eq!(op(&mut device, token).unwrap_err().errno(), Errno::EINVAL);
        }
        assert_eq!(device.attach_dmb(token).unwrap_err().errno(), Errno::EINVAL);
    }

    #[test]
    fn tokens_are_drawn_until_unique() {
        let mut device = device(10);
        let mut draws = [0, 5, 5, 0, 5, 6].map(DmbToken).into_iter();
        let mut draw = || draws.next().unwrap();
        assert_eq!(device.register_with(1, 1, &mut draw), Ok(DmbToken(5)));
        assert_eq!(device.register_with(1, 1, &mut draw), Ok(DmbToken(6)));
    }

    #[test]
    fn limits() {
        let mut few = device(2);
        few.register_dmb(1, 1).unwrap();
        let second = few.register_dmb(1, 1).unwrap();
        let err = few.register_dmb(1, 1).unwrap_err();
        assert_eq!(
            (err.errno(), err.reason()),
            (Errno::ENOSPC, reason::MAX_DMB)
        );
        few.unregister_dmb(second).unwrap();
        few.register_dmb(1, 1).unwrap();

        let mut small = device(10);
        small.register_dmb(1, 1 << 20).unwrap();
        let err = small.register_dmb(1, 1).unwrap_err();
        assert_eq!((err.errno(), err.reason()), (Errno::ENOMEM, reason::MEM));
        small.register_dmb(2, 1).unwrap();
    }

    #[test]
    fn identity() {
        let device = device(1);
        assert_eq!(device.get_chid(), 0xffff);
        assert_eq!(device.get_local_gid(), Gid { gid: 1, ext: 2 });
        assert!(device.supports_v2() && device.support_dmb_nocopy());
        assert!(device.get_system_eid().starts_with(b"IBM-DEF-ISMSEID"));
    }

    #[test]
    fn signal_event_is_optional() {
        let event = Event { client: 1, pair: 2 };
        let mut told = Vec::new();
        device(1).signal_event(&mut told, event);
        assert_eq!(told, [event]);
        device(1)
            .without_signal_event()
            .signal_event(&mut told, event);
        assert_eq!(told.len(), 1);
    }
}
