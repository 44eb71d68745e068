//! The memory of one link group: pair slots and DMBs, cut from one sealed memfd.
//!
//! DMBs are cut off front to back and never merged; one that comes back goes to the pool of its
//! size. The daemon does not map the arena: what must be zero is written through the descriptor.

use crate::device::{DeviceError, LoopbackDevice};
use crate::memfd;
use nix::fcntl::SealFlag;
use nix::sys::uio::{pread, pwrite};
use protocol::ctl::DmbPlace;
use protocol::ids::DmbToken;
use protocol::shm::cdc::Cursor;
use protocol::shm::pair::{HOLD_AT, Order};
use protocol::shm::{DMB_CODE_MAX, SLOT_LEN, SLOTS_AT, dmb_len, dmbs_at};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Pair slots of an arena.
pub const SLOTS: usize = 4096;
/// Smallest arena that holds two DMBs of the largest size.
pub const MIN_ARENA: u64 = dmbs_at(SLOTS) as u64 + (2 << 20);
/// What a new owner must find zeroed: CDC header and extension words.
const DMB_HEAD: usize = 4096;
const CODES: usize = DMB_CODE_MAX as usize + 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArenaError {
    #[error("the arena is full")]
    Full,
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// What the peer of a DMB's owner has published in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmbHead {
    /// Of the stream into this DMB.
    pub producer: Cursor,
    /// Of the opposite stream.
    pub consumer: Cursor,
    /// [`protocol::shm::cdc::flag`].
    pub flags: u16,
}

#[derive(Debug)]
pub struct Arena {
    file: Arc<OwnedFd>,
    len: u64,
    /// First byte never handed out.
    next: u64,
    pools: [Vec<DmbPlace>; CODES],
    free_slots: Vec<u64>,
    slots_used: usize,
    /// Every DMB that was cut off, in the order of their indices.
    tokens: Vec<DmbToken>,
    dmb_bytes: u64,
}

impl Arena {
    pub fn new(len: u64) -> io::Result<Self> {
        let file = memfd::create(c"smclo-arena", len)?;
        memfd::restrict(&file, 0)?;
        memfd::seal(&file, SealFlag::empty())?;
        Ok(Arena {
            file: Arc::new(file.into()),
            len,
            next: dmbs_at(SLOTS) as u64,
            pools: Default::default(),
            free_slots: Vec::new(),
            slots_used: 0,
            tokens: Vec::new(),
            dmb_bytes: 0,
        })
    }

    /// The CDC message at the start of a DMB. Its peer writes it: hostile.
    pub fn head(&self, place: &DmbPlace) -> Option<DmbHead> {
        let mut raw = [0; 24];
        pread(&*self.file, &mut raw, place.offset as i64)
            .ok()
            .filter(|n| *n == raw.len())?;
        let word = |at: usize| {
            let bytes = raw.get(at..at + 8)?;
            Some(Cursor::from_word(u64::from_ne_bytes(
                bytes.try_into().ok()?,
            )))
        };
        let (producer, _) = word(8)?;
        let (consumer, flags) = word(16)?;
        Some(DmbHead {
            producer,
            consumer,
            flags,
        })
    }

