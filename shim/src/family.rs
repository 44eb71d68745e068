//! Memory that a process shares with the children that it forks: the connections, the statistics
//! table (read by the daemon), the wait page (read by peers).
//!
//! It is made when the first TCP socket is made, so that programs without sockets pay nothing.

use crate::conn::Conn;
use crate::lock::Lock;
use crate::os::Access;
use crate::{config, lock, os};
use protocol::shm::wait::{CONTEXTS, PAGE_LEN, WaitWord};
use protocol::short::Words;
use protocol::stats::TableHeader;
use protocol::stats::{self, ROWS, ROWS_AT, Row, TABLE_LEN, TEXT_AT, TEXT_LEN};
use protocol::stats::{TRACES_AT, WORDS_AT};
use protocol::trace::{TRACES, Trace};
use std::ffi::c_int;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering::*};

/// What lives in the anonymous part.
#[repr(C)]
struct Shared {
    id: [AtomicU64; 2],
    /// A set bit: the connection is in use.
    used: [AtomicU64; ROWS / 64],
    hint: AtomicU32,
    /// 0, [`TOGETHER`], [`APART`].
    kin: AtomicU32,
    /// The place at which [`some_places`] goes on.
    hand: AtomicU32,
    /// Held while a channel of a link group is peeked at.
    peeking: Lock,
    /// Process that owns a wait context, or 0.
    contexts: [AtomicU32; CONTEXTS],
    /// Per place in the table of epoll sets: the set that a child has come to use.
    sets: [AtomicU32; crate::epoll::SETS],
    conns: [Conn; ROWS],
}

static SHARED: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());
static TABLE: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
static WAIT: AtomicPtr<WaitWord> = AtomicPtr::new(std::ptr::null_mut());
static TABLE_FD: AtomicI32 = AtomicI32::new(-1);
static WAIT_FD: AtomicI32 = AtomicI32::new(-1);
/// 0 not tried, 1 being made, 2 there, 3 not to be had.
static STATE: AtomicU32 = AtomicU32::new(0);

/// Looks at memory that is being made, of 50 microseconds each: it takes a few system calls.
const LOOKS: u32 = 2000;

/// Makes the memory when it is not there yet. False: this process stays on TCP.
pub fn ready() -> bool {
    for _ in 0..LOOKS {
        match STATE.load(Acquire) {
            2 => return true,
            3 => return false,
            0 => {
                if STATE.compare_exchange(0, 1, AcqRel, Acquire).is_ok() {
                    let made = make().is_ok();
                    STATE.store(if made { 2 } else { 3 }, Release);
                    return made;
                }
            }
            _ => os::sleep_ns(50_000),
        }
    }
    // Whoever makes it is the call that we, a signal handler, have interrupted: this socket stays on TCP.
    false
}

/// In the child of a fork: what another thread of the parent was making is made by nobody here.
pub fn forked() {
    let _ = STATE.compare_exchange(1, 0, AcqRel, Relaxed);
    if let Some(s) = shared() {
        // A parent that this process cannot see is in another pid namespace.
        let kin = if os::getppid() == 0 { APART } else { TOGETHER };
        s.kin.fetch_max(kin, AcqRel);
    }
}

/// Relatives, whose numbers mean the same to each other, or do not: then none can say that another has ended.
const TOGETHER: u32 = 1;
const APART: u32 = 2;

/// Whether a process of the family may have ended, and its number tells.
pub fn may_miss_one() -> bool {
    shared().is_some_and(|s| s.kin.load(Relaxed) == TOGETHER)
}

/// So many places, other ones each time.
pub fn some_places(count: u32) -> impl Iterator<Item = &'static Conn> {
    let high = table().map_or(0, |t| t.high.load(Relaxed));
    let from = shared().map_or(0, |s| {
        let at = s.hand.load(Relaxed);
        let from = if at < high { at } else { 0 };
        s.hand.store(from.saturating_add(count), Relaxed);
        from
    });
    (from..high.min(from.saturating_add(count))).filter_map(conn)
}

fn sealed(name: &[u8], len: usize, seals: c_int) -> Result<(c_int, *mut u8), i32> {
    if os::file_size_limit() < len {
        return Err(libc::EFBIG);
    }
    let fd = os::memfd(name)?;
    let fd = crate::ownfd::raise(fd)?;
    let made = os::ftruncate(fd, len).and_then(|()| {
        let at = os::map_shared(fd, len, Access::Write)?;
        os::fcntl(fd, libc::F_ADD_SEALS, seals as usize)?;
        Ok(at)
    });
    match made {
        Ok(at) => Ok((fd, at)),
        Err(e) => {
            crate::ownfd::close(fd);
            Err(e)
        }
    }
}

