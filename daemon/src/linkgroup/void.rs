//! Pairs that one end has not taken: the other keeps its memory, and gets the same when both have claimed the
//! connection again. Another pair could not be put in its place: threads of that process may still look at the memory.

use super::{LinkGroups, NewPair, Wanted, sides};
use crate::device::LoopbackDevice;
use crate::rendezvous::ClaimId;
use protocol::reason;

impl LinkGroups {
    /// The end that was made of this claim does not take the pair. Gives the claim of the other end, if
    /// that holds it.
    pub fn void(&mut self, device: &mut LoopbackDevice, claim: ClaimId) -> Option<ClaimId> {
        let id = self.made_of(claim)?;
        let ends = &self.pairs.get(&id)?.ends;
        let end = usize::from((ends[0].client, ends[0].claim) != claim);
        let (kept, other) = (ends[end].kept, &ends[1 - end]);
        let told = (!other.released).then_some((other.client, other.claim));
        if told.is_some() {
            self.voids.insert((other.client, other.cookie), id);
        }
        if kept {
            self.by_claim.remove(&claim);
        } else {
            self.let_go(device, id, end);
        }
        told
    }

    /// The pair that one of the two ends has kept. `Err`: it is for others, so the two cannot have one.
    pub fn again(&mut self, ends: [Wanted; 2]) -> Result<Option<NewPair>, u32> {
        let kept = |end: &Wanted| self.voids.get(&(end.client, end.cookie)).copied();
        let Some(id) = ends.iter().find_map(kept) else {
            return Ok(None);
        };
        let pair = self.pairs.get_mut(&id).ok_or(reason::INTERR)?;
        let alive = self.groups.get(&pair.lgr).is_some_and(|g| !g.dying);
        let same = |(end, wanted): (&super::End, &Wanted)| {
            (end.client, end.cookie) == (wanted.client, wanted.cookie)
        };
        if !alive || !pair.ends.iter().zip(&ends).all(same) {
            return Err(reason::NO_PEER_YET);
        }
        for (end, wanted) in pair.ends.iter_mut().zip(&ends) {
            self.by_claim.remove(&(end.client, end.claim));
            end.claim = wanted.claim;
            end.kept = !end.released;
            end.released = false;
        }
        let new = NewPair {
            id,
            lgr: pair.lgr,
            sides: sides(ends.map(|end| end.client)),
            slot: pair.slot,
            dmbs: pair.ends.each_ref().map(|end| end.dmb),
            arena_len: self.arena_len,
            fresh: None,
        };
        self.hold_ends(id, ends);
        Ok(Some(new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::MIN_ARENA;
    use crate::linkgroup::LinkGroups;
    use protocol::ids::Gid;

    fn wanted(client: u32, claim: u64) -> Wanted {
        Wanted {
            client,
            claim,
            cookie: u64::from(client) * 100,
            uid: 1,
            rmb_size: 0,
        }
    }

    fn setup() -> (LoopbackDevice, LinkGroups, NewPair) {
        let mut device = LoopbackDevice::new(Gid::default(), 1000, 1 << 30);
        let mut groups = LinkGroups::new(MIN_ARENA, 100);
        let pair = groups
            .open(&mut device, wanted(1, 1), wanted(2, 1))
            .expect("memory");
        (device, groups, pair)
    }

    fn place(pair: &NewPair) -> (u64, u32, u64, [protocol::ctl::DmbPlace; 2], [u8; 2]) {
        (pair.id, pair.lgr, pair.slot, pair.dmbs, pair.sides)
    }

    #[test]
    fn both_get_the_same_again() {
        let (mut device, mut groups, first) = setup();
        assert!(matches!(
            groups.again([wanted(1, 2), wanted(2, 2)]),
            Ok(None)
        ));
        assert_eq!(groups.void(&mut device, (1, 1)), Some((2, 1)));
        // Twice: once the end that keeps it is the one that is too late.
        for claim in [2, 3] {
            let again = groups.again([wanted(1, claim), wanted(2, claim)]);
            let again = again.expect("theirs").expect("kept");
            assert_eq!(place(&again), place(&first));
            assert!(again.fresh.is_none());
            assert_eq!(groups.void(&mut device, (1, 1)), None);
            let late = if claim == 2 { 2 } else { 1 };
            let other = groups.void(&mut device, (late, claim));
            assert_eq!(other, Some((3 - late, claim)));
        }
        assert_eq!(groups.pairs(), 1);
        for client in [1, 2] {
            assert!(groups.release(&mut device, client, first.id));
        }
        assert_eq!(groups.pairs(), 0);
        assert!(groups.voids.is_empty() && groups.by_claim.is_empty());
    }

    #[test]
    fn neither_takes_it() {
        let (mut device, mut groups, _) = setup();
        assert_eq!(groups.void(&mut device, (1, 1)), Some((2, 1)));
        assert_eq!(groups.void(&mut device, (2, 1)), None);
        assert!(groups.pairs() == 0 && groups.voids.is_empty());
    }

    #[test]
    fn nobody_else_gets_it() {
        let (mut device, mut groups, first) = setup();
        groups.void(&mut device, (1, 1));
        for stranger in [
            wanted(3, 2),
            Wanted {
                cookie: 7,
                ..wanted(1, 2)
            },
        ] {
            let refused = groups.again([stranger, wanted(2, 2)]);
            assert_eq!(refused.err(), Some(reason::NO_PEER_YET));
        }
        let turned = groups.again([wanted(2, 2), wanted(1, 2)]);
        assert_eq!(turned.err(), Some(reason::NO_PEER_YET));
        groups.client_gone(&mut device, 1);
        let dead = groups.again([wanted(1, 2), wanted(2, 2)]);
        assert_eq!(dead.err(), Some(reason::NO_PEER_YET));
        assert!(groups.release(&mut device, 2, first.id));
        assert!(groups.is_empty() && groups.voids.is_empty());
        assert_eq!(device.get_dev_attr().dmbs, 0);
    }
}
