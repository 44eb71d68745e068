//! `smclo run`: a daemon if there is none, the library in front, then the command in our place.

use crate::cli::Profile;
use crate::client::Connection;
use crate::tool::doctor::program;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{execvpe, setsid};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub const LIBRARY: &str = "libsmclo.so";
const PATIENCE_MS: u16 = 5000;

#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("{LIBRARY} not found; looked at {0}; set SMCLO_LIB to its path")]
    NoLibrary(String),
    #[error("LD_PRELOAD cannot hold a path with a blank or a colon: {}", .0.display())]
    LibraryPath(PathBuf),
    #[error("an argument or a variable contains a zero byte")]
    Nul,
    #[error("{}: {}", .0.display(), .1.desc())]
    Exec(PathBuf, Errno),
}

impl LaunchError {
    /// As the shell has it: 127 not found, 126 not executable.
    pub fn exit_code(&self) -> u8 {
        match self {
            LaunchError::Exec(_, Errno::ENOENT) => 127,
            LaunchError::Exec(..) => 126,
            _ => 1,
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Run {
    pub debug: bool,
    pub rcvbuf: Option<u64>,
    pub sndbuf: Option<u64>,
    pub profile: Profile,
    pub socket: Option<PathBuf>,
    pub command: Vec<OsString>,
}

impl Run {
    /// Replaces this process by the command.
    pub fn exec(&self) -> Result<Infallible, LaunchError> {
        let env = self.prepare()?;
        let args = self
            .command
            .iter()
            .map(c_string)
            .collect::<Result<Vec<_>, _>>()?;
        let env = env.into_iter().map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            c_string(&name)
        });
        let env = env.collect::<Result<Vec<_>, _>>()?;
        // The Rust runtime ignores SIGPIPE, and ignored signals outlive exec.
        // SAFETY: no handler is installed, only the default restored.
        let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
        match execvpe(&args[0], &args, &env) {
            Ok(never) => match never {},
            Err(e) => Err(LaunchError::Exec(PathBuf::from(&self.command[0]), e)),
        }
    }

    /// A daemon, if there can be one; gives the environment of the command.
    pub fn prepare(&self) -> Result<BTreeMap<OsString, OsString>, LaunchError> {
        let library = find_library()?;
        let socket = self.socket.as_deref().map(absolute);
        if let Err(why) = ensure_daemon(socket.as_deref()) {
            eprintln!(
                "smclo: {why}; {} runs on plain TCP",
                self.command[0].display()
            );
        }
        let musl = program::needs_musl(&self.command[0]);
        if musl {
            eprintln!(
                "smclo: {} is linked with musl, the library with glibc; it runs on plain TCP",
                self.command[0].display()
            );
        }
        let library = (!musl).then_some(library.as_path());
        Ok(self.environment(env::vars_os(), library, socket.as_deref()))
    }

    fn environment(
        &self,
        inherited: impl Iterator<Item = (OsString, OsString)>,
        library: Option<&Path>,
        socket: Option<&Path>,
    ) -> BTreeMap<OsString, OsString> {
        let mut env: BTreeMap<OsString, OsString> = inherited.collect();
        if let Some(library) = library {
            let preload = append(env.get(OsStr::new("LD_PRELOAD")), library.as_os_str());
            env.insert("LD_PRELOAD".into(), preload);
        }
        if self.debug {
            env.insert("SMC_DEBUG".into(), "1".into());
        }
        for (name, size) in [("SMC_RCVBUF", self.rcvbuf), ("SMC_SNDBUF", self.sndbuf)] {
            if let Some(size) = size {
                env.insert(name.into(), size.to_string().into());
            }
        }
        for (name, value) in self.profile.variables() {
            env.entry((*name).into()).or_insert_with(|| (*value).into());
        }
        if let Some(socket) = socket {
            env.insert("SMCLO_SOCKET".into(), socket.into());
        }
        env
    }
}

/// Puts the library behind what is preloaded already.
fn append(preload: Option<&OsString>, library: &OsStr) -> OsString {
    let Some(preload) = preload.filter(|p| !p.is_empty()) else {
        return library.to_owned();
    };
    let mut items = preload.as_bytes().split(|c| *c == b':' || *c == b' ');
    let mut all = preload.clone();
    if !items.any(|item| item == library.as_bytes()) {
        all.push(":");
        all.push(library);
    }
    all
}

fn c_string(text: &OsString) -> Result<CString, LaunchError> {
    CString::new(text.clone().into_vec()).map_err(|_| LaunchError::Nul)
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.into())
}

/// The directory of this program, symlinks resolved.
fn own_dir() -> Option<PathBuf> {
    let exe = env::current_exe().ok()?;
    Some(exe.parent()?.to_path_buf())
}

