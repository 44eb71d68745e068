//! Model: sleepers and doorbells (design §5). A wake-up that is lost shows as a deadlock.
#![cfg(loom)]

mod model;

use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
use loom::sync::{Arc, Mutex};
use loom::thread;
use model::{Bell, Context, Ring};
use protocol::shm::cdc::{Cursor, Place, flag};
use protocol::shm::consumer_word::ConsumerWord;
use protocol::shm::ring::{Consumer, Producer};
use protocol::shm::sync::{Ordering, fence};
use protocol::shm::wait::WaitWord;

/// A connection in one direction, one byte per message.
struct Link {
    ring: Ring,
    reader: Context,
    writer: Context,
}

impl Link {
    fn new(size: u32) -> Arc<Self> {
        let ring = Ring::new(size, Place::default());
        Arc::new(Link {
            ring,
            reader: Context::default(),
            writer: Context::default(),
        })
    }

    fn producer(&self) -> Producer {
        self.ring.producer(Place::default())
    }

    fn consumer(&self) -> Consumer {
        self.ring.consumer(Place::default())
    }

    fn put(&self, producer: &mut Producer, byte: u8) {
        self.ring.write(producer.span(1), &[byte]);
        producer.publish(&self.ring.to_receiver, producer.after(1));
        self.reader.wake();
    }

    fn take(&self, consumer: &mut Consumer) -> Option<u8> {
        consumer.refresh(&self.ring.to_receiver).unwrap();
        if consumer.available() == 0 {
            return None;
        }
        let byte = self.ring.read(consumer.span(1))[0];
        consumer.consumed = consumer.after(1);
        Some(byte)
    }

    fn ready(&self, consumer: &Consumer) -> bool {
        let mut look = *consumer;
        look.refresh(&self.ring.to_receiver).unwrap();
        look.available() != 0
    }
}

#[test]
fn one_sleeper() {
    model::explore(3, || {
        let link = Link::new(3);
        let sending = {
            let link = link.clone();
            thread::spawn(move || {
                let mut producer = link.producer();
                for byte in 1..=3 {
                    link.put(&mut producer, byte);
                }
            })
        };
        let mut consumer = link.consumer();
        let mut got = Vec::new();
        while got.len() < 3 {
            match link.take(&mut consumer) {
                Some(byte) => got.push(byte),
                None => link.reader.sleep_unless(|| link.ready(&consumer)),
            }
        }
        sending.join().unwrap();
        assert_eq!(got, [1, 2, 3]);
    });
}

/// One sleeper that two threads of the peer send to, on two connections: they share the doorbell and
/// the mark of the epoch.
#[test]
fn one_sleeper_two_producers() {
    model::explore(2, || {
        let context = Arc::new(Context::default());
        let links: [Arc<AtomicU64>; 2] = Default::default();
        let sending = links.clone().map(|link| {
            let context = context.clone();
            thread::spawn(move || {
                for n in 1..=2 {
                    link.store(n, Ordering::Release);
                    context.wake();
                }
            })
        });
        let sum = || {
            links
                .iter()
                .map(|link| link.load(Ordering::Acquire))
                .sum::<u64>()
        };
        let mut seen = 0;
        while seen < 4 {
            let now = sum();
            if now == seen {
                context.sleep_unless(|| sum() != seen);
            }
            seen = now;
        }
        for thread in sending {
            thread.join().unwrap();
        }
    });
}

/// An epoll set: its doorbell is level-triggered, and silenced only by who found the set empty.
struct Set {
    link: Arc<Link>,
    consumer: Mutex<Consumer>,
}

impl Set {
    fn new(size: u32) -> Arc<Self> {
        let link = Link::new(size);
        let consumer = Mutex::new(link.consumer());
        Arc::new(Set { link, consumer })
    }

    fn look(&self) -> bool {
        self.link.take(&mut self.consumer.lock().unwrap()).is_some()
    }

    fn ready(&self) -> bool {
        self.link.ready(&self.consumer.lock().unwrap())
    }

    /// Silences the doorbell of an empty set. Who finds something afterwards rings again: those who
    /// were asleep in the old epoch were not rung for it.
    fn silence_if_empty(&self) {
        let context = &self.link.reader;
        if !self.ready() && context.bell.rings() {
            context.silence();
            if self.ready() {
                context.bell.ring();
            }
        }
    }

