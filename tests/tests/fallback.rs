//! Where the other end cannot, or must not, speak SMC: TCP, byte for byte, and a reason.

use nix::sys::socket::{AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr};
use nix::sys::socket::{accept, bind, listen, recv, send, socket};
use protocol::{ctl, reason};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;
use tests::capture::{Capture, Flow, Payloads};
use tests::run::Running;
use tests::stats::Socket;
use tests::{Lab, Mode, Policy, Run, Stats, ccase, net, plain_only, process};

/// The hash of `tests/c/common.c`.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(1_469_598_103_934_665_603, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(1_099_511_628_211)
    })
}

/// The wire has carried what the client says that it sent, and its echo; nothing else.
fn check_wire(wire: &Payloads, port: u16, said: &str) {
    let mut flows = wire.iter().filter(|(flow, _)| flow.to == port);
    let (flow, sent) = flows.next().expect("a flow to the server");
    assert!(flows.next().is_none(), "one connection");
    assert_eq!(said, format!("{} {:016x}", sent.len(), fnv(sent)));
    let back = Flow {
        from: flow.to,
        to: flow.from,
    };
    assert!(wire[&back] == *sent, "the echo differs on the wire");
}

fn capture(port: u16) -> Option<Capture> {
    let wire = Capture::start(port);
    if wire.is_none() {
        eprintln!("no right to capture: the wire is not checked");
    }
    wire
}

/// Runs 300 exchanges, holds the connection while `look` looks, checks the wire.
fn talk(lab: &Lab, server: Run, client: Run, look: impl FnOnce(u16)) {
    let port = net::free_port();
    let wire = capture(port);
    let server = server
        .words(&format!("serve {port} 1"))
        .spawn()
        .listening(port);
    let client = client.words(&format!("ask {port} 300 1500")).spawn();
    let done = net::wait_until(Duration::from_secs(20), || client.stdout().contains('\n'));
    assert!(done, "the exchanges do not end");
    look(port);
    let said = client.finish().ok();
    assert_eq!(server.finish().ok(), "end 0\n");
    all_on_tcp(lab, port, wire, &said);
}

/// What the client says at its end is what the wire has carried.
fn all_on_tcp(lab: &Lab, port: u16, wire: Option<Capture>, said: &str) {
    let lines: Vec<_> = said.lines().collect();
    let [.., sent, "end"] = lines[..] else {
        panic!("{said}");
    };
    if let Some(wire) = wire {
        check_wire(&wire.finish(), port, sent);
    }
    if !plain_only() {
        assert_eq!(lab.settled().get("smc_bytes"), 0);
    }
}

/// The row of the connection says TCP, for `code`.
fn expect_reason(lab: &Lab, port: u16, code: u32) {
    if plain_only() {
        return;
    }
    let mut rows = Vec::new();
    let said = net::wait_until(Duration::from_secs(5), || {
        rows = lab.sockets();
        let mut mine = rows.iter().filter(|r| r.has_port(port));
        mine.any(|r| r.is_tcp_for(code))
    });
    assert!(said, "no row with {}: {rows:?}", reason::name(code));
}

fn expect_counted(lab: &Lab, code: u32) {
    if !plain_only() {
        let stats = lab.settled();
        let name = reason::name(code);
        assert!(stats.fallbacks(code) > 0, "no {name} in {}", stats.raw);
    }
}

#[test]
fn client_alone() {
    let lab = Lab::start();
    let program = ccase::compile("talk");
    talk(&lab, lab.plain(&program), lab.eager(&program), |port| {
        expect_reason(&lab, port, reason::NO_PEER_YET);
    });
    expect_counted(&lab, reason::NO_PEER_YET);
    lab.assert_clean();
}

#[test]
fn server_alone() {
    let lab = Lab::start();
    let program = ccase::compile("talk");
    talk(&lab, lab.eager(&program), lab.plain(&program), |port| {
        expect_reason(&lab, port, reason::NO_PEER_YET);
    });
    expect_counted(&lab, reason::NO_PEER_YET);
    lab.assert_clean();
}

