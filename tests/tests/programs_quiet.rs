//! What a busy and an idle accelerated server ask of the kernel, as strace counts it, and of memory; and how
//! one gets on among programs that leave no processor to it.

use std::time::{Duration, Instant};
use tests::{Lab, Run, Running, Stats, net, plain_only};

fn under(lab: &Lab, shim: bool, program: &str) -> Run {
    match shim {
        true => lab.eager(program),
        false => lab.plain(program),
    }
}

fn redis(lab: &Lab, shim: bool, port: u16) -> Running {
    serve(under(lab, shim, "redis-server"), port)
}

fn serve(redis: Run, port: u16) -> Running {
    redis
        .words(&format!("--port {port} --bind 127.0.0.1 --save"))
        .arg("")
        .spawn()
        .listening(port)
}

/// System calls of a process and its threads, by name, while `load` runs.
fn system_calls(lab: &Lab, pid: u32, load: impl FnOnce()) -> Vec<(String, u64)> {
    let summary = lab.dir().join(format!("strace.{pid}"));
    let attached = |yes: bool| {
        net::wait_until(Duration::from_secs(10), || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
            status.unwrap().contains("TracerPid:\t0") != yes
        })
    };
    let strace = lab
        .plain("strace")
        .args(["-f", "-c", "-o"])
        .arg(&summary)
        .args(["-p", &pid.to_string()])
        .spawn();
    assert!(attached(true), "strace: {}", strace.stderr());
    load();
    strace.signal(libc::SIGINT);
    strace.finish();
    assert!(attached(false), "strace lets go");
    let text = std::fs::read_to_string(&summary).unwrap();
    // Lines of: % time, seconds, usecs/call, calls, errors if any, name. The last one is the total.
    let lines = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        Some((words.last()?.to_string(), words.get(3)?.parse().ok()?))
    });
    lines.filter(|(name, _)| name != "total").collect()
}

fn total(calls: &[(String, u64)]) -> u64 {
    calls.iter().map(|(_, count)| count).sum()
}

fn commands(lab: &Lab, port: u16) -> u64 {
    let text = lab
        .plain("redis-cli")
        .words(&format!("-p {port} info stats"))
        .finish()
        .ok();
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix("total_commands_processed:"));
    line.and_then(|n| n.trim().parse().ok())
        .expect("redis counts commands")
}

/// Busy: what it asks of the kernel depends on the time and not on the requests.
#[test]
fn busy_redis() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let port = net::free_port();
    let server = redis(&lab, true, port);
    // Long enough for strace to see the middle of it only.
    let load = lab
        .eager("redis-benchmark")
        .words(&format!("-p {port} -t get -c 20 -P 32 -n 100000000"))
        .limit(Duration::from_secs(60))
        .spawn();
    let accelerated = || {
        let rows = lab.sockets();
        let of_server = rows
            .iter()
            .filter(|r| r.number("pid") == u64::from(server.pid()));
        of_server.filter(|r| r.is_smcd()).count() >= 20
    };
    assert!(
        net::wait_until(Duration::from_secs(20), accelerated),
        "{:?}",
        lab.sockets()
    );
    let mut requests = 0;
    let calls = system_calls(&lab, server.pid(), || {
        let before = commands(&lab, port);
        std::thread::sleep(Duration::from_secs(3));
        requests = commands(&lab, port) - before;
    });
    load.stop();
    server.stop();
    assert!(requests > 10_000, "{requests} requests");
    assert!(
        total(&calls) * 50 < requests,
        "{requests} requests, {calls:?}"
    );
}

/// KiB of a process's arenas that it has touched.
fn arenas_touched(pid: u32) -> u64 {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut of_arena = false;
    let mut sum = 0;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Rss:") if of_arena => sum += words.next().unwrap().parse::<u64>().unwrap(),
            // The line that begins a mapping starts with its addresses.
            Some(word) if !word.ends_with(':') => of_arena = line.contains("smclo-arena"),
            _ => {}
        }
    }
    sum
}

