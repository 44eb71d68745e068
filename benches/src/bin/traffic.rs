//! `traffic`: the two ends of our own traffic patterns, over TCP (`host:port`) or a UNIX domain
//! socket (a path).

use benches::traffic::{echo, pingpong, stream};
use clap::{Parser, Subcommand};
use std::process::ExitCode;
use std::time::Duration;

#[derive(Parser, Debug)]
#[command(version, about)]
enum Args {
    /// Serves one client (echo: all clients), then ends
    Serve {
        /// host:port, or the path of a UNIX domain socket
        at: String,
        #[command(subcommand)]
        pattern: Serve,
    },
    /// Talks to a server and prints what it has measured, as JSON
    Talk {
        /// host:port, or the path of a UNIX domain socket
        at: String,
        /// Longest time
        #[arg(long, default_value_t = 2)]
        seconds: u64,
        #[command(subcommand)]
        pattern: Talk,
    },
}

#[derive(Subcommand, Debug)]
enum Serve {
    PingPong { size: usize },
    OneWay { size: usize },
    Echo,
}

#[derive(Subcommand, Debug)]
enum Talk {
    /// One message at a time
    PingPong {
        size: usize,
        #[arg(long, default_value_t = u64::MAX)]
        count: u64,
    },
    /// Messages in one direction
    OneWay { size: usize },
    /// One message on its way on each of many connections
    Echo {
        busy: usize,
        #[arg(long, default_value_t = 0)]
        idle: usize,
    },
    /// Opens connections, uses each of them, and lets them idle
    Hold { count: usize },
}

fn main() -> ExitCode {
    let done = match Args::parse() {
        Args::Serve { at, pattern } => match pattern {
            Serve::PingPong { size } => pingpong::serve(&at, size),
            Serve::OneWay { size } => stream::serve(&at, size),
            Serve::Echo => echo::serve(&at),
        },
        Args::Talk {
            at,
            seconds,
            pattern,
        } => {
            let limit = Duration::from_secs(seconds);
            match pattern {
                Talk::PingPong { size, count } => {
                    pingpong::talk(&at, size, count, limit).and_then(|report| report.print())
                }
                Talk::OneWay { size } => {
                    stream::talk(&at, size, limit).and_then(|report| report.print())
                }
                Talk::Echo { busy, idle } => {
                    echo::talk(&at, busy, idle, limit).and_then(|report| report.print())
                }
                Talk::Hold { count } => echo::hold(&at, count),
            }
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("traffic: {error}");
            ExitCode::FAILURE
        }
    }
}
