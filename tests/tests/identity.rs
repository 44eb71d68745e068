//! The false match of the loopback device: two devices that take each other for one and the same.
//! Coincidences (1) to (3) of the specification, each one and all together, built with a daemon for
//! each program that says what the test wants. All end on TCP with every byte in place: a device
//! that is another one has other gates, and no message is sent before the gate of its receiver is
//! seen to be open.

use protocol::ids::Gid;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tests::capture::Capture;
use tests::peer::forger::{self, Forgery};
use tests::{Lab, Policy, ccase, net, plain_only};

const GID: Gid = Gid {
    gid: 0x1111_2222_3333_4444,
    ext: 0x5555_6666_7777_8888,
};
const HALVES_EQUAL: Gid = Gid {
    gid: 0x1111_2222_3333_4444,
    ext: 0x1111_2222_3333_4444,
};
const OTHER_HALF: Gid = Gid { ext: 0x9999, ..GID };

/// What the two forgers say: GID, token of the own DMB, token of the peer's; server first.
fn cases() -> Vec<(&'static str, [Forgery; 2])> {
    let say = |gid, own, peer| Forgery { gid, own, peer };
    vec![
        ("(1): one GID", [say(GID, 1, 2), say(GID, 3, 4)]),
        (
            "(1) and (2): and the server's token",
            [say(GID, 1, 2), say(GID, 3, 1)],
        ),
        (
            "(1) and (3): and the client's token",
            [say(GID, 1, 3), say(GID, 3, 4)],
        ),
        ("(1), (2) and (3)", [say(GID, 1, 2), say(GID, 2, 1)]),
        (
            "equal tokens at both ends",
            [say(GID, 7, 7), say(GID, 7, 7)],
        ),
        (
            "halves equal, all tokens right",
            [say(HALVES_EQUAL, 1, 2), say(HALVES_EQUAL, 2, 1)],
        ),
        ("(2) without (1)", [say(GID, 1, 2), say(OTHER_HALF, 3, 1)]),
        ("(3) without (1)", [say(GID, 1, 3), say(OTHER_HALF, 3, 4)]),
        (
            "(2) and (3) without (1)",
            [say(GID, 1, 2), say(OTHER_HALF, 2, 1)],
        ),
        ("nothing matches", [say(GID, 1, 2), say(OTHER_HALF, 3, 4)]),
    ]
}

#[test]
fn false_matches() {
    if plain_only() {
        return;
    }
    let program = ccase::compile("talk");
    for (name, forgeries) in cases() {
        let labs = [Lab::without_daemon(), Lab::without_daemon()];
        let pairs = [0, 1].map(|end| forger::start(&labs[end].socket(), forgeries[end]));
        let port = net::free_port();
        let wire = Capture::start(port);
        let run = |lab: &Lab, words: &str| {
            let run = lab.shim(&program).policy(Policy::Eager).words(words);
            run.limit(Duration::from_secs(20))
        };
        let server = run(&labs[0], &format!("serve {port} 1")).spawn();
        let server = server.listening(port);
        let said = run(&labs[1], &format!("ask {port} 400 0")).finish();
        assert!(
            said.success() && said.stdout.ends_with("\nend\n"),
            "{name}: {said}"
        );
        assert_eq!(server.finish().ok(), "end 0\n", "{name}");
        let sent: usize = said.stdout.split(' ').next().unwrap().parse().unwrap();
        for (flow, bytes) in wire.map(Capture::finish).unwrap_or_default() {
            assert_eq!(bytes.len(), sent, "{name}: {flow:?} carried something else");
        }
        let paired = pairs.iter().all(|made| made.load(Relaxed) > 0);
        assert!(paired, "{name}: an end has not taken the other for a match");
    }
    println!("{} false matches: 0 lost, 0 hung", cases().len());
}
