//! recvmsg, sendmsg and their many-message forms.

use crate::{calls, fds, real};
use libc::{c_int, c_uint, mmsghdr, msghdr, ssize_t, timespec};

hook! {
    libc fn recvmsg(fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t {
        match fds::get(fd) {
            0 => calls::passing::recvmsg(fd, msg, flags),
            entry => {
                real::cancellation_point();
                calls::msg::recvmsg(entry, fd, msg, flags)
            }
        }
    }

    libc fn sendmsg(fd: c_int, msg: *const msghdr, flags: c_int) -> ssize_t {
        match fds::get(fd) {
            0 => calls::passing::sendmsg(fd, msg, flags),
            entry => {
                real::cancellation_point();
                calls::msg::sendmsg(entry, fd, msg, flags)
            }
        }
    }

    libc fn recvmmsg(
        fd: c_int,
        vec: *mut mmsghdr,
        count: c_uint,
        flags: c_int,
        timeout: *mut timespec,
    ) -> c_int {
        match fds::get(fd) {
            0 => calls::passing::recvmmsg(fd, vec, count, flags, timeout),
            entry => {
                real::cancellation_point();
                calls::msg::recvmmsg(entry, fd, vec, count, flags, timeout)
            }
        }
    }

    libc fn sendmmsg(fd: c_int, vec: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int {
        match fds::get(fd) {
            0 => calls::passing::sendmmsg(fd, vec, count, flags),
            entry => {
                real::cancellation_point();
                calls::msg::sendmmsg(entry, fd, vec, count, flags)
            }
        }
    }
}
