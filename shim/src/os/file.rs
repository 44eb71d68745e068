//! Descriptors and files.

use super::{Result, geteuid, join};
use std::ffi::c_int;

pub(super) fn read_file(path: &[u8], out: &mut [u8]) -> Result<usize> {
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    let fd = call!(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0)? as c_int;
    let n = read(fd, out);
    close(fd);
    n
}

/// Whether the path names a directory of this user that nobody else may write.
pub fn owned_directory(parts: &[&[u8]]) -> bool {
    let mut path = [0u8; 128];
    let Ok(path) = join(&mut path, parts) else {
        return false;
    };
    // SAFETY: zeros are a valid stat.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    let got = call!(
        libc::SYS_newfstatat,
        libc::AT_FDCWD,
        path.as_ptr(),
        &raw mut stat,
        libc::AT_SYMLINK_NOFOLLOW
    );
    got.is_ok()
        && stat.st_mode & libc::S_IFMT == libc::S_IFDIR
        && stat.st_uid == geteuid()
        && stat.st_mode & 0o022 == 0
}

/// `path` ends with a zero.
pub fn open_to_read(path: &[u8]) -> Result<c_int> {
    if path.last() != Some(&0) {
        return Err(libc::ENAMETOOLONG);
    }
    let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
    call!(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0).map(|fd| fd as c_int)
}

pub fn close(fd: c_int) {
    let _ = call!(libc::SYS_close, fd);
}

pub fn read(fd: c_int, out: &mut [u8]) -> Result<usize> {
    call!(libc::SYS_read, fd, out.as_mut_ptr(), out.len())
}

pub fn write(fd: c_int, bytes: &[u8]) -> Result<usize> {
    call!(libc::SYS_write, fd, bytes.as_ptr(), bytes.len())
}

/// Reads into memory that is not ours to describe as a slice (a ring).
pub fn readv(fd: c_int, list: *const libc::iovec, count: usize) -> Result<usize> {
    call!(libc::SYS_readv, fd, list, count)
}

/// Writes to a pipe what it surely has room for, O_NONBLOCK or not: an empty one for its size, and one that
/// poll calls writable for a page. (RWF_NOWAIT is no help: the kernel takes it from pipes that were spliced.)
pub fn writev_now(pipe: c_int, mut list: [libc::iovec; 2]) -> Result<usize> {
    let mut room = match ioctl_int(pipe, libc::FIONREAD) {
        Ok(0) => fcntl(pipe, libc::F_GETPIPE_SZ, 0)?,
        _ if super::poll_one(pipe, libc::POLLOUT, 0) == Ok(0) => return Err(libc::EAGAIN),
        _ => libc::PIPE_BUF,
    };
    for one in &mut list {
        one.iov_len = one.iov_len.min(room);
        room -= one.iov_len;
    }
    call!(libc::SYS_writev, pipe, list.as_ptr(), list.len())
}

/// preadv at `offset`.
pub fn preadv(fd: c_int, list: *const libc::iovec, count: usize, offset: i64) -> Result<usize> {
    call!(libc::SYS_preadv, fd, list, count, offset, 0)
}

/// Whether a file has a byte at `offset`.
pub fn has_byte(fd: c_int, offset: i64) -> bool {
    let mut byte = 0u8;
    let one = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    preadv(fd, &raw const one, 1, offset) == Ok(1)
}

pub fn splice(from: c_int, to: c_int, len: usize, flags: u32) -> Result<usize> {
    call!(libc::SYS_splice, from, 0, to, 0, len, flags)
}

pub fn fcntl(fd: c_int, command: c_int, arg: usize) -> Result<usize> {
    call!(libc::SYS_fcntl, fd, command, arg)
}

pub fn ioctl_int(fd: c_int, request: u64) -> Result<c_int> {
    let mut value: c_int = 0;
    call!(libc::SYS_ioctl, fd, request, &raw mut value)?;
    Ok(value)
}

pub fn file_size(fd: c_int) -> Result<u64> {
    // SAFETY: zeros are a valid stat.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    call!(libc::SYS_fstat, fd, &raw mut stat)?;
    Ok(stat.st_size as u64)
}

/// Inode number, 0 when there is none.
pub fn inode(fd: c_int) -> u64 {
    // SAFETY: zeros are a valid stat.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    call!(libc::SYS_fstat, fd, &raw mut stat).map_or(0, |_| stat.st_ino)
}

pub fn is_regular(fd: c_int) -> bool {
    regular_size(fd).is_some()
}

/// Length of a regular file; `None` for anything else.
pub fn regular_size(fd: c_int) -> Option<u64> {
    // SAFETY: zeros are a valid stat.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    call!(libc::SYS_fstat, fd, &raw mut stat).ok()?;
    (stat.st_mode & libc::S_IFMT == libc::S_IFREG).then_some(stat.st_size as u64)
}

/// lseek; gives the new position.
pub fn seek(fd: c_int, offset: i64, whence: c_int) -> Result<usize> {
    call!(libc::SYS_lseek, fd, offset, whence)
}
