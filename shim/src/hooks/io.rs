//! read, write, recv, send and their vector and twin forms.

use libc::{c_int, c_void, iovec, off_t, size_t, sockaddr, socklen_t, ssize_t};

use crate::real;

hook! {
    receive(io, 0) fn read(fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t;
    send(io) fn write(fd: c_int, buf: *const c_void, len: size_t) -> ssize_t;
    receive(io, 0) fn readv(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t;
    send(io) fn writev(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t;
    receive(io, flags) fn recv(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int) -> ssize_t;
    send(io) fn send(fd: c_int, buf: *const c_void, len: size_t, flags: c_int) -> ssize_t;

    receive(io, flags) fn recvfrom(
        fd: c_int,
        buf: *mut c_void,
        len: size_t,
        flags: c_int,
        addr: *mut sockaddr,
        addr_len: *mut socklen_t,
    ) -> ssize_t;

    send(io) fn sendto(
        fd: c_int,
        buf: *const c_void,
        len: size_t,
        flags: c_int,
        addr: *const sockaddr,
        addr_len: socklen_t,
    ) -> ssize_t;

    point(io) fn preadv2(
        fd: c_int,
        iov: *const iovec,
        count: c_int,
        offset: off_t,
        flags: c_int,
    ) -> ssize_t;

    point(io) fn pwritev2(
        fd: c_int,
        iov: *const iovec,
        count: c_int,
        offset: off_t,
        flags: c_int,
    ) -> ssize_t;

    // The same functions: off_t has 64 bits.
    own fn preadv64v2(
        fd: c_int,
        iov: *const iovec,
        count: c_int,
        offset: off_t,
        flags: c_int,
    ) -> ssize_t {
        preadv2(fd, iov, count, offset, flags)
    }

    own fn pwritev64v2(
        fd: c_int,
        iov: *const iovec,
        count: c_int,
        offset: off_t,
        flags: c_int,
    ) -> ssize_t {
        pwritev2(fd, iov, count, offset, flags)
    }

    // libc's twins.
    own fn __read(fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t {
        read(fd, buf, len)
    }

    own fn __write(fd: c_int, buf: *const c_void, len: size_t) -> ssize_t {
        write(fd, buf, len)
    }

    own fn __send(fd: c_int, buf: *const c_void, len: size_t, flags: c_int) -> ssize_t {
        send(fd, buf, len, flags)
    }

    // _FORTIFY_SOURCE's twins, which know the buffer's size. A failed check is libc's to report.
    own fn __read_chk(fd: c_int, buf: *mut c_void, len: size_t, size: size_t) -> ssize_t {
        if len > size {
            return real::__read_chk(fd, buf, len, size);
        }
        read(fd, buf, len)
    }

    own fn __recv_chk(
        fd: c_int,
        buf: *mut c_void,
        len: size_t,
        size: size_t,
        flags: c_int,
    ) -> ssize_t {
        if len > size {
            return real::__recv_chk(fd, buf, len, size, flags);
        }
        recv(fd, buf, len, flags)
    }

    own fn __recvfrom_chk(
        fd: c_int,
        buf: *mut c_void,
        len: size_t,
        size: size_t,
        flags: c_int,
        addr: *mut sockaddr,
        addr_len: *mut socklen_t,
    ) -> ssize_t {
        if len > size {
            return real::__recvfrom_chk(fd, buf, len, size, flags, addr, addr_len);
        }
        recvfrom(fd, buf, len, flags, addr, addr_len)
    }
}
