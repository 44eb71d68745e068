//! Totals over connections, living or gone.

use crate::table::RowCopy;
use protocol::reason;
use protocol::short::Place;
use protocol::stats::{Carried, Mode, SIZES, Totals};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// Bytes and messages of one direction of the ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    pub bytes: u64,
    pub sizes: [u64; SIZES],
}

impl Moved {
    pub fn copy(from: &Carried) -> Self {
        Moved {
            bytes: from.bytes.load(Relaxed),
            sizes: from.sizes.each_ref().map(|class| class.load(Relaxed)),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub smc_tx: Moved,
    pub smc_rx: Moved,
    pub tcp_tx: u64,
    pub tcp_rx: u64,
    pub upgrades: u64,
    pub reverts: u64,
    pub rings: u64,
    pub sleeps: u64,
    pub spin_hits: u64,
    pub spin_misses: u64,
    pub full: u64,
    pub accelerated: u64,
    pub plain: u64,
    /// Connections on TCP by reason.
    pub reasons: BTreeMap<u32, u64>,
    /// Those of `plain` and `reasons` that live, and so may become something else.
    pub plain_now: u64,
    pub reasons_now: BTreeMap<u32, u64>,
}

/// Bound on distinct reasons, which come from the clients.
const MAX_REASONS: usize = 256;

fn add_to(reasons: &mut BTreeMap<u32, u64>, reason: u32, count: u64) {
    if reasons.len() < MAX_REASONS || reasons.contains_key(&reason) {
        let mine = reasons.entry(reason).or_default();
        *mine = mine.saturating_add(count);
    }
}

impl Sums {
    /// The totals in a table, without the reasons.
    pub fn of_totals(t: &Totals) -> Self {
        let get = |word: &AtomicU64| word.load(Relaxed);
        Sums {
            smc_tx: Moved::copy(&t.smc_tx),
            smc_rx: Moved::copy(&t.smc_rx),
            tcp_tx: get(&t.tcp_tx),
            tcp_rx: get(&t.tcp_rx),
            upgrades: get(&t.upgrades),
            reverts: get(&t.reverts),
            rings: get(&t.rings),
            sleeps: get(&t.sleeps),
            spin_hits: get(&t.spin_hits),
            spin_misses: get(&t.spin_misses),
            full: get(&t.full),
            accelerated: get(&t.accelerated),
            plain: get(&t.plain),
            ..Sums::default()
        }
    }

    pub fn smc_bytes(&self) -> u64 {
        self.smc_tx.bytes.saturating_add(self.smc_rx.bytes)
    }

    pub fn tcp_bytes(&self) -> u64 {
        self.tcp_tx.saturating_add(self.tcp_rx)
    }

    fn words(&mut self) -> impl Iterator<Item = &mut u64> {
        let single = [
            &mut self.smc_tx.bytes,
            &mut self.smc_rx.bytes,
            &mut self.tcp_tx,
            &mut self.tcp_rx,
            &mut self.upgrades,
            &mut self.reverts,
            &mut self.rings,
            &mut self.sleeps,
            &mut self.spin_hits,
            &mut self.spin_misses,
            &mut self.full,
            &mut self.accelerated,
            &mut self.plain,
        ];
        single
            .into_iter()
            .chain(&mut self.smc_tx.sizes)
            .chain(&mut self.smc_rx.sizes)
    }

    pub fn add(&mut self, other: &Sums) {
        let mut other = other.clone();
        for (mine, more) in self.words().zip(other.words()) {
            *mine = mine.saturating_add(*more);
        }
        for (reason, count) in other.reasons {
            self.count_reason(reason, count);
        }
        self.plain_now = self.plain_now.saturating_add(other.plain_now);
        for (reason, count) in other.reasons_now {
            add_to(&mut self.reasons_now, reason, count);
        }
    }

    /// What has come on top of `base`.
    #[must_use]
    pub fn since(mut self, base: &Sums) -> Sums {
        let mut base = base.clone();
        for (mine, less) in self.words().zip(base.words()) {
            *mine = mine.saturating_sub(*less);
        }
        for (reason, count) in &mut self.reasons {
            *count = count.saturating_sub(base.reasons.get(reason).copied().unwrap_or(0));
        }
        self.reasons.retain(|_, count| *count != 0);
        self
    }

    pub fn count_reason(&mut self, reason: u32, count: u64) {
        add_to(&mut self.reasons, reason, count);
    }

    /// Connections that have ended before they were entered in the table.
    pub fn add_ended(&mut self, place: &Place) {
        let ended = place.ended.load(Relaxed);
        if ended != 0 {
            self.add(&Sums {
                tcp_tx: place.sent.load(Relaxed),
                tcp_rx: place.taken.load(Relaxed),
                plain: ended,
                ..Sums::default()
            });
            self.count_reason(reason::NOT_YET, ended);
        }
    }

    pub fn add_row(&mut self, row: &RowCopy) {
        let on_ring = row.mode == Mode::Smcd as u32;
        let on_tcp = row.mode == Mode::Tcp as u32;
        self.add(&Sums {
            smc_tx: row.smc_tx,
            smc_rx: row.smc_rx,
            tcp_tx: row.tcp_tx,
            tcp_rx: row.tcp_rx,
            upgrades: row.upgrades.into(),
            reverts: row.reverts.into(),
            rings: row.rings,
            sleeps: row.sleeps,
            spin_hits: row.spin_hits,
            spin_misses: row.spin_misses,
            full: row.full,
            accelerated: (on_ring || row.upgrades != 0).into(),
            plain: (on_tcp && row.upgrades == 0).into(),
            plain_now: (on_tcp && row.upgrades == 0).into(),
            ..Sums::default()
        });
        if on_tcp && row.reason != 0 {
            self.count_reason(row.reason, 1);
            add_to(&mut self.reasons_now, row.reason, 1);
        }
    }
}
