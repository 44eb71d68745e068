//! Messages captured from Linux 6.12 (`golden/clc.txt`) and from a peer that was made to misbehave:
//! what the kernel understands we understand, what it refuses we refuse, and writing again what was
//! read gives the same bytes.

#[path = "golden/mod.rs"]
mod golden;

use golden::{find, hex, lines};
use protocol::clc::*;
use protocol::ids::{DmbToken, Eid};
use protocol::reason;

fn encode(message: &Message) -> Vec<u8> {
    let mut out = [0xaa; MAX_LEN];
    let len = message.encode(&mut out);
    out[..len].to_vec()
}

/// Crafted messages that the kernel took although they are not what it would send: read, but
/// written differently.
const NOT_IDENTICAL: &[(&str, &str)] = &[
    (
        "C10c-dext-0",
        "the extension that no offset leads to is not kept",
    ),
    (
        "C10d-dext-ffff",
        "the extension that no offset leads to is not kept",
    ),
    ("C23-version3", "versions above 2 are read as 2"),
    (
        "C30-smcd-eyecatcher-head",
        "Proposals are written with SMCR at both ends",
    ),
    (
        "D02c-decline-bad-trailer",
        "the trailer of a Decline is not looked at",
    ),
    ("D14-accept-200-bytes", "surplus bytes are dropped"),
];

/// Crafted messages that the kernel refuses (`EPROTO`), and what is wrong with them.
fn refused(scenario: &str, kind: &str) -> Option<Malformed> {
    Some(match (scenario, kind) {
        ("C10-v2off-ffff", _) => Malformed::Offset(0xffff),
        ("C10b-v2off-0", _) => Malformed::Offset(0),
        ("C12b-nine-ueids", _) => Malformed::Count(9),
        ("C13b-nine-gids", _) => Malformed::Count(9),
        ("C14-len-minus-1", "PROPOSAL") => Malformed::Length(223),
        ("C14b-len-plus-1", "PROPOSAL") => Malformed::Length(225),
        ("C15-bad-trailer", _) => Malformed::Trailer([0xde, 0xad, 0xbe, 0xef]),
        ("C23b-version0", _) => Malformed::Version(0),
        ("C25-iparea-41", _) => Malformed::Offset(41),
        ("C25b-iparea-0", _) => Malformed::Offset(0),
        ("D02b-decline-v2-length-28", "DECLINE") => Malformed::Length(28),
        ("D15-accept-length-40", "ACCEPT") => Malformed::Length(40),
        ("D17-bad-trailer", "ACCEPT") => Malformed::Trailer([0xde, 0xad, 0xbe, 0xef]),
        ("D19-type-3", "ACCEPT") => Malformed::Type(SmcType::B),
        _ => return None,
    })
}

#[test]
fn every_line() {
    let (mut kernel, mut identical, mut exceptions, mut bad) = (0, 0, 0, 0);
    for line in lines() {
        let scenario = line.scenario;
        let read = decode(&line.bytes);
        if line.kind == "RAW" {
            assert!(
                matches!(read, Err(Error::Malformed(_))),
                "{scenario}: {read:?}"
            );
            continue;
        }
        kernel += usize::from(line.kernel);
        if !line.kernel {
            if let Some(why) = refused(scenario, line.kind) {
                assert_eq!(read, Err(Error::Malformed(why)), "{scenario}");
                bad += 1;
                continue;
            }
            if scenario == "D06-accept-type-R" && line.kind == "ACCEPT" {
                let rdma = Error::Unsupported(Unsupported::Rdma { version: 2 });
                assert_eq!(read, Err(rdma));
                bad += 1;
                continue;
            }
        }
        let message = read.unwrap_or_else(|e| panic!("{scenario} {}: {e:?}", line.kind));
        let name = format!("{:?}", message.kind()).to_uppercase();
        assert_eq!(name, line.kind, "{scenario}");
        let head = line.bytes[..HEADER_LEN].try_into().unwrap();
        assert_eq!(message_len(head), Ok(line.bytes.len()), "{scenario}");

        let again = encode(&message);
        let excepted = NOT_IDENTICAL.iter().any(|(s, _)| *s == scenario);
        if excepted && !line.kernel && again != line.bytes {
            assert_eq!(decode(&again), Ok(message), "{scenario}");
            exceptions += 1;
        } else {
            assert_eq!(again, line.bytes, "{scenario} {}", line.kind);
            identical += 1;
        }
    }
    assert_eq!(kernel, 289);
    assert_eq!(exceptions, NOT_IDENTICAL.len());
    assert_eq!(
        kernel + 80,
        identical + exceptions + bad,
        "369 messages in all"
    );
}

