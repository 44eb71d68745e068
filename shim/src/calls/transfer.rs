//! Careful receives and sends: steps that do not wait, and waits in between, with the kernel's
//! rules for blocking, timeouts, signals and partial counts.

use super::patience::Patience;
use crate::conn::rx::{self, Got, Sink};
use crate::conn::tx::{self, Put, Source};
use crate::conn::{Sock, claim, flag, kept, phase, ready, revert};
use crate::wait::Want;
use crate::{errno, os, signals};
use libc::{c_int, ssize_t};
use protocol::reason;
use std::sync::atomic::Ordering::{Acquire, Relaxed};

/// What a call gives that a signal has interrupted, and that the kernel begins anew on what its number means by now:
/// what that was before is let go of first.
pub const ANEW: i8 = -2;

/// Makes a call as often as it is begun anew; `entries`: what its numbers mean at first, `now`: by now.
#[inline]
pub fn to_the_end<E, R: PartialEq + From<i8>>(
    mut entries: E,
    now: impl Fn() -> E,
    call: impl Fn(E) -> R,
) -> R {
    loop {
        let result = call(entries);
        if result != R::from(ANEW) {
            return result;
        }
        entries = now();
    }
}

/// Beside the flags of a message call, where the kernel refuses it from a program (`MSG_CMSG_COMPAT`): earlier
/// messages of the same call have been moved, so a signal ends it, whatever the handler's flags.
pub const GOES_ON: c_int = c_int::MIN;

/// A receive into `sink_at(bytes done)`; `len` bytes at most, `target` bytes at least. `looked`: the short way
/// ([`crate::conn::quick`]) was tried just before.
pub fn receive(
    sock: Sock,
    len: usize,
    flags: c_int,
    looked: bool,
    sink_at: impl Fn(usize) -> Sink<'static>,
) -> ssize_t {
    claim::attend(sock);
    if len == 0 {
        return receive_nothing(sock, flags);
    }
    let target = if flags & libc::MSG_WAITALL != 0 {
        len
    } else {
        1
    };
    let mut patience = Patience::new(sock, flags, libc::SO_RCVTIMEO);
    let flags = flags & !GOES_ON;
    // A splice looks for a signal first.
    patience.takes_first = !matches!(sink_at(0), Sink::Descriptor(..));
    let mut done = 0usize;
    let mut wants = Wants {
        len,
        target,
        flags,
        looked,
    };
    let nonblock = patience.nonblock;
    receive_steps(&mut patience, &mut wants, &mut done, nonblock, &sink_at).unwrap_or_else(|| {
        kept::during(sock.conn, || {
            patience
                .more(patience.first(), done)
                .or_else(|| receive_steps(&mut patience, &mut wants, &mut done, true, &sink_at))
                .unwrap_or(-1)
        })
    })
}

/// What a receive asks for.
struct Wants {
    len: usize,
    target: usize,
    flags: c_int,
    /// The first step is not to try the short way.
    looked: bool,
}

/// Receives until the call is over. `None`: it would have to wait, and `to_the_end` is not set.
#[inline]
fn receive_steps(
    patience: &mut Patience,
    wants: &mut Wants,
    done: &mut usize,
    to_the_end: bool,
    sink_at: &impl Fn(usize) -> Sink<'static>,
) -> Option<ssize_t> {
    let peek = wants.flags & libc::MSG_PEEK != 0;
    loop {
        let sock = patience.sock;
        // The kernel's next receive would go beyond it.
        if *done > 0 && rx::at_mark(sock) {
            return Some(*done as ssize_t);
        }
        let sink = sink_at(*done);
        let got = match std::mem::take(&mut wants.looked) {
            true => rx::any_way(sock, sink, wants.flags),
            false => rx::once(sock, sink, wants.flags),
        };
        match got {
            Got::Bytes(0) => return Some(*done as ssize_t),
            Got::Bytes(n) if peek => {
                let n = match wants.len - n {
                    0 => n,
                    _ => n + rx::peek_beyond(sock, n, sink_at(n), wants.flags),
                };
                if n >= wants.target || patience.nonblock || patience.over.is_some() {
                    return Some(n as ssize_t);
                }
                if !to_the_end {
                    return None;
                }
                patience.await_more_than(n);
            }
            Got::Bytes(n) => {
                *done += n;
                if *done >= wants.len || *done >= wants.target && !rx::crosses_over(sock) {
                    return Some(*done as ssize_t);
                }
            }
            Got::Empty if *done >= wants.target => return Some(*done as ssize_t),
            Got::Empty if !to_the_end => return None,
            Got::Empty => {
                let want = match (*done, sink) {
                    (0, Sink::Buffers(..) | Sink::Nothing) => patience.first(),
                    _ => Want::Urgent,
                };
                if let Some(result) = patience.more(want, *done) {
                    return Some(result);
                }
            }
            Got::Error(e) if *done > 0 => {
                sock.owe(e);
                return Some(*done as ssize_t);
            }
            Got::Error(e) => return Some(errno::fail(e)),
        }
    }
}

