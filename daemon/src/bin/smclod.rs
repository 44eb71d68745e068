//! The daemon's entry: limits, signals, then the event loop of the library.

use daemon::cli;
use daemon::config::Config;
use daemon::listener;
use daemon::policy::Source;
use daemon::server::Server;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::process::ExitCode;

fn main() -> ExitCode {
    let (mut config, given) = cli::parse_given::<Config>();
    // The usual file need not be there; one that somebody has named has to be.
    if given("config") && !std::fs::exists(&config.config).unwrap_or(true) {
        eprintln!("smclod: --config {}: no such file", config.config.display());
        return ExitCode::from(2);
    }
    // The limits in it are taken once, so it has to be read now.
    let policy = match Source::peek(&config.config) {
        Ok(policy) => policy,
        Err(e) => {
            let path = config.config.display();
            eprintln!("smclod: {path}: {e}; the limits in it could not be kept, so this ends here");
            return ExitCode::FAILURE;
        }
    };
    config.limit(&policy.limits, given);
    match run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("smclod: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: &Config) -> Result<(), Box<dyn std::error::Error>> {
    let activated = listener::activated()?;
    let ready = match config.ready_fd {
        Some(fd) => Some(take_ready(fd).map_err(|e| format!("--ready-fd {fd}: {e}"))?),
        None => None,
    };
    let open_files = raise_open_files();
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    let stop = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|e| format!("descriptor for signals (signalfd): {e}"))?;
    let mut server = match activated {
        Some(listening) => Server::new(config, open_files, listening)?,
        None => Server::bind(config, open_files)?,
    };
    server.stop_at(stop.as_fd())?;
    let gid = daemon::report::uuid(server.gid());
    // Nobody may be there to read it.
    let _ = writeln!(
        io::stderr(),
        "smclod: listening on {}, GID {gid}",
        server.socket_path().display()
    );
    if let Some(at) = server.metrics_address() {
        let _ = writeln!(io::stderr(), "smclod: metrics at http://{at}/metrics");
    }
    if let Some(mut ready) = ready {
        // Whoever wanted to know may have lost patience.
        let _ = ready.write_all(b"\n");
    }
    server.run()?;
    Ok(())
}

/// Raises the soft limit to the hard one; gives the limit now.
fn raise_open_files() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return 1024;
    };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}

/// Takes the descriptor over. A standard one is copied and replaced by /dev/null.
fn take_ready(fd: i32) -> io::Result<File> {
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFD)?;
    // SAFETY: it is open, the caller of the program handed it over for this, and this process has
    // opened nothing yet.
    let ready = unsafe { OwnedFd::from_raw_fd(fd) };
    if fd > 2 {
        return Ok(File::from(ready));
    }
    let copy = ready.try_clone()?;
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    nix::unistd::dup2(null.as_raw_fd(), ready.into_raw_fd())?;
    Ok(File::from(copy))
}
