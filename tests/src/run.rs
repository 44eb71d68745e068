//! Programs under a watchdog, plain or under the shim.

use crate::{artefacts, net};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::fd::RawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// When the shim tries to accelerate (`SMCLO_POLICY`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    Default,
    Eager,
    Off,
}

/// How the shim moves data (`SMCLO_MODE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    NoCopy,
    Copy,
}

impl Policy {
    fn word(self) -> &'static str {
        match self {
            Policy::Default => "default",
            Policy::Eager => "eager",
            Policy::Off => "off",
        }
    }
}

impl Mode {
    fn word(self) -> &'static str {
        match self {
            Mode::NoCopy => "nocopy",
            Mode::Copy => "copy",
        }
    }
}

/// A program to be started.
#[derive(Debug)]
pub struct Run {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: PathBuf,
    stdin: Option<PathBuf>,
    stdout: Option<PathBuf>,
    cores: Option<usize>,
    inherit: Option<RawFd>,
    /// Words before the program, which end by executing it.
    prefix: Vec<OsString>,
    limit: Duration,
}

impl Run {
    /// A program without the shim; its output goes to files in `dir`.
    pub fn new(dir: &Path, program: impl AsRef<OsStr>) -> Run {
        Run {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            dir: dir.to_owned(),
            stdin: None,
            stdout: None,
            cores: None,
            inherit: None,
            prefix: Vec::new(),
            limit: Duration::from_secs(60),
        }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Run {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Run {
        self.args
            .extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Arguments separated by spaces.
    pub fn words(self, args: &str) -> Run {
        self.args(args.split_whitespace())
    }

    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Run {
        self.env.push((key.into(), value.as_ref().to_owned()));
        self
    }

    /// Puts the program under the shim, with the daemon behind `socket`.
    pub fn under(self, socket: &Path) -> Run {
        self.env("LD_PRELOAD", artefacts::preload())
            .env("SMCLO_SOCKET", socket)
    }

    pub fn policy(self, policy: Policy) -> Run {
        self.env("SMCLO_POLICY", policy.word())
    }

    pub fn mode(self, mode: Mode) -> Run {
        self.env("SMCLO_MODE", mode.word())
    }

    /// Reads standard input from a file instead of `/dev/null`.
    pub fn stdin(mut self, file: &Path) -> Run {
        self.stdin = Some(file.to_owned());
        self
    }

    /// Writes standard output to this file; [`Outcome::stdout`] stays empty.
    pub fn stdout(mut self, file: &Path) -> Run {
        self.stdout = Some(file.to_owned());
        self
    }

    /// A descriptor that the program has too, as no other child of ours.
    pub fn inherit(mut self, fd: RawFd) -> Run {
        self.inherit = Some(fd);
        self
    }

    /// Runs on this core only.
    pub fn core(mut self, core: usize) -> Run {
        self.cores = Some(core);
        self
    }

    /// Starts the program through another one that executes it: `nsenter`, `setpriv`.
    pub fn through(mut self, prefix: &[&str]) -> Run {
        self.prefix.extend(prefix.iter().map(OsString::from));
        self
    }

    /// The watchdog ends the process group after this time (60 s when not set).
    pub fn limit(mut self, limit: Duration) -> Run {
        self.limit = limit;
        self
    }

    /// Starts the program in a process group of its own.
    #[track_caller]
    pub fn spawn(self) -> Running {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let base = Path::new(&self.program)
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let name = format!("{base}.{}", COUNT.fetch_add(1, Relaxed));
        let [stdout, stderr] = ["out", "err"].map(|end| self.dir.join(format!("{name}.{end}")));
        let create = |path: &Path| File::create(path).expect("a file in the temporary directory");

        let mut words = self.prefix.clone();
        if let Some(core) = self.cores {
            // taskset execs the program, so the pid is the program's.
            words.extend(["taskset".into(), "-c".into(), core.to_string().into()]);
        }
        words.push(self.program.clone());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .stdin(match &self.stdin {
                None => Stdio::null(),
                Some(file) => File::open(file).expect("the input file").into(),
            })
            .stdout(create(self.stdout.as_ref().unwrap_or(&stdout)))
            .stderr(create(&stderr))
            .process_group(0);
        let inherit = self.inherit;
        // SAFETY: prctl and fcntl are async-signal-safe and touch no memory of ours.
        unsafe {
            command.pre_exec(move || {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                if let Some(fd) = inherit {
                    libc::fcntl(fd, libc::F_SETFD, 0);
                }
                Ok(())
            });
        }
        match command.spawn() {
            Ok(child) => Running {
                child,
                name,
                stdout,
                stderr,
                end: Instant::now() + self.limit,
                status: None,
            },
            Err(error) => panic!("{}: {error}", self.program.to_string_lossy()),
        }
    }

    /// Starts the program and waits for its end.
    #[track_caller]
    pub fn finish(self) -> Outcome {
        self.spawn().finish()
    }
}

/// A started program; its whole group is killed on drop.
#[derive(Debug)]
pub struct Running {
    child: Child,
    name: String,
    stdout: PathBuf,
    stderr: PathBuf,
    end: Instant,
    status: Option<ExitStatus>,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: i32) {
        kill(self.pid() as i32, signal);
    }

    /// True while the process has not ended.
    pub fn alive(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("a child of ours");
        }
        self.status.is_none()
    }

    /// What the program has written so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// True once something listens on `port`; false when it ends before, or within its time does not. Under a
    /// checker, on a busy machine, the start alone can take half a minute.
    pub fn comes_up(&mut self, port: u16) -> bool {
        let left = self.end.saturating_duration_since(Instant::now());
        net::wait_until(left, || net::listens_at(self.pid(), port) || !self.alive()) && self.alive()
    }

    /// Waits until something listens on `port`.
    #[track_caller]
    pub fn listening(mut self, port: u16) -> Running {
        if !self.comes_up(port) {
            let text = self.stderr();
            panic!("{} does not listen on {port}: {text}", self.name);
        }
        self
    }

    /// Waits for the end; the watchdog asks with SIGTERM first so that a program can report.
    pub fn finish(mut self) -> Outcome {
        let left = self.end.saturating_duration_since(Instant::now());
        let in_time = net::wait_until(left, || !self.alive());
        if !in_time {
            self.stop_group();
        }
        self.outcome(!in_time)
    }

    /// Ends the program with SIGTERM, then SIGKILL.
    pub fn stop(mut self) -> Outcome {
        self.stop_group();
        self.outcome(false)
    }

    /// Kills the program with SIGKILL and waits for it.
    pub fn kill(mut self) -> Outcome {
        self.signal(libc::SIGKILL);
        net::wait_until(Duration::from_secs(10), || !self.alive());
        self.outcome(false)
    }

    fn stop_group(&mut self) {
        let group = -(self.pid() as i32);
        kill(group, libc::SIGTERM);
        if !net::wait_until(Duration::from_secs(3), || !self.alive()) {
            kill(group, libc::SIGKILL);
            net::wait_until(Duration::from_secs(3), || !self.alive());
        }
    }

    fn outcome(&self, timed_out: bool) -> Outcome {
        Outcome {
            name: self.name.clone(),
            status: self.status,
            timed_out,
            stdout: self.stdout(),
            stderr: self.stderr(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        kill(-(self.pid() as i32), libc::SIGKILL);
        let _ = self.child.wait();
    }
}

/// How a program ended, and what it wrote.
#[derive(Debug)]
pub struct Outcome {
    pub name: String,
    pub status: Option<ExitStatus>,
    pub timed_out: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    pub fn success(&self) -> bool {
        !self.timed_out && self.status.is_some_and(|s| s.success())
    }

    /// The exit status of a program that ended by itself.
    pub fn code(&self) -> Option<i32> {
        self.status.and_then(|s| s.code())
    }

    /// The signal that ended the program.
    pub fn signal(&self) -> Option<i32> {
        self.status.and_then(|s| s.signal())
    }

    /// Standard output of a program that has to succeed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.success(), "{self}");
        self.stdout
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let how = match (self.timed_out, self.status) {
            (true, _) => "did not end in time".to_owned(),
            (false, Some(status)) => status.to_string(),
            (false, None) => "still running".to_owned(),
        };
        write!(f, "{}: {how}", self.name)?;
        for (what, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            let tail = text.lines().rev().take(40).collect::<Vec<_>>();
            write!(f, "\n--- {what}")?;
            for line in tail.iter().rev() {
                write!(f, "\n{line}")?;
            }
        }
        Ok(())
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn kill(pid: i32, signal: i32) {
    // SAFETY: only a signal to a process or group that we started.
    unsafe { libc::kill(pid, signal) };
}
