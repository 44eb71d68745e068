//! Programs that connect and close as fast as they can, to the daemon or under the library: somebody else talks
//! meanwhile, and the daemon keeps nothing of it.

use std::io::Write;
use std::time::{Duration, Instant};
use tests::{Lab, Policy, ccase, net, plain_only, process, rounds};

/// How many were let in, and how many turned away.
fn let_in(run: tests::Running) -> [f64; 2] {
    let counts = run.finish().ok();
    let mut counts = counts
        .split_whitespace()
        .map(|n| n.parse().expect("a number"));
    [(); 2].map(|()| counts.next().expect("two numbers"))
}

#[test]
fn attempts_at_the_daemon() {
    attempts_without_pause(false);
}

#[test]
fn attempts_under_the_library() {
    attempts_without_pause(true);
}

/// Processes that come and go without a pause: sessions with the daemon, or connections under the library. Others,
/// whose sessions were there before, go on opening connections, which come onto the ring.
fn attempts_without_pause(connections: bool) {
    if plain_only() {
        return;
    }
    let seconds = rounds(3, 20);
    let (attempting, talk) = (ccase::compile("attempts"), ccase::compile("talk"));
    let mut lab = Lab::start();
    let ports = [(); 2].map(|()| net::free_port());
    let servers = ports.map(|port| {
        let run = lab.eager(&talk).words(&format!("events {port}"));
        run.spawn().listening(port)
    });
    let input = lab.dir().join("input");
    let mut open = process::fifo(&input);
    let client = lab.eager(&talk).words(&format!("more {}", ports[0]));
    let client = client.stdin(&input).spawn();
    let mut place = 0;
    let mut ask = |number: i32| {
        place += 1;
        let start = Instant::now();
        writeln!(open, "{number}").expect("a reader");
        let answer = format!("\n{place}\n");
        let done = || format!("\n{}", client.stdout()).contains(&answer);
        let done = net::wait_until(Duration::from_secs(60), done);
        assert!(done, "step {place}: {}", client.stdout());
        start.elapsed()
    };
    ask(1);
    ask(-1);
    let pid = lab.daemon().map(|d| d.pid()).expect("a daemon");
    let look = || (process::resident(pid), process::cpu_ticks(pid));
    let (pairs, (memory, ticks)) = (lab.info()["pairs_made"].as_u64(), look());
    let flood = match connections {
        true => lab.eager(&attempting),
        false => lab.plain(&attempting),
    };
    let at = match connections {
        true => ports[1].to_string().into(),
        false => lab.socket(),
    };
    let flood = flood.words(&format!("{seconds} 4")).arg(at);
    let mut flood = flood.limit(Duration::from_secs(120)).spawn();
    let (mut others, mut longest) = (0, Duration::ZERO);
    while flood.alive() {
        longest = longest.max(ask(1));
        for _ in 0..4 {
            ask(0);
        }
        ask(-1);
        others += 1;
    }
    let [within, away] = let_in(flood);
    let (memory, ticks) = (look().0.saturating_sub(memory), look().1 - ticks);
    let pairs = lab.info()["pairs_made"]
        .as_u64()
        .zip(pairs)
        .map(|(a, b)| a - b);
    drop(open);
    client.finish().ok();
    for server in servers {
        server.stop();
    }
    lab.assert_clean();
    println!(
        "{:.0} a second let in, {:.0} turned away, {:.1} us of the daemon for each; it has {memory} bytes more; \
         {others} connections of others meanwhile, {pairs:?} on a ring, the slowest took {longest:.1?}",
        within / seconds as f64,
        away / seconds as f64,
        ticks as f64 * 1e4 / within,
    );
    assert!(memory < 16 << 20, "{memory} bytes more");
    assert!(within > 0.0, "nobody was let in");
    // One that ends while its claim waits comes onto none.
    assert!(
        pairs.is_some_and(|n| n > others / 2),
        "{pairs:?} of {others}"
    );
}

