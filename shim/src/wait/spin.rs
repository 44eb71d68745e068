//! A bounded spin before a sleep, where that has paid off.

use super::{Want, hint};
use crate::conn::{Conn, Sock, rx};
use crate::{clock, config, copy, os};
use std::sync::atomic::{AtomicU32, Ordering::*};

/// CPUs of the machine, looked up once. Not those that this process may use: a process that is
/// pinned to one CPU gains from spinning when its peer runs on another, and [`same_cpu`] tells.
fn cpus() -> u32 {
    static CPUS: AtomicU32 = AtomicU32::new(0);
    match CPUS.load(Relaxed) {
        0 => {
            let online = os::online_cpus();
            CPUS.store(online, Relaxed);
            online
        }
        n => n,
    }
}

#[inline]
fn this_cpu() -> u32 {
    let mut aux = 0;
    // SAFETY: x86-64 with rdtscp; Linux keeps the CPU number in the low 12 bits of TSC_AUX.
    unsafe { core::arch::x86_64::__rdtscp(&mut aux) };
    aux & 0xfff
}

/// Says where we wait, and tells whether the peer waited on the same CPU last: then spinning would
/// only keep it from running.
pub fn same_cpu(conn: &Conn) -> bool {
    let (Some(own), Some(peer)) = (conn.own(), conn.peer()) else {
        return true;
    };
    let here = this_cpu() + 1;
    if peer.cpu.load(Relaxed) != here {
        peer.cpu.store(here, Relaxed);
    }
    own.cpu.load(Relaxed) == here
}

/// Whether the peer waited on another CPU last.
#[inline]
pub fn far(conn: &Conn) -> bool {
    let there = conn.own().map_or(0, |own| own.cpu.load(Relaxed));
    there != 0 && there != this_cpu() + 1
}

/// Score of spinning: up when it pays, down when it does not; at 0 only every 16th wait tries.
const SCORE_MAX: u32 = 8;

/// Whether to spin now, given the score word (score in the low byte, skipped waits above).
pub fn worth_spinning(score: &AtomicU32) -> bool {
    if config::spin_us() == 0 || cpus() < 2 {
        return false;
    }
    let word = score.load(Relaxed);
    if word & 0xff != 0xff {
        // 0xff marks a score of nothing; new connections start in the middle.
        return true;
    }
    let skipped = (word >> 8) + 1;
    score.store(0xff | (skipped & 0xf) << 8, Relaxed);
    skipped & 0xf == 0
}

pub fn spun(score: &AtomicU32, hit: bool) {
    let word = score.load(Relaxed) & 0xff;
    let level = match word {
        0 => SCORE_MAX / 2,
        0xff => 0,
        n => n.min(SCORE_MAX),
    };
    let level = if hit {
        (level + 1).min(SCORE_MAX)
    } else {
        level.saturating_sub(1)
    };
    score.store(if level == 0 { 0xff } else { level }, Relaxed);
}

/// Cache lines of the payload for which a receive that spins asks.
const LINES: usize = 4;

/// Spins until `ready(how often it was asked)` or the budget ends. Without sched_yield: where cores are short it
/// gives away a slice to each of the others, milliseconds for a wait of microseconds.
pub fn spin(mut ready: impl FnMut(u32) -> bool) -> bool {
    let end = clock::ticks() + clock::per_us() * u64::from(config::spin_us());
    loop {
        for turn in 0..8 {
            if ready(turn) {
                return true;
            }
            std::hint::spin_loop();
        }
        if clock::ticks() >= end {
            return false;
        }
    }
}

/// Spins where that has paid off lately. True: the connection may have something for a call that wants
/// `want`.
pub fn spin_for(sock: Sock, want: Want) -> bool {
    let ring = match want {
        Want::In | Want::Urgent => sock.rx_ring(),
        Want::Out => sock.tx_ring(),
    };
    let Some(own) = sock.own().filter(|_| ring) else {
        return false;
    };
    // What nearly always ends the spin, and costs one load: a receive waits on an empty ring.
    let (word, seen) = match want {
        Want::In | Want::Urgent => (&own.producer, rx::consumer(&sock).consumed.cursor.word(0)),
        Want::Out => (&own.consumer, own.consumer.load(Relaxed)),
    };
    if same_cpu(&sock) || !worth_spinning(&sock.rx.spin) {
        return false;
    }
    // The first lines of the payload come with that of the cursor instead of after it. After a small message, which
    // lies in that line as well, it is left to the peer, who writes there next.
    let (payload, lines) = match want {
        Want::In | Want::Urgent if !own.has_small() => {
            let at = rx::consumer(&sock).span(1).at as usize;
            (sock.own_ring().wrapping_add(at), LINES)
        }
        _ => (std::ptr::from_ref(own).cast_mut().cast(), 1),
    };
    let hit = spin(|turn| {
        for line in 0..lines {
            copy::prefetch(payload.wrapping_add(64 * line));
        }
        word.load(Relaxed) != seen || turn == 0 && hint(sock, want)
    });
    spun(&sock.rx.spin, hit);
    let row = sock.row();
    match hit {
        true => &row.spin_hits,
        false => &row.spin_misses,
    }
    .fetch_add(1, Relaxed);
    hit
}