/// A claim that nobody answers is taken back, so that the connection's calls are plain ones again.
#[test]
fn a_claim_is_given_up() {
    let lab = Lab::start();
    let program = ccase::compile("talk");
    let port = net::free_port();
    let server = lab.eager(&program).words(&format!("serve {port} 1"));
    let server = server.spawn().listening(port);
    let client = lab.plain(&program).words(&format!("pump {port} 4000"));
    let client = client.spawn();
    if !plain_only() {
        // There is no trace before the connection is considered.
        expect_reason(&lab, port, reason::NO_PEER_YET);
        let given_up = net::wait_until(Duration::from_secs(60), || {
            let traces = lab.ask(&format!("trace {port}"));
            let traces = traces.as_array().expect("traces");
            let mut events = traces.iter().filter_map(|t| t["events"].as_array());
            events.any(|events| events.iter().any(|e| e["event"] == "Withdrawn"))
        });
        assert!(given_up, "{}", lab.stats().raw);
        expect_reason(&lab, port, reason::NO_PEER_YET);
    }
    client.stop();
    server.stop();
}

/// One end claims at once and gives up; the other claims late. They meet all the same.
#[test]
fn a_late_claim_meets_the_other() {
    let lab = Lab::start();
    let program = ccase::compile("talk");
    let port = net::free_port();
    let server = lab.eager(&program).words(&format!("serve {port} 1"));
    let server = server.spawn().listening(port);
    let client = lab
        .shim(&program)
        .env("SMCLO_CLAIM_EXCHANGES", "1000000000")
        .env("SMCLO_CLAIM_BYTES", (8 << 20).to_string())
        .words(&format!("pump {port} 4000"))
        .spawn();
    if !plain_only() {
        let met = net::wait_until(Duration::from_secs(120), || {
            let rows = lab.sockets();
            let mine = rows.iter().filter(|r| r.has_port(port) && r.is_smcd());
            mine.count() == 2
        });
        assert!(met, "{:?}", lab.sockets());
    }
    client.stop();
    server.stop();
    lab.assert_clean();
}

/// An eager client that takes steps as it is told.
struct Steps {
    lab: Lab,
    port: u16,
    server: Running,
    client: Running,
    orders: File,
    steps: usize,
}

fn halt(program: &Running) {
    program.signal(libc::SIGSTOP);
    let halted = || process::stopped(program.pid());
    assert!(net::wait_until(Duration::from_secs(20), halted), "stopped");
}

impl Steps {
    fn begin(lab: Lab, port: u16, server: Run) -> Steps {
        let server = server.words(&format!("serve {port} 1"));
        let server = server.spawn().listening(port);
        let path = lab.dir().join("orders");
        let orders = process::fifo(&path);
        let client = lab.eager(ccase::compile("talk"));
        let client = client.words(&format!("steps {port}"));
        let client = client.stdin(&path).spawn();
        Steps {
            lab,
            port,
            server,
            client,
            orders,
            steps: 0,
        }
    }

    /// The client has claimed and wants its claim back, while the daemon, which stands still, has the server's
    /// claim before it: paired in that very moment.
    fn crossing() -> Steps {
        let begun = || {
            let lab = Lab::start();
            let server = lab
                .shim(ccase::compile("talk"))
                .env("SMCLO_CLAIM_EXCHANGES", "1000000000")
                .env("SMCLO_CLAIM_BYTES", "3700");
            let mut all = Steps::begin(lab, net::free_port(), server);
            all.step(1000);
            // One that asks while bytes are on their way asks again much later.
            let waits = || all.lab.stats().get("claims_waiting") == 1;
            net::wait_until(Duration::from_secs(5), waits).then_some(all)
        };
        let mut all = (0..5).find_map(|_| begun()).expect("claimed");
        // The doorbell with which it sleeps for the first time is not to take a place before the server's
        // claim in what the daemon finds.
        halt(&all.server);
        all.order(100);
        let sleeps = || net::unread(all.port) && process::sleeps(all.client.pid());
        assert!(net::wait_until(Duration::from_secs(20), sleeps), "asleep");
        all.server.signal(libc::SIGCONT);
        all.done();
        all.lab.stats();
        halt(all.lab.daemon().expect("a daemon"));
        // The server claims when it has received all of this, before it answers.
        all.step(1500);
        all.lose_patience();
        all
    }

    fn wake_daemon(&mut self) {
        self.lab.daemon().expect("a daemon").signal(libc::SIGCONT);
    }

    /// An exchange of so many bytes.
    fn step(&mut self, bytes: usize) {
        self.order(bytes);
        self.done();
    }

