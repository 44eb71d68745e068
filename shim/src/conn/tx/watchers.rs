//! Those of the peer's contexts that watch the connection.

use crate::conn::Conn;
use crate::lgr;
use protocol::shm::ring::DmbHeader;
use protocol::shm::sync::fence;
use protocol::shm::wait::COLD;
use std::sync::atomic::Ordering::*;

/// Wakes those of the peer's contexts that sleep and watch the connection.
#[inline]
pub fn wake_watchers(conn: &Conn) {
    // SYNC: sleep/publish. What was published before is seen by a sleeper that enters after.
    fence(SeqCst);
    if let Some(own) = conn.own()
        && own.watchers.iter().any(|word| word.load(Relaxed) != 0)
    {
        wake(conn, own);
    }
}

/// Whether that context of the peer's watches the connection.
pub fn is_watched_by(conn: &Conn, context: u32) -> bool {
    let entry = |word: u64, shift| u32::from((word >> shift) as u16 & !COLD);
    conn.own().is_some_and(|own| {
        let mut words = own.watchers.iter().map(|word| word.load(Relaxed));
        words.any(|word| {
            [0, 16, 32, 48]
                .iter()
                .any(|n| entry(word, *n) == context + 1)
        })
    })
}

#[inline(never)]
fn wake(conn: &Conn, own: &DmbHeader) {
    let Some(group) = lgr::get(conn.lgr.load(Relaxed)) else {
        return;
    };
    // As in the kernel, who came last is woken first.
    for word in own.watchers.iter().rev() {
        let mut list = word.load(Relaxed);
        while list != 0 {
            let shift = (63 - list.leading_zeros()) & !15;
            let entry = (list >> shift) as u16;
            list &= !(0xffff << shift);
            let Some(context) = u32::from(entry & !COLD).checked_sub(1) else {
                continue;
            };
            if entry & COLD != 0 {
                group.hint(context, own.hint.load(Relaxed));
            }
            if group.wake(context) {
                conn.row().rings.fetch_add(1, Relaxed);
            }
        }
    }
}
