//! close, shutdown, the dup family, fcntl, ioctl, close_range, closefrom.

use libc::{c_int, c_uint, c_ulong};

use crate::{calls, fds, real};

hook! {
    point(fd) fn close(fd: c_int) -> c_int;
    own fn __close(fd: c_int) -> c_int {
        close(fd)
    }

    fd(fd) fn shutdown(fd: c_int, how: c_int) -> c_int;
    fd(fd) fn dup(fd: c_int) -> c_int;

    libc fn dup2(old: c_int, new: c_int) -> c_int {
        let (e_old, e_new) = (fds::get(old), fds::get(new));
        if e_old | e_new == 0 {
            return real::dup2(old, new);
        }
        calls::fd::dup2(e_old, e_new, old, new)
    }

    own fn __dup2(old: c_int, new: c_int) -> c_int {
        dup2(old, new)
    }

    libc fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int {
        let (e_old, e_new) = (fds::get(old), fds::get(new));
        if e_old | e_new == 0 {
            return real::dup3(old, new, flags);
        }
        calls::fd::dup3(e_old, e_new, old, new, flags)
    }

    // Variadic in C. The argument is an int, a pointer or absent, as the command says; for an int
    // the upper half is undefined.
    own fn fcntl(fd: c_int, command: c_int, argument: usize) -> c_int {
        match fds::get(fd) {
            0 => real::fcntl(fd, command, argument),
            entry => calls::fd::fcntl(entry, fd, command, argument),
        }
    }

    own fn fcntl64(fd: c_int, command: c_int, argument: usize) -> c_int {
        fcntl(fd, command, argument)
    }

    own fn __fcntl(fd: c_int, command: c_int, argument: usize) -> c_int {
        fcntl(fd, command, argument)
    }

    own fn ioctl(fd: c_int, request: c_ulong, argument: usize) -> c_int {
        match fds::get(fd) {
            0 => real::ioctl(fd, request, argument),
            entry => calls::fd::ioctl(entry, fd, request, argument),
        }
    }

    libc fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
        calls::fd::close_range(first, last, flags)
    }

    own fn closefrom(lowest: c_int) {
        calls::fd::closefrom(lowest);
    }
}
