//! The spin of an epoll_wait: of what is hot.

use super::reg::Reg;
use super::set::Set;
use crate::conn::tx;
use crate::family;
use crate::wait::spin;
use std::sync::atomic::{AtomicU64, Ordering::*};

/// Hot registrations up to which a wait spins.
const MANY: usize = 256;
/// Those of which a spin looks at the cursors alone, in most of its turns.
const FEW: usize = 4;

/// Cheap look at the rings of a set, for spinning.
fn stirs(set: &Set) -> bool {
    set.hinted()
        || set.any_hot(|reg| {
            reg.report(false) != 0
                || reg
                    .sock()
                    .is_some_and(|sock| sock.tx_ring() && tx::disturbed(&sock))
        })
}

/// The word in which the peer of a connection says how much it has published, and what it said.
struct Published(&'static AtomicU64, u64);

/// What a spin looks at in most of its turns: of few connections on rings, one word each.
struct Cursors([Option<Published>; FEW]);

impl Cursors {
    /// Read before everything else is looked at. `None`: there is more to look at than that.
    fn of(set: &Set) -> Option<Self> {
        let mut words = [const { None }; FEW];
        let mut free = words.iter_mut();
        for reg in set.hot() {
            let sock = reg.sock().filter(|sock| sock.rx_ring())?;
            let word = &sock.own()?.producer;
            *free.next()? = Some(Published(word, word.load(Relaxed)));
        }
        Some(Cursors(words))
    }

    fn moved(&self) -> bool {
        let mut words = self.0.iter().flatten();
        words.any(|Published(word, seen)| word.load(Relaxed) != *seen)
    }
}

/// Spins where that has paid off lately. True: a look may bring something.
pub(super) fn spin(set: &Set) -> bool {
    // With many rings a round of looks takes longer than a sleep costs.
    if set.active.places().len() > MANY || !spin::worth_spinning(&set.spin) {
        return false;
    }
    let apart = set
        .hot()
        .filter_map(Reg::sock)
        .any(|sock| !spin::same_cpu(&sock));
    if !apart {
        return false;
    }
    let mut cursors = None;
    let hit = spin::spin(|turn| {
        if turn == 0 {
            cursors = Cursors::of(set);
        }
        match &cursors {
            Some(cursors) if turn != 0 => cursors.moved(),
            _ => stirs(set),
        }
    });
    spin::spun(&set.spin, hit);
    let hits = set.hits.load(Relaxed) + u64::from(hit);
    set.hits.store(hits, Relaxed);
    if (!hit || hits >= 256)
        && let Some(table) = family::table()
    {
        set.hits.store(0, Relaxed);
        table.totals.spin_hits.fetch_add(hits, Relaxed);
        table.totals.spin_misses.fetch_add(u64::from(!hit), Relaxed);
    }
    hit
}
