//! The handshake with a fault at each stage, in both roles. The program under the shim talks to a
//! peer of the test's own: afterwards both are on TCP with every byte in place, or the connection is
//! reset where bytes cannot be accounted for, and the program goes on.

use protocol::clc::{self, AcceptConfirm, Mode};
use protocol::ids::{DmbToken, Role};
use protocol::reason;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;
use tests::peer::link::{Echo, Ended, Ping};
use tests::peer::{Fault, Link, Session, Stage};
use tests::stream::Stream;
use tests::{Lab, Outcome, Running, Stats, ccase, net, plain_only, rounds};

/// Bytes of each message, at most: Proposal, Accept, Confirm, ConfirmAck.
const LENGTHS: [usize; 4] = [220, 130, 130, 32];

fn server(lab: &Lab) -> (Running, u16) {
    let port = net::free_port();
    let program = ccase::compile("talk");
    let server = lab.eager(&program).words(&format!("threads {port}"));
    (server.spawn().listening(port), port)
}

/// Sends a stream over TCP and compares the echo.
fn echoes(link: &mut Link, seed: u64) {
    let (mut out, mut back) = (vec![0; 40_000], vec![0; 40_000]);
    Stream::new(seed).fill(&mut out);
    for (out, back) in out.chunks(7000).zip(back.chunks_mut(7000)) {
        link.send_tcp(out).expect("a connection that goes on");
        link.recv_tcp(back).expect("a connection that goes on");
    }
    assert!(out == back, "the stream differs");
}

/// What still comes until the end, and whether it is a reset.
fn rest(tcp: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    let reset = tcp.read_to_end(&mut all).is_err();
    (all, reset)
}

/// One connection to a server under the shim.
fn as_client(session: &mut Session, port: u16, stage: Stage, fault: &Fault) -> (Link, Ended) {
    let tcp = TcpStream::connect(("127.0.0.1", port)).expect("a server");
    let mut link = Link::open(session, tcp, Role::Client).expect("a pair");
    let ended = link.handshake(&mut Ping::default(), stage, fault);
    (link, ended)
}

/// One connection from a client under the shim, which checks the echo of all that it sends.
fn as_server(lab: &Lab, session: &mut Session, stage: Stage, fault: &Fault) -> (Outcome, Ended) {
    let (outcome, ended, _) = as_server_who_sent(lab, session, stage, fault);
    (outcome, ended)
}

/// The same; and the last message that was sent.
fn as_server_who_sent(
    lab: &Lab,
    session: &mut Session,
    stage: Stage,
    fault: &Fault,
) -> (Outcome, Ended, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let program = ccase::compile("talk");
    let client = lab.eager(&program).words(&format!("ask {port} 60 0"));
    let client = client.limit(Duration::from_secs(20)).spawn();
    let (tcp, _) = listener.accept().expect("a client");
    let mut link = match Link::open(session, tcp, Role::Server) {
        Ok(link) => link,
        Err((code, _)) => panic!(
            "no pair: {}; {stage:?} {fault:?}: {}",
            reason::name(code),
            client.finish()
        ),
    };
    let mut echo = Echo::default();
    let ended = link.changed(&mut echo, stage, fault);
    let sent = link.last_sent().to_vec();
    match ended {
        Ended::Established => link.serve_rings(),
        Ended::Declined(_) | Ended::Faulty => while link.turn(&mut echo) {},
        Ended::Closed => {}
    }
    drop(link);
    (client.finish(), ended, sent)
}

fn went_well(outcome: &Outcome) -> bool {
    outcome.success() && outcome.stdout.ends_with("\nend\n")
}

/// It noticed that its connection was cut, and nothing else.
fn was_cut(outcome: &Outcome) -> bool {
    !outcome.timed_out && outcome.code() == Some(99)
}

