//! Ringing doorbells of clients without ever waiting. A doorbell is a timer (timerfd), which is rung by giving it a
//! count: whatever a client has made of it, that does not wait. Where a client may not have such it is an eventfd,
//! whose file, with its flags, the client shares: who clears O_NONBLOCK and fills it up would make a write to it wait
//! for ever. The completion of a request to the kernel's asynchronous I/O (`io_submit(2)`, IOCB_FLAG_RESFD) counts an
//! eventfd up from within the kernel, which never waits either.

use nix::errno::Errno;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, BorrowedFd};

const IOCB_CMD_PREAD: u16 = 0;
const IOCB_FLAG_RESFD: u32 = 1;

/// Gives a timer a count. ENOTTY: it is none, or this kernel cannot.
pub fn set_ticks(timer: BorrowedFd<'_>, count: u64) -> Result<(), Errno> {
    const TFD_IOC_SET_TICKS: libc::c_ulong = 0x4008_5400;
    // SAFETY: the kernel reads eight bytes of this frame; a file that is no timer knows no such request.
    let done = unsafe { libc::ioctl(timer.as_raw_fd(), TFD_IOC_SET_TICKS, &raw const count) };
    Errno::result(done).map(drop)
}

/// Rings doorbells of either kind.
#[derive(Debug, Default)]
pub struct Ringer {
    /// Made for the first eventfd.
    eventfds: Option<Completions>,
}

impl Ringer {
    /// Wakes whoever sleeps on `bell`, which has passed [`is_bell`].
    pub fn ring(&mut self, bell: BorrowedFd<'_>) -> Result<(), Errno> {
        match set_ticks(bell, 1) {
            Err(Errno::ENOTTY) => {}
            done => return done,
        }
        let known = match self.eventfds.take() {
            Some(known) => known,
            None => Completions::new()?,
        };
        self.eventfds.insert(known).count_up(bell)
    }
}

/// Whether it is something that can be rung; asked so that no file system is.
pub fn is_bell(fd: BorrowedFd<'_>) -> bool {
    let link = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let bells = ["anon_inode:[timerfd]", "anon_inode:[eventfd]"];
    link.is_ok_and(|name| bells.iter().any(|bell| name.as_os_str() == *bell))
}

#[derive(Debug)]
struct Completions {
    context: libc::c_ulong,
    /// Something to be read from, of which nothing is read.
    null: File,
}

/// What `io_getevents` fills in.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct IoEvent([u64; 4]);

impl Completions {
    fn new() -> Result<Self, Errno> {
        let null = File::open("/dev/null").map_err(|_| Errno::ENODEV)?;
        let mut context: libc::c_ulong = 0;
        // SAFETY: the kernel writes one word, which lives in this frame.
        Errno::result(unsafe { libc::syscall(libc::SYS_io_setup, 1, &raw mut context) })?;
        Ok(Completions { context, null })
    }

    /// An error for any other kind of file.
    fn count_up(&self, eventfd: BorrowedFd<'_>) -> Result<(), Errno> {
        // SAFETY: all zeros is a valid request.
        let mut request: libc::iocb = unsafe { std::mem::zeroed() };
        request.aio_lio_opcode = IOCB_CMD_PREAD;
        request.aio_fildes = self.null.as_raw_fd() as u32;
        request.aio_flags = IOCB_FLAG_RESFD;
        request.aio_resfd = eventfd.as_raw_fd() as u32;
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

impl Drop for Completions {
    fn drop(&mut self) {
        // SAFETY: a context of ours, with nothing under way.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::eventfd::EventFd;
    use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
    use std::os::fd::AsFd;

    fn timer() -> TimerFd {
        TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::empty()).unwrap()
    }

    fn count(bell: BorrowedFd<'_>) -> u64 {
        let mut count = [0; 8];
        assert_eq!(nix::unistd::read(bell.as_raw_fd(), &mut count), Ok(8));
        u64::from_ne_bytes(count)
    }

    #[test]
    fn a_full_bell_that_blocks_holds_nobody_up() {
        let mut ringer = Ringer::default();
        let bell = timer();
        set_ticks(bell.as_fd(), u64::MAX).unwrap();
        for _ in 0..3 {
            ringer.ring(bell.as_fd()).unwrap();
        }
        assert_eq!(count(bell.as_fd()), 1);
        assert!(ringer.eventfds.is_none());
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
        let mut ringer = Ringer::default();
        let (pipe, _writer) = std::io::pipe().unwrap();
        assert!(!is_bell(pipe.as_fd()));
        assert!(is_bell(timer().as_fd()) && is_bell(EventFd::new().unwrap().as_fd()));
        assert_eq!(ringer.ring(pipe.as_fd()), Err(Errno::EINVAL));
        ringer.ring(EventFd::new().unwrap().as_fd()).unwrap();
    }
}
