//! `smclo run --require`: stays beside the command, hands signals on to it, and says at its end
//! whether anything was accelerated.

use crate::client::Connection;
use crate::report::RunReport;
use crate::tool::doctor;
use crate::tool::launch::{LaunchError, Run};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;
use protocol::ctl::Verb;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// Status when the command succeeded on TCP alone.
const NOTHING: u8 = 3;
/// How long the daemon may take to notice that the programs are gone.
const SETTLE: Duration = Duration::from_secs(2);

/// What is handed on. Those that a terminal sends reach the command by themselves.
const HANDED_ON: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Runs the command; gives the status to end with.
pub fn run(run: &Run) -> Result<u8, LaunchError> {
    let mut env = run.prepare()?;
    let daemon = Connection::find(run.socket.as_deref()).ok();
    let name: u64 = rand::random();
    if let Some(daemon) = &daemon
        && daemon.ask_about(Verb::Watch, name).is_ok()
    {
        env.insert("SMCLO_RUN".into(), format!("{name:x}").into());
    }
    let program = PathBuf::from(&run.command[0]);
    let status = beside(run, &env).map_err(|e| LaunchError::Exec(program, e))?;
    let report = daemon.as_ref().and_then(settled);
    let own = match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, signal) => 128 + signal.unwrap_or(0) as u8,
    };
    if report.as_ref().is_some_and(|r| r.counts.accelerated > 0) {
        return Ok(own);
    }
    eprintln!("smclo: nothing was accelerated: {}", why(run, report));
    Ok(if own == 0 { NOTHING } else { own })
}

type Env = std::collections::BTreeMap<std::ffi::OsString, std::ffi::OsString>;

/// Starts the command and waits for its end.
fn beside(run: &Run, env: &Env) -> Result<ExitStatus, Errno> {
    let mut signals = SigSet::empty();
    for signal in HANDED_ON.into_iter().chain([Signal::SIGCHLD]) {
        signals.add(signal);
    }
    let before = SigSet::thread_get_mask()?;
    signals.thread_block()?;
    let mut news = SignalFd::new(&signals)?;
    let mut command = Command::new(&run.command[0]);
    command.args(&run.command[1..]).env_clear().envs(env);
    // SAFETY: only a system call between fork and exec.
    unsafe {
        command.pre_exec(move || before.thread_set_mask().map_err(Into::into));
    }
    let errno = |e: std::io::Error| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO));
    let mut child = command.spawn().map_err(errno)?;
    loop {
        if let Some(status) = child.try_wait().map_err(errno)? {
            return Ok(status);
        }
        hand_on(&mut news, &child);
    }
}

/// Waits for one signal.
fn hand_on(news: &mut SignalFd, child: &Child) {
    let Ok(Some(info)) = news.read_signal() else {
        return;
    };
    let signal = Signal::try_from(info.ssi_signo as i32);
    // From the kernel: a terminal has sent it to the whole group.
    let by_terminal = info.ssi_code > 0;
    if let Ok(signal) = signal
        && signal != Signal::SIGCHLD
        && !by_terminal
    {
        let _ = kill(Pid::from_raw(child.id() as i32), signal);
    }
}

/// The daemon's last word: its programs are gone, or do not go.
fn settled(daemon: &Connection) -> Option<RunReport> {
    let start = Instant::now();
    loop {
        let answer = daemon.ask_about(Verb::Run, 0).ok()?;
        let report: RunReport = serde_json::from_slice(&answer).ok()?;
        if report.programs == 0 || report.counts.accelerated > 0 || start.elapsed() > SETTLE {
            return Some(report);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Why nothing was, as far as can be known.
fn why(run: &Run, report: Option<RunReport>) -> String {
    let Some(report) = report else {
        return "no smclod answers".into();
    };
    let mut reasons: Vec<_> = report.counts.fallbacks.iter().collect();
    reasons.sort_by(|a, b| b.1.cmp(a.1));
    if let Some((name, count)) = reasons.first() {
        let mut all = protocol::reason::ALL.iter().copied();
        let code = all.find(|code| protocol::reason::name(*code) == *name);
        let words = code.map_or("", protocol::reason::words);
        let plain = report.counts.plain;
        return format!("{count} of {plain} connections stayed on TCP for {name}: {words}");
    }
    if report.programs + report.ended > 0 {
        return "the command had TCP sockets, but no connection".into();
    }
    doctor::obstacle(&run.command[0])
        .unwrap_or_else(|| "no program of the command made a TCP socket".into())
}
