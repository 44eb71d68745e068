//! `limit`: the patterns of `traffic` through a bare ring between two processes, as the measure of
//! what shared memory gives on this machine.

use benches::bare::{self, End, Memory};
use clap::{Parser, ValueEnum};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{ForkResult, Pid, fork};
use std::process::ExitCode;
use std::time::Duration;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Pattern {
    PingPong,
    OneWay,
}

#[derive(Parser, Debug)]
#[command(version, about)]
struct Args {
    pattern: Pattern,
    size: usize,
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Core of the answering process
    #[arg(long)]
    server_core: Option<usize>,
    /// Core of the measuring process
    #[arg(long)]
    client_core: Option<usize>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("limit: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> std::io::Result<()> {
    let memory = Memory::new()?;
    let yields = args.server_core.is_some() && args.server_core == args.client_core;
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            // SAFETY: no more than a signal when the parent dies.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            pin(args.server_core)?;
            let end = End::new(memory, 1, yields);
            match args.pattern {
                Pattern::PingPong => bare::serve_ping_pong(end, args.size),
                Pattern::OneWay => bare::serve_one_way(end, args.size),
            }
        }
        ForkResult::Parent { child } => {
            pin(args.client_core)?;
            let end = End::new(memory, 0, yields);
            let time = Duration::from_secs(args.seconds);
            let report = match args.pattern {
                Pattern::PingPong => bare::ping_pong(end, args.size, time),
                Pattern::OneWay => bare::one_way(end, args.size, time),
            };
            nix::sys::wait::waitpid(child, None)?;
            report.print()?;
        }
    }
    Ok(())
}

fn pin(core: Option<usize>) -> std::io::Result<()> {
    let Some(core) = core else { return Ok(()) };
    let mut set = CpuSet::new();
    set.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}
