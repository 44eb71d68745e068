//! A short wait for an endless stream to run empty.
//!
//! How long is a matter of what lies in TCP, of the peer's pace and of the cores that the two have: so it begins
//! with little, gives up what cannot come to an end, and tries longer, at ever longer distances.

use super::steps;
use crate::conn::{Sock, flag, onto_ring, phase, step};
use crate::{clock, os};
use protocol::shm::pair::PairSlot;
use std::sync::atomic::{AtomicU64, Ordering::*};

/// A sender that never lets its stream run empty waits for the peer, when it has something to put
/// onto the stream for the handshake, or is to go onto the ring: at most this long,
const PAUSE_NS: u64 = 20_000_000;
/// and only while the peer does read. One that shares its core with others stands still for some
/// slices of theirs.
const STILL_NS: u64 = 12_000_000;
/// Both are twice as long after each pause that was in vain, so often: how much lies in TCP, and for how long the
/// peer has no core, only a look can tell.
const LONGER: u32 = 3;
/// At the pace that the peer has had for this long, a pause is to come to its end in time. To one that is slow
/// it is not worth it.
const PACE_NS: u64 = 4_000_000;
/// With such longer ones a process loses no more than this part of its time, however many connections it has.
const SHARE: u64 = 8;
/// To a peer that has not moved for this long the core is left for a moment. By sleep: sched_yield gives
/// whole slices away where cores are short.
const IDLE_NS: u64 = 50_000;
/// Bytes sent in this end's turn before such a pause, so that only a stream of some volume is ever
/// held back; and between pauses, twice as many after each that was in vain.
const PAUSE_BYTES: u64 = 64 << 10;

/// When this process may take longer again.
static NOT_BEFORE: AtomicU64 = AtomicU64::new(0);

/// Whether it is this end's turn: a message is to be sent, or the direction may go onto the ring. While
/// it is the peer's, pausing would only keep the program from reading what the peer waits for.
fn has_turn(sock: Sock, slot: &PairSlot) -> bool {
    match sock.step.load(Acquire) {
        // An end that does not listen yet has nothing to say either, and has to read first.
        step::START => sock.has(flag::CLIENT) && sock.has(flag::GATED),
        step::ACCEPT | step::CONFIRM | step::ACK | step::DECLINE => true,
        // A sender that TCP makes wait runs when the reader takes something, and so finds the
        // reader's gate shut each time.
        step::ESTABLISHED => onto_ring::is_wanted(sock, slot),
        _ => false,
    }
}

/// Before a send over TCP: waits a little, now and then, for the stream to run empty or, when a
/// direction is to go onto the ring, for the reader to open its gate.
pub fn pause(sock: Sock) {
    if sock.phase() != phase::PAIRED || sock.tx_ring() {
        return;
    }
    let Some(slot) = sock.slot().filter(|slot| has_turn(sock, slot)) else {
        return;
    };
    let consumed = || slot.counts(sock.role().peer()).consumed.load(Relaxed);
    // One that waits in a call from before the pair was made learns of it when bytes come, and only then.
    if consumed() == 0 {
        return;
    }
    let (sent, retry) = (sock.tx.sent.load(Relaxed), &sock.tx.retry);
    let volume = sent.wrapping_sub(consumed()) >= PAUSE_BYTES;
    if retry.load(Relaxed) == 0 && !volume {
        return retry.store(sent + PAUSE_BYTES, Relaxed);
    }
    if sent < retry.load(Relaxed) || sock.has(flag::LEAVE | flag::FIN_SEEN | flag::SHUT_WR) {
        return;
    }
    let began = clock::now();
    let turn = sock.step.load(Acquire);
    let vain = sock.tx.backoff.load(Relaxed);
    let longer = match began < NOT_BEFORE.load(Relaxed) {
        true => 0,
        false => vain.min(LONGER),
    };
    let mut drain = Drain::new(began, consumed(), longer);
    loop {
        steps(sock);
        if sock.tx_ring() || sock.step.load(Acquire) != turn || sock.phase() != phase::PAIRED {
            sock.tx.backoff.store(0, Relaxed);
            return;
        }
        let now = clock::now();
        let consumed = consumed();
        if !drain.goes_on(now, consumed, sent.wrapping_sub(consumed)) {
            if longer != 0 {
                NOT_BEFORE.store(now + (now - began) * SHARE, Relaxed);
            }
            break;
        }
        if now - drain.moved >= IDLE_NS {
            os::sleep_ns(IDLE_NS);
        } else {
            std::hint::spin_loop();
        }
    }
    sock.tx.backoff.store(vain.saturating_add(1), Relaxed);
    retry.store(sent + (PAUSE_BYTES << vain.min(8)), Relaxed);
}

/// What a pause sees of the peer.
struct Drain {
    began: u64,
    /// Doublings of its patience.
    longer: u32,
    /// When the peer was first seen to take something, and what it had taken then.
    first: Option<(u64, u64)>,
    moved: u64,
    consumed: u64,
}

impl Drain {
    fn new(now: u64, consumed: u64, longer: u32) -> Self {
        Drain {
            began: now,
            longer,
            first: None,
            moved: now,
            consumed,
        }
    }

    /// Whether to wait on, for the peer to take the `rest`.
    fn goes_on(&mut self, now: u64, consumed: u64, rest: u64) -> bool {
        if consumed != self.consumed {
            (self.moved, self.consumed) = (now, consumed);
            self.first = self.first.or(Some((now, consumed)));
        }
        let left = (self.began + (PAUSE_NS << self.longer)).saturating_sub(now);
        let in_time = match self.first {
            Some((since, from)) if now - since >= PACE_NS => {
                let taken = u128::from(consumed.wrapping_sub(from));
                u128::from(rest) * u128::from(now - since) <= taken * u128::from(left)
            }
            _ => true,
        };
        left != 0 && now - self.moved < STILL_NS << self.longer && in_time
    }
}