#[test]
fn prefixes_of_every_line_are_errors() {
    for line in lines() {
        for end in 0..line.bytes.len() {
            assert!(
                decode(&line.bytes[..end]).is_err(),
                "{} [..{end}]",
                line.scenario
            );
        }
    }
}

#[test]
fn one_byte_more_is_an_error() {
    for line in lines() {
        let mut bytes = line.bytes;
        bytes.push(0);
        assert!(decode(&bytes).is_err(), "{}", line.scenario);
    }
}

fn ueid(name: &str) -> Eid {
    let mut eid = [b' '; 32];
    eid[..name.len()].copy_from_slice(name.as_bytes());
    eid
}

#[test]
fn worked_proposal() {
    let bytes = hex(&[
        "e2d4c3d9 0100e026 0000000000000000",
        &"00".repeat(32),
        "0000001c 000000000000000000000000",
        &"00".repeat(16),
        "01020010 00000040 0000000000000000",
        "0000000000000000 00000001 00000000",
        &"00".repeat(8),
        "474f4c44454e2e554549442d31",
        &"20".repeat(19),
        &"00".repeat(48),
        "c74569269d5ae5ea ffff",
        "aff8ea792b6afaae ffff",
        "e2d4c3d9",
    ]
    .concat());
    assert_eq!(bytes, find("A01-first-contact", "PROPOSAL", true));
    let Ok(Message::Proposal(p)) = decode(&bytes) else {
        panic!("not a Proposal");
    };
    assert_eq!((p.version, p.typev1, p.typev2), (2, SmcType::N, SmcType::D));
    assert_eq!(p.rdma, RdmaPeer::default());
    assert_eq!(p.smcd, Some(SmcdV1::default()));
    assert_eq!(p.prefix, None);
    let v2 = p.v2.unwrap();
    assert_eq!(v2.eids[..], [ueid("GOLDEN.UEID-1")]);
    assert_eq!((v2.release, v2.seid_on, v2.feature_mask), (1, false, 1));
    assert_eq!((v2.max_conns, v2.max_links), (0, 0));
    let smcd = v2.smcd.unwrap();
    assert_eq!(smcd.seid, [0; 32]);
    let devices: Vec<Device> = smcd.devices().collect();
    assert_eq!(devices.len(), 1);
    assert_eq!(devices[0].chid, 0xffff);
    assert_eq!(devices[0].gid.gid, 0xc745_6926_9d5a_e5ea);
    assert_eq!(devices[0].gid.ext, 0xaff8_ea79_2b6a_faae);
}

#[test]
fn worked_accepts() {
    let bytes = hex(&[
        "e2d4c3c4 02008229 c74569269d5ae5ea",
        "d8313be7930e0b9f 00200000 00010000",
        "ffff 474f4c44454e2e554549442d31",
        &"20".repeat(19),
        "aff8ea792b6afaae",
        "00210000 676f6c64656e2d61",
        &"20".repeat(24),
        "00000001 00000000 0000000000000000",
        "e2d4c3c4",
    ]
    .concat());
    assert_eq!(bytes, find("A01-first-contact", "ACCEPT", true));
    let Ok(Message::Accept(a)) = decode(&bytes) else {
        panic!("not an Accept");
    };
    assert_eq!(a.gid.gid, 0xc745_6926_9d5a_e5ea);
    assert_eq!(a.gid.ext, 0xaff8_ea79_2b6a_faae);
    assert_eq!(a.token, DmbToken(0xd831_3be7_930e_0b9f));
    assert_eq!((a.index, a.size_code), (0, 2));
    assert_eq!(a.link_id.to_ne_bytes(), [0, 1, 0, 0]);
    let fce = FirstContact {
        os: OS_LINUX,
        release: 1,
        hostname: negotiate::hostname(b"golden-a"),
        feature_mask: FEATURE_EMULATED_ISM,
    };
    assert_eq!(
        a.mode,
        Mode::V2 {
            chid: 0xffff,
            eid: ueid("GOLDEN.UEID-1"),
            first_contact: Some(fce),
        }
    );

    let reused = [
        "e2d4c3c4 02004e21 c74569269d5ae5ea ec19ababd1921510",
        "00200000 00010000 ffff 474f4c44454e2e554549442d31",
        &"20".repeat(19),
        "aff8ea792b6afaae e2d4c3c4",
    ];
    let Ok(Message::Accept(a)) = decode(&hex(&reused.concat())) else {
        panic!("not an Accept");
    };
    assert!(!a.first_contact());
    assert_eq!(a.version(), 2);

    let Ok(Message::Accept(a)) = decode(&find("C02-release0", "ACCEPT", true)) else {
        panic!("not an Accept");
    };
    assert!(matches!(
        a.mode,
        Mode::V2 {
            first_contact: Some(FirstContact {
                os: 2,
                release: 0,
                feature_mask: 0,
                ..
            }),
            ..
        }
    ));
}

