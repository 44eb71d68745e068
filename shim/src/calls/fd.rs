//! Calls on descriptors: close, shutdown, dup, fcntl, ioctl, ranges.

use crate::calls::proc::borrowed_memory;
use crate::conn::{
    Sock, claim, close as end, died, flag, kept, life, passed, phase, ready, revert, rx, step,
};
use crate::fds::{self, Entry, Meaning};
use crate::{ctx, epoll, errno, os, ownfd, real, short};
use libc::{c_int, c_uint, c_ulong};
use protocol::reason;
use protocol::short::{NONBLOCK, SHUT_RD, SHUT_WR};
use std::sync::atomic::Ordering::*;

/// close: e = the table's word for the descriptor.
pub fn close(e: Entry, fd: c_int) -> c_int {
    // SAFETY: no pointers.
    let kernel = || unsafe { real::close(fd) };
    if borrowed_memory() {
        return kernel();
    }
    if short::of(e, fd).is_some_and(short::Short::close) {
        return kernel();
    }
    match fds::decode(e, fd) {
        Meaning::Conn(sock) => end::close(sock, kernel),
        Meaning::Set(index) => {
            epoll::set_closed(index, fd);
            kernel()
        }
        Meaning::Ours => errno::fail(libc::EBADF),
        Meaning::None => {
            fds::clear(fd);
            kernel()
        }
    }
}

/// shutdown of a short connection: it is not to be claimed any more.
fn shut_short(short: short::Short, how: c_int) -> Option<c_int> {
    let flags = match how {
        libc::SHUT_RD => SHUT_RD,
        libc::SHUT_WR => SHUT_WR,
        libc::SHUT_RDWR => SHUT_RD | SHUT_WR,
        _ => 0,
    };
    let before = short.still()?;
    if !short.put(flags, true) {
        return None;
    }
    // SAFETY: no pointers.
    let result = unsafe { real::shutdown(short.fd, how) };
    if result != 0 {
        errno::keep(|| short.put(flags & !before.0, false));
    }
    Some(result)
}

/// shutdown: e = the table's word for the descriptor.
pub fn shutdown(e: Entry, fd: c_int, how: c_int) -> c_int {
    if let Some(result) = short::of(e, fd).and_then(|short| shut_short(short, how)) {
        return result;
    }
    let sock = match fds::decode(e, fd) {
        Meaning::Conn(sock) => Some(sock),
        Meaning::Ours => return errno::fail(libc::EBADF),
        Meaning::Set(_) | Meaning::None => None,
    };
    let before = sock.map_or(0, |sock| sock.flags.load(Relaxed));
    let reset = sock.is_some_and(died::find_reset);
    if let Some(sock) = sock.filter(|_| !reset) {
        let writing = matches!(how, libc::SHUT_WR | libc::SHUT_RDWR);
        if writing {
            stop_writing(sock);
        }
        if matches!(how, libc::SHUT_RD | libc::SHUT_RDWR) {
            sock.set(flag::SHUT_RD);
        }
        if sock.has(flag::SHUT_RD) && sock.has(flag::SHUT_WR) && sock.phase() == phase::PAIRED {
            // What still comes makes the kernel reset the connection: it has to come over TCP.
            rx::change_flags(&sock, protocol::shm::cdc::flag::CLOSED, 0);
        }
    }
    if let Some(sock) = sock.filter(|_| matches!(how, libc::SHUT_RD..=libc::SHUT_RDWR)) {
        // The kernel wakes others before the call is over: what they are told is all of it.
        sock.shutdowns.fetch_add(1, AcqRel);
    }
    // SAFETY: no pointers.
    let mut result = unsafe { real::shutdown(fd, how) };
    if reset && result == 0 {
        // Of this one the kernel does not know.
        result = errno::fail(libc::ENOTCONN);
    }
    if let Some(sock) = sock {
        if result == 0 || errno::get() == libc::ENOTCONN {
            // Also where somebody has looked in between.
            errno::keep(|| {
                epoll::ask(sock.conn);
                epoll::rouse(sock.conn);
            });
        }
        if result != 0 {
            // Reset already: nothing was shut.
            sock.clear((flag::SHUT_RD | flag::SHUT_WR) & !before);
        } else if sock.sleepers.load(Acquire) != 0 || kept::waited_on(sock.conn) {
            // The kernel's sleepers wake when the FIN is acknowledged; a poll finds that one of its numbers is closed.
            errno::keep(ctx::ring_sleepers);
        }
    }
    result
}

