//! From claims to pairs: each claim is judged, verified, and meets the claim of the other end.

use crate::linkgroup::{NewPair, Wanted};
use crate::packet::Packet;
use crate::rendezvous::ClaimId;
use crate::server::Server;
use crate::session::Session;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use protocol::ctl::{Claim, Paired, Refused, Withdraw};
use protocol::ids::Role;
use protocol::reason;
use std::sync::Arc;
use std::time::Instant;

impl Server {
    /// A claim waits without an answer until the other end's comes.
    pub(crate) fn claim(&mut self, id: u32, claim: Claim) {
        if self.claims.count_of(id) >= self.config.max_claims_per_client {
            return self.refuse((id, claim.claim), reason::DAEMON_BUSY);
        }
        if claim.local == claim.peer {
            return self.refuse((id, claim.claim), reason::SELF_CONNECT);
        }
        let Some(uid) = self.sessions.get(&id).map(|s| s.uid) else {
            return;
        };
        if !self.rate.allows(uid, Instant::now()) {
            return self.refuse((id, claim.claim), reason::DAEMON_BUSY);
        }
        if let Err(why) = self.judge(id, &claim) {
            return self.refuse((id, claim.claim), why);
        }
        if claim.received != 0 && !self.passed.is_free(uid, claim.cookie) {
            return self.refuse((id, claim.claim), reason::ESCAPED);
        }
        self.find_namespace(id, claim.netns);
        if let Err(why) = self.verify(&claim, uid) {
            return self.refuse((id, claim.claim), why);
        }
        let older = self.claims.insert(id, claim);
        if let Some(older) = older {
            self.refuse(older, reason::SHARED);
        }
        match self.claims.partner(&claim) {
            Some(partner) => self.meet(((id, claim.claim), claim), partner),
            None => self.look_across((id, claim.claim), claim),
        }
    }

    /// Root may claim any socket, others their own and those of users they trust: a process that has
    /// changed its user holds some of both.
    fn verify(&mut self, claim: &Claim, uid: u32) -> Result<(), u32> {
        let policy = self.policy.policy();
        let may = |owner| uid == 0 || policy.trusts(uid, owner);
        self.namespaces.verify(claim, may)
    }

    /// A claim may come from a namespace that its process had not entered when it said Hello.
    pub(crate) fn find_namespace(&mut self, id: u32, netns: u64) {
        if self.namespaces.knows(netns) {
            return;
        }
        if let Some(session) = self.sessions.get_mut(&id)
            && let Ok(cookie) = self.namespaces.join(session.pid)
            && let Some(former) = session.netns.replace(cookie)
        {
            self.namespaces.leave(former);
        }
    }

    /// Two waiting claims of one connection: the newer and the older one, or as proved.
    pub(crate) fn meet(&mut self, newer: (ClaimId, Claim), older: (ClaimId, Claim)) {
        let ((id, claim), (partner_id, partner)) = (newer, older);
        let uid_of = |id: ClaimId| self.sessions.get(&id.0).map(|s| s.uid);
        let (Some(uid), Some(partner_uid)) = (uid_of(id), uid_of(partner_id)) else {
            return;
        };
        let why = if partner.cookie == claim.cookie && partner.netns == claim.netns {
            Some(reason::SELF_CONNECT)
        } else if !self.policy.policy().trusts(uid, partner_uid) {
            Some(reason::OTHER_UID)
        } else if self.has_eventfds(id) != self.has_eventfds(partner_id) {
            Some(reason::SANDBOX)
        } else {
            None
        };
        if let Some(why) = why {
            self.claims.remove(id);
            self.claims.remove(partner_id);
            self.refuse(id, why);
            return self.refuse(partner_id, why);
        }
        // A claim may have waited for long.
        let mut good = true;
        for ((id, claim), uid) in [(older, partner_uid), (newer, uid)] {
            if let Err(why) = self.verify(&claim, uid) {
                self.claims.remove(id);
                self.refuse(id, why);
                good = false;
            }
        }
        if !good {
            return;
        }
        self.claims.remove(id);
        self.claims.remove(partner_id);
        let ends = match claim.role {
            Role::Client => [(id.0, claim), (partner_id.0, partner)],
            Role::Server => [(partner_id.0, partner), (id.0, claim)],
        };
        if let Err(why) = self.pair(&ends) {
            for (client, claim) in &ends {
                self.refuse((*client, claim.claim), why);
            }
        }
    }