/// Requests that are answered before the next one comes need a few pages of a ring, however many they are.
#[test]
fn small_messages_stay_at_the_start_of_the_ring() {
    if plain_only() {
        return;
    }
    const CLIENTS: u64 = 20;
    let lab = Lab::start();
    let port = net::free_port();
    let server = redis(&lab, true, port);
    let load = lab
        .eager("redis-benchmark")
        .words(&format!(
            "-p {port} -t set -d 100 -c {CLIENTS} -n 100000000"
        ))
        .limit(Duration::from_secs(100))
        .spawn();
    // Each of them has gone several times around a ring of 256 KiB then.
    let enough = || commands(&lab, port) > CLIENTS * 8000;
    assert!(net::wait_until(Duration::from_secs(90), enough));
    let rows = lab.sockets();
    let of_server = rows
        .iter()
        .filter(|r| r.number("pid") == u64::from(server.pid()));
    assert!(of_server.filter(|r| r.is_smcd()).count() as u64 >= CLIENTS);
    let touched = arenas_touched(server.pid());
    load.stop();
    server.stop();
    assert!(touched > 0, "there is an arena");
    assert!(touched < CLIENTS * 64, "{touched} KiB of the rings in use");
}

/// Idle, with accelerated connections: nothing beyond what it does without the library.
#[test]
fn idle_redis() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let [plain, shim] = [false, true].map(|shim| {
        let port = net::free_port();
        let server = redis(&lab, shim, port);
        let input = lab.dir().join(format!("input.{port}"));
        let mut open = tests::process::fifo(&input);
        let cli = if shim {
            lab.eager("redis-cli")
        } else {
            lab.plain("redis-cli")
        };
        let client = cli.words(&format!("-p {port}")).stdin(&input).spawn();
        use std::io::Write;
        for _ in 0..50 {
            writeln!(open, "incr n").unwrap();
        }
        let answered = || client.stdout().contains("50");
        assert!(net::wait_until(Duration::from_secs(10), answered));
        if shim {
            assert!(lab.sockets().iter().any(|r| r.is_smcd()));
        }
        let calls = system_calls(&lab, server.pid(), || {
            std::thread::sleep(Duration::from_secs(3));
        });
        drop(open);
        client.finish().ok();
        server.stop();
        calls
    });
    // Its timer runs ten times a second; the window is not exact.
    let most = total(&plain) * 5 / 4 + 5;
    assert!(total(&shim) <= most, "{plain:?}, under the shim {shim:?}");
    let odd = |name: &str| plain.iter().all(|(known, _)| known != name);
    let more: Vec<_> = shim.iter().filter(|(name, _)| odd(name)).collect();
    // epoll_pwait2 stands for epoll_wait.
    let epoll = more.iter().all(|(name, _)| name.starts_with("epoll_pwait"));
    assert!(epoll, "{more:?} are not in {plain:?}");
}

/// Nobody answers for a server's clients that are not under the library: after a few claims it makes them
/// seldom. A client that is under it comes onto the ring all the same.
#[test]
fn clients_without_the_library() {
    if plain_only() {
        return;
    }
    const SERVER: &str = "import selectors, socket, sys
set = selectors.DefaultSelector()
listener = socket.create_server(('127.0.0.1', int(sys.argv[1])), backlog=512)
set.register(listener, selectors.EVENT_READ)
while True:
    for key, _ in set.select():
        if key.fileobj is listener:
            set.register(listener.accept()[0], selectors.EVENT_READ)
        elif piece := key.fileobj.recv(4096):
            key.fileobj.sendall(piece)
        else:
            set.unregister(key.fileobj)
            key.fileobj.close()";
    const CLIENT: &str = "import itertools, socket, sys, time
port, count, size, turns, seconds = map(int, sys.argv[1:])
ends = [socket.create_connection(('127.0.0.1', port)) for _ in range(count)]
until = time.monotonic() + seconds
for turn in itertools.count():
    if turn >= turns and time.monotonic() > until: break
    for end in ends: end.sendall(bytes([turn % 251]) * size)
    for end in ends: assert end.recv(size, socket.MSG_WAITALL) == bytes([turn % 251]) * size";
    let lab = Lab::start();
    let port = net::free_port();
    let args = |run: Run, program: &str, numbers: &[u32]| {
        let numbers = numbers.iter().map(u32::to_string);
        let run = run.args(["-c", program, &port.to_string()]).args(numbers);
        run.limit(Duration::from_secs(100))
    };
    let shim = || lab.shim("python3").policy(tests::Policy::Default);
    let server = args(shim(), SERVER, &[]).spawn().listening(port);
    let claimed_in_vain = |numbers: &[u32]| {
        let client = args(lab.plain("python3"), CLIENT, numbers).finish();
        assert!(client.success(), "{client}\n{}", server.stderr());
        let none_waits = || lab.stats().must("claims_waiting") == 0;
        assert!(net::wait_until(Duration::from_secs(10), none_waits));
        lab.info()["claims_unanswered"].as_u64().expect("a number")
    };
    let first = claimed_in_vain(&[80, 100, 40, 1]);
    assert!(first >= 64, "{first} claims");
    let second = claimed_in_vain(&[400, 100, 40, 0]);
    assert_eq!(first, second, "400 connections of 8000 bytes were claimed");
    let before = lab.stats();
    let client = args(shim(), CLIENT, &[4, 1000, 1000, 0]).finish();
    assert!(client.success(), "{client}\n{}", server.stderr());
    server.stop();
    let share = lab.settled().share_smc(&before);
    assert!(share > 0.5, "{share} over SMC");
}

