//! recvmsg, sendmsg and their many-message forms.

use crate::{calls, fds};
use libc::{c_int, c_uint, mmsghdr, msghdr, ssize_t, timespec};

hook! {
    fd(msg) fn recvmsg(fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t;

    libc fn sendmsg(fd: c_int, msg: *const msghdr, flags: c_int) -> ssize_t {
        match fds::get(fd) {
            0 => calls::msg::sendmsg_elsewhere(fd, msg, flags),
            entry => calls::msg::sendmsg(entry, fd, msg, flags),
        }
    }

    fd(msg) fn recvmmsg(
        fd: c_int,
        vec: *mut mmsghdr,
        count: c_uint,
        flags: c_int,
        timeout: *mut timespec,
    ) -> c_int;

    libc fn sendmmsg(fd: c_int, vec: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int {
        match fds::get(fd) {
            0 => calls::msg::sendmmsg_elsewhere(fd, vec, count, flags),
            entry => calls::msg::sendmmsg(entry, fd, vec, count, flags),
        }
    }
}
