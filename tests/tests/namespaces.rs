//! Connections between network namespaces, and connections that the host redirects.

use protocol::reason;
use std::time::Duration;
use tests::netns::{self, Netns};
use tests::{Lab, Run, ccase, net, plain_only};

const PORT: u16 = 7000;
/// On a busy machine the daemon needs some of them to see the packets of both ends.
const EXCHANGES: u32 = 6000;

/// An echo server for one connection.
fn serve(lab: &Lab) -> Run {
    let talk = ccase::compile("talk");
    lab.eager(talk).words(&format!("serve {PORT} 1"))
}

/// A client that checks what comes back.
fn ask(lab: &Lab, at: &str) -> Run {
    let talk = ccase::compile("talk");
    lab.eager(talk)
        .words(&format!("ask {PORT} {EXCHANGES} 0"))
        .env("TALK_AT", at)
}

fn expect_fast(lab: &Lab) {
    if plain_only() {
        return;
    }
    let stats = lab.settled();
    let fast = stats.get("accelerated") >= 2 && stats.get("plain") == 0;
    assert!(fast && stats.smc_bytes() > 0, "{}", stats.raw);
    lab.assert_clean();
    expect_forgotten(lab);
}

/// A daemon that kept a namespace would keep its interfaces.
fn expect_forgotten(lab: &Lab) {
    if plain_only() {
        return;
    }
    let alone = net::wait_until(Duration::from_secs(5), || lab.info()["namespaces"] == 1);
    assert!(alone, "namespaces are kept: {}", lab.info());
}

fn talk(server: Run, client: Run) {
    let server = server.spawn().listening(PORT);
    let said = client.finish().ok();
    assert_eq!(said.lines().nth(1), Some("end"));
    assert_eq!(server.finish().ok(), "end 0\n");
}

/// Two namespaces with a veth pair, IPv4 and IPv6.
fn two() -> [Netns; 2] {
    let [a, b] = [Netns::new(), Netns::new()];
    a.join(("eth0", "10.91.0.1/24"), &b, ("eth0", "10.91.0.2/24"));
    a.address("eth0", "fd91::1/64");
    b.address("eth0", "fd91::2/64");
    [a, b]
}

#[test]
fn veth() {
    if !netns::possible() {
        return;
    }
    for at in ["10.91.0.2", "fd91::2"] {
        let (lab, [a, b]) = (Lab::start(), two());
        talk(b.run(serve(&lab)).env("TALK_AT", at), a.run(ask(&lab, at)));
        expect_fast(&lab);
    }
}

/// Public addresses: the round trip says that they may be near.
#[test]
fn veth_with_public_addresses() {
    if !netns::possible() {
        return;
    }
    let (lab, [a, b]) = (Lab::start(), [Netns::new(), Netns::new()]);
    a.join(("eth0", "198.51.100.1/32"), &b, ("eth0", "203.0.113.1/32"));
    a.ip("route add 203.0.113.1 dev eth0");
    b.ip("route add 198.51.100.1 dev eth0");
    let at = "203.0.113.1";
    talk(b.run(serve(&lab)).env("TALK_AT", at), a.run(ask(&lab, at)));
    expect_fast(&lab);
}

/// Processes and mounts of their own, and a bridge between them.
#[test]
fn containers_on_a_bridge() {
    if !netns::possible() {
        return;
    }
    let (lab, [a, b, host]) = (Lab::start(), [Netns::new(), Netns::new(), Netns::new()]);
    host.ip("link add br0 type bridge");
    host.address("br0", "10.92.0.254/24");
    for (at, port, address) in [(&a, "port1", "10.92.0.1/24"), (&b, "port2", "10.92.0.2/24")] {
        at.join(("eth0", address), &host, (port, ""));
        host.ip(&format!("link set {port} master br0"));
    }
    let at = "10.92.0.2";
    // The server's pid is unshare's, whose namespace is the same.
    talk(
        b.contained(serve(&lab)).env("TALK_AT", at),
        a.contained(ask(&lab, at)),
    );
    expect_fast(&lab);
}

