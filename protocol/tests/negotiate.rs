//! Decisions of the handshake against what Linux 6.12 answered to the same messages.

#[path = "golden/mod.rs"]
mod golden;

use golden::{find, lines};
use protocol::clc::negotiate::*;
use protocol::clc::*;
use protocol::ids::{DmbToken, Eid, Gid, LOOPBACK_CHID};
use protocol::reason;

/// Every boot of the captured kernel had its own GID.
const A: Gid = gid(0xc745_6926_9d5a_e5ea, 0xaff8_ea79_2b6a_faae);
const C: Gid = gid(0xeb4c_955b_5be3_a1e2, 0xb2ee_e4a9_60e2_2480);
const D: Gid = gid(0x4747_91ad_e02b_9b8f, 0x85d9_f518_4d82_d7b2);

const fn gid(gid: u64, ext: u64) -> Gid {
    Gid { gid, ext }
}

fn ueid(name: &str) -> Eid {
    hostname(name.as_bytes())
}

fn kernel(gid: Gid, ueids: &[Eid]) -> Identity<'_> {
    Identity {
        gid,
        chid: LOOPBACK_CHID,
        seid_on: false,
        seid: [0; 32],
        ueids,
        release: RELEASE,
        hostname: hostname(b"golden-a"),
    }
}

fn message(scenario: &str, kind: &str, kernel: bool) -> Message {
    decode(&find(scenario, kind, kernel)).unwrap()
}

fn proposal(scenario: &str, kernel: bool) -> Proposal {
    match message(scenario, "PROPOSAL", kernel).into_proposal() {
        Ok(Received::Message(m)) => m,
        other => panic!("{scenario}: {other:?}"),
    }
}

fn accept(scenario: &str, kernel: bool) -> AcceptConfirm {
    match message(scenario, "ACCEPT", kernel).into_accept() {
        Ok(Received::Message(m)) => m,
        other => panic!("{scenario}: {other:?}"),
    }
}

fn confirm(scenario: &str, kernel: bool) -> AcceptConfirm {
    match message(scenario, "CONFIRM", kernel).into_confirm() {
        Ok(Received::Message(m)) => m,
        other => panic!("{scenario}: {other:?}"),
    }
}

/// The buffer that a message names.
fn offer_of(m: &AcceptConfirm) -> Offer {
    Offer {
        token: m.token,
        index: m.index,
        size_code: m.size_code,
        link_id: m.link_id,
        first_contact: m.first_contact(),
    }
}

fn any_offer() -> Offer {
    Offer {
        token: DmbToken(0xa5a5_a5a5_a5a5_a5a5),
        index: 0,
        size_code: 2,
        link_id: 7,
        first_contact: true,
    }
}

fn bytes(m: Message) -> Vec<u8> {
    let mut out = [0; MAX_LEN];
    let len = m.encode(&mut out);
    out[..len].to_vec()
}

#[test]
fn proposals_are_the_kernels() {
    let one = [ueid("GOLDEN.UEID-1")];
    for (scenario, ueids) in [("A00-noueid-default", &[][..]), ("A01-first-contact", &one)] {
        let own = kernel(A, ueids);
        let ours = Message::Proposal(make_proposal(&own));
        let theirs = find(scenario, "PROPOSAL", true);
        assert_eq!(bytes(ours), theirs, "{scenario}");
    }
}