/// Connections that end before they are worth a claim ask the kernel for nothing but what the program
/// does: with the same program, the same number of system calls.
#[test]
fn short_connections() {
    if plain_only() {
        return;
    }
    const MANY: u64 = 500;
    let program = format!(
        "import socket, sys
l = socket.create_server(('127.0.0.1', 0))
def short():
    a = socket.create_connection(l.getsockname())
    b, _ = l.accept()
    a.sendall(b'question'); b.recv(100)
    b.sendall(b'answer'); a.recv(100)
    b.close(); a.recv(100); a.close()
for _ in range(50): short()
print('ready', flush=True)
sys.stdin.readline()
for _ in range({MANY}): short()
print('done', flush=True)
sys.stdin.readline()
"
    );
    let lab = Lab::start();
    let [plain, shim] = [false, true].map(|shim| {
        let input = lab.dir().join(format!("input.{shim}"));
        let mut open = tests::process::fifo(&input);
        let run = if shim {
            lab.shim("python3").policy(tests::Policy::Default)
        } else {
            lab.plain("python3")
        };
        let run = run.arg("-c").arg(&program).stdin(&input).spawn();
        let said = |word: &str| {
            let there = || run.stdout().contains(word);
            assert!(net::wait_until(Duration::from_secs(20), there), "{word}");
        };
        said("ready");
        use std::io::Write;
        let calls = system_calls(&lab, run.pid(), || {
            writeln!(open, "go").unwrap();
            said("done");
        });
        writeln!(open, "end").unwrap();
        run.finish().ok();
        calls
    });
    assert!(total(&plain) > MANY * 10, "{plain:?}");
    let most = total(&plain) + MANY / 20;
    assert!(total(&shim) <= most, "{plain:?}, under the shim {shim:?}");
}

/// A child of a server looks at few pages of the library's.
#[test]
fn children() {
    if plain_only() {
        return;
    }
    let program = "import os, resource, socket
l = socket.create_server(('127.0.0.1', 0))
def child():
    a = socket.create_connection(l.getsockname())
    b, _ = l.accept()
    a.sendall(b'question')
    pid = os.fork()
    if pid == 0:
        b.recv(100); b.sendall(b'answer'); os._exit(0)
    b.close(); a.recv(100); a.close(); os.waitpid(pid, 0)
faults = lambda: resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt
for _ in range(10): child()
before = faults()
for _ in range(100): child()
print((faults() - before) // 100)
";
    let lab = Lab::start();
    let [plain, shim] = [false, true].map(|shim| {
        let run = if shim {
            lab.shim("python3").policy(tests::Policy::Default)
        } else {
            lab.plain("python3")
        };
        let text = run.args(["-c", program]).finish().ok();
        text.trim().parse::<u64>().unwrap()
    });
    assert!(
        shim <= plain + 30,
        "{shim} page faults in each child, {plain} without the library"
    );
}

/// The two ends on a processor each, which two programs keep busy: whoever gives it away while spinning waits for
/// both of them, each time.
#[test]
fn crowded_machine() {
    let lab = Lab::start();
    let crowd: Vec<Running> = [0, 1, 0, 1]
        .map(|cpu| {
            let run = lab.plain("sh").args(["-c", "while :; do :; done"]);
            run.core(cpu).limit(Duration::from_secs(120)).spawn()
        })
        .into();
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..3 {
        for (shim, times) in [false, true].into_iter().zip(&mut times) {
            let port = net::free_port();
            let server = serve(under(&lab, shim, "redis-server").core(0), port);
            let began = Instant::now();
            under(&lab, shim, "redis-benchmark")
                .core(1)
                .words(&format!("-p {port} -t get -c 1 -n 3000 -q"))
                .limit(Duration::from_secs(100))
                .finish()
                .ok();
            times.push(began.elapsed());
            server.stop();
        }
    }
    for one in crowd {
        one.stop();
    }
    let share = lab.settled().share_smc(&Stats::zero());
    assert!(plain_only() || share > 0.5, "{share} over SMC");
    let [tcp, smc] = times.map(|mut times| {
        times.sort();
        times[1]
    });
    assert!(
        smc < 2 * tcp + Duration::from_millis(500),
        "{smc:?}, {tcp:?} on TCP"
    );
}

/// Two ends that sleep for each message, again and again on the same connection: each sleep is one call of epoll's in place
/// of a ppoll, which has to be followed by a read that silences the doorbell.
#[test]
fn a_bed_is_slept_in() {
    if plain_only() {
        return;
    }
    const MANY: u64 = 200;
    // Each lets the other fall asleep before it sends.
    const SERVER: &str = "import socket, sys, time
listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))
end, _ = listener.accept()
while piece := end.recv(64):
    time.sleep(0.001)
    end.sendall(piece)";
    const CLIENT: &str = "import socket, sys, time
end = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
for count in map(int, iter(sys.stdin.readline, '')):
    for turn in range(count):
        time.sleep(0.001)
        end.sendall(b'%d' % turn)
        assert end.recv(64) == b'%d' % turn
    print('done', count, flush=True)";
    let lab = Lab::start();
    let port = net::free_port();
    let input = lab.dir().join("input");
    let mut open = tests::process::fifo(&input);
    let run = |program| {
        let run = lab.eager("python3").env("SMCLO_SPIN_US", "0");
        run.args(["-c", program, &port.to_string()])
    };
    let server = run(SERVER).spawn().listening(port);
    let client = run(CLIENT).stdin(&input).spawn();
    let mut turns = |count: u64| {
        use std::io::Write;
        writeln!(open, "{count}").expect("a reader");
        let done = || client.stdout().contains(&format!("done {count}\n"));
        assert!(net::wait_until(Duration::from_secs(30), done), "{count}");
    };
    // Onto the ring, and to bed.
    turns(100);
    let mut of_client = Vec::new();
    let of_server = system_calls(&lab, server.pid(), || {
        of_client = system_calls(&lab, client.pid(), || turns(MANY));
    });
    drop(open);
    client.finish().ok();
    server.stop();
    let share = lab.settled().share_smc(&Stats::zero());
    assert!(share > 0.8, "{share} over SMC");
    for calls in [of_server, of_client] {
        let count = |names: &[&str]| -> u64 {
            let these = calls.iter().filter(|(name, _)| names.contains(&&**name));
            these.map(|(_, count)| count).sum()
        };
        // strace ends one sleep when it comes, and the client reads what it is to do.
        const FEW: u64 = 20;
        assert!(count(&["ppoll", "read"]) < FEW, "{calls:?}");
        let slept = count(&["epoll_wait", "epoll_pwait", "epoll_pwait2"]);
        assert!(
            (MANY / 2..MANY + FEW).contains(&slept),
            "{slept} of {calls:?}"
        );
    }
}

/// Connections that carry enough to be accelerated and are over soon: their reader waits in one receive when the
/// pair is made, and learns of it by bytes alone. A sender that waits for it first loses milliseconds each time.
#[test]
fn connections_that_are_over_soon() {
    const SERVER: &str = "import socket, sys
listener = socket.create_server(('127.0.0.1', int(sys.argv[1])), backlog=64)
while True:
    end, _ = listener.accept()
    while end.recv(65536): pass
    end.send(b'.')
    end.close()";
    const CLIENT: &str = "import socket, sys, time
began, piece = time.monotonic(), bytes(65536)
for _ in range(200):
    end = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
    for _ in range(32): end.sendall(piece)
    end.shutdown(socket.SHUT_WR)
    assert end.recv(1) == b'.'
    end.close()
print(time.monotonic() - began)";
    let lab = Lab::start();
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..3 {
        for (shim, times) in [false, true].into_iter().zip(&mut times) {
            let port = net::free_port();
            let start = |program: &str, core| {
                let run = match shim {
                    true => lab.shim("python3").policy(tests::Policy::Default),
                    false => lab.plain("python3"),
                };
                let run = run.args(["-c", program, &port.to_string()]);
                run.core(core).limit(Duration::from_secs(100))
            };
            let server = start(SERVER, 0).spawn().listening(port);
            let text = start(CLIENT, 1).finish().ok();
            times.push(Duration::from_secs_f64(text.trim().parse().unwrap()));
            server.stop();
        }
    }
    let share = lab.settled().share_smc(&Stats::zero());
    assert!(plain_only() || share > 0.01, "{share} over SMC");
    let [tcp, smc] = times.map(|mut times| {
        times.sort();
        times[1]
    });
    assert!(
        smc < 3 * tcp + Duration::from_millis(300),
        "{smc:?}, {tcp:?} on TCP"
    );
}
