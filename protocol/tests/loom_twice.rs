//! Model: a sender whose reader seems to stand still gives TCP what lies on the ring, while the reader wakes up. Every
//! byte once and in order, and when that is over, all of it on TCP.
#![cfg(loom)]

#[path = "model/ends.rs"]
mod ends;
mod model;

use ends::{Receiver, Sender, ends, settle};
use loom::thread;
use protocol::ids::Role::Client;
use protocol::shm::pair::Carrier;

/// A full ring, of which the reader takes from here on.
fn full(capacity: usize) -> (Sender, Receiver) {
    let (mut sender, mut receiver) = ends(capacity, 2);
    assert!(sender.switch());
    for byte in 1..=3 {
        assert!(sender.send(byte));
    }
    receiver.service();
    (sender, receiver)
}

#[test]
fn the_reader_goes_on_reading() {
    model::explore(3, || {
        let (mut sender, mut receiver) = full(9);
        let sending = thread::spawn(move || {
            sender.stalled();
            assert!(sender.send(4));
            sender
        });
        for _ in 0..3 {
            receiver.receive();
        }
        let mut sender = sending.join().unwrap();
        settle(&mut sender, &mut receiver, 4);
        // And once more.
        assert!(sender.switch());
        sender.send(5);
        settle(&mut sender, &mut receiver, 5);
        sender.stalled();
        sender.send(6);
        settle(&mut sender, &mut receiver, 6);
    });
}

/// Who leaves finds all of it on TCP, without a call of the sender's.
#[test]
fn the_reader_leaves() {
    model::explore(3, || {
        let (mut sender, mut receiver) = full(9);
        receiver.receive();
        let sending = thread::spawn(move || {
            sender.stalled();
            sender.send(4);
            sender
        });
        receiver.receive();
        receiver.leave();
        let mut sender = sending.join().unwrap();
        let wire = receiver.wire.clone();
        if wire.slot.direction(Client).load().carrier != Carrier::Frozen {
            assert!(receiver.leave());
        }
        settle(&mut sender, &mut receiver, 4);
        assert!(receiver.leave());
    });
}

/// TCP has room for a part only: the rest stays on the ring, before what follows.
#[test]
fn tcp_is_full() {
    model::explore(3, || {
        let (mut sender, mut receiver) = full(1);
        receiver.receive();
        let sending = thread::spawn(move || {
            sender.stalled();
            let sent = sender.send(4);
            (sender, sent)
        });
        for _ in 0..4 {
            receiver.receive();
        }
        let (mut sender, sent) = sending.join().unwrap();
        settle(&mut sender, &mut receiver, if sent { 4 } else { 3 });
        assert!(sender.send(if sent { 5 } else { 4 }));
        settle(&mut sender, &mut receiver, if sent { 5 } else { 4 });
        assert!(receiver.leave());
    });
}

/// The reader has not come onto the ring yet, and may do so just then.
#[test]
fn before_the_reader_is_on_the_ring() {
    model::explore(3, || {
        let (mut sender, mut receiver) = ends(9, 2);
        sender.send(1);
        assert!(sender.switch());
        sender.send(2);
        let sending = thread::spawn(move || {
            sender.stalled();
            sender.send(3);
            sender
        });
        for _ in 0..3 {
            receiver.receive();
            receiver.service();
        }
        let mut sender = sending.join().unwrap();
        settle(&mut sender, &mut receiver, 3);
        assert!(sender.switch());
        sender.send(4);
        settle(&mut sender, &mut receiver, 4);
    });
}