#[test]
fn whole_handshakes_are_the_kernels() {
    let one = [ueid("GOLDEN.UEID-1")];
    let own = kernel(A, &one);
    for scenario in ["A01-first-contact", "A02-reuse-while-open", "A06-ipv6"] {
        let proposal = proposal(scenario, true);
        let (their_accept, their_confirm) = (accept(scenario, true), confirm(scenario, true));
        let (server, client) = (offer_of(&their_accept), offer_of(&their_confirm));

        let accept = answer_proposal(&proposal, &own, server).unwrap();
        assert_eq!(
            bytes(Message::Accept(accept)),
            find(scenario, "ACCEPT", true)
        );
        let agreed = check_accept(&accept, &proposal, &own, &server, client.first_contact).unwrap();
        assert_eq!(agreed.eid, one[0]);
        let confirm = answer_accept(&agreed, &own, client);
        assert_eq!(
            bytes(Message::Confirm(confirm)),
            find(scenario, "CONFIRM", true)
        );
        let ack = check_confirm(&confirm, &accept, &own, &client).unwrap();
        assert_eq!(check_confirm_ack(&ack, &confirm), Ok(()));
    }
}

/// Every Accept and every Decline that the kernel's server sent in answer to a crafted Proposal.
#[test]
fn server_answers_are_the_kernels() {
    let one = [ueid("GOLDEN.UEID-1")];
    let own = kernel(C, &one);
    let all = lines();
    let (mut accepts, mut declines) = (0, 0);
    for (i, line) in all.iter().enumerate() {
        let crafted = line.scenario.starts_with('C') && line.kind == "PROPOSAL" && !line.kernel;
        let Some(answer) = all[i + 1..]
            .iter()
            .find(|m| m.kernel && m.scenario == line.scenario)
            .filter(|_| crafted)
        else {
            continue;
        };
        let Ok(Message::Proposal(proposal)) = decode(&line.bytes) else {
            panic!("{}", line.scenario);
        };
        let ours = match decode(&answer.bytes).unwrap() {
            Message::Accept(theirs) => {
                accepts += 1;
                let accept = answer_proposal(&proposal, &own, offer_of(&theirs));
                Message::Accept(accept.unwrap_or_else(|d| panic!("{}: {d:?}", line.scenario)))
            }
            Message::Decline(theirs) => {
                declines += 1;
                let mut decline = answer_proposal(&proposal, &own, any_offer()).unwrap_err();
                if theirs.reason == reason::DIFFPREFIX {
                    // The one difference: we look at no prefix, as we have no v1 at all.
                    assert_eq!(decline.reason, reason::NOSMCDDEV);
                    decline.reason = theirs.reason;
                }
                Message::Decline(decline)
            }
            other => panic!("{}: {other:?}", line.scenario),
        };
        assert_eq!(bytes(ours), answer.bytes, "{}", line.scenario);
    }
    assert!(accepts >= 14 && declines >= 15, "{accepts} {declines}");
}

#[test]
fn no_ueid_anywhere() {
    let own = kernel(A, &[]);
    let decline = answer_proposal(&proposal("A00-noueid-default", true), &own, any_offer());
    assert_eq!(
        bytes(Message::Decline(decline.unwrap_err())),
        find("A00-noueid-default", "DECLINE", true)
    );
}

