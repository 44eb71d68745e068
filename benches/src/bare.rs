//! The limit: messages through a bare ring in shared memory, with the cursors that libsmclo uses
//! and nothing else. No sockets, no sleeping, no checks of what a call would have to check.

use crate::traffic::{Latencies, Report};
use protocol::shm::ring::{Consumer, DmbHeader, Producer, RING_AT};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What the library takes by default for a DMB.
pub const DMB: u32 = 256 << 10;
pub const RING: u32 = DMB - RING_AT;

/// Two DMBs and a word for the end, in memory that both processes map.
#[derive(Clone, Copy, Debug)]
pub struct Memory(*mut u8);

impl Memory {
    const LEN: usize = 2 * DMB as usize + 4096;

    /// Shared with the children that are forked after this call; never unmapped.
    pub fn new() -> std::io::Result<Memory> {
        // SAFETY: a fresh mapping, wherever the kernel has room.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                Self::LEN,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        Ok(Memory(at.cast()))
    }

    /// Back to an empty ring; both ends are made anew after this.
    pub fn clear(&self) {
        for which in [0, 1] {
            let header = self.header(which);
            header.producer.store(0, Ordering::Relaxed);
            header.consumer.store(0, Ordering::Relaxed);
        }
        self.done().store(0, Ordering::Relaxed);
    }

    fn dmb(&self, which: usize) -> *mut u8 {
        // SAFETY: `which` is 0 or 1, so this is within the mapping.
        unsafe { self.0.add(which * DMB as usize) }
    }

    fn header(&self, which: usize) -> &'static DmbHeader {
        // SAFETY: page aligned, zeroed, never unmapped, and all fields are atomics.
        unsafe { &*self.dmb(which).cast() }
    }

    fn ring(&self, which: usize) -> *mut u8 {
        // SAFETY: the ring follows the header within the DMB.
        unsafe { self.dmb(which).add(RING_AT as usize) }
    }

    fn done(&self) -> &'static AtomicU32 {
        // SAFETY: in the page after the DMBs; aligned, zeroed, never unmapped.
        unsafe { &*self.0.add(2 * DMB as usize).cast() }
    }
}

/// One of two ends.
pub struct End {
    memory: Memory,
    me: usize,
    tx: Producer,
    rx: Consumer,
    /// Give the core away while waiting: both ends are on the same one.
    yields: bool,
}

/// The other end has said that it is done.
pub struct Over;

impl End {
    pub fn new(memory: Memory, me: usize, yields: bool) -> End {
        let tx = Producer {
            size: RING,
            ..Default::default()
        };
        let rx = Consumer {
            size: RING,
            ..Default::default()
        };
        End {
            memory,
            me,
            tx,
            rx,
            yields,
        }
    }

