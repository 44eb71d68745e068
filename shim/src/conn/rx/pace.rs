//! How often the reader of a one-way stream looks whether more has come.
//!
//! A look takes the line of the cursor away from the writer, who waits for it at its next message: a reader that is
//! quicker than the writer and looks at once has both of them pass that line to and fro for each small message. So when
//! each look finds something, little, and nothing was sent the other way, the next look is put off, twice as long each
//! time up to [`LONGEST_NS`]; whoever finds nothing looks at once again.

use crate::conn::{Conn, flag};
use crate::{clock, config};
use std::sync::atomic::Ordering::*;

const LONGEST_NS: u64 = 1000;
const FIRST_NS: u64 = LONGEST_NS / 4;
/// More than that between two looks, and copying it takes longer than the line.
const LITTLE: u32 = 4096;

/// Waits until it is time for the next look.
#[inline]
pub fn keep(conn: &Conn) {
    let gap = u64::from(conn.rx.pace.load(Relaxed));
    if gap != 0 {
        let last = conn.rx.paced_at.load(Relaxed);
        while clock::ticks().wrapping_sub(last) < gap {
            std::hint::spin_loop();
        }
    }
}

/// A look has found so many new bytes.
#[inline]
pub fn set(conn: &Conn, found: u32) {
    let (rx, tx) = (&conn.rx, &conn.tx);
    let gap = rx.pace.load(Relaxed);
    if found == 0 {
        if gap != 0 {
            rx.pace.store(0, Relaxed);
        }
        return;
    }
    let sent = tx
        .produced
        .load(Relaxed)
        .wrapping_add(tx.sent.load(Relaxed));
    if rx.sent_by_then.load(Relaxed) != sent {
        rx.sent_by_then.store(sent, Relaxed);
        if gap != 0 {
            rx.pace.store(0, Relaxed);
        }
    } else {
        put_off(conn, gap, found);
    }
}

/// Nothing was sent since the last look that found something.
fn put_off(conn: &Conn, gap: u32, found: u32) {
    let ticks = |ns: u64| (clock::per_us() * ns / 1000) as u32;
    let worth = found <= LITTLE && !conn.has(flag::NONBLOCK) && config::spin_us() != 0;
    let next = match worth {
        true => gap
            .saturating_mul(2)
            .max(ticks(FIRST_NS))
            .min(ticks(LONGEST_NS)),
        false => 0,
    };
    conn.rx.pace.store(next, Relaxed);
    conn.rx.paced_at.store(clock::ticks(), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family;

    /// Put off step by step while each look finds a little; at once again when one finds nothing, or much, or something
    /// was sent, or the program does not want to wait.
    #[test]
    fn one_way_and_little_is_put_off() {
        assert!(family::ready());
        let conn = family::allocate();
        assert!(conn.is_some());
        let Some(conn) = conn else { return };
        let longest = (clock::per_us() * LONGEST_NS / 1000) as u32;
        let after = |looks: &[u32]| {
            looks.iter().for_each(|found| set(conn, *found));
            conn.rx.pace.load(Relaxed)
        };
        conn.tx.sent.store(7, Relaxed);
        assert_eq!(after(&[8]), 0, "something was sent before");
        let first = after(&[8]);
        assert!(0 < first && first < longest);
        assert_eq!(after(&[8]), first * 2);
        assert_eq!(after(&[LITTLE; 8]), longest);
        keep(conn);
        assert!(clock::ticks() - conn.rx.paced_at.load(Relaxed) >= u64::from(longest));
        assert_eq!(after(&[0]), 0);
        assert_eq!(after(&[8]), first);
        assert_eq!(after(&[LITTLE + 1]), 0);
        assert_eq!(after(&[8, 8]), first * 2);
        conn.tx.produced.fetch_add(1, Relaxed);
        assert_eq!(after(&[8]), 0);
        conn.set(flag::NONBLOCK);
        assert_eq!(after(&[8, 8]), 0);
        conn.holders.store(0, Relaxed);
        crate::conn::close::finish(conn);
    }
}
