//! The two ends of a direction that changes carriers, as the models of it see them.
//!
//! They are those of the shim (`tx`, `rx`, `revert`, `twice`, `handshake`), one byte at a time and
//! without what does not matter here.
#![allow(dead_code)]

use crate::model::Ring;
use loom::sync::{Arc, Mutex};
use loom::thread;
use protocol::ids::Role::Client;
use protocol::shm::cdc::Place;
use protocol::shm::consumer_word::ConsumerWord;
use protocol::shm::pair::{Carrier, Direction, GateState, PairSlot};
use protocol::shm::ring::{Consumer, Producer};
use protocol::shm::sync::Ordering;
use std::collections::VecDeque;

pub const SIZE: u32 = 3;

/// A pair whose client sends, its ring, and what the kernel has queued in that direction.
pub struct Wire {
    pub slot: PairSlot,
    pub ring: Ring,
    pub tcp: Mutex<VecDeque<u8>>,
    /// Bytes that the kernel queues at most.
    pub capacity: usize,
}

pub struct Sender {
    pub wire: Arc<Wire>,
    pub producer: Producer,
    pub on_ring: bool,
    /// Next ring position to be repeated over TCP.
    pub repeat: Option<u64>,
    pub sent: u64,
}

impl Sender {
    pub fn over_tcp(&mut self, byte: u8) -> bool {
        let mut queue = self.wire.tcp.lock().unwrap();
        if queue.len() == self.wire.capacity {
            return false;
        }
        queue.push_back(byte);
        self.sent += 1;
        true
    }