/// How often a receive of no bytes looks whether it was woken where nobody rings for it.
const NAP_NS: u64 = 1_000_000;

/// A receive of no bytes waits as any other, takes nothing, and gives 0 whatever ends the wait: the
/// kernel looks at what woke it only if there are bytes to be had. Urgent data that comes does, each
/// shutdown of the own end, and what makes room for its sends.
fn receive_nothing(sock: Sock, flags: c_int) -> ssize_t {
    let flags = flags & !(libc::MSG_WAITALL | GOES_ON) | libc::MSG_PEEK;
    // What was owed before is nothing that wakes.
    let _ = tx::owes_space(sock);
    let woken = || (sock.shutdowns.load(Acquire), sock.tx.edges.load(Acquire));
    let (before, mut waited) = (woken(), false);
    let mut patience = Patience::new(sock, flags, libc::SO_RCVTIMEO);
    let mut look = || loop {
        match rx::once(patience.sock, Sink::Nothing, flags) {
            Got::Bytes(_) => return 0,
            Got::Error(e) if waited => {
                patience.sock.owe(e);
                return 0;
            }
            Got::Error(e) => return errno::fail(e),
            Got::Empty if patience.nonblock => return errno::fail(libc::EAGAIN),
            Got::Empty => ready::service(patience.sock),
        }
        if !std::mem::replace(&mut waited, true) {
            let pending = os::poll_one(sock.fd, libc::POLLPRI, 0).unwrap_or(0);
            patience.urgent = pending & libc::POLLPRI != 0;
        }
        // Another process that wakes it so has no doorbell of this one's; nor does who takes the room that comes.
        let unheard = sock.holders.load(Acquire) > 1 || tx::owes_space(patience.sock);
        patience.nap = unheard.then_some(NAP_NS);
        let known = patience.urgent;
        if woken() != before
            || patience.wait(patience.first(), 1).is_err()
            || woken() != before
            || patience.urgent != known
        {
            return 0;
        }
        if patience.is_the_kernels() {
            // Another process may have it by now, whose shutdown wakes nobody here but in the kernel.
            return ANEW.into();
        }
    };
    kept::during(sock.conn, &mut look)
}

/// A send of `len` bytes from `source_at(bytes done)`.
pub fn send(
    sock: Sock,
    len: usize,
    flags: c_int,
    source_at: impl Fn(usize) -> Source<'static>,
) -> ssize_t {
    claim::attend(sock);
    let mut patience = Patience::new(sock, flags, libc::SO_SNDTIMEO);
    let flags = flags & !GOES_ON;
    let mut done = 0usize;
    let nonblock = patience.nonblock;
    send_steps(&mut patience, len, flags, &mut done, nonblock, &source_at).unwrap_or_else(|| {
        kept::during(sock.conn, || {
            patience
                .more(Want::Out, done)
                .or_else(|| send_steps(&mut patience, len, flags, &mut done, true, &source_at))
                .unwrap_or(-1)
        })
    })
}

/// Sends until the call is over. `None`: it would have to wait, and `to_the_end` is not set.
#[inline]
fn send_steps(
    patience: &mut Patience,
    len: usize,
    flags: c_int,
    done: &mut usize,
    to_the_end: bool,
    source_at: &impl Fn(usize) -> Source<'static>,
) -> Option<ssize_t> {
    let tcp_flags = flags & !libc::MSG_DONTWAIT;
    loop {
        let sock = patience.sock;
        match tx::once(sock, source_at(*done), tcp_flags) {
            Put::Bytes(n) => {
                *done += n;
                if sock.phase() == phase::PLAIN {
                    claim::consider(sock);
                }
                if *done >= len || n == 0 {
                    return Some(*done as ssize_t);
                }
                claim::attend(sock);
            }
            Put::Full if !to_the_end => return None,
            Put::Full => {
                if let Some(result) = patience.more(Want::Out, *done) {
                    return Some(result);
                }
            }
            Put::Broken if *done > 0 => return Some(*done as ssize_t),
            Put::Broken => return Some(errno::fail(libc::EPIPE)),
            Put::Error(e) if *done > 0 => {
                sock.owe(e);
                return Some(*done as ssize_t);
            }
            Put::Error(e) => {
                if e == libc::EPIPE && flags & libc::MSG_NOSIGNAL == 0 {
                    signals::broken_pipe();
                }
                return Some(errno::fail(e));
            }
        }
    }
}

/// Urgent data and zero-copy are TCP's: the connection goes back before the send.
pub fn kernel_only(sock: Sock, flags: c_int) -> bool {
    if sock.owed.load(Relaxed) != 0 {
        // The error comes first.
        return false;
    }
    if flags & (libc::MSG_OOB | libc::MSG_ZEROCOPY | libc::MSG_FASTOPEN) != 0 {
        revert::leave(
            sock,
            if flags & libc::MSG_OOB != 0 {
                reason::OOB
            } else {
                reason::SOCKOPT
            },
        );
        // It may have found a reset, of which the kernel does not know.
        return !sock.has(flag::DEAD | flag::RESET);
    }
    false
}
