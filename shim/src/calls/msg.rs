//! The message calls: recvmsg, sendmsg, their many-message forms, and descriptors passed along.

use crate::calls::inq;
use crate::calls::io::{careful_receive, careful_send, receive, send_way};
use crate::calls::way::{self, Way};
use crate::conn::{Sock, kept, revert};
use crate::fds::{self, Entry, Meaning};
use crate::iov::{self, Iov};
use crate::{epoll, errno, os, real};
use libc::{c_int, c_uint, cmsghdr, mmsghdr, msghdr, ssize_t, timespec};
use protocol::reason;

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
        // SAFETY: likewise.
        |sock| unsafe { careful_recvmsg(sock, msg, flags) },
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
    // SAFETY: likewise.
    let iov = unsafe { Iov::many(msg.msg_iov, msg.msg_iovlen) };
    let n = careful_receive(sock, iov, flags);
    if n >= 0 {
        if !msg.msg_name.is_null() {
            msg.msg_namelen = 0;
        }
        let room = std::mem::replace(&mut msg.msg_controllen, 0);
        msg.msg_flags = flags & libc::MSG_CMSG_CLOEXEC;
        inq::tell(sock, msg, room);
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
        // SAFETY: likewise.
        |sock| unsafe { careful_sendmsg(sock, msg, flags) },
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
    // SAFETY: likewise.
    careful_send(
        sock,
        unsafe { Iov::many(msg.msg_iov, msg.msg_iovlen) },
        flags,
    )
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
    match way::of(e, fd) {
        Way::Kernel | Way::Ours => kernel(),
        Way::Settled(sock) => {
            let n = kernel();
            // SAFETY: so many were filled in.
            way::settled_received(sock, unsafe { total(msgs, n) }, flags);
            n
        }
        Way::Plain(sock) if way::enter(sock) => {
            let n = kernel();
            // SAFETY: likewise.
            way::received(sock, unsafe { total(msgs, n) }, flags);
            n
        }
        // The connection is held for the whole of the call.
        Way::Plain(sock) | Way::Careful(sock) => kept::during(sock.conn, || {
            // SAFETY: the caller's own arguments.
            unsafe { receive_each(e, sock, msgs, count.min(MOST), flags, timeout) }
        }),
    }
}

