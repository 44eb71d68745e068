//! Doorbells: what a sleeper is rung by. Others have them too, and do with them what they like.
//!
//! A doorbell is a timer that never runs (timerfd). It is rung by giving it a count, and silenced by setting it to
//! nothing; neither call waits, whatever a peer has made of the timer and of the flags of its file, and it is never full.
//!
//! Where a process may not do that (a kernel without CONFIG_CHECKPOINT_RESTORE, a sandbox), its doorbells are eventfds,
//! on which a peer can make a ring wait. Only processes of one kind are paired.

use super::{Result, close, fcntl, read, write};
use std::ffi::c_int;
use std::sync::atomic::{AtomicU8, Ordering::*};

/// What the doorbells of this process are: a [`Kind`], or 0: not known yet.
static KIND: AtomicU8 = AtomicU8::new(0);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Timers = 1,
    Eventfds = 2,
}

/// TFD_IOC_SET_TICKS
const SET_TICKS: usize = 0x4008_5400;
/// `struct itimerspec`: interval, and time from now on.
const NEVER: [i64; 4] = [0; 4];
const AT_ONCE: [i64; 4] = [0, 0, 0, 1];

/// Finds out of what kind the doorbells of this process are. The error is a want of descriptors or memory.
pub fn bell_kind() -> Result<Kind> {
    match KIND.load(Relaxed) {
        1 => return Ok(Kind::Timers),
        2 => return Ok(Kind::Eventfds),
        _ => {}
    }
    let tried = timer().and_then(|fd| {
        let tried = set_ticks(fd).and_then(|()| set(fd, &NEVER));
        close(fd);
        tried
    });
    let kind = match tried {
        Ok(()) => Kind::Timers,
        Err(e @ (libc::EMFILE | libc::ENFILE | libc::ENOMEM)) => return Err(e),
        Err(_) => Kind::Eventfds,
    };
    KIND.store(kind as u8, Relaxed);
    Ok(kind)
}

pub fn new_bell() -> Result<c_int> {
    match bell_kind()? {
        Kind::Timers => timer(),
        Kind::Eventfds => eventfd(),
    }
}

pub fn ring(bell: c_int) {
    if eventfds() {
        count_up(bell);
    } else if set_ticks(bell).is_err() {
        // Forbidden since. Slower: an interrupt.
        let _ = set(bell, &AT_ONCE);
    }
}

/// Takes off what was rung.
pub fn silence(bell: c_int) {
    if eventfds() || set(bell, &NEVER).is_err() {
        let _ = read(bell, &mut [0; 8]);
    }
}

/// Whether what a peer has sent is nothing that can be rung, or might make who rings it wait.
pub fn is_no_bell(fd: c_int) -> bool {
    let mut now = NEVER;
    match eventfds() {
        // The kernel says this of all that is no timer.
        false => match call!(libc::SYS_timerfd_gettime, fd, now.as_mut_ptr()) {
            Ok(_) => false,
            Err(libc::EINVAL) => true,
            Err(_) => has_type(fd),
        },
        // An eventfd or a kin of it.
        true => {
            let flags = fcntl(fd, libc::F_GETFL, 0);
            has_type(fd) || flags.is_ok_and(|f| f as c_int & libc::O_NONBLOCK == 0)
        }
    }
}

fn eventfds() -> bool {
    KIND.load(Relaxed) == Kind::Eventfds as u8
}

fn timer() -> Result<c_int> {
    let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
    call!(libc::SYS_timerfd_create, libc::CLOCK_MONOTONIC, flags).map(|fd| fd as c_int)
}

fn set_ticks(timer: c_int) -> Result<()> {
    let one = 1u64;
    call!(libc::SYS_ioctl, timer, SET_TICKS, &raw const one).map(drop)
}

fn set(timer: c_int, time: &[i64; 4]) -> Result<()> {
    call!(libc::SYS_timerfd_settime, timer, 0, time.as_ptr(), 0).map(drop)
}

fn eventfd() -> Result<c_int> {
    let flags = libc::EFD_CLOEXEC | libc::EFD_NONBLOCK;
    call!(libc::SYS_eventfd2, 0, flags).map(|fd| fd as c_int)
}

fn count_up(eventfd: c_int) {
    let one = 1u64.to_ne_bytes();
    if write(eventfd, &one) == Err(libc::EAGAIN) {
        // Somebody has filled it up, and who sleeps beside it in a bed does not silence it.
        let _ = read(eventfd, &mut [0; 8]);
        let _ = write(eventfd, &one);
    }
}

