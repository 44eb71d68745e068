//! Model: one producer and one consumer of a small ring, around its end and from its start again. Every byte once, in order, never torn; space is used again only when it was read.
#![cfg(loom)]

mod model;

use loom::sync::Arc;
use loom::thread;
use model::Ring;
use protocol::shm::cdc::Place;
use protocol::shm::consumer_word::ConsumerWord;
use protocol::shm::ring::{Consumer, Producer};
use protocol::shm::sync::Ordering;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Sends what fits of `rest`. True: something did.
fn send(ring: &Ring, producer: &mut Producer, rest: &mut &[u8]) -> bool {
    producer.refresh(&ring.to_sender).unwrap();
    let n = (rest.len() as u32).min(producer.free());
    if n == 0 {
        return false;
    }
    let (now, later) = rest.split_at(n as usize);
    producer.rebase(n, &ring.taken);
    ring.write(producer.span(n), now);
    producer.publish(&ring.to_receiver, producer.after(n));
    *rest = later;
    true
}

/// Receives at most `max` bytes.
fn receive(ring: &Ring, consumer: &mut Consumer, word: &ConsumerWord, max: u32, got: &mut Vec<u8>) {
    consumer.refresh(&ring.to_receiver).unwrap();
    let n = consumer.available().min(max);
    if n == 0 {
        return;
    }
    got.extend(ring.read(consumer.span(n)));
    consumer.consumed = consumer.after(n);
    ring.taken
        .store(consumer.consumed.position, Ordering::Release);
    word.confirm(
        Some(&ring.to_sender),
        consumer.consumed.cursor,
        consumer.size,
    );
}

/// Tells whether there was an interleaving in which the ring was used from its start again.
fn pass(
    size: u32,
    start: u64,
    writes: &'static [&'static [u8]],
    reads: &'static [u32],
) -> &'static AtomicBool {
    let rebased: &AtomicBool = Box::leak(Box::default());
    model::explore(3, move || {
        let start = Place::at(start, size);
        let ring = Arc::new(Ring::new(size, start));
        let word = ConsumerWord::default();
        word.confirm(None, start.cursor, size);
        let mut consumer = ring.consumer(start);
        let sender = {
            let ring = ring.clone();
            thread::spawn(move || {
                let mut producer = ring.producer(start);
                let mut left = Vec::new();
                for &write in writes {
                    let mut rest = write;
                    if left.is_empty() {
                        send(&ring, &mut producer, &mut rest);
                    }
                    left.extend(rest);
                }
                (producer, left)
            })
        };
        let mut got = Vec::new();
        for &max in reads {
            receive(&ring, &mut consumer, &word, max, &mut got);
        }
        let (mut producer, left) = sender.join().unwrap();
        let mut rest = &left[..];
        loop {
            receive(&ring, &mut consumer, &word, u32::MAX, &mut got);
            if !send(&ring, &mut producer, &mut rest) {
                break;
            }
        }
        assert_eq!(got, writes.concat());
        producer.refresh(&ring.to_sender).unwrap();
        assert_eq!(producer.free(), size);
        rebased.fetch_or(producer.base != 0, Relaxed);
    });
    rebased
}

#[test]
fn byte_by_byte() {
    pass(3, 2, &[b"a", b"b", b"c", b"d"], &[1, 1, 1]);
}

#[test]
fn longer_than_the_ring() {
    pass(3, 1, &[b"abc", b"de", b"fg"], &[2, 2, 3]);
}

#[test]
fn from_the_start_again() {
    let writes: &[&[u8]] = &[b"a", b"bc", b"d", b"ef"];
    assert!(pass(4, 1, writes, &[2, 1, 2]).load(Relaxed));
}

#[test]
fn always_full() {
    pass(2, 1, &[b"ab", b"cd", b"ef"], &[1, 2, 1]);
}
