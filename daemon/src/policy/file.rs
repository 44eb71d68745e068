//! The system's file, read anew when it has changed.

use super::{Parsed, Policy, parse};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
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
    /// Why it could not be read the last time, if that has been said.
    trouble: Option<ErrorKind>,
}

impl Source {
    pub fn new(path: &Path) -> Self {
        let mut source = Source {
            path: path.to_path_buf(),
            seen: None,
            policy: Policy::default(),
            trouble: None,
        };
        source.refresh_and(complain);
        source
    }

    /// What it says now, without a word about mistakes. A file that is not there, or not for this user, says nothing; one
    /// that cannot be read otherwise may say something that has to hold.
    pub fn peek(path: &Path) -> io::Result<Policy> {
        match read(path) {
            Ok(parsed) if parsed.is_valid() => Ok(parsed.policy),
            Err(e) if is_trouble(&e) && e.kind() != ErrorKind::PermissionDenied => Err(e),
            _ => Ok(Policy::default()),
        }
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Reads the file when it is new. One with an error changes nothing, and is reported on standard
    /// error; one that has gone leaves the built-in settings. What cannot be read just now changes nothing, and is tried again.
    pub fn refresh(&mut self) {
        self.refresh_and(complain);
    }

    fn refresh_and(&mut self, say: impl Fn(&str)) {
        let meta = match fs::metadata(&self.path) {
            Err(e) if is_trouble(&e) => return self.troubled(&e, say),
            Err(_) => {
                self.seen = None;
                self.policy = Policy::default();
                return;
            }
            Ok(meta) => meta,
        };
        let stamp = Stamp {
            ino: meta.ino(),
            len: meta.len(),
            changed: (meta.mtime(), meta.mtime_nsec()),
        };
        let before = self.seen.replace(stamp);
        if before == Some(stamp) {
            self.trouble = None;
            return;
        }
        let path = self.path.display();
        match read(&self.path) {
            Ok(parsed) => {
                self.trouble = None;
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
            Err(e) if is_trouble(&e) => {
                self.seen = before;
                self.troubled(&e, say);
            }
            Err(e) => say(&format!("{path}: {e}")),
        }
    }

    /// Says so once.
    fn troubled(&mut self, e: &io::Error, say: impl Fn(&str)) {
        if self.trouble.replace(e.kind()) != Some(e.kind()) {
            say(&format!(
                "{}: {e}; what held before goes on to hold, and it is tried again",
                self.path.display()
            ));
        }
    }
}

/// Whether the kernel could not say what is in the file, which may be otherwise the next time.
fn is_trouble(e: &io::Error) -> bool {
    let gone = [ErrorKind::NotFound, ErrorKind::NotADirectory];
    e.raw_os_error().is_some() && !gone.contains(&e.kind())
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

    /// One that cannot be read for a while, and says something else by then.
    #[test]
    fn a_file_that_cannot_be_read_is_tried_again() {
        use std::os::unix::fs::symlink;
        let name = format!("smclo-policy-again-{}", std::process::id());
        let (path, other) = (
            std::env::temp_dir().join(&name),
            std::env::temp_dir().join(name + "-other"),
        );
        fs::write(&path, "spin_us = 5").unwrap();
        let mut source = Source::new(&path);
        let said = std::cell::RefCell::new(Vec::new());
        let mut look = || {
            source.refresh_and(|line| said.borrow_mut().push(line.to_string()));
            source.policy().change.spin_us
        };
        assert_eq!(look(), Some(5));
        fs::remove_file(&path).unwrap();
        // A link to itself, ELOOP: an error that a test can have without a limit of its process.
        symlink(&path, &path).unwrap();
        assert_eq!(
            (look(), look()),
            (Some(5), Some(5)),
            "what held goes on to hold"
        );
        assert_eq!(said.borrow().len(), 1, "{said:?}");
        assert!(Source::peek(&path).is_err());
        fs::write(&other, "spin_us = 123").unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(look(), Some(123));
        // The same trouble again is told of again.
        let moved = fs::rename(&path, &other).and_then(|()| symlink(&path, &path));
        moved.unwrap();
        assert_eq!(look(), Some(123));
        assert_eq!(
            said.borrow()
                .iter()
                .filter(|line| line.contains("tried again"))
                .count(),
            2
        );
        // And once more, where what was read before is back.
        fs::rename(&other, &path).unwrap();
        assert_eq!(look(), Some(123));
        let moved = fs::rename(&path, &other).and_then(|()| symlink(&path, &path));
        moved.unwrap();
        assert_eq!(look(), Some(123));
        assert_eq!(
            said.borrow()
                .iter()
                .filter(|line| line.contains("tried again"))
                .count(),
            3
        );
        fs::remove_file(&path).unwrap();
        fs::remove_file(&other).unwrap();
        assert_eq!(look(), None);
        assert!(Source::peek(&path).is_ok());
    }
}
