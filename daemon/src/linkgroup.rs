//! Link groups: one per pair of clients, with its arena, and the pairs that live in it.
//!
//! A DMB goes back to the pool of its own link group only, and only when both ends have let go of
//! it. A client that has died lets go of everything; but its link groups take no new pair, so what
//! its surviving relatives may still write to is never handed to anybody else.

use crate::arena::{Arena, ArenaError, DmbHead};
use crate::device::{DeviceError, LoopbackDevice};
use crate::rendezvous::ClaimId;
use protocol::ctl::DmbPlace;
use protocol::ids::{DmbToken, Eid, Role};
use protocol::reason;
use protocol::shm::dmb_code;
use protocol::shm::pair::Order;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;

#[cfg(test)]
mod tests;
mod void;

/// One end of a pair to be made.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub client: u32,
    pub claim: u64,
    /// Of its socket.
    pub cookie: u64,
    pub uid: u32,
    pub rmb_size: u32,
}

/// What both ends must be told; client end first.
#[derive(Debug)]
pub struct NewPair {
    pub id: u64,
    pub lgr: u32,
    /// Sides of the link group on which the two ends are.
    pub sides: [u8; 2],
    pub slot: u64,
    pub dmbs: [DmbPlace; 2],
    pub arena_len: u64,
    /// The arena, when the link group is new.
    pub fresh: Option<Arc<OwnedFd>>,
}

#[derive(Debug)]
struct End {
    client: u32,
    /// Of which it was made.
    claim: u64,
    cookie: u64,
    dmb: DmbPlace,
    released: bool,
    /// It has the memory since the pair was void.
    kept: bool,
}

#[derive(Debug)]
struct Pair {
    lgr: u32,
    slot: u64,
    /// By [`Role`].
    ends: [End; 2],
}

/// The two clients, smaller first; may be the same.
type Peers = (u32, u32);

#[derive(Debug)]
pub struct LinkGroup {
    pub lgr: u32,
    pub peers: Peers,
    /// Users of the peers, in their order; mostly the same.
    pub uids: [u32; 2],
    pub pairs: usize,
    pub arena: Arena,
    /// One of the clients is gone.
    pub dying: bool,
    /// By which its ends match.
    pub eid: Eid,
}

#[derive(Debug)]
pub struct LinkGroups {
    arena_len: u64,
    /// Each costs a descriptor, so one user may have only so many.
    max_per_uid: usize,
    last_lgr: u32,
    last_pair: u64,
    /// To stay on TCP, that were given so far.
    orders: u32,
    groups: BTreeMap<u32, LinkGroup>,
    by_peers: HashMap<Peers, Vec<u32>>,
    by_client: HashMap<u32, HashSet<u32>>,
    pairs: HashMap<u64, Pair>,
    pairs_of: HashMap<u32, HashSet<u64>>,
    /// Which pair was made of a claim, as long as that end holds it.
    by_claim: HashMap<ClaimId, u64>,
    /// Void pairs, by client and socket of the ends that keep them.
    voids: HashMap<(u32, u64), u64>,
}

impl LinkGroup {
    /// Whether user `uid` may look at it and change it: root, and who has an end of it.
    pub fn is_for(&self, uid: u32) -> bool {
        uid == 0 || self.uids.contains(&uid)
    }
}

