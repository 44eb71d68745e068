//! Models: relatives who want each other's tables of registrations, one of whom may die; and what was passed over
//! because somebody held a table for too long, made up for by threads that wait on epoll sets (`reg::each`,
//! `reg::make_up`, `epoll::wait` of the shim). What nobody makes up for shows as a deadlock.
#![cfg(loom)]

mod model;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32};
use loom::thread;
use model::{Context, Lock, explore};
use protocol::shm::life::Missed;
use protocol::shm::sync::{Ordering, fence};

/// What a relative may try before it passes a table over.
const TRIES: u32 = 2;

struct Relatives {
    /// The table of each.
    tables: [Lock; 2],
    missed: [Missed; 2],
    made_up: AtomicU32,
}

impl Relatives {
    fn new() -> Arc<Self> {
        Arc::new(Relatives {
            tables: [Lock::new(), Lock::new()],
            missed: Default::default(),
            made_up: AtomicU32::new(0),
        })
    }

    /// `Lock::lock_within`.
    fn lock_within(&self, table: usize, me: u32) -> bool {
        for _ in 0..TRIES {
            if self.tables[table].try_lock(me) {
                return true;
            }
            self.tables[table].recover();
            thread::yield_now();
        }
        false
    }

    /// With its own table held, a relative has something to do in the other's. True: it is done.
    fn each(&self, own: usize) -> bool {
        let me = own as u32 + 1;
        self.tables[own].lock(me);
        let other = 1 - own;
        let got = self.lock_within(other, me);
        if got {
            self.tables[other].work();
            self.tables[other].unlock();
        } else {
            self.missed[own].note();
        }
        self.tables[own].work();
        self.tables[own].unlock();
        got
    }

    /// `reg::make_up`, holding nothing.
    fn make_up(&self, own: usize) {
        if self.missed[own].take() {
            let other = &self.tables[1 - own];
            other.lock(own as u32 + 1);
            other.work();
            other.unlock();
            self.made_up.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// Neither waits for the other for ever, and what one has passed over is done when it waits.
#[test]
fn who_want_each_others_tables() {
    explore(3, || {
        let all = Relatives::new();
        let other = {
            let all = all.clone();
            thread::spawn(move || {
                let done = all.each(1);
                all.make_up(1);
                done
            })
        };
        let mut done = u32::from(all.each(0));
        all.make_up(0);
        done += u32::from(other.join().unwrap());
        assert_eq!(done + all.made_up.load(Ordering::Relaxed), 2);
    });
}

/// One dies while it holds its table: the other gets it, at once or later.
#[test]
fn who_dies_with_its_table() {
    explore(3, || {
        let all = Relatives::new();
        let other = {
            let all = all.clone();
            thread::spawn(move || {
                all.tables[1].lock(2);
                all.tables[1].work();
                all.tables[1].dead[2].store(true, Ordering::Release);
            })
        };
        let done = all.each(0);
        other.join().unwrap();
        all.make_up(0);
        assert_eq!(u32::from(done) + all.made_up.load(Ordering::Relaxed), 1);
    });
}

/// Sets of a process, each with a thread that waits on it.
struct Sets {
    missed: Missed,
    contexts: [Context; 2],
    /// Among what is looked at.
    hot: [AtomicBool; 2],
}

impl Sets {
    /// The end of `reg::each`, when a table was passed over.
    fn pass_over(&self) {
        self.missed.note();
        // `ctx::ring_sleepers`
        fence(Ordering::SeqCst);
        self.ring();
    }

    fn ring(&self) {
        for context in &self.contexts {
            if context.word.sleepers() {
                context.bell.ring();
            }
        }
    }

    /// `reg::make_up`, with `Set::look_at_all` for each set.
    fn make_up(&self) {
        if self.missed.take() {
            for hot in &self.hot {
                hot.store(true, Ordering::Relaxed);
            }
            fence(Ordering::SeqCst);
            self.ring();
        }
    }

    /// `epoll::wait`, on the set `at`, until there is something.
    fn wait(&self, at: usize) {
        let hot = || self.hot[at].load(Ordering::Relaxed);
        loop {
            self.make_up();
            if hot() {
                return;
            }
            self.contexts[at].sleep_unless(|| self.missed.any() || hot());
        }
    }
}

/// Both find what was passed over, whenever they fall asleep.
#[test]
fn passed_over_while_threads_wait() {
    explore(3, || {
        let sets = Arc::new(Sets {
            missed: Missed::default(),
            contexts: Default::default(),
            hot: Default::default(),
        });
        let other = {
            let sets = sets.clone();
            thread::spawn(move || sets.wait(1))
        };
        let holder = {
            let sets = sets.clone();
            thread::spawn(move || sets.pass_over())
        };
        sets.wait(0);
        other.join().unwrap();
        holder.join().unwrap();
    });
}
