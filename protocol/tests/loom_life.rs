//! Models: the end of a connection while threads sleep on it, are about something in it, or look at it from afar, and
//! while others call it; and the lock of a direction whose owner dies. They use `Life` and `Kept` of the library as
//! `close.rs`, `wait.rs`, `lgr.rs` and `afar.rs` do, and follow `lock.rs`.
#![cfg(loom)]

mod model;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32};
use loom::thread;
use model::Lock;
use protocol::shm::life::{Kept, Life};
use protocol::shm::sync::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

/// The place of a connection.
struct Conn {
    holders: AtomicU32,
    sleepers: AtomicU32,
    generation: AtomicU32,
    /// Written when it is given back, and when it begins; read and written by those who are about it.
    state: UnsafeCell<u32>,
    free: AtomicBool,
    freed: AtomicU32,
}

/// The generation of the first connection.
const FIRST: u32 = 1;

impl Conn {
    fn new(holders: u32) -> Self {
        Conn {
            holders: AtomicU32::new(holders),
            sleepers: AtomicU32::new(0),
            generation: AtomicU32::new(FIRST),
            state: UnsafeCell::new(0),
            free: AtomicBool::new(false),
            freed: AtomicU32::new(0),
        }
    }

    fn life(&self) -> Life<'_> {
        Life {
            holders: &self.holders,
            sleepers: &self.sleepers,
            generation: &self.generation,
        }
    }

    fn read(&self) {
        self.state.with(|state| {
            // SAFETY: the model fails when somebody writes meanwhile.
            let _ = unsafe { state.read() };
        });
    }

    fn write(&self) {
        self.state.with_mut(|state| {
            // SAFETY: the model fails when somebody else is here.
            unsafe { *state += 1 };
        });
    }

    /// `close::finish`. True: it was this thread that gave it back.
    fn finish(&self) -> Option<u32> {
        let ended = self.life().end()?;
        self.write();
        self.freed.fetch_add(1, AcqRel);
        self.free.store(true, Release);
        Some(ended)
    }

    fn wake_up(&self) {
        if self.life().unpin() {
            self.finish();
        }
    }

    /// `close::pinned`.
    fn pinned(&self, about: impl FnOnce()) -> Option<u32> {
        if self.life().pin(FIRST) {
            about();
        }
        self.life().unpin().then(|| self.finish()).flatten()
    }

    fn close(&self) -> Option<u32> {
        self.life().leave().then(|| self.finish()).flatten()
    }

    /// `family::allocate`, when the place is free.
    fn begin(&self) -> bool {
        let got = self
            .free
            .compare_exchange(true, false, AcqRel, Relaxed)
            .is_ok();
        if got {
            self.write();
            self.life().begin();
        }
        got
    }
}

/// Two threads wait in a call while two processes close: given back once, and never under a sleeper.
#[test]
fn closed_while_threads_sleep() {
    model::explore(3, || {
        let conn = Arc::new(Conn::new(2));
        // Both found the descriptor before it was closed.
        conn.sleepers.store(2, SeqCst);
        let sleepers = [(); 2].map(|()| {
            let conn = conn.clone();
            thread::spawn(move || {
                conn.read();
                conn.wake_up();
            })
        });
        let other = {
            let conn = conn.clone();
            thread::spawn(move || conn.close())
        };
        conn.close();
        for thread in sleepers {
            thread.join().unwrap();
        }
        other.join().unwrap();
        assert_eq!(conn.freed.load(Relaxed), 1);
    });
}