#[test]
fn server_reasons_by_row() {
    let one = [ueid("GOLDEN.UEID-1")];
    let own = kernel(C, &one);
    let good = make_proposal(&own);
    let reason = |edit: &dyn Fn(&mut Proposal)| {
        let mut p = good;
        edit(&mut p);
        answer_proposal(&p, &own, any_offer()).map_err(|d| d.reason)
    };
    assert!(reason(&|_| ()).is_ok());
    type Edit<'a> = &'a dyn Fn(&mut Proposal);
    let rows: &[(u32, Edit)] = &[
        (reason::PEERNOSMC, &|p| p.typev2 = SmcType::N),
        (reason::NOV2EXT, &|p| p.v2 = None),
        (reason::NOV2DEXT, &|p| v2(p).smcd = None),
        (reason::NOUEID, &|p| v2(p).eids = List::new()),
        // A SEID that is on, but zero or unknown, is an EID; it does not match.
        (reason::NOSMCDDEV, &|p| {
            v2(p).eids = List::new();
            v2(p).seid_on = true;
        }),
        (reason::NOSMCDDEV, &|p| {
            v2(p).eids = List::from_first([ueid("OTHER")])
        }),
        (reason::NOSMCD2DEV, &|p| entry(p, 0).gid ^= 1),
        (reason::NOSMCD2DEV, &|p| entry(p, 1).gid ^= 1),
        (reason::NOSMCD2DEV, &|p| entry(p, 1).chid = 0xff00),
        (reason::NOSMCD2DEV, &|p| entries(p, 1)),
        (reason::NOSMCD2DEV, &|p| entries(p, 0)),
        // A flaw of the v2 offer is forgotten when v1 is offered; v1 has its own codes.
        (reason::NOSMCDDEV, &|p| {
            p.typev1 = SmcType::D;
            v2(p).smcd = None;
        }),
        (reason::NOSMCDDEV, &|p| {
            p.typev1 = SmcType::B;
            p.typev2 = SmcType::N;
        }),
        (reason::NOSMCDEV, &|p| {
            p.typev1 = SmcType::R;
            p.typev2 = SmcType::N;
        }),
        // SMC-R v2: limits are judged before SMC-D is tried.
        (reason::MAXCONNERR, &|p| p.typev2 = SmcType::B),
        (reason::MAXCONNERR, &|p| {
            p.typev2 = SmcType::B;
            v2(p).max_conns = 15;
        }),
        (reason::MAXLINKERR, &|p| {
            p.typev2 = SmcType::B;
            v2(p).max_conns = 16;
            v2(p).max_links = 1;
        }),
        (reason::NOSMCDEV, &|p| {
            p.typev2 = SmcType::R;
            v2(p).max_conns = 255;
            v2(p).max_links = 2;
        }),
    ];
    for (i, (wanted, edit)) in rows.iter().enumerate() {
        assert_eq!(reason(*edit), Err(*wanted), "row {i}");
    }
    let both = reason(&|p| {
        p.typev2 = SmcType::B;
        v2(p).max_conns = 16;
        v2(p).max_links = 2;
    });
    assert!(both.is_ok());
}

fn v2(p: &mut Proposal) -> &mut V2Ext {
    p.v2.as_mut().unwrap()
}

fn entry(p: &mut Proposal, at: usize) -> &mut GidChid {
    &mut v2(p).smcd.as_mut().unwrap().entries[at]
}

fn entries(p: &mut Proposal, n: usize) {
    let list = &mut v2(p).smcd.as_mut().unwrap().entries;
    *list = List::from_first(list.iter().copied().take(n).collect::<Vec<_>>());
}

#[test]
fn seid_comes_first() {
    let seid = ueid("IBM-SYSZ-ISMSEID0000000012345678");
    let one = [ueid("GOLDEN.UEID-1")];
    let mut own = kernel(C, &one);
    own.seid_on = true;
    own.seid = seid;
    let p = make_proposal(&own);
    let accept = answer_proposal(&p, &own, any_offer()).unwrap();
    assert!(matches!(accept.mode, Mode::V2 { eid, .. } if eid == seid));
    assert!(check_accept(&accept, &p, &own, &any_offer(), true).is_ok());
    // Off on either side: the UEID.
    let mut off = own;
    off.seid_on = false;
    for (client, server) in [(own, off), (off, own)] {
        let accept = answer_proposal(&make_proposal(&client), &server, any_offer()).unwrap();
        assert!(matches!(accept.mode, Mode::V2 { eid, .. } if eid == one[0]));
    }
    // Zero never matches.
    own.seid = [0; 32];
    own.ueids = &[];
    let decline = answer_proposal(&make_proposal(&own), &own, any_offer());
    assert_eq!(decline.unwrap_err().reason, reason::NOSMCDDEV);
}

