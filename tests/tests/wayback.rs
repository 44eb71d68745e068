//! The way back to TCP by order, and onto the ring again.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tests::{Lab, artefacts, ccase, net, plain_only, process, rounds};

/// `smclo revert`; what it says. The tool is started some thousand times, so without a watchdog.
fn revert(lab: &Lab, seconds: &str, target: &str) -> (bool, String) {
    let output = Command::new(artefacts::path("smclo"))
        .arg("--socket")
        .arg(lab.socket())
        .args(["revert", "--for", seconds, target])
        .stdin(Stdio::null())
        .output()
        .expect("smclo runs");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// Four connections of all kinds: how many returns to TCP and to the ring each end's row counts.
fn flips(lab: &Lab, pid: u32) -> Vec<u64> {
    let rows = lab.sockets();
    let mine = rows.iter().filter(|r| r.number("pid") == u64::from(pid));
    mine.filter(|r| r.is_smcd() || r.number("reverts") != 0)
        .map(|r| r.number("reverts"))
        .collect()
}

/// Busy connections go to TCP and back a thousand times. Every byte is compared where it arrives.
#[test]
fn a_thousand_times() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let program = ccase::compile("flip");
    let port = net::free_port();
    let limit = Duration::from_secs(rounds(280, 1200) as u64);
    let input = lab.dir().join("input");
    let open = process::fifo(&input);
    let server = lab
        .eager(&program)
        .args(["server", &port.to_string()])
        .limit(limit)
        .spawn()
        .listening(port);
    let mut client = lab
        .eager(&program)
        .args(["client", &port.to_string()])
        .stdin(&input)
        .limit(limit)
        .spawn();
    let pid = client.pid();
    // Streams that never run empty, of ends that are made to wait for a core, need some seconds.
    assert!(
        net::wait_until(Duration::from_secs(60), || flips(&lab, pid).len() == 4),
        "four connections: {:?}",
        lab.sockets()
    );
    // Of the client's directions only, so each return is one order that was followed.
    let wanted = rounds(1000, 10_000) as u64;
    let end = Instant::now() + limit - Duration::from_secs(80);
    let (mut orders, mut least) = (0, 0);
    while least < wanted && Instant::now() < end && client.alive() {
        for _ in 0..50 {
            let (done, text) = revert(&lab, "0.001", &pid.to_string());
            assert!(done || !client.alive(), "{text}");
            orders += 1;
        }
        // The connection that speaks seldom follows some orders only.
        let mut all = flips(&lab, pid);
        all.sort_unstable();
        least = all.get(1).copied().unwrap_or(0);
    }
    drop(open);
    let [client, server] = [client.finish(), server.finish()].map(tests::Outcome::ok);
    assert!(least >= wanted, "{least} returns after {orders} orders");
    let ends = |text: &str, from: usize| -> Vec<String> {
        let words = text.lines().map(|l| l.split(' ').collect::<Vec<_>>());
        words
            .map(|w| format!("{} {} {}", w[0], w[from], w[6 - from]))
            .collect()
    };
    assert_eq!(ends(&client, 2), ends(&server, 4), "{client}\n{server}");
    let stats = lab.settled();
    assert!(
        stats.smc_bytes() > 0 && stats.tcp_bytes() > 0,
        "{}",
        stats.raw
    );
    assert!(stats.must("upgrades") >= wanted, "{}", stats.raw);
    lab.assert_clean();
}

/// Both ends asleep: the order wakes them, TCP carries what comes, and the ring does afterwards.
#[test]
fn sleepers_are_woken() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let port = net::free_port();
    let server = lab
        .eager("redis-server")
        .words(&format!("--port {port} --bind 127.0.0.1 --save"))
        .arg("")
        .spawn()
        .listening(port);
    let input = lab.dir().join("input");
    let mut open = process::fifo(&input);
    let client = lab
        .eager("redis-cli")
        .words(&format!("-p {port}"))
        .stdin(&input)
        .spawn();
    let mut count = 0;
    let mut ask = |n: u64| {
        for _ in 0..n {
            writeln!(open, "incr n").unwrap();
        }
        count += n;
        let text = count.to_string();
        let answered = || client.stdout().trim_end().ends_with(&text);
        assert!(
            net::wait_until(Duration::from_secs(20), answered),
            "{}",
            client.stdout()
        );
    };
    let ring = || {
        lab.sockets()
            .iter()
            .filter(|r| r.has_port(port) && r.is_smcd())
            .count()
    };
    // The daemon has its time, also on a busy machine.
    let onto_rings = |ask: &mut dyn FnMut(u64)| {
        let both = net::wait_until(Duration::from_secs(20), || {
            ask(1);
            ring() == 2
        });
        assert!(both, "{:?}", lab.sockets());
    };
    onto_rings(&mut ask);
    let (done, text) = revert(&lab, "1000", &format!("127.0.0.1:{port}"));
    assert!(done && text.contains("1 connection on TCP"), "{text}");
    // Without any traffic, the server wakes in its epoll set and takes its direction off the ring.
    // redis-cli waits for its input, where only the next call on the connection can tell it.
    let left = || {
        let rows = lab.sockets();
        let pid = u64::from(server.pid());
        rows.iter()
            .any(|r| r.number("pid") == pid && r.number("reverts") == 1)
    };
    assert!(
        net::wait_until(Duration::from_secs(20), left),
        "{:?}",
        lab.sockets()
    );
    let before = lab.stats();
    ask(30);
    assert_eq!(ring(), 0, "{:?}", lab.sockets());
    assert!(lab.stats().tcp_bytes() > before.tcp_bytes());
    assert_eq!(lab.stats().smc_bytes(), before.smc_bytes());
    let (done, text) = revert(&lab, "0", &server.pid().to_string());
    assert!(done && text.contains("again"), "{text}");
    onto_rings(&mut ask);
    drop(open);
    client.finish().ok();
    server.stop();
    lab.assert_clean();
}

/// A server with many inheritable connections starts programs: those of which no program knows stay
/// where they are.
#[test]
fn programs_that_inherit_by_accident() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let program = ccase::compile("process");
    lab.eager(program)
        .arg("many_inherited")
        .env("TEST_WARM", "128")
        .finish()
        .ok();
    // 40 connections; three were named, two or three have low numbers, and a word of the
    // environment may be a number by chance. Each has two ends with two directions.
    let stats = lab.settled();
    let (left, came) = (stats.must("reverts"), stats.must("upgrades"));
    assert!(came >= 4 * 36, "{}", stats.raw);
    assert!((4..=4 * 12).contains(&left), "{}", stats.raw);
    lab.assert_clean();
}

/// An order for nobody says so.
#[test]
fn nobody() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let (done, text) = revert(&lab, "1", "1");
    assert!(!done && text.contains("no connection"), "{text}");
    let (done, text) = revert(&lab, "x", "1");
    assert!(!done && text.contains("number of seconds"), "{text}");
}
