//! Killed and stopped processes: the survivor sees what TCP would show, and nothing is left over.

use protocol::reason;
use std::path::PathBuf;
use std::time::Duration;
use tests::stream::Stream;
use tests::{Lab, Outcome, Running, Stats, ccase, net, plain_only, process, rounds};

/// Traffic between two programs.
#[derive(Clone, Copy, Debug)]
enum Shape {
    PingPong,
    LargePingPong,
    Upload,
}

const SHAPES: [Shape; 3] = [Shape::PingPong, Shape::LargePingPong, Shape::Upload];

struct Pair {
    server: Running,
    client: Running,
}

/// A server and a client that talk until one of them is gone.
fn start(lab: &Lab, shape: Shape) -> Pair {
    let program: PathBuf = ccase::compile("talk");
    let port = net::free_port();
    let (server, client) = match shape {
        Shape::PingPong => (format!("serve {port} 1"), format!("pump {port} 64")),
        Shape::LargePingPong => (format!("serve {port} 1"), format!("pump {port} 100000")),
        Shape::Upload => (format!("sink {port}"), format!("send {port} 50000")),
    };
    let server = lab.eager(&program).words(&server).spawn().listening(port);
    let client = lab.eager(&program).words(&client).spawn();
    let connected = net::wait_until(Duration::from_secs(10), || net::established(port));
    assert!(connected, "no connection");
    Pair { server, client }
}

/// The survivor has ended by itself, in one of the ways of TCP, with the right content.
fn check_survivor(outcome: &Outcome) {
    let last = outcome.stdout.lines().last().unwrap_or("nothing");
    let known = ["end 0", "end ECONNRESET", "end EPIPE"];
    assert!(outcome.success() && known.contains(&last), "{outcome}");
}

fn seed() -> u64 {
    match std::env::var("SMCLO_TEST_SEED") {
        Ok(seed) => seed.parse().expect("SMCLO_TEST_SEED is a number"),
        Err(_) => u64::from(std::process::id()),
    }
}

fn daemon_fds(lab: &mut Lab) -> usize {
    lab.daemon().map_or(0, |d| process::fd_count(d.pid()))
}

#[test]
fn clients_and_servers_killed() {
    let seed = seed();
    println!("SMCLO_TEST_SEED={seed}");
    let mut random = Stream::new(seed);
    let mut lab = Lab::start();
    let mut fds = 0;
    for round in 0..rounds(20, 200) {
        let pair = start(&lab, SHAPES[round % 3]);
        std::thread::sleep(Duration::from_micros(random.below(150_000)));
        if random.below(2) == 0 {
            pair.client.kill();
            check_survivor(&pair.server.finish());
        } else {
            pair.server.kill();
            check_survivor(&pair.client.finish());
        }
        lab.assert_clean();
        if round == 4 {
            fds = daemon_fds(&mut lab);
        }
    }
    // It may not have looked yet at the session of the tool that asked it last.
    let given_back = || daemon_fds(&mut lab) <= fds;
    let given_back = net::wait_until(Duration::from_secs(20), given_back);
    assert!(given_back, "the daemon leaks descriptors");
}

#[test]
fn daemon_killed() {
    let seed = seed();
    println!("SMCLO_TEST_SEED={seed}");
    let mut random = Stream::new(seed);
    let mut lab = Lab::start();
    for round in 0..rounds(9, 60) {
        let mut pair = start(&lab, SHAPES[round % 3]);
        std::thread::sleep(Duration::from_micros(random.below(100_000)));
        lab.kill_daemon();
        std::thread::sleep(Duration::from_millis(50));
        assert!(pair.client.alive() && pair.server.alive());
        if round % 2 == 0 {
            lab.start_daemon();
        }
        let before = pair.client.stdout().len();
        let ping_pong = !matches!(SHAPES[round % 3], Shape::Upload);
        let goes_on = net::wait_until(Duration::from_secs(10), || {
            !ping_pong || pair.client.stdout().len() > before
        });
        assert!(goes_on, "no exchange after the daemon was killed");
        if round % 2 == 1 {
            lab.start_daemon();
        }
        pair.client.kill();
        check_survivor(&pair.server.finish());
        lab.assert_clean();
    }
    // New connections accelerate again.
    let before = lab.stats();
    let pair = start(&lab, Shape::PingPong);
    let mostly = || plain_only() || lab.stats().share_smc(&before) > 0.5;
    let mostly = net::wait_until(Duration::from_secs(20), mostly);
    assert!(mostly, "{}", lab.stats().raw);
    pair.client.kill();
    check_survivor(&pair.server.finish());
    lab.assert_clean();
}

