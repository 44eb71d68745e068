use super::*;
use crate::arena::MIN_ARENA;
use protocol::ids::Gid;
use rand::Rng;

const UID: u32 = 1;

fn wanted(client: u32, rmb_size: u32) -> Wanted {
    Wanted {
        client,
        claim: 0,
        cookie: 0,
        uid: UID,
        rmb_size,
    }
}

fn setup() -> (LoopbackDevice, LinkGroups) {
    let device = LoopbackDevice::new(Gid::default(), 1000, 1 << 30);
    (device, LinkGroups::new(MIN_ARENA, 100))
}

#[test]
fn groups_of_different_peers_share_nothing() {
    let (mut device, mut groups) = setup();
    let mut open = |a, b| {
        let new = groups
            .open(&mut device, wanted(a, 0), wanted(b, 0))
            .unwrap();
        (new.lgr, new.fresh.is_some(), new.sides)
    };
    assert_eq!(open(1, 2), (0x100, true, [0, 1]));
    assert_eq!(open(2, 1), (0x100, false, [1, 0]));
    assert_eq!(open(1, 3), (0x200, true, [0, 1]));
    assert_eq!(open(1, 1), (0x300, true, [0, 1]));
}

#[test]
fn a_group_with_a_dead_client_takes_no_new_pair() {
    let (mut device, mut groups) = setup();
    let first = groups
        .open(&mut device, wanted(1, 0), wanted(2, 0))
        .unwrap();
    assert_eq!(groups.client_gone(&mut device, 1), [(2, first.id)]);
    // Numbers of clients may come again after a very long time.
    let second = groups
        .open(&mut device, wanted(1, 0), wanted(2, 0))
        .unwrap();
    assert_ne!(second.lgr, first.lgr);
    assert!(groups.release(&mut device, 2, first.id));
    assert!(!groups.release(&mut device, 2, first.id));
    assert_eq!(groups.len(), 1);
    assert!(groups.client_gone(&mut device, 2).contains(&(1, second.id)));
    assert!(groups.client_gone(&mut device, 1).is_empty());
    assert!(groups.is_empty());
    assert_eq!(device.get_dev_attr().dmbs, 0);
}

#[test]
fn one_user_has_only_so_many_groups() {
    let mut device = LoopbackDevice::new(Gid::default(), 1000, 1 << 30);
    let mut groups = LinkGroups::new(MIN_ARENA, 1);
    let mut open = |uid, b| {
        let [one, other] = [1, b].map(|client| Wanted {
            uid,
            ..wanted(client, 0)
        });
        let new = groups.open(&mut device, one, other);
        new.map(|n| n.lgr)
    };
    assert_eq!(open(UID, 2), Ok(0x100));
    assert_eq!(open(UID, 3), Err(reason::MEM));
    assert_eq!(open(UID, 2), Ok(0x100));
    assert_eq!(open(UID + 1, 3), Ok(0x200));
}

/// Whatever comes in whatever order: memory never serves two pairs at once, and nothing is left.
#[test]
fn random_lives() {
    let mut rng = rand::thread_rng();
    for _ in 0..20 {
        let (mut device, mut groups) = setup();
        let mut open: Vec<(NewPair, [Option<u32>; 2])> = Vec::new();
        for _ in 0..400 {
            match rng.gen_range(0..20) {
                0..=9 => {
                    let mut end = || wanted(rng.gen_range(1..5), rng.gen_range(0..1 << 20));
                    let (c, s) = (end(), end());
                    if let Ok(new) = groups.open(&mut device, c, s) {
                        open.push((new, [Some(c.client), Some(s.client)]));
                    }
                }
                10..=18 if !open.is_empty() => {
                    let at = rng.gen_range(0..open.len());
                    let (pair, ends) = &mut open[at];
                    let side = rng.gen_range(0..2);
                    if let Some(client) = ends[side].take() {
                        assert!(groups.release(&mut device, client, pair.id));
                    }
                }
                19 => {
                    let gone = rng.gen_range(1..5);
                    groups.client_gone(&mut device, gone);
                    for end in open.iter_mut().flat_map(|(_, ends)| ends) {
                        if *end == Some(gone) {
                            *end = None;
                        }
                    }
                }
                _ => {}
            }
            open.retain(|(_, ends)| ends.iter().any(Option::is_some));
            assert_eq!(groups.pairs(), open.len());
            let mut used = HashSet::new();
            for (pair, _) in &open {
                assert!(used.insert((pair.lgr, pair.slot)));
                for dmb in pair.dmbs {
                    assert!(used.insert((pair.lgr, dmb.offset)));
                    assert!(device.attach_dmb(DmbToken(dmb.token)).is_ok());
                    device.detach_dmb(DmbToken(dmb.token)).unwrap();
                }
            }
        }
        for client in 1..5 {
            groups.client_gone(&mut device, client);
        }
        assert!(groups.is_empty() && groups.pairs() == 0);
        let left = device.get_dev_attr();
        assert_eq!((left.dmbs, left.dmb_bytes), (0, 0));
        assert!(groups.pairs_of.is_empty() && groups.by_client.is_empty());
        assert!(groups.by_peers.is_empty() && groups.by_claim.is_empty());
        assert!(groups.voids.is_empty());
    }
}