impl LinkGroups {
    pub fn new(arena_len: u64, max_per_uid: usize) -> Self {
        LinkGroups {
            arena_len,
            max_per_uid,
            last_lgr: 0,
            // No daemon before this one has given the same: a connection of its may be closed, and
            // its pair be released, in a session with this one.
            last_pair: rand::random::<u64>() >> 1,
            orders: 0,
            groups: BTreeMap::new(),
            by_peers: HashMap::new(),
            by_client: HashMap::new(),
            pairs: HashMap::new(),
            pairs_of: HashMap::new(),
            by_claim: HashMap::new(),
            voids: HashMap::new(),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &LinkGroup> {
        self.groups.values()
    }

    pub fn len(&self) -> usize {
        self.groups.len()
    }

    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    pub fn pairs(&self) -> usize {
        self.pairs.len()
    }

    /// Pairs of which a client holds an end.
    pub fn pairs_of(&self, client: u32) -> usize {
        self.pairs_of.get(&client).map_or(0, HashSet::len)
    }

    /// What stands at the start of each DMB of this user's pairs (root: of all), by token.
    pub fn heads(&self, uid: u32) -> HashMap<u64, DmbHead> {
        let mut heads = HashMap::new();
        for pair in self.pairs.values() {
            let Some(group) = self.groups.get(&pair.lgr) else {
                continue;
            };
            for end in pair.ends.iter().filter(|_| group.is_for(uid)) {
                if let Some(head) = group.arena.head(&end.dmb) {
                    heads.insert(end.dmb.token, head);
                }
            }
        }
        heads
    }

    /// Memory for a connection between two clients; each end's DMB counts for its user. Where what
    /// they want does not fit, smaller DMBs do. `Err` is a reason.
    pub fn open(
        &mut self,
        device: &mut LoopbackDevice,
        client: Wanted,
        server: Wanted,
    ) -> Result<NewPair, u32> {
        let codes = [client, server].map(|w| dmb_code(w.rmb_size));
        let mut why = reason::MEM;
        for less in 0..=codes[0].max(codes[1]) {
            let codes = codes.map(|c| c.saturating_sub(less));
            match self.open_sized(device, [client, server], codes) {
                Ok((lgr, slot, dmbs, fresh)) => {
                    return Ok(self.enter(lgr, slot, dmbs, fresh, [client, server]));
                }
                Err(code) => why = code,
            }
        }
        Err(why)
    }

    fn open_sized(
        &mut self,
        device: &mut LoopbackDevice,
        ends: [Wanted; 2],
        codes: [u8; 2],
    ) -> Result<(u32, u64, [DmbPlace; 2], bool), u32> {
        let owners = ends.map(|e| e.uid);
        let [smaller, larger] = if ends[0].client <= ends[1].client {
            ends
        } else {
            [ends[1], ends[0]]
        };
        let peers = (smaller.client, larger.client);
        for lgr in self.by_peers.get(&peers).into_iter().flatten() {
            if let Some(group) = self.groups.get_mut(lgr) {
                match take(device, owners, &mut group.arena, codes) {
                    Ok((slot, dmbs)) => return Ok((*lgr, slot, dmbs, false)),
                    Err(ArenaError::Full) => {}
                    Err(ArenaError::Device(e)) => return Err(e.reason()),
                }
            }
        }
        for uid in owners {
            let theirs = self.groups.values().filter(|g| g.uids.contains(&uid));
            if theirs.count() >= self.max_per_uid {
                return Err(reason::MEM);
            }
        }
        let mut arena = Arena::new(self.arena_len).map_err(|_| reason::MEM)?;
        match take(device, owners, &mut arena, codes) {
            Ok((slot, dmbs)) => {
                let lgr = self.add_group([smaller.uid, larger.uid], peers, arena);
                Ok((lgr, slot, dmbs, true))
            }
            Err(e) => {
                arena.close(device);
                Err(match e {
                    ArenaError::Full => DeviceError::TooMuch.reason(),
                    ArenaError::Device(e) => e.reason(),
                })
            }
        }
    }

    fn add_group(&mut self, uids: [u32; 2], peers: Peers, arena: Arena) -> u32 {
        loop {
            self.last_lgr = self.last_lgr.wrapping_add(0x100);
            if self.last_lgr != 0 && !self.groups.contains_key(&self.last_lgr) {
                break;
            }
        }
        let lgr = self.last_lgr;
        let group = LinkGroup {
            lgr,
            peers,
            uids,
            pairs: 0,
            arena,
            dying: false,
            eid: [0; 32],
        };
        self.groups.insert(lgr, group);
        self.by_peers.entry(peers).or_default().push(lgr);
        for client in [peers.0, peers.1] {
            self.by_client.entry(client).or_default().insert(lgr);
        }
        lgr
    }

    fn enter(
        &mut self,
        lgr: u32,
        slot: u64,
        dmbs: [DmbPlace; 2],
        fresh: bool,
        wanted: [Wanted; 2],
    ) -> NewPair {
        self.last_pair += 1;
        let id = self.last_pair;
        let end = |i: usize| End {
            client: wanted[i].client,
            claim: wanted[i].claim,
            cookie: wanted[i].cookie,
            dmb: dmbs[i],
            released: false,
            kept: false,
        };
        let ends = [end(0), end(1)];
        self.pairs.insert(id, Pair { lgr, slot, ends });
        self.hold_ends(id, wanted);
        let mut new = NewPair {
            id,
            lgr,
            sides: sides(wanted.map(|w| w.client)),
            slot,
            dmbs,
            arena_len: self.arena_len,
            fresh: None,
        };
        if let Some(group) = self.groups.get_mut(&lgr) {
            group.pairs += 1;
            new.fresh = fresh.then(|| group.arena.fd().clone());
        }
        new
    }

    fn hold_ends(&mut self, id: u64, ends: [Wanted; 2]) {
        for end in ends {
            self.by_claim.insert((end.client, end.claim), id);
            self.pairs_of.entry(end.client).or_default().insert(id);
        }
    }

    /// What the ends of a new link group will agree on.
    pub fn agree(&mut self, lgr: u32, eid: Eid) {
        if let Some(group) = self.groups.get_mut(&lgr) {
            group.eid = eid;
        }
    }

    /// The pair of this DMB stays on TCP for a time. Gives its ends, which may be asleep; `None`:
    /// there is no such pair that user `uid` may change.
    pub fn hold(&mut self, uid: u32, token: u64, milliseconds: u64) -> Option<[u32; 2]> {
        let of_pair = |pair: &&Pair| pair.ends.iter().any(|end| end.dmb.token == token);
        let pair = self.pairs.values().find(of_pair)?;
        let group = self.groups.get(&pair.lgr)?;
        if !group.is_for(uid) {
            return None;
        }
        self.orders = self.orders.checked_add(1).unwrap_or(1);
        let order = Order::new(self.orders, milliseconds);
        group.arena.hold(pair.slot, order).ok()?;
        Some(pair.ends.each_ref().map(|end| end.client))
    }

    /// One end held by `client` is through with the pair. False: it holds no such end.
    pub fn release(&mut self, device: &mut LoopbackDevice, client: u32, id: u64) -> bool {
        let Some(pair) = self.pairs.get(&id) else {
            return false;
        };
        let mut ends = pair.ends.iter();
        let Some(end) = ends.position(|e| e.client == client && !e.released) else {
            return false;
        };
        self.let_go(device, id, end);
        true
    }

    /// The pair that was made of a claim.
    pub fn made_of(&self, claim: ClaimId) -> Option<u64> {
        self.by_claim.get(&claim).copied()
    }

    fn let_go(&mut self, device: &mut LoopbackDevice, id: u64, end: usize) {
        let Some(pair) = self.pairs.get_mut(&id) else {
            return;
        };
        pair.ends[end].released = true;
        let client = pair.ends[end].client;
        let claim = (client, pair.ends[end].claim);
        if self.by_claim.get(&claim) == Some(&id) {
            self.by_claim.remove(&claim);
        }
        let kept = (client, pair.ends[end].cookie);
        if self.voids.get(&kept) == Some(&id) {
            self.voids.remove(&kept);
        }
        let keeps = pair.ends.iter().any(|e| e.client == client && !e.released);
        let done = pair.ends.iter().all(|e| e.released);
        if !keeps && let Some(mine) = self.pairs_of.get_mut(&client) {
            mine.remove(&id);
            if mine.is_empty() {
                self.pairs_of.remove(&client);
            }
        }
        if done && let Some(pair) = self.pairs.remove(&id) {
            self.close_pair(device, pair);
        }
    }

    fn close_pair(&mut self, device: &mut LoopbackDevice, pair: Pair) {
        for end in &pair.ends {
            // Each end's DMB was attached by the other end.
            let _ = device.detach_dmb(DmbToken(end.dmb.token));
        }
        if let Some(group) = self.groups.get_mut(&pair.lgr) {
            group.pairs -= 1;
            group.arena.put_slot(pair.slot);
            for end in pair.ends {
                group.arena.put_dmb(end.dmb);
            }
        }
        self.drop_if_dead(device, pair.lgr);
    }

    fn drop_if_dead(&mut self, device: &mut LoopbackDevice, lgr: u32) {
        if !self
            .groups
            .get(&lgr)
            .is_some_and(|g| g.dying && g.pairs == 0)
        {
            return;
        }
        if let Some(group) = self.groups.remove(&lgr) {
            for client in [group.peers.0, group.peers.1] {
                if let Some(of) = self.by_client.get_mut(&client) {
                    of.remove(&lgr);
                    if of.is_empty() {
                        self.by_client.remove(&client);
                    }
                }
            }
            group.arena.close(device);
        }
    }

    /// A client has died: it lets go of all its ends and its link groups take no new pairs.
    /// Gives the pairs whose other end is still held, with its holder.
    pub fn client_gone(&mut self, device: &mut LoopbackDevice, client: u32) -> Vec<(u32, u64)> {
        let groups: Vec<u32> = self
            .by_client
            .get(&client)
            .into_iter()
            .flatten()
            .copied()
            .collect();
        for lgr in &groups {
            if let Some(group) = self.groups.get_mut(lgr) {
                group.dying = true;
                self.by_peers.remove(&group.peers);
            }
        }
        let mut left = Vec::new();
        for id in self.pairs_of.remove(&client).unwrap_or_default() {
            while self.release(device, client, id) {}
            if let Some(pair) = self.pairs.get(&id) {
                let held = pair.ends.iter().filter(|e| !e.released);
                left.extend(held.map(|e| (e.client, id)));
            }
        }
        for lgr in groups {
            self.drop_if_dead(device, lgr);
        }
        left
    }
}

/// Slot and two DMBs, each attached by its other end.
fn take(
    device: &mut LoopbackDevice,
    owners: [u32; 2],
    arena: &mut Arena,
    codes: [u8; 2],
) -> Result<(u64, [DmbPlace; 2]), ArenaError> {
    let (slot, dmbs) = arena.take_pair(device, owners, codes)?;
    for place in dmbs {
        device.attach_dmb(DmbToken(place.token))?;
    }
    Ok((slot, dmbs))
}

/// A client is on the same side in all pairs that it has with another; the ends of a pair within
/// one client are told apart by their roles.
fn sides([client, server]: [u32; 2]) -> [u8; 2] {
    if client <= server { [0, 1] } else { [1, 0] }
}

impl NewPair {
    pub fn dmb(&self, role: Role) -> DmbPlace {
        self.dmbs[role as usize]
    }
}
