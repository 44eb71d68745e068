//! Model: what the kernel announces to a set of which several threads wait, while one of them takes a
//! handshake message behind which bytes lie (`epoll::report`, `ready::ask_behind`, `epoll::rouse` of the
//! shim). Bytes that are never reported show as a deadlock.
#![cfg(loom)]

mod model;

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use model::explore;
use protocol::shm::announced::Announced;
use protocol::shm::pair::{Gate, GateState};
use protocol::shm::sync::{Ordering, fence};
use protocol::shm::wait::WaitWord;

const IN: u32 = 1;

/// The stream of one connection, and the kernel's set with its edge and the doorbell.
#[derive(Default)]
struct Kernel {
    message: bool,
    bytes: bool,
    edge: bool,
    bell: bool,
}

#[derive(Default)]
struct Set {
    kernel: Mutex<Kernel>,
    stirred: Condvar,
    /// Of the connection: held by whoever takes something off the stream.
    receiving: Mutex<()>,
    gate: Gate,
    announced: Announced,
    word: WaitWord,
}

impl Set {
    /// With a handshake message on the stream, which is announced.
    fn with_message() -> Self {
        let set = Set::default();
        assert!(set.gate.open() && set.gate.hold_for_message());
        let mut kernel = set.kernel.lock().unwrap();
        (kernel.message, kernel.edge) = (true, true);
        drop(kernel);
        set
    }

    /// The peer sends; the kernel tells one of those who wait.
    fn send(&self) {
        let mut kernel = self.kernel.lock().unwrap();
        (kernel.bytes, kernel.edge) = (true, true);
        self.stirred.notify_all();
    }

    fn ring(&self) {
        self.kernel.lock().unwrap().bell = true;
        self.stirred.notify_all();
    }

    /// `wait::ask_kernel`; `sleeps`: until there is something.
    fn ask_kernel(&self, sleeps: bool) {
        let mut kernel = self.kernel.lock().unwrap();
        while sleeps && !kernel.edge && !kernel.bell {
            kernel = self.stirred.wait(kernel).unwrap();
        }
        let told = std::mem::take(&mut kernel.edge);
        // Silenced: everything is looked at once more afterwards.
        kernel.bell = false;
        drop(kernel);
        if told {
            self.announced.note(IN);
        }
    }

    /// Takes the message off the stream, if nobody else is at it.
    fn take_message(&self) {
        let Ok(_receiving) = self.receiving.try_lock() else {
            return;
        };
        if self.gate.state() == GateState::Busy {
            self.kernel.lock().unwrap().message = false;
            self.gate.message_taken(false);
        }
    }

    /// `handshake::steps` of the thread that has taken it.
    fn take_and_rouse(&self) {
        self.take_message();
        self.announced.note(IN);
        fence(Ordering::SeqCst);
        if self.word.sleepers() && self.report() {
            self.ring();
        }
    }

    /// `ready::ask_behind`: whether there are bytes of the program's, and whether that is all.
    fn ask_behind(&self) -> (bool, bool) {
        for _ in 0..2 {
            let kernel = self.kernel.lock().unwrap();
            let (some, bytes) = (kernel.message || kernel.bytes, kernel.bytes);
            drop(kernel);
            if !some {
                return (false, true);
            }
            if self.gate.state() != GateState::Busy {
                return (bytes, true);
            }
            self.take_message();
        }
        (false, false)
    }

    /// `Reg::look`.
    fn report(&self) -> bool {
        let announced = self.announced.seen();
        if !announced.anything() {
            return false;
        }
        let (readable, all) = self.ask_behind();
        if !readable && all {
            self.announced.over(announced);
        }
        readable
    }

    /// `wait::collect`, without a time limit: returns when bytes are to be reported.
    fn wait(&self) {
        self.ask_kernel(false);
        while !self.report() {
            self.word.enter();
            let found = self.report();
            self.ask_kernel(!found);
            self.word.leave();
        }
    }
}

/// One thread waits for the set while another takes the message; the bytes are there from the start.
#[test]
fn bytes_behind_a_message() {
    explore(3, || {
        let set = Arc::new(Set::with_message());
        set.kernel.lock().unwrap().bytes = true;
        let other = set.clone();
        let taker = thread::spawn(move || other.take_and_rouse());
        set.wait();
        taker.join().unwrap();
    });
}

/// The same; the bytes come at any moment.
#[test]
fn bytes_after_a_message() {
    explore(2, || {
        let set = Arc::new(Set::with_message());
        let [taking, sending] = [set.clone(), set.clone()];
        let taker = thread::spawn(move || taking.take_and_rouse());
        let sender = thread::spawn(move || sending.send());
        set.wait();
        taker.join().unwrap();
        sender.join().unwrap();
    });
}

/// One thread finds that there is nothing while another is told that there is: the bytes can be
/// reported afterwards.
#[test]
fn nothing_and_something() {
    explore(3, || {
        let set = Arc::new(Set::default());
        set.announced.note(IN);
        let other = set.clone();
        let looker = thread::spawn(move || other.report());
        set.send();
        set.ask_kernel(false);
        let reported = set.report();
        looker.join().unwrap();
        assert!(reported && set.report(), "the bytes are not reported");
    });
}