    fn has_eventfds(&self, (client, _): ClaimId) -> bool {
        let session = self.sessions.get(&client);
        session
            .and_then(|s| s.client.as_ref())
            .is_some_and(|c| c.eventfds)
    }

    /// Gives both ends their memory; client end first.
    pub(crate) fn pair(&mut self, ends: &[(u32, Claim); 2]) -> Result<(), u32> {
        let wanted = |(client, claim): &(u32, Claim)| -> Result<Wanted, u32> {
            let session = self.sessions.get(client).ok_or(reason::INTERR)?;
            Ok(Wanted {
                client: *client,
                claim: claim.claim,
                cookie: claim.cookie,
                uid: session.uid,
                rmb_size: claim.rmb_size,
            })
        };
        let (client, server) = (wanted(&ends[0])?, wanted(&ends[1])?);
        let pair = match self.groups.again([client, server])? {
            Some(kept) => kept,
            None => self.groups.open(&mut self.device, client, server)?,
        };
        if pair.fresh.is_some() {
            self.groups.agree(pair.lgr, self.eids.matching());
        }
        let paired = self.introduce(&pair, ends);
        if paired.is_err() {
            for (client, _) in ends {
                self.groups.release(&mut self.device, *client, pair.id);
            }
        }
        paired
    }

    pub(crate) fn introduce(
        &mut self,
        pair: &NewPair,
        ends: &[(u32, Claim); 2],
    ) -> Result<(), u32> {
        let mut fds = [Vec::new(), Vec::new()];
        if let Some(arena) = &pair.fresh {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let channel = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags);
            let (a, b) = channel.map_err(|_| reason::MEM)?;
            for (i, end) in [a, b].into_iter().enumerate() {
                let other = self
                    .sessions
                    .get(&ends[1 - i].0)
                    .and_then(|s| s.client.as_ref());
                let wait_page = other.ok_or(reason::INTERR)?.wait_page.clone();
                fds[i] = vec![arena.clone(), Arc::new(end), wait_page];
            }
        }
        self.counts.pairs_made += 1;
        for (i, fds) in fds.into_iter().enumerate() {
            let (client, claim) = &ends[i];
            let other = self.sessions.get(&ends[1 - i].0);
            let paired = Paired {
                claim: claim.claim,
                pair: pair.id,
                role: claim.role,
                fresh: pair.fresh.is_some().into(),
                side: pair.sides[i],
                lgr: pair.lgr,
                arena_len: pair.arena_len,
                slot: pair.slot,
                own: pair.dmb(claim.role),
                peer: pair.dmb(claim.role.peer()),
                program: other.map_or([0; 16], Session::program),
            };
            self.send(*client, Packet::new(&paired, fds));
        }
        Ok(())
    }

    /// A claim is taken back, unless a pair was made of it; if it is for good, the pair goes with it.
    pub(crate) fn withdraw(&mut self, id: u32, withdrawn: Withdraw) {
        let claim = (id, withdrawn.claim);
        let reason = reason::NO_PEER_YET;
        if self.claims.remove(claim).is_some() {
            self.counts.claims_unanswered += 1;
        }
        if withdrawn.last != 0 {
            if let Some((other, claim)) = self.groups.void(&mut self.device, claim) {
                self.send(other, Packet::new(&Refused { claim, reason }, vec![]));
            }
        } else if self.groups.made_of(claim).is_none() {
            let claim = withdrawn.claim;
            self.send(id, Packet::new(&Refused { claim, reason }, vec![]));
        }
    }

    pub(crate) fn refuse(&mut self, (client, claim): ClaimId, reason: u32) {
        self.counts.claims_refused += 1;
        self.send(client, Packet::new(&Refused { claim, reason }, vec![]));
    }
}
