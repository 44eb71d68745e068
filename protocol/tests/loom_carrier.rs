//! Model: a direction that goes onto the ring and back to TCP (design §6). Every byte once and in
//! order, whoever wants out and whenever.
//!
//! The two ends are those of the shim (`tx`, `rx`, `revert`, `handshake`), one byte at a time and
//! without what does not matter here.
#![cfg(loom)]

mod model;

use loom::sync::{Arc, Mutex};
use loom::thread;
use model::Ring;
use protocol::ids::Role::Client;
use protocol::shm::cdc::Place;
use protocol::shm::consumer_word::ConsumerWord;
use protocol::shm::pair::{Carrier, Direction, GateState, PairSlot};
use protocol::shm::ring::{Consumer, Producer};
use protocol::shm::sync::Ordering;
use std::collections::VecDeque;

const SIZE: u32 = 3;

/// A pair whose client sends, its ring, and what the kernel has queued in that direction.
struct Wire {
    slot: PairSlot,
    ring: Ring,
    tcp: Mutex<VecDeque<u8>>,
    /// Bytes that the kernel queues at most.
    capacity: usize,
}

struct Sender {
    wire: Arc<Wire>,
    producer: Producer,
    on_ring: bool,
    /// Next ring position to be repeated over TCP.
    repeat: Option<u64>,
    sent: u64,
}

impl Sender {
    fn over_tcp(&mut self, byte: u8) -> bool {
        let mut queue = self.wire.tcp.lock().unwrap();
        if queue.len() == self.wire.capacity {
            return false;
        }
        queue.push_back(byte);
        self.sent += 1;
        true
    }

    /// `tx::step`. False: no room.
    fn send(&mut self, byte: u8) -> bool {
        let wire = self.wire.clone();
        if self.on_ring {
            let direction = wire.slot.direction(Client).load();
            if direction.carrier == Carrier::Ring {
                self.producer.refresh(&wire.ring.to_sender).unwrap();
                if self.producer.free() == 0 {
                    return false;
                }
                let taken = &wire.slot.counts(Client.peer()).taken;
                self.producer.rebase(1, taken);
                wire.ring.write(self.producer.span(1), &[byte]);
                let place = self.producer.after(1);
                self.producer.publish(&wire.ring.to_receiver, place);
                return true;
            }
            self.follow_freeze(direction);
        }
        (self.repeat.is_none() || self.repeat()) && self.over_tcp(byte)
    }

    /// `revert::finish`.
    fn finish(&mut self) {
        if self.on_ring {
            let end = self.producer.produced.position;
            match self.wire.slot.direction(Client).finish(end) {
                Ok(()) => self.on_ring = false,
                Err(direction) => self.follow_freeze(direction),
            }
        }
    }

    /// `revert::follow_freeze`: once for a freeze, whoever of several threads comes first.
    fn follow_freeze(&mut self, direction: Direction) {
        if !self.on_ring {
            return;
        }
        self.on_ring = false;
        if direction.carrier == Carrier::Frozen {
            self.repeat = Some(self.end_taking(direction));
            self.repeat();
        }
    }

    /// `revert::end_taking`.
    fn end_taking(&self, mut frozen: Direction) -> u64 {
        let (from, to) = (self.producer.consumed, self.producer.produced);
        loop {
            match self.wire.slot.direction(Client).repeat(frozen) {
                Ok(()) => {
                    return frozen
                        .position_after(from.position, to.position)
                        .expect("what was taken was published");
                }
                Err(now) => {
                    assert_eq!(now.carrier, Carrier::Frozen);
                    frozen = now;
                }
            }
        }
    }

    /// `revert::repeat`.
    fn repeat(&mut self) -> bool {
        let wire = self.wire.clone();
        let end = self.producer.produced;
        while let Some(from) = self.repeat {
            if from == end.position {
                wire.slot.direction(Client).to_tcp().unwrap();
                self.producer.consumed = end;
                self.repeat = None;
                break;
            }
            let at = Producer {
                produced: Place::at(from, SIZE),
                ..self.producer
            };
            let byte = wire.ring.read(at.span(1))[0];
            if !self.over_tcp(byte) {
                return false;
            }
            self.repeat = Some(from + 1);
        }
        true
    }

    /// The sending half of `ready::service`.
    fn service(&mut self) {
        let direction = self.wire.slot.direction(Client).load();
        if self.on_ring && direction.carrier != Carrier::Ring {
            self.follow_freeze(direction);
        } else if self.repeat.is_some() {
            self.repeat();
        }
    }

