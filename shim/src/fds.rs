//! What a descriptor number is to us: nothing (0), a connection, a short one ([`crate::short`]), an epoll set, or
//! our own.
//!
//! Private to the process; a fork copies it, as the kernel copies the descriptors.

use crate::conn::{Conn, Sock};
use crate::{family, short};
use std::ffi::c_int;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::*};

pub type Entry = u32;

/// Descriptors beyond this number are never ours.
pub const MAX: usize = 1 << 20;

static TABLE: [AtomicU32; MAX] = [const { AtomicU32::new(0) }; MAX];
/// Descriptors of this process that refer to connection N.
static REFS: [AtomicU8; protocol::stats::ROWS] =
    [const { AtomicU8::new(0) }; protocol::stats::ROWS];
/// One more than the highest number ever entered for the program; and with the library's own, which lie far
/// above: who looks at all of the program's does not walk over the pages between.
static HIGH: AtomicU32 = AtomicU32::new(0);
static HIGHEST: AtomicU32 = AtomicU32::new(0);

const KIND: u32 = 3 << 30;
const CONN: u32 = 1 << 30;
const SET: u32 = 2 << 30;
const OURS: u32 = 3 << 30;
/// A connection of which a word tells; its age is above.
const SHORT: u32 = OURS | 1;

/// What an entry means.
#[derive(Clone, Copy, Debug)]
pub enum Meaning {
    None,
    /// A connection; `Sock::conn` is checked against its generation.
    Conn(Sock),
    /// Index of an epoll set.
    Set(u32),
    /// One of the library's own descriptors: the program must not find it.
    Ours,
}

#[inline(always)]
pub fn get(fd: c_int) -> Entry {
    match TABLE.get(fd as usize) {
        Some(entry) => entry.load(Relaxed),
        None => 0,
    }
}

pub fn high() -> c_int {
    HIGH.load(Relaxed) as c_int
}

/// As [`high`], with the library's own descriptors.
pub fn highest() -> c_int {
    HIGHEST.load(Relaxed) as c_int
}

fn raise(high: &AtomicU32, fd: c_int) {
    if high.load(Relaxed) <= fd as u32 {
        high.fetch_max(fd as u32 + 1, Relaxed);
    }
}

fn put(fd: c_int, entry: Entry) -> bool {
    match TABLE.get(fd as usize) {
        Some(slot) => {
            slot.store(entry, Release);
            raise(&HIGHEST, fd);
            if entry != OURS {
                raise(&HIGH, fd);
            }
            true
        }
        None => false,
    }
}

/// Index in 16 bits, generation in 14.
pub fn conn_entry(conn: &Conn) -> Entry {
    CONN | (conn.generation.load(Relaxed) >> 1 & 0x3fff) << 16 | conn.index()
}

/// Whether it is a descriptor of the library's own.
#[inline]
pub fn is_ours(entry: Entry) -> bool {
    entry == OURS
}

fn short_entry(age: u32) -> Entry {
    SHORT | age << 1
}

/// The age of a short connection's word.
#[inline]
pub fn short_age(entry: Entry) -> Option<u32> {
    (entry & SHORT == SHORT).then_some(entry >> 1 & protocol::short::AGES)
}

/// Enters a short connection, whose word is there.
pub fn put_short(fd: c_int, age: u32) -> bool {
    put(fd, short_entry(age))
}

/// A short connection has come to be `entry` (0: nothing), unless that is known already. Gives the connection.
pub fn replace_short(fd: c_int, age: u32, entry: Entry) -> Option<Sock> {
    let slot = TABLE.get(fd as usize)?;
    let _ = slot.compare_exchange(short_entry(age), entry, AcqRel, Relaxed);
    sock_of(entry, fd)
}

/// As [`decode`], for the number as it is now.
pub fn meaning(fd: c_int) -> Meaning {
    decode(get(fd), fd)
}

/// A short connection is entered in full first.
#[inline]
pub fn decode(entry: Entry, fd: c_int) -> Meaning {
    match entry & KIND {
        CONN => match conn_of(entry) {
            Some(conn) => Meaning::Conn(Sock { fd, conn }),
            None => Meaning::None,
        },
        SET => Meaning::Set(entry & 0xffff),
        OURS if entry == OURS => Meaning::Ours,
        OURS => short::meant(entry, fd).map_or(Meaning::None, Meaning::Conn),
        _ => Meaning::None,
    }
}