/// A daemon under SIGSTOP: live connections go on, new ones work, a killed client is noticed.
#[test]
fn daemon_stopped() {
    let mut lab = Lab::start();
    let pair = start(&lab, Shape::PingPong);
    std::thread::sleep(Duration::from_millis(200));
    if let Some(daemon) = lab.daemon() {
        daemon.signal(libc::SIGSTOP);
    }
    let before = pair.client.stdout().len();
    let goes_on = net::wait_until(Duration::from_secs(10), || {
        pair.client.stdout().len() > before
    });
    assert!(goes_on, "a live connection waits for the daemon");
    let other = start(&lab, Shape::LargePingPong);
    std::thread::sleep(Duration::from_millis(100));
    for pair in [pair, other] {
        pair.client.kill();
        check_survivor(&pair.server.finish());
    }
    if let Some(daemon) = lab.daemon() {
        daemon.signal(libc::SIGCONT);
    }
    lab.assert_clean();
}

/// A stopped reader holds its writer back without costing it processor time.
#[test]
fn peer_stopped() {
    let lab = Lab::start();
    let pair = start(&lab, Shape::Upload);
    std::thread::sleep(Duration::from_millis(200));
    pair.server.signal(libc::SIGSTOP);
    std::thread::sleep(Duration::from_millis(1000));
    let before = process::cpu_ticks(pair.client.pid());
    std::thread::sleep(Duration::from_millis(1000));
    let used = process::cpu_ticks(pair.client.pid()) - before;
    assert!(
        used <= 2,
        "the writer used {used} ticks while it had to wait"
    );
    pair.server.signal(libc::SIGCONT);
    std::thread::sleep(Duration::from_millis(200));
    pair.client.kill();
    check_survivor(&pair.server.finish());
    lab.assert_clean();
}

/// A server that has served many connections has no descriptor more than after a few.
#[test]
fn no_descriptor_leak() {
    let program = ccase::compile("talk");
    let mut lab = Lab::start();
    let port = net::free_port();
    let server = lab.eager(&program).words(&format!("serve {port} 1000"));
    let server = server.spawn().listening(port);
    let serve = |lab: &Lab, count: usize| {
        for _ in 0..count {
            let client = lab.eager(&program).words(&format!("ask {port} 100 0"));
            client.finish().ok();
        }
    };
    serve(&lab, 10);
    // Later they have no more, once the server has closed the last connection and the daemon has seen it.
    let (few, few_of_daemon) = (process::fd_count(server.pid()), daemon_fds(&mut lab));
    serve(&lab, rounds(60, 600));
    let in_time = Duration::from_secs(20);
    let given_back = net::wait_until(in_time, || process::fd_count(server.pid()) <= few);
    assert!(given_back, "the server has more than {few}");
    let given_back = net::wait_until(in_time, || daemon_fds(&mut lab) <= few_of_daemon);
    assert!(given_back, "the daemon has more than {few_of_daemon}");
    server.stop();
    lab.assert_clean();
}

/// 1,000 idle connections cost nobody any processor time.
#[test]
fn idle_connections_are_free() {
    const COUNT: usize = 1000;
    let program = ccase::compile("talk");
    let mut lab = Lab::start();
    let crowd = lab.eager(&program).words(&format!("crowd {COUNT} 50"));
    let crowd = crowd.spawn();
    let idle = net::wait_until(Duration::from_secs(50), || crowd.stdout().contains("idle"));
    assert!(idle, "{}", crowd.stop());

    if !plain_only() {
        let rows = lab.sockets();
        let fast = rows.iter().filter(|r| r.is_smcd()).count();
        assert!(fast >= 2 * COUNT * 95 / 100, "only {fast} ends are SMC");
    }
    let text = crowd.stdout();
    let pids = text.split_whitespace().filter_map(|w| w.parse().ok());
    let mut pids: Vec<u32> = pids.collect();
    pids.extend(lab.daemon().map(|d| d.pid()));
    std::thread::sleep(Duration::from_millis(1000));
    let ticks = || {
        pids.iter()
            .map(|p| process::cpu_ticks(*p))
            .collect::<Vec<_>>()
    };
    let before = ticks();
    std::thread::sleep(Duration::from_secs(3));
    for ((pid, before), after) in pids.iter().zip(before).zip(ticks()) {
        assert!(after - before <= 1, "{pid} used {} ticks", after - before);
    }
    crowd.stop();
    lab.assert_clean();
}