    fn order(&mut self, bytes: usize) {
        writeln!(self.orders, "{bytes}").expect("a client");
        self.steps += 1;
    }

    fn done(&self) {
        let done = format!("{}\n", self.steps);
        let over = || self.client.stdout().ends_with(&done);
        assert!(net::wait_until(Duration::from_secs(20), over), "{done}");
    }

    /// The client's claim, made after 1000 bytes, has waited for as long and for as many more, 4 KiB, as it does;
    /// the server's not yet.
    fn lose_patience(&mut self) {
        std::thread::sleep(Duration::from_millis(150));
        self.step(100);
        self.step(100);
    }

    /// Small steps until both rows of the connection are such, fewer than lead to the next claim.
    fn steps_until(&mut self, done: impl Fn(&Socket) -> bool) {
        for _ in 0..80 {
            self.step(10);
            let rows = self.lab.sockets();
            let mine = rows.iter().filter(|r| r.has_port(self.port));
            if mine.filter(|r| done(r)).count() == 2 {
                return;
            }
        }
        panic!("{:#}", self.traces());
    }

    fn traces(&self) -> serde_json::Value {
        self.lab.ask(&format!("trace {}", self.port))
    }

    /// What the client says.
    fn end(mut self) -> (Lab, String) {
        writeln!(self.orders, "0").expect("a client");
        let said = self.client.finish().ok();
        assert!(said.ends_with("end\n"));
        assert_eq!(self.server.finish().ok(), "end 0\n");
        self.lab.assert_clean();
        (self.lab, said)
    }
}

/// The claim is not given back any more, and the connection goes onto the ring.
#[test]
fn a_claim_taken_back_too_late() {
    if plain_only() {
        return;
    }
    let mut crossing = Steps::crossing();
    crossing.wake_daemon();
    crossing.steps_until(Socket::is_smcd);
    crossing.end();
}

/// Nor does the daemon answer for long: the client has gone on without. The server, for which there is a
/// pair when the daemon goes on, does not wait for the client, but is on TCP as cheaply as without. When both have
/// claimed once more, they get that pair.
#[test]
fn a_pair_that_one_end_never_takes() {
    if plain_only() {
        return;
    }
    let mut crossing = Steps::crossing();
    crossing.lose_patience();
    crossing.wake_daemon();
    crossing.steps_until(|row| row.is_tcp_for(reason::NO_PEER_YET));
    let over = net::wait_until(Duration::from_secs(20), || {
        crossing.step(100);
        let traces = crossing.traces();
        let traces = traces.as_array().expect("traces");
        let mut events = traces.iter().filter_map(|t| t["events"].as_array());
        events.any(|events| events.iter().any(|e| e["event"] == "HandshakeOver"))
    });
    assert!(over, "{:#}", crossing.traces());
    assert_eq!(crossing.lab.pairs(), 1);
    for _ in 0..3 {
        crossing.step(20_000);
    }
    crossing.steps_until(Socket::is_smcd);
    assert_eq!(crossing.lab.pairs(), 1);
    crossing.end();
}

/// A pair within one process of which one end finds no memory: when that end is closed, the other keeps
/// its own, which the daemon gives to nobody else.
#[test]
fn a_pair_of_which_one_end_is_there() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let input = lab.dir().join("input");
    let mut open = process::fifo(&input);
    let program = lab.eager(ccase::compile("half")).mode(Mode::Copy);
    let program = program.stdin(&input).spawn();
    let step = |open: &mut File, said: &str| {
        let there = || program.stdout().trim_end().ends_with(said);
        let there = net::wait_until(Duration::from_secs(20), there);
        assert!(there, "{}", program.stdout());
        let (pairs, rows) = (lab.pairs(), lab.sockets());
        writeln!(open).expect("a reader");
        (pairs, rows)
    };
    let (held, rows) = step(&mut open, "first");
    let fast = rows.iter().filter(|r| r.is_smcd()).count();
    assert_eq!((held, fast), (1, 2), "{rows:?}");
    let (held, rows) = step(&mut open, "half");
    let without = rows.iter().filter(|r| r.is_tcp_for(reason::MEM)).count();
    assert_eq!((held, without), (2, 1), "{rows:?}");
    let (held, rows) = step(&mut open, "closed");
    assert_eq!(held, 2, "{rows:?}");
    program.finish().ok();
    let given_back = || lab.pairs() == 0;
    assert!(net::wait_until(Duration::from_secs(20), given_back));
    lab.assert_clean();
}

