//! `smclo doctor`: whether the connections of a program can be accelerated, and if not, why and what
//! to do. What it finds is said in plain words; it changes nothing.

mod host;
mod process;
pub mod program;

use crate::tool::table::{BAD, BOLD, FAINT, GOOD, WARN, paint};
use serde::Serialize;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Good,
    /// Worth knowing; stands in the way of some connections at most.
    Note,
    /// Nothing can be accelerated.
    Obstacle,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub level: Level,
    pub what: String,
    /// What to do; may be empty.
    pub remedy: String,
}

impl Finding {
    fn good(what: impl Into<String>) -> Self {
        Finding {
            level: Level::Good,
            what: what.into(),
            remedy: String::new(),
        }
    }

    fn note(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Finding {
            level: Level::Note,
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    fn obstacle(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Finding {
            level: Level::Obstacle,
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// What was looked at.
    pub subject: String,
    pub can_be_accelerated: bool,
    pub findings: Vec<Finding>,
}

/// What is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The host alone.
    Host,
    Process(u32),
    Program(PathBuf),
}

impl Subject {
    /// A number is a process; anything else a command, looked for in `PATH` as a shell does.
    pub fn find(text: Option<&OsStr>) -> Result<Self, String> {
        let Some(text) = text else {
            return Ok(Subject::Host);
        };
        let name = text.display();
        if let Some(pid) = text.to_str().and_then(|t| t.parse::<u32>().ok()) {
            return process::visible(pid).map(|()| Subject::Process(pid));
        }
        let found = program::resolve(text).map(Subject::Program);
        found.ok_or_else(|| match Path::new(text).exists() {
            true => format!("{name} is not a program: nothing that can be executed"),
            false if text.is_empty() => "the name of the command is empty".into(),
            false => format!("there is no command {name}"),
        })
    }
}

pub fn examine(subject: &Subject, socket: Option<&Path>) -> Diagnosis {
    let (name, mut findings) = match subject {
        Subject::Host => ("a program on this host".to_owned(), Vec::new()),
        Subject::Process(pid) => process::check(*pid, socket),
        Subject::Program(path) => (path.display().to_string(), program::check(path)),
    };
    let command = match subject {
        Subject::Program(path) => path.file_name(),
        _ => None,
    };
    if !matches!(subject, Subject::Process(_)) {
        findings.extend(host::check(socket, command));
    }
    // The worst first, otherwise as found.
    findings.sort_by_key(|f| match f.level {
        Level::Obstacle => 0,
        Level::Note => 1,
        Level::Good => 2,
    });
    Diagnosis {
        subject: name,
        can_be_accelerated: findings.iter().all(|f| f.level != Level::Obstacle),
        findings,
    }
}

/// The first thing that keeps a command from being accelerated at all.
pub fn obstacle(command: &OsStr) -> Option<String> {
    let findings = program::check(&program::resolve(command)?);
    let obstacle = findings.into_iter().find(|f| f.level == Level::Obstacle);
    obstacle.map(|f| f.what)
}

pub fn text(d: &Diagnosis) -> String {
    let verdict = if d.can_be_accelerated {
        paint(GOOD, "can be accelerated")
    } else {
        paint(BAD, "cannot be accelerated")
    };
    let mut out = format!("{}: {verdict}\n", paint(BOLD, &d.subject));
    for f in &d.findings {
        let (style, mark) = match f.level {
            Level::Good => (GOOD, "ok"),
            Level::Note => (WARN, "note"),
            Level::Obstacle => (BAD, "obstacle"),
        };
        let _ = writeln!(out, "  {} {}", paint(style, &format!("{mark:<8}")), f.what);
        if !f.remedy.is_empty() {
            let _ = writeln!(
                out,
                "           {}",
                paint(FAINT, &format!("-> {}", f.remedy))
            );
        }
    }
    out
}
