//! Registrations of short connections ([`crate::short`]): the kernel's, as the program made them. What has to be known
//! should the connection be entered in full is noted beside the descriptor: the first registration; where there is a
//! second, the connection is not short any more.

use super::reg;
use super::set::{self, Set};
use super::share::let_go;
use super::table;
use crate::conn::Sock;
use crate::fds::{self, Meaning};
use crate::short::Short;
use crate::{errno, os};
use libc::epoll_event;
use protocol::reason;
use protocol::short::{FDS, REGISTERED, Word};
use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// A registration, as far as the word says that there is one. Changed under the lock of the tables' lists.
struct Note {
    data: AtomicU64,
    events: AtomicU32,
    /// Name and place of the set.
    set_id: AtomicU32,
    set: AtomicU32,
}

static NOTES: [Note; FDS] = [const {
    Note {
        data: AtomicU64::new(0),
        events: AtomicU32::new(0),
        set_id: AtomicU32::new(0),
        set: AtomicU32::new(0),
    }
}; FDS];

impl Note {
    /// The set, if the program has not closed it.
    fn set(&self) -> Option<&'static Set> {
        let set = set::get(self.set.load(Relaxed))?;
        (set.is_open() && set.id() == self.set_id.load(Relaxed)).then_some(set)
    }

    fn event(&self) -> epoll_event {
        epoll_event {
            events: self.events.load(Relaxed),
            u64: self.data.load(Relaxed),
        }
    }

    fn put(&self, set: &Set, event: &epoll_event) {
        self.data.store(event.u64, Relaxed);
        self.events.store(event.events, Relaxed);
        self.set_id.store(set.id(), Relaxed);
        self.set.store(set.index(), Relaxed);
    }
}

fn note(fd: c_int) -> Option<&'static Note> {
    NOTES.get(fd as usize)
}

/// epoll_ctl for a short connection in one of our sets. `None`: it has to be entered in full for that.
pub fn ctl(set: &'static Set, op: c_int, short: Short, event: *mut epoll_event) -> Option<c_int> {
    let event = match op {
        libc::EPOLL_CTL_DEL => epoll_event { events: 0, u64: 0 },
        libc::EPOLL_CTL_ADD | libc::EPOLL_CTL_MOD if !event.is_null() => {
            // SAFETY: the program promises an event, as it would to the kernel.
            unsafe { event.read_unaligned() }
        }
        _ => return None,
    };
    if !set.converts(event.events) || set.spread() {
        return None;
    }
    let table = set.table()?;
    let held = table.lists.lock();
    let result = locked(set, op, short, &event);
    table.lists.unlock(held);
    match result? {
        Ok(()) => {
            if short.still().is_none()
                && let Meaning::Conn(sock) = fds::meaning(short.fd)
                && sock.careful()
            {
                // It may have come onto a ring while nobody knew of the set.
                errno::keep(|| let_go(sock));
            }
            Some(0)
        }
        Err(e) => Some(errno::fail(e)),
    }
}

/// The caller holds the lists.
fn locked(
    set: &'static Set,
    op: c_int,
    short: Short,
    event: &epoll_event,
) -> Option<Result<(), i32>> {
    let note = note(short.fd)?;
    let known = short.still()?.has(REGISTERED).then(|| note.set()).flatten();
    let here = known.is_some_and(|known| std::ptr::eq(known, set));
    let adds = op == libc::EPOLL_CTL_ADD;
    if adds && known.is_some() || !adds && !here {
        return None;
    }
    set.note_own(event.events);
    if let Err(e) = os::epoll_ctl(set.epfd(), op, short.fd, &mut { *event }) {
        return Some(Err(e));
    }
    let deleted = op == libc::EPOLL_CTL_DEL;
    if !deleted {
        note.put(set, event);
    }
    let still = match here && !deleted {
        true => short.still().is_some(),
        false => short.put(REGISTERED, !deleted),
    };
    if still {
        return Some(Ok(()));
    }
    // Another thread, or a signal handler, has entered it in full meanwhile.
    if let Meaning::Conn(sock) = fds::meaning(short.fd) {
        follow(set, sock, event, deleted);
    }
    Some(Ok(()))
}

/// What [`locked`] has done is done once more for the full connection.
fn follow(set: &'static Set, sock: Sock, event: &epoll_event, deleted: bool) {
    let Some(table) = set.table() else { return };
    match reg::find(set, sock) {
        Some(reg) if deleted => reg::remove(table, sock.conn, reg),
        Some(reg) => reg.arm(event),
        None if deleted => {}
        None => add(set, sock, event),
    }
}

fn add(set: &'static Set, sock: Sock, event: &epoll_event) {
    if reg::add(set, sock, event).is_none() {
        sock.bar(reason::EPOLL);
    }
}

/// A short connection with that word is about to be entered in full, by `publish`. False: the word has changed.
pub fn enter(sock: Sock, word: Word, publish: impl FnOnce() -> bool) -> bool {
    // Whatever set it is in then: one that it was in before may be closed.
    let own = || Some(table::view(table::own()?)?.table);
    let Some(table) = word.has(REGISTERED).then(own).flatten() else {
        return publish();
    };
    let held = table.lists.lock();
    let done = publish();
    if done
        && let Some(note) = note(sock.fd)
        && let Some(set) = note.set()
    {
        add(set, sock, &note.event());
    }
    table.lists.unlock(held);
    done
}
