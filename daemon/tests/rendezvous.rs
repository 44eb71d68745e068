//! From Hello to Paired and to the end, as clients see it.

mod support;

use daemon::report::{Device, LinkGroup, Stats};
use nix::sys::socket::{MsgFlags, recv, send};
use protocol::ctl::{Claim, DmbPlace, Paired, Passed, PeerGone, Refused, Release, Verb, Withdraw};
use protocol::ids::{DEFAULT_UEID, Role};
use protocol::reason;
use protocol::shm::{self, wait};
use std::fs::File;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::Instant;
use support::{Client, Daemon, Files, Tcp, expect};

/// Claims both ends and takes both answers, client's first.
fn pair(tcp: &Tcp, client: &Client, server: &Client) -> [(Paired, Vec<OwnedFd>); 2] {
    client.send(&tcp.claim(Role::Client, 1));
    server.send(&tcp.claim(Role::Server, 2));
    [client, server].map(|end| {
        let got = end.receive();
        (expect(&got), got.fds)
    })
}

fn head(arena: &File, at: u64) -> Vec<u8> {
    let mut got = vec![0; 4096];
    arena.read_exact_at(&mut got, at).unwrap();
    got
}

#[test]
fn welcome_tells_the_device() {
    let daemon = Daemon::start(|_| {});
    let client = Client::new(&daemon);
    let w = client.welcome;
    assert_ne!(w.gid.as_u128(), 0);
    assert_eq!((w.seid_on, w.ueid_count, w.ueids[0]), (0, 1, DEFAULT_UEID));
    assert!(w.seid.starts_with(b"IBM-DEF-ISMSEID"));
    assert!(
        client.mailbox.write_at(b"x", 0).is_err(),
        "the mailbox is writable"
    );
    let device: Device = daemon.ask(Verb::Device);
    assert_eq!(device.gid.replace('-', ""), w.gid.to_string());
    assert_eq!(device.chid, "0xffff");
}

#[test]
fn two_claims_become_a_pair() {
    let daemon = Daemon::start(|_| {});
    let (client, server) = (Client::new(&daemon), Client::new(&daemon));
    let tcp = Tcp::new();
    client.send(&tcp.claim(Role::Client, 7));
    daemon.wait_for::<Stats>(Verb::Stats, |s| s.claims_waiting == 1);
    assert!(client.quiet(), "an answer while the claim waits");
    let mail = client.mail();
    server.send(&tcp.claim(Role::Server, 8));
    let (mut at_client, mut at_server) = (client.receive(), server.receive());
    let (c, s): (Paired, Paired) = (expect(&at_client), expect(&at_server));
    assert_ne!(client.mail(), mail, "the mailbox does not count");

    assert_eq!((c.claim, c.role, c.fresh), (7, Role::Client, 1));
    assert_eq!((s.claim, s.role, s.fresh), (8, Role::Server, 1));
    assert_eq!((c.pair, c.lgr, c.slot), (s.pair, 0x100, s.slot));
    assert_eq!((c.own, c.peer), (s.peer, s.own));
    assert_ne!(c.own.token, c.peer.token);
    assert_eq!((c.own.len, c.own.offset % 4096), (64 << 10, 0));
    assert_eq!(&c.program[..5], b"test\0");

    // One arena, and a channel between the two.
    assert_eq!((at_client.fds.len(), at_server.fds.len()), (3, 3));
    let wait_page = File::from(at_client.fds.remove(2));
    assert_eq!(wait_page.metadata().unwrap().len(), wait::PAGE_LEN as u64);
    assert!(
        wait_page.write_at(b"x", 0).is_err(),
        "the peer's wait page is writable"
    );
    let (a, b) = (at_client.fds.remove(1), at_server.fds.remove(1));
    send(a.as_raw_fd(), b"hello", MsgFlags::MSG_DONTWAIT).unwrap();
    let mut got = [0; 5];
    recv(b.as_raw_fd(), &mut got, MsgFlags::MSG_DONTWAIT).unwrap();
    assert_eq!(&got, b"hello");
    let [arena_c, arena_s] = [at_client.fds.remove(0), at_server.fds.remove(0)].map(File::from);
    arena_c.write_all_at(b"x", c.own.offset).unwrap();
    assert_eq!(head(&arena_s, c.own.offset)[0], b'x');
    assert_eq!(arena_c.metadata().unwrap().len(), c.arena_len);
    assert!(arena_c.set_len(0).is_err());
}

