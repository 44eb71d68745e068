//! A temporary directory with a daemon of its own.

use crate::stats::{Socket, Stats};
use crate::{Outcome, Policy, Run, Running};
use crate::{artefacts, net, plain_only};
use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// Everything that one test needs; gone on drop.
#[derive(Debug)]
pub struct Lab {
    // Before `dir`, so that the daemon ends first.
    daemon: Option<Running>,
    dir: TempDir,
    args: Vec<String>,
    /// Words before the daemon's name.
    prefix: Vec<String>,
    /// `clients` of the daemon while nobody but the tool is connected.
    idle_clients: u64,
}

impl Lab {
    /// A laboratory with a running daemon (none when only plain TCP is tested).
    #[track_caller]
    pub fn start() -> Lab {
        Lab::start_with(&[])
    }

    /// As [`Lab::start`], with more arguments for `smclod`.
    #[track_caller]
    pub fn start_with(args: &[&str]) -> Lab {
        let mut lab = Lab::without_daemon();
        lab.args = args.iter().map(|a| a.to_string()).collect();
        lab.start_daemon();
        lab
    }

    /// As [`Lab::start`], with a policy file of the host, and open to all users.
    #[track_caller]
    pub fn start_for_all(policy: &str) -> Lab {
        Lab::start_for_all_through(&[], policy)
    }

    /// As [`Lab::start_for_all`], the daemon through another program that executes it.
    #[track_caller]
    pub fn start_for_all_through(prefix: &[&str], policy: &str) -> Lab {
        let mut lab = Lab::without_daemon();
        lab.prefix = prefix.iter().map(|a| a.to_string()).collect();
        let file = lab.dir().join("host.toml");
        fs::write(&file, policy).expect("a file in the temporary directory");
        lab.args = vec!["--config".into(), file.display().to_string()];
        lab.start_daemon();
        // The build may lie where only root can read.
        fs::copy(artefacts::library(), lab.open_library()).expect("a copy of the library");
        let open = |path: &Path| {
            let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            fs::set_permissions(path, all).expect("a path of ours");
        };
        open(lab.dir());
        if lab.daemon.is_some() {
            open(&lab.socket());
        }
        lab
    }

    /// The library in a laboratory for all users.
    pub fn open_library(&self) -> PathBuf {
        self.dir().join("libsmclo.so")
    }

    /// As [`Lab::start`], the daemon through another program that executes it.
    #[track_caller]
    pub fn start_through(prefix: &[&str], args: &[&str]) -> Lab {
        let mut lab = Lab::without_daemon();
        lab.args = args.iter().map(|a| a.to_string()).collect();
        lab.prefix = prefix.iter().map(|a| a.to_string()).collect();
        lab.start_daemon();
        lab
    }

    /// Only the directory; programs under the shim find no daemon.
    pub fn without_daemon() -> Lab {
        Lab {
            daemon: None,
            dir: TempDir::new(),
            args: Vec::new(),
            prefix: Vec::new(),
            idle_clients: 0,
        }
    }

    /// Starts the daemon, also again after it was killed.
    #[track_caller]
    pub fn start_daemon(&mut self) {
        if plain_only() {
            return;
        }
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let fd = writer.as_raw_fd();
        let mut daemon = Run::new(self.dir(), artefacts::path("smclod"))
            .arg("--socket")
            .arg(self.socket())
            .args(["--ready-fd", &fd.to_string()])
            .inherit(fd)
            .args(&self.args)
            .through(&self.prefix.iter().map(String::as_str).collect::<Vec<_>>())
            .limit(Duration::from_secs(24 * 3600))
            .spawn();
        drop(writer);
        let up = net::wait_until(Duration::from_secs(10), || {
            readable(&reader) || !daemon.alive()
        });
        if !up || !daemon.alive() {
            panic!("smclod does not start: {}", daemon.stop());
        }
        self.daemon = Some(daemon);
        self.idle_clients = self.stats().get("clients");
    }

    pub fn dir(&self) -> &Path {
        &self.dir.0
    }

