//! How a receive or send waits: time limits, signals, numbers that come to mean something else meanwhile.

use super::transfer::{ANEW, GOES_ON};
use crate::conn::{Sock, flag, kept, phase, ready, revert, rx};
use crate::fds::{self, Meaning};
use crate::wait::{self, Wake, Want};
use crate::{clock, errno, lgr, os, sandbox, signals};
use libc::{c_int, ssize_t};
use protocol::reason;
use std::sync::atomic::{AtomicU32, Ordering::Acquire, Ordering::Relaxed};

/// Looks of a millisecond, each a hundredth of a core, before it is better to sleep in the kernel.
const BLIND_MOST: u32 = 100;

/// How a call may wait.
pub(super) struct Patience {
    pub(super) sock: Sock,
    /// The number that the program has named.
    fd: c_int,
    pub(super) nonblock: bool,
    option: c_int,
    goes_on: bool,
    /// The call has begun to wait: a handler that runs from then on has interrupted it, in a sleep or between two.
    waits: bool,
    /// Looked up when the call first has to wait: deadline, if there is one.
    deadline: Option<Option<u64>>,
    /// Urgent data is there. The kernel wakes a receive when it comes (whatever SO_RCVLOWAT has been
    /// set to meanwhile), not again while it stays.
    pub(super) urgent: bool,
    /// Sleeps in which nobody could have rung.
    blind: u32,
    /// Longest sleep before a look at what nobody rings for.
    pub(super) nap: Option<u64>,
    /// Whatever ends a wait, what SO_RCVLOWAT has kept from ending it is taken first.
    pub(super) takes_first: bool,
    /// What ended the wait, while that is taken.
    pub(super) over: Option<Stop>,
}

/// Why a call stops waiting.
pub(super) enum Stop {
    WouldBlock,
    Interrupted,
    /// The descriptor is another one's now.
    Closed,
    /// See [`ANEW`].
    Anew,
    /// Urgent data is all that is there: a splice, which does not pass it, has moved nothing.
    Urgent,
}

impl Patience {
    pub(super) fn new(sock: Sock, flags: c_int, option: c_int) -> Self {
        let at_once = at_once(option);
        let nonblock = flags & libc::MSG_DONTWAIT != 0 || sock.has(at_once) || nonblocking(sock);
        Patience {
            sock,
            fd: sock.fd,
            nonblock,
            option,
            goes_on: flags & GOES_ON != 0,
            waits: false,
            deadline: None,
            urgent: false,
            blind: 0,
            nap: None,
            takes_first: false,
            over: None,
        }
    }

    /// What a receive waits for that has moved nothing yet.
    pub(super) fn first(&self) -> Want {
        if self.urgent { Want::In } else { Want::Urgent }
    }

    /// `done`: bytes that the call has moved already. A call that has moved some is not restarted
    /// after a signal, whatever the handler's flags.
    pub(super) fn wait(&mut self, want: Want, done: usize) -> Result<(), Stop> {
        if self.nonblock {
            return Err(Stop::WouldBlock);
        }
        // Bytes before it have been looked for since.
        if self.urgent && !self.takes_first {
            return Err(Stop::Urgent);
        }
        let (sock, option) = (self.sock, self.option);
        if !std::mem::replace(&mut self.waits, true) {
            signals::forget();
        }
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
        let edges = || {
            let of = |count: &AtomicU32| count.load(Acquire);
            (of(&sock.rx.edges), of(&sock.tx.edges), of(&sock.shutdowns))
        };
        let before = edges();
        let mut wake = wait::sleep(sock, want, until);
        if wake == Wake::Blind {
            wake = Wake::Ready;
            self.look_no_more(want);
        }
        // Rung for nothing that the kernel would wake for, as it does when an option changes, or an own shutdown.
        while wake == Wake::Ready
            && want != Want::Out
            && edges() == before
            && !sandbox::gives_to_kernel(sock)
            && below_lowat(sock)
        {
            wake = wait::sleep(sock, want, until);
        }
        // A send and a splice look for a signal first, and then for what has woken them.
        if wake == Wake::Ready && !self.takes_first && signals::noted() {
            wake = Wake::Interrupted;
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
            Wake::Ready | Wake::Blind => {}
        }
        if done == 0 && sandbox::gives_to_kernel(sock) && deadline.is_none() && self.named() {
            return Err(Stop::Anew);
        }
        self.sock = kept::again(sock).ok_or(Stop::Closed)?;
        Ok(())
    }

    /// A receive for which there is no doorbell has slept in vain: after so many times its connection is TCP's, which wakes it.
    /// A send that finds no room goes there by itself. Not while the peer may sleep on in front of what was sent: that comes first.
    fn look_no_more(&mut self, want: Want) {
        self.blind = self.blind.saturating_add(1);
        if (BLIND_MOST..u32::MAX).contains(&self.blind)
            && want != Want::Out
            && lgr::wake_again().is_none()
            && let Some(sock) = kept::again(self.sock)
        {
            self.blind = u32::MAX;
            revert::leave(sock, reason::NO_ROOM);
        }
    }

    /// Whether the call, which has moved nothing, can be begun anew as the kernel's own: the connection is TCP's for good, and
    /// it would wait as this one does.
    pub(super) fn is_the_kernels(&self) -> bool {
        let settled = self.sock.phase() == phase::BARRED && self.sock.owed.load(Relaxed) == 0;
        settled
            && !self.urgent
            && self.deadline == Some(None)
            && self.named()
            && os::fcntl(self.fd, libc::F_GETFL, 0)
                .is_ok_and(|status| status as c_int & libc::O_NONBLOCK == 0)
            && os::timeout(self.fd, self.option).is_none()
            && !self.sock.has(at_once(self.option))
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
    pub(super) fn await_more_than(&mut self, n: usize) {
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
    pub(super) fn more(&mut self, want: Want, done: usize) -> Option<ssize_t> {
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
        Some(match done {
            0 => stop.result(),
            n => n as ssize_t,
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
    /// What a call gives that has moved nothing.
    fn result(self) -> ssize_t {
        match self {
            Stop::WouldBlock => errno::fail(libc::EAGAIN),
            Stop::Interrupted => errno::fail(libc::EINTR),
            Stop::Closed => errno::fail(libc::EBADF),
            Stop::Urgent => 0,
            Stop::Anew => ssize_t::from(ANEW),
        }
    }
}
