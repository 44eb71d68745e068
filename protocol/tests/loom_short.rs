//! Models: the word of a short connection while threads count in it, close it, begin another at its number, enter it in
//! full, and register it with a set of epoll's. They use `Shared` of the library as `short.rs` and `epoll/short.rs` of
//! the shim do.
#![cfg(loom)]

mod model;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use loom::sync::{Arc, Mutex};
use loom::thread;
use protocol::shm::sync::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use protocol::short::{AGES, CONNECTED, Left, REGISTERED, Shared, Word};

/// The age of the first connection: the last of all, so that the next has the first.
const FIRST: u32 = AGES;

/// A connection in full.
#[derive(Default)]
struct Conn {
    /// Written before anybody knows of it.
    flags: UnsafeCell<u64>,
    plain: AtomicU32,
    taken: AtomicU64,
}

/// The number of a descriptor.
struct Number {
    word: Shared,
    conns: [Conn; 2],
    /// Bytes that calls have taken from the kernel.
    taken: AtomicU64,
    /// Read by calls in the kernel; written by who is sure that there are none.
    calls: UnsafeCell<()>,
    claimed: AtomicBool,
}

impl Number {
    /// With a connection on which so many calls are under way.
    fn new(calls: u32) -> Arc<Number> {
        let number = Number {
            word: Shared::with(Word::new(FIRST, CONNECTED)),
            conns: Default::default(),
            taken: AtomicU64::new(0),
            calls: UnsafeCell::new(()),
            claimed: AtomicBool::new(false),
        };
        assert!((0..calls).all(|_| number.word.enter(FIRST)));
        Arc::new(number)
    }

    /// A call takes one byte.
    fn take(&self) {
        self.calls.with(|_| ());
        self.taken.fetch_add(1, Relaxed);
    }

    /// `Short::received`, with a connection for the case that it has to be entered in full.
    fn received(&self, place: u32, odd: bool) -> Left {
        loop {
            let left = self.word.leave(FIRST, 1, false, odd);
            match left {
                Left::Unfit => {
                    self.full(place);
                    continue;
                }
                Left::Moved(name) => {
                    // `way::received`
                    let conn = self.conn(name);
                    conn.taken.fetch_add(1, AcqRel);
                    conn.plain.fetch_sub(1, SeqCst);
                    self.claim(conn);
                }
                Left::Counted(_) | Left::Closed => {}
            }
            return left;
        }
    }

    /// One whole call, if it is short.
    fn receive(&self, place: u32) -> Option<Left> {
        self.word.enter(FIRST).then(|| {
            self.take();
            self.received(place, false)
        })
    }

    /// The connection of that name.
    fn conn(&self, name: u32) -> &Conn {
        let conn = &self.conns[name as usize];
        conn.flags.with(|flags| {
            // SAFETY: the model fails when it is written meanwhile.
            assert!(unsafe { *flags } & CONNECTED != 0);
        });
        conn
    }

    /// `life::fill`
    fn fill(&self, place: u32, word: Word) {
        let conn = &self.conns[place as usize];
        conn.flags.with_mut(|flags| {
            // SAFETY: the model fails when somebody else is here.
            unsafe { *flags = word.0 };
        });
        conn.plain.store(word.calls() + 1, Relaxed);
        conn.taken.store(word.taken(), Relaxed);
    }

    /// `Short::full`, by who has that place for it.
    fn full(&self, place: u32) -> Option<u32> {
        while let Some(word) = self.word.still(FIRST) {
            self.fill(place, word);
            if self.word.enter_in_full(word, place) {
                let conn = self.conn(place);
                conn.plain.fetch_sub(1, SeqCst);
                self.claim(conn);
                return Some(place);
            }
        }
        let word = self.word.now();
        let name = word.name().filter(|_| word.age() == FIRST)?;
        self.conn(name);
        Some(name)
    }

    /// `claim::attempt`: without calls under way, the count is that of the kernel.
    fn claim(&self, conn: &Conn) {
        if conn.plain.load(Acquire) == 0 && !self.claimed.swap(true, AcqRel) {
            // SYNC: the model fails when a call is in the kernel.
            self.calls.with_mut(|_| ());
            assert_eq!(conn.taken.load(Acquire), self.taken.load(Relaxed));
        }
    }

    /// Others begin and end at this number until the age is that of the first connection again. Gives the last one, on
    /// which a call is under way.
    fn used_again(&self) -> Option<Word> {
        for _ in 0..AGES {
            let word = self.word.begin(0)?;
            assert!(self.word.close(word.age()).is_some());
        }
        let last = self.word.begin(CONNECTED)?;
        assert!(last.age() == FIRST && self.word.enter(FIRST));
        self.word.still(FIRST)
    }
}