fn gid_half(m: &mut AcceptConfirm) {
    m.gid.gid ^= 1;
}
fn gid_other_half(m: &mut AcceptConfirm) {
    m.gid.ext ^= 1 << 63;
}
fn gid_halves_equal(m: &mut AcceptConfirm) {
    m.gid.ext = m.gid.gid;
}
fn gid_halves_swapped(m: &mut AcceptConfirm) {
    (m.gid.gid, m.gid.ext) = (m.gid.ext, m.gid.gid);
}
fn token_unknown(m: &mut AcceptConfirm) {
    m.token = DmbToken(m.token.0 ^ 0x5555);
}
fn token_zero(m: &mut AcceptConfirm) {
    m.token = DmbToken(0);
}
fn index_of_another(m: &mut AcceptConfirm) {
    m.index = m.index.wrapping_add(1);
}
fn size<const CODE: u8>(m: &mut AcceptConfirm) {
    m.size_code = CODE;
}
fn size_of_another(m: &mut AcceptConfirm) {
    m.size_code ^= 1;
}
fn chid_of_another(m: &mut AcceptConfirm) {
    if let Mode::V2 { chid, .. } = &mut m.mode {
        *chid = 0xfffe;
    }
}
fn eid_of_another(m: &mut AcceptConfirm) {
    if let Mode::V2 { eid, .. } = &mut m.mode {
        eid[0] ^= 1;
    }
}

fn release_of_another(m: &mut AcceptConfirm) {
    let (Mode::V2 { first_contact, .. }, later) = (&mut m.mode, clc::RELEASE + 1) else {
        return;
    };
    if let Some(introduction) = first_contact {
        introduction.release = later;
    }
}

/// What names another buffer, device, release or network, and the reason that must be given.
type Forgery = (fn(&mut AcceptConfirm), u32);
const FORGERIES: [Forgery; 20] = [
    (gid_half, reason::MEM),
    (gid_other_half, reason::MEM),
    (gid_halves_equal, reason::MEM),
    (gid_halves_swapped, reason::MEM),
    (token_unknown, reason::MEM),
    (token_zero, reason::MEM),
    (index_of_another, reason::MEM),
    (size_of_another, reason::MEM),
    // Which nobody sends.
    (size::<7>, reason::MEM),
    (size::<8>, reason::MEM),
    (size::<9>, reason::MEM),
    (size::<10>, reason::MEM),
    (size::<11>, reason::MEM),
    (size::<12>, reason::MEM),
    (size::<13>, reason::MEM),
    (size::<14>, reason::MEM),
    (size::<15>, reason::MEM),
    (release_of_another, reason::RELEASEERR),
    (chid_of_another, reason::PROTOCOL),
    (eid_of_another, reason::PROTOCOL),
];

/// Faults after which both ends go on over TCP.
fn harmless() -> Vec<Fault> {
    vec![
        Fault::Refuse,
        Fault::Unexpected,
        Fault::Withhold,
        Fault::Garbage(b"no message at all, only bytes of a program".to_vec()),
        Fault::Garbage(vec![0; 8]),
    ]
}

/// Faults after which the stream has ended.
fn deadly(stage: Stage) -> Vec<Fault> {
    let len = LENGTHS[stage as usize];
    let mut all: Vec<_> = [0, 1, 4, 7, 8, 9, len / 2, 31].map(Fault::Cut).into();
    all.push(Fault::Vanish);
    all
}

#[test]
fn faults_of_a_client() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let (mut server, port) = server(&lab);
    let mut session = Session::join(&lab.socket());
    for stage in Stage::OF_CLIENT {
        for fault in harmless() {
            let (mut link, ended) = as_client(&mut session, port, stage, &fault);
            let known = matches!(ended, Ended::Faulty | Ended::Declined(_));
            assert!(known, "{stage:?} {fault:?}: {ended:?}");
            if let Fault::Garbage(garbage) = &fault {
                let mut back = vec![0; garbage.len()];
                link.recv_tcp(&mut back).expect("an echo");
                assert_eq!(&back, garbage, "{stage:?}");
            }
            echoes(&mut link, 3);
        }
        for fault in deadly(stage) {
            let (mut link, _) = as_client(&mut session, port, stage, &fault);
            let (bytes, _) = rest(&mut link.tcp);
            assert!(
                bytes.is_empty(),
                "{stage:?} {fault:?}: {bytes:x?} came back"
            );
        }
        let slow = Fault::Delay(Duration::from_millis(60));
        let (mut link, ended) = as_client(&mut session, port, stage, &slow);
        assert_eq!(ended, Ended::Established);
        link.exchange_on_rings(100_000);
    }
    for (forge, code) in FORGERIES {
        let fault = Fault::Forge(forge);
        // Both ends introduce themselves again.
        let mut session = Session::join(&lab.socket());
        let (mut link, ended) = as_client(&mut session, port, Stage::Confirm, &fault);
        assert_eq!(ended, Ended::Declined(code));
        echoes(&mut link, 4);
    }
    assert!(server.alive(), "{}", server.stop());
    server.stop();
    drop(session);
    lab.assert_clean();
}