    /// `epoll_wait` without a time limit; the program takes what it is told of.
    fn wait(&self) {
        let context = &self.link.reader;
        while !self.look() {
            context.word.enter();
            if !self.ready() {
                context.bell.wait();
            }
            context.word.leave();
            if self.look() {
                return;
            }
            self.silence_if_empty();
        }
    }
}

#[test]
fn two_sleepers_on_one_set() {
    model::explore(2, || {
        let set = Set::new(2);
        let sleepers: [_; 2] = std::array::from_fn(|_| {
            let set = set.clone();
            thread::spawn(move || set.wait())
        });
        let mut producer = set.link.producer();
        set.link.put(&mut producer, 1);
        set.link.put(&mut producer, 2);
        for thread in sleepers {
            thread.join().unwrap();
        }
    });
}

/// A thread that only polls takes one event and silences the bell before the sleeper runs: the next
/// event must ring again.
#[test]
fn a_sleeper_and_a_poller_on_one_set() {
    model::explore(3, || {
        let set = Set::new(2);
        let sleeper = {
            let set = set.clone();
            thread::spawn(move || set.wait())
        };
        let producer = {
            let set = set.clone();
            thread::spawn(move || {
                let mut producer = set.link.producer();
                set.link.put(&mut producer, 1);
                set.link.put(&mut producer, 2);
            })
        };
        // One event at most: the other is for the sleeper.
        set.look();
        set.silence_if_empty();
        producer.join().unwrap();
        sleeper.join().unwrap();
    });
}

/// A writer that finds the ring full and a reader that finds it empty put each other to sleep and
/// wake each other: `full` and `confirm` of the shim.
#[test]
fn a_blocked_writer() {
    model::explore(2, || {
        const BYTES: u8 = 3;
        let link = Link::new(1);
        let sending = {
            let link = link.clone();
            thread::spawn(move || write_all(&link, BYTES))
        };
        let mut consumer = link.consumer();
        let word = ConsumerWord::default();
        let mut got = 0;
        while got < BYTES {
            match link.take(&mut consumer) {
                Some(byte) => {
                    got += 1;
                    assert_eq!(byte, got);
                    confirm(&link, &word, &consumer);
                }
                None => link.reader.sleep_unless(|| link.ready(&consumer)),
            }
        }
        sending.join().unwrap();
    });
}

fn confirm(link: &Link, word: &ConsumerWord, consumer: &Consumer) {
    word.confirm(
        Some(&link.ring.to_sender),
        consumer.consumed.cursor,
        consumer.size,
    );
    fence(Ordering::SeqCst);
    let (_, flags) = Cursor::from_word(link.ring.to_receiver.consumer.load(Ordering::Relaxed));
    if flags & flag::WRITE_BLOCKED != 0 {
        link.writer.wake();
    }
}

fn write_all(link: &Link, bytes: u8) {
    let mut producer = link.producer();
    let (word, blocked) = (ConsumerWord::default(), AtomicBool::new(false));
    let peer = Some(&link.ring.to_receiver);
    let mut next = 1;
    while next <= bytes {
        producer.refresh(&link.ring.to_sender).unwrap();
        if producer.free() != 0 {
            link.put(&mut producer, next);
            next += 1;
            if blocked.swap(false, Ordering::AcqRel) {
                word.change_flags(peer, 0, flag::WRITE_BLOCKED);
            }
        } else if !blocked.swap(true, Ordering::AcqRel) {
            word.change_flags(peer, flag::WRITE_BLOCKED, 0);
            fence(Ordering::SeqCst);
        } else {
            let full = producer;
            link.writer.sleep_unless(|| {
                let mut look = full;
                look.refresh(&link.ring.to_sender).unwrap();
                look.free() != 0
            });
        }
    }
}

/// The doorbells of a peer's two contexts as `lgr` learns of them: from messages that any thread
/// which finds a bell missing takes off the channel, in order, for all.
#[derive(Default)]
struct Bells {
    bell: [Bell; 2],
    known: [AtomicBool; 2],
    rung: [AtomicU64; 2],
    seen: AtomicUsize,
}