    /// `handshake::switch`. What is on its way over TCP comes first.
    fn switch(&mut self) -> bool {
        let wire = self.wire.clone();
        let (word, gate) = (wire.slot.direction(Client), wire.slot.gate(Client));
        if self.on_ring || self.repeat.is_some() {
            return false;
        }
        if word.load().carrier != Carrier::Tcp {
            return false;
        }
        self.producer.refresh(&wire.ring.to_sender).unwrap();
        if self.producer.free() != SIZE || !gate.hold_for_switch() {
            return false;
        }
        let counts = wire.slot.counts(Client);
        counts.seam.store(self.sent, Ordering::Release);
        self.on_ring = word.to_ring(self.producer.produced.position).is_ok();
        gate.switched();
        self.on_ring
    }
}

struct Receiver {
    wire: Arc<Wire>,
    consumer: Consumer,
    word: ConsumerWord,
    on_ring: bool,
    frozen: bool,
    taken: u64,
    got: Vec<u8>,
}

impl Receiver {
    /// `rx::step` with a small buffer: one byte on the ring, all that TCP has.
    fn receive(&mut self) {
        for _ in 0..4 {
            let done = if self.on_ring {
                self.take_from_ring()
            } else {
                self.take_from_tcp()
            };
            if done {
                return;
            }
        }
    }

    fn take_from_ring(&mut self) -> bool {
        let wire = self.wire.clone();
        self.consumer.refresh(&wire.ring.to_receiver).unwrap();
        if self.consumer.available() == 0 {
            return self.empty_ring();
        }
        self.got.extend(wire.ring.read(self.consumer.span(1)));
        self.consumer.consumed = self.consumer.after(1);
        self.show_taken();
        self.confirm();
        true
    }

    fn show_taken(&self) {
        let counts = self.wire.slot.counts(Client.peer());
        let here = self.consumer.consumed.position;
        counts.taken.store(here, Ordering::Release);
    }

    fn confirm(&self) {
        let cursor = self.consumer.consumed.cursor;
        self.word
            .confirm(Some(&self.wire.ring.to_sender), cursor, SIZE);
    }

    fn empty_ring(&mut self) -> bool {
        let wire = self.wire.clone();
        let word = wire.slot.direction(Client);
        let direction = word.load();
        let here = self.consumer.consumed.position;
        match direction.carrier {
            Carrier::Ring => {
                let strange = !wire.tcp.lock().unwrap().is_empty();
                if strange && word.load() == direction {
                    self.consumer.refresh(&wire.ring.to_receiver).unwrap();
                    assert_ne!(
                        self.consumer.available(),
                        0,
                        "bytes on TCP before the ring's"
                    );
                }
                !strange
            }
            Carrier::Final => {
                if direction.position_after(here, here).is_some() && word.to_tcp().is_ok() {
                    self.confirm();
                    self.on_ring = false;
                }
                false
            }
            Carrier::Frozen | Carrier::Repeating | Carrier::Tcp => unreachable!(),
        }
    }

    fn take_from_tcp(&mut self) -> bool {
        let wire = self.wire.clone();
        let gate = wire.slot.gate(Client);
        self.thaw();
        match gate.state() {
            GateState::Shut => return self.follow_or_take(),
            GateState::Busy => unreachable!(),
            GateState::Switch => {
                thread::yield_now();
                return false;
            }
            GateState::Open => {}
        }
        if !gate.shut() {
            return false;
        }
        // Only now nothing moves any more.
        let done = self.follow_or_take();
        let counts = wire.slot.counts(Client.peer());
        counts.consumed.store(self.taken, Ordering::Release);
        assert!(gate.open());
        done
    }

    /// False: the ring is next.
    fn follow_or_take(&mut self) -> bool {
        let limit = self.up_to_seam();
        self.take(limit)
    }

    fn take(&mut self, up_to_seam: Option<u64>) -> bool {
        let limit = match up_to_seam {
            Some(0) if self.frozen => return self.take_from_frozen(),
            Some(0) => return !self.follow_onto_ring(),
            Some(n) => n as usize,
            None => usize::MAX,
        };
        let mut queue = self.wire.tcp.lock().unwrap();
        let n = queue.len().min(limit);
        self.taken += n as u64;
        self.got.extend(queue.drain(..n));
        true
    }