#[test]
fn faults_of_a_server() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let mut session = Session::join(&lab.socket());
    for stage in Stage::OF_SERVER {
        for fault in [
            Fault::Refuse,
            Fault::Unexpected,
            Fault::Withhold,
            Fault::Echo,
        ] {
            let (outcome, ended) = as_server(&lab, &mut session, stage, &fault);
            let known = matches!(ended, Ended::Faulty | Ended::Declined(_));
            assert!(known, "{stage:?} {fault:?}: {ended:?}");
            assert!(went_well(&outcome), "{stage:?} {fault:?}: {outcome}");
        }
        for fault in deadly(stage) {
            let (outcome, _) = as_server(&lab, &mut session, stage, &fault);
            assert!(was_cut(&outcome), "{stage:?} {fault:?}: {outcome}");
        }
        let slow = Fault::Delay(Duration::from_millis(60));
        let (outcome, ended) = as_server(&lab, &mut session, stage, &slow);
        assert_eq!(ended, Ended::Established);
        assert!(went_well(&outcome), "{stage:?}: {outcome}");
    }
    for (forge, code) in FORGERIES {
        let fault = Fault::Forge(forge);
        let (outcome, ended) = as_server(&lab, &mut session, Stage::Accept, &fault);
        assert_eq!(ended, Ended::Declined(code));
        assert!(went_well(&outcome), "{outcome}");
    }
    drop(session);
    lab.assert_clean();
}

/// Bytes of a message that come changed: by default a part of them, another for each stage.
fn changes(stage: Stage) -> impl Iterator<Item = (usize, Fault)> {
    let every = rounds(5, 1);
    let places = (0..LENGTHS[stage as usize]).skip(stage as usize % every);
    let values = |at| [0, 0x7f, 0xff].map(|value| (at, Fault::Corrupt(at, value)));
    places.step_by(every).flat_map(values)
}

/// Each byte of each message of a client, changed. Whatever comes of it, the program gets the bytes
/// that were sent for it and no others, or a reset.
#[test]
fn corrupted_bytes() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let (mut server, port) = server(&lab);
    let mut session = Session::join(&lab.socket());
    let mut ends = std::collections::BTreeMap::<String, usize>::new();
    for stage in Stage::OF_CLIENT {
        for (at, fault) in changes(stage) {
            let tcp = TcpStream::connect(("127.0.0.1", port)).expect("a server");
            let mut link = Link::open(&mut session, tcp, Role::Client).expect("a pair");
            // So that a message which claims to be longer than it is finds its end.
            let ended = link.corrupted(stage, &fault);
            match &ended {
                Ended::Established => link.exchange_on_rings(36_000),
                Ended::Declined(_) | Ended::Faulty => echoes(&mut link, at as u64),
                Ended::Closed => {}
            }
            let name = format!("{ended:?}");
            *ends.entry(name).or_default() += 1;
        }
    }
    println!("{ends:?}");
    assert!(server.alive(), "{}", server.stop());
    // A good one, to close with.
    let (mut link, ended) = as_client(&mut session, port, Stage::Proposal, &Fault::None);
    assert_eq!(ended, Ended::Established);
    link.exchange_on_rings(100_000);
    link.tcp.flush().expect("a socket");
    drop(link);
    server.stop();
    drop(session);
    lab.assert_clean();
}