impl Bells {
    /// `LinkGroup::wake`, for a context that is asleep.
    fn wake(&self, n: usize) {
        if self.rung[n].swap(1, Ordering::AcqRel) == 1 {
            return;
        }
        // Either we find the bell, or who installs it finds our mark and rings for us.
        fence(Ordering::SeqCst);
        if !self.known[n].load(Ordering::Acquire) {
            self.fetch();
        }
        if self.known[n].load(Ordering::Acquire) {
            self.bell[n].ring();
        }
    }

    /// `LinkGroup::fetch_bells`.
    fn fetch(&self) {
        loop {
            let number = self.seen.load(Ordering::Acquire);
            if number == 2 {
                return;
            }
            let taken =
                self.seen
                    .compare_exchange(number, number + 1, Ordering::AcqRel, Ordering::Relaxed);
            if taken.is_err() {
                continue;
            }
            self.known[number].store(true, Ordering::Release);
            fence(Ordering::SeqCst);
            if self.rung[number].load(Ordering::Relaxed) != 0 {
                self.bell[number].ring();
            }
        }
    }
}

#[test]
fn a_bell_that_another_thread_is_about_to_install() {
    model::explore(3, || {
        let bells = Arc::new(Bells::default());
        let waking = {
            let bells = bells.clone();
            thread::spawn(move || bells.wake(0))
        };
        bells.wake(1);
        waking.join().unwrap();
        assert!(bells.bell[0].rings() && bells.bell[1].rings());
    });
}

/// A context that another process of the peer's family has taken over, with a doorbell of its own: the
/// one that we know rings where nobody sleeps any more. `lgr` and `ctx` of the shim.
struct TakenOver {
    word: WaitWord,
    /// By generation - 1.
    bells: [Bell; 2],
    /// Messages on the channel; the first has been looked at.
    sent: AtomicUsize,
    seen: AtomicUsize,
    peek: Mutex<()>,
    /// The doorbell that we know of, and its generation.
    fd: AtomicUsize,
    of: AtomicU32,
    rung: AtomicU64,
    data: [AtomicU64; 2],
}

impl TakenOver {
    fn new() -> Arc<Self> {
        let word = WaitWord::default();
        word.new_bell();
        Arc::new(TakenOver {
            word,
            bells: Default::default(),
            sent: AtomicUsize::new(1),
            seen: AtomicUsize::new(1),
            peek: Mutex::new(()),
            fd: AtomicUsize::new(0),
            of: AtomicU32::new(1),
            rung: AtomicU64::new(0),
            data: Default::default(),
        })
    }

    /// The new owner: `ctx::take`, `LinkGroup::announce`, and sleep until both have written.
    fn own(&self) {
        self.word.new_bell();
        self.sent.store(2, Ordering::Release);
        let come = || self.data.iter().all(|d| d.load(Ordering::Acquire) != 0);
        while !come() {
            self.word.enter();
            if !come() {
                self.bells[1].wait();
            }
            self.word.leave();
            self.bells[1].silence();
            self.word.renew();
        }
    }

    fn write(&self, n: usize) {
        self.data[n].store(1, Ordering::Release);
        fence(Ordering::SeqCst);
        self.wake();
    }

    /// `LinkGroup::wake`.
    fn wake(&self) {
        let Some(epoch) = self.word.epoch_if_asleep() else {
            return;
        };
        let mark = epoch << 1 | 1;
        if self.rung.swap(mark, Ordering::AcqRel) == mark {
            return;
        }
        fence(Ordering::SeqCst);
        let valid = self.word.bell();
        if self.of.load(Ordering::Acquire) != valid {
            self.fetch();
        }
        self.bells[self.fd.load(Ordering::Acquire)].ring();
    }

    /// `LinkGroup::fetch_bells` and `install`.
    fn fetch(&self) {
        let _peek = self.peek.lock().unwrap();
        if self.seen.load(Ordering::Acquire) == self.sent.load(Ordering::Acquire) {
            return;
        }
        self.seen.store(2, Ordering::Release);
        self.fd.store(1, Ordering::Release);
        self.of.store(2, Ordering::Release);
    }
}

#[test]
fn a_context_that_was_taken_over() {
    model::explore(3, || {
        let context = TakenOver::new();
        let owner = {
            let context = context.clone();
            thread::spawn(move || context.own())
        };
        let other = {
            let context = context.clone();
            thread::spawn(move || context.write(1))
        };
        context.write(0);
        other.join().unwrap();
        owner.join().unwrap();
    });
}
