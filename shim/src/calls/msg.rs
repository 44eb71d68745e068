//! The message calls: recvmsg, sendmsg and their many-message forms.

use crate::calls::io::{
    ADDRESS_MAX, careful_receive, careful_send, receive, receive_once, send_once, send_way,
};
use crate::calls::transfer::{self, ANEW, GOES_ON};
use crate::calls::way::{self, Way};
use crate::calls::{inq, poll, sockopt};
use crate::conn::{Sock, flag, kept, phase};
use crate::fds::{self, Entry};
use crate::iov::{self, Control, FAULT_LATER, Iov};
use crate::{clock, errno, os, real, signals};
use libc::{c_int, c_uint, mmsghdr, msghdr, ssize_t, timespec};

/// recvmsg.
///
/// # Safety
/// As for the C function.
pub unsafe fn recvmsg(e: Entry, fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t {
    receive(
        e,
        fd,
        flags,
        // SAFETY: the caller's own arguments.
        || unsafe { real::recvmsg(fd, msg, flags) },
        |sock| match flags & GOES_ON {
            // SAFETY: likewise.
            0 => unsafe { careful_recvmsg(sock, msg, flags) },
            _ => errno::fail(libc::EINVAL),
        },
    )
}

/// # Safety
/// `msg` is null or a message header of the program.
unsafe fn careful_recvmsg(sock: Sock, msg: *mut msghdr, flags: c_int) -> ssize_t {
    if iov::wild(msg.cast(), size_of::<msghdr>()) {
        return errno::fail(libc::EFAULT);
    }
    // SAFETY: the caller's promise.
    let msg = unsafe { &mut *msg };
    if let Err(e) = header_taken(msg, false) {
        return errno::fail(e);
    }
    // SAFETY: likewise.
    let mut iov = match unsafe { Iov::many(msg.msg_iov, msg.msg_iovlen) } {
        Err(FAULT_LATER) if flags & libc::MSG_TRUNC != 0 => {
            // SAFETY: likewise.
            let len = unsafe { iov::lengths(msg.msg_iov, msg.msg_iovlen) };
            Ok(Iov::unchecked(std::ptr::null(), len))
        }
        iov => iov,
    };
    let control = Control::new(msg);
    if let Ok(iov) = &mut iov {
        iov.control = &raw const control;
    }
    let n = careful_receive(sock, iov, flags, false);
    if n >= 0 {
        if !msg.msg_name.is_null() {
            msg.msg_namelen = 0;
        }
        let room = std::mem::replace(&mut msg.msg_controllen, 0);
        msg.msg_flags = flags & libc::MSG_CMSG_CLOEXEC;
        match control.filled() {
            // Stamps, if another thread has asked for them while this call slept; of what is left, the kernel knows its part.
            Some((len, cut)) if sock.phase() == phase::BARRED || !sock.has(flag::INQ) => {
                msg.msg_controllen = len;
                msg.msg_flags |= cut;
            }
            _ => inq::tell(sock, msg, room),
        }
    }
    n
}

/// sendmsg.
///
/// # Safety
/// As for the C function.
pub unsafe fn sendmsg(e: Entry, fd: c_int, msg: *const msghdr, flags: c_int) -> ssize_t {
    send_way(
        e,
        fd,
        flags,
        // SAFETY: the caller's own arguments.
        || unsafe { real::sendmsg(fd, msg, flags) },
        |sock| match flags & GOES_ON {
            // SAFETY: likewise.
            0 => unsafe { careful_sendmsg(sock, msg, flags) },
            _ => errno::fail(libc::EINVAL),
        },
    )
}

/// # Safety
/// `msg` is null or a message header of the program.
unsafe fn careful_sendmsg(sock: Sock, msg: *const msghdr, flags: c_int) -> ssize_t {
    if iov::wild(msg.cast(), size_of::<msghdr>()) {
        return errno::fail(libc::EFAULT);
    }
    // SAFETY: the caller's promise.
    let msg = unsafe { &*msg };
    if let Err(e) = header_taken(msg, true) {
        return errno::fail(e);
    }
    if msg.msg_controllen != 0
        && let Err(e) = control_taken(sock, msg)
    {
        return errno::fail(e);
    }
    // SAFETY: likewise.
    careful_send(
        sock,
        unsafe { Iov::many(msg.msg_iov, msg.msg_iovlen) },
        flags,
    )
}

/// What the kernel says of a name, for which a stream has no use.
fn header_taken(msg: &msghdr, read: bool) -> Result<(), i32> {
    let len = msg.msg_namelen;
    match msg.msg_name {
        name if name.is_null() => Ok(()),
        _ if len.cast_signed() < 0 => Err(libc::EINVAL),
        name if read && iov::wild(name, len.min(ADDRESS_MAX) as usize) => Err(libc::EFAULT),
        _ => Ok(()),
    }
}

/// What the kernel says of control data, for which a stream has hardly a use: it is asked to send them
/// with nothing.
#[cold]
fn control_taken(sock: Sock, msg: &msghdr) -> Result<(), i32> {
    let mut only = msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: std::ptr::null_mut(),
        msg_iovlen: 0,
        ..*msg
    };
    match os::sendmsg(sock.fd, &mut only, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) {
        Err(e @ (libc::EINVAL | libc::EFAULT | libc::EPERM | libc::ENOBUFS)) => Err(e),
        Err(e) if e != libc::EPIPE => {
            // Of the connection: the send itself tells.
            sock.owe(e);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// recvmmsg: one message after the other, as the kernel does.
///
/// # Safety
/// As for the C function.
pub unsafe fn recvmmsg(
    e: Entry,
    fd: c_int,
    msgs: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
    timeout: *mut timespec,
) -> c_int {
    // SAFETY: the caller's own arguments.
    let kernel = || unsafe { real::recvmmsg(fd, msgs, count, flags, timeout) };
    let once = |e| match way::of(e, fd) {
        Way::Kernel => kernel(),
        Way::Ours => errno::fail(libc::EBADF),
        Way::Settled(sock) => {
            let n = kernel();
            // SAFETY: so many were filled in.
            way::settled_received(sock, unsafe { total(msgs, n) }, flags);
            n
        }
        Way::Plain(sock) if let Some(call) = way::enter(sock) => {
            let n = kernel();
            // SAFETY: likewise.
            way::received(call, unsafe { total(msgs, n) }, flags);
            n
        }
        Way::Plain(_) | Way::Careful(_) if flags & GOES_ON != 0 => errno::fail(libc::EINVAL),
        // The connection is held for the whole of the call.
        Way::Plain(sock) | Way::Careful(sock) => kept::during(sock.conn, || {
            // SAFETY: the caller's own arguments.
            unsafe { receive_in_time(e, sock, msgs, count.min(MOST), flags, timeout) }
        }),
    };
    transfer::to_the_end(e, || fds::get(fd), once)
}

/// `UIO_MAXIOV`: messages of one call.
pub const MOST: c_uint = 1024;

/// Bytes of the `n` messages that a call gave.
///
/// # Safety
/// `msgs` points to as many.
unsafe fn total(msgs: *const mmsghdr, n: c_int) -> ssize_t {
    let each = (0..n.max(0) as usize).map(|i| {
        // SAFETY: the caller's promise.
        unsafe { (*msgs.add(i)).msg_len as ssize_t }
    });
    each.sum()
}

/// # Safety
/// As for [`recvmmsg`].
unsafe fn receive_in_time(
    e: Entry,
    sock: Sock,
    msgs: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
    timeout: *mut timespec,
) -> c_int {
    if !timeout.is_null() && iov::wild(timeout.cast(), size_of::<timespec>()) {
        return errno::fail(libc::EFAULT);
    }
    // SAFETY: the program's own variable, if there is one.
    let Ok(given) = (unsafe { poll::nanoseconds(timeout) }) else {
        return errno::fail(libc::EINVAL);
    };
    let end = given.map(clock::after);
    // SAFETY: the caller's promise.
    let n = unsafe { receive_each(e, sock, msgs, count, flags, end) };
    // SAFETY: see above.
    let left = unsafe { timeout.as_mut() };
    if let (1.., Some(end), Some(left)) = (n, end, left) {
        *left = os::timespec(end.saturating_sub(clock::now()));
    }
    n
}

/// # Safety
/// As for [`recvmmsg`]; `end` in place of its timeout.
unsafe fn receive_each(
    e: Entry,
    mut sock: Sock,
    msgs: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
    end: Option<u64>,
) -> c_int {
    // Alone among the receives, it looks for an error first.
    if let Some(error) = sockopt::take_error(sock) {
        return errno::fail(error);
    }
    let mut flags_now = flags & !libc::MSG_WAITFORONE;
    signals::forget();
    for i in 0..count {
        let goes_on = if i > 0 { GOES_ON } else { 0 };
        let entry = msgs.wrapping_add(i as usize);
        if iov::wild(entry.cast(), size_of::<mmsghdr>()) {
            return given(i, errno::fail(libc::EFAULT));
        }
        // SAFETY: the program promises `count` entries.
        let entry = unsafe { &mut *entry };
        let header = &raw mut entry.msg_hdr;
        let n = match kept::again(sock) {
            Some(now) if now.fd == sock.fd => receive_once(
                e,
                now.fd,
                flags_now,
                // SAFETY: likewise.
                || unsafe { real::recvmsg(now.fd, header, flags_now) },
                // SAFETY: likewise.
                |sock| unsafe { careful_recvmsg(sock, header, flags_now | goes_on) },
            ),
            Some(now) => {
                sock = now;
                // SAFETY: likewise.
                unsafe { careful_recvmsg(now, header, flags_now | goes_on) }
            }
            None => errno::fail(libc::EBADF),
        };
        if n < 0 {
            if i > 0 && n != ssize_t::from(ANEW) {
                sock.owe(errno::get());
            }
            return given(i, n as c_int);
        }
        entry.msg_len = n as c_uint;
        if flags & libc::MSG_WAITFORONE != 0 {
            flags_now |= libc::MSG_DONTWAIT;
        }
        // In the kernel the handler runs behind the call, which has nothing more before.
        if signals::wait_ended() || end.is_some_and(|end| clock::now() >= end) {
            return i as c_int + 1;
        }
    }
    count as c_int
}

/// What a call gives that has failed at message `i`.
fn given(i: c_uint, failed: c_int) -> c_int {
    if i > 0 { i as c_int } else { failed }
}

/// sendmmsg.
///
/// # Safety
/// As for the C function.
pub unsafe fn sendmmsg(
    e: Entry,
    fd: c_int,
    msgs: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
) -> c_int {
    // SAFETY: the caller's own arguments.
    let kernel = || unsafe { real::sendmmsg(fd, msgs, count, flags) };
    let once = |e| match way::of(e, fd) {
        Way::Kernel => kernel(),
        Way::Ours => errno::fail(libc::EBADF),
        Way::Settled(sock) => {
            let n = kernel();
            // SAFETY: so many were filled in.
            way::settled_sent(sock, unsafe { total(msgs, n) });
            n
        }
        Way::Plain(sock) if let Some(call) = way::enter(sock) => {
            let n = kernel();
            // SAFETY: likewise.
            way::sent(call, unsafe { total(msgs, n) }, flags);
            n
        }
        Way::Plain(_) | Way::Careful(_) if flags & GOES_ON != 0 => errno::fail(libc::EINVAL),
        // The connection is held for the whole of the call.
        Way::Plain(sock) | Way::Careful(sock) => kept::during(sock.conn, || {
            // SAFETY: the caller's own arguments.
            unsafe { send_each(e, sock, msgs, count.min(MOST), flags) }
        }),
    };
    transfer::to_the_end(e, || fds::get(fd), once)
}

/// # Safety
/// As for [`sendmmsg`].
unsafe fn send_each(
    e: Entry,
    mut sock: Sock,
    msgs: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
) -> c_int {
    for i in 0..count {
        let goes_on = if i > 0 { GOES_ON } else { 0 };
        let entry = msgs.wrapping_add(i as usize);
        if iov::wild(entry.cast(), size_of::<mmsghdr>()) {
            return given(i, errno::fail(libc::EFAULT));
        }
        // SAFETY: the program promises `count` entries.
        let entry = unsafe { &mut *entry };
        let n = match kept::again(sock) {
            Some(now) if now.fd == sock.fd => send_once(
                e,
                now.fd,
                flags,
                // SAFETY: likewise.
                || unsafe { real::sendmsg(now.fd, &entry.msg_hdr, flags) },
                // SAFETY: likewise.
                |sock| unsafe { careful_sendmsg(sock, &entry.msg_hdr, flags | goes_on) },
            ),
            Some(now) => {
                sock = now;
                // SAFETY: likewise.
                unsafe { careful_sendmsg(now, &entry.msg_hdr, flags | goes_on) }
            }
            None => errno::fail(libc::EBADF),
        };
        if n < 0 {
            return given(i, n as c_int);
        }
        entry.msg_len = n as c_uint;
        // SAFETY: the program's list, which the send has read.
        let list = unsafe { Iov::many(entry.msg_hdr.msg_iov, entry.msg_hdr.msg_iovlen) };
        if list.is_ok_and(|list| list.len > n as usize) {
            // The rest of it comes first, in another call.
            return i as c_int + 1;
        }
    }
    count as c_int
}
