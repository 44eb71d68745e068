//! Clients come and go: greeting, doorbells, and what is left to do when one is gone.

use crate::device::Event;
use crate::memfd;
use crate::packet::Packet;
use crate::policy;
use crate::ringer::is_bell;
use crate::server::{Broken, Server};
use crate::session::{Client, Mailbox, printable};
use crate::table::{Family, FamilyKey, Table};
use protocol::ctl::{Bell, Hello, PeerGone, Welcome};
use protocol::shm::wait;
use protocol::stats;
use std::os::fd::{AsFd, OwnedFd};

impl Server {
    pub(crate) fn hello(
        &mut self,
        id: u32,
        hello: Hello,
        fds: &mut Vec<OwnedFd>,
    ) -> Result<(), Broken> {
        if fds.len() != 2 || !fds.iter().all(|fd| memfd::has_seals(fd.as_fd())) {
            return Err(Broken::Unexpected);
        }
        let files = std::mem::take(fds);
        let [table, wait_page]: [OwnedFd; 2] = files.try_into().map_err(|_| Broken::Unexpected)?;
        let (table, inode) = memfd::check_foreign(table, stats::TABLE_LEN)?;
        let (wait_page, _) = memfd::check_foreign(wait_page, wait::PAGE_LEN)?;
        let for_peers = memfd::reopen_read_only(wait_page.as_fd())?;
        // So that peers cannot open it for writing; the family keeps its maps. Fails where the
        // file belongs to somebody else, who then has to see to it.
        let _ = memfd::restrict(&wait_page, 0o400);
        let key = FamilyKey {
            family: hello.family,
            inode,
        };
        let mapped = self.families.contains_key(&key);
        let new = if mapped {
            None
        } else {
            Some(Table::map(&table)?)
        };
        let mailbox = Mailbox::new()?;
        let Some(session) = self.sessions.get_mut(&id) else {
            return Ok(());
        };
        if let Some(table) = new {
            let text = table.policy_text().unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let family = Family {
                policy: policy::parse(&text, false).policy,
                members: Vec::new(),
                table,
            };
            self.families.insert(key, family);
        }
        if let Some(family) = self.families.get_mut(&key) {
            family.members.push(id);
        }
        session.netns = self.namespaces.join(session.pid).ok();
        let mail = mailbox.read_only.clone();
        session.client = Some(Client::new(&hello, key, for_peers, mailbox));
        self.policy.refresh();
        let Some((policies, process)) = self.policies(id) else {
            return Ok(());
        };
        let settings = policy::settings(&policies, process);
        let (ueid_count, ueids) = self.eids.wire();
        let welcome = Welcome {
            gid: self.device.get_local_gid(),
            seid_on: self.eids.seid_on.into(),
            seid: self.device.get_system_eid(),
            ueid_count,
            ueids,
            client: id,
            settings,
        };
        self.send(id, Packet::new(&welcome, vec![mail]));
        Ok(())
    }

    pub(crate) fn bell(
        &mut self,
        id: u32,
        bell: Bell,
        fds: &mut Vec<OwnedFd>,
    ) -> Result<(), Broken> {
        if fds.len() != 1 || !fds.iter().all(|fd| is_bell(fd.as_fd())) {
            return Err(Broken::Unexpected);
        }
        let files = std::mem::take(fds);
        let [fd]: [OwnedFd; 1] = files.try_into().map_err(|_| Broken::Unexpected)?;
        if let Some(client) = self.sessions.get_mut(&id).and_then(|s| s.client.as_mut()) {
            client.add_bell(bell.context, fd);
        }
        Ok(())
    }

    pub(crate) fn drop_session(&mut self, id: u32) {
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        let _ = self.epoll.delete(&session.socket);
        self.runs.watcher_gone(id);
        if let Some(netns) = session.netns {
            self.namespaces.leave(netns);
        }
        if let Some(mine) = self.sessions_of.get_mut(&session.uid) {
            *mine -= 1;
            if *mine == 0 {
                self.sessions_of.remove(&session.uid);
                self.passed.forget(session.uid);
            }
        }
        let uid = session.uid;
        self.reaper.hang_up(uid, session.socket);
        let Some(client) = session.client else {
            return;
        };
        self.claims.client_gone(id);
        let mut events = Vec::new();
        for (client, pair) in self.groups.client_gone(&mut self.device, id) {
            self.device
                .signal_event(&mut events, Event { client, pair });
        }
        for Event { client, pair } in events {
            self.send(client, Packet::new(&PeerGone { pair }, vec![]));
        }
        self.leave_family(id, uid, &client);
    }

    /// With the last member its numbers go over to the totals of the host.
    pub(crate) fn leave_family(&mut self, id: u32, uid: u32, client: &Client) {
        let key = client.family;
        let Some(family) = self.families.get_mut(&key) else {
            return;
        };
        family.members.retain(|m| *m != id);
        if family.members.is_empty() {
            self.kept.family_gone(&key, uid, &family.table);
            self.runs.family_gone(client.run, &family.table);
            let program = printable(&client.program);
            self.past_traces.keep(uid, &program, &family.table);
            self.families.remove(&key);
        }
    }
}
