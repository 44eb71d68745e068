//! Waiting for descriptors.

use super::{Result, timespec};
use std::ffi::c_int;

pub fn poll_one(fd: c_int, events: i16, timeout_ms: c_int) -> Result<i16> {
    let mut one = libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    match call!(libc::SYS_poll, &raw mut one, 1, timeout_ms) {
        Ok(_) => Ok(one.revents),
        Err(libc::EINTR) => Err(libc::EINTR),
        Err(_) => refused(one, timeout_ms),
    }
}

/// [`poll_one`] where poll is refused.
#[cold]
fn refused(mut one: libc::pollfd, timeout_ms: c_int) -> Result<i16> {
    let limit = u64::try_from(timeout_ms).ok().map(|ms| ms * 1_000_000);
    match super::select(std::slice::from_mut(&mut one), limit, None) {
        Ok(_) => Ok(one.revents),
        Err(libc::EINTR) => Err(libc::EINTR),
        // Who asks in turns is not to do it without a pause.
        Err(_) => match super::options::without_poll(one.fd, one.events)? {
            0 if timeout_ms != 0 => super::nap(1_000_000).map(|()| 0),
            seen => Ok(seen),
        },
    }
}

/// ppoll; `limit` in nanoseconds, `mask` replaces the signal mask meanwhile.
pub fn ppoll(
    fds: &mut [libc::pollfd],
    limit: Option<u64>,
    mask: Option<*const libc::sigset_t>,
) -> Result<usize> {
    let time = timespec(limit.unwrap_or(0));
    let time = if limit.is_some() {
        &raw const time
    } else {
        std::ptr::null()
    };
    let mask = mask.unwrap_or(std::ptr::null());
    call!(
        libc::SYS_ppoll,
        fds.as_mut_ptr(),
        fds.len(),
        time,
        mask,
        crate::sys::SIGSET_BYTES
    )
}

pub fn epoll_create() -> Result<c_int> {
    call!(libc::SYS_epoll_create1, libc::EPOLL_CLOEXEC).map(|fd| fd as c_int)
}

pub fn epoll_ctl(epfd: c_int, op: c_int, fd: c_int, event: &mut libc::epoll_event) -> Result<()> {
    call!(
        libc::SYS_epoll_ctl,
        epfd,
        op,
        fd,
        event as *mut libc::epoll_event
    )
    .map(drop)
}

pub fn epoll_wait(
    epfd: c_int,
    events: *mut libc::epoll_event,
    max: c_int,
    limit: Option<u64>,
    mask: *const libc::sigset_t,
) -> Result<usize> {
    let bytes = crate::sys::SIGSET_BYTES;
    if limit == Some(0) {
        return call!(libc::SYS_epoll_pwait, epfd, events, max, 0, mask, bytes);
    }
    let time = timespec(limit.unwrap_or(0));
    let at = if limit.is_some() {
        &raw const time
    } else {
        std::ptr::null()
    };
    match call!(libc::SYS_epoll_pwait2, epfd, events, max, at, mask, bytes) {
        Err(libc::ENOSYS) => {
            let ms = limit.map_or(-1, |ns| {
                ns.div_ceil(1_000_000).min(i32::MAX as u64) as c_int
            });
            call!(libc::SYS_epoll_pwait, epfd, events, max, ms, mask, bytes)
        }
        other => other,
    }
}

/// Whether the other end of a Unix socket is closed.
pub fn hung_up(fd: c_int) -> bool {
    poll_one(fd, 0, 0).is_ok_and(|revents| revents & libc::POLLHUP != 0)
}
