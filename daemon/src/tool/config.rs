//! `smclo config check`.

use crate::config::POLICY;
use crate::policy::{self, Finding};
use crate::tool::table::{BAD, GOOD, WARN, paint};
use serde::Serialize;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

/// What is to be said of one file.
#[derive(Debug, Serialize)]
pub struct Checked {
    pub file: String,
    pub valid: bool,
    pub findings: Vec<Found>,
}

#[derive(Debug, Serialize)]
pub struct Found {
    pub line: usize,
    pub column: usize,
    pub error: bool,
    pub text: String,
}

impl From<Finding> for Found {
    fn from(f: Finding) -> Self {
        Found {
            line: f.line,
            column: f.column,
            error: f.error,
            text: f.text,
        }
    }
}

/// The given files, or those that hold for a program of this user.
pub fn check(files: &[PathBuf], user: bool) -> Result<Vec<Checked>, String> {
    let why = |path: &Path, e: io::Error| format!("{}: {}", path.display(), plain(&e));
    if !files.is_empty() {
        let one = |path: &PathBuf| check_file(path, !user).map_err(|e| why(path, e));
        return files.iter().map(one).collect();
    }
    let usual = [
        Some((PathBuf::from(POLICY), true)),
        policy::user_file().map(|p| (p, false)),
    ];
    let mut all = Vec::new();
    for (path, system) in usual.into_iter().flatten() {
        match check_file(&path, system) {
            Ok(checked) => all.push(checked),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(why(&path, e)),
        }
    }
    Ok(all)
}

/// Without the number that Rust adds.
fn plain(e: &io::Error) -> String {
    match e.raw_os_error() {
        Some(n) => nix::errno::Errno::from_raw(n).desc().to_owned(),
        None => e.to_string(),
    }
}

fn check_file(path: &Path, system: bool) -> io::Result<Checked> {
    let text = std::fs::read_to_string(path)?;
    let mut parsed = policy::parse(&text, system);
    if !system && text.len() > protocol::stats::TEXT_LEN {
        parsed.findings.push(Finding {
            line: 1,
            column: 1,
            error: true,
            text: format!(
                "a user's file has at most {} bytes",
                protocol::stats::TEXT_LEN
            ),
        });
    }
    Ok(Checked {
        file: path.display().to_string(),
        valid: parsed.is_valid(),
        findings: parsed.findings.into_iter().map(Found::from).collect(),
    })
}

pub fn text(all: &[Checked]) -> String {
    let mut out = String::new();
    if all.is_empty() {
        out.push_str("no policy file: the built-in settings hold\n");
    }
    for file in all {
        for f in &file.findings {
            let (style, kind) = if f.error {
                (BAD, "error")
            } else {
                (WARN, "warning")
            };
            let kind = paint(style, kind);
            let (line, column) = (f.line, f.column);
            let _ = writeln!(out, "{}:{line}:{column}: {kind}: {}", file.file, f.text);
        }
        if file.valid {
            let _ = writeln!(out, "{}: {}", file.file, paint(GOOD, "valid"));
        }
    }
    out
}