/// The sending direction goes back to TCP, whose FIN ends it.
fn stop_writing(sock: Sock) {
    claim::withdraw(sock.conn, phase::BARRED);
    if sock.phase() != phase::PAIRED {
        // The reason why it was not accelerated until now stays.
        for from in [phase::INIT, phase::PLAIN, phase::CLAIMED] {
            sock.change_phase(from, phase::BARRED);
        }
        sock.set(flag::SHUT_WR);
        return;
    }
    // A handshake needs both directions. A message that came later would find nobody to take it,
    // and turn the end of the connection into a reset.
    if sock.step.load(Relaxed) != step::ESTABLISHED && revert::leave(sock, reason::PEER_CLOSING) {
        sock.set(flag::SHUT_WR);
        return;
    }
    let held = sock.tx.lock.lock();
    if sock.tx_ring() {
        revert::finish(sock, reason::PEER_CLOSING);
    }
    // Whoever carries the direction: the FIN that follows is no sign of death.
    rx::change_flags(&sock, protocol::shm::cdc::flag::DONE_WRITING, 0);
    while sock.tx.repeat.load(Relaxed) != 0 && !revert::repeat(sock) {
        let _ = os::poll_one(sock.fd, libc::POLLOUT, 100);
    }
    sock.set(flag::SHUT_WR);
    sock.tx.lock.unlock(held);
}

/// A vfork child has a descriptor of it for the program that it will become.
fn given_away(meaning: Meaning) {
    if let Meaning::Conn(sock) = meaning {
        passed::kept(sock.conn);
    }
}

/// Enters a new number for what `old` means.
fn copied(meaning: Meaning, new: c_int) {
    if new < 0 {
        return;
    }
    if borrowed_memory() {
        given_away(meaning);
        return;
    }
    match meaning {
        Meaning::Conn(sock) => {
            life::duplicated(sock.conn, new);
            if new <= 2 {
                revert::leave(
                    Sock {
                        fd: new,
                        conn: sock.conn,
                    },
                    reason::STD_FD,
                );
            }
        }
        Meaning::Set(index) => epoll::duplicated(index, new),
        Meaning::None | Meaning::Ours => {}
    }
}

/// dup: e = the table's word for the descriptor.
pub fn dup(e: Entry, fd: c_int) -> c_int {
    let meaning = fds::decode(e, fd);
    if matches!(meaning, Meaning::Ours) {
        return errno::fail(libc::EBADF);
    }
    // SAFETY: no pointers.
    let new = unsafe { real::dup(fd) };
    errno::keep(|| copied(meaning, new));
    new
}

/// Whether the kernel refuses to replace `new` by `old`, or has nothing to do.
fn stays(old: c_int, new: c_int, flags: c_int) -> bool {
    old == new
        || flags & !libc::O_CLOEXEC != 0
        || fds::get(new) != 0 && new as usize >= os::descriptor_limit()
        || os::fcntl(old, libc::F_GETFD, 0).is_err()
}

/// dup2 and dup3: the number `new` loses what it meant and means what `old` means.
fn replace(old: c_int, new: c_int, flags: c_int, kernel: impl FnOnce() -> c_int) -> c_int {
    let meaning = fds::meaning(old);
    if matches!(meaning, Meaning::Ours) {
        return errno::fail(libc::EBADF);
    }
    if borrowed_memory() || stays(old, new, flags) {
        if let (Meaning::Conn(sock), 0..=2) = (meaning, new) {
            // A vfork child gives the connection to the program that it will become.
            revert::leave(sock, reason::STD_FD);
        }
        if old != new && borrowed_memory() {
            given_away(meaning);
        }
        return kernel();
    }
    if let (Meaning::Conn(sock), 0..=2) = (meaning, new) {
        revert::leave(sock, reason::STD_FD);
    }
    let result = match fds::meaning(new) {
        Meaning::Conn(gone) => end::close(gone, kernel),
        Meaning::Set(index) => {
            epoll::set_closed(index, new);
            kernel()
        }
        Meaning::Ours => {
            ownfd::make_way(new);
            kernel()
        }
        Meaning::None => {
            fds::clear(new);
            kernel()
        }
    };
    errno::keep(|| copied(meaning, result));
    result
}

/// dup2: the table's words for both descriptors.
pub fn dup2(_e_old: Entry, _e_new: Entry, old: c_int, new: c_int) -> c_int {
    // SAFETY: no pointers.
    replace(old, new, 0, || unsafe { real::dup2(old, new) })
}

/// dup3: the table's words for both descriptors.
pub fn dup3(_e_old: Entry, _e_new: Entry, old: c_int, new: c_int, flags: c_int) -> c_int {
    // SAFETY: no pointers.
    replace(old, new, flags, || unsafe { real::dup3(old, new, flags) })
}

/// fcntl of a short connection, where that may stay one.
fn fcntl_short(short: short::Short, command: c_int, argument: usize) -> Option<c_int> {
    let status = argument as c_int;
    let sets = command == libc::F_SETFL && status & libc::O_ASYNC == 0;
    if !sets && !matches!(command, libc::F_GETFL | libc::F_GETFD | libc::F_SETFD) {
        return None;
    }
    // SAFETY: no pointers.
    let result = unsafe { real::fcntl(short.fd, command, argument) };
    if sets && result == 0 {
        blocks(short, status & libc::O_NONBLOCK == 0);
    }
    Some(result)
}

fn blocks(short: short::Short, blocks: bool) {
    if !short.put(NONBLOCK, !blocks)
        && let Meaning::Conn(sock) = fds::meaning(short.fd)
    {
        sock.put(flag::NONBLOCK, !blocks);
    }
}