#[inline]
fn conn_of(entry: Entry) -> Option<&'static Conn> {
    let conn = family::conn(entry & 0xffff)?;
    (conn.generation.load(Relaxed) >> 1 & 0x3fff == entry >> 16 & 0x3fff).then_some(conn)
}

/// The connection behind a descriptor, unless it is a short one.
#[inline]
pub fn sock(fd: c_int) -> Option<Sock> {
    match get(fd) {
        entry if entry & KIND == CONN => conn_of(entry).map(|conn| Sock { fd, conn }),
        _ => None,
    }
}

/// As [`sock`]: the connection behind `entry`, read from the table for `fd`.
#[inline]
pub fn sock_of(entry: Entry, fd: c_int) -> Option<Sock> {
    if entry & KIND != CONN {
        return None;
    }
    conn_of(entry).map(|conn| Sock { fd, conn })
}

fn refs(conn: &Conn) -> &'static AtomicU8 {
    static NONE: AtomicU8 = AtomicU8::new(0);
    REFS.get(conn.index() as usize).unwrap_or(&NONE)
}

/// A connection in the making has one descriptor, or none after all.
pub fn put_count(conn: &Conn, count: u8) {
    refs(conn).store(count, Release);
}

/// Enters a descriptor of a connection. False: the number is out of range, or it has too many.
pub fn put_conn(fd: c_int, conn: &'static Conn) -> bool {
    if fd < 0 || fd as usize >= MAX {
        return false;
    }
    // In one step: threads that duplicate it at once must not count it around to 0.
    let counted = refs(conn).fetch_update(AcqRel, Relaxed, |n| n.checked_add(1));
    counted.is_ok() && put(fd, conn_entry(conn))
}

/// Descriptors of this process that refer to the connection.
pub fn count(conn: &Conn) -> u8 {
    refs(conn).load(Acquire)
}

/// Takes a descriptor of a connection out. Gives the number of those that remain; `None` when
/// another thread was first.
pub fn drop_conn(sock: Sock) -> Option<u8> {
    let slot = TABLE.get(sock.fd as usize)?;
    slot.compare_exchange(conn_entry(sock.conn), 0, AcqRel, Relaxed)
        .ok()?;
    Some(refs(sock.conn).fetch_sub(1, AcqRel) - 1)
}

pub fn put_set(fd: c_int, index: u32) -> bool {
    put(fd, SET | index)
}

pub fn put_ours(fd: c_int) -> bool {
    put(fd, OURS)
}

/// Forgets what a number meant (sets, own descriptors).
pub fn clear(fd: c_int) {
    if let Some(slot) = TABLE.get(fd as usize) {
        slot.store(0, Release);
    }
}

/// Descriptors of connections in `[from, to]`, but for short ones.
pub fn socks(from: c_int, to: c_int) -> impl Iterator<Item = Sock> {
    (from.max(0)..=to.min(high() - 1)).filter_map(sock)
}

/// Another descriptor of this process for the connection, if it has one.
pub fn any_fd(conn: &Conn) -> Option<c_int> {
    let entry = conn_entry(conn);
    (0..high()).find(|fd| get(*fd) == entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    /// More duplicates than are counted, made by several threads at once.
    #[test]
    fn as_many_as_are_counted() {
        const THREADS: c_int = 8;
        const EACH: c_int = 100;
        let conn = Some(()).filter(|()| family::ready());
        let conn = conn.and_then(|()| family::allocate());
        let Some(conn) = conn else {
            unreachable!("memory of a family")
        };
        let first = MAX as c_int - THREADS * EACH;
        for _ in 0..20 {
            let together = Barrier::new(THREADS as usize);
            let entered: usize = std::thread::scope(|scope| {
                let all: Vec<_> = (0..THREADS)
                    .map(|thread| {
                        let together = &together;
                        let from = first + thread * EACH;
                        scope.spawn(move || {
                            together.wait();
                            (from..from + EACH).filter(|fd| put_conn(*fd, conn)).count()
                        })
                    })
                    .collect();
                all.into_iter()
                    .filter_map(|thread| thread.join().ok())
                    .sum()
            });
            assert_eq!((entered, count(conn)), (255, 255));
            let mut left = 255;
            for fd in first..MAX as c_int {
                if let Some(sock) = sock(fd) {
                    left -= 1;
                    assert_eq!(drop_conn(sock), Some(left));
                }
            }
            assert_eq!((left, count(conn)), (0, 0));
        }
        conn.life().leave();
        crate::conn::close::finish(conn);
    }
}