    /// `rx::from_frozen`. False: look again.
    fn take_from_frozen(&mut self) -> bool {
        let wire = self.wire.clone();
        let direction = wire.slot.direction(Client).load();
        if direction.carrier != Carrier::Frozen {
            return false;
        }
        self.consumer.refresh(&wire.ring.to_receiver).unwrap();
        if self.consumer.available() == 0 {
            return self.take(None);
        }
        let bytes = wire.ring.read(self.consumer.span(1));
        let after = self.consumer.after(1);
        let word = wire.slot.direction(Client);
        if word.take_frozen(direction, after.position).is_err() {
            return false;
        }
        self.consumer.consumed = after;
        self.show_taken();
        self.got.extend(bytes);
        true
    }

    /// `onto_ring::up_to_seam`.
    fn up_to_seam(&self) -> Option<u64> {
        let here = self.consumer.consumed.position;
        let direction = self.wire.slot.direction(Client).load();
        let gone = match self.frozen {
            false => !self.on_ring && direction.has_gone_onto_ring(here, SIZE),
            true => direction.carrier == Carrier::Frozen,
        };
        let seam = || {
            let counts = self.wire.slot.counts(Client);
            counts.seam.load(Ordering::Acquire)
        };
        gone.then(|| {
            seam()
                .checked_sub(self.taken)
                .expect("taken beyond the seam")
        })
    }

    /// `onto_ring::follow`.
    fn follow_onto_ring(&mut self) -> bool {
        self.on_ring |= !self.frozen && self.up_to_seam() == Some(0);
        self.on_ring
    }

    /// The receiving half of `ready::service`, which looks whatever the gate's state is.
    fn service(&mut self) {
        if self.up_to_seam() == Some(0) {
            self.follow_onto_ring();
        }
    }

    /// `revert::thaw`.
    fn thaw(&mut self) {
        if self.frozen && self.wire.slot.direction(Client).load().carrier == Carrier::Tcp {
            self.consumer.refresh(&self.wire.ring.to_receiver).unwrap();
            self.consumer.consumed = self.consumer.produced;
            self.show_taken();
            self.confirm();
            self.frozen = false;
        }
    }

    /// `revert::leave_step`, the receiving half. True: TCP for good.
    fn leave(&mut self) -> bool {
        let wire = self.wire.clone();
        let word = wire.slot.direction(Client);
        if !wire.slot.gate(Client).shut() {
            return false;
        }
        self.follow_onto_ring();
        if self.on_ring || self.up_to_seam().is_some() {
            self.confirm();
            if word.freeze(self.consumer.consumed.position).is_ok() {
                self.on_ring = false;
                self.frozen = true;
            }
        }
        self.thaw();
        let (direction, here) = (word.load(), self.consumer.consumed.position);
        if direction.carrier == Carrier::Final && direction.position_after(here, here).is_some() {
            word.to_tcp().unwrap();
            self.on_ring = false;
        }
        word.load().carrier == Carrier::Tcp
    }
}

fn ends(capacity: usize, start: u64) -> (Sender, Receiver) {
    let start = Place::at(start, SIZE);
    let ring = Ring::new(SIZE, start);
    let (producer, consumer) = (ring.producer(start), ring.consumer(start));
    let wire = Arc::new(Wire {
        slot: PairSlot::default(),
        ring,
        tcp: Mutex::default(),
        capacity,
    });
    assert!(wire.slot.gate(Client).open());
    let sender = Sender {
        wire: wire.clone(),
        producer,
        on_ring: false,
        repeat: None,
        sent: 0,
    };
    let receiver = Receiver {
        wire,
        consumer,
        word: ConsumerWord::default(),
        on_ring: false,
        frozen: false,
        taken: 0,
        got: Vec::new(),
    };
    receiver.word.confirm(None, start.cursor, SIZE);
    (sender, receiver)
}

/// Both ends on, until all was received.
fn settle(sender: &mut Sender, receiver: &mut Receiver, bytes: u8) {
    for _ in 0..12 {
        sender.service();
        receiver.receive();
    }
    assert_eq!(receiver.got, Vec::from_iter(1..=bytes));
}

#[test]
fn the_sender_finishes_while_the_receiver_leaves() {
    model::explore(3, || {
        let (mut sender, mut receiver) = ends(9, 2);
        assert!(sender.switch());
        sender.send(1);
        sender.send(2);
        let sending = thread::spawn(move || {
            sender.send(3);
            sender.finish();
            sender.send(4);
            sender
        });
        receiver.receive();
        receiver.leave();
        receiver.receive();
        let mut sender = sending.join().unwrap();
        settle(&mut sender, &mut receiver, 4);
        assert!(receiver.leave());
    });
}

