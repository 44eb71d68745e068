//! What an operator sees of running programs: `smclo ss`, `stats`, `trace`.

use protocol::clc;
use protocol::reason;
use protocol::shm::ring::ring_size;
use serde_json::Value;
use std::io::{Read, Write};
use std::process::Command;
use std::time::Duration;
use tests::stats::Socket;
use tests::tool::Held;
use tests::{Lab, Mode, artefacts, net, plain_only, process, stage};

#[test]
fn ss_has_the_columns_of_smcss() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let held = lab.hold();
    let rows = lab.ask("ss -a -d");
    let rows = rows.as_array().unwrap();
    let ends: Vec<_> = rows.iter().filter(|r| r["mode"] == "SMCD").collect();
    assert_eq!(ends.len(), 2, "{rows:?}");
    for (row, pid) in ends.iter().zip(pids_in_order(&held)) {
        assert_eq!(row["state"], "ACTIVE");
        assert_eq!(row["pid"], pid);
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let socket = format!("socket:[{}]", row["inode"]);
        let mut links = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
        assert!(links.any(|l| l.to_str() == Some(&socket)), "{socket}");
        assert_eq!(row["gid"].as_str().unwrap().len(), 36, "all 128 bits");
        assert_eq!(row["token"].as_str().unwrap().len(), 16);
        assert_eq!(row["cursors"]["rx_flags"], "00:00");
    }
    // What one end has sent the other has received, as counted and as the cursors have it.
    assert_eq!(ends[0]["smc_tx_bytes"], ends[1]["smc_rx_bytes"]);
    assert_eq!(ends[0]["cursors"]["tx_prod"], ends[1]["cursors"]["rx_prod"]);
    let text = lab.smclo("ss -W").finish().ok();
    assert!(text.starts_with("State "), "{text}");
    let shown = text
        .lines()
        .filter(|l| l.contains("ACTIVE") && l.contains(" SMCD "));
    assert_eq!(shown.count(), 2, "{text}");
    assert!(text.contains(&format!("127.0.0.1:{}", held.port)) && !text.contains('\x1b'));
    held.end_cleanly(&lab);
}

/// The block of `smcd -d linkgroup`, and what the messages of the handshake say of the same.
#[test]
fn link_groups_as_smcd_shows_them() {
    if plain_only() {
        return;
    }
    let lab = Lab::start_with(&["--ueid", "OTHER.FIRST"]);
    let ring = 2 * u64::from(ring_size(256 << 10));
    for (mode, sndbuf) in [(Mode::NoCopy, 0), (Mode::Copy, ring)] {
        let held = lab.hold_with(|run| run.mode(mode));
        let groups = lab.ask("linkgroups");
        assert_eq!(groups.as_array().map(Vec::len), Some(1), "{groups}");
        let group = &groups[0];
        assert_eq!(group["pairs"], 1);
        assert_eq!(group["sndbuf_bytes"], sndbuf, "{group}");
        assert_eq!(group["dmb_bytes"], 512 << 10);
        let traces = lab.ask(&format!("trace {}", held.port));
        let messages = traces[0]["messages"].as_array().expect("messages");
        let accept = messages
            .iter()
            .map(|m| bytes_of(m["hex"].as_str().expect("hex")));
        let mut accept = accept.filter_map(|m| match clc::decode(&m) {
            Ok(clc::Message::Accept(accept)) => Some(accept.mode),
            _ => None,
        });
        let Some(clc::Mode::V2 {
            eid,
            first_contact: Some(first),
            ..
        }) = accept.next()
        else {
            panic!("{traces}");
        };
        let padded = |text: &Value| format!("{:<32}", text.as_str().expect("a text"));
        assert_eq!(padded(&group["eid"]).as_bytes(), eid);
        assert_eq!(padded(&group["peer_host"]).as_bytes(), first.hostname);
        assert_eq!(group["peer_release"], first.release);
        assert_eq!(
            (first.os, &group["peer_os"]),
            (clc::OS_LINUX, &"Linux".into())
        );

        let id = group["lgr"].as_str().expect("an id");
        let text = lab.smclo(&format!("linkgroups -d {id}")).finish().ok();
        for (name, value) in [
            ("LG-ID", id),
            ("VLAN", "0x0"),
            ("PNET-ID", "none"),
            ("Version", "2"),
            ("Peer-Rel", "1"),
            ("EID", "OTHER.FIRST"),
            ("#Conns", "1"),
            ("DMB", "524288 (524.3K)"),
            ("State", "active"),
        ] {
            let line = text.lines().find_map(|l| l.strip_prefix(name));
            let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
            assert_eq!(line.trim(), value, "{name} in {text}");
        }
        let list = lab.smclo(&format!("linkgroup {id}")).finish().ok();
        assert!(
            list.starts_with("LG-ID ") && list.lines().count() == 2,
            "{list}"
        );
        let none = lab.smclo("linkgroups ffff").finish();
        assert_eq!(none.code(), Some(1));
        assert!(none.stderr.contains("no link group 0000ffff"), "{none}");
        held.end_cleanly(&lab);
    }
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    let pairs = digits.map(|two| str::from_utf8(two).expect("ASCII"));
    pairs
        .map(|two| u8::from_str_radix(two, 16).expect("hex"))
        .collect()
}