#[test]
fn two_daemons() {
    let (lab, other) = (Lab::start(), Lab::start());
    let program = ccase::compile("talk");
    talk(&lab, lab.eager(&program), other.eager(&program), |port| {
        expect_reason(&lab, port, reason::NO_PEER_YET);
        expect_reason(&other, port, reason::NO_PEER_YET);
    });
    for lab in [&lab, &other] {
        expect_counted(lab, reason::NO_PEER_YET);
        lab.assert_clean();
    }
}

/// Two daemons that claim to be the same device: each knows only one end.
#[test]
fn two_daemons_with_one_gid() {
    let gid = ["--gid", "6ba7b810-9dad-41d1-80b4-00c04fd430c8"];
    let (lab, other) = (Lab::start_with(&gid), Lab::start_with(&gid));
    let program = ccase::compile("talk");
    talk(&lab, lab.eager(&program), other.eager(&program), |_| {});
    lab.assert_clean();
    other.assert_clean();
}

#[test]
fn no_daemon() {
    let lab = Lab::without_daemon();
    let program = ccase::compile("talk");
    let eager = || lab.eager(&program);
    let port = net::free_port();
    let wire = Capture::start(port);
    let server = eager().words(&format!("serve {port} 1")).spawn();
    let server = server.listening(port);
    let client = eager().env("SMC_DEBUG", "1");
    let client = client.words(&format!("ask {port} 300 0")).finish();
    let said = client.stderr.matches("NO_DAEMON").count();
    assert_eq!(said, usize::from(!plain_only()), "{}", client.stderr);
    let text = client.ok();
    assert_eq!(server.finish().ok(), "end 0\n");
    if let Some(wire) = wire {
        check_wire(&wire.finish(), port, text.lines().next().unwrap());
    }
}

/// As after an update: the daemon's answer has another version in its header.
#[test]
fn daemon_of_another_version() {
    let lab = Lab::without_daemon();
    let kind = (SockType::SeqPacket, SockFlag::SOCK_CLOEXEC);
    let listener = socket(AddressFamily::Unix, kind.0, kind.1, None).unwrap();
    let at = UnixAddr::new(&lab.socket()).unwrap();
    bind(listener.as_raw_fd(), &at).unwrap();
    listen(&listener, Backlog::new(8).unwrap()).unwrap();
    std::thread::spawn(move || {
        while let Ok(fd) = accept(listener.as_raw_fd()) {
            // SAFETY: just accepted.
            let session = unsafe { OwnedFd::from_raw_fd(fd) };
            let mut packet = [0; ctl::MAX_MESSAGE];
            let _ = recv(session.as_raw_fd(), &mut packet, MsgFlags::empty());
            let mut answer = packet[..ctl::HEADER_LEN].to_vec();
            answer[2..4].copy_from_slice(&(ctl::VERSION + 1).to_ne_bytes());
            answer[6..8].copy_from_slice(&(ctl::HEADER_LEN as u16).to_ne_bytes());
            let _ = send(session.as_raw_fd(), &answer, MsgFlags::empty());
        }
    });
    let program = ccase::compile("talk");
    let eager = || lab.eager(&program).env("SMC_DEBUG", "1");
    let port = net::free_port();
    let server = eager().words(&format!("serve {port} 1")).spawn();
    let server = server.listening(port);
    let client = eager().words(&format!("ask {port} 300 0")).finish();
    if !plain_only() {
        assert!(
            client.stderr.contains("another protocol version"),
            "{}",
            client.stderr
        );
    }
    client.ok();
    assert_eq!(server.finish().ok(), "end 0\n");
}

#[test]
fn one_daemon_and_none() {
    let (lab, none) = (Lab::start(), Lab::without_daemon());
    let program = ccase::compile("talk");
    talk(&lab, none.eager(&program), lab.eager(&program), |port| {
        expect_reason(&lab, port, reason::NO_PEER_YET);
    });
    lab.assert_clean();
}

#[test]
fn policy_off() {
    let lab = Lab::start();
    let program = ccase::compile("talk");
    let off = lab.shim(&program).policy(Policy::Off);
    talk(&lab, off, lab.eager(&program), |port| {
        expect_reason(&lab, port, reason::NO_PEER_YET);
    });
    let off = || lab.shim(&program).policy(Policy::Off);
    talk(&lab, off(), off(), |_| {});
    lab.assert_clean();
}