/// A pair is installed in a connection while it is closed, and its place is used again: what is installed goes to
/// the connection that it is for, or nowhere, and the next one lives until it is closed itself.
#[test]
fn pinned_while_it_is_closed_and_another_begins() {
    model::explore(4, || {
        let conn = Arc::new(Conn::new(1));
        let pinner = {
            let conn = conn.clone();
            thread::spawn(move || {
                conn.pinned(|| {
                    assert_eq!(conn.generation.load(Relaxed), FIRST);
                    conn.write();
                });
            })
        };
        conn.close();
        if conn.begin() {
            let mine = conn.generation.load(Acquire);
            conn.write();
            thread::yield_now();
            assert_eq!(conn.generation.load(Acquire), mine, "ended by another");
            conn.close();
        }
        pinner.join().unwrap();
        assert_eq!(conn.generation.load(Relaxed) % 2, 0, "never given back");
    });
}

/// A process that has closed a connection and looks at it from afar, while its relative, who holds it, closes it, and
/// the place becomes one of its own.
struct Watcher {
    conn: Conn,
    place: Kept,
    /// Connections in its link groups.
    groups: [AtomicU32; 2],
    /// Mapped memory of the first.
    arena: UnsafeCell<u32>,
}

impl Watcher {
    fn left(&self, group: u32) {
        if group == 0 {
            return;
        }
        let conns = self.groups[group as usize - 1].fetch_sub(1, AcqRel);
        assert!(conns != 0, "left twice");
        if conns == 1 && group == 1 {
            self.arena.with_mut(|arena| {
                // SAFETY: the model fails when somebody looks.
                unsafe { *arena = 0 };
            });
        }
    }

    /// `afar::look`: on the ring, and with it the end, if this thread is the last.
    fn look(&self) {
        let ended = self.conn.pinned(|| {
            self.arena.with(|arena| {
                // SAFETY: the model fails when it is unmapped meanwhile.
                assert_eq!(unsafe { *arena }, 1);
            });
        });
        if let Some(generation) = ended {
            self.left(self.place.let_go(generation));
        }
    }

    /// `lgr::leave_those_gone`.
    fn sweep(&self) {
        if let Some(generation) = self.place.generation()
            && self.conn.generation.load(Acquire) != generation
        {
            self.left(self.place.let_go(generation));
        }
    }
}

#[test]
fn seen_from_afar() {
    model::explore(4, || {
        let watcher = Watcher {
            conn: Conn::new(1),
            place: Kept::default(),
            groups: [AtomicU32::new(1), AtomicU32::new(0)],
            arena: UnsafeCell::new(1),
        };
        watcher.place.keep(FIRST, 1);
        let watcher = Arc::new(watcher);
        let looker = {
            let watcher = watcher.clone();
            thread::spawn(move || watcher.look())
        };
        let relative = {
            let watcher = watcher.clone();
            thread::spawn(move || {
                watcher.conn.close();
            })
        };
        watcher.sweep();
        // `lgr::join`, for a connection of its own.
        let begun = watcher.conn.begin();
        if begun {
            watcher.groups[1].fetch_add(1, AcqRel);
            let generation = watcher.conn.generation.load(Acquire);
            watcher.left(watcher.place.keep(generation, 2));
            watcher.sweep();
        }
        looker.join().unwrap();
        relative.join().unwrap();
        watcher.sweep();
        let conns = [0, 1].map(|i| watcher.groups[i].load(Relaxed));
        assert_eq!(conns, [0, u32::from(begun)]);
    });
}

/// One process dies with the lock; two others want it, and both recover it: each gets it, one after
/// the other.
#[test]
fn an_owner_dies() {
    model::explore(2, || {
        let lock = Arc::new(Lock::new());
        assert!(lock.try_lock(1));
        lock.work();
        lock.dead[1].store(true, Release);
        let heir = {
            let lock = lock.clone();
            thread::spawn(move || {
                lock.lock(2);
                lock.work();
                lock.unlock();
            })
        };
        lock.lock(3);
        lock.work();
        lock.unlock();
        heir.join().unwrap();
        assert!(lock.try_lock(1));
        lock.protected.with(|place| {
            // SAFETY: everybody else has ended.
            assert_eq!(unsafe { *place }, 3);
        });
    });
}
