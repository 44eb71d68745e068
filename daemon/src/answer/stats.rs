//! `smclo stats`: sums over the host, its users, and the programs that run.

use crate::report::{Counts, ProcessStats, Stats, UserStats, reason_name};
use crate::server::Server;
use crate::session::printable;
use crate::sums::Sums;
use crate::table::{Family, FamilyKey, Table};
use protocol::stats::Mode;
use std::collections::{BTreeMap, HashMap};

/// Users whose programs have all ended and that are remembered.
const MAX_USERS: usize = 1024;

/// What is remembered beyond the life of a table, and since when things are counted.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Of the families that are gone.
    past: Sums,
    past_of: BTreeMap<u32, Sums>,
    /// Sums at the last reset.
    base: Sums,
    base_of: BTreeMap<u32, Sums>,
    base_of_family: HashMap<FamilyKey, Sums>,
}

impl Kept {
    /// A family has ended; its numbers go over to those of its user and of the host.
    pub(crate) fn family_gone(&mut self, key: &FamilyKey, uid: u32, table: &Table) {
        let sums = table.sums();
        self.past.add(&sums);
        if self.past_of.len() < MAX_USERS || self.past_of.contains_key(&uid) {
            self.past_of.entry(uid).or_default().add(&sums);
        }
        self.base_of_family.remove(key);
    }
}

pub(super) fn living(table: &Table) -> u64 {
    let rows = table.snapshot();
    rows.filter(|r| r.mode >= Mode::Tcp as u32).count() as u64
}

pub(super) fn counts(sums: &Sums, connections: u64) -> Counts {
    let named = |reasons: &BTreeMap<u32, u64>| {
        let mut named = BTreeMap::new();
        for (code, count) in reasons {
            *named.entry(reason_name(*code)).or_default() += *count;
        }
        named
    };
    Counts {
        smc_bytes: sums.smc_bytes(),
        tcp_bytes: sums.tcp_bytes(),
        smc_tx_bytes: sums.smc_tx.bytes,
        smc_rx_bytes: sums.smc_rx.bytes,
        tcp_tx_bytes: sums.tcp_tx,
        tcp_rx_bytes: sums.tcp_rx,
        accelerated: sums.accelerated,
        plain: sums.plain,
        upgrades: sums.upgrades,
        reverts: sums.reverts,
        fallbacks: named(&sums.reasons),
        plain_now: sums.plain_now,
        fallbacks_now: named(&sums.reasons_now),
        sent_sizes: sums.smc_tx.sizes,
        received_sizes: sums.smc_rx.sizes,
        ring_full: sums.full,
        rings: sums.rings,
        sleeps: sums.sleeps,
        spin_hits: sums.spin_hits,
        spin_misses: sums.spin_misses,
        connections,
    }
}

/// A living family, looked at once.
struct Seen<'a> {
    key: &'a FamilyKey,
    family: &'a Family,
    uid: u32,
    sums: Sums,
    living: u64,
}

impl Server {
    fn seen(&self) -> Vec<Seen<'_>> {
        let all = self.families.iter().filter_map(|(key, family)| {
            Some(Seen {
                key,
                family,
                uid: self.visible_owner(family, 0)?,
                sums: family.table.sums(),
                living: living(&family.table),
            })
        });
        all.collect()
    }

    /// Everybody sees the sums of the host; of single programs and users their own, root all.
    pub(crate) fn stats(&self, asker: u32) -> Stats {
        let seen = self.seen();
        let kept = &self.kept;
        let mut host = kept.past.clone();
        let mut users: BTreeMap<u32, (Sums, u64)> = BTreeMap::new();
        for (uid, past) in &kept.past_of {
            users.insert(*uid, (past.clone(), 0));
        }
        let mut connections = 0;
        let mut processes = Vec::new();
        for one in seen {
            host.add(&one.sums);
            connections += one.living;
            let (sums, living) = users.entry(one.uid).or_default();
            sums.add(&one.sums);
            *living += one.living;
            if asker == 0 || asker == one.uid {
                let base = kept.base_of_family.get(one.key);
                let since = one.sums.since(base.unwrap_or(&Sums::default()));
                processes.push(self.process_stats(one.family, one.uid, &since, one.living));
            }
        }
        processes.sort_by_key(|p| p.pids.first().copied());
        let users = users.into_iter();
        let users = users.filter(|(uid, _)| asker == 0 || asker == *uid);
        let users = users.map(|(uid, (sums, living))| UserStats {
            uid,
            dmb_bytes: self.device.bytes_of(uid),
            counts: counts(
                &sums.since(kept.base_of.get(&uid).unwrap_or(&Sums::default())),
                living,
            ),
        });
        let attr = self.device.get_dev_attr();
        Stats {
            counts: counts(&host.since(&kept.base), connections),
            dmbs: attr.dmbs as u64,
            dmb_bytes: attr.dmb_bytes,
            link_groups: self.groups.len() as u64,
            claims_waiting: self.claims.len() as u64,
            clients: self.clients(),
            other_versions: self.counts.other_versions,
            processes,
            users: users.collect(),
        }
    }

    /// Without users and programs.
    pub(crate) fn host_stats(&self) -> Stats {
        Stats {
            processes: Vec::new(),
            users: Vec::new(),
            ..self.stats(u32::MAX)
        }
    }

    fn process_stats(&self, family: &Family, uid: u32, sums: &Sums, living: u64) -> ProcessStats {
        let members = || family.members.iter().filter_map(|m| self.sessions.get(m));
        let mut pids: Vec<u32> = members().map(|s| s.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        let program = members().next().map(|s| printable(&s.program()));
        ProcessStats {
            program: program.unwrap_or_default(),
            uid,
            pids,
            counts: counts(sums, living),
        }
    }

    pub(super) fn reset_stats(&mut self) {
        let mut base = self.kept.past.clone();
        let mut base_of = self.kept.past_of.clone();
        let mut base_of_family = HashMap::new();
        for one in self.seen() {
            base.add(&one.sums);
            base_of.entry(one.uid).or_default().add(&one.sums);
            base_of_family.insert(*one.key, one.sums);
        }
        self.kept.base = base;
        self.kept.base_of = base_of;
        self.kept.base_of_family = base_of_family;
    }
}
