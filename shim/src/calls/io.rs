//! The data calls: read, write, recv, send and their vector forms.

use crate::calls::transfer;
use crate::calls::way::{self, Way};
use crate::conn::rx::Sink;
use crate::conn::tx::Source;
use crate::conn::{Conn, Sock, phase, quick};
use crate::fds::{self, Entry};
use crate::iov::{FAULT_LATER, Iov, wild};
use crate::{errno, real, short};
use libc::{c_int, c_void, iovec, off_t, size_t, sockaddr, socklen_t, ssize_t};

/// The list outlives the call that made it; the transfer ends before the call does.
fn forever(iov: &Iov) -> &'static Iov {
    // SAFETY: used only for the duration of `transfer::{receive, send}`, which keep nothing.
    unsafe { &*std::ptr::from_ref(iov) }
}

/// `looked`: see [`transfer::receive`].
pub(super) fn careful_receive(
    sock: Sock,
    iov: Result<Iov, i32>,
    flags: c_int,
    looked: bool,
) -> ssize_t {
    // By reference: to move the list out right after it was written stalls.
    match &iov {
        Ok(iov) => {
            let list = forever(iov);
            transfer::receive(sock, iov.len, flags, looked, |done| {
                Sink::Buffers(list, done)
            })
        }
        &Err(FAULT_LATER) => {
            let mut byte = 0u8;
            let iov = Iov::unchecked((&raw mut byte).cast(), 1);
            let list = forever(&iov);
            let flags = flags & !libc::MSG_WAITALL | libc::MSG_PEEK;
            match transfer::receive(sock, 1, flags, false, |_| Sink::Buffers(list, 0)) {
                1.. => errno::fail(libc::EFAULT),
                n => n,
            }
        }
        &Err(e) => errno::fail(e),
    }
}

/// As [`careful_receive`] for read and its forms, which do nothing at all when no bytes are wanted.
fn careful_read(sock: Sock, iov: Result<Iov, i32>, flags: c_int, looked: bool) -> ssize_t {
    match iov {
        Ok(iov) if iov.len == 0 => 0,
        iov => careful_receive(sock, iov, flags, looked),
    }
}

pub(super) fn careful_send(sock: Sock, iov: Result<Iov, i32>, flags: c_int) -> ssize_t {
    match &iov {
        Ok(iov) => {
            let list = forever(iov);
            transfer::send(sock, iov.len, flags, |done| Source::Buffers(list, done))
        }
        &Err(FAULT_LATER) => {
            // An end of the stream comes first.
            let iov = Iov::unchecked(std::ptr::null(), 0);
            let list = forever(&iov);
            match transfer::send(sock, 0, flags, |_| Source::Buffers(list, 0)) {
                0 => errno::fail(libc::EFAULT),
                n => n,
            }
        }
        &Err(e) => errno::fail(e),
    }
}

/// As [`careful_send`] for vectors, which do nothing at all when they hold no bytes.
fn careful_writev(sock: Sock, iov: Result<Iov, i32>, flags: c_int) -> ssize_t {
    match iov {
        Ok(iov) if iov.len == 0 => 0,
        iov => careful_send(sock, iov, flags),
    }
}

/// Runs a receive on its way: `kernel` as the program called it, or the careful one.
#[inline]
pub(super) fn receive(
    entry: Entry,
    fd: c_int,
    flags: c_int,
    kernel: impl Fn() -> ssize_t,
    careful: impl Fn(Sock) -> ssize_t,
) -> ssize_t {
    if let Some(short) = short::enter(entry, fd) {
        let n = kernel();
        short.received(n, flags);
        return n;
    }
    let once = |entry| receive_once(entry, fd, flags, &kernel, &careful);
    transfer::to_the_end(entry, || fds::get(fd), once)
}

