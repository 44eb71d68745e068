//! More than anybody needs: sessions, claims and half-done handshakes by the thousand. What the daemon
//! keeps for them is bounded and goes away with them, and somebody else is served meanwhile.

mod support;

use daemon::packet::{Packet, receive};
use daemon::report::{Info, Stats};
use nix::sys::socket::MsgFlags;
use protocol::ctl::{Claim, Paired, Refused, Release, Verb, Withdraw};
use protocol::ids::Role;
use protocol::reason;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use support::{Client, Daemon, Files, Tcp, raw_socket};

/// Resident memory of this process, the daemon's thread included.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Two clients that want to be paired, now.
fn somebody_is_served(daemon: &Daemon) {
    pair_up(&Client::new(daemon), &Client::new(daemon));
}

fn pair_up(a: &Client, b: &Client) {
    let link = Tcp::new();
    a.send(&link.claim(Role::Client, 1));
    b.send(&link.claim(Role::Server, 2));
    let [one, other]: [Paired; 2] = [a.get(), b.get()];
    for (client, pair) in [(a, one.pair), (b, other.pair)] {
        client.send(&Release { pair });
    }
}

/// Does something bad while two others claim one connection after the other; how long those took
/// from the first claim to the pair.
fn meanwhile<T>(daemon: &Daemon, act: impl FnOnce() -> T) -> (T, String) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            let (a, b) = (Client::new(daemon), Client::new(daemon));
            let mut times = Vec::new();
            while times.is_empty() || !over.load(Ordering::Acquire) {
                let start = Instant::now();
                pair_up(&a, &b);
                times.push(start.elapsed());
            }
            times.sort_unstable();
            times
        });
        let done = act();
        over.store(true, Ordering::Release);
        let times = others.join().unwrap();
        let (count, at) = (times.len(), |part: usize| {
            times[(times.len() - 1) * part / 100]
        });
        let text = format!(
            "{count} claims of others meanwhile: median {:.1?}, 99 % {:.1?}, longest {:.1?}",
            at(50),
            at(99),
            at(100)
        );
        (done, text)
    })
}

/// Connections with both ends here, none of which has been used.
fn links(count: usize) -> Vec<Tcp> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let link = |_| {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        Tcp { client, server }
    };
    (0..count).map(link).collect()
}

#[test]
fn sessions_that_come_and_go() {
    const SESSIONS: usize = 100_000;
    let daemon = Daemon::start(|_| {});
    drop(Client::new(&daemon));
    let (start, before) = (Instant::now(), resident());
    let ((), others) = meanwhile(&daemon, || {
        for i in 0..SESSIONS {
            drop(raw_socket(&daemon));
            if i % 20 == 0 {
                drop(Client::new(&daemon));
            }
        }
    });
    let rate = SESSIONS as f64 / start.elapsed().as_secs_f64();
    daemon.wait_for::<Info>(Verb::Info, |i| i.sessions == 1 && i.clients == 0);
    somebody_is_served(&daemon);
    let more = resident().saturating_sub(before);
    println!("{SESSIONS} sessions, {rate:.0}/s, {more} bytes more; {others}");
    assert!(more < 16 << 20, "{more} bytes more");
}

/// 20,000 ends that are claimed while nobody claims the other, by clients who then withdraw, or die.
#[test]
fn claims_without_partners() {
    const ROUNDS: u64 = 40;
    const LINKS: usize = 500;
    let daemon = Daemon::start(|c| c.max_claims_per_second = 0);
    let links = links(LINKS / 2);
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
                    let withdrawn = Withdraw {
                        claim: number,
                        last: 1,
                    };
                    client.send(&withdrawn);
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

/// 20,000 connections that both ends claim, and leave at the start of their handshake: their memory
/// comes back when they die.
#[test]
fn half_done_handshakes() {
    const ROUNDS: usize = 50;
    const LINKS: usize = 400;
    let daemon = Daemon::start(|c| c.max_claims_per_second = 0);
    let links = links(LINKS);
    let (start, before) = (Instant::now(), resident());
    let ((), others) = meanwhile(&daemon, || {
        for _ in 0..ROUNDS {
            let (a, b) = (Client::new(&daemon), Client::new(&daemon));
            for (number, link) in links.iter().enumerate() {
                a.send(&link.claim(Role::Client, number as u64));
                b.send(&link.claim(Role::Server, number as u64));
            }
            for _ in 0..LINKS {
                let _: Paired = a.get();
                let _: Paired = b.get();
            }
        }
    });
    let rate = (ROUNDS * LINKS) as f64 / start.elapsed().as_secs_f64();
    daemon.wait_for::<Stats>(Verb::Stats, |s| s.dmbs == 0 && s.link_groups == 0);
    somebody_is_served(&daemon);
    let more = resident().saturating_sub(before);
    let count = ROUNDS * LINKS;
    println!("{count} handshakes, {rate:.0}/s, {more} bytes more; {others}");
    assert!(more < 32 << 20, "{more} bytes more");
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
    let (sent, others) = meanwhile(&daemon, || {
        let mut sent = 0;
        for _ in 0..20 {
            let deaf = Client::join(&daemon, &Files::new(), "deaf");
            let packet = Packet::new(&wrong, vec![]);
            while packet.send(deaf.socket.as_fd(), MsgFlags::empty()).is_ok() {
                sent += 1;
            }
        }
        sent
    });
    daemon.wait_for::<Info>(Verb::Info, |i| i.clients == 0);
    somebody_is_served(&daemon);
    let more = resident().saturating_sub(before);
    println!("20 clients, {sent} claims, {more} bytes more; {others}");
    assert!(more < 64 << 20, "{more} bytes more");
}
