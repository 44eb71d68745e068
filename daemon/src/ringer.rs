//! Ringing doorbells of clients without ever waiting. A doorbell is an eventfd whose file, with its
//! flags, the client shares: who clears O_NONBLOCK and fills it up would make a write to it wait for
//! ever. The completion of a request to the kernel's asynchronous I/O (`io_submit(2)`, IOCB_FLAG_RESFD)
//! counts an eventfd up from within the kernel, which never waits.

use nix::errno::Errno;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, BorrowedFd};

const IOCB_CMD_PREAD: u16 = 0;
const IOCB_FLAG_RESFD: u32 = 1;

#[derive(Debug)]
pub struct Ringer {
    context: libc::c_ulong,
    /// Something to be read from, of which nothing is read.
    null: File,
}

/// What `io_getevents` fills in.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct IoEvent([u64; 4]);

impl Ringer {
    pub fn new() -> Result<Self, Errno> {
        let null = File::open("/dev/null").map_err(|_| Errno::ENODEV)?;
        let mut context: libc::c_ulong = 0;
        // SAFETY: the kernel writes one word, which lives in this frame.
        Errno::result(unsafe { libc::syscall(libc::SYS_io_setup, 1, &raw mut context) })?;
        Ok(Ringer { context, null })
    }

    /// Wakes whoever sleeps on the eventfd `bell`. An error for any other kind of file.
    pub fn ring(&self, bell: BorrowedFd<'_>) -> Result<(), Errno> {
        // SAFETY: all zeros is a valid request.
        let mut request: libc::iocb = unsafe { std::mem::zeroed() };
        request.aio_lio_opcode = IOCB_CMD_PREAD;
        request.aio_fildes = self.null.as_raw_fd() as u32;
        request.aio_flags = IOCB_FLAG_RESFD;
        request.aio_resfd = bell.as_raw_fd() as u32;
        let mut requests = [&raw mut request];
        // SAFETY: one request of no bytes, which is over when the call returns: /dev/null is read at
        // once. All pointers are to locals.
        let n = unsafe { libc::syscall(libc::SYS_io_submit, self.context, 1, &raw mut requests) };
        Errno::result(n)?;
        let mut done = [IoEvent::default(); 1];
        let at = done.as_mut_ptr();
        let wait: *const libc::timespec = std::ptr::null();
        // SAFETY: room for one event; none is waited for.
        unsafe { libc::syscall(libc::SYS_io_getevents, self.context, 0, 1, at, wait) };
        Ok(())
    }
}

impl Drop for Ringer {
    fn drop(&mut self) {
        // SAFETY: a context of ours, with nothing under way.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}

/// Whether it is an eventfd; asked so that no file system is.
pub fn is_eventfd(fd: BorrowedFd<'_>) -> bool {
    let link = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    link.is_ok_and(|name| name.as_os_str() == "anon_inode:[eventfd]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::eventfd::EventFd;
    use std::os::fd::AsFd;

    #[test]
    fn a_full_bell_that_blocks_holds_nobody_up() {
        let ringer = Ringer::new().unwrap();
        let bell = EventFd::new().unwrap();
        for _ in 0..3 {
            ringer.ring(bell.as_fd()).unwrap();
        }
        assert_eq!(bell.read(), Ok(3));
        // A write would wait from here on.
        bell.write(u64::MAX - 1).unwrap();
        for _ in 0..3 {
            ringer.ring(bell.as_fd()).unwrap();
        }
    }

    #[test]
    fn other_files_are_no_bells() {
        let ringer = Ringer::new().unwrap();
        let (pipe, _writer) = std::io::pipe().unwrap();
        assert!(!is_eventfd(pipe.as_fd()) && is_eventfd(EventFd::new().unwrap().as_fd()));
        assert_eq!(ringer.ring(pipe.as_fd()), Err(Errno::EINVAL));
        ringer.ring(EventFd::new().unwrap().as_fd()).unwrap();
    }
}