#[test]
fn memory_is_reused_only_when_both_ends_let_go() {
    let daemon = Daemon::start(|_| {});
    let (client, server) = (Client::new(&daemon), Client::new(&daemon));
    let tcp = Tcp::new();
    let [(first, fds), _] = pair(&tcp, &client, &server);
    let arena = File::from(fds.into_iter().next().unwrap());
    for at in [first.slot, first.own.offset, first.peer.offset] {
        arena.write_all_at(&[7; 64], at).unwrap();
    }

    client.send(&Release { pair: first.pair });
    client.send(&Release { pair: first.pair });
    let second_tcp = Tcp::new();
    let [(second, fds), _] = pair(&second_tcp, &client, &server);
    assert_eq!((second.fresh, second.lgr, fds.len()), (0, first.lgr, 0));
    let places = |p: &Paired| [p.own.offset, p.peer.offset];
    assert!(
        places(&second)
            .iter()
            .all(|at| !places(&first).contains(at))
    );
    assert_ne!(second.slot, first.slot);

    server.send(&Release { pair: first.pair });
    daemon.wait_for::<Vec<LinkGroup>>(Verb::LinkGroups, |g| g[0].dmbs_pooled == 2);
    let third_tcp = Tcp::new();
    let [(third, _), _] = pair(&third_tcp, &client, &server);
    let sorted = |p: &Paired| {
        let mut all: Vec<DmbPlace> = vec![p.own, p.peer];
        all.sort_by_key(|d| d.offset);
        all
    };
    assert_eq!(
        sorted(&third),
        sorted(&first),
        "same places with the same tokens"
    );
    assert_eq!(third.slot, first.slot);
    for place in sorted(&third) {
        assert!(head(&arena, place.offset).iter().all(|b| *b == 0));
    }
    assert!(
        head(&arena, third.slot)[..shm::SLOT_LEN]
            .iter()
            .all(|b| *b == 0)
    );
}

#[test]
fn one_process_may_hold_both_ends() {
    let daemon = Daemon::start(|_| {});
    let client = Client::new(&daemon);
    let tcp = Tcp::new();
    let [(a, a_fds), (b, b_fds)] = pair(&tcp, &client, &client);
    assert_ne!(a.role, b.role);
    assert_eq!((a.pair, a.fresh, b.fresh), (b.pair, 1, 1));
    assert_eq!((a_fds.len(), b_fds.len()), (3, 3));
    client.send(&Release { pair: a.pair });
    client.send(&Release { pair: a.pair });
    daemon.wait_for::<Vec<LinkGroup>>(Verb::LinkGroups, |g| g[0].dmbs_pooled == 2);
}

#[test]
fn claims_that_the_kernel_does_not_confirm_are_refused() {
    let daemon = Daemon::start(|_| {});
    let client = Client::new(&daemon);
    let tcp = Tcp::new();
    let good = tcp.claim(Role::Client, 1);
    let mut cases = Vec::new();
    for (number, change) in [
        (|c| c.cookie += 1) as fn(&mut protocol::ctl::Claim),
        |c| c.netns += 1,
        |c| c.peer.port ^= 1,
        |c| std::mem::swap(&mut c.local, &mut c.peer),
    ]
    .into_iter()
    .enumerate()
    {
        let mut bad = good;
        bad.claim = number as u64;
        change(&mut bad);
        let unknown = bad.netns != good.netns;
        let why = if unknown {
            reason::NETNS
        } else {
            reason::NOT_VERIFIED
        };
        cases.push((bad, why));
    }
    let mut own_peer = good;
    own_peer.peer = own_peer.local;
    cases.push((own_peer, reason::SELF_CONNECT));
    for (claim, reason) in cases {
        client.send(&claim);
        let refused: Refused = client.get();
        assert_eq!(
            refused,
            Refused {
                claim: claim.claim,
                reason
            }
        );
    }
}