    pub fn fd(&self) -> &Arc<OwnedFd> {
        &self.file
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// DMBs cut off so far, in use or pooled, and their bytes.
    pub fn dmbs(&self) -> (usize, u64) {
        (self.tokens.len(), self.dmb_bytes)
    }

    pub fn pooled(&self) -> usize {
        self.pools.iter().map(Vec::len).sum()
    }

    pub fn slots_in_use(&self) -> usize {
        self.slots_used - self.free_slots.len()
    }

    /// Byte offset of a slot that is all zeros.
    pub fn take_slot(&mut self) -> Result<u64, ArenaError> {
        if let Some(at) = self.free_slots.pop() {
            if self.zero(at, SLOT_LEN).is_err() {
                self.free_slots.push(at);
                return Err(ArenaError::Full);
            }
            return Ok(at);
        }
        if self.slots_used == SLOTS {
            return Err(ArenaError::Full);
        }
        let at = SLOTS_AT + self.slots_used * SLOT_LEN;
        self.slots_used += 1;
        Ok(at as u64)
    }

    pub fn put_slot(&mut self, at: u64) {
        self.free_slots.push(at);
    }

    /// A DMB of this size code with a zeroed head, from the pool or cut off and registered.
    pub fn take_dmb(
        &mut self,
        device: &mut LoopbackDevice,
        uid: u32,
        code: u8,
    ) -> Result<DmbPlace, ArenaError> {
        let len = dmb_len(code).ok_or(ArenaError::Full)?;
        let pool = &mut self.pools[usize::from(code)];
        if let Some(place) = pool.pop() {
            if self.zero(place.offset, DMB_HEAD).is_err() {
                self.pools[usize::from(code)].push(place);
                return Err(ArenaError::Full);
            }
            return Ok(place);
        }
        if self.next + u64::from(len) > self.len {
            return Err(ArenaError::Full);
        }
        let token = device.register_dmb(uid, len)?;
        let place = DmbPlace {
            token: token.0,
            offset: self.next,
            len,
            index: self.tokens.len() as u32 + 1,
        };
        self.next += u64::from(len);
        self.dmb_bytes += u64::from(len);
        self.tokens.push(token);
        Ok(place)
    }

    /// A slot and two DMBs of these users and size codes, or nothing at all. One from the pool goes on
    /// to count for whom it was cut off.
    pub fn take_pair(
        &mut self,
        device: &mut LoopbackDevice,
        owners: [u32; 2],
        codes: [u8; 2],
    ) -> Result<(u64, [DmbPlace; 2]), ArenaError> {
        let slot = self.take_slot()?;
        let mut got = Vec::with_capacity(2);
        let mut cut = 0;
        for (uid, code) in owners.into_iter().zip(codes) {
            let before = self.tokens.len();
            match self.take_dmb(device, uid, code) {
                Ok(place) => got.push(place),
                Err(e) => {
                    for place in got {
                        self.put_dmb(place);
                    }
                    // What was cut off just now has not been seen by anybody: undo it, so that
                    // it does not take the room of a smaller one.
                    for _ in 0..cut {
                        self.uncut(device);
                    }
                    self.put_slot(slot);
                    return Err(e);
                }
            }
            cut += self.tokens.len() - before;
        }
        Ok((slot, [got[0], got[1]]))
    }

    /// Takes back the DMB that was cut off last, which is in its pool.
    fn uncut(&mut self, device: &mut LoopbackDevice) {
        let Some(token) = self.tokens.pop() else {
            return;
        };
        for pool in &mut self.pools {
            if let Some(at) = pool.iter().position(|place| place.token == token.0) {
                let place = pool.swap_remove(at);
                self.next = place.offset;
                self.dmb_bytes -= u64::from(place.len);
                let _ = device.unregister_dmb(token);
                return;
            }
        }
    }

    /// Back to the pool. Both ends must have released it.
    pub fn put_dmb(&mut self, place: DmbPlace) {
        let code = protocol::shm::dmb_code(place.len);
        self.pools[usize::from(code)].push(place);
    }

    fn zero(&self, at: u64, len: usize) -> io::Result<()> {
        let done = pwrite(&self.file, &[0; DMB_HEAD][..len], at as i64)?;
        // Memory files write everything or nothing, short of memory.
        if done == len {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    /// The pair in this slot is to stay on TCP. The two ends may see a word that is half old for a
    /// moment; they look again.
    pub fn hold(&self, slot: u64, order: Order) -> io::Result<()> {
        let at = slot as i64 + HOLD_AT as i64;
        pwrite(&self.file, &order.word().to_ne_bytes(), at)?;
        Ok(())
    }

    /// Gives up every DMB.
    pub fn close(self, device: &mut LoopbackDevice) {
        for token in self.tokens {
            // Unknown only if it was never registered, and then there is nothing to give up.
            let _ = device.unregister_dmb(token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::ids::Gid;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    fn device() -> LoopbackDevice {
        LoopbackDevice::new(Gid::default(), 100, 1 << 30)
    }

    fn read(arena: &Arena, at: u64) -> [u8; 16] {
        let mut got = [0; 16];
        let file = File::from(arena.fd().try_clone().unwrap());
        file.read_exact_at(&mut got, at).unwrap();
        got
    }

    fn write(arena: &Arena, at: u64) {
        let file = File::from(arena.fd().try_clone().unwrap());
        file.write_all_at(&[7; 16], at).unwrap();
    }

    #[test]
    fn dmbs_are_reused_zeroed_with_their_token() {
        let mut device = device();
        let mut arena = Arena::new(MIN_ARENA).unwrap();
        let first = arena.take_dmb(&mut device, 1, 0).unwrap();
        let second = arena.take_dmb(&mut device, 1, 0).unwrap();
        assert_eq!(first.offset, dmbs_at(SLOTS) as u64);
        assert_eq!(first.offset % 4096, 0);
        assert_eq!(second.offset, first.offset + u64::from(first.len));
        write(&arena, second.offset);
        arena.put_dmb(second);
        assert_eq!(arena.take_dmb(&mut device, 1, 0), Ok(second));
        assert_eq!(read(&arena, second.offset), [0; 16]);
        assert_eq!(device.get_dev_attr().dmbs, 2);
        arena.close(&mut device);
        assert_eq!(device.get_dev_attr().dmbs, 0);
    }

    #[test]
    fn an_arena_gets_full() {
        let mut device = device();
        let mut arena = Arena::new(MIN_ARENA).unwrap();
        for _ in 0..2 {
            arena.take_dmb(&mut device, 1, 6).unwrap();
        }
        assert_eq!(arena.take_dmb(&mut device, 1, 0), Err(ArenaError::Full));
    }

    #[test]
    fn slots_are_reused_zeroed() {
        let mut arena = Arena::new(MIN_ARENA).unwrap();
        let slots: Vec<u64> = (0..SLOTS).map(|_| arena.take_slot().unwrap()).collect();
        assert_eq!(slots[0], SLOTS_AT as u64);
        assert!(*slots.last().unwrap() + SLOT_LEN as u64 <= dmbs_at(SLOTS) as u64);
        assert_eq!(arena.take_slot(), Err(ArenaError::Full));
        write(&arena, slots[9]);
        arena.put_slot(slots[9]);
        assert_eq!(arena.take_slot(), Ok(slots[9]));
        assert_eq!(read(&arena, slots[9]), [0; 16]);
    }

    #[test]
    fn the_file_is_final() {
        let arena = Arena::new(MIN_ARENA).unwrap();
        let file = File::from(arena.fd().try_clone().unwrap());
        assert!(file.set_len(0).is_err());
        assert!(file.set_len(1 << 30).is_err());
    }
}
