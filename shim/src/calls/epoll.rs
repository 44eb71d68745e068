//! epoll: sets, registrations, waits.

use crate::fds::{self, Entry, Meaning};
use crate::{clock, epoll, errno, iov, real, short};
use libc::{c_int, epoll_event, sigset_t, timespec};

/// epoll_create: every call comes here.
pub fn create(size: c_int) -> c_int {
    // SAFETY: the caller's own arguments.
    let epfd = unsafe { real::epoll_create(size) };
    epoll::create(epfd);
    epfd
}

/// epoll_create1: every call comes here.
pub fn create1(flags: c_int) -> c_int {
    // SAFETY: the caller's own arguments.
    let epfd = unsafe { real::epoll_create1(flags) };
    epoll::create(epfd);
    epfd
}

/// epoll_ctl: e = the table's word for the descriptor.
///
/// # Safety
/// As for the C function.
pub unsafe fn ctl(e: Entry, epfd: c_int, op: c_int, fd: c_int, event: *mut epoll_event) -> c_int {
    let set = match fds::decode(e, epfd) {
        Meaning::Ours => return errno::fail(libc::EBADF),
        Meaning::Set(index) => epoll::known(index),
        _ => None,
    };
    if let (Some(set), Some(short)) = (set, short::of(fds::get(fd), fd))
        && let Some(result) = epoll::short::ctl(set, op, short, event)
    {
        return result;
    }
    match (set, fds::meaning(fd)) {
        (_, Meaning::Ours) => errno::fail(libc::EBADF),
        (Some(set), Meaning::Conn(sock)) => epoll::ctl(set, epfd, op, sock, event),
        (set, meaning) => {
            // SAFETY: the caller's own arguments.
            let result = unsafe { real::epoll_ctl(epfd, op, fd, event) };
            if let Some(set) = set
                && result == 0
                && op != libc::EPOLL_CTL_DEL
            {
                // SAFETY: the kernel has read it.
                set.note_own(unsafe { event.read_unaligned() }.events);
            }
            if let Meaning::Set(inner) = meaning
                && result == 0
                && op == libc::EPOLL_CTL_ADD
            {
                // Nested: the outer set sees only what the kernel knows.
                errno::keep(|| {
                    if epoll::watched(inner) {
                        epoll::look_into();
                    }
                });
                if let Some(outer) = set {
                    outer.note_outer();
                }
            }
            result
        }
    }
}

/// The kernel refuses to give more events at once.
const MOST: c_int = i32::MAX / size_of::<epoll_event>() as c_int;

/// A wait on a set of ours: in the kernel while no ring is in it, else in [`epoll::wait`].
///
/// # Safety
/// `events` has room for `max`, `mask` is null or a signal set, as the program promises.
unsafe fn waiting(
    e: Entry,
    epfd: c_int,
    events: *mut epoll_event,
    max: c_int,
    timeout: Option<u64>,
    mask: *const sigset_t,
    kernel: impl FnOnce() -> c_int,
) -> c_int {
    let index = match fds::decode(e, epfd) {
        Meaning::Set(index) => index,
        Meaning::Ours => return errno::fail(libc::EBADF),
        Meaning::Conn(_) | Meaning::None => return kernel(),
    };
    let Some(set) = epoll::known(index) else {
        return kernel();
    };
    if !(1..=MOST).contains(&max) {
        return kernel();
    }
    let mut left = timeout;
    if set.special() {
        errno::keep(|| epoll::before_wait(set));
    }
    if !set.rings() {
        let began = clock::ticks();
        let n = kernel();
        if (0..max).contains(&n) {
            errno::keep(|| set.drained(began));
        }
        if n <= 0 {
            return n;
        }
        // The set came to have rings while we slept in the kernel.
        // SAFETY: the kernel has written n events.
        let kept = unsafe { epoll::absorb(set, events, n as usize) };
        if kept != 0 || timeout == Some(0) && n < max {
            return kept as c_int;
        }
        left = timeout.map(|ns| ns.saturating_sub(clock::ns_since(began)));
    }
    if iov::wild(events.cast(), max as usize * size_of::<epoll_event>()) {
        // The kernel looks at the address when it has something to put there.
        let mut one = epoll_event { events: 0, u64: 0 };
        // SAFETY: one event.
        return match unsafe { epoll::wait(set, &mut one, 1, left, mask) } {
            Ok(0) => 0,
            Ok(_) => errno::fail(libc::EFAULT),
            Err(e) => errno::fail(e),
        };
    }
    // SAFETY: the caller's promise.
    match unsafe { epoll::wait(set, events, max as usize, left, mask) } {
        Ok(n) => n as c_int,
        Err(e) => errno::fail(e),
    }
}

fn milliseconds(timeout: c_int) -> Option<u64> {
    u64::try_from(timeout).ok().map(|ms| ms * 1_000_000)
}

/// epoll_wait: e = the table's word for the descriptor.
///
/// # Safety
/// As for the C function.
pub unsafe fn wait(
    e: Entry,
    epfd: c_int,
    events: *mut epoll_event,
    max: c_int,
    timeout: c_int,
) -> c_int {
    // SAFETY: the caller's own arguments.
    let kernel = || unsafe { real::epoll_wait(epfd, events, max, timeout) };
    let left = milliseconds(timeout);
    // SAFETY: likewise.
    unsafe { waiting(e, epfd, events, max, left, std::ptr::null(), kernel) }
}

/// epoll_pwait: e = the table's word for the descriptor.
///
/// # Safety
/// As for the C function.
pub unsafe fn pwait(
    e: Entry,
    epfd: c_int,
    events: *mut epoll_event,
    max: c_int,
    timeout: c_int,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the caller's own arguments.
    let kernel = || unsafe { real::epoll_pwait(epfd, events, max, timeout, mask) };
    // SAFETY: likewise.
    unsafe { waiting(e, epfd, events, max, milliseconds(timeout), mask, kernel) }
}

/// epoll_pwait2: e = the table's word for the descriptor.
///
/// # Safety
/// As for the C function.
pub unsafe fn pwait2(
    e: Entry,
    epfd: c_int,
    events: *mut epoll_event,
    max: c_int,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the caller's own arguments.
    let kernel = || unsafe { real::epoll_pwait2(epfd, events, max, timeout, mask) };
    if !timeout.is_null() && iov::wild(timeout.cast(), size_of::<timespec>()) {
        return kernel();
    }
    // SAFETY: null or the program's own.
    let left = match unsafe { timeout.as_ref() } {
        None => None,
        Some(t) if t.tv_sec >= 0 && (0..1_000_000_000).contains(&t.tv_nsec) => Some(
            (t.tv_sec as u64)
                .saturating_mul(1_000_000_000)
                .saturating_add(t.tv_nsec as u64),
        ),
        Some(_) => return kernel(),
    };
    // SAFETY: the caller's own arguments.
    unsafe { waiting(e, epfd, events, max, left, mask, kernel) }
}