/// As [`receive`], until it is to be begun anew.
#[inline]
pub(super) fn receive_once(
    entry: Entry,
    fd: c_int,
    flags: c_int,
    kernel: impl FnOnce() -> ssize_t,
    careful: impl FnOnce(Sock) -> ssize_t,
) -> ssize_t {
    match way::of(entry, fd) {
        Way::Kernel => kernel(),
        Way::Ours => errno::fail(libc::EBADF),
        Way::Settled(sock) => {
            let n = kernel();
            way::settled_received(sock, n, flags);
            n
        }
        Way::Plain(sock) if let Some(call) = way::enter(sock) => {
            let n = kernel();
            way::received(call, n, flags);
            n
        }
        Way::Plain(sock) | Way::Careful(sock) => {
            if flags & (libc::MSG_OOB | libc::MSG_ERRQUEUE) != 0 {
                return kernel();
            }
            careful(sock)
        }
    }
}

/// Likewise a send.
#[inline]
pub(super) fn send_way(
    entry: Entry,
    fd: c_int,
    flags: c_int,
    kernel: impl Fn() -> ssize_t,
    careful: impl Fn(Sock) -> ssize_t,
) -> ssize_t {
    if let Some(short) = short::enter(entry, fd) {
        let n = kernel();
        short.sent(n, flags);
        return n;
    }
    let once = |entry| send_once(entry, fd, flags, &kernel, &careful);
    transfer::to_the_end(entry, || fds::get(fd), once)
}

/// As [`send_way`], until it is to be begun anew.
#[inline]
pub(super) fn send_once(
    entry: Entry,
    fd: c_int,
    flags: c_int,
    kernel: impl FnOnce() -> ssize_t,
    careful: impl FnOnce(Sock) -> ssize_t,
) -> ssize_t {
    match way::of(entry, fd) {
        Way::Kernel => kernel(),
        Way::Ours => errno::fail(libc::EBADF),
        Way::Settled(sock) => {
            let n = kernel();
            way::settled_sent(sock, n);
            n
        }
        Way::Plain(sock) if let Some(call) = way::enter(sock) => {
            let n = kernel();
            way::sent(call, n, flags);
            n
        }
        Way::Plain(sock) | Way::Careful(sock) => {
            if flags & !USUAL != 0 && transfer::kernel_only(sock, flags) {
                return kernel();
            }
            careful(sock)
        }
    }
}

/// A send of more than this on a plain connection goes in pieces: in one kernel call, the
/// connection could not be upgraded before its end.
const LONG: size_t = 256 << 10;

/// A send from one buffer, which may be long.
#[inline]
fn send_buffer(
    fd: c_int,
    (buf, len): (*const c_void, size_t),
    flags: c_int,
    found: Found,
    kernel: impl Fn() -> ssize_t,
) -> ssize_t {
    if let Some(n) = put(fd, found, flags, || Iov::single(buf, len)) {
        return n;
    }
    let e = fds::get(fd);
    let long = len > LONG && flags & !USUAL == 0;
    if !long && let Some(short) = short::enter(e, fd) {
        let n = kernel();
        short.sent(n, flags);
        return n;
    }
    let careful = |sock| careful_send(sock, Iov::single(buf, len), flags);
    let once = |e| match way::of(e, fd) {
        Way::Plain(sock) if long && sock.phase() == phase::PLAIN => careful(sock),
        _ => send_once(e, fd, flags, &kernel, careful),
    };
    transfer::to_the_end(e, || fds::get(fd), once)
}

/// Flags that need no second look.
const USUAL: c_int = libc::MSG_PEEK
    | libc::MSG_WAITALL
    | libc::MSG_DONTWAIT
    | libc::MSG_NOSIGNAL
    | libc::MSG_MORE
    | libc::MSG_TRUNC;

/// The connection that the hook has found under the descriptor, unless it is a short one.
type Found = Option<&'static Conn>;

/// A receive that finds its bytes on the ring; `None`: it goes the usual way.
#[inline]
fn taken(
    fd: c_int,
    found: Found,
    buf: *const c_void,
    len: size_t,
    flags: c_int,
) -> Option<ssize_t> {
    let sock = Sock { fd, conn: found? };
    if !way::lively(sock) || flags & libc::MSG_WAITALL != 0 {
        return None;
    }
    let iov = Iov::single(buf, len).ok()?;
    quick::receive(sock, &iov, 0, flags).map(|n| n as ssize_t)
}