/// The same of a server. What is no message any more is the program's, which says that it differs.
#[test]
fn corrupted_bytes_of_a_server() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let mut session = Session::join(&lab.socket());
    let (mut tried, mut ends) = (0, std::collections::BTreeMap::<String, usize>::new());
    for stage in Stage::OF_SERVER {
        for (_, fault) in changes(stage) {
            let (outcome, ended, sent) = as_server_who_sent(&lab, &mut session, stage, &fault);
            let head = sent.first_chunk().expect("a header");
            let differs = outcome.stdout == "content differs\n";
            let well = match &ended {
                Ended::Established | Ended::Declined(_) => went_well(&outcome),
                Ended::Faulty | Ended::Closed if clc::message_len(head).is_err() => differs,
                Ended::Faulty | Ended::Closed => was_cut(&outcome),
            };
            assert!(well, "{stage:?} {fault:?} {ended:?}: {outcome}");
            tried += 1;
            let how = if differs { "the program's" } else { "" };
            *ends.entry(format!("{ended:?} {how}")).or_default() += 1;
        }
    }
    println!("{tried} bytes changed: {ends:?}");
    drop(session);
    lab.assert_clean();
}

/// A small message is read from beside the cursor, and put there: what lies in the ring for it is something else here.
#[test]
fn small_messages_lie_beside_the_cursor() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let (server, port) = server(&lab);
    let mut session = Session::join(&lab.socket());
    let (mut link, ended) = as_client(&mut session, port, Stage::Proposal, &Fault::None);
    assert_eq!(ended, Ended::Established);
    link.exchange_on_rings(1000);
    for n in [1, 4, 14, 35, 36] {
        let message: Vec<u8> = (1..=n).collect();
        assert_eq!(link.echo_beside(&message), message);
        // And a long one, which is not taken for the last small one.
        link.exchange_on_rings(40);
    }
    drop(link);
    server.stop();
    drop(session);
    lab.assert_clean();
}

/// A sender whose reader seemed to stand still has given TCP what the reader had taken from the ring, or took just then: it comes
/// once. So does what TCP had no room for, and what a sender left on the ring that died amid that.
#[test]
fn what_came_by_the_ring_does_not_come_again() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let (server, port) = server(&lab);
    let mut session = Session::join(&lab.socket());
    let (mut link, ended) = as_client(&mut session, port, Stage::Proposal, &Fault::None);
    assert_eq!(ended, Ended::Established);
    let mut random = Stream::new(7);
    let echoed = |link: &mut Link, bytes: &[u8]| {
        let mut back = vec![0; bytes.len()];
        link.recv_all(&mut back);
        assert!(back == bytes, "the echo differs");
    };
    let mut bytes = |n: u64| {
        let mut bytes = vec![0; n as usize * 8];
        random.fill(&mut bytes);
        bytes
    };
    for round in 0..24 {
        link.exchange_on_rings(1000);
        let [taken, rest, more] = [
            bytes(200 * (round % 3)),
            bytes(500 * (round % 4)),
            bytes(300),
        ];
        link.send_ring(&taken);
        echoed(&mut link, &taken);
        let part = taken.len() * (round as usize % 2) + rest.len() / 2;
        let most = if round < 12 { usize::MAX } else { part };
        let twice = link.carry_twice(&rest, &taken, most);
        if round % 2 == 0 {
            // Before that is over, the ring is read.
            echoed(&mut link, &rest);
        }
        link.carried(twice);
        link.send_tcp(&more).expect("a connection that goes on");
        if round % 2 == 1 {
            echoed(&mut link, &rest);
        }
        echoed(&mut link, &more);
    }
    link.exchange_on_rings(1000);
    let [taken, rest] = [bytes(100), bytes(500)];
    link.send_ring(&taken);
    echoed(&mut link, &taken);
    let _ = link.carry_twice(&rest, &taken, 1000);
    link.tcp.shutdown(Shutdown::Write).expect("a socket");
    echoed(&mut link, &rest);
    let mut byte = [0];
    assert_eq!(link.tcp.read(&mut byte).expect("an end in order"), 0);
    drop(link);
    assert!(lab.settle().0.share_smc(&Stats::zero()) > 0.0);
    server.stop();
    drop(session);
    lab.assert_clean();
}