/// fcntl: e = the table's word for the descriptor.
pub fn fcntl(e: Entry, fd: c_int, command: c_int, argument: usize) -> c_int {
    if let Some(short) = short::of(e, fd)
        && let Some(result) = fcntl_short(short, command, argument)
    {
        return result;
    }
    let meaning = fds::decode(e, fd);
    if matches!(meaning, Meaning::Ours) {
        return errno::fail(libc::EBADF);
    }
    let status = argument as c_int;
    if let Meaning::Conn(sock) = meaning
        && command == libc::F_SETFL
        && status & libc::O_ASYNC != 0
    {
        revert::leave(sock, reason::ASYNC_IO);
    }
    // SAFETY: the caller's own arguments.
    let result = unsafe { real::fcntl(fd, command, argument) };
    match (command, meaning) {
        (libc::F_DUPFD | libc::F_DUPFD_CLOEXEC, meaning) => errno::keep(|| copied(meaning, result)),
        (libc::F_SETFL, Meaning::Conn(sock)) if result == 0 => {
            sock.put(flag::NONBLOCK, status & libc::O_NONBLOCK != 0);
        }
        _ => {}
    }
    result
}

const SIOCATMARK: c_ulong = 0x8905;

/// ioctl: e = the table's word for the descriptor.
pub fn ioctl(e: Entry, fd: c_int, request: c_ulong, argument: usize) -> c_int {
    if let Some(short) = short::of(e, fd).filter(|_| request != libc::FIOASYNC) {
        // SAFETY: the caller's own arguments.
        let result = unsafe { real::ioctl(fd, request, argument) };
        if result == 0 && request == libc::FIONBIO {
            // SAFETY: the kernel has read the program's int there.
            blocks(short, unsafe { *(argument as *const c_int) } == 0);
        }
        return result;
    }
    let meaning = fds::decode(e, fd);
    if matches!(meaning, Meaning::Ours) {
        return errno::fail(libc::EBADF);
    }
    if let Meaning::Conn(sock) = meaning
        && request == libc::FIOASYNC
    {
        revert::leave(sock, reason::ASYNC_IO);
    }
    if let (Meaning::Conn(sock), libc::FIONREAD) = (meaning, request) {
        // A message of ours that lies on the stream is none of the program's bytes.
        ready::service(sock);
    }
    // SAFETY: the caller's own arguments.
    let result = unsafe { real::ioctl(fd, request, argument) };
    if let Meaning::Conn(sock) = meaning
        && result == 0
        && argument != 0
    {
        let value = argument as *mut c_int;
        if request == libc::FIONBIO {
            // SAFETY: the kernel has read the program's int there.
            sock.put(flag::NONBLOCK, unsafe { *value } != 0);
        } else if request == libc::FIONREAD && rx::message_ahead(&sock) {
            // SAFETY: likewise.
            unsafe { *value = 0 };
        } else if request == libc::FIONREAD && sock.phase() == phase::PAIRED {
            // SAFETY: the kernel has written an int there.
            unsafe { *value = (*value).saturating_add(rx::on_ring(&sock) as c_int) };
        } else if request == SIOCATMARK && rx::available(&sock) != 0 {
            // The mark lies on TCP, behind what the ring holds.
            // SAFETY: the kernel has written an int there.
            unsafe { *value = 0 };
        }
    }
    result
}

/// Closes what is open in `[first, last]`, except for the library's own descriptors.
fn close_all(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    let last = last.min(i32::MAX as c_uint) as c_int;
    let first = first as c_int;
    let end = last.min(fds::highest() - 1);
    for fd in first.max(0)..=end {
        match fds::meaning(fd) {
            // The kernel closes the numbers below.
            Meaning::Conn(sock) => {
                end::close(sock, || 0);
            }
            Meaning::Set(index) => epoll::set_closed(index, fd),
            _ => {}
        }
    }
    let mut from = first;
    for fd in first.max(0)..=end {
        if matches!(fds::meaning(fd), Meaning::Ours) {
            if fd > from {
                // SAFETY: no pointers.
                unsafe { real::close_range(from as c_uint, fd as c_uint - 1, flags) };
            }
            from = fd + 1;
        }
    }
    if from > last {
        return 0;
    }
    // SAFETY: no pointers.
    unsafe { real::close_range(from as c_uint, last as c_uint, flags) }
}

/// CLOSE_RANGE_CLOEXEC
const ONLY_MARK: c_int = 4;

/// close_range.
pub fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    let out_of_reach = first > i32::MAX as c_uint;
    if out_of_reach
        || flags & ONLY_MARK != 0
        || first > last
        || flags & !6 != 0
        || borrowed_memory()
    {
        // SAFETY: no pointers.
        return unsafe { real::close_range(first, last, flags) };
    }
    close_all(first, last, flags)
}

/// closefrom.
pub fn closefrom(lowest: c_int) {
    if borrowed_memory() || close_all(lowest.max(0) as c_uint, c_uint::MAX, 0) != 0 {
        // SAFETY: no pointers.
        unsafe { real::closefrom(lowest) };
    }
}