fn make() -> Result<(), i32> {
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
    let shared = os::map_anonymous_shared(size_of::<Shared>())? as *mut Shared;
    let (table_fd, table) = sealed(b"smclo-stats\0", TABLE_LEN, seals | libc::F_SEAL_SEAL)?;
    // F_SEAL_FUTURE_WRITE: peers cannot map it writable, our mapping stays so.
    let (wait_fd, wait) = sealed(
        b"smclo-wait\0",
        PAGE_LEN,
        seals | libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SEAL,
    )?;
    let mut id = [0u8; 16];
    os::getrandom(&mut id)?;
    // SAFETY: just mapped with the length of the type, zeroed, and all fields are atomics.
    let s = unsafe { &*shared };
    let (head, tail) = id.split_at(8);
    for (word, half) in s.id.iter().zip([head, tail]) {
        let mut raw = [0; 8];
        raw.copy_from_slice(half);
        word.store(u64::from_ne_bytes(raw), Relaxed);
    }
    // SAFETY: as above.
    let t = unsafe { &*(table as *const TableHeader) };
    t.magic.store(stats::MAGIC, Relaxed);
    t.version.store(stats::VERSION, Relaxed);
    read_policy(t, table);
    TABLE_FD.store(table_fd, Relaxed);
    WAIT_FD.store(wait_fd, Relaxed);
    TABLE.store(table, Release);
    WAIT.store(wait as *mut WaitWord, Release);
    SHARED.store(shared, Release);
    Ok(())
}

/// Puts the text of the user's policy into the table, for the daemon to understand: nothing is
/// parsed in the program.
fn read_policy(t: &TableHeader, table: *mut u8) {
    let mut path = [0; config::FILE_MAX];
    let fd = config::policy_file(&mut path).and_then(|()| os::open_to_read(&path).ok());
    let Some(fd) = fd else {
        return;
    };
    let mut len = 0;
    while os::is_regular(fd) && len < TEXT_LEN {
        // SAFETY: the table has TEXT_LEN bytes there, and nobody else knows of it yet.
        let room =
            unsafe { std::slice::from_raw_parts_mut(table.add(TEXT_AT + len), TEXT_LEN - len) };
        match os::read(fd, room) {
            Ok(n) if n > 0 => len += n,
            _ => break,
        }
    }
    // A file that fills all of it may go on.
    let more = len == TEXT_LEN && os::read(fd, &mut [0]) != Ok(0);
    t.text_len.store(len as u32 + u32::from(more), Release);
    os::close(fd);
}

#[inline]
fn shared() -> Option<&'static Shared> {
    // SAFETY: null or the mapping made by `make`, which is never unmapped.
    unsafe { SHARED.load(Acquire).as_ref() }
}

pub fn id() -> u128 {
    shared().map_or(0, |s| {
        u128::from(s.id[0].load(Relaxed)) << 64 | u128::from(s.id[1].load(Relaxed))
    })
}

/// Descriptors of the statistics table and the wait page, for the daemon.
pub fn descriptors() -> [c_int; 2] {
    [TABLE_FD.load(Relaxed), WAIT_FD.load(Relaxed)]
}

/// One of our descriptors has moved.
pub fn moved(from: c_int, to: c_int) {
    for fd in [&TABLE_FD, &WAIT_FD] {
        let _ = fd.compare_exchange(from, to, AcqRel, Relaxed);
    }
}

#[inline]
pub fn table() -> Option<&'static TableHeader> {
    // SAFETY: null or the mapping made by `make`, which is never unmapped.
    unsafe { (TABLE.load(Acquire) as *const TableHeader).as_ref() }
}

/// The row of connection `index`; callers hold a connection, so the table is there.
#[inline]
pub fn row(index: u32) -> &'static Row {
    let at = TABLE.load(Relaxed);
    let index = index as usize % ROWS;
    // SAFETY: the table holds ROWS rows behind its header page and is never unmapped.
    unsafe { &*(at.add(ROWS_AT + index * size_of::<Row>()) as *const Row) }
}