/// A router between two namespaces sends what is meant for another address to the server: the server
/// cannot know what the client wanted, but the packets show who talks to whom.
#[test]
fn destination_nat_between_namespaces() {
    if !netns::possible() {
        return;
    }
    let (lab, [a, b, host]) = (Lab::start(), [Netns::new(), Netns::new(), Netns::new()]);
    a.join(("eth0", "10.93.1.1/24"), &host, ("port1", "10.93.1.254/24"));
    b.join(("eth0", "10.93.2.1/24"), &host, ("port2", "10.93.2.254/24"));
    a.ip("route add default via 10.93.1.254");
    b.ip("route add default via 10.93.2.254");
    host.command("sysctl -q -w net.ipv4.ip_forward=1");
    host.nft(
        "table ip nat { chain to { type nat hook prerouting priority -100;
         ip daddr 10.93.9.9 tcp dport 7000 dnat to 10.93.2.1; }; }",
    );
    talk(
        b.run(serve(&lab)).env("TALK_AT", "10.93.2.1"),
        a.run(ask(&lab, "10.93.9.9")),
    );
    expect_fast(&lab);
}

/// As a service mesh does it: what leaves for elsewhere is redirected to a proxy on this host.
#[test]
fn redirect_within_a_namespace() {
    if !netns::possible() {
        return;
    }
    for (tool, at) in [("nft", "203.0.113.7"), ("iptables", "10.94.3.4")] {
        let (lab, [a, beyond]) = (Lab::start(), [Netns::new(), Netns::new()]);
        a.join(("eth0", "10.94.0.1/24"), &beyond, ("eth0", "10.94.0.2/24"));
        a.ip("route add default via 10.94.0.2");
        if tool == "nft" {
            a.nft(&format!(
                "table ip nat {{ chain out {{ type nat hook output priority -100;
                 ip daddr {at} tcp dport {PORT} redirect to {PORT}; }}; }}"
            ));
        } else {
            a.command(&format!(
                "iptables -t nat -A OUTPUT -d {at} -p tcp --dport {PORT} \
                 -j DNAT --to-destination 10.94.0.1"
            ));
        }
        talk(
            a.run(serve(&lab)).env("TALK_AT", "0.0.0.0"),
            a.run(ask(&lab, at)),
        );
        expect_fast(&lab);
    }
}

/// A packet filter that drops, or rejects, every packet of a connection under way: what a program
/// hears is what its keepalive finds out, also where its bytes go past the filter.
#[test]
fn hc_063_packet_filter() {
    if !netns::possible() {
        return;
    }
    // What is not acknowledged yet would be sent again for a quarter of an hour before anything else.
    let program = "import array, errno, fcntl, os, select, socket, termios
def sent(s):
    left = array.array('i', [1])
    while left[0]: fcntl.ioctl(s, termios.TIOCOUTQ, left)
l = socket.create_server(('127.0.0.1', 7000))
a = socket.create_connection(l.getsockname())
b, _ = l.accept()
while not select.select([0], [], [], 0)[0]:
    a.sendall(b'question'); assert b.recv(100) == b'question'
    b.sendall(b'answer'); assert a.recv(100) == b'answer'
os.read(0, 1)
sent(a); sent(b)
print('ready', flush=True)
os.read(0, 1)
for one in a, b:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for what, n in (('TCP_KEEPCNT', 2), ('TCP_KEEPINTVL', 1), ('TCP_KEEPIDLE', 1)):
        one.setsockopt(socket.IPPROTO_TCP, getattr(socket, what), n)
for one in a, b:
    try: print(one.recv(100))
    except OSError as e: print(errno.errorcode[e.errno])
    try: print(one.send(b'more'))
    except OSError as e: print(errno.errorcode[e.errno])
";
    for verdict in ["drop", "reject with tcp reset"] {
        tests::stage::same_and_fast(|stage| {
            let here = Netns::new();
            let input = stage.dir().join("input");
            let mut open = tests::process::fifo(&input);
            let run = stage.run("/usr/bin/python3").args(["-c", program]);
            let run = here.run(run).stdin(&input).spawn();
            use std::io::Write;
            let fast = || stage.lab.sockets().iter().filter(|r| r.is_smcd()).count() == 2;
            let warm = !stage.shimmed() || net::wait_until(Duration::from_secs(30), fast);
            assert!(warm, "{:?}", stage.lab.sockets());
            open.write_all(b"1").unwrap();
            let ready = || run.stdout().contains("ready");
            assert!(
                net::wait_until(Duration::from_secs(20), ready),
                "{}",
                run.stderr()
            );
            here.nft(&format!(
                "table ip f {{ chain out {{ type filter hook output priority 0;
                 tcp dport {PORT} {verdict}; tcp sport {PORT} {verdict}; }}; }}"
            ));
            open.write_all(b"2").unwrap();
            run.finish().ok()
        });
    }
}

/// Two pairs of namespaces with the same addresses and the same ports, at the same time.
fn twins() -> [[Netns; 2]; 2] {
    [two(), two()]
}