/// The rules of the kernel's table, by the tool.
#[test]
fn eids_come_and_go() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let said = |words: &str| {
        let said = lab.smclo(words).finish();
        (said.code(), format!("{}{}", said.stdout, said.stderr))
    };
    let done = || (Some(0), String::new());
    assert_eq!(said("ueid show"), (Some(0), "SMCLO.DEFAULT-UEID\n".into()));
    for eid in ["A.1", "B.2", "C.3"] {
        assert_eq!(said(&format!("ueid add {eid}")), done());
    }
    let (code, why) = said("ueid add D.4");
    assert!(
        code == Some(1) && why.contains("four UEIDs already"),
        "{why}"
    );
    assert_eq!(said("ueid del B.2"), done());
    let (code, why) = said("ueid del B.2");
    assert!(code == Some(1) && why.contains("no such UEID"), "{why}");
    let (code, why) = said("ueid add A.1");
    assert!(code == Some(1) && why.contains("there already"), "{why}");
    assert!(
        said("seid").1.ends_with(" [disabled]\n"),
        "{:?}",
        said("seid")
    );
    // The last ones go, and something has to be left to match by.
    let (code, why) = said("ueid flush");
    assert!(
        code == Some(0) && why.contains("the SEID is enabled again"),
        "{why}"
    );
    assert_eq!(said("ueid"), done());
    assert!(said("seid").1.ends_with(" [enabled]\n"));
    let (code, why) = said("seid disable");
    assert!(code == Some(1) && why.contains("without a UEID"), "{why}");
    // It matches: the handshake succeeds, by the SEID.
    let held = lab.hold();
    let eid = lab.ask("linkgroups")[0]["eid"].clone();
    assert_eq!(eid, lab.ask("seid")["seid"]);
    held.end_cleanly(&lab);
}

fn pids_in_order(held: &Held) -> [u32; 2] {
    let mut pids = [held.server.pid(), held.client.pid()];
    pids.sort_unstable();
    pids
}

#[test]
fn stats_count_messages_by_size_process_and_user() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let held = lab.hold();
    let stats = lab.ask("stats");
    let sum = |v: &Value| {
        v.as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_u64)
            .sum::<u64>()
    };
    let (sent, received) = (sum(&stats["sent_sizes"]), sum(&stats["received_sizes"]));
    assert!(sent >= 200 && received >= 200, "{stats}");
    let programs = stats["processes"].as_array().unwrap();
    assert_eq!(programs.len(), 2);
    for program in programs {
        assert!(program["program"].as_str().unwrap().starts_with("talk"));
        assert_eq!(program["accelerated"], 1);
    }
    let bytes = |key| programs.iter().filter_map(|p| p[key].as_u64()).sum::<u64>();
    assert_eq!(bytes("smc_bytes"), stats["smc_bytes"].as_u64().unwrap());
    let uid = programs[0]["uid"].clone();
    let users = stats["users"].as_array().unwrap();
    let mine = users.iter().find(|u| u["uid"] == uid).unwrap();
    assert_eq!(mine["smc_bytes"], stats["smc_bytes"]);
    assert!(mine["dmb_bytes"].as_u64().unwrap() > 0);
    lab.smclo("stats reset").finish().ok();
    let zero = lab.ask("stats");
    assert_eq!(
        (&zero["smc_bytes"], &zero["accelerated"]),
        (&0.into(), &0.into())
    );
    assert_eq!(zero["processes"][0]["smc_bytes"], 0);
    held.end_cleanly(&lab);
}

