//! Both ends of a ring against a peer that publishes any cursors: whatever is taken over stays within
//! the ring, and positions never go back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::shm::cdc::{Cursor, Place};
use protocol::shm::consumer_word::ConsumerWord;
use protocol::shm::pair::Direction;
use protocol::shm::ring::{Consumer, DmbHeader, Producer};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

fuzz_target!(|input: &[u8]| {
    let Some((start, steps)) = input.split_first_chunk::<10>() else {
        return;
    };
    let size = u32::from(u16::from_le_bytes([start[0], start[1]])) + 1;
    let start = u64::from_le_bytes(start[2..10].try_into().expect("8 bytes")) >> 8;
    let own = DmbHeader::default();
    let mut consumer = Consumer {
        size,
        base: 0,
        produced: Place::at(start, size),
        consumed: Place::at(start, size),
        confirmed: start,
    };
    let mut producer = Producer {
        size,
        base: 0,
        produced: Place::at(start, size),
        consumed: Place::at(start, size),
    };
    let word = ConsumerWord::default();
    for step in steps.chunks_exact(9) {
        let raw = u64::from_le_bytes(step[1..9].try_into().expect("8 bytes"));
        own.producer.store(raw, Relaxed);
        own.consumer.store(raw, Relaxed);
        own.base.store((raw >> 24) as u32 & 0x1ffff, Relaxed);
        let before = consumer.produced.position;
        if consumer.refresh(&own).is_ok() {
            assert!(consumer.produced.position >= before);
            assert!(consumer.available() <= size);
            assert!(consumer.produced.cursor.count < size);
            let n = consumer.available().min(u32::from(step[0]));
            let span = consumer.span(n);
            assert_eq!(span.first + span.second, n);
            assert!(span.at + span.first <= size && span.second <= span.at);
            consumer.consumed = consumer.after(n);
            word.confirm(None, consumer.consumed.cursor, size);
            if consumer.owes_update((raw >> 48) as u16) {
                consumer.confirmed = consumer.consumed.position;
            }
        } else {
            assert_eq!(consumer.produced.position, before);
        }
        let before = producer.consumed.position;
        if producer.refresh(&own).is_ok() {
            assert!(producer.consumed.position >= before);
            assert!(producer.consumed.position <= producer.produced.position);
            let n = producer.free().min(u32::from(step[0]));
            producer.rebase(n, &AtomicU64::new(producer.produced.position));
            let span = producer.span(n);
            assert!(span.at + span.first <= size && span.second <= span.at);
            producer.produced = producer.after(n);
        }
        let direction = Direction::from_word(raw);
        assert_eq!(Direction::from_word(direction.word()), direction);
        let here = consumer.consumed.position;
        let limit = here + u64::from(size);
        if let Some(position) = direction.position_after(here, limit) {
            assert!((here..=limit).contains(&position));
        }
        let _ = direction.has_gone_onto_ring(here, size);
        let (cursor, flags) = Cursor::from_word(raw);
        assert_eq!(cursor.word(flags), raw);
    }
});
