//! Where a context sleeps on one connection again and again: a set of the kernel's with its doorbell and the TCP socket,
//! both edge-triggered. A sleep there is one system call, and a short one: ppoll enters both anew each time, and the
//! doorbell has to be silenced after it.
//!
//! ppoll is told what holds, a sleep here what has come since the last. So the connection is at rest on its ring whenever
//! it is slept on here, and whatever TCP tells of it puts it out: its next sleeps are ppoll's again.

use super::Ctx;
use crate::conn::Sock;
use crate::{errno, os, ownfd, real};
use protocol::shm::wait::CONTEXTS;
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::*};

/// Sleeps of a context in a row on one connection before it has a bed: it costs three system calls.
const NIGHTS: i32 = 8;
/// How many more when there was none to be had.
const LATER: i32 = 1000;
/// What TCP may tell of a connection that is at rest on its ring, and a receive of which sleeps.
pub const EVENTS: i16 = libc::POLLIN | libc::POLLRDNORM | libc::POLLPRI | libc::POLLRDHUP;
/// What the doorbell's events carry; those of a connection carry a number of their own.
const BELL: u64 = 0;

/// Written by whoever has the context.
struct Bed {
    /// The kernel's set, + 1, or 0.
    set: AtomicI32,
    /// The connection that slept here last, see [`name`], and how often in a row.
    last: AtomicU64,
    nights: AtomicI32,
    /// The one that is entered, or 0; by which descriptor, and what its events carry.
    guest: AtomicU64,
    fd: AtomicI32,
    tag: AtomicU64,
    /// The doorbell was rung, and not silenced since.
    rung: AtomicBool,
}

static BEDS: [Bed; CONTEXTS] = [const {
    Bed {
        set: AtomicI32::new(0),
        last: AtomicU64::new(0),
        nights: AtomicI32::new(0),
        guest: AtomicU64::new(0),
        fd: AtomicI32::new(0),
        tag: AtomicU64::new(0),
        rung: AtomicBool::new(false),
    }
}; CONTEXTS];

/// A connection, in one use of its place. Never 0: a generation in use is odd.
fn name(sock: Sock) -> u64 {
    u64::from(sock.generation.load(Relaxed)) << 32 | u64::from(sock.index())
}

impl Ctx {
    /// Whether the context has a bed for the connection, after enough sleeps on it.
    pub fn has_bed(self, sock: Sock) -> bool {
        let Some(bed) = BEDS.get(self.number as usize) else {
            return false;
        };
        let name = name(sock);
        if bed.guest.load(Relaxed) == name && bed.fd.load(Relaxed) == sock.fd {
            return true;
        }
        if bed.last.swap(name, Relaxed) != name {
            bed.nights.store(0, Relaxed);
            return false;
        }
        bed.nights.fetch_add(1, Relaxed) >= NIGHTS && bed.admit(self, sock, name).is_ok()
    }

    /// Sleeps there, until the doorbell is rung or TCP has something to tell: that. `has_bed` has said yes.
    pub fn sleep_in_bed(self) -> Result<i16, i32> {
        let bed = BEDS.get(self.number as usize).ok_or(libc::EINVAL)?;
        bed.sleep()
    }

    /// Before a sleep elsewhere: what was rung in bed is over.
    pub fn rise(self) {
        if let Some(bed) = BEDS.get(self.number as usize)
            && bed.rung.load(Relaxed)
        {
            bed.rung.store(false, Relaxed);
            self.drain();
        }
    }
}

impl Bed {
    fn admit(&self, ctx: Ctx, sock: Sock, name: u64) -> Result<(), i32> {
        self.put_out();
        let set = match self.set.load(Relaxed) {
            0 => self
                .make(ctx)
                .inspect_err(|_| self.nights.store(-LATER, Relaxed))?,
            set => set - 1,
        };
        let tag = self.tag.load(Relaxed) + 1;
        self.tag.store(tag, Relaxed);
        if let Err(e) = enter(set, sock.fd, EVENTS, tag) {
            self.give_up();
            return Err(e);
        }
        self.guest.store(name, Relaxed);
        self.fd.store(sock.fd, Relaxed);
        Ok(())
    }

    fn make(&self, ctx: Ctx) -> Result<c_int, i32> {
        let set = os::epoll_create().and_then(ownfd::raise)?;
        // A bed spares a system call, but who has no doorbell has to look again and again.
        if ownfd::scarce(set) {
            ownfd::close(set);
            return Err(libc::EMFILE);
        }
        self.set.store(set + 1, Release);
        let entered = enter(set, ctx.bell, libc::POLLIN, BELL);
        if entered.is_err() {
            self.give_up();
        }
        entered.map(|()| set)
    }

    fn sleep(&self) -> Result<i16, i32> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 2];
        let (set, at) = (self.set.load(Relaxed) - 1, events.as_mut_ptr());
        let n = errno::keep(|| {
            // SAFETY: room for two events. libc's, which is a point of cancellation as the program's own call is.
            let n = unsafe { real::epoll_wait(set, at, 2, -1) };
            usize::try_from(n).map_err(|_| errno::get())
        })?;
        let tag = self.tag.load(Relaxed);
        let (mut tcp, mut unknown) = (0, false);
        for event in events.iter().take(n) {
            let of = event.u64;
            if of == BELL {
                self.rung.store(true, Relaxed);
            } else if of == tag {
                tcp |= event.events as i16;
            } else {
                unknown = true;
            }
        }
        if unknown {
            // Of a socket that was closed under its number and lives on under another, or in another process.
            self.give_up();
        } else if tcp != 0 {
            self.put_out();
        }
        Ok(tcp)
    }

    /// The guest sleeps here no more, for now.
    fn put_out(&self) {
        self.nights.store(0, Relaxed);
        if self.guest.swap(0, Relaxed) != 0 {
            let mut none = libc::epoll_event { events: 0, u64: 0 };
            let (set, fd) = (self.set.load(Relaxed) - 1, self.fd.load(Relaxed));
            // The number may be another's by now; the kernel knows the socket as well.
            let _ = os::epoll_ctl(set, libc::EPOLL_CTL_DEL, fd, &mut none);
        }
    }

    fn give_up(&self) {
        self.nights.store(0, Relaxed);
        self.guest.store(0, Relaxed);
        let set = self.set.swap(0, AcqRel);
        if set != 0 {
            ownfd::close(set - 1);
        }
    }
}

pub fn enter(set: c_int, fd: c_int, events: i16, tag: u64) -> Result<(), i32> {
    let mut event = libc::epoll_event {
        events: events as u32 | libc::EPOLLET as u32,
        u64: tag,
    };
    os::epoll_ctl(set, libc::EPOLL_CTL_ADD, fd, &mut event)
}

pub(super) fn moved(from: c_int, to: c_int) {
    for bed in &BEDS {
        let _ = bed.set.compare_exchange(from + 1, to + 1, AcqRel, Relaxed);
    }
}

/// In the child of a fork: the set is the parent's, and stays as it is.
pub(super) fn forked(number: usize) {
    if let Some(bed) = BEDS.get(number) {
        bed.give_up();
        bed.rung.store(false, Relaxed);
    }
}
