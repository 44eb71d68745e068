//! Programs that live longer than the daemon: what has come from one daemon, and from the next.

use std::cell::RefCell;
use std::fs::File;
use std::io::Write;
use std::time::Duration;
use tests::{Lab, Running, ccase, net, plain_only, process};

/// A server, and a client that has connections to it, as many as it is told.
struct Talkers {
    server: Running,
    client: Running,
    port: u16,
    input: File,
    place: u32,
}

impl Talkers {
    fn start(lab: &Lab) -> Talkers {
        let program = ccase::compile("talk");
        let port = net::free_port();
        let server = lab.eager(&program).words(&format!("events {port}"));
        let server = server.spawn().listening(port);
        let file = lab.dir().join("input");
        let input = process::fifo(&file);
        let client = lab.eager(&program).words(&format!("more {port}"));
        let client = client.stdin(&file).spawn();
        Talkers {
            server,
            client,
            port,
            input,
            place: 0,
        }
    }

    /// So many connections more, or less, the oldest ones; then all of them carry something.
    fn more(&mut self, number: i32) {
        self.place += 1;
        writeln!(self.input, "{number}").expect("a reader");
        let answer = format!("\n{}\n", self.place);
        let done = || format!("\n{}", self.client.stdout()).contains(&answer);
        let done = net::wait_until(Duration::from_secs(30), done);
        assert!(done, "step {}: {}", self.place, self.client.stdout());
    }

    /// They carry something until that has come about.
    fn until(&mut self, lab: &Lab, done: impl Fn(&Lab) -> bool) {
        let mut tries = 0..100;
        while !plain_only() && !done(lab) && tries.next().is_some() {
            // A daemon that was not there is looked for once in a second.
            self.more(0);
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(plain_only() || done(lab), "{:?}", lab.sockets());
    }

    fn end(self, lab: &Lab) {
        drop(self.input);
        self.client.finish().ok();
        self.server.stop();
        lab.assert_clean();
    }
}

/// Ends of connections on a ring.
fn fast(lab: &Lab) -> usize {
    lab.sockets().iter().filter(|r| r.is_smcd()).count()
}

/// Two processes whose connections come from one daemon and the next, which counts link groups and
/// pairs from the beginning again: none is taken for another, neither open nor closed.
#[test]
fn connections_of_two_daemons() {
    let mut lab = Lab::start();
    let mut talkers = Talkers::start(&lab);
    talkers.more(4);
    talkers.more(0);
    let all_fast = |lab: &Lab, count: usize| {
        let all = || plain_only() || fast(lab) == 2 * count;
        let all = net::wait_until(Duration::from_secs(20), all);
        assert!(all, "{:?}", lab.sockets());
    };
    all_fast(&lab, 4);
    for _ in 0..3 {
        lab.kill_daemon();
        lab.start_daemon();
        // Both are known to the new one before they ask it for anything.
        talkers.until(&lab, |lab| lab.sockets().len() >= 8);
        talkers.more(4);
        talkers.more(0);
        talkers.more(0);
        all_fast(&lab, 8);
        talkers.more(-4);
        talkers.more(4);
        talkers.more(0);
        all_fast(&lab, 8);
        talkers.more(-4);
    }
    talkers.end(&lab);
}

/// Two programs that live longer than the daemon: what its connections had, descriptors and memory, is given back when
/// they are closed, though both programs live on.
#[test]
fn nothing_is_kept_of_an_earlier_daemon() {
    let mut lab = Lab::start();
    let mut talkers = Talkers::start(&lab);
    let mut kept = Vec::new();
    for round in 0..5 {
        talkers.more(4);
        talkers.until(&lab, |lab| fast(lab) == 8);
        let mapped = |pid: u32| {
            let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
            maps.lines().filter(|l| l.contains("memfd:")).count()
        };
        kept.push([&talkers.server, &talkers.client].map(|one| {
            let pid = one.pid();
            (process::fd_count(pid), mapped(pid))
        }));
        // The connections of this daemon end under it, or under the next one.
        if round % 2 == 0 {
            lab.kill_daemon();
            lab.start_daemon();
            talkers.until(&lab, |lab| lab.sockets().len() >= 8);
            talkers.more(-4);
        } else {
            talkers.more(-4);
            lab.kill_daemon();
            lab.start_daemon();
        }
        // Established, or closed by one end only.
        let open = |state| net::has_socket("self", talkers.port, state);
        let ended = net::wait_until(Duration::from_secs(10), || !open("01") && !open("08"));
        assert!(ended, "connections are there yet");
    }
    // Beside a daemon's there are the other end's doorbell and a bed, once a sleep has needed them. Four daemons have left more.
    const LATER: usize = 2;
    for ends in &kept {
        for ((files, maps), (at_first, maps_at_first)) in ends.iter().zip(kept[0]) {
            assert!(*maps == maps_at_first, "{kept:?}");
            assert!(files.abs_diff(at_first) <= LATER, "{kept:?}");
        }
    }
    talkers.end(&lab);
}

/// A thread waits for what a connection never brings, whose peer has ended it and has done with all that came from an earlier
/// daemon: it does not look every millisecond, because nobody takes its doorbell.
#[test]
fn a_doorbell_for_nobody() {
    const SERVER: &str = "import socket, sys, time
listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))
def serve():
    end, _ = listener.accept()
    while (word := end.recv(1)) != b'q':
        if word == b'w': time.sleep(2)
        end.send(word)
    end.close()