/// A send that finds room for all of it on the ring; `None`: it goes the usual way.
#[inline]
fn put(
    fd: c_int,
    found: Found,
    flags: c_int,
    iov: impl FnOnce() -> Result<Iov, i32>,
) -> Option<ssize_t> {
    let sock = Sock { fd, conn: found? };
    if !way::lively(sock) || flags & !USUAL != 0 {
        return None;
    }
    quick::send(sock, &iov().ok()?, 0).map(|n| n as ssize_t)
}

/// read. None of these is part of its hook: what is not ours costs a load and a branch.
///
/// # Safety
/// As for the C function; likewise below.
#[inline(never)]
pub unsafe fn read(fd: c_int, buf: *mut c_void, len: size_t, found: Found) -> ssize_t {
    if let Some(n) = taken(fd, found, buf, len, 0) {
        return n;
    }
    receive(
        fds::get(fd),
        fd,
        0,
        // SAFETY: the caller's own arguments.
        || unsafe { real::read(fd, buf, len) },
        |sock| careful_read(sock, Iov::single(buf, len), 0, true),
    )
}

/// readv.
///
/// # Safety
/// As for the C function.
pub unsafe fn readv(fd: c_int, iov: *const iovec, count: c_int, _: Found) -> ssize_t {
    receive(
        fds::get(fd),
        fd,
        0,
        // SAFETY: the caller's own arguments.
        || unsafe { real::readv(fd, iov, count) },
        // SAFETY: likewise.
        |sock| careful_read(sock, unsafe { vector(iov, count) }, 0, false),
    )
}

/// A vector of readv and writev: too many pieces are EINVAL, not EMSGSIZE.
///
/// # Safety
/// `iov` points to `count` iovecs.
unsafe fn vector(iov: *const iovec, count: c_int) -> Result<Iov, i32> {
    let count = usize::try_from(count).map_err(|_| libc::EINVAL)?;
    // SAFETY: the caller's promise.
    unsafe { Iov::many(iov, count) }.map_err(|e| if e == libc::EMSGSIZE { libc::EINVAL } else { e })
}

/// write.
///
/// # Safety
/// As for the C function.
#[inline(never)]
pub unsafe fn write(fd: c_int, buf: *const c_void, len: size_t, found: Found) -> ssize_t {
    // SAFETY: the caller's own arguments.
    let kernel = || unsafe { real::write(fd, buf, len) };
    send_buffer(fd, (buf, len), 0, found, kernel)
}

/// writev.
///
/// # Safety
/// As for the C function.
pub unsafe fn writev(fd: c_int, iov: *const iovec, count: c_int, found: Found) -> ssize_t {
    // SAFETY: the caller's own arguments.
    let list = || unsafe { vector(iov, count) };
    if let Some(n) = put(fd, found, 0, list) {
        return n;
    }
    send_way(
        fds::get(fd),
        fd,
        0,
        // SAFETY: the caller's own arguments.
        || unsafe { real::writev(fd, iov, count) },
        // SAFETY: likewise.
        |sock| careful_writev(sock, list(), 0),
    )
}

/// `RWF_NOWAIT`, the one flag of preadv2 that a socket understands beside none.
const RWF_NOWAIT: c_int = 8;

/// preadv2: on a socket the same as readv when the offset is -1; the kernel refuses the rest.
///
/// # Safety
/// As for the C function.
pub unsafe fn preadv2(
    e: Entry,
    fd: c_int,
    iov: *const iovec,
    count: c_int,
    offset: off_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: the caller's own arguments.
    let kernel = || unsafe { real::preadv2(fd, iov, count, offset, flags) };
    if matches!(way::of(e, fd), Way::Ours) {
        return errno::fail(libc::EBADF);
    }
    if offset != -1 || flags & !RWF_NOWAIT != 0 {
        return kernel();
    }
    let wait = if flags & RWF_NOWAIT != 0 {
        libc::MSG_DONTWAIT
    } else {
        0
    };
    receive(e, fd, wait, kernel, |sock| {
        // SAFETY: likewise.
        careful_read(sock, unsafe { vector(iov, count) }, wait, false)
    })
}

