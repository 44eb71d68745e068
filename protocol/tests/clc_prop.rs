//! Properties of the CLC codec: what is written is read back, and no bytes make the reader panic.

#[path = "golden/mod.rs"]
mod golden;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use protocol::clc::*;
use protocol::ids::{DmbToken, Eid, Gid};

/// Room behind the message, to see that nothing is written there.
const FILL: u8 = 0xa5;

fn eid() -> impl Strategy<Value = Eid> {
    prop_oneof![
        any::<[u8; 32]>(),
        "[A-Z0-9][A-Z0-9.-]{0,31}".prop_map(|s| negotiate::hostname(s.as_bytes())),
    ]
}

fn smc_type() -> impl Strategy<Value = SmcType> {
    prop::sample::select(vec![SmcType::R, SmcType::D, SmcType::N, SmcType::B])
}

fn prefix() -> impl Strategy<Value = Prefix> {
    let v6 = (any::<[u8; 16]>(), any::<u8>()).prop_map(|(prefix, len)| V6Prefix { prefix, len });
    (any::<[u8; 4]>(), any::<u8>(), vec(v6, 0..=MAX_V6_PREFIXES)).prop_map(|(subnet, len, v6)| {
        Prefix {
            subnet,
            len,
            v6: List::from_first(v6),
        }
    })
}

fn smcd_v2() -> impl Strategy<Value = SmcdV2Ext> {
    let chid = prop_oneof![any::<u16>(), 0xff00u16..=0xffff];
    let entry = (any::<u64>(), chid).prop_map(|(gid, chid)| GidChid { gid, chid });
    (eid(), vec(entry, 0..=MAX_GID_ENTRIES)).prop_map(|(seid, entries)| SmcdV2Ext {
        seid,
        entries: List::from_first(entries),
    })
}

fn v2(typev2: SmcType) -> impl Strategy<Value = V2Ext> {
    (
        vec(eid(), 0..=MAX_UEIDS),
        0u8..16,
        any::<bool>(),
        any::<[u8; 16]>(),
        any::<(u8, u8, u16)>(),
        option::weighted(0.9, smcd_v2()),
    )
        .prop_map(
            move |(eids, release, seid_on, roce_gid, (max_conns, max_links, features), smcd)| {
                V2Ext {
                    eids: List::from_first(eids),
                    release,
                    seid_on,
                    roce_gid,
                    max_conns,
                    max_links,
                    feature_mask: features,
                    smcd: smcd.filter(|_| typev2.has_d()),
                }
            },
        )
}

fn rdma() -> impl Strategy<Value = RdmaPeer> {
    any::<([u8; 8], [u8; 16], [u8; 6])>().prop_map(|(id_for_peer, gid, mac)| RdmaPeer {
        id_for_peer,
        gid,
        mac,
    })
}

/// Proposals that have exactly the parts that their types ask for.
fn proposal() -> impl Strategy<Value = Proposal> {
    let types = (1u8..=2, smc_type(), smc_type()).prop_map(|(version, typev1, typev2)| {
        match (version, typev1) {
            (1, SmcType::N) => (1, SmcType::R, SmcType::N),
            (1, _) => (1, typev1, SmcType::N),
            _ => (version, typev1, typev2),
        }
    });
    types.prop_flat_map(|(version, typev1, typev2)| {
        let smcd = any::<(u64, u16)>().prop_map(|(gid, chid)| SmcdV1 { gid, chid });
        let smcd = if version == 1 && typev1 == SmcType::R {
            option::of(smcd).boxed()
        } else {
            smcd.prop_map(Some).boxed()
        };
        (rdma(), smcd, prefix(), v2(typev2)).prop_map(move |(rdma, smcd, prefix, v2)| Proposal {
            version,
            typev1,
            typev2,
            rdma,
            smcd,
            prefix: (typev1 != SmcType::N).then_some(prefix),
            v2: (typev2 != SmcType::N).then_some(v2),
        })
    })
}

