//! Model: a CLC message on a TCP stream that carries application bytes (design §4). The message is
//! never taken for the program's bytes, the program's bytes never for a message, and nothing is
//! left over when the receiver closes.
#![cfg(loom)]

mod model;

use loom::sync::{Arc, Mutex};
use loom::thread;
use protocol::ids::Role::Client;
use protocol::shm::pair::{GateState, PairSlot};
use protocol::shm::sync::Ordering;
use std::collections::VecDeque;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Piece {
    App(u8),
    Message,
}

/// A pair whose client sends, and the kernel's queue of that direction.
#[derive(Default)]
struct Stream {
    slot: PairSlot,
    queue: Mutex<VecDeque<Piece>>,
}

/// As `put_locked`, `over_tcp` of the shim.
struct Sender {
    stream: Arc<Stream>,
    sent: u64,
    messages: u32,
}

impl Sender {
    fn app(&mut self, byte: u8) {
        self.stream
            .queue
            .lock()
            .unwrap()
            .push_back(Piece::App(byte));
        self.sent += 1;
    }

    fn message(&mut self, fails: bool) -> bool {
        let slot = &self.stream.slot;
        let gate = slot.gate(Client);
        let consumed = slot.counts(Client.peer()).consumed.load(Ordering::Acquire);
        if consumed != self.sent || !gate.hold_for_message() {
            return false;
        }
        if fails {
            gate.message_not_sent();
            return false;
        }
        self.stream.queue.lock().unwrap().push_back(Piece::Message);
        self.messages += 1;
        true
    }
}

/// As `from_tcp`, `take_locked` and `close_gate` of the shim.
struct Receiver {
    stream: Arc<Stream>,
    taken: u64,
    app: Vec<u8>,
    messages: u32,
}

impl Receiver {
    fn open(&mut self) {
        self.publish_taken();
        assert!(self.stream.slot.gate(Client).open());
    }

    fn publish_taken(&self) {
        let counts = self.stream.slot.counts(Client.peer());
        counts.consumed.store(self.taken, Ordering::Release);
    }

    /// A plain receive with a large buffer: takes all that there is.
    fn receive(&mut self) {
        for piece in self.stream.queue.lock().unwrap().drain(..) {
            match piece {
                Piece::App(byte) => self.app.push(byte),
                Piece::Message => panic!("the program was given a CLC message"),
            }
            self.taken += 1;
        }
    }

    fn step(&mut self) {
        let stream = self.stream.clone();
        let gate = stream.slot.gate(Client);
        match gate.state() {
            GateState::Busy => {
                self.take(true);
            }
            GateState::Switch => unreachable!(),
            GateState::Shut => self.receive(),
            GateState::Open => {
                if gate.shut() {
                    self.receive();
                    self.publish_taken();
                    assert!(gate.open());
                }
            }
        }
    }

    /// Takes the announced message. False: it has not arrived.
    fn take(&mut self, reopen: bool) -> bool {
        let gate = self.stream.slot.gate(Client);
        if self.stream.queue.lock().unwrap().front().is_none() {
            return false;
        }
        // The sender may have given the gate back: then what has arrived is the program's.
        if gate.state() != GateState::Busy {
            return true;
        }
        let piece = self.stream.queue.lock().unwrap().pop_front().unwrap();
        assert_eq!(
            piece,
            Piece::Message,
            "the program's bytes were taken for a message"
        );
        self.messages += 1;
        gate.message_taken(reopen);
        true
    }

    fn close(&mut self) {
        let stream = self.stream.clone();
        let gate = stream.slot.gate(Client);
        while !gate.shut() {
            if gate.state() == GateState::Busy && !self.take(false) {
                thread::yield_now();
            }
        }
    }
}

fn ends() -> (Sender, Receiver) {
    let stream = Arc::new(Stream::default());
    let sender = Sender {
        stream: stream.clone(),
        sent: 0,
        messages: 0,
    };
    (
        sender,
        Receiver {
            stream,
            taken: 0,
            app: Vec::new(),
            messages: 0,
        },
    )
}

#[test]
fn a_message_between_the_programs_bytes() {
    model::explore(3, || {
        let (mut sender, mut receiver) = ends();
        receiver.open();
        let sending = thread::spawn(move || {
            sender.app(1);
            for byte in 2..4 {
                sender.message(false);
                sender.app(byte);
            }
            sender
        });
        for _ in 0..4 {
            receiver.step();
        }
        let sender = sending.join().unwrap();
        for _ in 0..4 {
            receiver.step();
        }
        assert_eq!(receiver.app, [1, 2, 3]);
        assert_eq!(receiver.messages, sender.messages);
    });
}

#[test]
fn a_message_that_could_not_be_sent() {
    model::explore(3, || {
        let (mut sender, mut receiver) = ends();
        receiver.open();
        let sending = thread::spawn(move || {
            sender.message(true);
            sender.app(1);
            sender.message(false);
            sender
        });
        for _ in 0..3 {
            receiver.step();
        }
        let mut sender = sending.join().unwrap();
        for _ in 0..3 {
            receiver.step();
        }
        // The gate is as good as before.
        assert!(sender.message(false));
        receiver.step();
        assert_eq!(receiver.app, [1]);
        assert_eq!(receiver.messages, sender.messages);
    });
}

#[test]
fn close_leaves_no_message_behind() {
    model::explore(3, || {
        let (mut sender, mut receiver) = ends();
        receiver.open();
        let sending = thread::spawn(move || {
            sender.message(false);
            sender.app(1);
            sender.message(false);
            sender
        });
        receiver.step();
        receiver.close();
        let mut sender = sending.join().unwrap();
        assert!(!sender.message(false), "the gate is shut for good");
        receiver.step();
        assert_eq!(receiver.app, [1]);
        assert_eq!(receiver.messages, sender.messages);
    });
}