/// A daemon that is behind takes no more claims for a moment. Those that it did not take are made anew,
/// however little traffic there is, and the connections get onto a ring. One that was refused for another
/// reason asks after 4 KiB more, which are 32 exchanges.
#[test]
fn a_busy_daemon_is_asked_again() {
    const COUNT: usize = 1000;
    const ROUNDS: usize = 24;
    if plain_only() {
        return;
    }
    let program = ccase::compile("talk");
    let mut lab = Lab::start();
    let signal_daemon = |lab: &mut Lab, signal| lab.daemon().expect("a daemon").signal(signal);
    signal_daemon(&mut lab, libc::SIGSTOP);
    let crowd = lab
        .eager(&program)
        .words(&format!("crowd {COUNT} 4 go"))
        .spawn();
    let asked = net::wait_until(Duration::from_secs(60), || crowd.stdout().contains("idle"));
    signal_daemon(&mut lab, libc::SIGCONT);
    assert!(asked, "{}", crowd.stop());
    let rows = lab.sockets();
    let busy = rows.iter().filter(|r| r.is_tcp_for(reason::DAEMON_BUSY));
    assert!(busy.count() > 0, "the daemon's socket took all claims");

    let all = (1..=ROUNDS).any(|round| {
        crowd.signal(libc::SIGUSR1);
        let said = format!("round {round}.");
        let done = || crowd.stdout().contains(&said);
        assert!(net::wait_until(Duration::from_secs(60), done), "{said}");
        // It has answered what it was asked.
        let answered = || lab.stats().must("claims_waiting") == 0;
        net::wait_until(Duration::from_secs(5), answered);
        let rows = lab.sockets();
        let fast = rows.iter().filter(|r| r.is_smcd()).count();
        // Bytes on their way when a claim was considered: a few ask later, for that reason.
        let busy = rows.iter().any(|r| r.is_tcp_for(reason::DAEMON_BUSY));
        fast >= 2 * COUNT * 95 / 100 && !busy
    });
    assert!(all, "{}", lab.stats().raw);
    crowd.stop();
    lab.assert_clean();
}

/// Limits of a process that leave the library too little: TCP, or less of it; never another answer.
#[test]
fn tiny_limits() {
    let program = ccase::compile("talk");
    let (mut tried, mut fast) = (0, 0);
    for limit in [
        "--nofile=16",
        "--nofile=24",
        "--nofile=64",
        "--nofile=72",
        "--fsize=100000",
        "--as=40000000",
        "--as=120000000",
        "--memlock=0",
        "--data=40000000",
        "--stack=65536",
        "--nproc=1",
        "--core=0",
        "--sigpending=0",
        "--fsize=4096",
    ] {
        for at_server in [true, false] {
            let lab = Lab::start();
            let port = net::free_port();
            let words = [format!("serve {port} 1"), format!("ask {port} 300 0")];
            let [server, client] =
                [(at_server, &words[0]), (!at_server, &words[1])].map(|(limited, words)| {
                    match limited {
                        true => lab.eager("prlimit").arg(limit).arg(&program).words(words),
                        false => lab.eager(&program).words(words),
                    }
                });
            let server = server.spawn().listening(port);
            let client = client.finish();
            let well = client.success() && client.stdout.ends_with("\nend\n");
            assert!(well, "{limit} server {at_server}: {client}");
            assert_eq!(
                server.finish().stdout,
                "end 0\n",
                "{limit} server {at_server}"
            );
            lab.assert_clean();
            tried += 1;
            fast += usize::from(lab.stats().share_smc(&Stats::zero()) > 0.5);
        }
    }
    println!("{tried} limits, {fast} of them on the ring: 0 lost, 0 hung, 0 crashed");
    // Most of them leave the library what it needs.
    assert!(plain_only() || fast >= tried / 3, "{fast} of {tried}");
}

