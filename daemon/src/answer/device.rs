//! What `smcd` tells of a device: identity, EIDs, link groups.

use crate::report::{self, uuid};
use crate::server::Server;
use crate::session::{Session, printable};
use protocol::{clc, ctl};
use std::collections::HashMap;

impl Server {
    pub(super) fn eid_report(&self) -> report::Eids {
        report::Eids {
            seid: crate::eid::text(&self.device.get_system_eid()),
            seid_enabled: self.eids.seid_on,
            ueids: self.eids.ueids().iter().map(crate::eid::text).collect(),
        }
    }

    pub(super) fn device_report(&self) -> report::Device {
        let attr = self.device.get_dev_attr();
        report::Device {
            name: attr.name.into(),
            gid: uuid(self.device.get_local_gid()),
            chid: format!("{:#06x}", self.device.get_chid()),
            smcd_v2: self.device.supports_v2(),
            nocopy: self.device.support_dmb_nocopy(),
            dmbs: attr.dmbs as u64,
            max_dmbs: attr.max_dmbs as u64,
            max_dmbs_per_uid: attr.max_dmbs_per_uid as u64,
            max_claims_per_second: self.config.max_claims_per_second,
            dmb_bytes: attr.dmb_bytes,
            max_bytes_per_uid: attr.max_bytes_per_uid,
            pairs: self.groups.pairs() as u64,
            link_groups: self.groups.len() as u64,
        }
    }

    pub(super) fn link_group_report(&self, uid: u32) -> Vec<report::LinkGroup> {
        let mine = self.groups.iter().filter(|g| g.is_for(uid));
        let host = nix::unistd::gethostname().unwrap_or_default();
        let sndbufs = self.sndbufs();
        let all = mine.map(|g| {
            let ends = [g.peers.0, g.peers.1].map(|client| self.sessions.get(&client));
            let (dmbs, dmb_bytes) = g.arena.dmbs();
            report::LinkGroup {
                lgr: format!("{:08x}", g.lgr),
                vlan: 0,
                pnet_id: String::new(),
                version: clc::VERSION_2,
                peer_release: clc::RELEASE,
                peer_host: host.to_string_lossy().into_owned(),
                peer_os: "Linux".into(),
                eid: crate::eid::text(&g.eid),
                uids: g.uids,
                pids: ends.map(|s| s.map_or(0, |s| s.pid)),
                programs: ends.map(|s| s.map_or(String::new(), |s| printable(&s.program()))),
                pairs: g.pairs as u64,
                dmbs: dmbs as u64,
                dmbs_pooled: g.arena.pooled() as u64,
                dmb_bytes,
                sndbuf_bytes: sndbufs.get(&g.lgr).copied().unwrap_or(0),
                arena_bytes: g.arena.len(),
                slots_in_use: g.arena.slots_in_use() as u64,
                dying: g.dying,
            }
        });
        all.collect()
    }

    /// Bytes of private send buffers, by link group.
    fn sndbufs(&self) -> HashMap<u32, u64> {
        let mut bytes = HashMap::new();
        let rows = self.families.values().flat_map(|f| f.table.snapshot());
        for row in rows.filter(|row| row.sndbuf != 0) {
            *bytes.entry(row.lgr).or_default() += u64::from(row.sndbuf);
        }
        bytes
    }

    pub(super) fn info(&self) -> report::Info {
        report::Info {
            version: env!("CARGO_PKG_VERSION").into(),
            protocol_version: ctl::VERSION,
            smc_version: "2.1".into(),
            pid: std::process::id(),
            uid: nix::unistd::geteuid().as_raw(),
            socket: self.socket_path().display().to_string(),
            gid: uuid(self.device.get_local_gid()),
            chid: format!("{:#06x}", self.device.get_chid()),
            eids: self.eid_report(),
            uptime_seconds: self.started.elapsed().as_secs(),
            clients: self.clients(),
            sessions: self.sessions.len() as u64,
            namespaces: self.namespaces.len() as u64,
            pairs_made: self.counts.pairs_made,
            claims_refused: self.counts.claims_refused,
            claims_unanswered: self.counts.claims_unanswered,
            protocol_errors: self.counts.protocol_errors,
            other_versions: self.counts.other_versions,
        }
    }

    pub(super) fn clients(&self) -> u64 {
        let client = |s: &&Session| s.client.is_some();
        self.sessions.values().filter(client).count() as u64
    }
}