    /// Path of the daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.dir().join("smclod.sock")
    }

    /// The daemon, when there is one.
    pub fn daemon(&mut self) -> Option<&mut Running> {
        self.daemon.as_mut()
    }

    /// Ends the daemon at once, without a chance to clean up.
    pub fn kill_daemon(&mut self) -> Option<Outcome> {
        self.daemon.take().map(Running::kill)
    }

    /// A program without the shim.
    pub fn plain(&self, program: impl AsRef<std::ffi::OsStr>) -> Run {
        Run::new(self.dir(), program)
    }

    /// A program under the shim, default policy (plain when only plain TCP is tested).
    #[track_caller]
    pub fn shim(&self, program: impl AsRef<std::ffi::OsStr>) -> Run {
        let run = self.plain(program);
        if plain_only() {
            run
        } else {
            run.under(&self.socket())
        }
    }

    /// A program under the shim that accelerates at the first chance.
    #[track_caller]
    pub fn eager(&self, program: impl AsRef<std::ffi::OsStr>) -> Run {
        self.shim(program).policy(Policy::Eager)
    }

    /// The daemon's totals now.
    #[track_caller]
    pub fn stats(&self) -> Stats {
        if self.daemon.is_none() {
            return Stats::zero();
        }
        Stats {
            raw: self.ask("stats"),
        }
    }

    /// The daemon's table of connections now.
    #[track_caller]
    pub fn sockets(&self) -> Vec<Socket> {
        if self.daemon.is_none() {
            return Vec::new();
        }
        let rows = self.ask("ss");
        let rows = rows.as_array().expect("ss --json prints an array");
        rows.iter().map(|r| Socket { raw: r.clone() }).collect()
    }

    /// Pairs of which somebody holds an end.
    #[track_caller]
    pub fn pairs(&self) -> u64 {
        let device = self.ask("device");
        let device = device.get(0).unwrap_or(&device);
        device["pairs"].as_u64().expect("a number of pairs")
    }

    /// What the daemon says of itself.
    #[track_caller]
    pub fn info(&self) -> serde_json::Value {
        self.ask("info")
    }

    /// Totals once the daemon has noticed that all programs are gone, and whether it has.
    #[track_caller]
    pub fn settle(&self) -> (Stats, bool) {
        let mut stats = self.stats();
        let gone = net::wait_until(Duration::from_secs(10), || {
            stats = self.stats();
            stats.get("clients") <= self.idle_clients
        });
        (stats, gone)
    }

    /// As [`Lab::settle`], for programs that must be gone.
    #[track_caller]
    pub fn settled(&self) -> Stats {
        let (stats, gone) = self.settle();
        assert!(gone, "clients are left: {}", stats.raw);
        stats
    }

    /// Asserts that at least `share` of all bytes went over SMC. All programs have ended.
    #[track_caller]
    pub fn assert_share(&self, share: f64) {
        if plain_only() {
            return;
        }
        let stats = self.settled();
        let got = stats.share_smc(&Stats::zero());
        assert!(
            got >= share,
            "only {:.2} % of the bytes went over SMC: {}",
            got * 100.0,
            stats.raw
        );
    }

    /// Asserts that the daemon has forgotten everything. All programs have ended.
    #[track_caller]
    pub fn assert_clean(&self) {
        if plain_only() {
            return;
        }
        const TABLES: [&str; 3] = ["dmbs", "link_groups", "claims_waiting"];
        let mut stats = self.settled();
        let clean = net::wait_until(Duration::from_secs(10), || {
            stats = self.stats();
            TABLES.iter().all(|key| stats.must(key) == 0)
        });
        assert!(clean, "the daemon's tables are not empty: {}", stats.raw);
    }
}

fn readable(pipe: &std::io::PipeReader) -> bool {
    let mut poll = libc::pollfd {
        fd: pipe.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&mut poll, 1, 0) > 0 }
}

#[derive(Debug)]
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> TempDir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // A process with the same number may have left one behind.
        let path = loop {
            let (pid, number) = (std::process::id(), COUNT.fetch_add(1, Relaxed));
            let path = std::env::temp_dir().join(format!("smclo-test-{pid}-{number}"));
            match fs::create_dir(&path) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                made => {
                    made.expect("a temporary directory");
                    break path;
                }
            }
        };
        TempDir(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if std::env::var_os("SMCLO_TEST_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
