//! getsockopt, setsockopt.

use libc::{c_int, c_void, socklen_t};

hook! {
    fd(sockopt) fn getsockopt(
        fd: c_int,
        level: c_int,
        name: c_int,
        value: *mut c_void,
        len: *mut socklen_t,
    ) -> c_int;

    fd(sockopt) fn setsockopt(
        fd: c_int,
        level: c_int,
        name: c_int,
        value: *const c_void,
        len: socklen_t,
    ) -> c_int;
}
