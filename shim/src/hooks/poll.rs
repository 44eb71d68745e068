//! poll, ppoll, select, pselect.

use libc::{c_int, fd_set, nfds_t, pollfd, sigset_t, size_t, timespec, timeval};

use crate::{calls, real};

/// Whether `count` entries fit into `size` bytes, as libc's fortified twins check it.
fn fits(count: nfds_t, size: size_t) -> bool {
    count <= (size / size_of::<pollfd>()) as nfds_t
}

hook! {
    libc fn poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int {
        real::cancellation_point();
        calls::poll::poll(fds, count, timeout)
    }

    own fn __poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int {
        poll(fds, count, timeout)
    }

    own fn __poll_chk(fds: *mut pollfd, count: nfds_t, timeout: c_int, size: size_t) -> c_int {
        if !fits(count, size) {
            return real::__poll_chk(fds, count, timeout, size);
        }
        poll(fds, count, timeout)
    }

    libc fn ppoll(
        fds: *mut pollfd,
        count: nfds_t,
        timeout: *const timespec,
        mask: *const sigset_t,
    ) -> c_int {
        real::cancellation_point();
        calls::poll::ppoll(fds, count, timeout, mask)
    }

    own fn __ppoll_chk(
        fds: *mut pollfd,
        count: nfds_t,
        timeout: *const timespec,
        mask: *const sigset_t,
        size: size_t,
    ) -> c_int {
        if !fits(count, size) {
            return real::__ppoll_chk(fds, count, timeout, mask, size);
        }
        ppoll(fds, count, timeout, mask)
    }

    libc fn select(
        count: c_int,
        read: *mut fd_set,
        write: *mut fd_set,
        except: *mut fd_set,
        timeout: *mut timeval,
    ) -> c_int {
        real::cancellation_point();
        calls::poll::select(count, read, write, except, timeout)
    }

    own fn __select(
        count: c_int,
        read: *mut fd_set,
        write: *mut fd_set,
        except: *mut fd_set,
        timeout: *mut timeval,
    ) -> c_int {
        select(count, read, write, except, timeout)
    }

    // The libc crate's declaration lacks the timeout's const.
    own fn pselect(
        count: c_int,
        read: *mut fd_set,
        write: *mut fd_set,
        except: *mut fd_set,
        timeout: *const timespec,
        mask: *const sigset_t,
    ) -> c_int {
        real::cancellation_point();
        calls::poll::pselect(count, read, write, except, timeout, mask)
    }
}