#[test]
fn a_closing_connection_is_not_paired() {
    let daemon = Daemon::start(|_| {});
    let client = Client::new(&daemon);
    let tcp = Tcp::new();
    tcp.server.shutdown(Shutdown::Write).unwrap();
    std::io::Read::read(&mut &tcp.client, &mut [0; 1]).unwrap();
    client.send(&tcp.claim(Role::Client, 1));
    let refused: Refused = client.get();
    assert_eq!(refused.reason, reason::PEER_CLOSING);
}

#[test]
fn a_partner_that_closed_meanwhile_is_refused_at_pair_time() {
    let daemon = Daemon::start(|_| {});
    let (client, server) = (Client::new(&daemon), Client::new(&daemon));
    let tcp = Tcp::new();
    client.send(&tcp.claim(Role::Client, 1));
    daemon.wait_for::<Stats>(Verb::Stats, |s| s.claims_waiting == 1);
    let claim = tcp.claim(Role::Server, 2);
    let mut wrong = tcp.claim(Role::Server, 2);
    wrong.cookie = tcp.claim(Role::Client, 0).cookie;
    server.send(&wrong);
    assert_eq!(server.get::<Refused>().reason, reason::NOT_VERIFIED);
    server.send(&claim);
    let _: Paired = client.get();
    let _: Paired = server.get();

    let tcp = Tcp::new();
    client.send(&tcp.claim(Role::Client, 3));
    daemon.wait_for::<Stats>(Verb::Stats, |s| s.claims_waiting == 1);
    // The client end goes to FIN_WAIT2, the server end to CLOSE_WAIT.
    let claim = tcp.claim(Role::Server, 4);
    tcp.client.shutdown(Shutdown::Write).unwrap();
    std::io::Read::read(&mut &tcp.server, &mut [0; 1]).unwrap();
    server.send(&claim);
    assert_eq!(server.get::<Refused>().reason, reason::PEER_CLOSING);
    client.send(&Withdraw { claim: 3, last: 1 });
    daemon.wait_for::<Stats>(Verb::Stats, |s| s.claims_waiting == 0);
}

/// Paired in the moment in which one end wants its claim back.
#[test]
fn a_claim_is_taken_back_while_it_is_paired() {
    let daemon = Daemon::start(|_| {});
    let (client, server) = (Client::new(&daemon), Client::new(&daemon));
    let tcp = Tcp::new();
    let back = |claim, last| client.send(&Withdraw { claim, last });

    // Nobody else has claimed it.
    client.send(&tcp.claim(Role::Client, 1));
    back(1, 0);
    let refused: Refused = client.get();
    assert_eq!((refused.claim, refused.reason), (1, reason::NO_PEER_YET));
    daemon.wait_for::<Stats>(Verb::Stats, |s| s.claims_waiting == 0);

    client.send(&tcp.claim(Role::Client, 2));
    daemon.wait_for::<Stats>(Verb::Stats, |s| s.claims_waiting == 1);
    server.send(&tcp.claim(Role::Server, 7));
    let theirs: Paired = server.get();
    // Too late: its answer is the pair.
    back(2, 0);
    assert_eq!(client.get::<Paired>().pair, theirs.pair);
    assert!(client.quiet() && server.quiet());
    // It does not want that either: the other end is told, and has memory of its own to give back.
    back(2, 1);
    let refused: Refused = server.get();
    assert_eq!((refused.claim, refused.reason), (7, reason::NO_PEER_YET));
    assert_eq!(daemon.ask::<Device>(Verb::Device).pairs, 1);
    back(2, 1);
    client.send(&Release { pair: theirs.pair });
    server.send(&Release { pair: theirs.pair });
    daemon.wait_for::<Device>(Verb::Device, |d| d.pairs == 0);
    assert!(client.quiet() && server.quiet());
}

