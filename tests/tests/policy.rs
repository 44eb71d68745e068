//! Policy files and real programs, started with plain LD_PRELOAD.

use protocol::reason;
use std::fs;
use std::time::Duration;
use tests::{Lab, Outcome, Run, artefacts, ccase, net, plain_only};

/// Both ends with a user's file (and whatever `change` adds); they end after `count` exchanges.
fn talk(lab: &Lab, file: &str, count: u32, change: impl Fn(Run) -> Run) -> u16 {
    let config = lab.dir().join("smclo.toml");
    fs::write(&config, file).unwrap();
    let program = ccase::compile("talk");
    let port = net::free_port();
    let shim = || change(lab.shim(&program).env("SMCLO_CONFIG", &config));
    let server = shim().words(&format!("serve {port} 1")).spawn();
    let server = server.listening(port);
    shim().words(&format!("ask {port} {count} 0")).finish().ok();
    server.finish().ok();
    port
}

#[test]
fn off_for_a_program() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    talk(&lab, "accelerate = false", 300, |run| run);
    let stats = lab.settled();
    assert_eq!(stats.smc_bytes(), 0);
    assert!(stats.tcp_bytes() > 0);
    // The environment has the last word.
    talk(&lab, "accelerate = false", 20_000, |run| {
        run.env("SMCLO_POLICY", "default")
    });
    assert!(lab.settled().smc_bytes() > 0);
    lab.assert_clean();
}

#[test]
fn off_for_a_port() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let rule = "[[rule]]\nport = '1024-65535'\naccelerate = false";
    talk(&lab, rule, 300, |run| run);
    let stats = lab.settled();
    assert_eq!(
        (stats.smc_bytes(), stats.fallbacks(reason::POLICY_OFF)),
        (0, 2)
    );
    lab.assert_clean();
}

#[test]
fn thresholds_and_buffers() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    // Too few exchanges for the built-in threshold.
    talk(&lab, "", 4, |run| run);
    assert_eq!(lab.settled().smc_bytes(), 0);
    let config = lab.dir().join("early.toml");
    fs::write(&config, "claim_after_exchanges = 2\nreceive_buffer = '32k'").unwrap();
    let program = ccase::compile("talk");
    let port = net::free_port();
    let shim = || lab.shim(&program).env("SMCLO_CONFIG", &config);
    let server = shim().words(&format!("serve {port} 1")).spawn();
    let server = server.listening(port);
    let client = shim().words(&format!("ask {port} 20000 60000")).spawn();
    let up = net::wait_until(Duration::from_secs(10), || {
        lab.sockets()
            .iter()
            .any(|s| s.has_port(port) && s.number("smc_tx_bytes") > 0)
    });
    let sockets = lab.sockets();
    assert!(up, "{sockets:?}");
    let mine: Vec<_> = sockets.iter().filter(|s| s.is_smcd()).collect();
    assert!(mine.iter().all(|s| s.number("dmb") == 32 << 10), "{mine:?}");
    client.kill();
    server.finish();
    lab.assert_clean();
}

#[test]
fn no_daemon_and_an_odd_file_change_nothing() {
    let lab = Lab::without_daemon();
    for file in ["accelerate = false", "mode = ", &"#".repeat(20_000)] {
        talk(&lab, file, 20, |run| run);
    }
    let directory = lab.dir().display().to_string();
    talk(&lab, "", 20, |run| run.env("SMCLO_CONFIG", &directory));
}

fn check(lab: &Lab, file: &str, text: &str, args: &str) -> Outcome {
    let path = lab.dir().join(file);
    fs::write(&path, text).unwrap();
    lab.plain(artefacts::path("smclo"))
        .words("config check")
        .words(args)
        .arg(path)
        .finish()
}

#[test]
fn config_check_names_line_and_column() {
    let lab = Lab::without_daemon();
    let good = check(&lab, "good.toml", "spin_us = 5\nspinn = 1\n", "");
    assert!(good.success() && good.stdout.contains("good.toml:2:1: warning: unknown key"));
    assert!(good.stdout.contains(": valid"));
    let bad = check(&lab, "bad.toml", "\n[[rule]]\n  port = 0\n", "--json");
    assert_eq!(bad.code(), Some(1));
    let said: serde_json::Value = serde_json::from_str(&bad.stdout).unwrap();
    let finding = said[0]["findings"]
        .as_array()
        .unwrap()
        .iter()
        .find(|f| f["error"] == true);
    let finding = finding.unwrap();
    assert_eq!(
        (&finding["line"], &finding["column"]),
        (&3.into(), &10.into())
    );
    let missing = lab
        .plain(artefacts::path("smclo"))
        .words("config check /no/such/file")
        .finish();
    assert_eq!(missing.code(), Some(2));
    assert_eq!(
        missing.stderr,
        "smclo: /no/such/file: No such file or directory\n"
    );
}