/// Two threads receive while it is entered in full: no byte and no call is lost, and it is claimed when all are over.
#[test]
fn counted_while_it_is_entered_in_full() {
    model::explore(3, || {
        let number = Number::new(1);
        let receivers = [false, true].map(|begun| {
            let number = number.clone();
            thread::spawn(move || {
                if begun {
                    number.take();
                    number.received(1, false);
                } else {
                    number.receive(1);
                }
            })
        });
        let name = number.full(0);
        assert_eq!(name, Some(0));
        for receiver in receivers {
            receiver.join().unwrap();
        }
        let conn = number.conn(0);
        assert_eq!(conn.taken.load(Relaxed), number.taken.load(Relaxed));
        assert_eq!(conn.plain.load(Relaxed), 0);
        assert!(number.claimed.load(Relaxed));
        assert_eq!(number.word.now().calls(), 0);
    });
}

/// Two threads enter it in full, one of them because its call is one of which no word can tell: both come to the same
/// connection.
#[test]
fn entered_in_full_by_two() {
    model::explore(4, || {
        let number = Number::new(1);
        let other = {
            let number = number.clone();
            thread::spawn(move || {
                number.take();
                number.received(1, true)
            })
        };
        let name = number.full(0).unwrap();
        assert_eq!(other.join().unwrap(), Left::Moved(name));
        let conn = number.conn(name);
        assert_eq!(conn.taken.load(Relaxed), 1);
        assert_eq!(conn.plain.load(Relaxed), 0);
        assert!(number.claimed.load(Relaxed));
    });
}

/// A thread receives while one closes and another enters it in full: it is the one or the other, and the byte is counted
/// there, or nowhere.
#[test]
fn closed_while_it_is_entered_in_full() {
    model::explore(3, || {
        let number = Number::new(0);
        let receiver = {
            let number = number.clone();
            thread::spawn(move || number.receive(1))
        };
        let closer = {
            let number = number.clone();
            thread::spawn(move || number.word.close(FIRST))
        };
        let name = number.full(0);
        let closed = closer.join().unwrap();
        let left = receiver.join().unwrap();
        assert_ne!(closed.is_some(), name.is_some());
        let counted = closed.map_or(number.conns[0].taken.load(Relaxed), |word| word.taken());
        let late = matches!(left, None | Some(Left::Closed));
        assert_eq!(counted, u64::from(!late));
        assert_eq!(number.word.now().calls(), 0);
    });
}

/// Two close it: it ends once.
#[test]
fn closed_by_two() {
    model::explore(4, || {
        let number = Number::new(0);
        let other = {
            let number = number.clone();
            thread::spawn(move || number.word.close(FIRST).is_some())
        };
        let here = number.word.close(FIRST).is_some();
        assert_ne!(here, other.join().unwrap());
    });
}

/// A thread that knows the number from before begins a call while it comes to be another connection's: that one is not
/// touched.
#[test]
fn begun_while_it_is_used_again() {
    model::explore(4, || {
        let number = Number::new(0);
        let late = {
            let number = number.clone();
            thread::spawn(move || number.receive(1))
        };
        assert!(number.word.close(FIRST).is_some());
        if let Some(next) = number.word.begin(CONNECTED) {
            late.join().unwrap();
            assert_eq!(number.word.still(next.age()), Some(next));
        }
    });
}

/// A call is under way while its connection is closed, and the number used as often as there are ages: it does not count
/// for the last one.
#[test]
fn used_again_while_a_call_is_under_way() {
    model::explore(2, || {
        let number = Number::new(1);
        let late = {
            let number = number.clone();
            thread::spawn(move || number.received(1, false))
        };
        assert!(number.word.close(FIRST).is_some());
        let last = number.used_again();
        let left = late.join().unwrap();
        assert!(matches!(left, Left::Counted(_) | Left::Closed));
        if let Some(last) = last {
            assert_eq!(number.word.still(FIRST), Some(last));
        } else {
            assert_eq!(number.word.now().calls(), 0);
        }
    });
}

/// The same of a connection that was entered in full, and lives on under another number: the call ends there.
#[test]
fn used_again_while_a_call_is_under_way_elsewhere() {
    model::explore(2, || {
        let number = Number::new(1);
        let late = {
            let number = number.clone();
            thread::spawn(move || {
                number.take();
                number.received(1, false)
            })
        };
        assert_eq!(number.full(0), Some(0));
        let last = number.used_again();
        assert_ne!(late.join().unwrap(), Left::Closed);
        if let Some(last) = last {
            assert_eq!(number.word.still(FIRST), Some(last));
        }
        assert_eq!(number.conns[0].taken.load(Relaxed), 1);
        assert_eq!(number.conns[0].plain.load(Relaxed), 0);
    });
}

