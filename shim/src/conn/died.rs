//! A peer that died while a handshake message of ours lay unread in its socket.
//!
//! The kernel resets a connection whose socket is closed with unread bytes. When the message is all
//! that was unread, plain TCP would have ended the stream in order: the program is shown that end,
//! and the reset only where TCP would have shown one too, after it has sent something more.

use super::{Conn, Sock, flag, ready, rx, step, tx};
use crate::os;
use protocol::shm::cdc::{self, Cursor};
use protocol::shm::pair::{Carrier, GateState};
use std::sync::atomic::Ordering::*;

/// Whether a message of ours is all that the peer has not read.
fn only_message_unread(conn: &Conn) -> bool {
    let Some(slot) = conn.slot() else {
        return false;
    };
    slot.gate(conn.role()).state() == GateState::Busy
        && slot.counts(conn.role().peer()).consumed.load(Acquire) == conn.tx.sent.load(Acquire)
}

/// Whether the reset that the kernel reports is an end of the stream for the program.
pub fn in_order(conn: &Conn) -> bool {
    if conn.has(flag::ENDED) {
        return !conn.has(flag::DEAD);
    }
    if conn.has(flag::DEAD | flag::RESET) || !only_message_unread(conn) {
        return false;
    }
    conn.set(flag::ENDED);
    true
}

/// As [`in_order`], for an errno of the kernel's.
pub fn in_order_after(conn: &Conn, errno: i32) -> bool {
    // After an own shutdown EPIPE says nothing about the peer.
    let said = errno == libc::ECONNRESET || errno == libc::EPIPE && !conn.has(flag::SHUT_WR);
    said && in_order(conn)
}

/// Poll bits of the kernel's as the program is to see them.
pub fn mask(sock: Sock, seen: i16) -> i16 {
    if seen & libc::POLLHUP == 0 || sock.has(flag::SHUT_WR) || !in_order(&sock) {
        return seen;
    }
    seen & !(libc::POLLHUP | libc::POLLERR)
}

/// A send after the end: TCP takes it and learns from the answer that nobody is there.
pub fn swallow(conn: &Conn, n: usize) -> usize {
    conn.set(flag::DEAD);
    n
}

/// The errno of a reset that only we know of: the peer was killed with bytes unread on the ring. A
/// reset is reported once, so what the kernel may have to say of the same death is taken off.
pub fn reset(sock: Sock) -> i32 {
    sock.set(flag::DEAD);
    sock.clear(flag::RESET);
    let _ = os::sockopt_int(sock.fd, libc::SOL_SOCKET, libc::SO_ERROR);
    libc::ECONNRESET
}

/// As [`reset`], if there is one that was not reported yet.
pub fn take_reset(sock: Sock) -> Option<i32> {
    (sock.has(flag::RESET) && sock.clear(flag::RESET)).then(|| reset(sock))
}

/// As [`take_reset`], for a receive: what came before is given first, but for that of a peer that broke the rules.
pub fn reach_reset(sock: Sock) -> Option<i32> {
    let left = || {
        sock.step.load(Relaxed) != step::OVER
            && (rx::on_ring(&sock) != 0
                || os::ioctl_int(sock.fd, libc::FIONREAD).is_ok_and(|n| n > 0))
    };
    if sock.has(flag::RESET) && left() {
        return None;
    }
    take_reset(sock)
}

/// Whether the connection is reset, also by a death that nobody has met with yet: it is reported then.
pub fn is_reset(sock: Sock) -> bool {
    if !sock.has(flag::DEAD | flag::RESET) && unseen(sock) {
        sock.set(flag::RESET);
    }
    sock.has(flag::DEAD | flag::RESET)
}

/// As [`is_reset`], before a call that asks for nothing else: what this end has to repeat may be answered by a reset, of
/// which the kernel tells.
pub fn find_reset(sock: Sock) -> bool {
    ready::service(sock);
    is_reset(sock)
}

/// A direction went back to TCP, and its peer was killed before it had read what is left on the
/// ring. TCP would have been reset at once; the kernel, which knows nothing of the ring, got a FIN.
pub fn unseen(sock: Sock) -> bool {
    !sock.has(flag::SHUT_WR) && killed_with_unread(&sock) && ready::has_ended(sock)
}

/// The peer is gone without having closed, and did not read what we sent: TCP would have reset.
pub fn killed_with_unread(conn: &Conn) -> bool {
    let Some(own) = conn.own() else { return false };
    let (_, flags) = Cursor::from_word(own.consumer.load(Acquire));
    if flags & (cdc::flag::CLOSED | cdc::flag::ABORT | cdc::flag::DONE_WRITING) != 0 {
        return false;
    }
    let Some(slot) = conn.slot() else {
        return false;
    };
    // Of bytes on TCP the kernel knows.
    matches!(
        slot.direction(conn.role()).load().carrier,
        Carrier::Ring | Carrier::Final | Carrier::Frozen | Carrier::Twice
    ) && slot.counts(conn.role().peer()).taken.load(Acquire) != tx::producer(conn).produced.position
}
