//! A connection that loses its last descriptor while a call of this process waits on it. The kernel
//! keeps the file for such a call: it goes on, and the connection ends with it. So do we, with a
//! descriptor of our own.

use super::{Conn, Sock, close, flag, phase, ready, rx};
use crate::{ctx, epoll, family, fds, os, ownfd, sandbox, wait};
use protocol::stats::ROWS;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::*};

/// Calls of this process that wait, or have waited, on connection N; above, receives and sends alone.
static CALLS: [AtomicU32; ROWS] = [const { AtomicU32::new(0) }; ROWS];
const ALL: u32 = 0xffff;
const POLL: u32 = 1;
const TRANSFER: u32 = ALL + 1 + 1;
/// The descriptor that keeps connection N, + 1.
static KEPT: [AtomicI32; ROWS] = [const { AtomicI32::new(0) }; ROWS];

/// Of connections that lost a number under such a call: how much had come by then, + 1, and the index, + 1, above. The last of
/// those that share a place: it is asked soon.
static COME: [AtomicU64; 256] = [const { AtomicU64::new(0) }; 256];
const COME_BITS: u32 = 46;

fn calls(conn: &Conn) -> &'static AtomicU32 {
    static NONE: AtomicU32 = AtomicU32::new(0);
    CALLS.get(conn.index() as usize).unwrap_or(&NONE)
}

fn place(conn: &Conn) -> &'static AtomicI32 {
    static NONE: AtomicI32 = AtomicI32::new(0);
    KEPT.get(conn.index() as usize).unwrap_or(&NONE)
}

/// A poll begins to wait.
pub fn enter(conn: &Conn) {
    calls(conn).fetch_add(POLL, AcqRel);
}

/// It is over.
pub fn leave(conn: &'static Conn) {
    end(conn, POLL);
}

fn end(conn: &'static Conn, call: u32) {
    if calls(conn).fetch_sub(call, AcqRel) & ALL == 1 {
        release(conn);
    }
}

/// Runs the part of a receive or send that may wait.
pub fn during<R>(conn: &'static Conn, call: impl FnOnce() -> R) -> R {
    calls(conn).fetch_add(TRANSFER, AcqRel);
    let at = std::ptr::from_ref(conn).cast_mut().cast();
    // SAFETY: connections are never unmapped, and the call is taken back here only.
    unsafe { wait::undone(call_over, at, call) }
}

unsafe extern "C" fn call_over(conn: *mut c_void) {
    // SAFETY: `during` has passed a connection.
    end(unsafe { &*conn.cast() }, TRANSFER);
}

/// Keeps the connection for a call that waits on it. False: there is none, or no descriptor.
pub fn keep(sock: Sock) -> bool {
    if !waited_on(sock.conn) {
        return false;
    }
    // `raise` closes what it is given.
    let Ok(fd) = os::fcntl(sock.fd, libc::F_DUPFD_CLOEXEC, 3)
        .map(|fd| fd as c_int)
        .and_then(ownfd::raise)
    else {
        return false;
    };
    place(sock.conn).store(fd + 1, Release);
    true
}

/// After [`keep`] and the close: the call may have ended meanwhile. If not, it sleeps in a ppoll that
/// goes by the number, which means something else by now or nothing: it has to take the new one.
pub fn settle(conn: &'static Conn) {
    ctx::ring_sleepers();
    if !waited_on(conn) {
        release(conn);
    }
}

/// Whether a call of this process waits on it.
pub fn waited_on(conn: &Conn) -> bool {
    calls(conn).load(Acquire) != 0
}

/// Whether a receive or send does: asleep, or awake for a moment between two sleeps.
pub fn transferred_on(conn: &Conn) -> bool {
    calls(conn).load(Acquire) > ALL
}

/// One of its numbers is about to be closed. A poll on that may run long after.
pub fn closing(sock: Sock) {
    if waited_on(sock.conn)
        && !sandbox::within()
        && let (Some(place), name) = come_place(sock.conn)
    {
        let come = ready::come(sock).wrapping_add(1) & ((1 << COME_BITS) - 1);
        place.store(name | come, Release);
    }
}