#[test]
fn worked_declines() {
    let cases = [
        (
            "e2d4c3d904002c20 0000000000000000 03030007 20000000 \
             00000000000000000000000000000000 e2d4c3d9",
            Decline::new(2, reason::NOSMCD2DEV),
        ),
        (
            "e2d4c3d904001c10 0000000000000000 03030000 00000000 e2d4c3d9",
            Decline::new(1, reason::NOSMCDEV),
        ),
        (
            "e2d4c3d904002c28 0000000000000000 04000000 20000000 \
             00000000000000000000000000000000 e2d4c3d9",
            Decline::new(2, reason::SYNCERR),
        ),
    ];
    for (text, decline) in cases {
        let bytes = hex(text);
        assert_eq!(decode(&bytes), Ok(Message::Decline(decline)));
        assert_eq!(encode(&Message::Decline(decline)), bytes);
    }
}

#[test]
fn confirm_ack_bytes() {
    let ack = ConfirmAck {
        token: DmbToken(0x0102_0304_0506_0708),
    };
    let mut bytes = [0xaa; ConfirmAck::LEN];
    assert_eq!(ack.encode(&mut bytes), 24);
    assert_eq!(
        bytes[..],
        hex("e2d4c3c4 05001821 0102030405060708 00000000 e2d4c3c4")[..]
    );
    assert_eq!(decode(&bytes), Ok(Message::ConfirmAck(ack)));
}

#[test]
fn messages_at_the_wrong_moment() {
    // The kernel's client gives up with EPROTO when a Confirm comes for an Accept (D16).
    let confirm = decode(&find("D16-confirm-instead", "CONFIRM", false)).unwrap();
    let unexpected = Error::Misbehaving(Misbehaving::Unexpected {
        want: Kind::Accept,
        got: Kind::Confirm,
    });
    assert_eq!(confirm.into_accept(), Err(unexpected));
    assert_eq!(unexpected.reason(), reason::PROTOCOL);
    assert!(matches!(confirm.into_confirm(), Ok(Received::Message(_))));
    // A Decline is good at any moment (C29).
    for (scenario, version) in [("C29-decline-first-v2", 2), ("C29b-decline-first-v1", 1)] {
        let decline = decode(&find(scenario, "DECLINE", false)).unwrap();
        let wanted = Decline::new(version, reason::NOSMCDEV);
        assert_eq!(decline.into_proposal(), Ok(Received::Declined(wanted)));
        assert_eq!(decline.into_accept(), Ok(Received::Declined(wanted)));
        assert_eq!(decline.into_confirm(), Ok(Received::Declined(wanted)));
        assert_eq!(decline.into_confirm_ack(), Ok(Received::Declined(wanted)));
    }
}

#[test]
fn heads_that_are_no_message() {
    let cases = [
        ("4745 5420 2f20 4854", Malformed::Eyecatcher(*b"GET ")),
        ("e2d4c3d9 0000e026", Malformed::Kind(0)),
        ("e2d4c3d9 0600e026", Malformed::Kind(6)),
        ("e2d4c3d9 0100e006", Malformed::Version(0)),
        ("e2d4c3d9 01003326", Malformed::Length(51)),
        ("e2d4c3d9 01028d26", Malformed::Length(653)),
        ("e2d4c3c4 02002f29", Malformed::Length(47)),
        ("e2d4c3d9 04001b20", Malformed::Length(27)),
        ("e2d4c3c4 05001721", Malformed::Length(23)),
    ];
    for (head, why) in cases {
        let head = hex(head).try_into().unwrap();
        assert_eq!(message_len(&head), Err(Error::Malformed(why)));
    }
    assert_eq!(
        message_len(&hex("e2d4c3d9 01028c26").try_into().unwrap()),
        Ok(MAX_LEN)
    );
}