#[test]
fn trace_tells_the_story_also_after_the_end() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let held = lab.hold();
    let events = |trace: &Value| -> Vec<String> {
        let events = trace["events"].as_array().unwrap();
        events
            .iter()
            .map(|e| e["event"].as_str().unwrap().to_owned())
            .collect()
    };
    let traces = lab.ask(&format!("trace {}", held.port));
    let traces = traces.as_array().unwrap();
    assert_eq!(traces.len(), 2);
    for trace in traces {
        let events = events(trace);
        let at = |name: &str| {
            let at = events.iter().position(|e| e == name);
            at.unwrap_or_else(|| panic!("no {name} in {events:?}"))
        };
        let story = ["Claimed", "Paired", "GateOpen", "ClcSent", "SendRing"];
        assert!(story.map(at).is_sorted(), "{events:?}");
        at("ReceiveRing");
        assert_eq!(trace["messages"].as_array().unwrap().len(), 4);
        assert_eq!(trace["closed"], false);
    }
    let port = held.port;
    held.end();
    lab.settled();
    // The programs are gone; what happened is still known.
    let file = lab.dir().join("clc.pcap").display().to_string();
    let text = lab
        .smclo(&format!("trace 127.0.0.1:{port} --pcap {file}"))
        .finish()
        .ok();
    assert!(
        text.contains("CLC message sent: Proposal, 224 bytes"),
        "{text}"
    );
    assert!(text.contains(", closed"), "{text}");
    assert_eq!(clc_types(&file), ["1", "2", "3", "5"]);
    let none = lab.smclo("trace 1").finish();
    assert_eq!(none.code(), Some(1));
    assert!(none.stderr.contains("no trace of such a connection"));
}

/// Types of the CLC messages that tshark finds, sorted.
fn clc_types(file: &str) -> Vec<String> {
    let args = ["-r", file, "-Y", "smc", "-T", "fields", "-e", "smc.clc_msg"];
    let output = Command::new("tshark").args(args).output().expect("tshark");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut types: Vec<_> = text.lines().map(str::to_owned).collect();
    types.sort();
    types
}