/// A process may have no descriptor any more, and has never had to wake its peer before: what it sends then wakes it all the
/// same, by the kernel.
#[test]
fn no_descriptor_for_a_doorbell() {
    const TAKE: &str = "import os, resource, socket, sys, time
port = int(sys.argv[1])
def take(end):
    # Never asleep in a receive.
    while True:
        try: return end.recv(1)
        except BlockingIOError: time.sleep(0.0002)
";
    const SERVER: &str = "
end = socket.create_server(('127.0.0.1', port)).accept()[0]
end.setblocking(False)
while (word := take(end)) == b'x': end.send(word)
pid = int(b''.join(iter(lambda: take(end), b';')))
state = lambda: open(f'/proc/{pid}/stat').read().rsplit(')', 1)[1].split()[0]
while [state() for _ in range(20)] != ['S'] * 20: pass
resource.setrlimit(resource.RLIMIT_NOFILE, (0, 4096))
end.send(b'y')
end.setblocking(True)
assert end.recv(1) == b'z'
print('well')";
    const CLIENT: &str = "
end = socket.create_connection(('127.0.0.1', port))
end.setblocking(False)
while not os.path.exists(sys.argv[2]):
    end.send(b'x')
    assert take(end) == b'x'
end.setblocking(True)
end.send(b'p%d;' % os.getpid())
assert end.recv(1) == b'y'
end.send(b'z')
print('well')";
    let lab = Lab::start();
    let port = net::free_port();
    let go = lab.dir().join("go");
    let run = |program: &str| {
        lab.eager("python3")
            .args(["-c", &[TAKE, program].concat(), &port.to_string()])
            .arg(&go)
            .env("SMCLO_SPIN_US", "0")
            .spawn()
    };
    let server = run(SERVER).listening(port);
    let client = run(CLIENT);
    let fast = || plain_only() || lab.sockets().iter().filter(|r| r.is_smcd()).count() == 2;
    assert!(net::wait_until(Duration::from_secs(20), fast));
    std::fs::write(&go, "").expect("a file");
    for end in [client, server] {
        assert_eq!(end.finish().ok(), "well\n");
    }
    lab.assert_clean();
}

/// Several faults in each round, under load: ends and daemon are stopped and go on, the daemon is
/// killed and started again, ends move between CPUs; at last one end is killed. Every byte that
/// arrives is compared by the programs.
#[test]
fn faults_in_any_order() {
    let seed = seed();
    println!("SMCLO_TEST_SEED={seed}");
    let mut random = Stream::new(seed);
    let mut lab = Lab::start();
    let count = rounds(15, 1000);
    let mut kinds = [0; 6];
    for round in 0..count {
        let mut pair = start(&lab, SHAPES[round % 3]);
        for _ in 0..1 + random.below(4) {
            let kind = random.below(6) as usize;
            kinds[kind] += 1;
            std::thread::sleep(Duration::from_micros(random.below(40_000)));
            let time = Duration::from_micros(random.below(60_000));
            let pause = |stop: &dyn Fn(i32)| {
                stop(libc::SIGSTOP);
                std::thread::sleep(time);
                stop(libc::SIGCONT);
            };
            match kind {
                0 => pause(&|s| pair.client.signal(s)),
                1 => pause(&|s| pair.server.signal(s)),
                2 => {
                    if let Some(daemon) = lab.daemon() {
                        pause(&|s| daemon.signal(s));
                    }
                }
                3 => {
                    lab.kill_daemon();
                    std::thread::sleep(time);
                    lab.start_daemon();
                }
                4 => {
                    process::bind(pair.client.pid(), Some(random.below(2) as usize));
                    process::bind(pair.server.pid(), Some(random.below(2) as usize));
                }
                _ => {
                    process::bind(pair.client.pid(), None);
                    process::bind(pair.server.pid(), None);
                }
            }
            assert!(
                pair.client.alive() && pair.server.alive(),
                "round {round}, fault {kind}"
            );
        }
        if random.below(2) == 0 {
            pair.client.kill();
            check_survivor(&pair.server.finish());
        } else {
            pair.server.kill();
            check_survivor(&pair.client.finish());
        }
        lab.assert_clean();
    }
    println!("{count} rounds, faults {kinds:?}: 0 lost, 0 hung, 0 crashed");
}
