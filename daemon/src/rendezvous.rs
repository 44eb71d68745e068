//! Claims that wait for the claim of the other end.

use protocol::ctl::{Claim, Endpoint};
use protocol::ids::Role;
use std::collections::{BTreeMap, HashMap};

/// A claim, named by the client that made it and by that client's own number.
pub type ClaimId = (u32, u64);

/// The connection as its client end sees it, and the end that is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    netns: u64,
    client: Endpoint,
    server: Endpoint,
    role: Role,
}

impl Key {
    /// A server whose destination was rewritten is known to its client by the original address.
    fn of(claim: &Claim) -> Self {
        let (client, server) = match claim.role {
            Role::Client => (claim.local, claim.peer),
            Role::Server if claim.original != Endpoint::default() => (claim.peer, claim.original),
            Role::Server => (claim.peer, claim.local),
        };
        Key {
            netns: claim.netns,
            client,
            server,
            role: claim.role,
        }
    }

    fn partner(self) -> Self {
        Key {
            role: self.role.peer(),
            ..self
        }
    }
}

#[derive(Debug, Default)]
pub struct Rendezvous {
    by_key: HashMap<Key, ClaimId>,
    /// By the client's endpoint and the end that is claimed, whatever the namespace.
    by_client: HashMap<(Endpoint, Role), Vec<ClaimId>>,
    /// Claims by client and number.
    claims: HashMap<u32, BTreeMap<u64, Claim>>,
    count: usize,
}

impl Rendezvous {
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn count_of(&self, client: u32) -> usize {
        self.claims.get(&client).map_or(0, BTreeMap::len)
    }

    pub fn get(&self, id: ClaimId) -> Option<Claim> {
        self.claims.get(&id.0)?.get(&id.1).copied()
    }

    /// The waiting claim of the other end, in the same namespace.
    pub fn partner(&self, claim: &Claim) -> Option<(ClaimId, Claim)> {
        let id = self.by_key.get(&Key::of(claim).partner())?;
        Some((*id, self.get(*id)?))
    }

    /// Waiting claims in other namespaces that may be the other end: of the same client endpoint,
    /// and those with the same addresses first. Which of them it is, if any, addresses cannot tell.
    pub fn candidates(&self, claim: &Claim, most: usize) -> Vec<(ClaimId, Claim)> {
        let key = Key::of(claim);
        let ids = self.by_client.get(&(key.client, claim.role.peer()));
        let all = ids.into_iter().flatten();
        let all = all.filter_map(|id| Some((*id, self.get(*id)?)));
        let mut all: Vec<_> = all.filter(|(_, c)| c.netns != claim.netns).collect();
        all.sort_by_key(|(_, c)| Key::of(c).server != key.server);
        all.truncate(most);
        all
    }

    /// Lets a claim wait. The newest claim of one end counts: a child takes over what its parent
    /// accepted. The one that had waited is given back, unless it is the same claim again.
    pub fn insert(&mut self, client: u32, claim: Claim) -> Option<ClaimId> {
        let id = (client, claim.claim);
        self.remove(id);
        let older = self.by_key.get(&Key::of(&claim)).copied();
        if let Some(older) = older {
            self.remove(older);
        }
        let key = Key::of(&claim);
        self.by_key.insert(key, id);
        let end = (key.client, key.role);
        self.by_client.entry(end).or_default().push(id);
        self.claims
            .entry(client)
            .or_default()
            .insert(claim.claim, claim);
        self.count += 1;
        older
    }

    pub fn remove(&mut self, id: ClaimId) -> Option<Claim> {
        let of_client = self.claims.get_mut(&id.0)?;
        let claim = of_client.remove(&id.1)?;
        if of_client.is_empty() {
            self.claims.remove(&id.0);
        }
        let key = Key::of(&claim);
        self.by_key.remove(&key);
        let end = (key.client, key.role);
        if let Some(of_end) = self.by_client.get_mut(&end) {
            of_end.retain(|other| *other != id);
            if of_end.is_empty() {
                self.by_client.remove(&end);
            }
        }
        self.count -= 1;
        Some(claim)
    }

    pub fn client_gone(&mut self, client: u32) {
        let numbers: Vec<u64> = self
            .claims
            .get(&client)
            .into_iter()
            .flatten()
            .map(|c| *c.0)
            .collect();
        for number in numbers {
            self.remove((client, number));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Endpoint = Endpoint::v4([127, 0, 0, 1], 1000);
    const B: Endpoint = Endpoint::v4([127, 0, 0, 1], 80);
    const VIP: Endpoint = Endpoint::v4([10, 0, 0, 1], 80);

    fn claim(number: u64, role: Role, local: Endpoint, peer: Endpoint) -> Claim {
        Claim {
            claim: number,
            cookie: number,
            netns: 1,
            role,
            local,
            peer,
            original: Endpoint::default(),
            rmb_size: 0,
            received: 0,
        }
    }

    #[test]
    fn mirrored_tuples_meet() {
        let mut waiting = Rendezvous::default();
        waiting.insert(1, claim(5, Role::Client, A, B));
        let server = claim(6, Role::Server, B, A);
        assert_eq!(waiting.partner(&server).unwrap().0, (1, 5));
        assert!(waiting.partner(&claim(6, Role::Client, B, A)).is_none());
        assert!(waiting.partner(&Claim { netns: 2, ..server }).is_none());
        waiting.client_gone(1);
        assert!(waiting.is_empty() && waiting.partner(&server).is_none());
    }

    #[test]
    fn a_rewritten_destination_needs_the_original() {
        let mut waiting = Rendezvous::default();
        waiting.insert(1, claim(5, Role::Client, A, VIP));
        let server = claim(6, Role::Server, B, A);
        assert!(waiting.partner(&server).is_none());
        let told = Claim {
            original: VIP,
            ..server
        };
        assert!(waiting.partner(&told).is_some());
    }

    #[test]
    fn candidates_are_in_other_namespaces() {
        let mut waiting = Rendezvous::default();
        let server = |number, netns, local| Claim {
            netns,
            ..claim(number, Role::Server, local, A)
        };
        waiting.insert(1, server(5, 2, VIP));
        waiting.insert(2, server(6, 3, B));
        waiting.insert(3, server(7, 1, VIP));
        let client = claim(8, Role::Client, A, B);
        let found = waiting.candidates(&client, 8);
        let ids: Vec<_> = found.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [(2, 6), (1, 5)]);
        assert_eq!(waiting.candidates(&client, 1).len(), 1);
        waiting.client_gone(2);
        waiting.client_gone(1);
        assert!(waiting.candidates(&client, 8).is_empty());
        waiting.client_gone(3);
        assert!(waiting.by_client.is_empty());
    }

    #[test]
    fn the_newest_claim_of_an_end_counts() {
        let mut waiting = Rendezvous::default();
        assert_eq!(waiting.insert(1, claim(5, Role::Server, B, A)), None);
        assert_eq!(waiting.insert(1, claim(5, Role::Server, B, A)), None);
        assert_eq!(
            waiting.insert(2, claim(9, Role::Server, B, A)),
            Some((1, 5))
        );
        assert_eq!(waiting.len(), 1);
        assert_eq!((waiting.count_of(1), waiting.count_of(2)), (0, 1));
        assert_eq!(waiting.remove((1, 5)), None);
        assert!(waiting.remove((2, 9)).is_some());
    }
}
