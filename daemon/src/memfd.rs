//! Shared memory files: made here and sealed, or taken from a client and checked.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MemFdCreateFlag, memfd_create};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use std::ffi::CStr;
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

/// MFD_NOEXEC_SEAL: where vm.memfd_noexec is 2 no memfd is made without it. Since Linux 6.3.
const NOEXEC_SEAL: MemFdCreateFlag = MemFdCreateFlag::from_bits_retain(8);

/// A new memfd of `len` zero bytes, not sealed yet.
pub fn create(name: &CStr, len: u64) -> io::Result<File> {
    let flags = MemFdCreateFlag::MFD_CLOEXEC | MemFdCreateFlag::MFD_ALLOW_SEALING;
    let file = match memfd_create(name, flags | NOEXEC_SEAL) {
        Err(Errno::EINVAL) => memfd_create(name, flags)?,
        made => made?,
    };
    let file = File::from(file);
    file.set_len(len)?;
    Ok(file)
}

/// Forbids shrinking, growing and `more`, then any further seal.
pub fn seal(file: &File, more: SealFlag) -> io::Result<()> {
    let fixed = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    fcntl(
        file.as_raw_fd(),
        FcntlArg::F_ADD_SEALS(fixed | more | SealFlag::F_SEAL_SEAL),
    )?;
    Ok(())
}

/// Takes every permission bit away but these, so that a receiver cannot open the file anew with
/// more rights through `/proc/self/fd`.
pub fn restrict(file: &File, mode: u32) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(mode))
}

/// A second, read-only descriptor of the same file.
pub fn reopen_read_only(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    OpenOptions::new().read(true).open(path).map(OwnedFd::from)
}

/// A sealed memfd with `content`, by a read-only descriptor.
pub fn with_content(name: &CStr, content: &[u8]) -> io::Result<OwnedFd> {
    let file = create(name, content.len() as u64)?;
    file.write_all_at(content, 0)?;
    let read_only = reopen_read_only(file.as_fd())?;
    restrict(&file, 0o400)?;
    seal(&file, SealFlag::F_SEAL_WRITE)?;
    Ok(read_only)
}

/// Whether it is a memory file; asked so that no file system of the client's is.
pub fn has_seals(fd: BorrowedFd<'_>) -> bool {
    fcntl(fd.as_raw_fd(), FcntlArg::F_GET_SEALS).is_ok()
}

/// What tells one memfd from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Inode {
    pub dev: u64,
    pub ino: u64,
}

/// Accepts a client's memfd only when mapping it can never raise SIGBUS: a plain memfd (not huge
/// pages, of which the pool may be empty) of exactly `len` bytes that can no longer shrink.
pub fn check_foreign(fd: OwnedFd, len: usize) -> io::Result<(File, Inode)> {
    let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    // First, because it is the one question that never reaches a file system of the client's.
    let seals = fcntl(fd.as_raw_fd(), FcntlArg::F_GET_SEALS)?;
    if fstatfs(&fd)?.filesystem_type() != TMPFS_MAGIC {
        return refuse("not a memfd");
    }
    if !SealFlag::from_bits_retain(seals).contains(SealFlag::F_SEAL_SHRINK) {
        return refuse("not sealed against shrinking");
    }
    let file = File::from(fd);
    let meta = file.metadata()?;
    if meta.len() != len as u64 {
        return refuse("wrong size");
    }
    let inode = Inode {
        dev: meta.dev(),
        ino: meta.ino(),
    };
    Ok((file, inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_read_only_and_final() {
        let fd = with_content(c"test", b"hello").unwrap();
        let file = File::from(fd);
        let mut got = [0; 5];
        file.read_exact_at(&mut got, 0).unwrap();
        assert_eq!(&got, b"hello");
        assert!(file.write_at(b"x", 0).is_err());
        assert!(file.set_len(1).is_err());
    }

    #[test]
    fn foreign_files_are_checked() {
        let open = create(c"test", 4096).unwrap();
        assert!(check_foreign(open.into(), 4096).is_err(), "not sealed");

        let sealed = create(c"test", 4096).unwrap();
        seal(&sealed, SealFlag::empty()).unwrap();
        let again = sealed.try_clone().unwrap();
        assert!(check_foreign(again.into(), 8192).is_err(), "size");
        assert!(check_foreign(sealed.into(), 4096).is_ok());

        let null = File::open("/dev/null").unwrap();
        assert!(check_foreign(null.into(), 0).is_err(), "not a memfd");
    }
}