#[test]
fn claims_are_bounded_and_the_newest_of_an_end_counts() {
    let daemon = Daemon::start(|c| c.max_claims_per_client = 2);
    let (parent, child, other) = (
        Client::new(&daemon),
        Client::new(&daemon),
        Client::new(&daemon),
    );
    let tcps = [Tcp::new(), Tcp::new(), Tcp::new()];
    for (i, tcp) in tcps.iter().enumerate() {
        parent.send(&tcp.claim(Role::Server, i as u64));
    }
    let refused: Refused = parent.get();
    assert_eq!((refused.claim, refused.reason), (2, reason::DAEMON_BUSY));

    child.send(&tcps[0].claim(Role::Server, 9));
    let refused: Refused = parent.get();
    assert_eq!((refused.claim, refused.reason), (0, reason::SHARED));
    other.send(&tcps[0].claim(Role::Client, 1));
    assert_eq!(child.get::<Paired>().claim, 9);
    assert!(parent.quiet());
}

#[test]
fn limits_make_dmbs_smaller_and_then_refuse() {
    let daemon = Daemon::start(|c| c.max_bytes_per_uid = 100 << 10);
    let (client, server) = (Client::new(&daemon), Client::new(&daemon));
    let mut lens = Vec::new();
    let tcps: Vec<Tcp> = (0..4).map(|_| Tcp::new()).collect();
    for tcp in &tcps {
        client.send(&tcp.claim(Role::Client, 1));
        server.send(&tcp.claim(Role::Server, 2));
        let got = client.receive();
        if protocol::ctl::header(got.bytes()).unwrap().kind == 5 {
            lens.push(expect::<Paired>(&got).own.len >> 10);
            server.receive();
        } else {
            assert_eq!(expect::<Refused>(&got).reason, reason::MEM);
            assert_eq!(server.get::<Refused>().reason, reason::MEM);
            lens.push(0);
        }
    }
    assert_eq!(lens, [32, 16, 0, 0]);

    let daemon = Daemon::start(|c| c.max_dmbs = 3);
    let (client, server) = (Client::new(&daemon), Client::new(&daemon));
    pair(&tcps[0], &client, &server);
    client.send(&tcps[1].claim(Role::Client, 1));
    server.send(&tcps[1].claim(Role::Server, 2));
    assert_eq!(client.get::<Refused>().reason, reason::MAX_DMB);
    assert_eq!(server.get::<Refused>().reason, reason::MAX_DMB);
}

#[test]
fn a_full_arena_makes_another_link_group() {
    let daemon = Daemon::start(|c| c.arena = 4 << 20);
    let (client, server) = (Client::new(&daemon), Client::new(&daemon));
    let tcps: Vec<Tcp> = (0..3).map(|_| Tcp::new()).collect();
    let mut lgrs = Vec::new();
    for tcp in &tcps {
        let mut claims = [tcp.claim(Role::Client, 1), tcp.claim(Role::Server, 2)];
        claims.iter_mut().for_each(|c| c.rmb_size = 1 << 20);
        client.send(&claims[0]);
        server.send(&claims[1]);
        let (c, s): (Paired, Paired) = (client.get(), server.get());
        assert_eq!((c.lgr, c.own.len), (s.lgr, 1 << 20));
        lgrs.push((c.lgr, c.fresh));
    }
    assert_eq!(lgrs, [(0x100, 1), (0x200, 1), (0x300, 1)]);
}