#[test]
fn the_clients_order_of_ueids_counts() {
    let (a, b) = (ueid("A"), ueid("B"));
    let (ab, ba) = ([a, b], [b, a]);
    let p = make_proposal(&kernel(C, &ab));
    let accept = answer_proposal(&p, &kernel(C, &ba), any_offer()).unwrap();
    assert!(matches!(accept.mode, Mode::V2 { eid, .. } if eid == a));
}

#[test]
fn emulated_devices_come_in_pairs() {
    let entry = |gid, chid| GidChid { gid, chid };
    let smcd = SmcdV2Ext {
        seid: [0; 32],
        entries: List::from_first([
            entry(1, 0x0007), // hardware: alone
            entry(2, 0xffff), // without second: the next has another CHID
            entry(3, 0xff00),
            entry(4, 0xff00),
            entry(5, 0xff00), // without second
            entry(6, 0xfeff), // hardware
            entry(7, 0xffff), // without second: end of the list
        ]),
    };
    let devices: Vec<Device> = smcd.devices().collect();
    let device = |g, ext, chid| Device {
        gid: gid(g, ext),
        chid,
    };
    let wanted = [device(1, 0, 7), device(3, 4, 0xff00), device(6, 0, 0xfeff)];
    assert_eq!(devices, wanted);
    for d in wanted {
        assert_eq!(d.entries().len(), if is_emulated(d.chid) { 2 } else { 1 });
    }
}

/// The kernel's client against crafted Accepts. What ended in EPROTO there is a Decline here.
#[test]
fn client_answers() {
    let one = [ueid("GOLDEN.UEID-1")];
    let own = kernel(D, &one);
    let p = make_proposal(&own);
    // None of these names a buffer that the client was granted; the kernel finds out last.
    let granted = Offer {
        token: DmbToken(1),
        ..any_offer()
    };
    for (scenario, reason) in [
        ("D03-accept-reuse-unknown", reason::SYNCERR),
        ("D04-accept-chid-not-offered", reason::PROTOCOL), // EPROTO
        ("D05-accept-unknown-token", reason::MEM),
        ("D07-accept-v1", reason::MODEUNSUPP),
        ("D12-accept-release0", reason::MEM),
        ("D12b-accept-release2", reason::RELEASEERR), // MEM: the kernel takes it
        ("D13-accept-other-gid", reason::MEM),
        ("D14-accept-200-bytes", reason::MEM),
        ("D18-size-code-15", reason::MEM),
    ] {
        let decline = check_accept(&accept(scenario, false), &p, &own, &granted, true).unwrap_err();
        assert_eq!(decline.reason, reason, "{scenario}");
        let their = lines()
            .into_iter()
            .find(|l| l.scenario == scenario && l.kind == "DECLINE" && l.kernel);
        match their {
            Some(line) if scenario != "D12b-accept-release2" => {
                assert_eq!(bytes(Message::Decline(decline)), line.bytes, "{scenario}");
            }
            Some(_) => {}
            None => assert_eq!(decline.reason, reason::PROTOCOL),
        }
    }
    // SMC-R is known by its bytes alone.
    let rdma = decode(&find("D06-accept-type-R", "ACCEPT", false)).unwrap_err();
    assert_eq!(
        bytes(Message::Decline(rdma.decline())),
        find("D06-accept-type-R", "DECLINE", true)
    );
    // Whatever cannot be read is declined, not fatal.
    for scenario in ["D15-accept-length-40", "D17-bad-trailer", "D19-type-3"] {
        let e = decode(&find(scenario, "ACCEPT", false)).unwrap_err();
        assert_eq!(e.decline(), Decline::new(2, reason::PROTOCOL), "{scenario}");
    }
}