fn first_contact() -> impl Strategy<Value = FirstContact> {
    (0u8..16, 0u8..16, any::<[u8; 32]>(), any::<u16>()).prop_map(
        |(os, release, hostname, feature_mask)| FirstContact {
            os,
            release,
            hostname,
            feature_mask: if release == 0 { 0 } else { feature_mask },
        },
    )
}

fn accept_confirm() -> impl Strategy<Value = AcceptConfirm> {
    let v1 = any::<bool>().prop_map(|first_contact| Mode::V1 { first_contact });
    let v2 = (any::<u16>(), eid(), option::of(first_contact())).prop_map(
        |(chid, eid, first_contact)| Mode::V2 {
            chid,
            eid,
            first_contact,
        },
    );
    (
        any::<(u64, u64, u64, u8, u32)>(),
        0u8..16,
        prop_oneof![v1, v2],
    )
        .prop_map(
            |((gid, ext, token, index, link_id), size_code, mode)| AcceptConfirm {
                gid: Gid {
                    gid,
                    ext: match mode {
                        Mode::V1 { .. } => 0,
                        Mode::V2 { .. } => ext,
                    },
                },
                token: DmbToken(token),
                index,
                size_code,
                link_id,
                mode,
            },
        )
}

fn decline() -> impl Strategy<Value = Decline> {
    (1u8..=2, any::<(bool, [u8; 8], u32, [u32; 4])>(), 0u8..16).prop_map(
        |(version, (out_of_sync, id_for_peer, reason, extra), os)| Decline {
            version,
            out_of_sync,
            id_for_peer,
            reason,
            os: if version == 1 { 0 } else { os },
            extra: if version == 1 { [0; 4] } else { extra },
        },
    )
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        3 => proposal().prop_map(Message::Proposal),
        2 => accept_confirm().prop_map(Message::Accept),
        2 => accept_confirm().prop_map(Message::Confirm),
        1 => decline().prop_map(Message::Decline),
        1 => any::<u64>().prop_map(|n| Message::ConfirmAck(ConfirmAck { token: DmbToken(n) })),
    ]
}

/// Reading must not depend on anything behind the message, and must accept what it writes.
fn read_is_sane(bytes: &[u8]) {
    if let Some(head) = bytes.first_chunk::<HEADER_LEN>() {
        match message_len(head) {
            Ok(len) => assert!((24..=MAX_LEN).contains(&len)),
            Err(e) => assert_eq!(decode(bytes), Err(e)),
        }
    }
    if let Ok(message) = decode(bytes) {
        let mut out = [FILL; MAX_LEN];
        let len = message.encode(&mut out);
        assert_eq!(decode(&out[..len]), Ok(message));
        if let Message::Proposal(p) = message {
            for smcd in p.v2.iter().filter_map(|v2| v2.smcd.as_ref()) {
                assert!(smcd.devices().count() <= smcd.entries.len());
            }
        }
    }
}

