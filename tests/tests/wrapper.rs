//! `scripts/smc_run`: starts a command under the shim, and a daemon when there is none.

use std::time::Duration;
use tests::{Lab, Run, artefacts, net, plain_only};

/// A copy of `smc_run` that finds the `smclo` under test in PATH.
fn smc_run(lab: &Lab) -> Run {
    let script = lab.dir().join("smc_run");
    let original = artefacts::workspace().join("scripts/smc_run");
    std::fs::copy(original, &script).expect("scripts/smc_run");
    let path = std::env::var("PATH").unwrap_or_default();
    lab.plain("sh")
        .arg(script)
        .env("PATH", format!("{}:{path}", artefacts::dir().display()))
        .env("SMCLO_LIB", artefacts::library())
        .env("SMCLO_SOCKET", lab.socket())
}

#[test]
fn arguments_and_status_are_kept() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let outcome = smc_run(&lab)
        .args(["sh", "-c", "printf '<%s>' \"$@\"; exit 7", "sh"])
        .args(["two  words", "it's", "", "-x", "$HOME", "*"])
        .finish();
    assert_eq!(outcome.stdout, "<two  words><it's><><-x><$HOME><*>");
    assert_eq!(outcome.code(), Some(7));
    let missing = smc_run(&lab).arg("/no/such/program").finish();
    assert_eq!(missing.code(), Some(127));
    let killed = smc_run(&lab).args(["sh", "-c", "kill -9 $$"]).finish();
    assert_eq!(killed.signal(), Some(libc::SIGKILL));
    lab.assert_clean();
}

#[test]
fn environment() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    // A library that every program has loaded anyway.
    let first = "libc.so.6";
    let text = smc_run(&lab)
        .env("LD_PRELOAD", first)
        .words("-r 1M -t 512K sh -c")
        .arg("echo \"$LD_PRELOAD $SMC_RCVBUF $SMC_SNDBUF\"")
        .finish()
        .ok();
    let library = artefacts::library();
    let preload = format!("{first}:{} ", library.display());
    assert!(text.starts_with(&preload), "{text}");
    let sizes = text.trim().split(' ').skip(1);
    assert!(
        sizes.clone().count() == 2 && sizes.clone().all(|s| !s.is_empty()),
        "{text}"
    );
    assert!(smc_run(&lab).arg("-h").finish().success());
    lab.assert_clean();
}

#[test]
fn both_ends_meet() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let port = net::free_port();
    let server = smc_run(&lab)
        .words(&format!("sockperf server --tcp -i 127.0.0.1 -p {port}"))
        .spawn()
        .listening(port);
    smc_run(&lab)
        .words(&format!(
            "sockperf ping-pong --mps 4000000 --tcp -i 127.0.0.1 -p {port} -t 1"
        ))
        .finish()
        .ok();
    server.stop();
    lab.assert_share(0.95);
}

/// The daemon that smc_run starts outlives the command and serves the next one.
#[test]
fn starts_a_daemon() {
    if plain_only() {
        return;
    }
    let lab = Lab::without_daemon();
    let mut pids = Vec::new();
    for _ in 0..2 {
        smc_run(&lab).arg("true").finish().ok();
        let text = lab
            .plain(artefacts::path("smclo"))
            .arg("--socket")
            .arg(lab.socket())
            .args(["info", "--json"])
            .finish()
            .ok();
        let info: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        pids.push(info["pid"].as_i64().expect("the daemon's pid") as i32);
    }
    // SAFETY: a signal to the daemon that serves our own socket.
    unsafe { libc::kill(pids[0], libc::SIGTERM) };
    assert_eq!(pids[0], pids[1], "a second daemon was started");
    let gone = net::wait_until(Duration::from_secs(10), || !lab.socket().exists());
    assert!(gone, "the daemon does not end on SIGTERM");
}
