//! An independent reading of our handshake: tshark has to see SMC on the wire, with our values.

use std::process::Command;
use std::time::Duration;
use tests::{Lab, ccase, net, plain_only};

const GID: &str = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";
const UEID: &str = "TEST.UEID-1";

/// What is asked of each message; tshark prints a line for each, fields in this order.
const FIELDS: [&str; 22] = [
    "smc.clc_msg",
    "smc.length",
    "smc.proposal.smc.version",
    "smc.proposal.smcv2.type",
    "smc.proposal.smc.type",
    "smc.proposal.eid",
    "smc.proposal.ismv2_gid_count",
    "smc.proposal.ism.gid",
    "smc.proposal.smc.chid",
    "smc.accept.smc.type",
    "smc.accept.eid",
    "smc.accept.smc.chid",
    "smc.accept.smc.version.relnum",
    "smc.accept.dmbe.buffer.size",
    "smc.confirm.smc.type",
    "smc.confirm.eid",
    "smc.confirm.smc.chid",
    "smc.confirm.smc.version.relnum",
    "smc.confirm.dmbe.buffer.size",
    "smc.confirm.dmb.token",
    "smc.accept.sender.server.ism.gid",
    "smc.confirm.sender.client.ism.gid",
];

fn tshark(args: &[&str]) -> String {
    let output = Command::new("tshark").args(args).output();
    let output = output.expect("tshark runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// SMC messages of a capture, one line of fields each. Our payload is random bytes, which other
/// dissectors may take for theirs: those that guess are turned off.
fn dissect(file: &str) -> Vec<Vec<String>> {
    let guessing = tshark(&["-G", "heuristic-decodes"]);
    let guessing = guessing.lines().filter_map(|line| {
        let mut columns = line.split('\t');
        let over_tcp = columns.next() == Some("tcp");
        columns.next().filter(|name| over_tcp && *name != "smc")
    });
    let mut args: Vec<&str> = guessing.flat_map(|p| ["--disable-protocol", p]).collect();
    args.extend(["-o", "tcp.try_heuristic_first:TRUE"]);
    args.extend(["-r", file, "-Y", "smc", "-T", "fields"]);
    args.extend(FIELDS.iter().flat_map(|field| ["-e", field]));
    let text = tshark(&args);
    let line = |l: &str| l.split('\t').map(|f| f.trim().to_owned()).collect();
    text.lines().map(line).collect()
}

fn field<'a>(message: &'a [String], name: &str) -> &'a str {
    let at = FIELDS
        .iter()
        .position(|f| *f == name)
        .expect("a known field");
    &message[at]
}

#[track_caller]
fn expect(message: &[String], wanted: &[(&str, &str)]) {
    for (name, value) in wanted {
        assert_eq!(field(message, name), *value, "{name} in {message:?}");
    }
}

#[test]
fn tshark_sees_smc() {
    let lab = Lab::start_with(&["--gid", GID, "--ueid", UEID]);
    let program = ccase::compile("talk");
    let port = net::free_port();
    let file = lab.dir().join("handshake.pcapng").display().to_string();
    let mut capture = lab
        .plain("tshark")
        .args(["-i", "lo", "-f", &format!("tcp port {port}"), "-w", &file])
        .spawn();
    let started = net::wait_until(Duration::from_secs(20), || {
        capture.stderr().contains("Capture started") || !capture.alive()
    });
    if !started || !capture.alive() {
        let said = capture.stderr();
        assert!(said.contains("permission"), "no capture: {said}");
        eprintln!("no right to capture: not checked");
        return;
    }

    let server = lab.eager(&program).words(&format!("serve {port} 1"));
    let server = server.spawn().listening(port);
    let client = lab.eager(&program).words(&format!("ask {port} 300 0"));
    client.finish().ok();
    server.finish().ok();
    // The capture is written with a delay of its own.
    std::thread::sleep(Duration::from_secs(1));
    capture.stop();

    let messages = dissect(&file);
    if plain_only() {
        assert!(messages.is_empty(), "{messages:?}");
        return;
    }
    let kinds: Vec<_> = messages.iter().map(|m| field(m, "smc.clc_msg")).collect();
    // 5 is ConfirmAck, which only libsmclo knows.
    assert_eq!(kinds, ["1", "2", "3", "5"], "{messages:?}");
    expect(
        &messages[0],
        &[
            ("smc.length", "224"),
            ("smc.proposal.smc.version", "2"),
            // SMC-D in v2, nothing in v1.
            ("smc.proposal.smcv2.type", "1"),
            ("smc.proposal.smc.type", "2"),
            ("smc.proposal.eid", UEID),
            // An emulated device has two entries; the first of each is the empty v1 field.
            ("smc.proposal.ismv2_gid_count", "2"),
            (
                "smc.proposal.ism.gid",
                "0x0000000000000000,0x6ba7b8109dad41d1,0x80b400c04fd430c8",
            ),
            ("smc.proposal.smc.chid", "0x0000,0xffff,0xffff"),
        ],
    );
    expect(
        &messages[1],
        &[
            ("smc.length", "130"),
            ("smc.accept.smc.type", "1"),
            ("smc.accept.sender.server.ism.gid", "0x6ba7b8109dad41d1"),
            ("smc.accept.eid", UEID),
            ("smc.accept.smc.chid", "0xffff"),
            ("smc.accept.smc.version.relnum", "1"),
            // 256 KiB
            ("smc.accept.dmbe.buffer.size", "4"),
        ],
    );
    expect(
        &messages[2],
        &[
            ("smc.length", "130"),
            ("smc.confirm.smc.type", "1"),
            ("smc.confirm.sender.client.ism.gid", "0x6ba7b8109dad41d1"),
            ("smc.confirm.eid", UEID),
            ("smc.confirm.smc.chid", "0xffff"),
            ("smc.confirm.smc.version.relnum", "1"),
            ("smc.confirm.dmbe.buffer.size", "4"),
        ],
    );
    let token = field(&messages[2], "smc.confirm.dmb.token");
    assert!(!token.is_empty() && token != "0x0000000000000000");
    lab.assert_clean();
}
