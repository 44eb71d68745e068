//! Calls that move data between two descriptors inside the kernel.

use crate::calls::transfer;
use crate::calls::way::{self, Way};
use crate::conn::rx::{Sink, available};
use crate::conn::tx::Source;
use crate::conn::{Sock, revert};
use crate::fds::{self, Entry, Meaning};
use crate::{errno, iov, os, real, short, signals, wait};
use libc::{c_int, c_uint, iovec, off_t, size_t, ssize_t};
use protocol::reason;
use std::sync::atomic::Ordering::Relaxed;

/// The kernel moves at most this many bytes in a call.
const MAX: size_t = 0x7fff_f000;

/// `SPLICE_F_ALL`
const SPLICE_ALL: c_uint =
    libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MORE | libc::SPLICE_F_GIFT;

/// A connection that is spliced in pieces of this size at least is left to TCP after so many bytes, fewer than
/// those that it would be claimed for.
const LONG_SPLICE: ssize_t = 16 << 10;
const SPLICED_ENOUGH: u32 = 256 << 10;

/// sendfile: e_out, e_in = the table's word for the descriptor.
///
/// # Safety
/// As for the C function.
pub unsafe fn sendfile(
    e_out: Entry,
    e_in: Entry,
    output: c_int,
    input: c_int,
    offset: *mut off_t,
    count: size_t,
) -> ssize_t {
    // SAFETY: the caller's own arguments.
    let kernel = || unsafe { real::sendfile(output, input, offset, count) };
    let now = || (fds::get(output), fds::get(input));
    let once = |(e_out, e_in)| match (way::of(e_out, output), way::of(e_in, input)) {
        (Way::Ours, _) | (_, Way::Ours) => errno::fail(libc::EBADF),
        (Way::Settled(sock), _) => {
            let n = kernel();
            way::settled_sent(sock, n);
            n
        }
        (Way::Plain(sock), _) if let Some(call) = way::enter(sock) => {
            let n = kernel();
            way::sent(call, n, 0);
            n
        }
        (Way::Plain(sock) | Way::Careful(sock), _) if let Some(size) = os::regular_size(input) => {
            if !offset.is_null() && iov::wild(offset.cast(), size_of::<off_t>()) {
                return errno::fail(libc::EFAULT);
            }
            // SAFETY: null or the program's.
            let sent = unsafe { send_file(sock, (input, size), offset, count) };
            sent.unwrap_or_else(|| {
                revert::leave(sock, reason::SOCKOPT);
                kernel()
            })
        }
        (Way::Plain(sock) | Way::Careful(sock), _) => {
            revert::leave(sock, reason::SOCKOPT);
            kernel()
        }
        _ => kernel(),
    };
    let first = |entries: (Entry, Entry)| match short::enter(entries.0, output) {
        Some(short) if !fds::is_ours(entries.1) => {
            let n = kernel();
            short.sent(n, 0);
            n
        }
        Some(short) => {
            short.sent(0, 0);
            errno::fail(libc::EBADF)
        }
        None => once(entries),
    };
    transfer::to_the_end((e_out, e_in), now, first)
}

/// A file of that size. `None`: it holds more than its size says (procfs), and only the kernel knows
/// whether it can be sent. Few system calls: one for a small file beside the copy itself.
///
/// # Safety
/// `offset` is null or the program's.
unsafe fn send_file(
    sock: Sock,
    (file, size): (c_int, u64),
    offset: *mut off_t,
    count: size_t,
) -> Option<ssize_t> {
    // SAFETY: the caller's promise.
    let given = unsafe { offset.as_mut() };
    let start = match &given {
        Some(at) => **at,
        None => match os::seek(file, 0, libc::SEEK_CUR) {
            Ok(at) => at as off_t,
            Err(e) => return Some(errno::fail(e)),
        },
    };
    if start < 0 {
        return Some(errno::fail(libc::EINVAL));
    }
    let unreadable = || only_for(libc::O_WRONLY, os::fcntl(file, libc::F_GETFL, 0));
    let wanted = count;
    let count = count
        .min(MAX)
        .min(size.saturating_sub(start as u64) as usize);
    if count == 0 {
        return match unreadable() {
            true => Some(errno::fail(libc::EBADF)),
            false if wanted != 0 && size == 0 && os::has_byte(file, start) => None,
            false => Some(0),
        };
    }
    let n = transfer::send(sock, count, 0, |done| {
        Source::File(file, start + done as off_t, count - done)
    });
    // Where there is room, the copy itself says so.
    if n == -1 && errno::get() == libc::EAGAIN && unreadable() {
        return Some(errno::fail(libc::EBADF));
    }
    if n > 0 {
        let end = start + n as off_t;
        match given {
            Some(at) => *at = end,
            None => {
                let _ = os::seek(file, end, libc::SEEK_SET);
            }
        }
    }
    Some(n)
}