#[test]
fn connections_that_come_and_go() {
    const CLIENTS: usize = 4;
    let each = rounds(5_000, 25_000);
    let program = ccase::compile("talk");
    let mut lab = Lab::start();
    let port = net::free_port();
    let limit = Duration::from_secs(280);
    let run = |words: &str| lab.eager(&program).words(words).limit(limit).spawn();
    let server = run(&format!("events {port}")).listening(port);
    // Once before the look at the daemon's memory: what it keeps for good is there then.
    run(&format!("storm {port} 100")).finish().ok();
    let pid = lab.daemon().map(|d| d.pid());
    let memory = || pid.map_or(0, process::resident);
    let (start, before) = (Instant::now(), memory());

    let run = |words: &str| lab.eager(&program).words(words).limit(limit).spawn();
    let mut storm = [(); CLIENTS].map(|()| run(&format!("storm {port} {each}")));
    let (mut others, mut longest) = (0, Duration::ZERO);
    while others == 0 || storm.iter_mut().any(|s| s.alive()) {
        let (port, began) = (net::free_port(), Instant::now());
        let other = run(&format!("serve {port} 1")).listening(port);
        assert!(
            run(&format!("ask {port} 300 0"))
                .finish()
                .ok()
                .ends_with("\nend\n")
        );
        assert_eq!(other.finish().ok(), "end 0\n");
        longest = longest.max(began.elapsed());
        others += 1;
    }
    for client in storm {
        assert_eq!(client.finish().ok(), format!("{each}\n"));
    }
    let count = CLIENTS * each;
    let rate = count as f64 / start.elapsed().as_secs_f64();
    server.stop();
    lab.assert_clean();
    let more = memory().saturating_sub(before);
    println!(
        "{count} connections, {rate:.0}/s, the daemon has {more} bytes more; \
         {others} others served meanwhile, the slowest in {longest:.1?}"
    );
    assert!(more < 32 << 20, "{more} bytes more");
}

/// A server with a child for each connection: who `end`s without closing it leaves nothing behind that is there for long.
fn children_leave_nothing(policy: Policy, end: &str) {
    const SERVER: &str = "import os, signal, socket, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))
while True:
    end, _ = listener.accept()
    if os.fork() == 0:
        while data := end.recv(1000): end.sendall(data)
        if sys.argv[2] == 'killed': os.kill(os.getpid(), 9)
        os._exit(0)
    end.close()";
    const CLIENT: &str = "import socket, sys
for _ in range(80):
    end = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
    for _ in range(40):
        end.sendall(bytes(500))
        left = 500
        while left: left -= len(end.recv(left))
    end.shutdown(socket.SHUT_WR)
    assert end.recv(1) == b''";
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let port = net::free_port();
    let start = |program: &str| {
        let run = lab.shim("python3").policy(policy);
        let run = run.args(["-c", program, &port.to_string(), end]);
        run.limit(Duration::from_secs(100))
    };
    let server = start(SERVER).spawn().listening(port);
    start(CLIENT).finish().ok();
    assert!(lab.stats().must("accelerated") > 40);
    let rows = lab.sockets();
    assert!(rows.len() < 10, "{end}: {}", rows.len());
    server.stop();
}

#[test]
fn children_that_exit() {
    children_leave_nothing(Policy::Default, "exits");
}

#[test]
fn children_that_are_killed() {
    children_leave_nothing(Policy::Eager, "killed");
}

/// A child in a pid namespace of its own cannot see its parent, which goes on with its connection all the same.
#[test]
fn parent_out_of_sight() {
    const PROGRAM: &str = "import ctypes, os, socket
listener = socket.create_server(('127.0.0.1', 0))
def pair():
    a = socket.create_connection(listener.getsockname())
    return a, listener.accept()[0]
def talk(a, b):
    for _ in range(20):
        a.sendall(b'there'); assert b.recv(5) == b'there'
        b.sendall(b'back'); assert a.recv(4) == b'back'
first = pair()
talk(*first)
first[0].sendall(b'kept')
first[1].settimeout(20)
inner = ctypes.CDLL(None).unshare(0x20000000) == 0
if not inner: print('as root only')
child = os.fork()
if child == 0:
    assert (os.getpid() == 1) == inner
    for end in first: end.close()
    for _ in range(40): talk(*pair())
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
others = [pair() for _ in range(20)]
for other in others: talk(*other)
assert first[1].recv(4) == b'kept'
talk(*first)
for end in first: end.close()
for other in others: talk(*other)
print('well')";
    let lab = Lab::start();
    let text = lab.eager("python3").args(["-c", PROGRAM]).finish().ok();
    assert!(text.ends_with("well\n"), "{text}");
    lab.assert_clean();
}
