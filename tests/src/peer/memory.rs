//! The memory of a link group, as a hostile member has it: mapped whole, writable.

use daemon::packet::receive;
use daemon::ringer::set_ticks;
use nix::sys::socket::MsgFlags;
use protocol::ctl::{DmbPlace, Paired};
use protocol::ids::Role;
use protocol::shm::pair::PairSlot;
use protocol::shm::ring::{DmbHeader, RING_AT, ring_size};
use protocol::shm::wait::{COLD, CONTEXTS, Hints};
use protocol::shm::{HINTS_AT, SLOT_LEN};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// A link group: the descriptors that came with its first pair, and the arena in memory.
#[derive(Debug)]
pub struct Group {
    pub arena_fd: OwnedFd,
    pub channel: OwnedFd,
    pub wait_page: OwnedFd,
    arena: *mut u8,
    pub len: usize,
    /// Doorbells that the other process has announced so far.
    bells: Mutex<Vec<OwnedFd>>,
}

// SAFETY: the arena is shared memory, only touched through atomics or as raw bytes.
unsafe impl Send for Group {}
// SAFETY: as above.
unsafe impl Sync for Group {}

impl Group {
    pub fn map(len: u64, fds: [OwnedFd; 3]) -> Group {
        let [arena_fd, channel, wait_page] = fds;
        let len = len as usize;
        let arena = map(arena_fd.as_raw_fd(), len);
        assert_ne!(arena, libc::MAP_FAILED, "an arena can be mapped");
        Group {
            arena_fd,
            channel,
            wait_page,
            arena: arena.cast(),
            len,
            bells: Mutex::default(),
        }
    }

    /// Takes the doorbells off the channel that are new; gives all that there are.
    pub fn bells(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        let mut bells = self.bells.lock().expect("nobody has died with it");
        while let Ok(Some(packet)) = receive(self.channel.as_fd(), MsgFlags::MSG_DONTWAIT) {
            bells.extend(packet.fds);
        }
        bells
    }

    /// Rings every doorbell once.
    pub fn ring_all(&self) {
        for bell in self.bells().iter() {
            if set_ticks(bell.as_fd(), 1).is_err() {
                let one = 1_u64.to_ne_bytes();
                // SAFETY: eight bytes of this frame to a descriptor of ours.
                unsafe { libc::write(bell.as_raw_fd(), one.as_ptr().cast(), 8) };
            }
        }
    }

    fn at<T>(&self, offset: u64) -> &T {
        assert!(offset as usize + size_of::<T>() <= self.len);
        // SAFETY: inside the arena; callers name types of atomics only.
        unsafe { &*self.arena.add(offset as usize).cast() }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: the mapping made by `map`; what borrows it borrows the group.
        unsafe { libc::munmap(self.arena.cast(), self.len) };
    }
}

/// Maps a descriptor shared and writable; `MAP_FAILED` where that is not allowed.
pub fn map(fd: i32, len: usize) -> *mut libc::c_void {
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping, at a place of the kernel's choice.
    unsafe { libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, fd, 0) }
}

/// A pair as the daemon has announced it.
#[derive(Clone, Debug)]
pub struct Pair {
    pub paired: Paired,
    pub group: Arc<Group>,
}

impl Pair {
    pub fn slot(&self) -> &PairSlot {
        self.group.at(self.paired.slot)
    }

    /// Header of the DMB of our own, which the other end writes.
    pub fn own(&self) -> &DmbHeader {
        self.group.at(self.paired.own.offset)
    }

    /// Header of the other end's DMB, which we write.
    pub fn peer(&self) -> &DmbHeader {
        self.group.at(self.paired.peer.offset)
    }

    /// For each context of the other end that watches the connection: a hint to look at it, which a set needs to
    /// which it is cold.
    pub fn hint(&self) {
        let header = self.own();
        for word in &header.watchers {
            let word = word.load(Ordering::Relaxed);
            for shift in [0, 16, 32, 48] {
                let entry = (word >> shift) as u16 & !COLD;
                if let Some(context) = usize::from(entry).checked_sub(1) {
                    let side = usize::from(self.paired.side ^ 1);
                    let n = side * CONTEXTS + context % CONTEXTS;
                    let hints: &Hints = self.group.at((HINTS_AT + n * size_of::<Hints>()) as u64);
                    hints.put(header.hint.load(Ordering::Relaxed));
                }
            }
        }
    }

    pub fn role(&self) -> Role {
        self.paired.role
    }

    /// Every word that we can write and that the other end reads: slot, and its DMB's header.
    pub fn words(&self) -> Vec<&AtomicU64> {
        let slot = (0..SLOT_LEN as u64).step_by(8);
        let header = (0..size_of::<DmbHeader>() as u64).step_by(8);
        let slot = slot.map(|at| self.paired.slot + at);
        let header = header.map(|at| self.paired.peer.offset + at);
        slot.chain(header).map(|at| self.group.at(at)).collect()
    }

    /// Bytes of a ring, as a raw place and a length.
    pub fn ring(&self, place: &DmbPlace) -> (*mut u8, u32) {
        let size = ring_size(place.len);
        let at = place.offset + u64::from(RING_AT);
        assert!((at + u64::from(size)) as usize <= self.group.len);
        // SAFETY: inside the arena.
        (unsafe { self.group.arena.add(at as usize) }, size)
    }
}
