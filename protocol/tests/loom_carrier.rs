//! Model: a direction that goes onto the ring and back to TCP (design §6). Every byte once and in
//! order, whoever wants out and whenever.
#![cfg(loom)]

#[path = "model/ends.rs"]
mod ends;
mod model;

use ends::{ends, settle};
use loom::sync::{Arc, Mutex};
use loom::thread;

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
