//! Careful receives and sends: steps that do not wait, and waits in between, with the kernel's
//! rules for blocking, timeouts, signals and partial counts.

use crate::conn::rx::{self, Got, Sink};
use crate::conn::tx::{self, Put, Source};
use crate::conn::{Sock, claim, flag, kept, phase, ready, revert};
use crate::fds::{self, Meaning};
use crate::wait::{self, Wake, Want};
use crate::{clock, errno, os, sandbox, signals};
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

/// How a call may wait.
struct Patience {
    sock: Sock,
    /// The number that the program has named.
    fd: c_int,
    nonblock: bool,
    option: c_int,
    goes_on: bool,
    /// Looked up when the call first has to wait: deadline, if there is one.
    deadline: Option<Option<u64>>,
    /// Urgent data is there. The kernel wakes a receive when it comes (whatever SO_RCVLOWAT has been
    /// set to meanwhile), not again while it stays.
    urgent: bool,
    /// Longest sleep before a look at what nobody rings for.
    nap: Option<u64>,
    /// Whatever ends a wait, what SO_RCVLOWAT has kept from ending it is taken first.
    takes_first: bool,
    /// What ended the wait, while that is taken.
    over: Option<Stop>,
}

/// Why a call stops waiting.
enum Stop {
    WouldBlock,
    Interrupted,
    /// The descriptor is another one's now.
    Closed,
    /// See [`ANEW`].
    Anew,
}

impl Patience {
    fn new(sock: Sock, flags: c_int, option: c_int) -> Self {
        let at_once = at_once(option);
        let nonblock = flags & libc::MSG_DONTWAIT != 0 || sock.has(at_once) || nonblocking(sock);
        Patience {
            sock,
            fd: sock.fd,
            nonblock,
            option,
            goes_on: flags & GOES_ON != 0,
            deadline: None,
            urgent: false,
            nap: None,
            takes_first: false,
            over: None,
        }
    }

    /// What a receive waits for that has moved nothing yet.
    fn first(&self) -> Want {
        if self.urgent { Want::In } else { Want::Urgent }
    }

    /// `done`: bytes that the call has moved already. A call that has moved some is not restarted
    /// after a signal, whatever the handler's flags.
    fn wait(&mut self, want: Want, done: usize) -> Result<(), Stop> {
        if self.nonblock {
            return Err(Stop::WouldBlock);
        }
        let (sock, option) = (self.sock, self.option);
        signals::forget();
        if wait::spin::spin_for(sock, want) {
            self.sock = kept::again(sock).ok_or(Stop::Closed)?;
            return Ok(());
        }
        if signals::noted() {
            kept::interrupted(sock.conn, want);
            signals::end_wait();
            return Err(Stop::Interrupted);
        }
        // A system call: not before it is known that the call sleeps.
        let deadline = *self
            .deadline
            .get_or_insert_with(|| time_limit(sock, option).map(clock::after));
        let nap = self.nap.map(clock::after);
        let until = nap.map_or(deadline, |nap| {
            Some(deadline.map_or(nap, |end| end.min(nap)))
        });
        let edges = || [&sock.rx.edges, &sock.tx.edges, &sock.shutdowns].map(|n| n.load(Acquire));
        let before = edges();
        let mut wake = wait::sleep(sock, want, until);
        // Rung for nothing that the kernel would wake for, as it does when an option changes, or an own shutdown.
        while wake == Wake::Ready
            && want != Want::Out
            && edges() == before
            && !sandbox::gives_to_kernel(sock)
            && below_lowat(sock)
        {
            wake = wait::sleep(sock, want, until);
        }
        if wake == Wake::Interrupted {
            kept::interrupted(sock.conn, want);
        }
        match wake {
            Wake::TimedOut if until != deadline => {}
            Wake::TimedOut => return Err(Stop::WouldBlock),
            Wake::Interrupted
                if done > 0 || self.goes_on || deadline.is_some() || signals::interrupts() =>
            {
                signals::end_wait();
                return Err(Stop::Interrupted);
            }
            Wake::Interrupted => return self.begin_anew(),
            Wake::Urgent => self.urgent = true,
            Wake::Ready => {}
        }
        if done == 0 && sandbox::gives_to_kernel(sock) && deadline.is_none() && self.named() {
            return Err(Stop::Anew);
        }
        self.sock = kept::again(sock).ok_or(Stop::Closed)?;
        Ok(())
    }

    /// Whether the number means the connection still.
    fn named(&self) -> bool {
        matches!(fds::decode(fds::get(self.fd), self.fd), Meaning::Conn(now) if std::ptr::eq(now.conn, self.sock.conn))
    }

    /// A signal has interrupted the call, and the kernel begins it anew, with what holds by now.
    fn begin_anew(&mut self) -> Result<(), Stop> {
        self.sock = match fds::decode(fds::get(self.fd), self.fd) {
            Meaning::Conn(now) if std::ptr::eq(now.conn, self.sock.conn) => now,
            // By which a call for many messages goes on.
            Meaning::Ours => kept::again(self.sock).ok_or(Stop::Closed)?,
            _ => return Err(Stop::Anew),
        };
        self.nonblock |= nonblocking(self.sock) || self.sock.has(at_once(self.option));
        Ok(())
    }

