//! Which way a call on a descriptor takes.

use crate::conn::{Sock, claim, flag, phase};
use crate::fds::{self, Entry, Meaning};
use libc::{c_int, ssize_t};
use protocol::reason;
use std::sync::atomic::Ordering::*;

/// The way of a data call.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// Not a connection: straight to the kernel.
    Kernel,
    /// A descriptor of the library's own: the program has no such descriptor.
    Ours,
    /// A connection that is TCP for good: to the kernel, counted for the tool only.
    Settled(Sock),
    /// A connection on plain TCP: to the kernel, counted.
    Plain(Sock),
    /// Through the state machine.
    Careful(Sock),
}

#[inline]
pub fn of(entry: Entry, fd: c_int) -> Way {
    match fds::decode(entry, fd) {
        Meaning::Conn(sock) if settled(sock) => Way::Settled(sock),
        Meaning::Conn(sock) => match sock.phase() {
            phase::BARRED.. => Way::Careful(sock),
            _ => Way::Plain(sock),
        },
        Meaning::Ours => Way::Ours,
        _ => Way::Kernel,
    }
}

/// Whether it is TCP for good, and owes the program nothing.
#[inline]
pub fn settled(sock: Sock) -> bool {
    // A call that ended early may have left an error to the next.
    sock.phase() == phase::BARRED && sock.owed.load(Relaxed) == 0
}

/// Whether a call may be over at once, see [`crate::conn::quick`]. Not while claims wait for what the daemon says.
#[inline]
pub fn lively(sock: Sock) -> bool {
    sock.on_ring() && !claim::waiting()
}

/// A kernel call on a plain connection, which it may outlast.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    sock: Sock,
    generation: u32,
}

/// Begins one. `None`: the connection has become careful in the meantime.
#[inline]
pub fn enter(sock: Sock) -> Option<Call> {
    let generation = sock.plain.enter();
    let call = Call { sock, generation };
    if sock.careful() {
        call.leave();
        return None;
    }
    Some(call)
}

impl Call {
    /// One that is counted there already.
    pub fn begun(sock: Sock) -> Call {
        let generation = sock.generation.load(Relaxed);
        Call { sock, generation }
    }

    /// Ends a call that has moved nothing.
    #[inline]
    pub fn leave(self) {
        self.sock.plain.leave(self.generation);
    }

    /// Whether its connection is still there.
    #[inline]
    fn stands(self) -> bool {
        self.sock.plain.is_of(self.generation)
    }
}

/// Whether a receive has taken bytes of the stream.
pub fn took(n: ssize_t, flags: c_int) -> bool {
    n > 0 && flags & (libc::MSG_PEEK | libc::MSG_ERRQUEUE | libc::MSG_OOB) == 0
}

/// Ends a receive on a connection that is TCP for good.
#[inline]
pub fn settled_received(sock: Sock, n: ssize_t, flags: c_int) {
    if took(n, flags) {
        sock.row().tcp_rx.fetch_add(n as u64, Relaxed);
    }
}

/// Ends a send, likewise.
#[inline]
pub fn settled_sent(sock: Sock, n: ssize_t) {
    if n > 0 {
        sock.row().tcp_tx.fetch_add(n as u64, Relaxed);
    }
}

/// Ends a plain receive: counts what it gave, then says that it is over. In this order, so that
/// nobody takes a count for the whole while bytes are missing in it.
#[inline]
pub fn received(call: Call, n: ssize_t, flags: c_int) {
    let sock = call.sock;
    if !call.stands() {
        return;
    }
    let taken = took(n, flags);
    if flags & libc::MSG_OOB != 0 {
        sock.bar(reason::OOB);
    } else if taken {
        sock.count_tcp_taken(n as u64);
    }
    call.leave();
    if taken {
        consider(sock);
    }
}

/// Flags of a send that only TCP can carry.
pub const BARRING: c_int = libc::MSG_OOB | libc::MSG_FASTOPEN | libc::MSG_ZEROCOPY;

/// Ends a plain send, likewise.
#[inline]
pub fn sent(call: Call, n: ssize_t, flags: c_int) {
    let sock = call.sock;
    if !call.stands() {
        return;
    }
    if flags & BARRING != 0 {
        sock.bar(if flags & libc::MSG_OOB != 0 {
            reason::OOB
        } else {
            reason::SOCKOPT
        });
    }
    if n > 0 {
        sock.count_tcp_sent(n as u64);
    }
    call.leave();
    if n > 0 {
        consider(sock);
    }
}

#[inline]
pub fn consider(sock: Sock) {
    if sock.phase() == phase::PLAIN && !sock.has(flag::SHUT_WR | flag::SHUT_RD) {
        claim::consider(sock);
    }
}
