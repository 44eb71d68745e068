//! A step of a receive from the TCP socket, which does not wait.

use super::ring::{from_frozen, frozen};
use super::{Got, Sink, available};
use crate::conn::{Conn, Sock, died, flag, handshake, onto_ring, phase, ready, revert, twice};
use crate::os;
use protocol::shm::pair::{Carrier, GateState, PairSlot};
use std::ffi::c_int;
use std::sync::atomic::Ordering::*;

/// Between looks at a gate that the sender holds for a switch.
const SWITCH_NS: u64 = 20_000;

pub fn from_tcp(sock: Sock, sink: Sink<'_>, flags: c_int) -> Option<Got> {
    if let Some(error) = died::reach_reset(sock) {
        return Some(Got::Error(error));
    }
    let Some(slot) = sock.slot().filter(|_| sock.phase() == phase::PAIRED) else {
        return Some(receive(sock, sink, flags, usize::MAX));
    };
    let gate = slot.gate(sock.role().peer());
    let was_open = match gate.state() {
        GateState::Busy => {
            return if handshake::take_locked(sock, slot) {
                None
            } else {
                Some(Got::Empty)
            };
        }
        // The sender is about to change the direction word; it rings when it has published.
        GateState::Switch => return switching(sock, slot),
        GateState::Shut => false,
        // While we look and read, the gate is ours: neither a CLC message nor a switch onto the
        // ring can come between.
        GateState::Open if gate.shut() => true,
        GateState::Open => return None,
    };
    if sock.rx.frozen.load(Acquire) != 0 {
        revert::thaw(sock, slot);
    }
    if slot.direction(sock.role().peer()).load().carrier == Carrier::TwiceAll {
        // This end has not come onto the ring, and stays on TCP.
        twice::settled(sock, slot);
    }
    let got = match onto_ring::up_to_seam(&sock, slot) {
        None => Some(receive(sock, sink, flags, usize::MAX)),
        Some(0) if let Some(direction) = frozen(&sock) => {
            from_frozen(sock, slot, direction, sink, flags)
        }
        Some(0) => {
            onto_ring::follow(&sock, slot);
            None
        }
        Some(n) if n <= i64::MAX as u64 => Some(receive(sock, sink, flags, n as usize)),
        // The seam lies before what was taken already.
        Some(_) => {
            revert::reset(sock);
            None
        }
    };
    if was_open {
        handshake::publish_taken(&sock, slot);
        gate.open();
    }
    got
}

/// The sender holds the gate for a moment, for one that does not wait. If it died with it, the gate is
/// ours to take: all that is on TCP lies before the seam, wherever that is.
fn switching(sock: Sock, slot: &PairSlot) -> Option<Got> {
    let gate = slot.gate(sock.role().peer());
    let gone = os::poll_one(sock.fd, libc::POLLRDHUP, 0).unwrap_or(0) & ready::GONE != 0;
    if gate.state() != GateState::Switch {
        return None;
    }
    if gone {
        gate.switched();
        return None;
    }
    os::sleep_ns(SWITCH_NS);
    Some(Got::Empty)
}

/// A plain receive of at most `limit` bytes that does not wait, counted.
pub fn receive(sock: Sock, sink: Sink<'_>, flags: c_int, limit: usize) -> Got {
    let result = match sink {
        // The call has something: it goes not beyond urgent data, and leaves an error to the next.
        Sink::Buffers(_, 1..) if !ready::something_there(sock) => Err(libc::EAGAIN),
        Sink::Buffers(_, 1..) if ready::only_error(sock) => return Got::Bytes(0),
        Sink::Buffers(iov, skip) => iov.tcp_recv(sock.fd, skip, limit, flags & !libc::MSG_WAITALL),
        // The flag is about the pipe: on a socket where nothing is, the call would wait.
        Sink::Descriptor(..) if !ready::something_there(sock) && !at_mark(sock) => {
            Err(libc::EAGAIN)
        }
        Sink::Descriptor(fd, len) => {
            os::splice(sock.fd, fd, len.min(limit), libc::SPLICE_F_NONBLOCK)
        }
        // Not a peek at a byte, which would go beyond an urgent one.
        Sink::Nothing => os::recv(sock.fd, &mut [], libc::MSG_DONTWAIT),
    };
    match result {
        Ok(0)
            if sock.owed.load(Relaxed) != 0
                // A receive of no bytes gives 0 also where the stream goes on.
                && (!matches!(sink, Sink::Nothing) || ready::has_ended(sock))
                && let Some(error) = sock.take_owed() =>
        {
            Got::Error(error)
        }
        // What it sent last came over TCP, and what it left on the ring was not read.
        Ok(0)
            if !sock.has(flag::DEAD)
                && died::killed_with_unread(&sock)
                && ready::has_ended(sock) =>
        {
            Got::Error(died::reset(sock))
        }
        Ok(n) => {
            if flags & libc::MSG_PEEK == 0 && n != 0 {
                sock.count_tcp_taken(n as u64);
            }
            Got::Bytes(n)
        }
        Err(libc::EAGAIN) => Got::Empty,
        Err(e) if died::in_order_after(&sock, e) => Got::Bytes(0),
        Err(e) => {
            sock.note_error(e);
            Got::Error(e)
        }
    }
}

const SIOCATMARK: u64 = 0x8905;

/// Whether a receive has come to the mark of urgent data, where each ends.
pub fn at_mark(sock: Sock) -> bool {
    available(&sock) == 0 && marked(sock)
}

/// How much is there, up to a mark of urgent data that lies ahead.
pub fn up_to_mark(sock: Sock) -> usize {
    let on_tcp = os::ioctl_int(sock.fd, libc::FIONREAD).unwrap_or(0);
    available(&sock) as usize + on_tcp as usize
}

/// Whether the next byte on TCP is behind such a mark.
pub fn marked(sock: Sock) -> bool {
    os::ioctl_int(sock.fd, SIOCATMARK) == Ok(1)
}

/// After a receive: whether the stream goes on on the other carrier, so that one call gives what lies
/// on both sides of the seam. Not behind the mark of urgent data, where each receive ends.
pub fn crosses_over(sock: Sock) -> bool {
    let Some(slot) = sock.slot().filter(|_| sock.phase() == phase::PAIRED) else {
        return false;
    };
    if !sock.rx_ring() {
        return onto_ring::gone(&sock, slot) || available(&sock) != 0;
    }
    slot.direction(sock.role().peer()).load().carrier != Carrier::Ring
        && available(&sock) == 0
        && os::ioctl_int(sock.fd, SIOCATMARK) == Ok(0)
}

/// Whether a CLC message is the next thing on the TCP stream, or about to be: then there are no
/// bytes of the program on it.
pub fn message_ahead(conn: &Conn) -> bool {
    conn.phase() == phase::PAIRED
        && conn
            .slot()
            .is_some_and(|slot| slot.gate(conn.role().peer()).state() == GateState::Busy)
}