const CLIENT_PORT: &str = "23456";

#[test]
fn twins_find_their_own() {
    if !netns::possible() {
        return;
    }
    let (lab, twins) = (Lab::start(), twins());
    let at = "10.91.0.2";
    let servers = twins.each_ref().map(|[_, b]| {
        let run = b.run(serve(&lab)).env("TALK_AT", at).spawn();
        run.listening(PORT)
    });
    let clients = twins
        .each_ref()
        .map(|[a, _]| a.run(ask(&lab, at)).env("TALK_FROM", CLIENT_PORT).spawn());
    for client in clients {
        assert_eq!(client.finish().ok().lines().nth(1), Some("end"));
    }
    for server in servers {
        assert_eq!(server.finish().ok(), "end 0\n");
    }
    expect_fast(&lab);
}

/// Of each pair one end is under the library, and by their addresses the two could belong together.
#[test]
fn strangers_with_the_same_addresses_stay_on_tcp() {
    if !netns::possible() {
        return;
    }
    let (lab, twins) = (Lab::start(), twins());
    let program = ccase::compile("talk");
    let at = "10.91.0.2";
    // Enough for the observation to come to its end by the number of packets.
    let exchanges = format!("ask {PORT} 4000 0");
    let runs = [
        (lab.plain(&program), lab.eager(&program)),
        (lab.eager(&program), lab.plain(&program)),
    ];
    let mut all = Vec::new();
    for ([a, b], (server, client)) in twins.iter().zip(runs) {
        let server = server.words(&format!("serve {PORT} 1"));
        let server = b.run(server).env("TALK_AT", at).spawn().listening(PORT);
        let client = a.run(client.words(&exchanges));
        let client = client.env("TALK_AT", at).env("TALK_FROM", CLIENT_PORT);
        all.push((server, client.spawn()));
    }
    let mut said = Vec::new();
    for (server, client) in all {
        said.push(client.finish().ok());
        assert_eq!(server.finish().ok(), "end 0\n");
    }
    assert_eq!(said[0], said[1], "somebody has got other bytes");
    if plain_only() {
        return;
    }
    let stats = lab.settled();
    assert_eq!(stats.smc_bytes(), 0);
    let unproven = stats.fallbacks(reason::UNPROVEN) + stats.fallbacks(reason::NO_PEER_YET);
    assert_eq!(unproven, 2, "{}", stats.raw);
    lab.assert_clean();
    expect_forgotten(&lab);
}

/// A daemon without the rights says so.
#[test]
fn daemon_without_rights() {
    if !netns::possible() || plain_only() {
        return;
    }
    let less = ["setpriv", "--inh-caps=-all", "--bounding-set=-sys_admin"];
    let (lab, [a, b]) = (Lab::start_through(&less, &[]), two());
    let at = "10.91.0.2";
    talk(b.run(serve(&lab)).env("TALK_AT", at), a.run(ask(&lab, at)));
    let stats = lab.settled();
    assert_eq!(stats.smc_bytes(), 0);
    assert!(stats.fallbacks(reason::NETNS) > 0, "{}", stats.raw);
    lab.assert_clean();

    // Within its own namespace it needs none.
    talk(serve(&lab), ask(&lab, "127.0.0.1"));
    assert!(lab.settled().smc_bytes() > 0);
}

/// A peer that nobody on this host knows: the claim is not kept.
#[test]
fn another_host() {
    if !netns::possible() || plain_only() {
        return;
    }
    let (lab, [a, b]) = (Lab::start(), two());
    let (at, program) = ("10.91.0.2", ccase::compile("talk"));
    // The other end is unknown to the daemon, as if it were far away.
    let server = b.run(lab.plain(&program)).words(&format!("serve {PORT} 1"));
    let server = server.env("TALK_AT", at).spawn().listening(PORT);
    let client = lab.eager(&program).words(&format!("ask {PORT} 300 3000"));
    let client = a.run(client).env("TALK_AT", at).spawn();
    // The library reads the answer only within a call, of which there is none; the daemon has it.
    let kept = net::wait_until(Duration::from_secs(3), || {
        lab.stats().must("claims_waiting") == 1
    });
    assert!(kept, "no claim");
    let dropped = net::wait_until(Duration::from_secs(5), || {
        lab.stats().must("claims_waiting") == 0
    });
    assert!(dropped, "the claim is kept: {}", lab.stats().raw);
    client.finish().ok();
    server.finish().ok();
    let stats = lab.settled();
    assert_eq!(stats.smc_bytes(), 0);
    lab.assert_clean();
}
