//! epoll.

use libc::{c_int, epoll_event, sigset_t, timespec};

use crate::{calls, fds, real};

hook! {
    libc fn epoll_create(size: c_int) -> c_int {
        calls::epoll::create(size)
    }

    libc fn epoll_create1(flags: c_int) -> c_int {
        calls::epoll::create1(flags)
    }

    libc fn epoll_ctl(epfd: c_int, op: c_int, fd: c_int, event: *mut epoll_event) -> c_int {
        let entry = fds::get(epfd);
        if entry | fds::get(fd) == 0 {
            return real::epoll_ctl(epfd, op, fd, event);
        }
        calls::epoll::ctl(entry, epfd, op, fd, event)
    }

    libc fn epoll_wait(
        epfd: c_int,
        events: *mut epoll_event,
        max: c_int,
        timeout: c_int,
    ) -> c_int {
        match fds::get(epfd) {
            0 => real::epoll_wait(epfd, events, max, timeout),
            entry => {
                real::cancellation_point();
                calls::epoll::wait(entry, epfd, events, max, timeout)
            }
        }
    }

    libc fn epoll_pwait(
        epfd: c_int,
        events: *mut epoll_event,
        max: c_int,
        timeout: c_int,
        mask: *const sigset_t,
    ) -> c_int {
        match fds::get(epfd) {
            0 => real::epoll_pwait(epfd, events, max, timeout, mask),
            entry => {
                real::cancellation_point();
                calls::epoll::pwait(entry, epfd, events, max, timeout, mask)
            }
        }
    }

    libc fn epoll_pwait2(
        epfd: c_int,
        events: *mut epoll_event,
        max: c_int,
        timeout: *const timespec,
        mask: *const sigset_t,
    ) -> c_int {
        match fds::get(epfd) {
            0 => real::epoll_pwait2(epfd, events, max, timeout, mask),
            entry => {
                real::cancellation_point();
                calls::epoll::pwait2(entry, epfd, events, max, timeout, mask)
            }
        }
    }
}