/// Files of the kernel's own (anonymous inodes) have none.
fn has_type(fd: c_int) -> bool {
    // SAFETY: zeros are a valid stat.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    call!(libc::SYS_fstat, fd, &raw mut stat).is_ok() && stat.st_mode & libc::S_IFMT != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctx::bed;
    use crate::os;

    /// Told of `bell` by its edges, as who sleeps in a bed: how often it was rung since the last look, once or not.
    fn listener(bell: c_int) -> impl FnMut() -> usize {
        let Ok(set) = os::epoll_create() else {
            unreachable!("a descriptor")
        };
        assert_eq!(bed::enter(set, bell, libc::POLLIN, 7), Ok(()));
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        move || match os::epoll_wait(set, &raw mut event, 1, Some(0), std::ptr::null()) {
            Ok(n) => n,
            Err(e) => unreachable!("epoll_wait: {e}"),
        }
    }

    fn rings(bell: c_int) -> bool {
        os::poll_one(bell, libc::POLLIN, 0) == Ok(libc::POLLIN)
    }

    /// Whatever a peer makes of it, a doorbell rings each time, is silenced, and nobody waits.
    #[test]
    fn a_peer_spoils_no_timer() {
        assert_eq!(bell_kind(), Ok(Kind::Timers));
        let Ok(bell) = new_bell() else {
            unreachable!("a descriptor")
        };
        let mut heard = listener(bell);
        let full = u64::MAX;
        let soon_and_often: [i64; 4] = [0, 1, 0, 1];
        let by_the_clock: [i64; 4] = [0, 0, i64::MAX, 0];
        let canceled = libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET;
        let spoil: [&dyn Fn() -> Result<usize>; 7] = [
            &|| Ok(0),
            &|| fcntl(bell, libc::F_SETFL, 0),
            &|| call!(libc::SYS_ioctl, bell, SET_TICKS, &raw const full),
            &|| {
                call!(
                    libc::SYS_timerfd_settime,
                    bell,
                    0,
                    soon_and_often.as_ptr(),
                    0
                )?;
                os::poll_one(bell, libc::POLLIN, 10_000).map(|told| told as usize)
            },
            &|| {
                call!(
                    libc::SYS_timerfd_settime,
                    bell,
                    canceled,
                    by_the_clock.as_ptr(),
                    0
                )
            },
            &|| fcntl(bell, libc::F_SETFL, libc::O_ASYNC as usize),
            &|| read(bell, &mut [0; 8]),
        ];
        for (i, spoil) in spoil.iter().enumerate() {
            ring(bell);
            assert!(spoil().is_ok(), "{i}");
            heard();
            for _ in 0..3 {
                ring(bell);
                assert_eq!((heard(), heard(), rings(bell)), (1, 0, true), "{i}");
            }
            // Of something that repeats, too.
            silence(bell);
            assert_eq!((heard(), rings(bell)), (0, false), "{i}");
        }
        // Where the first way is forbidden.
        for _ in 0..3 {
            assert_eq!(set(bell, &AT_ONCE), Ok(()));
            assert_eq!(os::poll_one(bell, libc::POLLIN, 10_000), Ok(libc::POLLIN));
            assert_eq!((heard(), heard()), (1, 0));
        }
        os::close(bell);
    }

    #[test]
    fn a_full_eventfd_rings() {
        let Ok(bell) = eventfd() else {
            unreachable!("a descriptor")
        };
        let mut heard = listener(bell);
        assert_eq!(write(bell, &(u64::MAX - 1).to_ne_bytes()), Ok(8));
        assert_eq!((heard(), heard()), (1, 0));
        count_up(bell);
        assert_eq!((heard(), heard()), (1, 0));
        assert!(is_no_bell(bell), "where doorbells are timers");
        os::close(bell);
    }

    #[test]
    fn other_files_are_no_bells() {
        let Ok(timer) = new_bell() else {
            unreachable!("a descriptor")
        };
        assert!(!is_no_bell(timer));
        assert_eq!(fcntl(timer, libc::F_SETFL, 0), Ok(0));
        assert!(!is_no_bell(timer), "one that blocks is as good");
        os::close(timer);
        let Ok(set) = os::epoll_create() else {
            unreachable!("a descriptor")
        };
        assert!(is_no_bell(set) && is_no_bell(0));
        os::close(set);
    }
}
