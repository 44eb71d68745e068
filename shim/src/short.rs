//! Connections that have shown little traffic yet: one word for each ([`protocol::short`]) instead of a place in
//! the family's memory. They are the kernel's alone, so all there is to know is how much was sent and taken, and
//! in which of the process's epoll sets they are ([`crate::epoll::short`]).
//!
//! A connection is entered in full ([`Short::full`]) when it may be worth a claim, and before anything else than
//! the usual calls of a short life: whatever decodes the descriptor's entry finds the full connection.

use crate::calls::proc::borrowed_memory;
use crate::calls::way::{self, Call};
use crate::config::{self, Policy};
use crate::conn::{Conn, Sock, life};
use crate::fds::{self, Entry};
use crate::{daemon, epoll, family, lock, os};
use libc::{c_int, ssize_t};
use protocol::short::{BYTES_MAX, Block, CLIENT, CONNECTED, EXCHANGES_MAX, FDS, Left, NONBLOCK};
use protocol::short::{Place, SHUT_RD, SHUT_WR, Word, Words};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering::*};

/// The words of this process, and the number of their block.
static BLOCK: AtomicPtr<Block> = AtomicPtr::new(std::ptr::null_mut());
static NUMBER: AtomicU32 = AtomicU32::new(0);
/// Whether they were asked for.
static ASKED: AtomicBool = AtomicBool::new(false);

/// A short connection under a descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Short {
    pub fd: c_int,
    age: u32,
    place: &'static Place,
}

#[inline]
fn place(fd: c_int) -> Option<&'static Place> {
    // SAFETY: null, or a block of the statistics table, which is never unmapped.
    unsafe { BLOCK.load(Acquire).as_ref() }?.get(fd as usize)
}

/// Takes a block for this process, once.
#[cold]
fn take() -> Option<()> {
    if !family::ready() || ASKED.swap(true, AcqRel) {
        return None;
    }
    let words = family::words()?;
    let me = lock::pid();
    let take = |owner: &AtomicU32, from| owner.compare_exchange(from, me, AcqRel, Relaxed).is_ok();
    let number = words.owners.iter().position(|owner| take(owner, 0));
    // All taken: inherit from processes that died without giving theirs back.
    let number = number.or_else(|| {
        let dead = |owner: &AtomicU32| {
            let pid = owner.load(Relaxed);
            pid != me && !os::process_alive(pid) && take(owner, pid)
        };
        let number = words.owners.iter().position(dead)?;
        bury(words, number);
        Some(number)
    })?;
    NUMBER.store(number as u32, Relaxed);
    let block = std::ptr::from_ref(words.blocks.get(number)?);
    BLOCK.store(block.cast_mut(), Release);
    Some(())
}

/// Counts what a dead process has left.
fn bury(words: &Words, number: usize) {
    let (Some(high), Some(block)) = (words.high.get(number), words.blocks.get(number)) else {
        return;
    };
    for place in block.iter().take(high.swap(0, Relaxed) as usize) {
        end(place, place.word.bury());
        let [n, sent, taken] =
            [&place.ended, &place.sent, &place.taken].map(|count| count.swap(0, Relaxed));
        if n != 0
            && let Some(table) = family::table()
        {
            table.count_short(n, sent, taken);
        }
    }
}

/// In the child of a fork, whose parent had none: see [`fill`].
pub fn forked() {
    BLOCK.store(std::ptr::null_mut(), Relaxed);
    ASKED.store(false, Relaxed);
}

/// Begins with a short connection. False: it has to be entered in full.
pub fn begin(fd: c_int, flags: u64) -> bool {
    let small = (0..FDS as c_int).contains(&fd);
    // A child in its parent's memory must not change what the parent has at that number.
    if config::policy() == Policy::Off || config::debug() || !small || borrowed_memory() {
        return false;
    }
    let Some(place) = place(fd).or_else(|| take().and_then(|()| place(fd))) else {
        return false;
    };
    let high = family::words().and_then(|words| words.high.get(NUMBER.load(Relaxed) as usize));
    if let Some(high) = high.filter(|high| high.load(Relaxed) <= fd as u32) {
        high.fetch_max(fd as u32 + 1, Relaxed);
    }
    let new = place.word.begin(flags);
    new.is_some_and(|new| fds::put_short(fd, new.age()))
}

/// One is connected, or on its way: makes the process known to the daemon. What that answers is looked for by full
/// connections.
pub fn greet(fd: c_int) {
    daemon::greet();
    if !daemon::settled() && !config::own_policy() {
        fds::meaning(fd);
    }
}

pub fn nonblock(on: bool) -> u64 {
    if on { NONBLOCK } else { 0 }
}

/// The short connection that an entry means.
#[inline]
pub fn of(entry: Entry, fd: c_int) -> Option<Short> {
    let age = fds::short_age(entry)?;
    place(fd).map(|place| Short { fd, age, place })
}