pub fn find_library() -> Result<PathBuf, LaunchError> {
    let mut looked = Vec::new();
    match env::var_os("SMCLO_LIB").filter(|p| !p.is_empty()) {
        Some(path) => looked.push(absolute(Path::new(&path))),
        None => {
            let dir = own_dir().unwrap_or_default();
            let places = [".", "../lib", "../release", "../debug"];
            looked.extend(places.map(|place| dir.join(place).join(LIBRARY)));
        }
    }
    match looked.iter().find(|p| p.is_file()) {
        Some(found) => {
            let found = found.canonicalize().unwrap_or_else(|_| found.clone());
            let bytes = found.as_os_str().as_bytes();
            if bytes.iter().any(|c| *c == b':' || c.is_ascii_whitespace()) {
                return Err(LaunchError::LibraryPath(found));
            }
            Ok(found)
        }
        None => {
            let all: Vec<_> = looked.iter().map(|p| p.display().to_string()).collect();
            Err(LaunchError::NoLibrary(all.join(", ")))
        }
    }
}

/// First argument by which `smclo` starts itself as the parent of a daemon; a socket may follow.
pub const START: &str = "start-daemon";

/// Starts a daemon unless one answers. The daemon is no child of the command to come, which may
/// wait for all its children.
fn ensure_daemon(socket: Option<&Path>) -> Result<(), String> {
    if Connection::find(socket).is_ok() {
        return Ok(());
    }
    let exe = env::current_exe().map_err(|e| format!("cannot start smclod: {e}"))?;
    let mut starter = Command::new(exe);
    starter
        .arg(START)
        .args(socket)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    starter.stderr(Stdio::null()).env_remove("LD_PRELOAD");
    let started = starter
        .status()
        .map_err(|e| format!("cannot start smclod: {e}"))?;
    // Somebody else may have been faster by a moment, and is about to listen.
    let patience = Duration::from_millis(if started.success() { 0 } else { 2000 });
    let start = Instant::now();
    loop {
        let Err(none) = Connection::find(socket) else {
            return Ok(());
        };
        if start.elapsed() >= patience {
            return Err(none.to_string());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The hidden command: in a session of its own, starts `smclod` and waits until it listens.
pub fn start_daemon(socket: Option<&Path>) -> io::Result<()> {
    // Fails only for the leader of a process group, which a fresh child is not.
    let _ = setsid();
    close_on_exec_from(3);
    let daemon = own_dir().unwrap_or_default().join("smclod");
    let mut command = Command::new(daemon);
    // The descriptor that says "ready" is the standard output.
    command
        .args(["--ready-fd", "1"])
        .current_dir("/")
        .env_remove("LD_PRELOAD");
    if let Some(socket) = socket {
        command.arg("--socket").arg(absolute(socket));
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn()?;
    let mut ready = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut fds = [PollFd::new(ready.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(PATIENCE_MS))?;
    if fds[0].any() != Some(true) {
        return Err(io::ErrorKind::TimedOut.into());
    }
    ready.read_exact(&mut [0])
}

/// The daemon must not keep descriptors open that the caller of `smclo` had by chance, such as the
/// write end of a pipe that somebody reads to its end.
fn close_on_exec_from(first: libc::c_uint) {
    // SAFETY: only sets a flag on descriptors of this process.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preload_is_appended_once() {
        let lib = OsStr::new("/l/libsmclo.so");
        let with = |old: &str| append(Some(&old.into()), lib);
        assert_eq!(append(None, lib), lib);
        assert_eq!(with(""), lib);
        assert_eq!(with("/a.so"), "/a.so:/l/libsmclo.so");
        assert_eq!(with("/a.so /l/libsmclo.so"), "/a.so /l/libsmclo.so");
    }

    #[test]
    fn environment() {
        let run = Run {
            debug: true,
            rcvbuf: Some(65536),
            ..Run::default()
        };
        let old = [("SMC_SNDBUF", "7"), ("SMC_RCVBUF", "8"), ("HOME", "/h")];
        let old = old.map(|(n, v)| (n.into(), v.into())).into_iter();
        let env = run.environment(old, Some(Path::new("/l.so")), Some(Path::new("/s")));
        let get = |name: &str| env.get(OsStr::new(name)).and_then(|v| v.to_str());
        assert_eq!(get("SMC_SNDBUF"), Some("7"), "kept");
        assert_eq!(get("SMC_RCVBUF"), Some("65536"));
        assert_eq!(get("SMC_DEBUG"), Some("1"));
        assert_eq!(get("SMCLO_SOCKET"), Some("/s"));
        assert_eq!(get("SMCLO_SPIN_US"), None, "the safe profile sets nothing");
        let fast = Run {
            profile: Profile::Throughput,
            ..Run::default()
        };
        let old = [("SMC_RCVBUF", "8")].map(|(n, v)| (n.into(), v.into()));
        let set = fast.environment(old.into_iter(), Some(Path::new("/l.so")), None);
        let get_set = |name: &str| set.get(OsStr::new(name)).and_then(|v| v.to_str());
        assert_eq!(get_set("SMC_RCVBUF"), Some("8"), "the environment stays");
        assert_eq!(get_set("SMCLO_SPIN_US"), Some("0"));
        assert_eq!(
            (get("HOME"), get("LD_PRELOAD")),
            (Some("/h"), Some("/l.so"))
        );
    }

    #[test]
    fn exit_codes_are_the_shells() {
        let exec = |e| LaunchError::Exec("x".into(), e).exit_code();
        assert_eq!((exec(Errno::ENOENT), exec(Errno::EACCES)), (127, 126));
    }
}
