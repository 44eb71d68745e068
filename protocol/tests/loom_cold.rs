//! Model: the active list of an epoll set, and the hints for what is not on it (`epoll::active` of
//! the shim). A hint that is lost shows as a deadlock.
#![cfg(loom)]

mod model;

use loom::sync::atomic::{AtomicBool, AtomicU64};
use loom::sync::{Arc, Mutex};
use loom::thread;
use model::Context;
use protocol::shm::sync::{Ordering, fence};
use protocol::shm::wait::{COLD, Hints};

/// The entry of the set's context among the watchers of a connection.
const HOT: u64 = 1;
const CALLED_COLD: u64 = HOT | COLD as u64;

/// A connection: what was sent on it and what was taken.
struct Link {
    /// The number under which it wants hints.
    number: u32,
    sent: AtomicU64,
    taken: AtomicU64,
    watcher: AtomicU64,
    /// On the active list.
    hot: AtomicBool,
}

impl Link {
    fn new(number: u32, hot: bool) -> Self {
        Link {
            number,
            sent: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            watcher: AtomicU64::new(if hot { HOT } else { CALLED_COLD }),
            hot: AtomicBool::new(hot),
        }
    }

    fn data(&self) -> u64 {
        self.sent.load(Ordering::Acquire) - self.taken.load(Ordering::Acquire)
    }

    fn take(&self) -> bool {
        let taken = self.taken.load(Ordering::Acquire);
        self.sent.load(Ordering::Acquire) > taken
            && self
                .taken
                .compare_exchange(taken, taken + 1, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    /// `Set::heat`: the caller holds the lock of the lists.
    fn heat(&self) {
        if !self.hot.load(Ordering::Relaxed) {
            self.watcher.store(HOT, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            self.hot.store(true, Ordering::SeqCst);
        }
    }

    /// `Set::cool`: a look has found nothing.
    fn cool(&self, lists: &Mutex<()>) {
        let _lists = lists.lock().unwrap();
        self.watcher.store(CALLED_COLD, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if self.data() != 0 {
            self.watcher.store(HOT, Ordering::SeqCst);
        } else {
            self.hot.store(false, Ordering::SeqCst);
        }
    }
}

struct Set {
    links: Vec<Link>,
    context: Context,
    hints: Hints,
    lists: Mutex<()>,
}

impl Set {
    /// A set with a connection for each number and whether it is hot.
    fn new(links: &[(u32, bool)]) -> Arc<Self> {
        Arc::new(Set {
            links: links.iter().map(|l| Link::new(l.0, l.1)).collect(),
            context: Context::default(),
            hints: Hints::default(),
            lists: Mutex::new(()),
        })
    }

    /// Producer: publishes, then `wake_watchers`.
    fn send(&self, n: usize) {
        let link = &self.links[n];
        link.sent.fetch_add(1, Ordering::Release);
        fence(Ordering::SeqCst);
        if link.watcher.load(Ordering::Relaxed) & u64::from(COLD) != 0 {
            self.hints.put(link.number);
        }
        self.context.wake_if_asleep();
    }

    fn take_hints(&self) {
        if self.hints.any() {
            let _lists = self.lists.lock().unwrap();
            self.hints.take(|number| {
                let named = self.links.iter().filter(|link| link.number == number);
                named.for_each(Link::heat);
            });
        }
    }

    fn hot(&self) -> impl Iterator<Item = &Link> {
        self.links
            .iter()
            .filter(|link| link.hot.load(Ordering::SeqCst))
    }

    /// One event for the program, which takes what it is told of.
    fn look(&self) -> bool {
        self.take_hints();
        self.hot().any(Link::take)
    }

    fn promising(&self) -> bool {
        self.take_hints();
        let mut hot = self.hot();
        hot.any(|link| link.data() != 0)
    }

    fn cool_all(&self) {
        for link in self.hot() {
            link.cool(&self.lists);
        }
    }

    /// Silences the doorbell of an empty set.
    fn silence_if_empty(&self) {
        if !self.promising() && self.context.bell.rings() {
            self.context.silence();
            if self.promising() {
                self.context.bell.ring();
            }
        }
    }

    /// `epoll_wait` without a time limit, in which each look in vain makes connections cold.
    fn wait(&self) {
        while !self.look() {
            self.cool_all();
            self.context.word.enter();
            if !self.promising() {
                self.context.bell.wait();
            }
            self.context.word.leave();
            if self.look() {
                return;
            }
            self.silence_if_empty();
        }
    }
}

/// A connection that becomes cold while its peer sends.
#[test]
fn something_comes_while_it_becomes_cold() {
    model::explore(3, || {
        let set = Set::new(&[(70, true)]);
        let sending = {
            let set = set.clone();
            thread::spawn(move || {
                set.send(0);
                set.send(0);
            })
        };
        set.wait();
        set.wait();
        sending.join().unwrap();
    });
}

/// Two cold connections, and two threads of the peer.
fn two_cold_ones(numbers: [u32; 2]) {
    model::explore(2, move || {
        let set = Set::new(&numbers.map(|number| (number, false)));
        let sending = [0, 1].map(|n| {
            let set = set.clone();
            thread::spawn(move || set.send(n))
        });
        set.wait();
        set.wait();
        for thread in sending {
            thread.join().unwrap();
        }
    });
}

#[test]
fn two_cold_ones_share_a_bit() {
    two_cold_ones([70, 70]);
}

#[test]
fn two_cold_ones_share_a_word() {
    two_cold_ones([70, 71]);
}

/// One thread follows the hint for a connection while another calls one cold that shares the bit.
#[test]
fn one_becomes_cold_while_another_is_named() {
    model::explore(3, || {
        let set = Set::new(&[(70, true), (70, false)]);
        set.send(1);
        let sleeper = {
            let set = set.clone();
            thread::spawn(move || {
                set.cool_all();
                set.wait();
            })
        };
        let producer = {
            let set = set.clone();
            thread::spawn(move || set.send(0))
        };
        set.take_hints();
        // One event at most: the other is for the sleeper.
        set.links[1].take();
        producer.join().unwrap();
        sleeper.join().unwrap();
    });
}

/// A hint that one thread takes off, another that goes to sleep finds followed.
#[test]
fn a_sleeper_and_a_poller() {
    model::explore(2, || {
        let set = Set::new(&[(70, false)]);
        let sleeper = {
            let set = set.clone();
            thread::spawn(move || set.wait())
        };
        let producer = {
            let set = set.clone();
            thread::spawn(move || {
                set.send(0);
                set.send(0);
            })
        };
        // One event at most: the other is for the sleeper.
        set.look();
        set.cool_all();
        set.silence_if_empty();
        producer.join().unwrap();
        sleeper.join().unwrap();
    });
}
