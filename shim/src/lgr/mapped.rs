//! Where the memory of a link group is mapped: the arena, and the peer's wait page.
//!
//! Looks of epoll_wait and poll hold no connection while they look: another thread may close it, its link group may be
//! given up, and a look that has begun goes on. So its addresses never mean nothing. What is given up is covered with
//! zeros, in which a look finds nothing, and the next link group of the place is mapped over them.
//!
//! Of an arena's addresses only those can be used on which DMBs lie: mlockall(2) makes the kernel allocate all that can be,
//! and an arena is large and nearly empty.

use crate::os::{self, Access};
use protocol::shm::SLOTS_AT;
use protocol::shm::wait::{CONTEXTS, PAGE_LEN, WaitWord};
use std::ffi::c_int;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::*};

/// What is opened at a time: some DMBs.
const STEP: usize = 4 << 20;

/// One place for mappings. Null and 0: none has been here yet.
pub struct Mapped {
    arena: AtomicPtr<u8>,
    /// Bytes of the arena.
    len: AtomicUsize,
    /// Bytes from `arena` on that are this place's: as many as the longest arena that was here.
    taken: AtomicUsize,
    /// Those of them that can be used.
    open: AtomicUsize,
    wait: AtomicPtr<WaitWord>,
}

impl Mapped {
    pub const fn nothing() -> Self {
        Mapped {
            arena: AtomicPtr::new(std::ptr::null_mut()),
            len: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            wait: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    pub fn arena(&self) -> *mut u8 {
        self.arena.load(Relaxed)
    }

    pub fn len(&self) -> u64 {
        self.len.load(Relaxed) as u64
    }

    fn page(&self) -> *mut u8 {
        self.wait.load(Relaxed).cast()
    }

    /// The peer's word for its context `n`. `None`: no link group was here yet.
    pub fn wait_word(&self, n: usize) -> Option<&'static WaitWord> {
        let first = self.wait.load(Relaxed);
        // SAFETY: as many words lie there, if not those of a link group then zeros; all fields are atomics.
        (!first.is_null()).then(|| unsafe { &*first.add(n % CONTEXTS) })
    }

    /// Maps a link group's memory, of which the caller keeps the descriptors. Nobody else maps here at the time.
    pub fn map(&self, len: u64, arena: c_int, wait: c_int) -> Result<(), i32> {
        let len = usize::try_from(len).map_err(|_| libc::EINVAL)?;
        if len < SLOTS_AT {
            return Err(libc::EINVAL);
        }
        uncuttable(arena, len)?;
        uncuttable(wait, PAGE_LEN)?;
        self.map_arena(len, arena)
            .and_then(|()| self.open(SLOTS_AT as u64))
            .and_then(|()| self.map_page(wait))
            .inspect_err(|_| self.cover())
    }

    fn map_arena(&self, len: usize, file: c_int) -> Result<(), i32> {
        if self.taken.load(Relaxed) < len {
            // Where a shorter one was it stays covered.
            let at = os::map_shared(file, len, Access::None)?;
            self.arena.store(at, Relaxed);
            self.open.store(0, Relaxed);
            self.taken.store(len, Relaxed);
        } else {
            // What is open stays so: somebody may look there.
            let (at, open) = (self.arena(), self.open.load(Relaxed).min(len));
            os::map_over(at, file, 0, open, Access::Write)?;
            let closed = at.wrapping_add(open);
            os::map_over(closed, file, open, len - open, Access::None)?;
            os::unlock(at, len);
        }
        self.len.store(len, Relaxed);
        Ok(())
    }

    fn map_page(&self, file: c_int) -> Result<(), i32> {
        let page = self.page();
        if page.is_null() {
            let page = os::map_shared(file, PAGE_LEN, Access::Read)?;
            self.wait.store(page.cast(), Relaxed);
            return Ok(());
        }
        os::map_over(page, file, 0, PAGE_LEN, Access::Read)
    }

    /// The arena's first bytes up to `end`, which lies in it, can be used.
    pub fn open(&self, end: u64) -> Result<(), i32> {
        let (end, open) = (end as usize, self.open.load(Acquire));
        if end <= open {
            return Ok(());
        }
        let upto = end.next_multiple_of(STEP).min(self.len.load(Relaxed));
        let at = self.arena().wrapping_add(open);
        os::protect(at, upto.saturating_sub(open), Access::Write)?;
        self.open.fetch_max(upto, AcqRel);
        Ok(())
    }

    /// Gives the memory back, and keeps the addresses.
    pub fn cover(&self) {
        let (arena, page) = (self.arena(), self.page());
        let (open, taken) = (self.open.load(Relaxed), self.taken.load(Relaxed));
        let closed = arena.wrapping_add(open);
        let covered = os::cover(arena, open, Access::Write)
            .and_then(|()| os::cover(closed, taken - open, Access::None));
        if covered.is_err() {
            // They may be somebody else's by the time that there is another link group.
            self.taken.store(0, Relaxed);
            self.open.store(0, Relaxed);
        }
        if !page.is_null() && os::cover(page, PAGE_LEN, Access::Write).is_err() {
            self.wait.store(std::ptr::null_mut(), Relaxed);
        }
    }
}

/// Whether nobody can cut the file off under a mapping of `len` bytes.
fn uncuttable(fd: c_int, len: usize) -> Result<(), i32> {
    let seals = os::fcntl(fd, libc::F_GET_SEALS, 0)? as c_int;
    if seals & libc::F_SEAL_SHRINK == 0 || os::file_size(fd)? < len as u64 {
        return Err(libc::EINVAL);
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    fn file(len: usize) -> c_int {
        let fd = os::memfd(b"test\0").unwrap();
        os::ftruncate(fd, len).unwrap();
        os::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_SHRINK as usize).unwrap();
        fd
    }

    fn first(mapped: &Mapped) -> &AtomicUsize {
        // SAFETY: longer than a word, and something always lies there, which is what is tried.
        unsafe { &*mapped.arena().cast() }
    }

    /// Who still looks finds zeros, and the next arena of the place where the last one was.
    #[test]
    fn addresses_never_mean_nothing() {
        let mapped = Mapped::nothing();
        assert!(mapped.wait_word(0).is_none());
        let (arena, wait) = (file(SLOTS_AT * 2), file(PAGE_LEN));
        mapped.map(SLOTS_AT as u64 * 2, arena, wait).unwrap();
        let (look, asleep) = (first(&mapped), mapped.wait_word(CONTEXTS - 1).unwrap());
        look.store(7, Relaxed);
        mapped.cover();
        assert_eq!((look.load(Relaxed), asleep.epoch_if_asleep()), (0, None));
        look.store(8, Relaxed);

        mapped.map(SLOTS_AT as u64, arena, wait).unwrap();
        assert_eq!(mapped.len(), SLOTS_AT as u64);
        assert_eq!(look.load(Relaxed), 7);
        // What the longer one had behind it is still zeros.
        mapped.cover();
        let longer = file(SLOTS_AT * 3);
        mapped.map(SLOTS_AT as u64 * 3, longer, wait).unwrap();
        assert_eq!(look.load(Relaxed), 0);
        first(&mapped).store(9, Relaxed);
        assert_eq!(look.load(Relaxed), 0);
        mapped.cover();
        for fd in [arena, wait, longer] {
            os::close(fd);
        }
    }

    /// A program that locks its memory gets what DMBs lie on, and no more.
    #[test]
    fn locking_allocates_what_is_open() {
        let mapped = Mapped::nothing();
        let len = STEP + STEP / 2;
        let (arena, wait) = (file(len), file(PAGE_LEN));
        mapped.map(len as u64, arena, wait).unwrap();
        let allocated = || {
            // SAFETY: a structure of integers, which the kernel fills.
            let mut stat: libc::stat = unsafe { std::mem::zeroed() };
            // SAFETY: likewise.
            assert_eq!(unsafe { libc::fstat(arena, &raw mut stat) }, 0);
            stat.st_blocks as usize * 512
        };
        // SAFETY: the arena's addresses.
        let lock = || unsafe { libc::mlock(mapped.arena().cast(), len) };
        assert_eq!((allocated(), lock()), (0, -1));
        assert_eq!(allocated(), STEP);
        mapped.open(STEP as u64 + 1).unwrap();
        assert_eq!((allocated(), lock()), (STEP, 0));
        assert_eq!(allocated(), len);
        mapped.cover();
        os::close(arena);
        os::close(wait);
    }

    /// What the other side may cut off, or has made too short, is not mapped; the place stays usable.
    #[test]
    fn files_that_can_be_cut_are_refused() {
        let mapped = Mapped::nothing();
        let loose = os::memfd(b"test\0").unwrap();
        os::ftruncate(loose, SLOTS_AT).unwrap();
        let (arena, wait, short) = (file(SLOTS_AT), file(PAGE_LEN), file(PAGE_LEN - 1));
        let len = SLOTS_AT as u64;
        for (len, arena, wait) in [
            (len, loose, wait),
            (len, arena, short),
            (len + 1, arena, wait),
            (len - 1, arena, wait),
            (u64::MAX, arena, wait),
        ] {
            assert_eq!(mapped.map(len, arena, wait), Err(libc::EINVAL));
        }
        mapped.map(len, arena, wait).unwrap();
        mapped.cover();
        for fd in [loose, arena, wait, short] {
            os::close(fd);
        }
    }
}