/// How much had come, + 1, when one of its numbers was closed last, if that is known still.
pub fn come_by_then(conn: &Conn) -> Option<u64> {
    let (place, name) = come_place(conn);
    Some(place?.load(Acquire) ^ name).filter(|come| come >> COME_BITS == 0)
}

fn come_place(conn: &Conn) -> (Option<&'static AtomicU64>, u64) {
    let index = conn.index();
    (
        COME.get(index as usize & 255),
        u64::from(index + 1) << COME_BITS,
    )
}

/// One of its numbers was closed: polls on that have to find out.
pub fn renamed(conn: &Conn) {
    if waited_on(conn) {
        ctx::ring_sleepers();
    }
}

fn release(conn: &'static Conn) {
    let fd = place(conn).swap(0, AcqRel) - 1;
    if fd >= 0 {
        let sock = Sock { fd, conn };
        // Not where others hold it as well: for them it goes on. Asked before a claim is given up, which bars it.
        let last = conn.holders.load(Acquire) <= 1 && conn.phase() != phase::BARRED;
        close::end(sock, || {
            // An urgent byte that was not taken makes it a reset.
            if last && conn.has(flag::LATE) && !rx::marked(sock) {
                let _ = os::shutdown(fd, libc::SHUT_WR);
            }
            ownfd::close(fd);
            0
        });
    }
}

/// A signal has ended a wait. The kernel closes what only this call keeps before the handler runs: what that has sent
/// here came behind the FIN, if the wait was for bytes, of which there were none before.
pub fn interrupted(conn: &Conn, want: wait::Want) {
    if want != wait::Want::Out
        && place(conn).load(Acquire) != 0
        && calls(conn).load(Acquire) & ALL == 1
    {
        conn.set(flag::LATE);
    }
}

/// Whether the number means the connection.
pub fn names(fd: c_int, conn: &Conn) -> bool {
    fds::sock(fd).is_some_and(|sock| std::ptr::eq(sock.conn, conn))
}

/// The connection of a call that goes on, under whatever descriptor it has by now.
pub fn again(sock: Sock) -> Option<Sock> {
    if names(sock.fd, sock.conn) {
        return Some(sock);
    }
    match fds::any_fd(sock.conn) {
        Some(fd) => Some(Sock { fd, ..sock }),
        None => find(sock.conn),
    }
}

/// The connection under the descriptor that the program has closed.
pub fn find(conn: &'static Conn) -> Option<Sock> {
    let fd = place(conn).load(Acquire) - 1;
    (fd >= 0 && fds::count(conn) == 0).then_some(Sock { fd, conn })
}

/// Connections that are kept so.
pub fn all() -> impl Iterator<Item = &'static Conn> {
    let high = family::table().map_or(0, |table| table.high.load(Relaxed) as usize);
    let kept = (0..).zip(&KEPT).take(high);
    kept.filter(|(_, fd)| fd.load(Relaxed) != 0)
        .filter_map(|(index, _)| family::conn(index))
}

/// Whether the number still means the connection for which a call was begun: what the kernel says of
/// another is nothing to it.
pub fn means(sock: Sock) -> bool {
    match place(sock.conn).load(Acquire) - 1 {
        kept if kept >= 0 => kept == sock.fd,
        _ => names(sock.fd, sock.conn),
    }
}

pub fn moved(from: c_int, to: c_int) {
    for place in &KEPT {
        let _ = place.compare_exchange(from + 1, to + 1, AcqRel, Relaxed);
    }
}

/// In the child of a fork: the calls are the parent's.
pub fn forked() {
    // Only as far as there were connections: a child pays for each page that it looks at.
    let high = family::table().map_or(0, |table| table.high.load(Relaxed) as usize);
    for (index, (calls, kept)) in (0..).zip(CALLS.iter().zip(&KEPT)).take(high) {
        if calls.load(Relaxed) != 0 {
            calls.store(0, Relaxed);
            let fd = kept.swap(0, Relaxed) - 1;
            if fd >= 0 {
                // The parent keeps it, and the kernel's sets go on reporting it.
                if let Some(conn) = family::conn(index) {
                    epoll::outlived(Sock { fd, conn });
                }
                ownfd::close(fd);
            }
        }
    }
}
