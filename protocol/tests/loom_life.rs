//! Models: the end of a connection while threads sleep on it and others call it; and the lock of a
//! direction whose owner dies. They follow `close.rs`, `wait.rs` and `lock.rs` of the library.
#![cfg(loom)]

mod model;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32, fence};
use loom::thread;
use protocol::shm::sync::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

/// What decides about the end of a connection.
struct Conn {
    holders: AtomicU32,
    sleepers: AtomicU32,
    /// Odd while in use.
    generation: AtomicU32,
    /// Written when it is given back; read by those who sleep on it.
    state: UnsafeCell<u32>,
    freed: AtomicU32,
}

impl Conn {
    fn new(holders: u32) -> Arc<Self> {
        Arc::new(Conn {
            holders: AtomicU32::new(holders),
            sleepers: AtomicU32::new(0),
            generation: AtomicU32::new(1),
            state: UnsafeCell::new(0),
            freed: AtomicU32::new(0),
        })
    }

    /// A thread in recv, send or poll that waits; its entry is made while the descriptor is there.
    fn sleep(&self) {
        self.state.with(|state| {
            // SAFETY: the model fails when somebody writes meanwhile.
            let _ = unsafe { state.read() };
        });
    }

    fn wake_up(&self) {
        let last = self.sleepers.fetch_sub(1, AcqRel) == 1;
        // Either we see that nobody holds it, or the last holder sees that nobody sleeps.
        fence(SeqCst);
        if last && self.holders.load(Acquire) == 0 {
            self.finish();
        }
    }

    fn close(&self) {
        if self.holders.fetch_sub(1, AcqRel) == 1 {
            fence(SeqCst);
            self.finish();
        }
    }

    fn finish(&self) {
        if self.holders.load(Acquire) != 0 || self.sleepers.load(Acquire) != 0 {
            return;
        }
        let generation = self.generation.load(Acquire);
        if generation & 1 == 0
            || self
                .generation
                .compare_exchange(generation, generation + 1, AcqRel, Relaxed)
                .is_err()
        {
            return;
        }
        self.state.with_mut(|state| {
            // SAFETY: as above.
            unsafe { *state = 1 };
        });
        self.freed.fetch_add(1, AcqRel);
    }
}

/// Two threads wait in a call while two processes close: given back once, and never under a sleeper.
#[test]
fn closed_while_threads_sleep() {
    model::explore(3, || {
        let conn = Conn::new(2);
        // Both found the descriptor before it was closed.
        conn.sleepers.store(2, SeqCst);
        let sleepers = [(); 2].map(|()| {
            let conn = conn.clone();
            thread::spawn(move || {
                conn.sleep();
                conn.wake_up();
            })
        });
        let other = {
            let conn = conn.clone();
            thread::spawn(move || conn.close())
        };
        conn.close();
        for thread in sleepers.into_iter().chain([other]) {
            thread.join().unwrap();
        }
        assert_eq!(conn.freed.load(Relaxed), 1);
    });
}

/// The lock of a direction, by owners 1, 2, ...
struct Lock {
    owner: AtomicU32,
    /// Owners that have died; the kernel tells.
    dead: [AtomicBool; 4],
    protected: UnsafeCell<u32>,
}

impl Lock {
    fn new() -> Arc<Self> {
        Arc::new(Lock {
            owner: AtomicU32::new(0),
            dead: Default::default(),
            protected: UnsafeCell::new(0),
        })
    }

    fn try_lock(&self, me: u32) -> bool {
        self.owner.compare_exchange(0, me, Acquire, Relaxed).is_ok()
    }

    /// Frees the lock of an owner that died with it.
    fn recover(&self) {
        let owner = self.owner.load(Relaxed);
        if owner != 0 && self.dead[owner as usize].load(Acquire) {
            let _ = self.owner.compare_exchange(owner, 0, Acquire, Relaxed);
        }
    }

    fn lock(&self, me: u32) {
        while !self.try_lock(me) {
            self.recover();
            thread::yield_now();
        }
    }

    fn unlock(&self) {
        self.owner.store(0, Release);
    }

    fn work(&self) {
        self.protected.with_mut(|place| {
            // SAFETY: the model fails when two are here at once.
            unsafe { *place += 1 };
        });
    }
}

/// One process dies with the lock; two others want it, and both recover it: each gets it, one after
/// the other.
#[test]
fn an_owner_dies() {
    model::explore(2, || {
        let lock = Lock::new();
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