    /// `tx::step`. False: no room.
    pub fn send(&mut self, byte: u8) -> bool {
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
    pub fn finish(&mut self) {
        if self.on_ring {
            let end = self.producer.produced.position;
            match self.wire.slot.direction(Client).finish(end) {
                Ok(()) => self.on_ring = false,
                Err(direction) => self.follow_freeze(direction),
            }
        }
    }

    /// `revert::follow_freeze`: once for a freeze, whoever of several threads comes first.
    pub fn follow_freeze(&mut self, direction: Direction) {
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
    pub fn end_taking(&self, mut frozen: Direction) -> u64 {
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

    /// `twice::leave_ring`.
    pub fn stalled(&mut self) {
        let wire = self.wire.clone();
        if !self.on_ring {
            return;
        }
        self.producer.refresh(&wire.ring.to_sender).unwrap();
        let taken = wire
            .slot
            .counts(Client.peer())
            .taken
            .load(Ordering::Acquire);
        match wire.slot.direction(Client).twice(taken) {
            Ok(()) => {
                self.on_ring = false;
                self.repeat = Some(taken);
                self.repeat();
            }
            Err(direction) => self.follow_freeze(direction),
        }
    }

    /// `twice::over`.
    fn given(&mut self, part: bool) -> bool {
        let word = self.wire.slot.direction(Client);
        if part {
            let counts = self.wire.slot.counts(Client);
            counts.behind.store(self.sent, Ordering::Release);
            word.twice_in_part(self.producer.produced.position).unwrap();
        } else {
            word.twice_all().unwrap();
        }
        self.repeat = None;
        true
    }

    /// `revert::repeat`.
    pub fn repeat(&mut self) -> bool {
        let wire = self.wire.clone();
        let end = self.producer.produced;
        let twice = wire.slot.direction(Client).load().carrier == Carrier::Twice;
        while let Some(from) = self.repeat {
            if from == end.position && twice {
                return self.given(false);
            }
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
                return twice && self.given(true);
            }
            self.repeat = Some(from + 1);
        }
        true
    }

    /// The sending half of `ready::service`.
    pub fn service(&mut self) {
        let direction = self.wire.slot.direction(Client).load();
        if self.on_ring && direction.carrier != Carrier::Ring {
            self.follow_freeze(direction);
        } else if self.repeat.is_some() {
            self.repeat();
        }
    }

    /// `handshake::switch`. What is on its way over TCP comes first.
    pub fn switch(&mut self) -> bool {
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

pub struct Receiver {
    pub wire: Arc<Wire>,
    pub consumer: Consumer,
    pub word: ConsumerWord,
    pub on_ring: bool,
    pub frozen: bool,
    pub taken: u64,
    pub got: Vec<u8>,
}

impl Receiver {
    /// `rx::step` with a small buffer: one byte on the ring, all that TCP has.
    pub fn receive(&mut self) {
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

    pub fn take_from_ring(&mut self) -> bool {
        let wire = self.wire.clone();
        let direction = wire.slot.direction(Client).load();
        if direction.carrier == Carrier::TwiceAll && self.turn(direction) {
            return false;
        }
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

    pub fn show_taken(&self) {
        let counts = self.wire.slot.counts(Client.peer());
        let here = self.consumer.consumed.position;
        counts.taken.store(here, Ordering::Release);
    }

    pub fn confirm(&self) {
        let cursor = self.consumer.consumed.cursor;
        self.word
            .confirm(Some(&self.wire.ring.to_sender), cursor, SIZE);
    }

    pub fn empty_ring(&mut self) -> bool {
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
                let drained = direction.position_after(here, here).is_some();
                if drained && !self.pay() {
                    return true;
                }
                if drained && word.to_tcp().is_ok() {
                    self.confirm();
                    self.on_ring = false;
                }
                false
            }
            // The sender is at it.
            Carrier::Twice | Carrier::TwiceAll => true,
            Carrier::Frozen | Carrier::Repeating | Carrier::Tcp => unreachable!(),
        }
    }

    /// `twice::turn`.
    fn turn(&mut self, direction: Direction) -> bool {
        let wire = self.wire.clone();
        let counts = wire.slot.counts(Client);
        let beyond = match self.on_ring {
            true => self.taken - counts.seam.load(Ordering::Acquire),
            false => 0,
        };
        let here = self.consumer.consumed.position;
        let owed = direction.owed(here, SIZE, beyond);
        if self.let_fall(owed.expect("no more than was taken")) != 0 {
            return false;
        }
        self.consumer.refresh(&wire.ring.to_receiver).unwrap();
        let nothing_there = wire.tcp.lock().unwrap().is_empty();
        if self.on_ring && nothing_there && self.consumer.available() != 0 {
            return false;
        }
        self.consumer.consumed = self.consumer.produced;
        self.show_taken();
        self.confirm();
        wire.slot.direction(Client).to_tcp().unwrap();
        self.on_ring = false;
        true
    }

    /// `twice::pay`.
    fn pay(&mut self) -> bool {
        let behind = &self.wire.slot.counts(Client).behind;
        let debt = behind.load(Ordering::Acquire).saturating_sub(self.taken);
        self.let_fall(debt) == 0
    }

    /// One byte at a time, as if more were on its way.
    fn let_fall(&mut self, n: u64) -> u64 {
        let mut queue = self.wire.tcp.lock().unwrap();
        let there = n.min(queue.len() as u64).min(1);
        queue.drain(..there as usize);
        self.taken += there;
        n - there
    }

    pub fn take_from_tcp(&mut self) -> bool {
        let wire = self.wire.clone();
        let gate = wire.slot.gate(Client);
        self.thaw();
        let direction = wire.slot.direction(Client).load();
        if direction.carrier == Carrier::TwiceAll {
            assert!(self.turn(direction));
        }
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
    pub fn follow_or_take(&mut self) -> bool {
        let limit = self.up_to_seam();
        self.take(limit)
    }

    pub fn take(&mut self, up_to_seam: Option<u64>) -> bool {
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
    pub fn take_from_frozen(&mut self) -> bool {
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
    pub fn up_to_seam(&self) -> Option<u64> {
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
    pub fn follow_onto_ring(&mut self) -> bool {
        self.on_ring |= !self.frozen && self.up_to_seam() == Some(0);
        self.on_ring
    }

    /// The receiving half of `ready::service`, which looks whatever the gate's state is.
    pub fn service(&mut self) {
        if self.up_to_seam() == Some(0) {
            self.follow_onto_ring();
        }
    }

    /// `revert::thaw`.
    pub fn thaw(&mut self) {
        if self.frozen && self.wire.slot.direction(Client).load().carrier == Carrier::Tcp {
            self.consumer.refresh(&self.wire.ring.to_receiver).unwrap();
            self.consumer.consumed = self.consumer.produced;
            self.show_taken();
            self.confirm();
            self.frozen = false;
        }
    }

    /// `revert::leave_step`, the receiving half. True: TCP for good.
    pub fn leave(&mut self) -> bool {
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
        let direction = word.load();
        if direction.carrier == Carrier::TwiceAll && !self.turn(direction) {
            return false;
        }
        let (direction, here) = (word.load(), self.consumer.consumed.position);
        let drained = direction.position_after(here, here).is_some();
        if direction.carrier == Carrier::Final && drained && self.pay() {
            word.to_tcp().unwrap();
            self.on_ring = false;
        }
        word.load().carrier == Carrier::Tcp
    }
}

pub fn ends(capacity: usize, start: u64) -> (Sender, Receiver) {
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
    let counts = wire.slot.counts(Client.peer());
    counts.taken.store(start.position, Ordering::Relaxed);
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
pub fn settle(sender: &mut Sender, receiver: &mut Receiver, bytes: u8) {
    for _ in 0..12 {
        sender.service();
        receiver.receive();
    }
    assert_eq!(receiver.got, Vec::from_iter(1..=bytes));
}