/// A daemon that does not answer delays nobody.
#[test]
fn daemon_stopped_from_the_start() {
    let mut lab = Lab::start();
    let program = ccase::compile("talk");
    if let Some(daemon) = lab.daemon() {
        daemon.signal(libc::SIGSTOP);
    }
    let port = net::free_port();
    let server = lab
        .eager(&program)
        .words(&format!("serve {port} 50"))
        .spawn();
    let server = server.listening(port);
    for _ in 0..50 {
        lab.eager(&program)
            .words(&format!("ask {port} 20 0"))
            .finish()
            .ok();
    }
    server.finish().ok();
    if let Some(daemon) = lab.daemon() {
        daemon.signal(libc::SIGCONT);
    }
    lab.assert_clean();
}

/// No DMB to be had: TCP, and the kernel's reason code for it.
#[test]
fn out_of_dmbs() {
    let lab = Lab::start_with(&["--max-dmbs", "1"]);
    let port = net::free_port();
    let wire = capture(port);
    let server = lab.eager(ccase::compile("talk"));
    let mut steps = Steps::begin(lab, port, server);
    // The refusal is read by the first call after it, and the row says so until the next claim, a megabyte later.
    let refused = net::wait_until(Duration::from_secs(20), || {
        steps.step(1000);
        let rows = steps.lab.sockets();
        let mut mine = rows.iter().filter(|r| r.has_port(port));
        plain_only() || mine.any(|r| r.is_tcp_for(reason::MAX_DMB))
    });
    assert!(refused, "{:#}", steps.traces());
    steps.step(60_000);
    let (lab, said) = steps.end();
    all_on_tcp(&lab, port, wire, &said);
}

/// Different transfer modes at both ends get on with each other.
#[test]
fn mixed_modes() {
    for modes in [
        [tests::Mode::Copy, tests::Mode::NoCopy],
        [tests::Mode::NoCopy, tests::Mode::Copy],
    ] {
        let lab = Lab::start();
        let program = ccase::compile("talk");
        let port = net::free_port();
        let run = |i: usize| lab.eager(&program).mode(modes[i]);
        let server = run(0).words(&format!("serve {port} 1")).spawn();
        let server = server.listening(port);
        run(1).words(&format!("ask {port} 2000 0")).finish().ok();
        assert_eq!(server.finish().ok(), "end 0\n");
        assert!(plain_only() || lab.settled().share_smc(&Stats::zero()) > 0.5);
        lab.assert_clean();
    }
}

/// A client that has asked its question and ended its direction: the answer goes over TCP. The end of
/// the stream counts as a byte with the kernel, which is none that went past the library.
#[test]
fn half_closed_from_the_start() {
    let program = "import socket, sys
l = socket.create_server(('127.0.0.1', 0))
a = socket.create_connection(l.getsockname())
a.sendall(b'question')
a.shutdown(socket.SHUT_WR)
b, _ = l.accept()
assert b.recv(100) == b'question'
for _ in range(50):
    b.sendall(b'answer' * 2000)
    assert a.recv(12000, socket.MSG_WAITALL) == b'answer' * 2000
print(l.getsockname()[1], flush=True)
sys.stdin.read()";
    let lab = Lab::start();
    let input = lab.dir().join("input");
    let open = tests::process::fifo(&input);
    let python = lab.eager("/usr/bin/python3").args(["-c", program]);
    let python = python.stdin(&input).spawn();
    let said = || python.stdout().ends_with('\n');
    assert!(
        net::wait_until(Duration::from_secs(30), said),
        "{}",
        python.stderr()
    );
    let port: u16 = python.stdout().trim().parse().expect("a port");
    if !plain_only() {
        let rows = lab.sockets();
        let mut rows = rows.iter();
        let server = rows.find(|r| {
            r.text("local").ends_with(&format!(":{port}")) && r.text("state") == "ACTIVE"
        });
        let server = server.unwrap_or_else(|| panic!("no row: {:?}", lab.sockets()));
        assert!(server.is_tcp_for(reason::PEER_CLOSING), "{server:?}");
    }
    drop(open);
    python.finish().ok();
    lab.assert_clean();
}