/// pwritev2: as preadv2.
///
/// # Safety
/// As for the C function.
pub unsafe fn pwritev2(
    e: Entry,
    fd: c_int,
    iov: *const iovec,
    count: c_int,
    offset: off_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: the caller's own arguments.
    let kernel = || unsafe { real::pwritev2(fd, iov, count, offset, flags) };
    if matches!(way::of(e, fd), Way::Ours) {
        return errno::fail(libc::EBADF);
    }
    if offset != -1 || flags & !RWF_NOWAIT != 0 {
        return kernel();
    }
    let wait = if flags & RWF_NOWAIT != 0 {
        libc::MSG_DONTWAIT
    } else {
        0
    };
    send_way(e, fd, wait, kernel, |sock| {
        // SAFETY: likewise.
        careful_writev(sock, unsafe { vector(iov, count) }, wait)
    })
}

/// recv.
///
/// # Safety
/// As for the C function.
#[inline(never)]
pub unsafe fn recv(
    fd: c_int,
    buf: *mut c_void,
    len: size_t,
    flags: c_int,
    found: Found,
) -> ssize_t {
    if let Some(n) = taken(fd, found, buf, len, flags) {
        return n;
    }
    receive(
        fds::get(fd),
        fd,
        flags,
        // SAFETY: the caller's own arguments.
        || unsafe { real::recv(fd, buf, len, flags) },
        |sock| careful_receive(sock, buffer(buf, len, flags), flags, true),
    )
}

/// A receive buffer; with MSG_TRUNC nothing is written to it, and it may be any address.
fn buffer(buf: *const c_void, len: size_t, flags: c_int) -> Result<Iov, i32> {
    match Iov::cut(buf, len) {
        Err(FAULT_LATER) if flags & libc::MSG_TRUNC != 0 => Ok(Iov::unchecked(buf, len)),
        iov => iov,
    }
}

/// recvfrom: a stream has no sender's address.
///
/// # Safety
/// As for the C function.
#[inline(never)]
pub unsafe fn recvfrom(
    fd: c_int,
    buf: *mut c_void,
    len: size_t,
    flags: c_int,
    addr: *mut sockaddr,
    addr_len: *mut socklen_t,
    found: Found,
) -> ssize_t {
    let no_address = |n: ssize_t| {
        if n < 0 || addr.is_null() {
            return n;
        }
        // The bytes are gone, whatever it says.
        if wild(addr_len.cast(), size_of::<socklen_t>()) {
            return errno::fail(libc::EFAULT);
        }
        // SAFETY: the program's own variable.
        let len = unsafe { &mut *addr_len };
        if (*len).cast_signed() < 0 {
            return errno::fail(libc::EINVAL);
        }
        *len = 0;
        n
    };
    if let Some(n) = taken(fd, found, buf, len, flags) {
        return no_address(n);
    }
    receive(
        fds::get(fd),
        fd,
        flags,
        // SAFETY: the caller's own arguments.
        || unsafe { real::recvfrom(fd, buf, len, flags, addr, addr_len) },
        |sock| no_address(careful_receive(sock, buffer(buf, len, flags), flags, true)),
    )
}

/// send.
///
/// # Safety
/// As for the C function.
#[inline(never)]
pub unsafe fn send(
    fd: c_int,
    buf: *const c_void,
    len: size_t,
    flags: c_int,
    found: Found,
) -> ssize_t {
    // SAFETY: the caller's own arguments.
    let kernel = || unsafe { real::send(fd, buf, len, flags) };
    send_buffer(fd, (buf, len), flags, found, kernel)
}

/// `sizeof(struct sockaddr_storage)`
pub(super) const ADDRESS_MAX: socklen_t = 128;

/// sendto: on a connected stream the address means nothing.
///
/// # Safety
/// As for the C function.
#[inline(never)]
pub unsafe fn sendto(
    fd: c_int,
    buf: *const c_void,
    len: size_t,
    flags: c_int,
    addr: *const sockaddr,
    addr_len: socklen_t,
    found: Found,
) -> ssize_t {
    // SAFETY: the caller's own arguments.
    let kernel = || unsafe { real::sendto(fd, buf, len, flags, addr, addr_len) };
    if !addr.is_null() && (addr_len > ADDRESS_MAX || wild(addr.cast(), addr_len as usize)) {
        // The kernel refuses it, before it sends anything.
        return kernel();
    }
    send_buffer(fd, (buf, len), flags, found, kernel)
}
