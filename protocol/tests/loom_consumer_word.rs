//! Model: several threads change the consumer word; the peer sees the newest in the end, and a
//! cursor that never goes back.
#![cfg(loom)]

mod model;

use loom::sync::Arc;
use loom::thread;
use protocol::shm::cdc::{Cursor, Place, flag};
use protocol::shm::consumer_word::ConsumerWord;
use protocol::shm::ring::DmbHeader;
use protocol::shm::sync::Ordering;

const SIZE: u32 = 8;

struct Ends {
    word: ConsumerWord,
    peer: DmbHeader,
}

impl Ends {
    fn new() -> Arc<Self> {
        Arc::new(Ends {
            word: ConsumerWord::default(),
            peer: DmbHeader::default(),
        })
    }

    fn confirm(&self, position: u64) {
        self.word
            .confirm(Some(&self.peer), Place::at(position, SIZE).cursor, SIZE);
    }

    fn flags(&self, set: u16, clear: u16) {
        self.word.change_flags(Some(&self.peer), set, clear);
    }

    fn published(&self) -> (Cursor, u16) {
        Cursor::from_word(self.peer.consumer.load(Ordering::Acquire))
    }
}

#[test]
fn the_newest_is_published() {
    model::explore(3, || {
        let ends = Ends::new();
        let receiver = {
            let ends = ends.clone();
            thread::spawn(move || {
                ends.confirm(2);
                ends.confirm(8);
            })
        };
        let sender = {
            let ends = ends.clone();
            thread::spawn(move || {
                ends.flags(flag::WRITE_BLOCKED, 0);
                ends.flags(0, flag::WRITE_BLOCKED);
            })
        };
        ends.flags(flag::DONE_WRITING, 0);
        receiver.join().unwrap();
        sender.join().unwrap();
        let expected = (Place::at(8, SIZE).cursor, flag::DONE_WRITING);
        assert_eq!(ends.word.load(), expected);
        assert_eq!(ends.published(), expected);
    });
}

#[test]
fn the_published_cursor_does_not_go_back() {
    model::explore(3, || {
        let ends = Ends::new();
        let receiver = {
            let ends = ends.clone();
            thread::spawn(move || {
                for position in [3, 6, 8] {
                    ends.confirm(position);
                }
            })
        };
        let sender = {
            let ends = ends.clone();
            thread::spawn(move || ends.flags(flag::WRITE_BLOCKED, 0))
        };
        let mut last = Place::default();
        for _ in 0..2 {
            // What `Producer::refresh` refuses resets the connection.
            last = last.follow(ends.published().0, SIZE, 8).unwrap();
        }
        receiver.join().unwrap();
        sender.join().unwrap();
        last = last.follow(ends.published().0, SIZE, 8).unwrap();
        assert_eq!(last.position, 8);
    });
}

#[test]
fn a_receive_that_was_overtaken_does_not_take_the_cursor_back() {
    model::explore(3, || {
        let ends = Ends::new();
        let late = {
            let ends = ends.clone();
            thread::spawn(move || ends.confirm(1))
        };
        ends.confirm(2);
        let seen = Place::default()
            .follow(ends.published().0, SIZE, 2)
            .unwrap();
        late.join().unwrap();
        let end = seen.follow(ends.published().0, SIZE, 2).unwrap();
        assert_eq!(end.position, 2);
    });
}
