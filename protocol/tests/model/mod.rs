//! What the models share: how far they explore, and the kernel's and the machine's part.

// Each model is a crate of its own and needs only some of this.
#![allow(dead_code)]

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use loom::sync::{Condvar, Mutex};
use protocol::shm::cdc::Place;
use protocol::shm::ring::{Consumer, DmbHeader, Producer, Span};
use protocol::shm::sync::{Ordering, fence};
use protocol::shm::wait::WaitWord;

/// Explores all interleavings with at most so many preemptions.
pub fn explore(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 5000;
    builder.check(model);
}

/// One direction's ring with both ends' headers. The payload is watched: a byte that is read while
/// it is written, or that is seen without having been published, fails the model.
pub struct Ring {
    /// Header of the receiver's DMB, written by the sender.
    pub to_receiver: DmbHeader,
    /// Header of the sender's DMB, written by the receiver.
    pub to_sender: DmbHeader,
    /// What the receiver has taken.
    pub taken: AtomicU64,
    bytes: Vec<UnsafeCell<u8>>,
}

impl Ring {
    pub fn new(size: u32, start: Place) -> Self {
        let ring = Ring {
            to_receiver: DmbHeader::default(),
            to_sender: DmbHeader::default(),
            taken: AtomicU64::new(start.position),
            bytes: (0..size).map(|_| UnsafeCell::new(0)).collect(),
        };
        let word = start.cursor.word(0);
        use protocol::shm::sync::Ordering::Relaxed;
        ring.to_receiver.producer.store(word, Relaxed);
        ring.to_sender.consumer.store(word, Relaxed);
        ring
    }

    pub fn size(&self) -> u32 {
        self.bytes.len() as u32
    }

    pub fn producer(&self, start: Place) -> Producer {
        Producer {
            size: self.size(),
            base: 0,
            produced: start,
            consumed: start,
        }
    }

    pub fn consumer(&self, start: Place) -> Consumer {
        Consumer {
            size: self.size(),
            base: 0,
            produced: start,
            consumed: start,
            confirmed: start.position,
        }
    }

    fn cells(&self, span: Span) -> impl Iterator<Item = &UnsafeCell<u8>> {
        let at = span.at as usize;
        let first = &self.bytes[at..at + span.first as usize];
        first.iter().chain(&self.bytes[..span.second as usize])
    }

    pub fn write(&self, span: Span, bytes: &[u8]) {
        for (cell, byte) in self.cells(span).zip(bytes) {
            // SAFETY: loom checks that nobody else accesses the cell.
            cell.with_mut(|at| unsafe { *at = *byte });
        }
    }

    pub fn read(&self, span: Span) -> Vec<u8> {
        // SAFETY: loom checks that nobody writes the cell.
        self.cells(span)
            .map(|cell| cell.with(|at| unsafe { *at }))
            .collect()
    }
}

/// A doorbell.
#[derive(Default)]
pub struct Bell {
    count: Mutex<u32>,
    rung: Condvar,
}

impl Bell {
    pub fn ring(&self) {
        *self.count.lock().unwrap() += 1;
        self.rung.notify_all();
    }

    /// `poll` without a time limit. A sleeper whose bell is silenced before it runs sleeps on.
    pub fn wait(&self) {
        let mut count = self.count.lock().unwrap();
        while *count == 0 {
            count = self.rung.wait(count).unwrap();
        }
    }

    pub fn rings(&self) -> bool {
        *self.count.lock().unwrap() != 0
    }

    /// Takes off what was rung.
    pub fn silence(&self) {
        *self.count.lock().unwrap() = 0;
    }
}

/// A wait context, and what its peer knows of it.
#[derive(Default)]
pub struct Context {
    pub word: WaitWord,
    pub bell: Bell,
    /// Epoch in which the peer rang last.
    rung: AtomicU64,
}

impl Context {
    /// Producer, after it has published: `wake_watchers` and `LinkGroup::wake` of the shim.
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        self.wake_if_asleep();
    }

    /// `LinkGroup::wake` alone: a fence lies behind.
    pub fn wake_if_asleep(&self) {
        let Some(epoch) = self.word.epoch_if_asleep() else {
            return;
        };
        let mark = epoch << 1 | 1;
        if self.rung.swap(mark, Ordering::AcqRel) != mark {
            self.bell.ring();
        }
    }

    /// Sleeper: `wait::sleep` of the shim, a context of its own.
    pub fn sleep_unless(&self, hint: impl Fn() -> bool) {
        self.word.enter();
        if !hint() {
            self.bell.wait();
        }
        self.word.leave();
        if self.bell.rings() {
            self.silence();
        }
    }

    pub fn silence(&self) {
        self.bell.silence();
        self.word.renew();
    }
}

/// The lock of a direction, by owners 1, 2, ...
pub struct Lock {
    owner: AtomicU32,
    /// Owners that have died; the kernel tells.
    pub dead: [AtomicBool; 4],
    pub protected: UnsafeCell<u32>,
}

impl Lock {
    pub fn new() -> Self {
        Lock {
            owner: AtomicU32::new(0),
            dead: Default::default(),
            protected: UnsafeCell::new(0),
        }
    }

    pub fn try_lock(&self, me: u32) -> bool {
        self.owner
            .compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Frees the lock of an owner that died with it.
    pub fn recover(&self) {
        let owner = self.owner.load(Ordering::Relaxed);
        if owner != 0 && self.dead[owner as usize].load(Ordering::Acquire) {
            let _ = self
                .owner
                .compare_exchange(owner, 0, Ordering::Acquire, Ordering::Relaxed);
        }
    }

    pub fn lock(&self, me: u32) {
        while !self.try_lock(me) {
            self.recover();
            loom::thread::yield_now();
        }
    }

    pub fn unlock(&self) {
        self.owner.store(0, Ordering::Release);
    }

    pub fn work(&self) {
        self.protected.with_mut(|place| {
            // SAFETY: the model fails when two are here at once.
            unsafe { *place += 1 };
        });
    }
}
