//! Runs that somebody watches (`smclo run --require`): what their programs, also those that have
//! ended, came to.

use super::stats::{counts, living};
use crate::report::RunReport;
use crate::server::Server;
use crate::sums::Sums;
use crate::table::Table;
use nix::errno::Errno;
use std::collections::HashMap;

#[derive(Debug, Default)]
struct Run {
    watcher: u32,
    /// Of the programs that have ended.
    past: Sums,
    ended: u64,
}

/// One for each session at most.
#[derive(Debug, Default)]
pub(crate) struct Runs(HashMap<u64, Run>);

impl Runs {
    /// `EEXIST` when the name is taken, or the session has a run.
    pub(super) fn watch(&mut self, name: u64, watcher: u32) -> Result<(), Errno> {
        let busy = self.0.values().any(|run| run.watcher == watcher);
        if name == 0 || busy || self.0.contains_key(&name) {
            return Err(Errno::EEXIST);
        }
        let run = Run {
            watcher,
            ..Run::default()
        };
        self.0.insert(name, run);
        Ok(())
    }

    pub(crate) fn watcher_gone(&mut self, id: u32) {
        if !self.0.is_empty() {
            self.0.retain(|_, run| run.watcher != id);
        }
    }

    pub(crate) fn family_gone(&mut self, name: u64, table: &Table) {
        if let Some(run) = self.0.get_mut(&name) {
            run.past.add(&table.sums());
            run.ended += 1;
        }
    }
}

impl Server {
    pub(super) fn run_report(&self, watcher: u32) -> Option<RunReport> {
        let mut runs = self.runs.0.iter();
        let (name, run) = runs.find(|(_, run)| run.watcher == watcher)?;
        let mut sums = run.past.clone();
        let (mut connections, mut programs) = (0, 0);
        for family in self.families.values() {
            let mut members = family.members.iter().filter_map(|m| self.sessions.get(m));
            if members.any(|s| s.client.as_ref().is_some_and(|c| c.run == *name)) {
                sums.add(&family.table.sums());
                connections += living(&family.table);
                programs += 1;
            }
        }
        Some(RunReport {
            programs,
            ended: run.ended,
            counts: counts(&sums, connections),
        })
    }
}