/// For [`fds::decode`].
#[cold]
pub fn meant(entry: Entry, fd: c_int) -> Option<Sock> {
    of(entry, fd)?.full()
}

/// Begins a kernel call on a short connection. `None`: it is none (any more).
#[inline]
pub fn enter(entry: Entry, fd: c_int) -> Option<Short> {
    let short = of(entry, fd)?;
    short.place.word.enter(short.age).then_some(short)
}

/// Enters those in full that `which` names: before a fork, and where all connections are looked at.
pub fn fill(which: impl Fn(c_int) -> bool) {
    for fd in 0..fds::high().min(FDS as c_int) {
        if let Some(short) = of(fds::get(fd), fd).filter(|_| which(fd)) {
            short.full();
        }
    }
}

/// Ends all: the process is about to end, or to become another program, to which nothing of them goes. Where it does not
/// come to that they are the kernel's alone.
pub fn ending() {
    for fd in 0..fds::high().min(FDS as c_int) {
        if let Some(short) = of(fds::get(fd), fd)
            && let Some(word) = short.place.word.close(short.age)
        {
            end(short.place, word);
        }
    }
}

/// Counts one that has ended.
#[inline]
fn end(place: &Place, word: Word) {
    if word.is_short() && word.has(CONNECTED) {
        place.end(word);
    }
}

/// Whether it has shown enough for a look at whether it is worth a claim.
#[inline]
fn is_due(word: Word) -> bool {
    let bytes = word.sent() + word.taken();
    let shown = word.exchanges() >= config::claim_exchanges().min(EXCHANGES_MAX)
        || bytes >= config::claim_bytes().min(BYTES_MAX / 2)
        || config::policy() == Policy::Eager;
    shown && word.has(CONNECTED) && !word.has(SHUT_WR | SHUT_RD)
}

impl Short {
    /// Its word, while it is short.
    #[inline]
    pub fn still(&self) -> Option<Word> {
        self.place.word.still(self.age)
    }

    /// Sets or clears flags. False: it is not short any more.
    pub fn put(&self, flags: u64, on: bool) -> bool {
        self.place.word.put(self.age, flags, on)
    }

    /// What was entered in its place.
    fn moved(&self) -> Option<Sock> {
        let word = self.place.word.now();
        self.named(word.name().filter(|_| word.age() == self.age)?)
    }

    fn named(&self, name: Entry) -> Option<Sock> {
        fds::replace_short(self.fd, self.age, name)
    }

    /// Enters it in full. `None`: it is closed, or there is no room, and it is plain TCP for good.
    #[cold]
    pub fn full(self) -> Option<Sock> {
        let mut made: Option<&'static Conn> = None;
        while let Some(word) = self.still() {
            let Some(conn) = made.or_else(|| life::place(self.fd)) else {
                if self.place.word.close(self.age).is_some() {
                    fds::replace_short(self.fd, self.age, 0);
                }
                continue;
            };
            made = Some(conn);
            let sock = Sock { fd: self.fd, conn };
            life::fill(sock, word);
            let call = Call::begun(sock);
            let name = fds::conn_entry(conn);
            let publish = || self.place.word.enter_in_full(word, name);
            // Nobody claims it before this call is through with it.
            if epoll::short::enter(sock, word, publish) {
                life::filled(sock, word);
                fds::replace_short(self.fd, self.age, name);
                call.leave();
                return Some(sock);
            }
        }
        if let Some(conn) = made {
            life::unplace(conn);
        }
        self.moved()
    }

    /// Ends a call that has moved `n` bytes. Gives the connection that has come to be entered meanwhile, for which
    /// it has to be ended; `odd`: it has to be.
    #[inline]
    fn leave(self, n: u64, sent: bool, odd: bool) -> Option<Sock> {
        let left = self.place.word.leave(self.age, n, sent, odd);
        if let Left::Counted(word) = left {
            if n > 0 && is_due(word) {
                self.full().into_iter().for_each(way::consider);
            }
            return None;
        }
        self.leave_anew(left)
    }

    #[cold]
    fn leave_anew(self, left: Left) -> Option<Sock> {
        match left {
            Left::Moved(name) => self.named(name),
            Left::Unfit => {
                self.full();
                // Closed, if there was no room.
                self.leave_anew(self.place.word.leave(self.age, 0, false, true))
            }
            Left::Closed | Left::Counted(_) => None,
        }
    }

    /// Ends a receive.
    #[inline]
    pub fn received(self, n: ssize_t, flags: c_int) {
        let taken = if way::took(n, flags) { n as u64 } else { 0 };
        if let Some(sock) = self.leave(taken, false, flags & libc::MSG_OOB != 0) {
            way::received(Call::begun(sock), n, flags);
        }
    }