proptest! {
    #[test]
    fn written_is_read(message in message()) {
        let mut out = [FILL; MAX_LEN];
        let len = message.encode(&mut out);
        prop_assert!(out[len..].iter().all(|b| *b == FILL));
        let head = out.first_chunk::<HEADER_LEN>().unwrap();
        prop_assert_eq!(message_len(head), Ok(len));
        prop_assert_eq!(decode(&out[..len]), Ok(message));
        for end in 0..len {
            prop_assert!(decode(&out[..end]).is_err());
        }
    }

    #[test]
    fn each_fits_its_own_buffer(a in accept_confirm(), d in decline()) {
        let mut out = [FILL; AcceptConfirm::MAX_LEN];
        prop_assert!([48, 78, 114, 130].contains(&a.encode_accept(&mut out)));
        let len = a.encode_confirm(&mut out);
        prop_assert_eq!(decode(&out[..len]), Ok(Message::Confirm(a)));
        let mut out = [FILL; Decline::MAX_LEN];
        let len = d.encode(&mut out);
        prop_assert_eq!(decode(&out[..len]), Ok(Message::Decline(d)));
    }

    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..800)) {
        read_is_sane(&bytes);
    }

    /// Random bytes seldom begin like a message, so give them a head that does.
    #[test]
    fn any_bytes_behind_a_head(
        kind in 1u8..=5,
        bits in any::<u8>(),
        smcd in any::<bool>(),
        mut bytes in vec(any::<u8>(), 24..800),
    ) {
        let eyecatcher = if smcd { Eyecatcher::Smcd } else { Eyecatcher::Smcr }.bytes();
        let len = bytes.len();
        bytes[..4].copy_from_slice(&eyecatcher);
        bytes[4] = kind;
        bytes[5..7].copy_from_slice(&(len as u16).to_be_bytes());
        bytes[7] = bits;
        bytes[len - 4..].copy_from_slice(&eyecatcher);
        read_is_sane(&bytes);
    }

    #[test]
    fn damaged_golden_messages(
        pick in any::<prop::sample::Index>(),
        hits in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let lines = golden::lines();
        let mut bytes = lines[pick.index(lines.len())].bytes.clone();
        for (at, value) in hits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        read_is_sane(&bytes);
    }

    /// Damage to the parts that steer the reader: counts, offsets, types, length.
    #[test]
    fn damaged_counts(
        p in proposal(),
        at in prop::sample::select(vec![4usize, 5, 6, 7, 38, 39, 47, 50, 51, 80, 81, 86, 87, 88, 89]),
        value in any::<u8>(),
    ) {
        let mut out = [FILL; MAX_LEN];
        let len = Message::Proposal(p).encode(&mut out);
        if at < len {
            out[at] = value;
            read_is_sane(&out[..len]);
        }
    }
}

#[test]
fn the_longest_proposal_is_max_len() {
    let mut p = Proposal {
        version: 2,
        typev1: SmcType::B,
        typev2: SmcType::B,
        rdma: RdmaPeer::default(),
        smcd: None,
        prefix: Some(Prefix {
            v6: List::from_first([V6Prefix::default(); MAX_V6_PREFIXES]),
            ..Prefix::default()
        }),
        v2: Some(V2Ext {
            eids: List::from_first([[b'E'; 32]; MAX_UEIDS]),
            release: 1,
            seid_on: true,
            roce_gid: [1; 16],
            max_conns: 1,
            max_links: 1,
            feature_mask: 1,
            smcd: Some(SmcdV2Ext {
                seid: [b'S'; 32],
                entries: List::from_first([GidChid::default(); MAX_GID_ENTRIES]),
            }),
        }),
    };
    let mut out = [0; MAX_LEN];
    assert_eq!(p.encode(&mut out), MAX_LEN);
    p.smcd = Some(SmcdV1::default());
    assert_eq!(decode(&out), Ok(Message::Proposal(p)));
}

/// A part that is due but not there is found missing by the reader.
#[test]
fn missing_parts() {
    let mut out = [0; MAX_LEN];
    let ids = [[b'A'; 32]];
    let own = negotiate::Identity {
        gid: Gid { gid: 1, ext: 2 },
        chid: 0xffff,
        seid_on: false,
        seid: [0; 32],
        ueids: &ids,
        release: 1,
        hostname: [b' '; 32],
    };
    let mut p = negotiate::make_proposal(&own);
    p.v2.as_mut().unwrap().smcd = None;
    let len = p.encode(&mut out);
    assert_eq!(decode(&out[..len]), Ok(Message::Proposal(p)));
    p.v2 = None;
    let len = p.encode(&mut out);
    let missing = Error::Malformed(Malformed::Offset(0));
    assert_eq!(decode(&out[..len]), Err(missing));
}