/// Sets of epoll's, their registrations of the connection as the kernel has them, and as the connection has them when it
/// is entered in full; 0: none.
struct Sets {
    number: Arc<Number>,
    open: [AtomicBool; 2],
    kernel: [AtomicU32; 2],
    lists: Mutex<()>,
    full: UnsafeCell<[u32; 2]>,
    /// Of the first registration.
    note: [AtomicU32; 2],
}

impl Sets {
    fn new() -> Arc<Sets> {
        Arc::new(Sets {
            number: Number::new(0),
            open: [true, true].map(AtomicBool::new),
            kernel: Default::default(),
            lists: Mutex::new(()),
            full: UnsafeCell::new([0; 2]),
            note: Default::default(),
        })
    }

    fn noted(&self) -> Option<usize> {
        let set = self.note[0].load(Relaxed) as usize;
        self.open[set].load(Acquire).then_some(set)
    }

    fn put_full(&self, set: usize, events: u32) {
        self.full.with_mut(|full| {
            // SAFETY: the model fails when somebody else is here.
            unsafe { (*full)[set] = events };
        });
    }

    /// `epoll::short::locked`; `events` 0: EPOLL_CTL_DEL.
    fn ctl(&self, set: usize, events: u32) -> Option<()> {
        let _lists = self.lists.lock().unwrap();
        let word = self.number.word.still(FIRST)?;
        let known = word.has(REGISTERED).then(|| self.noted()).flatten();
        let here = known == Some(set);
        self.kernel[set].store(events, Relaxed);
        if events != 0 {
            self.note[0].store(set as u32, Relaxed);
            self.note[1].store(events, Relaxed);
        }
        let still = match here && events != 0 {
            true => self.number.word.still(FIRST).is_some(),
            false => self.number.word.put(FIRST, REGISTERED, events != 0),
        };
        if !still {
            // `follow`
            self.put_full(set, events);
        }
        Some(())
    }

    /// `epoll::short::enter`
    fn enter(&self, word: Word) -> bool {
        let publish = || self.number.word.enter_in_full(word, 0);
        if !word.has(REGISTERED) {
            return publish();
        }
        let _lists = self.lists.lock().unwrap();
        let done = publish();
        if done && let Some(set) = self.noted() {
            self.put_full(set, self.note[1].load(Relaxed));
        }
        done
    }

    /// Enters it in full while another thread receives, and a third registers it, which `ctl` does.
    fn explore(sets: Arc<Sets>, ctl: impl Fn(&Sets) -> Option<()> + Send + 'static) {
        let registering = {
            let sets = sets.clone();
            thread::spawn(move || ctl(&sets))
        };
        let receiver = {
            let number = sets.number.clone();
            thread::spawn(move || number.receive(1))
        };
        while let Some(word) = sets.number.word.still(FIRST) {
            sets.number.fill(0, word);
            if sets.enter(word) {
                break;
            }
        }
        registering.join().unwrap();
        receiver.join().unwrap();
        let open = [0, 1].map(|i| u32::from(sets.open[i].load(Relaxed)));
        let kernel = [0, 1].map(|i| open[i] * sets.kernel[i].load(Relaxed));
        sets.full.with(|full| {
            // SAFETY: everybody else has ended.
            let full = unsafe { *full };
            assert_eq!([0, 1].map(|i| open[i] * full[i]), kernel);
        });
    }
}

/// Its first registration.
#[test]
fn registered_while_it_is_entered_in_full() {
    model::explore(2, || Sets::explore(Sets::new(), |sets| sets.ctl(0, 1)));
}

/// It is registered for something else, and taken out of the set.
#[test]
fn registered_anew_while_it_is_entered_in_full() {
    model::explore(2, || {
        let sets = Sets::new();
        assert!(sets.ctl(0, 1).is_some());
        Sets::explore(sets, |sets| sets.ctl(0, 2).and_then(|()| sets.ctl(0, 0)));
    });
}

/// The set in which it was is closed: another is its first then.
#[test]
fn registered_elsewhere_while_it_is_entered_in_full() {
    model::explore(2, || {
        let sets = Sets::new();
        assert!(sets.ctl(0, 1).is_some());
        sets.open[0].store(false, Release);
        Sets::explore(sets, |sets| sets.ctl(1, 2));
    });
}
