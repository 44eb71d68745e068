//! What the policy files say of the daemon's clients and their claims.

use super::{Policy, Process};
use crate::policy;
use crate::server::Server;
use protocol::ctl::Claim;
use protocol::reason;

impl Server {
    /// The policies that hold for a client, and how their rules see it.
    pub(crate) fn policies(&self, id: u32) -> Option<([&Policy; 2], Process<'_>)> {
        let session = self.sessions.get(&id)?;
        let client = session.client.as_ref()?;
        let user = &self.families.get(&client.family)?.policy;
        let name = &client.program;
        let end = name.iter().position(|c| *c == 0).unwrap_or(name.len());
        let process = Process {
            program: &name[..end],
            uid: session.uid,
        };
        Some(([self.policy.policy(), user], process))
    }

    /// What the policy says of a claim; `Err` is the reason for a refusal.
    pub(crate) fn judge(&mut self, id: u32, claim: &Claim) -> Result<(), u32> {
        self.policy.refresh();
        let client = self.sessions.get(&id).and_then(|s| s.client.as_ref());
        let own = client.is_some_and(|c| c.own_policy);
        let (policies, process) = self.policies(id).ok_or(reason::INTERR)?;
        if !own && !policy::allows(&policies, process, [&claim.local, &claim.peer]) {
            return Err(reason::POLICY_OFF);
        }
        let most = policy::max_connections(&policies, process);
        if self.groups.pairs_of(id) as u64 >= most {
            return Err(reason::POLICY_LIMIT);
        }
        Ok(())
    }
}
