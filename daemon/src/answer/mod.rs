//! Answers to the tool.

mod connections;
mod device;
mod runs;
mod stats;
mod traces;

pub(crate) use runs::Runs;
pub(crate) use stats::Kept;
pub(crate) use traces::Past;

use crate::memfd;
use crate::packet::Packet;
use crate::server::Server;
use crate::session::printable;
use crate::table::Family;
use nix::errno::Errno;
use protocol::ctl::{Eids, Reply, Request, Verb};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::Arc;

/// Processes whose name is looked up in /proc for one answer.
const MAX_LOOKUPS: usize = 4096;

impl Server {
    pub(crate) fn answer(&mut self, id: u32, request: &Request) {
        let Some(uid) = self.sessions.get(&id).map(|s| s.uid) else {
            return;
        };
        let (error, content) = match self.execute(id, uid, request) {
            Ok(content) => (0, content),
            Err(e) => (e as u32, None),
        };
        let len = content.as_ref().map_or(0, Vec::len) as u64;
        let sent = content
            .map(|c| memfd::with_content(c"smclo-reply", &c))
            .transpose();
        let packet = match sent {
            Ok(fd) => Packet::new(
                &Reply { error, len },
                fd.map(Arc::new).into_iter().collect(),
            ),
            Err(_) => {
                let error = Errno::ENOMEM as u32;
                Packet::new(&Reply { error, len: 0 }, vec![])
            }
        };
        self.send(id, packet);
    }

    fn execute(&mut self, id: u32, uid: u32, request: &Request) -> Result<Option<Vec<u8>>, Errno> {
        let verb = Verb::try_from(request.verb).map_err(|_| Errno::EOPNOTSUPP)?;
        let changes = matches!(
            verb,
            Verb::StatsReset
                | Verb::UeidAdd
                | Verb::UeidDel
                | Verb::UeidFlush
                | Verb::SeidEnable
                | Verb::SeidDisable
        );
        if changes && uid != 0 && uid != nix::unistd::geteuid().as_raw() {
            return Err(Errno::EPERM);
        }
        match verb {
            Verb::Ss => json(&self.connections(uid, request.arg)),
            Verb::Stats => json(&self.stats(uid)),
            Verb::StatsReset => {
                self.reset_stats();
                Ok(None)
            }
            Verb::UeidAdd => self.change_eids(|eids| eids.add(request.eid)),
            Verb::UeidDel => self.change_eids(|eids| eids.del(&request.eid)),
            Verb::UeidFlush => self.change_eids(crate::eid::Eids::flush),
            Verb::SeidEnable => self.change_eids(|eids| {
                eids.enable_seid();
                Ok(())
            }),
            Verb::SeidDisable => self.change_eids(crate::eid::Eids::disable_seid),
            Verb::UeidList | Verb::Seid => json(&self.eid_report()),
            Verb::Device => json(&self.device_report()),
            Verb::LinkGroups => json(&self.link_group_report(uid)),
            Verb::Info => json(&self.info()),
            Verb::Watch => self.runs.watch(request.arg, id).map(|()| None),
            Verb::Run => json(&self.run_report(id).ok_or(Errno::ENOENT)?),
            Verb::Trace => json(&self.traces(uid, request.arg as u16)),
        }
    }

    /// Every client hears of the change.
    fn change_eids(
        &mut self,
        change: impl FnOnce(&mut crate::eid::Eids) -> Result<(), Errno>,
    ) -> Result<Option<Vec<u8>>, Errno> {
        let before = (self.eids.seid_on, self.eids.ueids().to_vec());
        let done = change(&mut self.eids);
        if before != (self.eids.seid_on, self.eids.ueids().to_vec()) {
            let (ueid_count, ueids) = self.eids.wire();
            let eids = Eids {
                seid_on: self.eids.seid_on.into(),
                ueid_count,
                ueids,
            };
            let clients = self.sessions.iter().filter(|(_, s)| s.client.is_some());
            let clients: Vec<u32> = clients.map(|(id, _)| *id).collect();
            for id in clients {
                self.send(id, Packet::new(&eids, vec![]));
            }
        }
        done.map(|()| None)
    }

    /// The user of a family, if `asker` may know of it.
    fn visible_owner(&self, family: &Family, asker: u32) -> Option<u32> {
        let uids = family.members.iter().filter_map(|m| self.sessions.get(m));
        uids.map(|s| s.uid).find(|u| asker == 0 || *u == asker)
    }

    /// Process of a row as the host sees it, and its name.
    fn process(&self, family: &Family, pid: u32, names: &mut Names) -> (u32, String) {
        let members = family.members.iter().filter_map(|m| self.sessions.get(m));
        let mut known = members.filter_map(|s| s.client.as_ref().map(|c| (s, c)));
        let first = known.clone().next();
        match known.find(|(_, c)| c.own_pid == pid) {
            Some((s, c)) => (s.pid, printable(&c.program)),
            None => {
                let comm = names.of(pid);
                let named = || first.map(|(_, c)| printable(&c.program));
                (pid, comm.or_else(named).unwrap_or_default())
            }
        }
    }
}

fn json(content: &impl Serialize) -> Result<Option<Vec<u8>>, Errno> {
    serde_json::to_vec(content)
        .map(Some)
        .map_err(|_| Errno::EIO)
}

/// Names of processes, each looked up once for an answer.
#[derive(Debug, Default)]
struct Names(HashMap<u32, Option<String>>);

impl Names {
    fn of(&mut self, pid: u32) -> Option<String> {
        if self.0.len() >= MAX_LOOKUPS && !self.0.contains_key(&pid) {
            return None;
        }
        let look = || std::fs::read(format!("/proc/{pid}/comm")).ok();
        let name = self
            .0
            .entry(pid)
            .or_insert_with(|| look().map(|c| printable(c.trim_ascii_end())));
        name.clone()
    }
}
