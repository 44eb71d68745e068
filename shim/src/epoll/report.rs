//! What a converted registration has to report: the program's rules over what ring and kernel say.
//!
//! Edges are told from state, not from events: an edge-triggered program hears of something when
//! bytes have arrived, room has come, or an end was seen since it heard last. So a change of the
//! carrier, which makes the kernel repeat itself, is no event.

use super::reg::{Reg, state};
use super::{afar, shown};
use crate::conn::ready::{self, GONE, IN, OUT};
use crate::conn::{Sock, flag, rx, tx};
use crate::os;
use std::sync::atomic::Ordering::*;

/// Folds words into one that differs when they do, but for chance.
fn mix<const N: usize>(words: [u64; N]) -> u64 {
    let mixed = words.iter().fold(0x9e37_79b9_7f4a_7c15, |sum: u64, word| {
        (sum ^ word)
            .wrapping_mul(0xff51_afd7_ed55_8ccd)
            .rotate_left(29)
    });
    // Zero is kept for "report whatever holds".
    mixed | 1
}

fn both(a: u32, b: u32) -> u64 {
    u64::from(a) << 32 | u64::from(b)
}

impl Reg {
    /// Events to report now. With `commit`, edges count as reported and one-shots disarm.
    pub fn report(&self, commit: bool) -> u32 {
        match self.state.load(Acquire) {
            state::OURS if self.disarmed.load(Acquire) == 0 => {}
            state::SHOWN => return shown::report(self, commit),
            _ => return 0,
        }
        let Some(sock) = self.sock() else {
            return afar::report(self, commit);
        };
        let quick = self.quick(sock, commit);
        quick.unwrap_or_else(|| self.report_anew(sock, commit))
    }

    /// The program's rules for edges (`mark`: all that there is to hear of) and one-shots. True: it is news, and with
    /// `commit` nobody else tells it.
    #[inline]
    pub fn tell(&self, events: u32, mark: u64, commit: bool) -> bool {
        if events & libc::EPOLLET as u32 != 0 {
            let last = self.reported.load(Acquire);
            let told = &self.reported;
            if mark == last || commit && told.compare_exchange(last, mark, AcqRel, Relaxed).is_err()
            {
                return false;
            }
        }
        let once = events & libc::EPOLLONESHOT as u32 != 0;
        !(commit && once && self.disarmed.swap(1, AcqRel) != 0)
    }

    fn report_anew(&self, sock: Sock, commit: bool) -> u32 {
        let carriers = carriers(sock);
        let moved = || self.carriers.swap(carriers, Relaxed) & !carriers != 0;
        let moved = self.carriers.load(Relaxed) != carriers && moved();
        let asked = || self.announced.seen().anything();
        if moved || ready::tcp_is_next(sock) && !asked() {
            // What has come over TCP behind the ring, which a relative may have emptied, is part of this
            // answer.
            self.announced.note(libc::EPOLLIN as u32);
        }
        ready::service(sock);
        let _ = self.install(sock);
        let events = self.asked();
        let edge = events & libc::EPOLLET as u32 != 0;
        if sock.has(flag::NOSPACE) && sock.tx_ring() && tx::has_room(&sock) {
            tx::space_came(sock);
        }
        let stamp = if edge { self.stamp(sock) } else { 0 };
        if edge && stamp == self.quiet.load(Relaxed) {
            return 0;
        }
        // The bits of poll and epoll agree in value.
        let asked = (events & 0x3fff) as i16;
        let heard = self.announced.seen().anything() || ready::ends_soon(sock);
        let (from_kernel, all) = self.look(sock, asked);
        let mask = ready::combine(sock, asked, from_kernel);
        // Where the kernel was not asked it has told of the room there is.
        if asked & OUT != 0 && (heard || sock.tx_ring()) {
            note_room(sock, mask & OUT != 0);
        }
        if mask == 0 {
            if all {
                self.quiet.store(stamp, Relaxed);
            }
            return 0;
        }
        let mark = if edge {
            self.mark(sock, from_kernel, mask)
        } else {
            0
        };
        if !self.tell(events, mark, commit) {
            if edge && mark == self.reported.load(Acquire) {
                self.quiet.store(stamp, Relaxed);
            }
            return 0;
        }
        mask as u16 as u32
    }

    /// What the kernel says, when it has announced something or an end is to be part of the answer; and
    /// whether that is all (see [`ready::ask_behind`]).
    fn look(&self, sock: Sock, asked: i16) -> (i16, bool) {
        let announced = self.announced.seen();
        if !announced.anything() && !ready::ends_soon(sock) {
            return (0, true);
        }
        let poll = || {
            let ask = ready::kernel_events(sock, asked) | libc::POLLRDHUP;
            let (seen, all) = ready::ask_behind(sock, ask | libc::POLLPRI);
            if seen & libc::POLLPRI != 0 {
                sock.set(flag::URGENT);
            }
            (seen & (ask | GONE | libc::POLLNVAL), all)
        };
        let (mut seen, mut all) = poll();
        if ready::note_gone(sock, seen) {
            // The sending direction goes back to TCP: now the kernel tells of its room.
            ready::service(sock);
            let _ = self.install(sock);
            (seen, all) = poll();
        }
        if seen == 0 && all {
            self.announced.over(announced);
        }
        self.gone.fetch_or((seen & GONE) as u32, AcqRel);
        (seen, all)
    }

