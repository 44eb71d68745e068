//! Whether the peer is still there, for a sender whose bytes lie unread: a process that was killed leaves no flag.

use super::{Conn, Sock, ready};
use crate::{clock, daemon, os};
use std::sync::atomic::Ordering::*;

/// How often the TCP socket is asked.
const LOOK_US: u64 = 1000;
/// Most sends for which the clock is not asked, which costs as much as a third of a small one.
const TRUST_MAX: u32 = 16;
/// Sends in this time on average make a burst.
const BURST_US: u64 = 4;

/// Whether it need not be asked now: it was lately. In a burst of sends the clock is not asked for each of them, while
/// the daemon is silent: it says when a process that has to do with this one is gone. The caller holds the lock of the
/// direction.
#[inline]
pub fn lately(conn: &Conn) -> bool {
    let tx = &conn.tx;
    let trusted = tx.trusted.load(Relaxed);
    if trusted != 0 && daemon::said() == Some(tx.said.load(Relaxed)) {
        tx.trusted.store(trusted - 1, Relaxed);
        return true;
    }
    let now = clock::ticks();
    let lately = now.wrapping_sub(tx.looked.load(Relaxed)) < clock::per_us() * LOOK_US;
    let trust = tx.trust.load(Relaxed);
    let pace = now.wrapping_sub(tx.clocked.load(Relaxed)) / (u64::from(trust) + 1);
    let trust = match lately && pace < clock::per_us() * BURST_US {
        true => (trust * 2 + u32::from(trust == 0)).min(TRUST_MAX),
        false => 0,
    };
    tx.clocked.store(now, Relaxed);
    tx.trust.store(trust, Relaxed);
    tx.trusted.store(trust, Relaxed);
    lately
}

/// Asks now and then, while what was sent up to `produced` lies unread. The caller holds the lock of the direction.
pub fn lives(sock: Sock, produced: u64) -> bool {
    if lately(&sock) {
        return true;
    }
    let tx = &sock.tx;
    tx.looked.store(clock::ticks(), Relaxed);
    if let Some(said) = daemon::said() {
        tx.said.store(said, Relaxed);
    }
    let taken = sock
        .slot()
        .map(|slot| slot.counts(sock.role().peer()).taken.load(Relaxed));
    taken == Some(produced)
        || !ready::note_gone(sock, os::poll_one(sock.fd, libc::POLLRDHUP, 0).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family;

    /// Only in a burst, ever longer, and not after a pause.
    #[test]
    fn trust_comes_with_a_burst() {
        assert!(family::ready());
        let conn = family::allocate();
        assert!(conn.is_some());
        let Some(conn) = conn else { return };
        let tx = &conn.tx;
        let after = |pause_us: u64| {
            let now = clock::ticks();
            tx.looked.store(now, Relaxed);
            let before = now.wrapping_sub(clock::per_us() * pause_us);
            tx.clocked.store(before, Relaxed);
            tx.trusted.store(0, Relaxed);
            assert!(lately(conn));
            tx.trusted.load(Relaxed)
        };
        assert_eq!(after(500), 0);
        assert_eq!([0; 6].map(after), [1, 2, 4, 8, 16, 16]);
        assert_eq!(after(500), 0);
        // Nothing was said by nobody: the clock counts.
        tx.trusted.store(5, Relaxed);
        tx.looked.store(0, Relaxed);
        assert!(!lately(conn));
        assert_eq!(tx.trusted.load(Relaxed), 0);
        conn.holders.store(0, Relaxed);
        crate::conn::close::finish(conn);
    }
}
