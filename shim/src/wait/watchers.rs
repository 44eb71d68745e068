//! The contexts that watch a connection, as its peer is told.

use crate::conn::Conn;
use crate::ctx::{self, Ctx};
use crate::lgr;
use protocol::shm::sync::fence;
use protocol::shm::wait::{COLD, HINTS};
use std::sync::atomic::Ordering::*;

/// Enters `ctx` in the list that the peer looks at after it has published; where there is no peer yet, for
/// [`introduce`]. False: no room.
pub fn watch(conn: &Conn, ctx: Ctx) -> bool {
    let held = conn.watch_lock.lock();
    let done = announce(conn, ctx) && replace(conn, 0, ctx.number as u16 + 1);
    conn.watch_lock.unlock(held);
    done
}

/// Lets the peer, if there is one, have the doorbell of `ctx`. The caller holds the lock of the list.
fn announce(conn: &Conn, ctx: Ctx) -> bool {
    let Some(peer) = conn.peer() else {
        return true;
    };
    peer.hint.store(conn.index() % HINTS, Relaxed);
    lgr::get(conn.lgr.load(Relaxed)).is_some_and(|group| group.announce(ctx))
}

/// The connection has come to have a peer, who is to wake those as well who sleep already: what has come over TCP since
/// may have woken them, and was taken by another thread before they looked.
pub fn introduce(conn: &Conn) {
    let Some(peer) = conn.peer() else { return };
    let held = conn.watch_lock.lock();
    for (own, published) in conn.watchers.iter().zip(&peer.watchers) {
        let word = own.load(Relaxed);
        for shift in [0, 16, 32, 48] {
            let entry = (word >> shift) as u16 & !COLD;
            if let Some(ctx) = u32::from(entry).checked_sub(1).and_then(ctx::own)
                && !announce(conn, ctx)
            {
                // It has to look for itself from time to time.
                ctx.ring();
            }
        }
        published.store(word, SeqCst);
    }
    conn.watch_lock.unlock(held);
}

/// Whether `ctx` is in the list already.
pub fn watches(conn: &Conn, ctx: Ctx) -> bool {
    conn.watchers.iter().any(|word| {
        let word = word.load(Relaxed);
        [0, 16, 32, 48]
            .iter()
            .any(|shift| (word >> shift) as u16 == ctx.number as u16 + 1)
    })
}

pub fn unwatch(conn: &Conn, ctx: Ctx) {
    edit_watchers(conn, ctx.number as u16 + 1, 0);
}

/// As [`unwatch`], for a connection that is cold to `ctx`.
pub fn unwatch_cold(conn: &Conn, ctx: Ctx) {
    edit_watchers(conn, (ctx.number as u16 + 1) | COLD, 0);
}

/// Whether the peer, after it has published, is to leave a hint for `ctx`, which does not look at
/// the connection by itself any more. Ends with a full fence.
pub fn call_cold(conn: &Conn, ctx: Ctx, cold: bool) -> bool {
    let hot = ctx.number as u16 + 1;
    let done = match cold {
        true => edit_watchers(conn, hot, hot | COLD),
        false => edit_watchers(conn, hot | COLD, hot),
    };
    // SYNC: cold. The caller looks once more; the producer looks here after it has published.
    fence(SeqCst);
    done
}

/// Replaces one entry `from` of the list by `to`.
fn edit_watchers(conn: &Conn, from: u16, to: u16) -> bool {
    let held = conn.watch_lock.lock();
    let done = replace(conn, from, to);
    conn.watch_lock.unlock(held);
    done
}

/// The caller holds the lock of the list.
fn replace(conn: &Conn, from: u16, to: u16) -> bool {
    for (i, own) in conn.watchers.iter().enumerate() {
        let word = own.load(Relaxed);
        for shift in [0, 16, 32, 48] {
            if (word >> shift) as u16 == from {
                let word = word & !(0xffff << shift) | u64::from(to) << shift;
                own.store(word, Relaxed);
                if let Some(published) = conn.peer().and_then(|peer| peer.watchers.get(i)) {
                    published.store(word, SeqCst);
                }
                return true;
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family;
    use protocol::shm::ring::DmbHeader;

    /// Who sleeps when the connection gets its peer is known to that from then on.
    #[test]
    fn a_peer_hears_of_who_sleeps_already() {
        assert!(family::ready());
        let (Some(conn), Some(ctx)) = (family::allocate(), ctx::take()) else {
            unreachable!("room for both")
        };
        let peer = DmbHeader::default();
        let published = || peer.watchers.iter().map(|word| word.load(Relaxed)).sum();
        assert!(watch(conn, ctx) && watches(conn, ctx));
        conn.attach(std::ptr::null(), std::ptr::null(), (&raw const peer).cast());
        introduce(conn);
        assert_eq!(u64::from(ctx.number) + 1, published());
        unwatch(conn, ctx);
        assert_eq!(0u64, published());
        assert!(!watches(conn, ctx));
        conn.attach(std::ptr::null(), std::ptr::null(), std::ptr::null());
        ctx.give_back();
        conn.holders.store(0, Relaxed);
        crate::conn::close::finish(conn);
    }
}