/// splice: e_in, e_out = the table's word for the descriptor.
///
/// # Safety
/// As for the C function.
#[expect(clippy::too_many_arguments, reason = "splice has six, and two entries")]
pub unsafe fn splice(
    e_in: Entry,
    e_out: Entry,
    input: c_int,
    off_in: *mut off_t,
    output: c_int,
    off_out: *mut off_t,
    len: size_t,
    flags: c_uint,
) -> ssize_t {
    // SAFETY: the caller's own arguments.
    let kernel = || unsafe { real::splice(input, off_in, output, off_out, len, flags) };
    let now = || (fds::get(input), fds::get(output));
    let once = |(e_in, e_out)| match (way::of(e_in, input), way::of(e_out, output)) {
        (Way::Ours, _) | (_, Way::Ours) => errno::fail(libc::EBADF),
        (Way::Settled(sock), _) => {
            let n = kernel();
            way::settled_received(sock, n, 0);
            n
        }
        (_, Way::Settled(sock)) => {
            let n = kernel();
            way::settled_sent(sock, n);
            n
        }
        (Way::Plain(sock), _) if let Some(call) = way::enter(sock) => {
            let n = kernel();
            way::received(call, n, 0);
            note_splice(sock, n)
        }
        (_, Way::Plain(sock)) if let Some(call) = way::enter(sock) => {
            let n = kernel();
            way::sent(call, n, 0);
            note_splice(sock, n)
        }
        // Arguments that the kernel refuses anyway.
        _ if !off_in.is_null() || !off_out.is_null() || len == 0 || flags & !SPLICE_ALL != 0 => {
            kernel()
        }
        (Way::Plain(sock) | Way::Careful(sock), _) => {
            note_splice(sock, splice_out(sock, output, len, flags, kernel))
        }
        (_, Way::Plain(sock) | Way::Careful(sock)) => {
            note_splice(sock, splice_in(sock, input, len, flags, kernel))
        }
        _ => kernel(),
    };
    transfer::to_the_end((e_in, e_out), now, once)
}

/// A splice has moved `n` bytes. TCP passes long ones on without a copy; from and to a ring they are copied
/// twice more, so that a relay is slower than without the library.
fn note_splice(sock: Sock, n: ssize_t) -> ssize_t {
    let long = n >= LONG_SPLICE;
    if long && sock.spliced.fetch_add(n as u32, Relaxed) >= SPLICED_ENOUGH {
        // If not now, then after as much again.
        sock.spliced.store(0, Relaxed);
        revert::leave(sock, reason::SPLICED);
    }
    n
}

/// Waits for a pipe as the kernel's splice does; handlers that want it let it go on.
fn pipe_ready(pipe: c_int, events: i16, limit: Option<u64>) -> Result<i16, i32> {
    let mut one = libc::pollfd {
        fd: pipe,
        events,
        revents: 0,
    };
    loop {
        signals::forget();
        match wait::by_poll_or_select(std::slice::from_mut(&mut one), limit, None) {
            Err(libc::EINTR) if !signals::interrupts() => {}
            done => return done.map(|_| one.revents),
        }
    }
}

fn is_pipe(fd: c_int) -> bool {
    os::fcntl(fd, libc::F_GETPIPE_SZ, 0).is_ok()
}

/// Whether a descriptor was opened for `access` alone. Nothing ever comes out of one end of a pipe, and
/// nothing goes into the other.
fn only_for(access: c_int, status: Result<usize, i32>) -> bool {
    status.is_ok_and(|flags| flags as c_int & libc::O_ACCMODE == access)
}