#[test]
fn the_receiver_leaves_a_sender_that_goes_on() {
    model::explore(3, || {
        let (mut sender, mut receiver) = ends(9, 2);
        assert!(sender.switch());
        sender.send(1);
        let sending = thread::spawn(move || {
            for byte in 2..=3 {
                assert!(sender.send(byte));
            }
            sender
        });
        receiver.receive();
        receiver.leave();
        receiver.receive();
        let mut sender = sending.join().unwrap();
        settle(&mut sender, &mut receiver, 3);
        assert!(receiver.leave());
    });
}

#[test]
fn onto_the_ring_and_off_and_on_again() {
    model::explore(3, || {
        let (mut sender, mut receiver) = ends(9, 2);
        let sending = thread::spawn(move || {
            sender.switch();
            sender.send(1);
            sender.finish();
            sender.send(2);
            sender.switch();
            sender.send(3);
            sender
        });
        for _ in 0..3 {
            receiver.receive();
        }
        let mut sender = sending.join().unwrap();
        settle(&mut sender, &mut receiver, 3);
        // And once more, from wherever that ended.
        sender.finish();
        settle(&mut sender, &mut receiver, 3);
        assert!(sender.switch());
        sender.send(4);
        settle(&mut sender, &mut receiver, 4);
    });
}

/// The kernel's queue is never empty when the sender goes onto the ring, leaves it and goes again.
#[test]
fn seams_in_a_busy_stream() {
    model::explore(3, || {
        let (mut sender, mut receiver) = ends(9, 2);
        sender.send(1);
        let sending = thread::spawn(move || {
            sender.switch();
            sender.send(2);
            sender.finish();
            sender.send(3);
            sender.switch();
            sender.send(4);
            sender
        });
        for _ in 0..3 {
            receiver.receive();
            receiver.service();
        }
        let mut sender = sending.join().unwrap();
        settle(&mut sender, &mut receiver, 4);
    });
}

#[test]
fn the_sender_switches_while_the_receiver_leaves() {
    model::explore(3, || {
        let (mut sender, mut receiver) = ends(9, 2);
        let sending = thread::spawn(move || {
            sender.send(1);
            sender.switch();
            sender.send(2);
            sender.switch();
            sender.send(3);
            sender
        });
        receiver.receive();
        receiver.leave();
        receiver.receive();
        let mut sender = sending.join().unwrap();
        settle(&mut sender, &mut receiver, 3);
        // The first attempt may have met the sender at its switch.
        receiver.leave();
        sender.service();
        assert!(receiver.leave());
        assert!(!sender.switch(), "the receiver has left for good");
    });
}

/// The receiver goes on reading the ring that it has frozen, until the sender takes notice.
#[test]
fn a_frozen_ring_is_read_until_the_sender_repeats_it() {
    model::explore(3, || {
        let (mut sender, mut receiver) = ends(9, 2);
        assert!(sender.switch());
        sender.send(1);
        sender.send(2);
        let sending = thread::spawn(move || {
            sender.send(3);
            sender.service();
            sender
        });
        receiver.leave();
        for _ in 0..3 {
            receiver.receive();
        }
        let mut sender = sending.join().unwrap();
        settle(&mut sender, &mut receiver, 3);
        assert!(receiver.leave());
    });
}

/// The kernel takes one byte at a time: the repetition stops in the middle, and another thread of
/// the sender goes on with it.
#[test]
fn two_threads_repeat_what_was_frozen() {
    model::explore(2, || {
        let (mut sender, mut receiver) = ends(1, 2);
        assert!(sender.switch());
        for byte in 1..=3 {
            sender.send(byte);
        }
        let sender = Arc::new(Mutex::new(sender));
        let polling = {
            let sender = sender.clone();
            thread::spawn(move || {
                for _ in 0..2 {
                    sender.lock().unwrap().service();
                }
            })
        };
        let sending = {
            let sender = sender.clone();
            thread::spawn(move || sender.lock().unwrap().send(4))
        };
        receiver.leave();
        receiver.receive();
        receiver.receive();
        polling.join().unwrap();
        let sent = sending.join().unwrap();
        let mut sender = sender.lock().unwrap();
        settle(&mut sender, &mut receiver, if sent { 4 } else { 3 });
        assert!(receiver.leave());
    });
}
