//! sendfile, splice, tee, vmsplice.

use libc::{c_int, c_uint, iovec, off_t, size_t, ssize_t};

use crate::{calls, fds, real};

hook! {
    libc fn sendfile(output: c_int, input: c_int, offset: *mut off_t, count: size_t) -> ssize_t {
        let (e_out, e_in) = (fds::get(output), fds::get(input));
        if e_out | e_in == 0 {
            return real::sendfile(output, input, offset, count);
        }
        calls::file::sendfile(e_out, e_in, output, input, offset, count)
    }

    // The same function: off_t has 64 bits.
    own fn sendfile64(output: c_int, input: c_int, offset: *mut off_t, count: size_t) -> ssize_t {
        sendfile(output, input, offset, count)
    }

    libc fn splice(
        input: c_int,
        off_in: *mut off_t,
        output: c_int,
        off_out: *mut off_t,
        len: size_t,
        flags: c_uint,
    ) -> ssize_t {
        let (e_in, e_out) = (fds::get(input), fds::get(output));
        if e_in | e_out == 0 {
            return real::splice(input, off_in, output, off_out, len, flags);
        }
        real::cancellation_point();
        calls::file::splice(e_in, e_out, input, off_in, output, off_out, len, flags)
    }

    libc fn tee(input: c_int, output: c_int, len: size_t, flags: c_uint) -> ssize_t {
        let (e_in, e_out) = (fds::get(input), fds::get(output));
        if e_in | e_out == 0 {
            return real::tee(input, output, len, flags);
        }
        real::cancellation_point();
        calls::file::tee(e_in, e_out, input, output, len, flags)
    }

    point(file) fn vmsplice(fd: c_int, iov: *const iovec, count: size_t, flags: c_uint) -> ssize_t;
}
