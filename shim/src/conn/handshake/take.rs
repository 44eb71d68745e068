//! Receiving a message: off the stream first, then acted upon.

use super::super::{Sock, breaks, died, flag, revert, step};
use super::{answer, publish_taken};
use crate::{os, trace};
use protocol::clc;
use protocol::reason;
use protocol::shm::pair::{Gate, GateState, PairSlot};
use std::sync::atomic::Ordering::*;

/// Takes the announced message off the stream. False: it has not arrived, or somebody else is at it.
pub(super) fn message(sock: Sock, slot: &PairSlot) -> bool {
    let Some(held) = sock.rx.lock.try_lock() else {
        return false;
    };
    let taken = take_locked(sock, slot);
    sock.rx.lock.unlock(held);
    taken
}

/// The same, for a caller that holds the receive lock. The message is only put aside here: a signal
/// handler that receives has to get it out of the way, and may have little stack.
#[inline(never)]
pub fn take_locked(sock: Sock, slot: &PairSlot) -> bool {
    let gate = slot.gate(sock.role().peer());
    if gate.state() != GateState::Busy {
        return true;
    }
    let mut packet = [0u8; clc::MAX_LEN];
    let mut head = [0u8; clc::HEADER_LEN];
    let peek = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    let give_up = |code| {
        sock.reason(code);
        sock.step.store(step::OVER, Release);
        gate.message_taken(false);
        true
    };
    match os::recv(sock.fd, &mut head, peek) {
        // The sender may have given the gate back: then these are the program's bytes.
        _ if gate.state() != GateState::Busy => return true,
        Ok(n) if n == head.len() => {}
        Ok(0) => return give_up(reason::PEER_CLOSING),
        Ok(n) if clc::may_begin(head.get(..n).unwrap_or(&[])) => {
            return cut_short(sock) && garbled(sock, gate);
        }
        Ok(_) | Err(libc::EAGAIN | libc::EINTR) => {
            return cut_short(sock) && give_up(reason::PROTOCOL);
        }
        Err(e) if breaks(e) => {
            // The kernel has told it once; the program is to hear of it from its next call.
            if !died::in_order_after(&sock, e) {
                sock.owe(e);
            }
            return give_up(reason::PEER_CLOSING);
        }
        // The look has failed, and not the connection: what is read there next would be the message.
        Err(_) => return garbled(sock, gate),
    }
    // What is no CLC message is the program's: it stays on the stream.
    let Ok(len) = clc::message_len(&head) else {
        return give_up(reason::PROTOCOL);
    };
    let Some(space) = packet.get_mut(..len) else {
        return give_up(reason::PROTOCOL);
    };
    if os::recv(sock.fd, space, peek).unwrap_or(0) < len {
        return cut_short(sock) && garbled(sock, gate);
    }
    if os::recv(sock.fd, space, libc::MSG_DONTWAIT) != Ok(len) {
        return garbled(sock, gate);
    }
    sock.rx.messages.fetch_add(len as u64, AcqRel);
    if !clc::is_whole(space) {
        return garbled(sock, gate);
    }
    sock.inbox.put_bytes(space);
    gate.message_taken(false);
    true
}

/// Acts on the message that was put aside, and opens the gate for the next. False: not now.
pub(super) fn read_message(sock: Sock, slot: &PairSlot) -> bool {
    if os::on_signal_stack() {
        return false;
    }
    let Some(held) = sock.rx.lock.try_lock() else {
        return false;
    };
    read_locked(sock, slot);
    sock.rx.lock.unlock(held);
    true
}

#[inline(never)]
fn read_locked(sock: Sock, slot: &PairSlot) {
    let mut packet = [0u8; clc::MAX_LEN];
    let len = sock.inbox.take(&mut packet);
    let Some(message) = packet.get(..len).filter(|_| len != 0) else {
        return;
    };
    trace::message(&sock, false, message);
    match clc::decode(message) {
        Ok(message) => answer::digest(sock, message),
        Err(_) => answer::decline(sock, reason::PROTOCOL),
    }
    // After a Decline of ours nothing is to be switched onto a ring any more.
    let go_on = sock.step.load(Acquire) < step::DECLINE;
    if go_on && !sock.has(flag::LEAVE) {
        publish_taken(&sock, slot);
        slot.gate(sock.role().peer()).open();
    }
}

/// A message that is cut off, or that does not end where it says: nobody can tell which bytes of the
/// stream are the program's.
fn garbled(sock: Sock, gate: &Gate) -> bool {
    let mut rest = [0u8; clc::MAX_LEN];
    while os::recv(sock.fd, &mut rest, libc::MSG_DONTWAIT).is_ok_and(|n| n != 0) {}
    revert::reset(sock);
    gate.message_taken(false);
    true
}

/// Nothing more will come on the stream.
fn cut_short(sock: Sock) -> bool {
    let gone = libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR;
    os::poll_one(sock.fd, libc::POLLRDHUP, 0).unwrap_or(0) & gone != 0
}