    fn relax(&self) -> Result<(), Over> {
        if self.memory.done().load(Ordering::Relaxed) != 0 {
            return Err(Over);
        }
        if self.yields {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
        Ok(())
    }

    /// Tells the other end to stop waiting.
    pub fn finish(&self) {
        self.memory.done().store(1, Ordering::Release);
    }

    pub fn send(&mut self, mut message: &[u8]) -> Result<(), Over> {
        let peer = 1 - self.me;
        while !message.is_empty() {
            if (self.tx.free() as usize) < message.len() {
                self.tx
                    .refresh(self.memory.header(self.me))
                    .map_err(|_| Over)?;
            }
            let n = self.tx.free().min(message.len() as u32);
            if n == 0 {
                self.relax()?;
                continue;
            }
            let span = self.tx.span(n);
            let (first, rest) = message.split_at(span.first as usize);
            let (second, rest) = rest.split_at(span.second as usize);
            let ring = self.memory.ring(peer);
            // SAFETY: a span lies within the ring, and the peer does not read it before `publish`.
            unsafe {
                let at = ring.add(span.at as usize);
                at.copy_from_nonoverlapping(first.as_ptr(), first.len());
                ring.copy_from_nonoverlapping(second.as_ptr(), second.len());
            }
            let place = self.tx.after(n);
            self.tx.publish(self.memory.header(peer), place);
            message = rest;
        }
        Ok(())
    }

    pub fn recv(&mut self, mut message: &mut [u8]) -> Result<(), Over> {
        while !message.is_empty() {
            if self.rx.available() == 0 {
                let fresh = self.rx.refresh(self.memory.header(self.me));
                fresh.map_err(|_| Over)?;
            }
            let n = self.rx.available().min(message.len() as u32);
            if n == 0 {
                self.relax()?;
                continue;
            }
            let span = self.rx.span(n);
            let (first, rest) = message.split_at_mut(span.first as usize);
            let (second, rest) = rest.split_at_mut(span.second as usize);
            let ring = self.memory.ring(self.me);
            // SAFETY: a span lies within the ring; the peer has published it and leaves it alone
            // until the consumer cursor has passed it.
            unsafe {
                let at = ring.add(span.at as usize);
                at.copy_to_nonoverlapping(first.as_mut_ptr(), first.len());
                ring.copy_to_nonoverlapping(second.as_mut_ptr(), second.len());
            }
            self.rx.consumed = self.rx.after(n);
            // A quarter at a time: the sender needs it no earlier.
            if self.rx.consumed.position - self.rx.confirmed >= u64::from(RING / 4) {
                self.rx.confirmed = self.rx.consumed.position;
                let word = self.rx.consumed.cursor.word(0);
                let header = self.memory.header(1 - self.me);
                header.consumer.store(word, Ordering::Release);
            }
            message = rest;
        }
        Ok(())
    }
}

/// Answers until the other end is done.
pub fn serve_ping_pong(mut end: End, size: usize) {
    let mut message = vec![0; size];
    while end.recv(&mut message).is_ok() && end.send(&message).is_ok() {}
}

pub fn serve_one_way(mut end: End, size: usize) {
    let mut message = vec![0; size];
    while end.recv(&mut message).is_ok() {}
}

pub fn ping_pong(mut end: End, size: usize, limit: Duration) -> Report {
    let mut message = vec![b'*'; size];
    let mut latencies = Latencies::default();
    let start = Instant::now();
    let mut last = start;
    while last - start < limit {
        if end.send(&message).is_err() || end.recv(&mut message).is_err() {
            break;
        }
        let now = Instant::now();
        latencies.record(now - last);
        last = now;
    }
    end.finish();
    let done = latencies.count() as f64;
    Report {
        operations: done,
        seconds: (last - start).as_secs_f64(),
        bytes: done * size as f64 * 2.0,
        percentiles: latencies.percentiles(),
        ..Default::default()
    }
}

pub fn one_way(mut end: End, size: usize, limit: Duration) -> Report {
    let message = vec![b'*'; size];
    let batch = ((16 << 10) / size).max(1);
    let start = Instant::now();
    let mut done = 0;
    'time: while start.elapsed() < limit {
        for _ in 0..batch {
            if end.send(&message).is_err() {
                break 'time;
            }
            done += 1;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    end.finish();
    // What is still in the ring was not received: less than a ring, so next to nothing.
    Report {
        operations: f64::from(done),
        seconds,
        bytes: f64::from(done) * size as f64,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends and receives in turn, in one thread: no message may need space that the receiver,
    /// who confirms a quarter at a time, still owes.
    #[test]
    fn messages_of_any_size_arrive() {
        let memory = Memory::new().unwrap();
        let (mut a, mut b) = (End::new(memory, 0, false), End::new(memory, 1, false));
        let most = RING as usize / 2;
        let mut buffer = vec![0; most];
        for (i, size) in [1, 7, 100, 64_000, most].repeat(9).into_iter().enumerate() {
            let message: Vec<u8> = (0..size).map(|n| (n * 31 + i) as u8).collect();
            assert!(a.send(&message).is_ok());
            assert!(b.recv(&mut buffer[..size]).is_ok());
            assert_eq!(&buffer[..size], &message[..]);
            assert!(b.send(&message).is_ok());
            assert!(a.recv(&mut buffer[..size]).is_ok());
            assert_eq!(&buffer[..size], &message[..]);
        }
        b.finish();
        assert!(a.recv(&mut buffer).is_err());
    }
}