#[test]
fn client_checks_the_buffer() {
    let one = [ueid("GOLDEN.UEID-1")];
    let own = kernel(D, &one);
    let p = make_proposal(&own);
    let good = answer_proposal(&p, &own, any_offer()).unwrap();
    let reason = |edit: &dyn Fn(&mut AcceptConfirm)| {
        let mut a = good;
        edit(&mut a);
        check_accept(&a, &p, &own, &any_offer(), true).map_err(|d| d.reason)
    };
    let agreed = Agreed {
        eid: one[0],
        release: Some(1),
        first_contact: true,
    };
    assert_eq!(reason(&|_| ()), Ok(agreed));
    assert_eq!(reason(&|a| a.token.0 ^= 1), Err(reason::MEM));
    assert_eq!(reason(&|a| a.index = 1), Err(reason::MEM));
    assert_eq!(reason(&|a| a.gid.gid ^= 1), Err(reason::MEM));
    assert_eq!(reason(&|a| a.gid.ext ^= 1), Err(reason::MEM));
    for code in (0..16).filter(|code| *code != 2) {
        assert_eq!(reason(&|a| a.size_code = code), Err(reason::MEM), "{code}");
    }
    let unknown = |a: &mut AcceptConfirm| {
        if let Mode::V2 { eid, .. } = &mut a.mode {
            *eid = ueid("OTHER");
        }
    };
    assert_eq!(reason(&unknown), Err(reason::PROTOCOL));
    // A size code that no DMB has is refused even if the daemon should have told it.
    let told = Offer {
        size_code: 15,
        ..any_offer()
    };
    let accept = answer_proposal(&p, &own, told).unwrap();
    let decline = check_accept(&accept, &p, &own, &told, true).unwrap_err();
    assert_eq!(decline.reason, reason::MEM);
    // A server that opens a link group where we know one already: as in the kernel, we follow.
    assert_eq!(
        check_accept(&good, &p, &own, &any_offer(), false),
        Ok(agreed)
    );
}

/// The kernel's server against crafted Confirms.
#[test]
fn server_checks_the_confirm() {
    let one = [ueid("GOLDEN.UEID-1")];
    let own = kernel(C, &one);
    let granted = Offer {
        token: DmbToken(1),
        ..any_offer()
    };
    for (scenario, reason) in [
        ("C19-confirm-unknown-token", reason::MEM), // fatal in the kernel
        ("C21-confirm-other-release", reason::RELEASEERR),
        ("C22-confirm-v1", reason::MODEUNSUPP), // fatal in the kernel
    ] {
        let (confirm, accept) = (confirm(scenario, false), accept(scenario, true));
        let decline = check_confirm(&confirm, &accept, &own, &granted).unwrap_err();
        assert_eq!(decline, Decline::new(2, reason), "{scenario}");
    }
    let (confirm, accept) = (
        confirm("C19-confirm-unknown-token", false),
        accept("C19-confirm-unknown-token", true),
    );
    let client = offer_of(&confirm);
    let reason = |edit: &dyn Fn(&mut AcceptConfirm)| {
        let mut c = confirm;
        edit(&mut c);
        check_confirm(&c, &accept, &own, &client).map_err(|d| d.reason)
    };
    assert_eq!(
        reason(&|_| ()),
        Ok(ConfirmAck {
            token: client.token
        })
    );
    let other_chid = |c: &mut AcceptConfirm| {
        if let Mode::V2 { chid, .. } = &mut c.mode {
            *chid = 7;
        }
    };
    let other_eid = |c: &mut AcceptConfirm| {
        if let Mode::V2 { eid, .. } = &mut c.mode {
            *eid = [0; 32];
        }
    };
    assert_eq!(reason(&other_chid), Err(reason::PROTOCOL));
    assert_eq!(reason(&other_eid), Err(reason::PROTOCOL));
    assert_eq!(reason(&|c| c.gid.ext ^= 1), Err(reason::MEM));
    assert_eq!(reason(&|c| c.size_code = 3), Err(reason::MEM));

    let ack = ConfirmAck { token: DmbToken(2) };
    let decline = check_confirm_ack(&ack, &confirm).unwrap_err();
    assert_eq!(decline.reason, reason::PROTOCOL);
}