    /// As [`Reg::mark`], for a registration that the kernel reports as yet, and so with the ends that it knows of.
    pub fn standing(&self, sock: Sock, from_kernel: i16, mask: i16) -> u64 {
        let seen = os::poll_one(sock.fd, libc::POLLRDHUP, 0).unwrap_or(0);
        self.gone.fetch_or((seen & GONE) as u32, AcqRel);
        self.mark(sock, from_kernel, mask)
    }

    /// All that an edge-triggered program is to hear of, as one word; `mask`: the events that it is told of. What has come
    /// since they were looked up is news.
    pub fn mark(&self, sock: Sock, from_kernel: i16, mask: i16) -> u64 {
        let asked = (self.asked() & 0x3fff) as i16;
        let mut arrived = 0;
        // The kernel wakes for both when anything comes.
        if asked & (IN | libc::POLLPRI) != 0 {
            // Of an end everybody is told, and so of all before it.
            let ended = sock.rx_ring() && ready::ending(sock);
            let told = |mask| mask & IN != 0 || asked & IN == 0 || ended;
            arrived = ready::come_over_tcp(sock, told(from_kernel));
            arrived = arrived.wrapping_add(rx::arrived(&sock, told(mask)));
            arrived = arrived.wrapping_add(u64::from(sock.rx.edges.load(Acquire)) << 48);
        }
        let room = if asked & OUT != 0 {
            sock.tx.edges.load(Acquire)
        } else {
            0
        };
        // A reset that the kernel has told of is no news when a call reports it.
        let mut ends = u64::from(self.gone.load(Acquire) | gone_by(sock));
        // Behind own shutdowns poll says the same before and after the acknowledgement of the FIN, the peer's end,
        // and the reset, of each of which the kernel tells.
        if sock.has(flag::SHUT_RD | flag::SHUT_WR) {
            ends |= STATE * u64::from(os::tcp_state(sock.fd));
        }
        let own = u64::from(sock.shutdowns.load(Acquire));
        mix([arrived, u64::from(room), ends << 32 | own])
    }

    /// As [`Reg::mark`], where the kernel cannot be asked how much has come: it has told so often of something.
    pub fn mark_afar(&self, sock: Sock, heard: u32, mask: i16) -> u64 {
        let room = sock.tx.edges.load(Acquire);
        let told = mask & IN != 0 || self.asked() as i16 & IN == 0;
        mix([rx::arrived(&sock, told), both(room, heard)])
    }

    /// Changes when [`Reg::mark`] may have changed, and costs no system call.
    fn stamp(&self, sock: Sock) -> u64 {
        let carriers = carriers(sock);
        let flags = sock.flags.load(Relaxed) & (flag::FIN_SEEN | flag::NOSPACE);
        let own = sock.shutdowns.load(Acquire);
        let state = u64::from(gone_by(sock) | flags | carriers << 16) << 32 | u64::from(own);
        mix([
            sock.rx.taken.load(Acquire) + rx::arrived(&sock, true),
            both(sock.rx.edges.load(Acquire), sock.tx.edges.load(Acquire)),
            u64::from(self.announced.seen().count()),
            self.armed.load(Acquire).rotate_left(24) ^ state,
        ])
    }
}

pub fn carriers(sock: Sock) -> u32 {
    u32::from(sock.rx_ring()) | u32::from(sock.tx_ring()) << 1
}

/// In [`Reg::mark`], beside the bits of poll: place of [`os::tcp_state`].
const STATE: u64 = 1 << 24;

/// What this side knows of the end of the connection without the kernel. A reset stays one when it has
/// been reported.
fn gone_by(sock: Sock) -> u32 {
    match sock.has(flag::RESET | flag::DEAD) {
        true => (libc::POLLHUP | libc::POLLRDHUP) as u32,
        false => 0,
    }
}

/// As the kernel does: whoever saw that there is no room is owed an edge when it comes.
fn note_room(sock: Sock, room: bool) {
    match room {
        true if sock.has(flag::NOSPACE) => tx::space_came(sock),
        true => {}
        false if sock.tx_ring() => tx::want_room(sock),
        false => {
            sock.set(flag::NOSPACE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoll::{reg, set};
    use crate::fds::{self, Meaning};

    /// While the sending direction is on TCP the kernel tells of its room. That it was not asked does not mean that there
    /// is none, for which an edge would be owed once the direction is on the ring.
    #[test]
    fn who_was_not_asked_has_not_denied_room() {
        let made = || -> Option<()> {
            let epfd = crate::calls::epoll::create1(libc::EPOLL_CLOEXEC);
            let set = set::live().find(|set| set.epfd() == epfd)?;
            let fd = crate::calls::life::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
            let Meaning::Conn(sock) = fds::meaning(fd) else {
                return None;
            };
            let event = libc::epoll_event {
                events: (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLET) as u32,
                u64: 1,
            };
            let table = set.table()?;
            let held = table.lists.lock();
            let reg = reg::add(set, sock, &event)?;
            table.lists.unlock(held);
            reg.state.store(state::OURS, Relaxed);
            reg.announced.over(reg.announced.seen());
            sock.rx.ring.store(1, Relaxed);
            assert_eq!(reg.report(false), 0);
            assert!(!sock.has(flag::NOSPACE));
            // Asked, it says what there is.
            reg.announced.note(libc::EPOLLOUT as u32);
            assert_ne!(reg.report(false) & libc::EPOLLOUT as u32, 0);
            sock.rx.ring.store(0, Relaxed);
            crate::calls::fd::close(fds::get(fd), fd);
            Some(())
        };
        assert_eq!(made(), Some(()));
    }
}