    /// Waits until more than the `n` bytes that were peeked at may be there. What ends the call is noted: it looks once more.
    fn await_more_than(&mut self, n: usize) {
        let sock = self.sock;
        let begun = clock::now();
        let deadline = *self.deadline.get_or_insert_with(|| {
            os::timeout(sock.fd, self.option).map(|ns| begun.saturating_add(ns))
        });
        let news = match self.urgent {
            true => libc::POLLRDHUP,
            false => libc::POLLRDHUP | libc::POLLPRI,
        };
        // Readiness does not tell how much: in small steps.
        let seen = os::poll_one(sock.fd, news, 1);
        let Some(now) = kept::again(sock) else {
            self.over = Some(Stop::Closed);
            return;
        };
        self.sock = now;
        let seen = seen.map(|seen| if now.fd == sock.fd { seen } else { 0 });
        self.urgent |= seen.is_ok_and(|seen| seen & libc::POLLPRI != 0);
        self.over = match seen {
            Err(_) => {
                signals::end_wait();
                Some(Stop::Interrupted)
            }
            Ok(seen) if seen & !libc::POLLPRI != 0 => Some(Stop::WouldBlock),
            Ok(_) if self.urgent && rx::up_to_mark(now) == n => Some(Stop::WouldBlock),
            Ok(_) => deadline
                .is_some_and(|end| clock::now() >= end)
                .then_some(Stop::WouldBlock),
        };
    }

    /// Waits for the next step of a call that has moved `done` bytes. Gives the call's result when it
    /// is over instead.
    fn more(&mut self, want: Want, done: usize) -> Option<ssize_t> {
        let over = self.over.take();
        let stop = if let Some(stop) = over {
            stop
        } else {
            if want != Want::Out {
                ready::service(self.sock);
            }
            let stop = self.wait(want, done).err()?;
            if self.takes_first
                && !self.nonblock
                && !matches!(stop, Stop::Closed | Stop::Anew)
                && let Some(sock) = kept::again(self.sock)
                && kept_back(sock)
            {
                (self.sock, self.over) = (sock, Some(stop));
                return None;
            }
            stop
        };
        Some(match (done, stop.errno()) {
            (0, Some(e)) => errno::fail(e),
            (0, None) => ssize_t::from(ANEW),
            (n, _) => n as ssize_t,
        })
    }
}

/// What says that the time limit of an option is below 0.
fn at_once(option: c_int) -> u32 {
    match option {
        libc::SO_RCVTIMEO => flag::RCV_AT_ONCE,
        _ => flag::SND_AT_ONCE,
    }
}

/// The option's time limit. A system call, unless it is known that there is none.
fn time_limit(sock: Sock, option: c_int) -> Option<u64> {
    let none = match option {
        libc::SO_RCVTIMEO => flag::RCV_FOR_EVER,
        _ => flag::SND_FOR_EVER,
    };
    // Whoever else has it may set one unseen.
    let seen =
        sock.phase() == phase::PAIRED && !sock.has(flag::RECEIVED | flag::PASSED | flag::GIVEN);
    if seen && sock.has(none) {
        return None;
    }
    // Before it is asked for: another thread that sets one meanwhile takes the flag off after that.
    if seen {
        sock.set(none);
    }
    let limit = os::timeout(sock.fd, option);
    if limit.is_some() {
        sock.clear(none);
    }
    limit
}

/// Whether calls on it do not wait. Who has passed it to us may say otherwise until it has closed its own.
fn nonblocking(sock: Sock) -> bool {
    if sock.has(flag::RECEIVED | flag::PASSED)
        && sock.phase() != phase::PAIRED
        && let Ok(status) = os::fcntl(sock.fd, libc::F_GETFL, 0)
    {
        sock.put(flag::NONBLOCK, status as c_int & libc::O_NONBLOCK != 0);
    }
    sock.has(flag::NONBLOCK)
}

/// Whether there may be bytes that did not end a wait. If not, all that is there is of the signal's handler.
fn kept_back(sock: Sock) -> bool {
    os::sockopt_int(sock.fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT).is_ok_and(|least| least > 1)
}

/// Whether the connection is on TCP because of SO_RCVLOWAT, perhaps since this call sleeps, and there is less.
fn below_lowat(sock: Sock) -> bool {
    let barred = sock.has(flag::LEAVE) || sock.phase() == phase::BARRED;
    barred
        && !sock.on_ring()
        && !sock.has(flag::RESET | flag::DEAD)
        && kept::means(sock)
        && rx::available(&sock) == 0
        && kept_back(sock)
        && os::poll_one(sock.fd, ready::IN | libc::POLLRDHUP | libc::POLLPRI, 0) == Ok(0)
}

impl Stop {
    fn errno(self) -> Option<i32> {
        match self {
            Stop::WouldBlock => Some(libc::EAGAIN),
            Stop::Interrupted => Some(libc::EINTR),
            Stop::Closed => Some(libc::EBADF),
            Stop::Anew => None,
        }
    }
}

/// A receive into `sink_at(bytes done)`; `len` bytes at most, `target` bytes at least.
pub fn receive(
    sock: Sock,
    len: usize,
    flags: c_int,
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
    let wants = Wants { len, target, flags };
    let nonblock = patience.nonblock;
    receive_steps(&mut patience, &wants, &mut done, nonblock, &sink_at).unwrap_or_else(|| {
        kept::during(sock.conn, || {
            patience
                .more(patience.first(), done)
                .or_else(|| receive_steps(&mut patience, &wants, &mut done, true, &sink_at))
                .unwrap_or(-1)
        })
    })
}

/// What a receive asks for.
struct Wants {
    len: usize,
    target: usize,
    flags: c_int,
}

/// Receives until the call is over. `None`: it would have to wait, and `to_the_end` is not set.
#[inline]
fn receive_steps(
    patience: &mut Patience,
    wants: &Wants,
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
        match rx::once(sock, sink, wants.flags) {
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
