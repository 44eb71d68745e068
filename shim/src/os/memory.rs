//! Memory and memory files.

use super::Result;
use std::ffi::c_int;

fn map(fd: c_int, len: usize, prot: c_int, flags: c_int) -> Result<*mut u8> {
    call!(libc::SYS_mmap, 0, len, prot, flags, fd, 0).map(|at| at as *mut u8)
}

const RW: c_int = libc::PROT_READ | libc::PROT_WRITE;

pub fn map_shared(fd: c_int, len: usize) -> Result<*mut u8> {
    map(fd, len, RW, libc::MAP_SHARED | libc::MAP_NORESERVE)
}

pub fn map_shared_read(fd: c_int, len: usize) -> Result<*mut u8> {
    map(fd, len, libc::PROT_READ, libc::MAP_SHARED)
}

pub fn map_anonymous_shared(len: usize) -> Result<*mut u8> {
    map(
        -1,
        len,
        RW,
        libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
    )
}

pub fn map_anonymous(len: usize) -> Result<*mut u8> {
    map(
        -1,
        len,
        RW,
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
