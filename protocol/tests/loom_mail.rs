//! Model: two threads of a client look at the daemon's mailbox, and one at a time reads (`daemon::poll` of the shim).
#![cfg(loom)]

mod model;

use loom::sync::atomic::AtomicU32;
use loom::sync::{Arc, Mutex};
use loom::thread;
use model::explore;
use protocol::shm::mail::Mail;
use protocol::shm::sync::Ordering::*;

#[derive(Default)]
struct Client {
    mailbox: AtomicU32,
    /// The kernel's: messages that were sent, and those of them that were read.
    socket: Mutex<(u32, u32)>,
    mail: Mail,
    /// As `lock::Lock`.
    receiving: AtomicU32,
}

impl Client {
    fn count(&self) -> Option<u32> {
        Some(self.mailbox.load(Acquire))
    }

    /// The daemon sends a message, and counts it then.
    fn send(&self) {
        self.socket.lock().unwrap().0 += 1;
        self.mailbox.fetch_add(1, Release);
    }

    /// `daemon::poll`. Gives what it has seen counted.
    fn poll(&self, me: u32) -> Option<u32> {
        let seen = self.count();
        if self.mail.has_come(seen) {
            let receiving = &self.receiving;
            let lock = || receiving.compare_exchange(0, me, Acquire, Relaxed).ok();
            let read = || {
                let mut socket = self.socket.lock().unwrap();
                socket.1 = socket.0;
            };
            self.mail
                .take(|| self.count(), lock, read, |_| receiving.store(0, Release));
        }
        seen
    }
}

/// What a thread has seen counted is read when all are through, and what was not read is still to be seen.
fn read(messages: u32, preemptions: usize) {
    explore(preemptions, move || {
        let client = Arc::new(Client::default());
        let [daemon, other] = [client.clone(), client.clone()];
        let daemon = thread::spawn(move || (0..messages).for_each(|_| daemon.send()));
        let other = thread::spawn(move || other.poll(2));
        let seen = client.poll(1).max(other.join().unwrap());
        daemon.join().unwrap();
        let (sent, read) = *client.socket.lock().unwrap();
        assert!(seen <= Some(read), "a message is left to nobody");
        assert!(
            sent == read || client.mail.has_come(client.count()),
            "a message that nobody has read counts as read"
        );
    });
}

#[test]
fn one_message() {
    read(1, 4);
}

#[test]
fn two_messages() {
    read(2, 3);
}
