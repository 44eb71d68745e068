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

/// A web server on all loopback addresses under the host's policy `file`, and a `client` that asks it at
/// `address`: whether bytes go over SMC.
fn check_rule(file: &str, address: &str, client: &str, user: &[&str], expected: bool) {
    let config = tempfile(file);
    let lab = Lab::start_with(&["--config", &config.display().to_string()]);
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(lab.dir(), fs::Permissions::from_mode(0o777)).unwrap();
    let port = net::free_port();
    let text = net::nginx_config(lab.dir(), port, 1, "location / { return 200 answer; }");
    let text = text.replace(&format!("127.0.0.1:{port}"), &format!("0.0.0.0:{port}"));
    fs::write(lab.dir().join("nginx.conf"), text).unwrap();
    let server = lab
        .shim("nginx")
        .args(["-e", "nginx.err", "-c", "nginx.conf", "-p"])
        .arg(lab.dir())
        .through(user)
        .spawn()
        .listening(port);
    let ask = || {
        let run = lab.shim(client).through(user);
        if client == "curl" {
            // 2,000 requests on one connection.
            let run = run.words("-sS --noproxy * -o /dev/null");
            return run.arg(format!("http://{address}:{port}/[1-2000]"));
        }
        let script = format!(
            "import http.client
c = http.client.HTTPConnection('{address}', {port})
for i in range(2000):
    c.request('GET', '/'); assert c.getresponse().read() == b'answer'"
        );
        run.args(["-c", &script])
    };
    // Again, should the requests have been over before the handshake was.
    for _ in 0..if expected { 100 } else { 1 } {
        ask().finish().ok();
        if lab.stats().smc_bytes() > 0 {
            break;
        }
    }
    server.stop();
    let stats = lab.settled();
    let refused = stats.fallbacks(reason::POLICY_OFF) > 0;
    let fast = stats.smc_bytes() > 0;
    assert!(stats.tcp_bytes() > 0 || fast, "{}", stats.raw);
    // Who is off altogether claims nothing that could be refused.
    assert!(!(refused && fast), "{}", stats.raw);
    lab.assert_clean();
    fs::remove_file(config).unwrap();
    assert_eq!(fast, expected, "{file} {address} {client}: {}", stats.raw);
}

fn tempfile(text: &str) -> std::path::PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("smclo-test-policy-{}-{n}.toml", std::process::id());
    let path = std::env::temp_dir().join(name);
    fs::write(&path, format!("when = 'first-byte'\n{text}")).unwrap();
    path
}

const PYTHON: &str = "/usr/bin/python3";

/// Each rule with a client that it means, and with one that it does not.
#[test]
fn rules_and_real_programs() {
    if plain_only() {
        return;
    }
    let rule = |what: &str| format!("[[rule]]\n{what}\naccelerate = false");
    let address = rule("address = '127.0.0.2'");
    check_rule(&address, "127.0.0.2", "curl", &[], false);
    check_rule(&address, "127.0.0.1", "curl", &[], true);
    let net = rule("address = ['127.9.0.0/16', '::1']");
    check_rule(&net, "127.9.8.7", "curl", &[], false);
    let program = rule("program = ['curl', 'other*']");
    check_rule(&program, "127.0.0.1", "curl", &[], false);
    check_rule(&program, "127.0.0.1", PYTHON, &[], true);
}

/// By user, which only root can try.
#[test]
fn rules_for_a_user() {
    // SAFETY: geteuid cannot fail.
    if plain_only() || unsafe { libc::geteuid() } != 0 {
        return;
    }
    let nobody: &[&str] = &[
        "setpriv",
        "--reuid=nobody",
        "--regid=nogroup",
        "--clear-groups",
    ];
    let rule = "[[rule]]\nuid = 'nobody'\naccelerate = false";
    check_rule(rule, "127.0.0.1", "curl", nobody, false);
    check_rule(rule, "127.0.0.1", "curl", &[], true);
    let rule = "[[rule]]\nuid = 0\naccelerate = false";
    check_rule(rule, "127.0.0.1", "curl", nobody, true);
    check_rule(rule, "127.0.0.1", "curl", &[], false);
}
