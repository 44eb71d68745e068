//! The two rings of a connection, and the ways onto them and back.

use super::{Link, PATIENCE};
use crate::stream::Stream;
use protocol::shm::pair::Carrier;
use protocol::shm::ring::Span;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::{Duration, Instant};

/// What [`Link::carry_twice`] has begun.
#[derive(Clone, Copy, Debug)]
pub struct Twice {
    whole: bool,
    end: u64,
}

impl Link {
    /// Puts our direction onto the ring, once the other end has read everything.
    pub fn switch(&mut self) {
        let start = self.producer.produced.position;
        let end = Instant::now() + PATIENCE;
        // Its gate may shut between the two.
        while !(self.may_send() && self.gate_out().hold_for_switch()) {
            let counts = self.pair.slot().counts(self.role().peer());
            assert!(
                Instant::now() < end,
                "no switch onto the ring: gate {:?}, {} of {} consumed, the other direction {:?}",
                self.gate_out().state(),
                counts.consumed.load(Acquire),
                self.sent,
                self.pair.slot().direction(self.role().peer()).load()
            );
            std::thread::sleep(Duration::from_micros(100));
        }
        let slot = self.pair.slot();
        slot.counts(self.role()).seam.store(self.sent, Release);
        slot.direction(self.role()).to_ring(start).expect("on TCP");
        self.gate_out().switched();
        self.tx_ring = true;
        self.wake();
    }

    /// Rings every doorbell that the other end has ever announced, and says for which connection.
    pub fn wake(&self) {
        self.pair.hint();
        self.pair.group.ring_all();
    }

