//! The message calls on descriptors that are no connections: a Unix socket may carry connections away,
//! and bring some.

use crate::calls::msg::MOST;
use crate::conn::{passed, ready, revert};
use crate::fds::{self, Meaning};
use crate::{epoll, errno, iov, real};
use libc::{c_int, c_uint, cmsghdr, mmsghdr, msghdr, ssize_t, timespec};
use protocol::reason;

/// # Safety
/// As for the C function.
pub unsafe fn sendmsg(fd: c_int, msg: *const msghdr, flags: c_int) -> ssize_t {
    // SAFETY: the caller's own arguments.
    let kernel = || unsafe { real::sendmsg(fd, msg, flags) };
    // SAFETY: likewise.
    if unsafe { !has_control(msg) } {
        return kernel();
    }
    // SAFETY: likewise, and it has control data.
    if unsafe { !let_go(msg) } {
        return errno::fail(libc::EAGAIN);
    }
    let n = kernel();
    if n >= 0 {
        // SAFETY: likewise.
        errno::keep(|| unsafe { gone(msg) });
    }
    n
}

/// # Safety
/// As for the C function.
pub unsafe fn sendmmsg(fd: c_int, msgs: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int {
    // Each entry starts with a msghdr.
    let head = |i: c_uint| msgs.wrapping_add(i as usize).cast::<msghdr>().cast_const();
    // SAFETY: the program promises `count` entries.
    let carriers = || (0..count.min(MOST)).filter(move |i| unsafe { has_control(head(*i)) });
    for i in carriers() {
        // SAFETY: an entry with control data.
        if unsafe { !let_go(head(i)) } {
            return errno::fail(libc::EAGAIN);
        }
    }
    // SAFETY: the caller's own arguments.
    let n = unsafe { real::sendmmsg(fd, msgs, count, flags) };
    for i in carriers().take_while(|i| (*i as c_int) < n) {
        // SAFETY: as above.
        errno::keep(|| unsafe { gone(head(i)) });
    }
    n
}

/// # Safety
/// As for the C function.
pub unsafe fn recvmsg(fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t {
    // SAFETY: the caller's own arguments.
    let n = unsafe { real::recvmsg(fd, msg, flags) };
    if n >= 0 {
        // SAFETY: the kernel has filled it in.
        unsafe { come(msg, flags) };
    }
    n
}

/// # Safety
/// As for the C function.
pub unsafe fn recvmmsg(
    fd: c_int,
    msgs: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
    timeout: *mut timespec,
) -> c_int {
    // SAFETY: the caller's own arguments.
    let n = unsafe { real::recvmmsg(fd, msgs, count, flags, timeout) };
    for i in 0..n.max(0) as usize {
        // SAFETY: the kernel has filled in so many entries, each of which starts with a msghdr.
        unsafe { come(msgs.wrapping_add(i).cast::<msghdr>(), flags) };
    }
    n
}

/// # Safety
/// `msg` is wild, or a message header of the program.
#[inline]
unsafe fn has_control(msg: *const msghdr) -> bool {
    // SAFETY: the caller's promise.
    !iov::wild(msg.cast(), size_of::<msghdr>()) && unsafe { (*msg).msg_controllen } != 0
}

/// The descriptors that a message carries, until `each` says that it is enough.
///
/// # Safety
/// `msg` is a message header of the program.
unsafe fn descriptors(msg: *const msghdr, mut each: impl FnMut(c_int) -> bool) -> bool {
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
                if !each(fd) {
                    return false;
                }
            }
        }
        at += head.cmsg_len.next_multiple_of(align_of::<cmsghdr>());
    }
    true
}

/// Takes the connections among the descriptors that a message carries back to TCP: who receives
/// them may not have the library, and has none of our state. False: bytes that wait in memory
/// would be lost to the receiver.
///
/// # Safety
/// `msg` is a message header of the program.
#[cold]
unsafe fn let_go(msg: *const msghdr) -> bool {
    let each = |fd| match fds::meaning(fd) {
        Meaning::Conn(sock) => {
            errno::keep(|| passed::passing(sock));
            revert::leave(sock, reason::ESCAPED)
        }
        // The receiver's library does not know the set, and sees what the kernel does.
        Meaning::Set(index) => {
            errno::keep(|| epoll::passed(index));
            true
        }
        _ => true,
    };
    // SAFETY: the caller's promise.
    unsafe { descriptors(msg, each) }
}

/// The message is on its way.
///
/// # Safety
/// As for [`let_go`].
#[cold]
unsafe fn gone(msg: *const msghdr) {
    let each = |fd| {
        if let Some(sock) = fds::sock(fd) {
            passed::went(sock);
        }
        true
    };
    // SAFETY: the caller's promise.
    unsafe { descriptors(msg, each) };
}

/// A message has come, maybe with connections.
///
/// # Safety
/// `msg` is a message header that the kernel has filled in.
#[inline]
unsafe fn come(msg: *const msghdr, flags: c_int) {
    // SAFETY: the caller's promise.
    if unsafe { has_control(msg) } {
        let each = |fd| {
            if !epoll::returned(fd) {
                passed::came(fd, flags & libc::MSG_PEEK != 0);
            }
            true
        };
        errno::keep(|| {
            // SAFETY: likewise.
            unsafe { descriptors(msg, each) };
            ready::catch_up();
        });
    }
}
