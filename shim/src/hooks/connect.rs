//! connect, accept, accept4.

use libc::{c_int, sockaddr, socklen_t};

use crate::calls::life::{self, Which};
use crate::fds;

hook! {
    fd(life) fn connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int;
    own fn __connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
        connect(fd, addr, len)
    }

    libc fn accept(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int {
        life::accept4(fds::get(fd), fd, addr, len, 0, Which::Accept)
    }

    libc fn accept4(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int {
        // A listener without an entry may be one that came through exec or was passed on.
        life::accept4(fds::get(fd), fd, addr, len, flags, Which::Accept4)
    }
}
