//! Socket options: nearly all are the kernel's; some can only be carried by TCP.

use crate::calls::inq;
use crate::conn::{Sock, died, flag, ready, revert, rx, tx};
use crate::fds::{self, Entry, Meaning};
use crate::{ctx, epoll, errno, iov, os, real, short};
use libc::{c_int, c_void, socklen_t};
use protocol::reason;
use protocol::shm::cdc;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

/// getsockopt: e = the table's word for the descriptor.
///
/// # Safety
/// As for the C function.
pub unsafe fn getsockopt(
    e: Entry,
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    if short::of(e, fd).is_some() {
        // SAFETY: the caller's own arguments.
        return unsafe { real::getsockopt(fd, level, name, value, len) };
    }
    let meaning = fds::decode(e, fd);
    if matches!(meaning, Meaning::Ours) {
        return errno::fail(libc::EBADF);
    }
    let asks_error = level == libc::SOL_SOCKET && name == libc::SO_ERROR;
    if let Meaning::Conn(sock) = meaning
        && asks_error
    {
        died::find_reset(sock);
    }
    // SAFETY: the caller's own arguments.
    let result = unsafe { real::getsockopt(fd, level, name, value, len) };
    if let Meaning::Conn(sock) = meaning
        && result == 0
        && asks_error
    {
        let mut bytes = [0; size_of::<c_int>()];
        // SAFETY: the kernel has written there how much of an int it has given.
        let given = unsafe { *len as usize }.min(bytes.len());
        let value = value.cast::<u8>();
        // SAFETY: so many bytes; likewise below.
        unsafe { value.copy_to_nonoverlapping(bytes.as_mut_ptr(), given) };
        let reported = c_int::from_ne_bytes(bytes);
        let bytes = error(sock, reported).to_ne_bytes();
        // SAFETY: see above.
        unsafe { value.copy_from_nonoverlapping(bytes.as_ptr(), given) };
    }
    result
}

/// The error that the next call would report; `reported`: what the kernel says, and so has given up.
fn error(sock: Sock, reported: c_int) -> c_int {
    match died::take_reset(sock).or_else(|| sock.take_owed()) {
        Some(error) => error,
        None if died::in_order_after(&sock, reported) => 0,
        None => {
            sock.note_error(reported);
            reported
        }
    }
}

/// The error that the next call would report, which does not do so any more.
pub fn take_error(sock: Sock) -> Option<c_int> {
    died::find_reset(sock);
    let reported = os::sockopt_int(sock.fd, libc::SOL_SOCKET, libc::SO_ERROR).unwrap_or(0);
    Some(error(sock, reported)).filter(|error| *error != 0)
}

/// Why an option needs TCP, or 0.
fn needs_tcp(level: c_int, name: c_int, value: c_int) -> u32 {
    const TCP_ULP: c_int = 31;
    const TCP_FASTOPEN_CONNECT: c_int = 30;
    const TCP_ZEROCOPY_RECEIVE: c_int = 35;
    const SO_TIMESTAMPING_NEW: c_int = 65;
    const SO_TIMESTAMP_NEW: c_int = 63;
    const SO_TIMESTAMPNS_NEW: c_int = 64;
    let on = value != 0;
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_RCVLOWAT) if value > 1 => reason::LOWAT,
        (libc::SOL_SOCKET, libc::SO_OOBINLINE) if on => reason::OOB,
        (libc::SOL_SOCKET, libc::SO_PEEK_OFF) if on => reason::SOCKOPT,
        (libc::SOL_SOCKET, libc::SO_TIMESTAMP | libc::SO_TIMESTAMPNS | libc::SO_TIMESTAMPING)
        | (libc::SOL_SOCKET, SO_TIMESTAMP_NEW | SO_TIMESTAMPNS_NEW | SO_TIMESTAMPING_NEW)
            if on =>
        {
            reason::SOCKOPT
        }
        (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER | libc::SO_ATTACH_BPF) => reason::SOCKOPT,
        (libc::IPPROTO_TCP, TCP_ULP | libc::TCP_REPAIR | libc::TCP_MD5SIG) => reason::SOCKOPT,
        (libc::IPPROTO_TCP, libc::TCP_FASTOPEN | TCP_FASTOPEN_CONNECT) if on => reason::OPTUNSUPP,
        (libc::IPPROTO_TCP, TCP_ZEROCOPY_RECEIVE) => reason::SOCKOPT,
        _ => 0,
    }
}

