//! How likely it is that a claim of this process is answered. Where the other ends are no programs under the
//! library none is, and each costs both this process and the daemon: when some have come to nothing, there is only one now and
//! then for each connection.

use super::Conn;
use crate::config::{self, Policy};
use std::sync::atomic::{AtomicI32, Ordering::*};

/// So many more claims of this process may be taken back without an answer before it makes them seldom. Those that
/// wait do not count: the other ends may be about to claim the same connections in another order.
static CREDIT: AtomicI32 = AtomicI32::new(FIRST);
const FIRST: i32 = 64;
/// What an answered claim brings: one in so many keeps the others going.
const ANSWERED: i32 = 8;
const MOST: i32 = 1024;

/// Without credit a connection is claimed at totals of 64 KiB, 1 MiB, 16 MiB and so on: both ends come to them
/// at the same time, and one that has credit claims there too.
const SELDOM_FROM: u64 = 64 << 10;
const SELDOM_LOG: u32 = 4;

const fn seldom(total: u64) -> bool {
    total >= SELDOM_FROM
        && total.is_power_of_two()
        && total.trailing_zeros().is_multiple_of(SELDOM_LOG)
}

fn next_seldom(total: u64) -> u64 {
    let next = (total + 1).max(SELDOM_FROM).next_power_of_two();
    let over = next.trailing_zeros() % SELDOM_LOG;
    next << ((SELDOM_LOG - over) % SELDOM_LOG)
}

/// Where the next claim of a connection belongs that nobody has answered at this total.
pub fn next(total: u64) -> u64 {
    match CREDIT.load(Relaxed) > 0 || config::policy() == Policy::Eager {
        true => (total + 1).next_power_of_two(),
        false => next_seldom(total),
    }
}

/// Whether the connection may be claimed now; if not, it is told when.
pub fn may_claim(conn: &Conn) -> bool {
    let due = seldom(conn.reclaim_at.load(Relaxed));
    if due || CREDIT.load(Relaxed) > 0 || config::policy() == Policy::Eager {
        return true;
    }
    conn.reclaim_at
        .store(next_seldom(conn.tcp_bytes()), Relaxed);
    false
}

/// A claim was taken back.
pub fn unanswered() {
    // Not below what one answer makes up for.
    let _ = CREDIT.fetch_update(Relaxed, Relaxed, |left| Some((left - 1).max(0)));
}

pub fn answered() {
    let _ = CREDIT.fetch_update(Relaxed, Relaxed, |left| Some((left + ANSWERED).min(MOST)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seldom_means_each_sixteenfold() {
        let mut totals = vec![];
        let mut at = 0;
        for _ in 0..4 {
            at = next_seldom(at);
            assert!(seldom(at) && !seldom(at * 2) && !seldom(at + 1));
            totals.push(at >> 10);
        }
        assert_eq!(totals, [64, 1024, 16384, 262_144]);
        assert_eq!(next_seldom(65_535), 65_536);
        assert_eq!(next_seldom(100_000), 1 << 20);
    }
}
