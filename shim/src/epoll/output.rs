//! What an epoll_wait gives to the program.

use super::reg::{self, Reg, state};
use super::set::{Set, Tagged, may_be_tag};
use std::sync::atomic::Ordering::*;

/// The program's array, filled from the front.
pub(super) struct Output {
    pub at: *mut libc::epoll_event,
    pub max: usize,
    pub used: usize,
    /// Names the call: a registration is put once.
    pub round: u32,
}

impl Output {
    pub fn full(&self) -> bool {
        self.used == self.max
    }

    pub fn put(&mut self, event: libc::epoll_event) {
        if !self.full() {
            // SAFETY: used < max, and the program gave an array of max events.
            unsafe { self.at.add(self.used).write_unaligned(event) };
            self.used += 1;
        }
    }

    /// The kernel reported `events` for the tag of a registration.
    pub fn hear(&mut self, set: &Set, reg: &'static Reg, events: u32) {
        if reg.state.load(Acquire) != state::TAGGED {
            set.note(reg, events);
        } else if reg.disarmed.load(Relaxed) == 0 {
            self.put(reg::output(reg, events));
        }
    }

    /// Puts together what stands here twice: a registration that has changed hands during the wait was
    /// seen by the kernel and by us. The kernel never names one twice, and programs free what they get.
    pub fn unite(&mut self) {
        let given = std::mem::take(&mut self.used);
        for i in 0..given {
            // SAFETY: both indices are below the number of events that were put.
            let event = unsafe { self.at.add(i).read_unaligned() };
            let same = (0..self.used).find(|n| {
                // SAFETY: likewise.
                unsafe { self.at.add(*n).read_unaligned() }.u64 == event.u64
            });
            match same {
                Some(n) => {
                    // SAFETY: likewise.
                    let mut first = unsafe { self.at.add(n).read_unaligned() };
                    first.events |= event.events;
                    // SAFETY: likewise.
                    unsafe { self.at.add(n).write_unaligned(first) };
                }
                None => self.put(event),
            }
        }
    }
}

/// Takes our tags out of `n` events that the kernel wrote; gives how many are the program's.
///
/// # Safety
/// `events` points to `n` events.
pub unsafe fn absorb(set: &Set, events: *mut libc::epoll_event, n: usize) -> usize {
    // SAFETY: i < n.
    let ours = |i: &usize| may_be_tag(unsafe { events.add(*i).read_unaligned() }.u64);
    // What comes before the first of ours stays where it is; mostly that is all.
    let Some(first) = (0..n).find(ours) else {
        return n;
    };
    let mut kept = Output {
        at: events,
        max: n,
        used: first,
        round: 0,
    };
    for i in first..n {
        // SAFETY: i < n; what is kept lies at or before what is read.
        let event = unsafe { events.add(i).read_unaligned() };
        match set.read_tag(event.u64) {
            Tagged::Program => kept.put(event),
            Tagged::Bell | Tagged::Stale => {}
            Tagged::Reg(reg) => kept.hear(set, reg, event.events),
        }
    }
    kept.used
}