/// Whether [`setsockopt`] has something to do when it is set.
fn noted(level: c_int, name: c_int) -> bool {
    matches!(
        (level, name),
        (libc::IPPROTO_TCP, inq::TCP_INQ)
            | (
                libc::SOL_SOCKET,
                libc::SO_SNDBUF | libc::SO_SNDBUFFORCE | libc::SO_RCVLOWAT
            )
    )
}

/// For an option that limits the time of a call: the flags of a limit below 0 and of none, and whether this one is below.
///
/// # Safety
/// `value` as for the C function.
unsafe fn below_zero(
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> Option<(u32, u32, bool)> {
    const SO_RCVTIMEO_NEW: c_int = 66;
    const SO_SNDTIMEO_NEW: c_int = 67;
    let (below, none) = match (level, name) {
        (libc::SOL_SOCKET, libc::SO_RCVTIMEO | SO_RCVTIMEO_NEW) => {
            (flag::RCV_AT_ONCE, flag::RCV_FOR_EVER)
        }
        (libc::SOL_SOCKET, libc::SO_SNDTIMEO | SO_SNDTIMEO_NEW) => {
            (flag::SND_AT_ONCE, flag::SND_FOR_EVER)
        }
        _ => return None,
    };
    if (len as usize) < size_of::<libc::timeval>() || iov::wild(value, len as usize) {
        return None;
    }
    // SAFETY: the seconds come first; see above.
    let seconds = unsafe { value.cast::<i64>().read_unaligned() };
    Some((below, none, seconds < 0))
}

/// Whether the peer's FIN has come, also before a reset. A connection that is closed without one was reset.
fn finished(sock: Sock) -> bool {
    match os::end_of(sock.fd) {
        os::End::Open => false,
        os::End::Fin => true,
        os::End::Closed => {
            let in_order = cdc::flag::DONE_WRITING | cdc::flag::CLOSED;
            tx::peer_flags(&sock) & in_order != 0
                || !sock.has(flag::DEAD | flag::RESET) && !ready::has_error(sock)
        }
    }
}

/// Whether there are bytes, or the end of the stream, for a receive as SO_RCVLOWAT wants them.
fn readable(sock: Sock) -> bool {
    let there = || {
        os::poll_one(sock.fd, ready::IN, 0).is_ok_and(|seen| seen & ready::IN != 0)
            && os::ioctl_int(sock.fd, libc::FIONREAD).is_ok_and(|n| n > 0)
    };
    rx::available(&sock) != 0 || !ready::message_coming(sock) && (there() || finished(sock))
}

/// setsockopt: e = the table's word for the descriptor.
///
/// # Safety
/// As for the C function.
pub unsafe fn setsockopt(
    e: Entry,
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> c_int {
    let number = if len < 4 || iov::wild(value, 4) {
        0
    } else {
        // SAFETY: at least four bytes of the program's.
        unsafe { value.cast::<c_int>().read_unaligned() }
    };
    let code = needs_tcp(level, name, number);
    // SAFETY: the caller's own arguments.
    let below_zero = unsafe { below_zero(level, name, value, len) };
    let noted = noted(level, name) || matches!(below_zero, Some((_, _, true)));
    if code == 0 && !noted && short::of(e, fd).is_some() {
        // SAFETY: the caller's own arguments.
        return unsafe { real::setsockopt(fd, level, name, value, len) };
    }
    let meaning = fds::decode(e, fd);
    match meaning {
        Meaning::Ours => return errno::fail(libc::EBADF),
        Meaning::Conn(sock) => {
            if code != 0 {
                revert::leave(sock, code);
            }
        }
        Meaning::Set(_) | Meaning::None => {}
    }
    // SAFETY: the caller's own arguments.
    let result = unsafe { real::setsockopt(fd, level, name, value, len) };
    if let Meaning::Conn(sock) = meaning
        && result == 0
    {
        if let Some((flag, none, below)) = below_zero {
            sock.put(flag, below);
            sock.clear(none);
        }
        match (level, name) {
            (libc::IPPROTO_TCP, inq::TCP_INQ) => inq::put(sock, number != 0),
            // The kernel tells its sets that there is room.
            (libc::SOL_SOCKET, libc::SO_SNDBUF | libc::SO_SNDBUFFORCE) => {
                sock.tx.edges.fetch_add(1, AcqRel);
                epoll::rouse(sock.conn);
                if sock.sleepers.load(Acquire) != 0 {
                    errno::keep(ctx::ring_sleepers);
                }
            }
            // And that there are bytes, if there are enough.
            (libc::SOL_SOCKET, libc::SO_RCVLOWAT) => errno::keep(|| {
                if readable(sock) {
                    sock.rx.edges.fetch_add(1, AcqRel);
                    epoll::rouse(sock.conn);
                }
            }),
            _ => {}
        }
    }
    result
}
