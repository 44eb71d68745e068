//! Sending a message: when it is the next thing that the peer will read.

use super::super::{Sock, flag, step};
use super::{all_consumed, answer, set_contacted};
use crate::{os, trace};
use protocol::clc::negotiate;
use protocol::clc::{self, Decline, Message};
use protocol::reason;
use protocol::shm::pair::{GateState, PairSlot};
use std::sync::atomic::Ordering::*;

/// Sends the message that is due. True: it is on the stream.
pub(super) fn message(sock: Sock, slot: &PairSlot) -> bool {
    if !may_put(sock, slot) || os::on_signal_stack() {
        return false;
    }
    let Some(held) = sock.tx.lock.try_lock() else {
        return false;
    };
    let done = sock.tx.repeat.load(Relaxed) == 0 && put_locked(sock, slot);
    sock.tx.lock.unlock(held);
    done
}

/// Whether a message may be put onto the stream: all that was sent before is consumed.
fn may_put(sock: Sock, slot: &PairSlot) -> bool {
    !sock.has(flag::SHUT_WR)
        && all_consumed(&sock, slot)
        && slot.gate(sock.role()).state() == GateState::Open
}

#[inline(never)]
fn put_locked(sock: Sock, slot: &PairSlot) -> bool {
    let now = sock.step.load(Acquire);
    let next = match now {
        step::START if sock.has(flag::CLIENT) => step::PROPOSED,
        step::ACCEPT => step::ACCEPTED,
        step::CONFIRM => step::CONFIRMED,
        step::ACK => step::ESTABLISHED,
        step::DECLINE => step::OVER,
        _ => return false,
    };
    let gate = slot.gate(sock.role());
    if !may_put(sock, slot) {
        return false;
    }
    if os::sockopt_int(sock.fd, libc::IPPROTO_TCP, libc::TCP_CORK).unwrap_or(1) != 0 {
        return false;
    }
    let mut packet = [0u8; clc::MAX_LEN];
    let len = match now {
        step::START => answer::with_identity(|own| {
            Message::Proposal(negotiate::make_proposal(own)).encode(&mut packet)
        }),
        step::DECLINE => {
            let code = sock.reason_to_send.load(Relaxed);
            Message::Decline(Decline::new(clc::VERSION_2, code)).encode(&mut packet)
        }
        _ => sock.outbox.get(&mut packet),
    };
    if !gate.hold_for_message() {
        return false;
    }
    // The next step before the message: its answer may meet another thread.
    sock.step.store(next, Release);
    let message = packet.get(..len).unwrap_or(&[]);
    match send_whole(sock, message) {
        Ok(()) => {
            trace::message(&sock, true, message);
            sock.tx.retry.store(0, Relaxed);
            sock.tx.backoff.store(0, Relaxed);
            if next == step::ESTABLISHED {
                set_contacted(&sock);
            }
            true
        }
        Err(_) => {
            gate.message_not_sent();
            sock.step.store(step::OVER, Release);
            sock.reason(reason::PEER_CLOSING);
            false
        }
    }
}

/// The program has sent something behind a message of ours that may not be acknowledged yet. Without that
/// message it would be on its way, and not lost with a close that resets the connection.
#[cold]
pub fn push(sock: Sock) {
    if sock.clear(flag::BEHIND_MESSAGE)
        && os::sockopt_int(sock.fd, libc::IPPROTO_TCP, libc::TCP_NODELAY).is_ok_and(|on| on == 0)
    {
        // The kernel sends what it holds when the option is set.
        let _ = os::set_sockopt_int(sock.fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
        let _ = os::set_sockopt_int(sock.fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 0);
    }
}

/// Puts a small message onto a stream whose send queue has been consumed: Nagle's rule must not
/// hold it back for an acknowledgement that the peer delays.
fn send_whole(sock: Sock, message: &[u8]) -> Result<(), i32> {
    let fd = sock.fd;
    let rule = os::sockopt_int(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY).is_ok_and(|on| on == 0);
    let nagle = rule && os::ioctl_int(fd, libc::TIOCOUTQ).unwrap_or(1) != 0;
    if rule {
        sock.set(flag::BEHIND_MESSAGE);
    }
    if nagle {
        let _ = os::set_sockopt_int(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
    }
    let mut rest = message;
    let result = loop {
        match os::send(fd, rest, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) {
            Ok(n) if n >= rest.len() => break Ok(()),
            Ok(n) => rest = rest.get(n..).unwrap_or(&[]),
            Err(libc::EINTR) => {}
            Err(libc::EAGAIN) if rest.len() < message.len() => {
                let _ = os::poll_one(fd, libc::POLLOUT, 100);
            }
            Err(e) => break Err(e),
        }
    };
    if nagle {
        let _ = os::set_sockopt_int(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 0);
    }
    result
}