serve()
serve()";
    const CLIENT: &str = "import select, socket, sys, threading
def connect():
    end = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
    talk(end, 100)
    return end
def talk(end, turns):
    for turn in range(turns):
        end.send(b'x')
        assert end.recv(1) == b'x'
old = new = connect()
for word in iter(sys.stdin.readline, ''):
    if word == 'talk\\n': talk(new, 2)
    elif word == 'next\\n':
        old.send(b'q')
        assert old.recv(1) == b''
        new = connect()
    elif word == 'wait\\n':
        new.send(b'w')
        poll = select.poll()
        poll.register(old, select.POLLPRI)
        waits = threading.Thread(target=lambda: print(poll.poll(1000)))
        waits.start()
        assert new.recv(1) == b'w'
        waits.join()
    print(word, end='', flush=True)
new.send(b'q')";
    let mut lab = Lab::start();
    let port = net::free_port();
    let file = lab.dir().join("input");
    let input = RefCell::new(process::fifo(&file));
    let run = |program| {
        lab.eager("python3")
            .args(["-c", program, &port.to_string()])
    };
    let server = run(SERVER).spawn().listening(port);
    let client = run(CLIENT).stdin(&file).spawn();
    let answers = |word: &str| client.stdout().lines().filter(|l| *l == word).count();
    let tell = |word: &str| {
        let before = answers(word);
        writeln!(input.borrow_mut(), "{word}").expect("a reader");
        let done = net::wait_until(Duration::from_secs(30), || answers(word) > before);
        assert!(done, "{word}: {}", client.stderr());
    };
    // What the newest connection says may be over before its pair has come.
    let on_rings = |lab: &Lab, ends: usize| {
        let all = || {
            tell("talk");
            plain_only() || fast(lab) == ends
        };
        let all = net::wait_until(Duration::from_secs(20), all);
        assert!(all, "{:?}", lab.sockets());
    };
    on_rings(&lab, 2);
    lab.kill_daemon();
    lab.start_daemon();
    let known = |lab: &Lab| plain_only() || lab.sockets().len() >= 2;
    let mut tries = 0..100;
    while !known(&lab) && tries.next().is_some() {
        // A daemon that was not there is looked for once in a second.
        tell("talk");
        std::thread::sleep(Duration::from_millis(50));
    }
    tell("next");
    // One of them is what is left of the old connection.
    on_rings(&lab, 3);
    let before = lab.stats();
    tell("wait");
    assert_eq!(answers("[]"), 1, "{}", client.stdout());
    let slept = lab.stats().get("sleeps") - before.get("sleeps");
    assert!(slept < 100, "{slept} sleeps");
    drop(input);
    client.finish().ok();
    server.finish().ok();
    lab.assert_clean();
}