    /// Ends a send.
    #[inline]
    pub fn sent(self, n: ssize_t, flags: c_int) {
        let sent = if n > 0 { n as u64 } else { 0 };
        if let Some(sock) = self.leave(sent, true, flags & way::BARRING != 0) {
            way::sent(Call::begun(sock), n, flags);
        }
    }

    /// Ends a wait.
    pub fn waited(self) {
        if let Some(sock) = self.leave(0, false, false) {
            Call::begun(sock).leave();
        }
    }

    /// connect has succeeded or is on its way.
    pub fn connecting(self) {
        if self.still().is_some_and(|word| word.has(CONNECTED)) {
            return;
        }
        if !self.put(CLIENT | CONNECTED, true) {
            self.moved().into_iter().for_each(life::connecting);
            return;
        }
        greet(self.fd);
    }

    /// Its only descriptor is about to be closed. False: it is not short any more.
    pub fn close(self) -> bool {
        let Some(word) = self.place.word.close(self.age) else {
            return false;
        };
        fds::clear(self.fd);
        end(self.place, word);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::close;
    use crate::fds::Meaning;
    use protocol::short::AGES;
    use std::sync::Barrier;

    /// One receive of a byte, as `calls::io` does it.
    fn receive(fd: c_int) {
        let entry = fds::get(fd);
        if let Some(short) = enter(entry, fd) {
            return short.received(1, 0);
        }
        match way::of(entry, fd) {
            way::Way::Plain(sock) if let Some(call) = way::enter(sock) => way::received(call, 1, 0),
            other => unreachable!("{other:?}"),
        }
    }

    /// Threads whose calls are under way while another enters the connection in full: no byte and no call is lost.
    #[test]
    fn counts_are_exact_when_it_is_entered() {
        const THREADS: usize = 3;
        const EACH: u64 = 40;
        let fd = FDS as c_int - 1;
        for _ in 0..40 {
            // Another test's thread may be about to take the words.
            while !begin(fd, CONNECTED | NONBLOCK) {
                std::thread::yield_now();
            }
            let together = Barrier::new(THREADS + 1);
            std::thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| {
                        together.wait();
                        (0..EACH).for_each(|_| receive(fd));
                    });
                }
                scope.spawn(|| {
                    together.wait();
                    std::thread::yield_now();
                    fds::meaning(fd);
                });
            });
            let Meaning::Conn(sock) = fds::meaning(fd) else {
                unreachable!("a connection")
            };
            let all = THREADS as u64 * EACH;
            assert_eq!(sock.rx.taken.load(Relaxed), all);
            assert_eq!(sock.row().tcp_rx.load(Relaxed), all);
            assert_eq!((sock.plain.calls(), fds::count(sock.conn)), (0, 1));
            assert!(sock.has(crate::conn::flag::NONBLOCK));
            assert_eq!(fds::drop_conn(sock), Some(0));
            assert!(sock.life().leave());
            close::finish(sock.conn);
        }
    }

    /// What has ended as a short connection is counted once, and nobody's calls count for the next one there.
    #[test]
    fn an_end_is_counted() {
        let fd = FDS as c_int - 2;
        while !begin(fd, CONNECTED) {
            std::thread::yield_now();
        }
        let late = enter(fds::get(fd), fd);
        receive(fd);
        let Some(first) = of(fds::get(fd), fd) else {
            unreachable!("a short connection")
        };
        assert!(first.close() && !first.close());
        assert_eq!(fds::get(fd), 0);
        late.into_iter().for_each(|late| late.received(5, 0));
        assert!(begin(fd, 0));
        let Some(second) = of(fds::get(fd), fd) else {
            unreachable!("a short connection")
        };
        assert_eq!(second.still(), Some(Word::new(second.age, 0)));
        assert!(first.still().is_none() && first.full().is_none());
        // Not connected: no connection.
        assert!(second.close());
        let counts = [&second.place.ended, &second.place.taken].map(|n| n.load(Relaxed));
        assert_eq!(counts, [1, 1]);
    }

    /// A call lasts while its number is used as often as there are ages: the others there are entered in full, and it
    /// counts for none of them.
    #[test]
    fn a_call_outlasts_all_ages() {
        let fd = FDS as c_int - 3;
        while !begin(fd, CONNECTED) {
            std::thread::yield_now();
        }
        let entry = fds::get(fd);
        let (Some(late), Some(first)) = (enter(entry, fd), of(entry, fd)) else {
            unreachable!("a short connection")
        };
        assert!(first.close());
        for _ in 0..=AGES {
            assert!(!begin(fd, CONNECTED));
            assert_eq!(fds::get(fd), 0);
        }
        late.received(5, 0);
        assert!(begin(fd, 0));
        let Some(next) = of(fds::get(fd), fd) else {
            unreachable!("a short connection")
        };
        assert_eq!(next.still(), Some(Word::new(next.age, 0)));
        assert_ne!(next.age, first.age);
        assert!(next.close());
    }
}