/// From a connection into a pipe.
fn splice_out(
    sock: Sock,
    pipe: c_int,
    len: size_t,
    flags: c_uint,
    kernel: impl FnOnce() -> ssize_t,
) -> ssize_t {
    if !is_pipe(pipe) {
        return kernel();
    }
    // SPLICE_F_NONBLOCK is about the pipe; whether the socket waits is for its O_NONBLOCK to say.
    let wait = flags & libc::SPLICE_F_NONBLOCK == 0;
    loop {
        let size = os::fcntl(pipe, libc::F_GETPIPE_SZ, 0).unwrap_or(0);
        let used = os::ioctl_int(pipe, libc::FIONREAD).unwrap_or(0) as usize;
        // A pipe counts pages: with less than one free it may have no room at all; and pieces, each of which
        // takes a page's place, however short it is: so it can be full long before.
        let room = size.saturating_sub(used.next_multiple_of(4096));
        let full = || os::poll_one(pipe, libc::POLLOUT, 0) == Ok(0);
        if (room >= 4096 || (room > 0 && available(&sock) as usize <= room)) && !full() {
            let n = len.min(room);
            let n = transfer::receive(sock, n, 0, false, |done| Sink::Descriptor(pipe, n - done));
            if n != -1 || errno::get() != libc::EAGAIN || !wait || !full() {
                return n;
            }
        }
        if only_for(libc::O_RDONLY, os::fcntl(pipe, libc::F_GETFL, 0)) {
            return kernel();
        }
        if !wait {
            return errno::fail(libc::EAGAIN);
        }
        match pipe_ready(pipe, libc::POLLOUT, None) {
            Err(e) => return errno::fail(e),
            Ok(revents) if revents & libc::POLLERR != 0 => return kernel(),
            Ok(_) => {}
        }
    }
}

/// From a pipe to a connection.
fn splice_in(
    sock: Sock,
    pipe: c_int,
    len: size_t,
    flags: c_uint,
    kernel: impl FnOnce() -> ssize_t,
) -> ssize_t {
    if !is_pipe(pipe) {
        return kernel();
    }
    let status = || os::fcntl(pipe, libc::F_GETFL, 0);
    let wait = flags & libc::SPLICE_F_NONBLOCK == 0;
    let nonblock = match wait.then(status) {
        Some(status) if only_for(libc::O_WRONLY, status) => return kernel(),
        Some(status) => status.is_ok_and(|flags| flags as c_int & libc::O_NONBLOCK != 0),
        None => true,
    };
    match pipe_ready(pipe, libc::POLLIN, nonblock.then_some(0)) {
        Err(e) => return errno::fail(e),
        Ok(0) if only_for(libc::O_WRONLY, status()) => return kernel(),
        Ok(0) => return errno::fail(libc::EAGAIN),
        Ok(_) => {}
    }
    let held = os::ioctl_int(pipe, libc::FIONREAD).unwrap_or(0) as usize;
    if held == 0 {
        return 0;
    }
    let n = len.min(held);
    transfer::send(sock, n, 0, |done| Source::Pipe(pipe, n - done))
}

fn ours(e: Entry, fd: c_int) -> bool {
    matches!(fds::decode(e, fd), Meaning::Ours)
}

/// tee: e_in, e_out = the table's word for the descriptor.
pub fn tee(
    e_in: Entry,
    e_out: Entry,
    input: c_int,
    output: c_int,
    len: size_t,
    flags: c_uint,
) -> ssize_t {
    if ours(e_in, input) || ours(e_out, output) {
        return errno::fail(libc::EBADF);
    }
    // SAFETY: the caller's own arguments.
    unsafe { real::tee(input, output, len, flags) }
}

/// vmsplice: e = the table's word for the descriptor.
///
/// # Safety
/// As for the C function.
pub unsafe fn vmsplice(
    e: Entry,
    fd: c_int,
    iov: *const iovec,
    count: size_t,
    flags: c_uint,
) -> ssize_t {
    if ours(e, fd) {
        return errno::fail(libc::EBADF);
    }
    // SAFETY: the caller's own arguments.
    unsafe { real::vmsplice(fd, iov, count, flags) }
}