/// `UIO_MAXIOV`: messages of one call.
const MOST: c_uint = 1024;

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
unsafe fn receive_each(
    e: Entry,
    mut sock: Sock,
    msgs: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
    timeout: *mut timespec,
) -> c_int {
    if let Ok(error @ 1..) = os::sockopt_int(sock.fd, libc::SOL_SOCKET, libc::SO_ERROR) {
        // Alone among the receives, it looks for an error first.
        return errno::fail(error);
    }
    // SAFETY: the program's own variable, if there is one.
    let limit = unsafe { timeout.as_ref() }
        .map(|t| crate::clock::now() + t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64);
    let mut flags_now = flags & !libc::MSG_WAITFORONE;
    for i in 0..count {
        let entry = msgs.wrapping_add(i as usize);
        if iov::wild(entry.cast(), size_of::<mmsghdr>()) {
            return given(i, errno::fail(libc::EFAULT));
        }
        // SAFETY: the program promises `count` entries.
        let entry = unsafe { &mut *entry };
        let n = match kept::again(sock) {
            // SAFETY: likewise.
            Some(now) if now.fd == sock.fd => unsafe {
                recvmsg(e, now.fd, &mut entry.msg_hdr, flags_now)
            },
            Some(now) => {
                sock = now;
                // SAFETY: likewise.
                unsafe { careful_recvmsg(now, &mut entry.msg_hdr, flags_now) }
            }
            None => errno::fail(libc::EBADF),
        };
        if n < 0 {
            if i > 0 {
                sock.owe(errno::get());
            }
            return given(i, -1);
        }
        entry.msg_len = n as c_uint;
        if flags & libc::MSG_WAITFORONE != 0 {
            flags_now |= libc::MSG_DONTWAIT;
        }
        if limit.is_some_and(|end| crate::clock::now() >= end) {
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
    match way::of(e, fd) {
        Way::Kernel | Way::Ours => kernel(),
        Way::Settled(sock) => {
            let n = kernel();
            // SAFETY: so many were filled in.
            way::settled_sent(sock, unsafe { total(msgs, n) });
            n
        }
        Way::Plain(sock) if way::enter(sock) => {
            let n = kernel();
            // SAFETY: likewise.
            way::sent(sock, unsafe { total(msgs, n) }, flags);
            n
        }
        // The connection is held for the whole of the call.
        Way::Plain(sock) | Way::Careful(sock) => kept::during(sock.conn, || {
            // SAFETY: the caller's own arguments.
            unsafe { send_each(e, sock, msgs, count.min(MOST), flags) }
        }),
    }
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
        let entry = msgs.wrapping_add(i as usize);
        if iov::wild(entry.cast(), size_of::<mmsghdr>()) {
            return given(i, errno::fail(libc::EFAULT));
        }
        // SAFETY: the program promises `count` entries.
        let entry = unsafe { &mut *entry };
        let n = match kept::again(sock) {
            // SAFETY: likewise.
            Some(now) if now.fd == sock.fd => unsafe { sendmsg(e, now.fd, &entry.msg_hdr, flags) },
            Some(now) => {
                sock = now;
                // SAFETY: likewise.
                unsafe { careful_sendmsg(now, &entry.msg_hdr, flags) }
            }
            None => errno::fail(libc::EBADF),
        };
        if n < 0 {
            return given(i, -1);
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

/// sendmsg on a descriptor that is no connection: a Unix socket may carry connections away.
///
/// # Safety
/// As for the C function.
pub unsafe fn sendmsg_elsewhere(fd: c_int, msg: *const msghdr, flags: c_int) -> ssize_t {
    // SAFETY: the caller's own arguments.
    if unsafe { carries_control(msg) } && !unsafe { let_go(msg) } {
        return errno::fail(libc::EAGAIN);
    }
    // SAFETY: likewise.
    unsafe { real::sendmsg(fd, msg, flags) }
}

/// sendmmsg on a descriptor that is no connection.
///
/// # Safety
/// As for the C function.
pub unsafe fn sendmmsg_elsewhere(
    fd: c_int,
    msgs: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
) -> c_int {
    for i in 0..count.min(1024) {
        let msg = msgs.wrapping_add(i as usize).cast::<msghdr>();
        // SAFETY: the program promises `count` entries, each of which starts with a msghdr.
        if unsafe { carries_control(msg) } && !unsafe { let_go(msg) } {
            return errno::fail(libc::EAGAIN);
        }
    }
    // SAFETY: the caller's own arguments.
    unsafe { real::sendmmsg(fd, msgs, count, flags) }
}

/// # Safety
/// `msg` is wild, or a message header of the program.
#[inline]
unsafe fn carries_control(msg: *const msghdr) -> bool {
    // SAFETY: the caller's promise.
    !iov::wild(msg.cast(), size_of::<msghdr>()) && unsafe { (*msg).msg_controllen } != 0
}

/// Takes the connections among the descriptors that a message carries back to TCP: who receives
/// them may not have the library, and has none of our state. False: bytes that wait in memory
/// would be lost to the receiver.
///
/// # Safety
/// `msg` is a message header of the program.
#[cold]
unsafe fn let_go(msg: *const msghdr) -> bool {
    // SAFETY: the caller's promise.
    let msg = unsafe { &*msg };
    let control = msg.msg_control.cast::<u8>();
    if iov::wild(control.cast(), msg.msg_controllen) {
        return true;
    }
    let data_at = size_of::<cmsghdr>();
    let mut at = 0;
    while at + data_at <= msg.msg_controllen {
        // SAFETY: lies in the control data, which the program promises to be as long as it says.
        let head = unsafe { control.add(at).cast::<cmsghdr>().read_unaligned() };
        if head.cmsg_len < data_at || head.cmsg_len > msg.msg_controllen - at {
            return true;
        }
        if (head.cmsg_level, head.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            for i in 0..(head.cmsg_len - data_at) / size_of::<c_int>() {
                let place = at + data_at + i * size_of::<c_int>();
                // SAFETY: likewise.
                let fd = unsafe { control.add(place).cast::<c_int>().read_unaligned() };
                match fds::meaning(fd) {
                    Meaning::Conn(sock) if !revert::leave(sock, reason::ESCAPED) => return false,
                    // The receiver's library does not know the set, and sees what the kernel does.
                    Meaning::Set(index) => errno::keep(|| epoll::escape(index)),
                    _ => {}
                }
            }
        }
        at += head.cmsg_len.next_multiple_of(align_of::<cmsghdr>());
    }
    true
}
