//! The system's file, read anew when it has changed.

use super::{Parsed, Policy, parse};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where a user's file is, below the home directory.
pub const USER_FILE: &str = ".config/smclo.toml";
/// Longest file of the system.
const MAX_LEN: u64 = 1 << 20;

/// The user's file that a program with this environment uses; the library has the same rule.
pub fn user_file() -> Option<PathBuf> {
    match std::env::var_os("SMCLO_CONFIG") {
        Some(path) if path.is_empty() => None,
        Some(path) => Some(path.into()),
        None => {
            let home = std::env::var_os("HOME").filter(|h| !h.is_empty())?;
            Some(Path::new(&home).join(USER_FILE))
        }
    }
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    ino: u64,
    len: u64,
    changed: (i64, i64),
}

#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    seen: Option<Stamp>,
    policy: Policy,
}

impl Source {
    pub fn new(path: &Path) -> Self {
        let mut source = Source {
            path: path.to_path_buf(),
            seen: None,
            policy: Policy::default(),
        };
        source.refresh_and(complain);
        source
    }

    /// What it says now, without a word about mistakes.
    pub fn peek(path: &Path) -> Policy {
        read(path)
            .ok()
            .filter(Parsed::is_valid)
            .map_or_else(Policy::default, |parsed| parsed.policy)
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Reads the file when it is new. One with an error changes nothing, and is reported on standard
    /// error; one that has gone leaves the built-in settings.
    pub fn refresh(&mut self) {
        self.refresh_and(complain);
    }

    fn refresh_and(&mut self, say: impl Fn(&str)) {
        let Ok(meta) = fs::metadata(&self.path) else {
            self.seen = None;
            self.policy = Policy::default();
            return;
        };
        let stamp = Stamp {
            ino: meta.ino(),
            len: meta.len(),
            changed: (meta.mtime(), meta.mtime_nsec()),
        };
        let before = self.seen.replace(stamp);
        if before == Some(stamp) {
            return;
        }
        let path = self.path.display();
        match read(&self.path) {
            Ok(parsed) => {
                for finding in &parsed.findings {
                    say(&format!("{path}: {finding}"));
                }
                match (parsed.is_valid(), before) {
                    (true, before) => {
                        self.policy = parsed.policy;
                        if before.is_some() {
                            say(&format!("{path}: read anew"));
                        }
                    }
                    (false, Some(_)) => say(&format!(
                        "{path}: not used; what held before goes on to hold"
                    )),
                    (false, None) => say(&format!("{path}: not used; the built-in settings hold")),
                }
            }
            Err(e) => say(&format!("{path}: {e}")),
        }
    }
}

fn complain(text: &str) {
    use std::io::Write;
    // Nobody may be there to read it.
    let _ = writeln!(io::stderr(), "smclod: {text}");
}

fn read(path: &Path) -> io::Result<Parsed> {
    let mut text = String::new();
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    file.take(MAX_LEN).read_to_string(&mut text)?;
    Ok(parse(&text, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_again_when_it_has_changed() {
        let path = std::env::temp_dir().join(format!("smclo-policy-{}", std::process::id()));
        let mut source = Source::new(&path);
        assert_eq!(*source.policy(), Policy::default());
        let mut after = |text: &str| {
            fs::write(&path, text).unwrap();
            let said = std::cell::RefCell::new(String::new());
            source.refresh_and(|line| *said.borrow_mut() += line);
            (source.policy().change.spin_us, said.into_inner())
        };
        assert_eq!(after("spin_us = 5"), (Some(5), String::new()));
        let (spin, said) = after("spin_us = 70000");
        assert_eq!(spin, Some(5), "a mistake changes nothing");
        assert!(
            said.contains("line 1, column 11") && said.ends_with("goes on to hold"),
            "{said}"
        );
        let (spin, said) = after("spin_us = 123");
        assert_eq!(spin, Some(123));
        assert!(said.ends_with("read anew"), "{said}");
        fs::remove_file(&path).unwrap();
        source.refresh();
        assert_eq!(*source.policy(), Policy::default());
    }
}