/// Trace `index`, if it can exist.
pub fn trace(index: u32) -> Option<&'static Trace> {
    let at = TABLE.load(Acquire);
    if at.is_null() || index as usize >= TRACES {
        return None;
    }
    // SAFETY: the table holds TRACES traces from TRACES_AT on, aligned, and is never unmapped; all
    // fields are atomics.
    Some(unsafe { &*(at.add(TRACES_AT + index as usize * size_of::<Trace>()) as *const Trace) })
}

/// The words of connections that are not entered yet.
pub fn words() -> Option<&'static Words> {
    let at = TABLE.load(Acquire);
    if at.is_null() {
        return None;
    }
    // SAFETY: they lie there, aligned; the table is never unmapped, and all fields are atomics.
    Some(unsafe { &*(at.add(WORDS_AT) as *const Words) })
}

/// Connection `index`, if it can exist.
#[inline]
pub fn conn(index: u32) -> Option<&'static Conn> {
    shared()?.conns.get(index as usize)
}

/// A free connection, reset and with one holder.
pub fn allocate() -> Option<&'static Conn> {
    let s = shared()?;
    let words = s.used.len() as u32;
    let start = s.hint.load(Relaxed);
    for i in 0..words {
        let at = (start + i) % words;
        let word = s.used.get(at as usize)?;
        let mut bits = word.load(Relaxed);
        while bits != u64::MAX {
            let bit = bits.trailing_ones();
            match word.compare_exchange(bits, bits | 1 << bit, AcqRel, Relaxed) {
                Ok(_) => {
                    s.hint.store(at, Relaxed);
                    let index = at * 64 + bit;
                    let conn = s.conns.get(index as usize)?;
                    conn.number.store(index, Relaxed);
                    conn.reset();
                    // Whose it was must not be taken for a holder of this one.
                    conn.row().pid.store(0, Relaxed);
                    conn.life().begin();
                    table()?.high.fetch_max(index + 1, Relaxed);
                    return Some(conn);
                }
                Err(now) => bits = now,
            }
        }
    }
    None
}

/// Gives a connection back whose generation its last holder has moved on.
pub fn free(conn: &Conn) {
    let Some(s) = shared() else { return };
    let index = conn.index();
    if let Some(word) = s.used.get(index as usize / 64) {
        word.fetch_and(!(1 << (index % 64)), AcqRel);
    }
}

/// The wait word of context `n`.
pub fn wait_word(n: u32) -> &'static WaitWord {
    let n = n as usize % CONTEXTS;
    // SAFETY: the wait page holds CONTEXTS words and is never unmapped; callers have a context.
    unsafe { &*WAIT.load(Relaxed).add(n) }
}

/// Where a child says that it uses the inherited set at `index`.
pub fn set_word(index: u32) -> Option<&'static AtomicU32> {
    shared()?.sets.get(index as usize)
}

pub fn peek_lock() -> Option<&'static Lock> {
    Some(&shared()?.peeking)
}

/// A context number that no process of the family uses.
pub fn take_context() -> Option<u32> {
    let s = shared()?;
    let me = lock::pid();
    let free = |owner: &AtomicU32| owner.compare_exchange(0, me, AcqRel, Relaxed).is_ok();
    if let Some(n) = s.contexts.iter().position(free) {
        return Some(n as u32);
    }
    // All taken: inherit from processes that died without giving theirs back.
    let dead = |owner: &AtomicU32| {
        let pid = owner.load(Relaxed);
        pid != me
            && !os::process_alive(pid)
            && owner.compare_exchange(pid, me, AcqRel, Relaxed).is_ok()
    };
    s.contexts.iter().position(dead).map(|n| n as u32)
}

pub fn give_context(n: u32) {
    if let Some(owner) = shared().and_then(|s| s.contexts.get(n as usize)) {
        owner.store(0, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A child whose parent was about to make the memory in another thread makes it itself.
    #[test]
    fn made_in_a_child() {
        // SAFETY: what the child does until it ends are system calls and changes of its own memory.
        let child =
            unsafe { crate::sys::syscall6(libc::SYS_fork, 0, 0, 0, 0, 0, 0) } as libc::pid_t;
        if child == 0 {
            STATE.store(1, Release);
            forked();
            let made = ready() && allocate().is_some();
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(!made)) };
        }
        let mut status = -1;
        // SAFETY: waits for the child that was just made.
        let waited = unsafe { libc::waitpid(child, &mut status, 0) };
        assert_eq!((waited, status), (child, 0));
    }
}
