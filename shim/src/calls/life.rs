//! How sockets come into being and find their peer.

use crate::conn::{Sock, flag, life, phase};
use crate::fds::{self, Entry, Meaning};
use crate::{clock, config, errno, iov, os, real, short};
use libc::{c_int, sockaddr, socklen_t};
use std::sync::atomic::Ordering::Relaxed;

/// Which accept the program called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// accept: no flags.
    Accept,
    /// accept4.
    Accept4,
}

/// Runs once, in the library's constructor, after the next symbols are known.
pub fn start() {
    config::read();
    clock::start();
    super::proc::follow_forks();
}

/// A TCP stream socket is wanted: AF_INET or AF_INET6, SOCK_STREAM with or without flags. AF_SMC
/// and IPPROTO_SMC have been translated already.
pub fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    // SAFETY: the caller's own arguments.
    let fd = unsafe { real::socket(domain, kind, protocol) };
    if fd >= 0 && matches!(protocol, 0 | libc::IPPROTO_TCP) {
        errno::keep(|| life::created(fd, kind & libc::SOCK_NONBLOCK != 0));
    }
    fd
}

/// bind: e = the table's word for the descriptor.
///
/// # Safety
/// As for the C function.
pub unsafe fn bind(e: Entry, fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
    if fds::is_ours(e) {
        return errno::fail(libc::EBADF);
    }
    // SAFETY: the caller's own arguments.
    unsafe { real::bind(fd, addr, len) }
}

/// listen: e = the table's word for the descriptor.
pub fn listen(e: Entry, fd: c_int, backlog: c_int) -> c_int {
    let meaning = fds::decode(e, fd);
    if matches!(meaning, Meaning::Ours) {
        return errno::fail(libc::EBADF);
    }
    // SAFETY: the caller's own arguments.
    let result = unsafe { real::listen(fd, backlog) };
    if result == 0
        && let Meaning::Conn(sock) = meaning
    {
        errno::keep(|| life::listening(sock));
    }
    result
}

/// connect: e = the table's word for the descriptor.
///
/// # Safety
/// As for the C function.
pub unsafe fn connect(e: Entry, fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
    let family = if len < 2 || iov::wild(addr.cast(), 2) {
        -1
    } else {
        // SAFETY: `addr` is the program's; the kernel reads it too, and refuses a wild one.
        c_int::from(unsafe { (*addr).sa_family })
    };
    let internet = matches!(family, libc::AF_INET | libc::AF_INET6);
    let under_way = |result| {
        let on_its_way = [libc::EINPROGRESS, libc::EINTR, libc::EALREADY];
        internet && (result == 0 || on_its_way.contains(&errno::get()))
    };
    if let Some(short) = short::of(e, fd).filter(|_| internet) {
        // SAFETY: the caller's own arguments.
        let result = unsafe { real::connect(fd, addr, len) };
        if under_way(result) {
            errno::keep(|| short.connecting());
        }
        return result;
    }
    let sock = match fds::decode(e, fd) {
        Meaning::Conn(sock) => Some(sock),
        Meaning::Ours => return errno::fail(libc::EBADF),
        Meaning::Set(_) | Meaning::None => None,
    };
    if let Some(sock) = sock
        && family == libc::AF_UNSPEC
        && sock.phase() != phase::INIT
    {
        crate::conn::revert::leave(sock, protocol::reason::SOCKOPT);
        life::dissolved(sock);
    }
    // SAFETY: the caller's own arguments.
    let result = unsafe { real::connect(fd, addr, len) };
    if let Some(sock) = sock
        && under_way(result)
    {
        errno::keep(|| life::connecting(sock));
    }
    result
}

/// accept and accept4: e = the table's word for the listening descriptor.
///
/// # Safety
/// As for the C function.
pub unsafe fn accept4(
    e: Entry,
    fd: c_int,
    addr: *mut sockaddr,
    len: *mut socklen_t,
    flags: c_int,
    which: Which,
) -> c_int {
    if fds::is_ours(e) {
        return errno::fail(libc::EBADF);
    }
    let new = match which {
        // SAFETY: the caller's own arguments.
        Which::Accept => unsafe { real::accept(fd, addr, len) },
        // SAFETY: the caller's own arguments.
        Which::Accept4 => unsafe { real::accept4(fd, addr, len, flags) },
    };
    if new >= 0 && (fds::sock_of(e, fd).is_some() || e == 0 && is_tcp(new)) {
        let nonblock = which == Which::Accept4 && flags & libc::SOCK_NONBLOCK != 0;
        errno::keep(|| life::accepted(new, nonblock));
        if let Some(listener) = fds::sock_of(e, fd).filter(|sock| sock.has(flag::AT_ONCE)) {
            inherit(listener, new);
        }
    }
    new
}

/// Time limits below 0 go over to the new connection, and the kernel reads them back as none.
#[cold]
fn inherit(listener: Sock, new: c_int) {
    if let Meaning::Conn(sock) = fds::meaning(new) {
        sock.set(listener.flags.load(Relaxed) & flag::AT_ONCE);
    }
}

/// A listener that we did not see being made (inherited over exec, passed) gives connections that
/// we can accelerate all the same.
fn is_tcp(fd: c_int) -> bool {
    os::sockopt_int(fd, libc::SOL_SOCKET, libc::SO_PROTOCOL) == Ok(libc::IPPROTO_TCP)
}
