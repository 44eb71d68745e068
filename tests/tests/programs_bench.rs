//! sockperf and iperf3, as Debian ships them, with the shim at both ends.

use std::time::Duration;
use tests::{Lab, Mode, Run, net};

/// Share of the bytes that has to go over SMC.
const SHARE: f64 = 0.95;

fn mode(run: Run, mode: Mode) -> Run {
    if tests::plain_only() {
        run
    } else {
        run.mode(mode)
    }
}

fn sockperf(client: &str, how: Mode) {
    let lab = Lab::start();
    let port = net::free_port();
    let at = format!("--tcp -i 127.0.0.1 -p {port}");
    let server = mode(lab.shim("sockperf"), how)
        .words(&format!("server {at}"))
        .spawn()
        .listening(port);
    let text = mode(lab.shim("sockperf"), how)
        .words(&format!("{client} {at} -t 2"))
        .finish()
        .ok();
    assert!(text.contains("Summary:"), "{text}");
    // The client counts what came back; throughput mode has no answers.
    assert!(!client.contains("ping-pong") || text.contains("# dropped messages = 0"));
    server.stop();
    lab.assert_share(SHARE);
    lab.assert_clean();
}

// By itself sockperf has room for 600,000 messages a second, and fails when it meets more.

#[test]
fn sockperf_ping_pong() {
    sockperf(
        "ping-pong --mps 4000000 -m 14 --data-integrity",
        Mode::NoCopy,
    );
}

#[test]
fn sockperf_ping_pong_copy() {
    sockperf("ping-pong --mps 4000000 -m 14 --data-integrity", Mode::Copy);
}

#[test]
fn sockperf_ping_pong_large() {
    sockperf("ping-pong -m 60000 --data-integrity", Mode::NoCopy);
}

#[test]
fn sockperf_throughput() {
    sockperf("throughput -m 64000", Mode::NoCopy);
}

#[test]
fn sockperf_throughput_small() {
    sockperf("throughput -m 64", Mode::Copy);
}

fn iperf3(options: &str, how: Mode) {
    let lab = Lab::start();
    let port = net::free_port();
    let server = mode(lab.shim("iperf3"), how)
        .words(&format!("-s -B 127.0.0.1 -p {port}"))
        .spawn()
        .listening(port);
    let text = mode(lab.shim("iperf3"), how)
        .words(&format!("-c 127.0.0.1 -p {port} -t 2 -J {options}"))
        .limit(Duration::from_secs(40))
        .finish()
        .ok();
    let json: serde_json::Value = serde_json::from_str(&text).expect("iperf3 -J prints JSON");
    assert!(json.get("error").is_none(), "{text}");
    let received = json["end"]["sum_received"]["bytes"].as_f64();
    assert!(received.is_some_and(|n| n > 1e6), "{text}");
    server.stop();
    lab.assert_share(SHARE);
    lab.assert_clean();
}

#[test]
fn iperf3_upload() {
    iperf3("", Mode::NoCopy);
}

#[test]
fn iperf3_upload_copy() {
    iperf3("", Mode::Copy);
}

#[test]
fn iperf3_reverse() {
    iperf3("-R", Mode::NoCopy);
}

#[test]
fn iperf3_both_ways() {
    iperf3("--bidir", Mode::NoCopy);
}

#[test]
fn iperf3_eight_streams() {
    iperf3("-P 8", Mode::NoCopy);
}

#[test]
fn iperf3_sendfile() {
    iperf3("-Z", Mode::NoCopy);
}
