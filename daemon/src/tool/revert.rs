//! `smclo revert`: connections go back to TCP for some time.

use crate::client::{AskError, Connection as Daemon};
use crate::report::Connection;
use nix::errno::Errno;
use protocol::ctl::Verb;
use serde::Serialize;
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// Whose connections are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Process(u32),
    /// One end is this.
    End(SocketAddr),
}

impl Target {
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(pid) = text.parse() {
            return Ok(Target::Process(pid));
        }
        let why = "a process is named by its number, a connection by ADDRESS:PORT of one end";
        text.parse().map(Target::End).map_err(|_| why.into())
    }

    fn is(self, row: &Connection) -> bool {
        match self {
            Target::Process(pid) => row.pid == pid,
            Target::End(end) => [&row.local, &row.peer]
                .iter()
                .any(|text| text.parse() == Ok(end)),
        }
    }
}

/// Seconds, as milliseconds.
pub fn time(text: &str) -> Result<u64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds")?;
    let milliseconds = seconds * 1000.0;
    if !(0.0..1e15).contains(&milliseconds) {
        return Err("not a time that can be waited for".into());
    }
    Ok(milliseconds.ceil() as u64)
}

#[derive(Debug, thiserror::Error)]
pub enum RevertError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("the daemon's answer is not understood: {0}")]
    Garbled(#[from] serde_json::Error),
    #[error("no connection there is, or is about to be, on shared memory; \"smclo ss\" lists all")]
    None,
    #[error("{0} {LEFT}")]
    Left(usize),
}

/// What those are that the daemon does not know.
pub const LEFT: &str = "connections stay where they are: a smclod that has ended brought them onto \
                        shared memory, and they leave it with the end of either program";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Done {
    pub connections: usize,
    /// On shared memory, but not known to this daemon.
    pub left: usize,
}

/// Gives the orders; how many connections there were.
pub fn revert(daemon: &Daemon, target: Target, milliseconds: u64) -> Result<Done, RevertError> {
    let rows: Vec<Connection> = serde_json::from_slice(&daemon.ask(Verb::Ss, [b' '; 32])?)?;
    let mut pairs = BTreeSet::new();
    for row in rows.iter().filter(|row| target.is(row)) {
        let token = |text: &str| u64::from_str_radix(text, 16).ok();
        if let (Some(own), Some(peer)) = (token(&row.token), token(&row.peer_token)) {
            pairs.insert((own.min(peer), own.max(peer)));
        }
    }
    let mut done = Done::default();
    for (token, _) in pairs {
        match daemon.hold(token, milliseconds) {
            Ok(()) => done.connections += 1,
            Err(AskError::Refused(Errno::ENOENT)) => done.left += 1,
            Err(e) => return Err(e.into()),
        }
    }
    if done.connections == 0 {
        return Err(match done.left {
            0 => RevertError::None,
            n => RevertError::Left(n),
        });
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_and_times() {
        assert_eq!(Target::parse("17"), Ok(Target::Process(17)));
        let end = Target::parse("127.0.0.1:80").unwrap();
        let row = Connection {
            peer: "127.0.0.1:80".into(),
            pid: 17,
            ..Default::default()
        };
        assert!(end.is(&row) && Target::Process(17).is(&row));
        assert!(!Target::parse("[::1]:80").unwrap().is(&row));
        assert!(Target::parse("nginx").is_err());
        assert_eq!(time("0.0015"), Ok(2));
        assert_eq!(time("10"), Ok(10_000));
        assert!(time("-1").is_err() && time("ever").is_err() && time("nan").is_err());
    }
}