    /// Puts bytes that have room into the ring, where they are not published yet.
    fn fill(&self, bytes: &[u8]) {
        let (ring, size) = self.pair.ring(&self.pair.paired.peer);
        each_part(self.producer.span(bytes.len() as u32), |at, range| {
            assert!(at as usize + range.len() <= size as usize);
            // SAFETY: a place in the ring.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    bytes[range.clone()].as_ptr(),
                    ring.add(at as usize),
                    range.len(),
                );
            }
        });
    }

    /// Sends a small message to a program that echoes, with other bytes in the ring than beside the cursor, and
    /// gives what comes back beside the cursor.
    pub fn echo_beside(&mut self, bytes: &[u8]) -> Vec<u8> {
        let n = bytes.len() as u32;
        let known = self.producer.refresh(self.pair.own());
        known.expect("the library publishes good cursors");
        assert!(self.tx_ring && self.rx_ring && self.producer.free() >= n);
        self.fill(&vec![0xee; bytes.len()]);
        let here = self.producer.produced.position;
        self.pair.peer().put_small(here, n, |words| {
            for (word, part) in words.iter().zip(bytes.chunks(4)) {
                let mut all = [0; 4];
                all[..part.len()].copy_from_slice(part);
                word.store(u32::from_ne_bytes(all), Relaxed);
            }
        });
        let place = self.producer.after(n);
        self.producer.publish_as_is(self.pair.peer(), place);
        self.wake();
        let end = Instant::now() + PATIENCE;
        while self.consumer.available() == 0 {
            assert!(Instant::now() < end, "no echo");
            std::thread::sleep(Duration::from_micros(50));
            let known = self.consumer.refresh(self.pair.own());
            known.expect("the library publishes good cursors");
        }
        let (here, mut back) = (self.consumer.consumed.position, Vec::new());
        let whole = self.pair.own().take_small(here, n, |words| {
            back.extend(words.iter().flat_map(|w| w.load(Relaxed).to_ne_bytes()));
        });
        back.truncate(bytes.len());
        let mut in_the_ring = vec![0; bytes.len()];
        self.take_ring(&mut in_the_ring);
        assert!(whole && back == in_the_ring, "{back:?} and {in_the_ring:?}");
        back
    }

    /// Sends over the ring, all of it.
    pub fn send_ring(&mut self, mut bytes: &[u8]) {
        let end = Instant::now() + PATIENCE;
        while !bytes.is_empty() {
            let known = self.producer.refresh(self.pair.own());
            known.expect("the library publishes good cursors");
            let n = self.producer.free().min(bytes.len() as u32);
            if n == 0 {
                assert!(Instant::now() < end, "nobody reads the ring");
                std::thread::sleep(Duration::from_micros(100));
                continue;
            }
            let (now, rest) = bytes.split_at(n as usize);
            self.fill(now);
            let place = self.producer.after(n);
            self.producer.publish(self.pair.peer(), place);
            self.wake();
            bytes = rest;
        }
    }

    /// Puts `bytes` into the ring and takes the direction off it as a sender does whose reader stands still, of which this one
    /// only knows that it has not taken the last `back` bytes before them. TCP takes so many of them as it is told.
    pub fn carry_twice(&mut self, bytes: &[u8], back: &[u8], most: usize) -> Twice {
        let start = self.producer.produced.position - back.len() as u64;
        self.send_ring(bytes);
        let slot = self.pair.slot();
        let (word, end) = (slot.direction(self.role()), self.producer.produced);
        word.twice(start).expect("on the ring");
        self.tx_ring = false;
        let all = [back, bytes].concat();
        let over_tcp = &all[..most.min(all.len())];
        self.send_tcp(over_tcp).expect("a connection that goes on");
        Twice {
            whole: over_tcp.len() == all.len(),
            end: end.position,
        }
    }

    /// The end of that.
    pub fn carried(&mut self, twice: Twice) {
        let slot = self.pair.slot();
        let word = slot.direction(self.role());
        let done = match twice.whole {
            true => word.twice_all(),
            false => {
                slot.counts(self.role()).behind.store(self.sent, Release);
                word.twice_in_part(twice.end)
            }
        };
        done.expect("a word that only we change now");
        self.wake();
    }

    /// Receives what is there, wherever it is. `None`: nothing now; 0: the end.
    pub fn recv_some(&mut self, block: &mut [u8]) -> Option<usize> {
        if !self.rx_ring {
            let here = self.consumer.consumed.position;
            let open = self.gate_in().shut();
            let sender = self.role().peer();
            let direction = self.pair.slot().direction(sender).load();
            let gone = open && direction.has_gone_onto_ring(here, self.consumer.size);
            let seam = self.pair.slot().counts(sender).seam.load(Acquire);
            self.gate_in().open();
            let before = if gone { seam - self.taken } else { u64::MAX };
            if before > 0 {
                let n = block.len().min(before.min(1 << 20) as usize);
                return self.take_tcp(&mut block[..n]);
            }
            self.rx_ring = true;
        }
        let known = self.consumer.refresh(self.pair.own());
        known.expect("the library publishes good cursors");
        let n = self.consumer.available().min(block.len() as u32);
        if n > 0 {
            self.take_ring(&mut block[..n as usize]);
            return Some(n as usize);
        }
        let word = self.pair.slot().direction(self.role().peer());
        let here = self.consumer.consumed.position;
        let direction = word.load();
        match direction.carrier {
            Carrier::Ring | Carrier::Twice => self.ended().then_some(0),
            Carrier::Final if direction.position_after(here, here).is_none() => None,
            Carrier::Final => {
                word.to_tcp().expect("a word that only we change now");
                self.rx_ring = false;
                self.take_tcp(block)
            }
            other => panic!("the library has put its direction into {other:?}"),
        }
    }

    fn take_ring(&mut self, block: &mut [u8]) {
        let (ring, size) = self.pair.ring(&self.pair.paired.own);
        let n = block.len() as u32;
        each_part(self.consumer.span(n), |at, range| {
            assert!(at as usize + range.len() <= size as usize);
            // SAFETY: a place in the ring.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    ring.add(at as usize),
                    block[range.clone()].as_mut_ptr(),
                    range.len(),
                );
            }
        });
        self.consumer.consumed = self.consumer.after(n);
        let consumed = self.consumer.consumed;
        let word = consumed.cursor.word(0);
        self.pair.peer().consumer.store(word, Release);
        let counts = self.pair.slot().counts(self.role());
        counts.taken.store(consumed.position, Release);
        self.wake();
    }

    /// Receives exactly so much, wherever it is.
    pub fn recv_all(&mut self, mut bytes: &mut [u8]) {
        let end = Instant::now() + PATIENCE;
        while !bytes.is_empty() {
            match self.recv_some(bytes) {
                Some(0) => panic!("the stream has ended"),
                Some(n) => bytes = &mut bytes[n..],
                None => {
                    let slot = self.pair.slot();
                    assert!(Instant::now() < end, "nothing comes: {slot:?}");
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
        }
    }

    /// Sends by the ring as soon as the direction can be there.
    fn send_any(&mut self, bytes: &[u8]) -> bool {
        if !self.tx_ring && self.may_send() {
            self.switch();
        }
        if self.tx_ring {
            self.send_ring(bytes);
            return true;
        }
        self.send_tcp(bytes).is_ok()
    }

    /// Client: so many bytes over the ring and their echo, which comes over the other one.
    pub fn exchange_on_rings(&mut self, bytes: usize) {
        if !self.tx_ring {
            self.switch();
        }
        let (mut out, mut back) = (vec![0; bytes / 8 * 8], vec![0; bytes / 8 * 8]);
        Stream::new(bytes as u64).fill(&mut out);
        for (out, back) in out.chunks(9000).zip(back.chunks_mut(9000)) {
            self.send_ring(out);
            self.recv_all(back);
        }
        assert!(out == back, "the stream differs");
        assert!(self.rx_ring, "the echo comes over the ring");
    }

    /// Server: sends back what comes until the stream ends, by the rings where it can.
    pub fn serve_rings(&mut self) {
        let mut block = [0; 1 << 16];
        let mut end = Instant::now() + PATIENCE;
        loop {
            match self.recv_some(&mut block) {
                Some(0) => return,
                Some(n) if self.send_any(&block[..n]) => end = Instant::now() + PATIENCE,
                Some(_) => return,
                None => {
                    let slot = self.pair.slot();
                    assert!(Instant::now() < end, "nothing comes: {slot:?}");
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
        }
    }

    /// Whether the other end sends over the ring.
    pub fn receives_by_ring(&self) -> bool {
        let direction = self.pair.slot().direction(self.role().peer()).load();
        direction.carrier == Carrier::Ring
    }
}

fn each_part(span: Span, mut f: impl FnMut(u32, std::ops::Range<usize>)) {
    let (first, second) = (span.first as usize, span.second as usize);
    f(span.at, 0..first);
    f(0, first..first + second);
}
