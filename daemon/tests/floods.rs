//! More than anybody needs: sessions, claims and half-done handshakes by the thousand. What the daemon
//! keeps for them is bounded and goes away with them, and somebody else is served meanwhile.

mod support;

use daemon::packet::{Packet, receive};
use daemon::report::{Info, Stats};
use nix::sys::socket::MsgFlags;
use protocol::ctl::{Claim, Paired, Refused, Verb, Withdraw};
use protocol::ids::Role;
use protocol::reason;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Instant;
use support::{Client, Daemon, Files, Tcp, raw_socket};

/// Resident memory of this process, the daemon's thread included.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Two clients that want to be paired, now.
fn somebody_is_served(daemon: &Daemon) {
    let (a, b, link) = (Client::new(daemon), Client::new(daemon), Tcp::new());
    a.send(&link.claim(Role::Client, 1));
    b.send(&link.claim(Role::Server, 2));
    let _: Paired = a.get();
    let _: Paired = b.get();
}

#[test]
fn sessions_that_come_and_go() {
    const SESSIONS: usize = 20_000;
    let daemon = Daemon::start(|_| {});
    drop(Client::new(&daemon));
    let (start, before) = (Instant::now(), resident());
    for i in 0..SESSIONS {
        drop(raw_socket(&daemon));
        if i % 20 == 0 {
            drop(Client::new(&daemon));
        }
        if i % 5000 == 0 {
            somebody_is_served(&daemon);
        }
    }
    let rate = SESSIONS as f64 / start.elapsed().as_secs_f64();
    daemon.wait_for::<Info>(Verb::Info, |i| i.sessions == 1 && i.clients == 0);
    somebody_is_served(&daemon);
    let more = resident().saturating_sub(before);
    println!("{SESSIONS} sessions, {rate:.0}/s, {more} bytes more");
    assert!(more < 16 << 20, "{more} bytes more");
}

/// 20,000 ends that are claimed while nobody claims the other, by clients who then withdraw, or die.
#[test]
fn claims_without_partners() {
    const ROUNDS: u64 = 40;
    const LINKS: usize = 500;
    let daemon = Daemon::start(|c| c.max_claims_per_second = 0);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let links: Vec<_> = (0..LINKS / 2)
        .map(|_| {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, _) = listener.accept().unwrap();
            Tcp { client, server }
        })
        .collect();
    let (start, before) = (Instant::now(), resident());
    for round in 0..ROUNDS {
        let client = Client::new(&daemon);
        let role = if round % 2 == 0 {
            Role::Client
        } else {
            Role::Server
        };
        for turn in 0..2 {
            for (number, link) in links.iter().enumerate() {
                let number = number as u64 + 1000 * turn;
                client.send(&link.claim(role, number));
                if round % 4 < 2 {
                    client.send(&Withdraw { claim: number });
                }
            }
        }
        // Read what it was told, or it would be dropped for not reading.
        while receive(client.socket.as_fd(), MsgFlags::MSG_DONTWAIT).is_ok() {}
        if round % 10 == 0 {
            somebody_is_served(&daemon);
        }
    }
    daemon.wait_for::<Stats>(Verb::Stats, |s| s.claims_waiting == 0 && s.clients == 0);
    let rate = (ROUNDS as f64 * LINKS as f64) / start.elapsed().as_secs_f64();
    let more = resident().saturating_sub(before);
    println!(
        "{} claims, {rate:.0}/s, {more} bytes more",
        ROUNDS * LINKS as u64
    );
    assert!(more < 16 << 20, "{more} bytes more");
}

/// A client may have only so many claims waiting; the next one is told why not.
#[test]
fn waiting_claims_are_limited() {
    let daemon = Daemon::start(|c| c.max_claims_per_client = 3);
    let client = Client::new(&daemon);
    let links: Vec<_> = (0..5).map(|_| Tcp::new()).collect();
    for (number, link) in links.iter().enumerate() {
        client.send(&link.claim(Role::Client, number as u64));
    }
    for claim in 3..5 {
        let reason = reason::DAEMON_BUSY;
        assert_eq!(client.get::<Refused>(), Refused { claim, reason });
    }
    somebody_is_served(&daemon);
}

/// Who does not read is dropped when its queue is full, and what was queued is gone with it.
#[test]
fn who_never_reads_costs_little() {
    let daemon = Daemon::start(|c| c.max_claims_per_second = 0);
    let before = resident();
    let wrong = Claim {
        cookie: 1,
        ..Tcp::new().claim(Role::Client, 0)
    };
    for _ in 0..10 {
        let deaf = Client::join(&daemon, &Files::new(), "deaf");
        let packet = Packet::new(&wrong, vec![]);
        while packet.send(deaf.socket.as_fd(), MsgFlags::empty()).is_ok() {}
    }
    daemon.wait_for::<Info>(Verb::Info, |i| i.clients == 0);
    somebody_is_served(&daemon);
    let more = resident().saturating_sub(before);
    assert!(more < 64 << 20, "{more} bytes more");
}