#[test]
fn death_is_told_and_leaves_nothing() {
    let daemon = Daemon::start(|_| {});
    let client = Client::new(&daemon);
    let (tcp, waiting) = (Tcp::new(), Tcp::new());
    let server = Client::new(&daemon);
    let [(paired, _), _] = pair(&tcp, &client, &server);
    server.send(&waiting.claim(Role::Server, 5));
    daemon.wait_for::<Stats>(Verb::Stats, |s| s.claims_waiting == 1);
    drop(server);
    assert_eq!(client.get::<PeerGone>().pair, paired.pair);
    daemon.wait_for::<Stats>(Verb::Stats, |s| s.claims_waiting == 0 && s.clients == 1);
    let groups: Vec<LinkGroup> = daemon.ask(Verb::LinkGroups);
    assert!(groups[0].dying && groups[0].pairs == 1);
    client.send(&Release { pair: paired.pair });
    let empty = daemon.wait_for::<Device>(Verb::Device, |d| d.link_groups == 0);
    assert_eq!((empty.dmbs, empty.dmb_bytes, empty.pairs), (0, 0, 0));
}

#[test]
fn many_deaths_leak_no_descriptor() {
    let daemon = Daemon::start(|_| {});
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut before = 0;
    for round in 0..60 {
        let (client, server) = (Client::new(&daemon), Client::new(&daemon));
        pair(&Tcp::new(), &client, &server);
        pair(&Tcp::new(), &client, &client);
        drop((client, server));
        daemon.wait_for::<Device>(Verb::Device, |d| d.link_groups == 0 && d.dmbs == 0);
        if round == 9 {
            before = open();
        }
    }
    // Other tests of this process come and go; a leak here would be hundreds.
    assert!(open() < before + 100, "{before} became {}", open());
}

#[test]
fn a_pair_takes_microseconds() {
    let daemon = Daemon::start(|_| {});
    let (client, server) = (
        Client::join(&daemon, &Files::new(), "client"),
        Client::join(&daemon, &Files::new(), "server"),
    );
    let mut took = Vec::new();
    for _ in 0..500 {
        let tcp = Tcp::new();
        let (a, b) = (tcp.claim(Role::Client, 1), tcp.claim(Role::Server, 2));
        let start = Instant::now();
        client.send(&a);
        server.send(&b);
        let paired: Paired = client.get();
        let _: Paired = server.get();
        took.push(start.elapsed());
        client.send(&Release { pair: paired.pair });
        server.send(&Release { pair: paired.pair });
    }
    took.sort();
    println!(
        "both claims to both answers: median {:?}, worst {:?}",
        took[250], took[499]
    );
}

/// A socket that came over a Unix socket is claimed when those who had it have let it go.
#[test]
fn received_sockets_wait_for_their_senders() {
    let daemon = Daemon::start(|_| {});
    let (sender, receiver, peer) = (
        Client::new(&daemon),
        Client::new(&daemon),
        Client::new(&daemon),
    );
    let tcp = Tcp::new();
    let received = |claim| Claim {
        received: 1,
        ..tcp.claim(Role::Server, claim)
    };
    let cookie = received(1).cookie;
    // An answer to the sender: what it said before is known.
    let known = || {
        let nobodys = Claim {
            cookie: 1,
            ..tcp.claim(Role::Server, 9)
        };
        sender.send(&nobodys);
        sender.get::<Refused>();
    };
    receiver.send(&received(1));
    assert_eq!(receiver.get::<Refused>().reason, reason::ESCAPED);
    sender.send(&Passed { cookie, free: 1 });
    known();
    peer.send(&tcp.claim(Role::Client, 2));
    receiver.send(&received(3));
    receiver.get::<Paired>();
    peer.get::<Paired>();
    // Somebody keeps it after all.
    sender.send(&Passed { cookie, free: 0 });
    sender.send(&Passed { cookie, free: 1 });
    known();
    receiver.send(&received(4));
    assert_eq!(receiver.get::<Refused>().reason, reason::ESCAPED);
}
