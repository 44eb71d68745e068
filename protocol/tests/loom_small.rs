//! Model: the last message beside the cursor. What the receiver takes from there is that message, whole, while the
//! sender puts the next one there.
#![cfg(loom)]

mod model;

use loom::sync::Arc;
use loom::thread;
use model::Ring;
use protocol::shm::cdc::Place;
use protocol::shm::consumer_word::ConsumerWord;
use protocol::shm::ring::{Consumer, Producer};
use protocol::shm::sync::Ordering;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

const SIZE: u32 = 6;

/// Sends all, or nothing. A message of one byte is put into the ring only, as one that is too long.
fn send(ring: &Ring, producer: &mut Producer, bytes: &[u8]) -> bool {
    producer.refresh(&ring.to_sender).unwrap();
    let n = bytes.len() as u32;
    if producer.free() < n {
        return false;
    }
    ring.write(producer.span(n), bytes);
    let place = producer.after(n);
    if n == 1 {
        producer.publish(&ring.to_receiver, place);
        return true;
    }
    let here = producer.produced.position;
    ring.to_receiver.put_small(here, n, |words| {
        for (word, byte) in words.iter().zip(bytes) {
            word.store((*byte).into(), Ordering::Relaxed);
        }
    });
    producer.publish_as_is(&ring.to_receiver, place);
    true
}

/// Receives at most `max` bytes. Tells whether they came from beside the cursor.
fn receive(
    ring: &Ring,
    consumer: &mut Consumer,
    word: &ConsumerWord,
    max: u32,
    got: &mut Vec<u8>,
) -> bool {
    consumer.refresh(&ring.to_receiver).unwrap();
    let n = consumer.available().min(max);
    if n == 0 {
        return false;
    }
    let mut small = Vec::new();
    let here = consumer.consumed.position;
    let taken = ring.to_receiver.take_small(here, n, |words| {
        let words = words[..n as usize].iter();
        small.extend(words.map(|word| word.load(Ordering::Relaxed) as u8));
    });
    got.extend(match taken {
        true => small,
        false => ring.read(consumer.span(n)),
    });
    consumer.consumed = consumer.after(n);
    let end = consumer.consumed;
    ring.taken.store(end.position, Ordering::Release);
    word.confirm(Some(&ring.to_sender), end.cursor, SIZE);
    taken
}

/// Gives in how many interleavings some message came from beside the cursor, and in how many none did.
fn pass(messages: &'static [&'static [u8]], reads: &'static [u32]) -> (u32, u32) {
    let counts: &[AtomicU32; 2] = Box::leak(Box::default());
    model::explore(3, move || {
        let start = Place::at(4, SIZE);
        let ring = Arc::new(Ring::new(SIZE, start));
        let word = ConsumerWord::default();
        word.confirm(None, start.cursor, SIZE);
        let mut consumer = ring.consumer(start);
        let sender = {
            let ring = ring.clone();
            thread::spawn(move || {
                let mut producer = ring.producer(start);
                let sent = messages.iter();
                sent.take_while(|message| send(&ring, &mut producer, message))
                    .count()
            })
        };
        let (mut got, mut beside) = (Vec::new(), false);
        for &max in reads {
            beside |= receive(&ring, &mut consumer, &word, max, &mut got);
        }
        let sent = sender.join().unwrap();
        receive(&ring, &mut consumer, &word, u32::MAX, &mut got);
        assert_eq!(got, messages[..sent].concat());
        counts[usize::from(!beside)].fetch_add(1, Relaxed);
    });
    let [beside, ring] = counts;
    (beside.load(Relaxed), ring.load(Relaxed))
}

#[test]
fn one_after_the_other() {
    let (beside, ring) = pass(&[b"ab", b"cd", b"ef"], &[9, 9, 9]);
    assert!(beside > 0 && ring > 0);
}

#[test]
fn in_pieces() {
    let (beside, ring) = pass(&[b"abc", b"def"], &[2, 2]);
    assert!(beside > 0 && ring > 0);
}

#[test]
fn long_ones_between() {
    let (beside, ring) = pass(&[b"ab", b"c", b"de"], &[9, 9]);
    assert!(beside > 0 && ring > 0);
}