/// One request on the metrics port.
fn ask(port: u16, request: &str) -> String {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn metrics_are_served_when_asked_for() {
    if plain_only() {
        return;
    }
    let port = net::free_port();
    let lab = Lab::start_with(&["--metrics", &format!("127.0.0.1:{port}")]);
    let held = lab.hold();
    // Askers that say nothing neither block the others nor pile up.
    let idle: Vec<_> = (0..40)
        .map(|_| std::net::TcpStream::connect(("127.0.0.1", port)).unwrap())
        .collect();
    let answer = ask(port, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains("version=0.0.4"));
    assert!(head.contains(&format!("Content-Length: {}", body.len())));
    assert!(
        body.contains("smclo_connections_total{outcome=\"accelerated\"} 2"),
        "{body}"
    );
    assert!(!body.contains("uid="), "the port is everybody's");
    let served = tests::prometheus::read(body);
    let told_text = lab.smclo("stats --prometheus").finish().ok();
    let told = tests::prometheus::read(&told_text);
    for (name, family) in &served {
        assert_eq!(family.kind, told[name].kind, "{name}");
        assert!(
            !family.samples.is_empty()
                || ["smclo_fallbacks_total", "smclo_tcp_connections"].contains(&name.as_str()),
            "{name}"
        );
    }
    let all = told.keys().filter(|name| !served.contains_key(*name));
    assert!(
        all.clone().all(|name| name.starts_with("smclo_user_")),
        "{all:?}"
    );
    // By the judge that Prometheus itself brings; and so are the alerts that are installed.
    if stage::wanted("promtool") {
        let page = lab.dir().join("metrics");
        std::fs::write(&page, &told_text).unwrap();
        let judged = lab.plain("promtool").words("check metrics").stdin(&page);
        let judged = judged.finish();
        assert!(judged.success() && judged.stderr.is_empty(), "{judged}");
        let alerts = artefacts::workspace().join("packaging/prometheus");
        let judged = lab.plain("promtool").words("test rules");
        judged.arg(alerts.join("test.yml")).finish().ok();
        // What they ask for exists.
        let rules = std::fs::read_to_string(alerts.join("alerts.yml")).unwrap();
        let names = rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for name in names.filter(|name| name.starts_with("smclo_")) {
            assert!(told.contains_key(name), "{name}");
        }
    }
    assert!(ask(port, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    assert!(ask(port, "nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
    let text = lab.smclo("stats --prometheus").finish().ok();
    assert!(text.contains("smclo_user_bytes_total{uid="), "{text}");
    drop(idle);
    held.end_cleanly(&lab);
}

/// Its program has not entered the addresses of a connection without traffic: the tool finds them.
#[test]
fn ss_knows_the_ends_of_a_quiet_connection() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let program = "import socket, sys
l = socket.create_server(('127.0.0.1', 0))
a = socket.create_connection(l.getsockname())
b, _ = l.accept()
print(a.getsockname()[1], l.getsockname()[1], flush=True)
sys.stdin.readline()
c = b.dup()
b.close()
print('duplicated', flush=True)
sys.stdin.readline()
";
    let input = lab.dir().join("input");
    let mut open = tests::process::fifo(&input);
    let run = lab.eager("python3").arg("-c").arg(program).stdin(&input);
    let run = run.spawn();
    let said = |word: &str| {
        let there = || run.stdout().contains(word);
        assert!(net::wait_until(Duration::from_secs(20), there), "{word}");
    };
    let shown = || -> Vec<[String; 2]> {
        let rows = lab.ask("ss");
        let rows = rows.as_array().unwrap().iter();
        let ends = rows.map(|row| {
            assert_ne!(row["inode"], 0, "{row}");
            ["local", "peer"].map(|end| row[end].as_str().unwrap().to_string())
        });
        let mut ends: Vec<_> = ends.collect();
        ends.sort();
        ends
    };
    said("\n");
    let ports = run.stdout();
    let ports: Vec<_> = ports.split_whitespace().collect();
    let [near, far] = [ports[0], ports[1]].map(|port| format!("127.0.0.1:{port}"));
    let mut expected = vec![[near.clone(), far.clone()], [far, near]];
    expected.sort();
    assert_eq!(shown(), expected);
    // The number under which it was accepted means nothing any more.
    writeln!(open, "go").unwrap();
    said("duplicated");
    assert_eq!(shown(), expected);
    writeln!(open, "end").unwrap();
    run.finish().ok();
    lab.assert_clean();
}

/// A daemon that was started anew (an upgrade of the package): connections go on, and are known to it
/// although nobody claims anything. What an event loop slept and spun counts too.
#[test]
fn a_new_daemon_knows_the_old_connections() {
    if plain_only() {
        return;
    }
    let mut lab = Lab::start();
    let port = net::free_port();
    let server = "import select, socket, sys, time
l = socket.create_server(('127.0.0.1', int(sys.argv[1])))
c, _ = l.accept()
c.setblocking(False)
e = select.epoll()
e.register(c, select.EPOLLIN)
while True:
    e.poll()
    data = c.recv(100)
    if not data:
        break
    time.sleep(0.002)
    c.send(data)
";
    let client = "import socket, sys, time
c = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
c.send(b'x')
while c.recv(100):
    time.sleep(0.002)
    c.send(b'x')
";
    let start = |program: &str| {
        let run = lab.eager("python3").args(["-c", program]);
        run.arg(port.to_string()).spawn()
    };
    let server = start(server).listening(port);
    let client = start(client);
    let both = |lab: &Lab| {
        let sockets = lab.sockets();
        [server.pid(), client.pid()].iter().all(|pid| {
            let mine = |s: &Socket| s.number("pid") == u64::from(*pid) && s.is_smcd();
            sockets.iter().any(mine)
        })
    };
    let known = |lab: &Lab| net::wait_until(Duration::from_secs(30), || both(lab));
    assert!(known(&lab), "{:?}", lab.sockets());
    for _ in 0..2 {
        lab.kill_daemon();
        lab.start_daemon();
        assert!(known(&lab), "{:?}", lab.sockets());
    }
    // Only the daemon that has paired them could have sent them back.
    let refused = lab.smclo(&format!("revert {}", client.pid())).finish();
    assert_eq!(refused.code(), Some(1), "{refused}");
    let why = "1 connections stay where they are: a smclod that has ended";
    assert!(refused.stderr.contains(why), "{refused}");
    for pid in [server.pid(), client.pid()] {
        let slept = |lab: &Lab| {
            let stats = lab.ask("stats");
            let programs = stats["processes"].as_array().unwrap().clone();
            let of = |p: &Value| p["pids"].as_array().unwrap().contains(&pid.into());
            let mine = programs.into_iter().find(of);
            mine.is_some_and(|p| p["sleeps"].as_u64() > Some(10))
        };
        let enough = net::wait_until(Duration::from_secs(30), || slept(&lab));
        assert!(enough, "{}", lab.ask("stats"));
    }
    client.stop();
    server.stop();
}

/// Python that makes short connections.
const PAIRS: &str = "
import os, socket, sys, time
l = socket.create_server(('127.0.0.1', 0))
def pair():
    a = socket.create_connection(l.getsockname()); b, _ = l.accept()
    a.sendall(b'question'); b.recv(100); b.sendall(b'answer'); a.recv(100)
    return a, b";

/// Connections that are not worth a claim yet are listed, with their ends and their bytes, and counted when they have
/// ended.
#[test]
fn short_connections_are_told_of() {
    if plain_only() {
        return;
    }
    const PROGRAM: &str = "
for _ in range(50):
    for end in pair(): end.close()
    time.sleep(0.001)
print(l.getsockname()[1], flush=True)
sys.stdin.readline()
ends = [end for _ in range(5) for end in pair()]
print('open', flush=True)
sys.stdin.readline()
for end in ends: end.close()
print('closed', flush=True)
sys.stdin.readline()";
    let lab = Lab::start();
    let input = lab.dir().join("input");
    let mut open = process::fifo(&input);
    let run = lab.shim("python3").policy(tests::Policy::Default);
    let run = run
        .arg("-c")
        .arg([PAIRS, PROGRAM].concat())
        .stdin(&input)
        .spawn();
    let said = |word: &str| {
        let there = || run.stdout().contains(word);
        assert!(net::wait_until(Duration::from_secs(20), there), "{word}");
    };
    said("\n");
    let port = run.stdout().trim().parse().expect("a port");
    let before = lab.stats();
    writeln!(open, "go").unwrap();
    said("open");
    let rows = lab.sockets().into_iter().filter(|row| row.has_port(port));
    let rows: Vec<_> = rows.filter(|row| row.text("mode") == "TCP").collect();
    assert_eq!(rows.len(), 10, "{rows:?}");
    for row in &rows {
        let moved = [row.number("tcp_tx_bytes"), row.number("tcp_rx_bytes")];
        let client = row.raw["client"].as_bool().expect("an end");
        assert_eq!(moved, if client { [8, 6] } else { [6, 8] }, "{row:?}");
        assert!(row.is_tcp_for(reason::NOT_YET), "{row:?}");
        assert_eq!(row.number("pid"), u64::from(run.pid()), "{row:?}");
    }
    let clients = rows.iter().filter(|row| row.raw["client"] == true);
    assert_eq!(clients.count(), 5, "{rows:?}");
    let counted = |stats: tests::Stats| {
        let fallbacks = stats.fallbacks(reason::NOT_YET) - before.fallbacks(reason::NOT_YET);
        let plain = stats.must("plain") - before.must("plain");
        (plain, fallbacks, stats.tcp_bytes() - before.tcp_bytes())
    };
    assert_eq!(counted(lab.stats()), (10, 10, 140));
    writeln!(open, "go").unwrap();
    said("closed");
    assert_eq!(counted(lab.stats()), (10, 10, 140));
    let rows = lab.sockets().into_iter().filter(|row| row.has_port(port));
    assert_eq!(rows.filter(|row| row.text("mode") == "TCP").count(), 0);
    writeln!(open, "go").unwrap();
    run.finish().ok();
}

/// A child that ends with such connections, or becomes another program, has none any more, though its parent goes on.
#[test]
fn short_connections_end_with_their_process() {
    if plain_only() {
        return;
    }
    const PROGRAM: &str = "
def rounds():
    for _ in range(50):
        for end in pair(): end.close()
        time.sleep(0.001)
rounds()
print(l.getsockname()[1], flush=True)
sys.stdin.readline()
child = os.fork()
if child == 0:
    rounds()
    ends = [end for _ in range(5) for end in pair()]
    if sys.argv[1] == 'exec': os.execv('/bin/true', ['true'])
    os._exit(0)
os.waitpid(child, 0)
print('over', flush=True)
sys.stdin.readline()";
    for how in ["exit", "exec"] {
        let lab = Lab::start();
        let input = lab.dir().join("input");
        let mut open = process::fifo(&input);
        let run = lab.shim("python3").policy(tests::Policy::Default);
        let run = run
            .arg("-c")
            .arg([PAIRS, PROGRAM].concat())
            .arg(how)
            .stdin(&input)
            .spawn();
        let said = |word: &str| {
            let there = || run.stdout().contains(word);
            assert!(net::wait_until(Duration::from_secs(20), there), "{word}");
        };
        said("\n");
        let before = lab.stats().must("plain");
        writeln!(open, "go").unwrap();
        said("over");
        let rows = lab.sockets().into_iter();
        let rows: Vec<_> = rows.filter(|row| row.text("mode") == "TCP").collect();
        assert!(rows.is_empty(), "{how}: {rows:?}");
        assert_eq!(lab.stats().must("plain") - before, 110, "{how}");
        writeln!(open, "go").unwrap();
        run.finish().ok();
    }
}
