//! `smclod` and `smclo` as programs.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const SMCLO: &str = env!("CARGO_BIN_EXE_smclo");
const SMCLOD: &str = env!("CARGO_BIN_EXE_smclod");

/// A directory of its own for each test, with a stand-in for the library that the loader accepts.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("smclo-{name}-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        // Any shared object will do; the C library is there already.
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let libc = maps
            .lines()
            .find_map(|l| l.split(' ').next_back().filter(|p| p.contains("libc.so")));
        std::os::unix::fs::symlink(libc.unwrap(), dir.join("libsmclo.so")).unwrap();
        Dir(dir)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("d.sock")
    }

    fn smclo(&self, args: &[&str]) -> Command {
        let mut command = Command::new(SMCLO);
        command.arg("--socket").arg(self.socket()).args(args);
        command.env("SMCLO_LIB", self.0.join("libsmclo.so"));
        command
    }

    fn info(&self) -> Option<daemon::report::Info> {
        let out = self.smclo(&["info", "--json"]).output().unwrap();
        out.status
            .success()
            .then(|| serde_json::from_slice(&out.stdout).unwrap())
    }

    fn daemon(&self) -> Child {
        let mut command = Command::new(SMCLOD);
        command
            .arg("--socket")
            .arg(self.socket())
            .stderr(Stdio::null());
        let child = command.spawn().unwrap();
        wait(|| self.info().is_some());
        child
    }

    /// Stops the daemon that answers, by the number that it gives itself.
    fn stop(&self) {
        if let Some(info) = self.info() {
            signal(info.pid, nix::sys::signal::Signal::SIGTERM);
            wait(|| !self.socket().exists());
        }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        self.stop();
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn signal(pid: u32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal).unwrap();
}

fn wait(done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "nothing happens");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn text(out: &[u8]) -> &str {
    std::str::from_utf8(out).unwrap()
}

fn error(out: &Output) -> (i32, &str) {
    (out.status.code().unwrap(), text(&out.stderr))
}

#[test]
fn one_daemon_per_socket_and_a_clean_end() {
    let dir = Dir::new("one");
    let mut first = dir.daemon();
    let meta = fs::symlink_metadata(dir.socket()).unwrap();
    assert!(meta.file_type().is_socket());
    let second = Command::new(SMCLOD)
        .arg("--socket")
        .arg(dir.socket())
        .output()
        .unwrap();
    let (code, why) = error(&second);
    assert_eq!(code, 1);
    assert!(why.contains("another smclod listens"), "{why}");

    signal(first.id(), nix::sys::signal::Signal::SIGTERM);
    assert!(first.wait().unwrap().success());
    assert!(!dir.socket().exists());
}

#[test]
fn a_stale_socket_is_no_obstacle_but_a_file_is() {
    let dir = Dir::new("stale");
    let mut first = dir.daemon();
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(dir.socket().exists());
    let mut second = dir.daemon();
    dir.stop();
    second.wait().unwrap();

    fs::write(dir.socket(), "precious").unwrap();
    let refused = Command::new(SMCLOD)
        .arg("--socket")
        .arg(dir.socket())
        .output()
        .unwrap();
    assert!(error(&refused).1.contains("not a socket"));
    assert_eq!(fs::read_to_string(dir.socket()).unwrap(), "precious");
    fs::remove_file(dir.socket()).unwrap();
}

#[test]
fn without_a_daemon_the_tool_says_where_it_looked() {
    let dir = Dir::new("none");
    let out = dir.smclo(&["ss"]).output().unwrap();
    let (code, why) = error(&out);
    assert_eq!(code, 1);
    assert!(
        why.contains("d.sock (not there)") && why.contains("smclo run"),
        "{why}"
    );
    for bad in [
        &["nonsense"][..],
        &["ueid", "add", "low"],
        &["run", "-r", "1x", "true"],
        &["run"],
    ] {
        assert_eq!(
            dir.smclo(bad).output().unwrap().status.code(),
            Some(2),
            "{bad:?}"
        );
    }
}

#[test]
fn run_is_the_command() {
    let dir = Dir::new("run");
    let script =
        r#"printf '%s|' "$@" "$SMC_RCVBUF" "$SMC_SNDBUF" "$SMC_DEBUG" "$LD_PRELOAD"; exit 7"#;
    let args = [
        "run",
        "-d",
        "-r",
        "64k",
        "sh",
        "-c",
        script,
        "sh",
        "a  b",
        "it's \"q\"",
        "-x",
        "",
    ];
    let out = dir.smclo(&args).env("SMC_SNDBUF", "77").output().unwrap();
    assert_eq!(out.status.code(), Some(7));
    let got = text(&out.stdout);
    assert!(got.starts_with("a  b|it's \"q\"|-x||65536|77|1|"), "{got}");
    let info = dir.info().expect("a daemon was started");

    // The daemon is nobody's child, has no terminal, and holds nothing of the caller's.
    let stat = fs::read_to_string(format!("/proc/{}/stat", info.pid)).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_ne!(fields[1], std::process::id().to_string(), "parent");
    assert_ne!(fields[3], info.pid.to_string(), "session leader");
    let again = dir.smclo(&["run", "true"]).output().unwrap();
    assert!(again.status.success());
    assert_eq!(dir.info().unwrap().pid, info.pid);

    let missing = dir.smclo(&["run", "/nonexistent/x"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(127));
    let plain = dir.0.join("plain");
    fs::write(&plain, "x").unwrap();
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = dir
        .smclo(&["run", plain.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(126));
}

#[test]
fn starters_race_for_one_daemon() {
    let dir = Dir::new("race");
    let start = |_| {
        dir.smclo(&["run", "true"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let runs: Vec<Child> = (0..6).map(start).collect();
    for run in runs {
        let out = run.wait_with_output().unwrap();
        assert!(out.status.success());
        assert_eq!(text(&out.stderr), "");
    }
    assert!(dir.info().is_some());
}

#[test]
fn run_needs_the_library() {
    let dir = Dir::new("lib");
    let out = dir
        .smclo(&["run", "true"])
        .env("SMCLO_LIB", "/nonexistent.so")
        .output()
        .unwrap();
    let (code, why) = error(&out);
    assert_eq!(code, 1);
    assert!(why.contains("libsmclo.so not found"), "{why}");
}

#[test]
fn smc_run_passes_everything_on() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/smc_run");
    let dir = Dir::new("wrapper");
    // The script prefers what lies beside it.
    let copy = dir.0.join("smc_run");
    fs::copy(script, &copy).unwrap();
    std::os::unix::fs::symlink(SMCLO, dir.0.join("smclo")).unwrap();
    // Not started itself: another test's child may still hold the copy open for writing.
    let mut command = Command::new("sh");
    command.arg(copy).args([
        "-t",
        "1m",
        "sh",
        "-c",
        r#"printf '%s|' "$@" $SMC_SNDBUF"#,
        "sh",
        "a b",
        "'",
    ]);
    command
        .env("SMCLO_SOCKET", dir.socket())
        .env("SMCLO_LIB", dir.0.join("libsmclo.so"));
    let out = command.output().unwrap();
    assert_eq!(text(&out.stdout), "a b|'|1048576|", "{}", text(&out.stderr));
}
