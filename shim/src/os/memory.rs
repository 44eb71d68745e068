//! Memory and memory files.

use super::Result;
use std::ffi::c_int;

/// From this length on memory is mostly empty.
const LARGE: usize = 1 << 20;

fn map(fd: c_int, len: usize, access: Access, flags: c_int) -> Result<*mut u8> {
    let anywhere = std::ptr::null_mut();
    if len < LARGE {
        return map_at(anywhere, fd, 0, len, access.prot(), flags);
    }
    // A program may have all locked that is mapped from some time on (mlockall): the kernel would allocate it now,
    // unless nobody may touch it yet.
    let at = map_at(anywhere, fd, 0, len, libc::PROT_NONE, flags)?;
    unlock(at, len);
    if access != Access::None
        && let Err(e) = protect(at, len, access)
    {
        munmap(at, len);
        return Err(e);
    }
    Ok(at)
}

fn map_at(
    at: *mut u8,
    fd: c_int,
    offset: usize,
    len: usize,
    prot: c_int,
    flags: c_int,
) -> Result<*mut u8> {
    call!(libc::SYS_mmap, at, len, prot, flags, fd, offset).map(|at| at as *mut u8)
}

const SHARED: c_int = libc::MAP_SHARED | libc::MAP_NORESERVE;

/// What can be done with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    None,
    Read,
    Write,
}

impl Access {
    fn prot(self) -> c_int {
        match self {
            Access::None => libc::PROT_NONE,
            Access::Read => libc::PROT_READ,
            Access::Write => libc::PROT_READ | libc::PROT_WRITE,
        }
    }
}

pub fn map_shared(fd: c_int, len: usize, access: Access) -> Result<*mut u8> {
    map(fd, len, access, SHARED)
}

/// The same over what the caller has mapped at `at`, from `offset` of the file on. After an error nothing may be there.
pub fn map_over(at: *mut u8, fd: c_int, offset: usize, len: usize, access: Access) -> Result<()> {
    if len == 0 {
        return Ok(());
    }
    map_at(at, fd, offset, len, access.prot(), SHARED | libc::MAP_FIXED).map(drop)
}

/// Zeros over what the caller has mapped at `at`, which goes back to the kernel. After an error nothing may be there.
/// Memory that can be written is not private, which counts for RLIMIT_DATA; where nothing can be done with it it is, and so
/// counts for nothing: shared memory does where the kernel promises no more than it has (vm.overcommit_memory 2).
pub fn cover(at: *mut u8, len: usize, access: Access) -> Result<()> {
    if len == 0 {
        return Ok(());
    }
    let kind = match access {
        Access::None => libc::MAP_PRIVATE | libc::MAP_NORESERVE,
        Access::Read | Access::Write => SHARED,
    };
    let flags = kind | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    map_at(at, -1, 0, len, access.prot(), flags).map(drop)
}

pub fn protect(at: *mut u8, len: usize, access: Access) -> Result<()> {
    call!(libc::SYS_mprotect, at, len, access.prot()).map(drop)
}

/// Does not count as locked.
pub fn unlock(at: *mut u8, len: usize) {
    let _ = call!(libc::SYS_munlock, at, len);
}

pub fn map_anonymous_shared(len: usize) -> Result<*mut u8> {
    map(
        -1,
        len,
        Access::Write,
        libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
    )
}

pub fn map_anonymous(len: usize) -> Result<*mut u8> {
    map(
        -1,
        len,
        Access::Write,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
    )
}

/// Private memory of no file is all zeros again.
pub fn forget_contents(at: *mut u8, len: usize) -> Result<()> {
    call!(libc::SYS_madvise, at, len, libc::MADV_DONTNEED).map(drop)
}

pub fn munmap(at: *mut u8, len: usize) {
    let _ = call!(libc::SYS_munmap, at, len);
}

/// A file in memory that can be sealed and never executed: where vm.memfd_noexec is 2 no other is
/// allowed. Kernels before 6.3 do not know the flag. `name` ends with NUL.
pub fn memfd(name: &[u8]) -> Result<c_int> {
    const NOEXEC_SEAL: u32 = 8;
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let create = |flags| call!(libc::SYS_memfd_create, name.as_ptr(), flags).map(|fd| fd as c_int);
    match create(flags | NOEXEC_SEAL) {
        Err(libc::EINVAL) => create(flags),
        made => made,
    }
}

pub fn ftruncate(fd: c_int, len: usize) -> Result<()> {
    call!(libc::SYS_ftruncate, fd, len).map(drop)
}
