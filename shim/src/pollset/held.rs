//! What a poll that sleeps holds: the connections of its list, also those whose numbers are closed meanwhile.

use super::careful;
use crate::conn::{Conn, Sock, kept, ready, rx};
use crate::family;
use libc::pollfd;
use std::ffi::c_void;
use std::sync::atomic::Ordering::*;

/// The connection of an entry that a poll has begun to wait for. All zeros: the entry is looked at by its number.
#[derive(Clone, Copy, Debug, Default)]
pub struct Held {
    /// Its index + 1, and its generation; perhaps [`CLOSED`].
    name: u64,
    /// How much had come, + 1, when a number of the list was found closed; 0: none was.
    come: u64,
    /// What had come of that of which the poll is told, whatever it has asked for: [`tells`].
    told: u64,
}

/// The number does not mean it any more, and the poll has found that out. As in the kernel, it waits for
/// neither from then on, and looks at what the number means whenever it wakes.
const CLOSED: u64 = 1 << 31;
/// Events of which there are none here, but for which the kernel wakes whenever bytes come.
const URGENT: i16 = libc::POLLPRI | libc::POLLRDBAND;

fn name(conn: &Conn) -> u64 {
    u64::from(conn.generation.load(Acquire)) << 32 | u64::from(conn.index() + 1)
}

impl Held {
    pub fn named(&self) -> Option<&'static Conn> {
        let index = ((self.name & !CLOSED) as u32).checked_sub(1)?;
        family::conn(index)
    }

    pub fn closed(&self) -> bool {
        self.name & CLOSED != 0
    }

    /// The number does not mean the connection any more.
    pub fn close(&mut self) {
        self.name |= CLOSED;
    }

    /// A number of the list was closed, or its new meaning was looked at.
    pub fn begin_anew(&mut self, one: &pollfd, sock: Sock) {
        let here = self.come == 0 && sock.fd != one.fd;
        self.come = match one.events & URGENT {
            0 => 1,
            _ => here
                .then(|| kept::come_by_then(sock.conn))
                .flatten()
                .unwrap_or_else(|| ready::come(sock).wrapping_add(1)),
        };
    }

    /// Notes what has come. True: there is more than it was told of.
    pub fn note(&mut self, one: &pollfd, sock: Sock) -> bool {
        let now = tells(one, sock);
        std::mem::replace(&mut self.told, now) != now
    }

    /// What the kernel wakes for, beyond what the program asks, so that it finds the closed number: each change of the
    /// connection's state, and what comes, for who waits for urgent data.
    pub fn wakes_for(&self, one: &pollfd, sock: Sock) -> i16 {
        if self.come == 0 {
            return 0;
        }
        let more = || ready::come(sock).wrapping_add(1) != self.come;
        let state = if ready::ending(sock) {
            0
        } else {
            libc::POLLRDHUP
        };
        let comes = one.events & URGENT != 0 && (!unread(sock) || more());
        state | if comes { ready::IN } else { 0 }
    }

    /// Whether more may come that wakes, and nobody says so.
    pub fn blind(&self, one: &pollfd, sock: Sock) -> bool {
        self.come != 0 && one.events & URGENT != 0 && unread(sock)
    }
}

/// What changes when the kernel would wake a poll of the connection, and the doorbell is rung or TCP's socket tells: the
/// end, an own shutdown, and what comes over the ring, for who waits for urgent data. Who waits for bytes hears of them anyway.
fn tells(one: &pollfd, sock: Sock) -> u64 {
    let urgent_alone = one.events & URGENT != 0 && one.events & ready::IN == 0;
    let come = if urgent_alone {
        rx::arrived(&sock, true)
    } else {
        0
    };
    let own = u64::from(sock.shutdowns.load(Acquire));
    come << 20 ^ own << 1 ^ u64::from(ready::ending(sock))
}

fn unread(sock: Sock) -> bool {
    rx::available(&sock) != 0 || ready::something_there(sock)
}

/// The connection of an entry, under whatever descriptor it has by now.
#[inline]
pub fn entry(one: &pollfd, held: Option<&Held>) -> Option<Sock> {
    match held.filter(|held| held.name != 0) {
        None => careful(one.fd),
        Some(held) => {
            let conn = held.named().filter(|conn| name(conn) == held.name)?;
            kept::again(Sock { fd: one.fd, conn })
        }
    }
}

/// A poll begins to sleep.
pub fn hold(list: &[pollfd], held: &mut [Held]) {
    for (one, held) in list.iter().zip(held) {
        if let Some(sock) = careful(one.fd) {
            kept::enter(sock.conn);
            match kept::names(one.fd, sock.conn) {
                true => {
                    held.name = name(sock.conn);
                    held.note(one, sock);
                }
                false => kept::leave(sock.conn),
            }
        }
    }
}

/// What a poll keeps.
pub struct Holding {
    pub at: *const Held,
    pub count: usize,
}

/// Ends a poll, see [`wait::undone`].
pub unsafe extern "C" fn let_go(holding: *mut c_void) {
    // SAFETY: `wait` has registered its own value, with the names of its caller.
    let held = unsafe {
        let holding = &*holding.cast::<Holding>();
        std::slice::from_raw_parts(holding.at, holding.count)
    };
    held.iter().filter_map(Held::named).for_each(kept::leave);
}
