//! System calls of the daemon that fail while it starts.

use std::path::Path;
use std::time::Duration;
use tests::peer::Session;
use tests::{Lab, Run, artefacts, net, plain_only};

/// The calls between its first own line and its first wait: name, of which file (its socket's path for `%`), which of them.
/// Those of loader and libc before that are theirs to report.
const CALLS: [(&str, Option<&str>, u32); 21] = [
    ("statx", Some("%.toml"), 1),
    ("openat", Some("%.toml"), 1),
    ("openat", Some("%.toml"), 2),
    ("signalfd4", None, 1),
    ("openat", Some("%.lock"), 1),
    ("flock", None, 1),
    ("statx", Some("%"), 1),
    ("socket", None, 1),
    ("bind", None, 1),
    ("openat", Some("%"), 1),
    ("chmod", None, 1),
    ("listen", None, 1),
    // In the place of standard output, and the descriptor that is kept for a time without any.
    ("openat", Some("/dev/null"), 1),
    ("openat", Some("/dev/null"), 2),
    ("socket", None, 2),
    ("getsockopt", None, 1),
    ("openat", Some("/proc/thread-self/ns/net"), 1),
    ("epoll_create1", None, 1),
    ("epoll_ctl", None, 1),
    ("epoll_ctl", None, 2),
    ("openat", Some("/proc/self/uid_map"), 1),
];
const ERRORS: [&str; 6] = ["ENOMEM", "EMFILE", "ENFILE", "ENOSPC", "EPERM", "EACCES"];

fn smclod(run: Run, socket: &Path) -> Run {
    run.arg("--socket")
        .arg(socket)
        .arg("--config")
        .arg(socket.with_extension("toml"))
        .args(["--ready-fd", "1"])
        .limit(Duration::from_secs(20))
}

/// It says what has failed and ends with an error, or serves all the same; the next one starts at the same path.
#[test]
fn a_call_fails() {
    if plain_only() {
        return;
    }
    let lab = Lab::without_daemon();
    let (socket, log) = (lab.dir().join("socket"), lab.dir().join("strace"));
    std::fs::write(socket.with_extension("toml"), "spin_us = 5\n").expect("a file");
    let (mut tried, mut served) = (0, Vec::new());
    for (call, file, when) in CALLS {
        for error in ERRORS {
            let what = format!("{call} {} {when} {error}", file.unwrap_or_default());
            // The daemon is the child, and strace a child of that.
            let mut run = Run::new(lab.dir(), "strace").args(["-D", "-qq", "-o"]);
            run = run.arg(&log).args(["-e", &format!("trace={call}")]);
            let inject = format!("inject={call}:error={error}:when={when}");
            run = run.args(["-e", &inject]);
            if let Some(file) = file {
                let file = file.replace('%', &socket.to_string_lossy());
                run = run.args(["-P", &file]);
            }
            let mut daemon = smclod(run.arg(artefacts::path("smclod")), &socket).spawn();
            let over = || !daemon.stdout().is_empty() || !daemon.alive();
            assert!(
                net::wait_until(Duration::from_secs(20), over),
                "{what}: hangs"
            );
            if daemon.alive() {
                drop(Session::join(&socket));
                daemon.signal(libc::SIGTERM);
                let outcome = daemon.finish();
                assert!(outcome.success(), "{what}: {outcome}");
                served.push(what);
            } else {
                let outcome = daemon.finish();
                let said = outcome.stderr.strip_prefix("smclod: ").unwrap_or("");
                // What has failed, before the error.
                let names = said.contains(": ") && !said.starts_with('E');
                assert!(outcome.code() == Some(1) && names, "{what}: {outcome}");
            }
            let trace = std::fs::read_to_string(&log).unwrap_or_default();
            assert!(trace.contains("(INJECTED)"), "{error} never came: {trace}");

            let mut next = smclod(Run::new(lab.dir(), artefacts::path("smclod")), &socket).spawn();
            let ready = || !next.stdout().is_empty() || !next.alive();
            assert!(net::wait_until(Duration::from_secs(20), ready));
            assert!(next.alive(), "{}", next.stop());
            drop(Session::join(&socket));
            next.signal(libc::SIGTERM);
            assert!(next.finish().success());
            tried += 1;
        }
    }
    println!(
        "{tried} calls failed, {} times it served: {served:#?}",
        served.len()
    );
}
