//! What holds for every program that this user starts here: library, daemon, policy, limits.

use super::Finding;
use crate::client::Connection;
use crate::config::POLICY;
use crate::policy::{self, Policy, Process};
use crate::ringer::set_ticks;
use crate::tool::launch;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use nix::unistd::geteuid;
use protocol::stats::TABLE_LEN;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

/// Address space that the library takes in a process, without rings.
const ADDRESS_SPACE: u64 = 256 << 20;

pub fn check(socket: Option<&Path>, command: Option<&OsStr>) -> Vec<Finding> {
    let mut findings = vec![library(), daemon(socket)];
    findings.extend(doorbells());
    let uid = geteuid().as_raw();
    findings.extend(policies(command.map(OsStr::as_encoded_bytes), uid));
    let limit = |what| getrlimit(what).map_or(u64::MAX, |(soft, _)| soft);
    findings.extend(limits(
        limit(Resource::RLIMIT_AS),
        limit(Resource::RLIMIT_FSIZE),
        limit(Resource::RLIMIT_NOFILE),
    ));
    findings
}

/// Of this kernel. What a sandbox forbids shows in the sandbox only.
pub fn doorbells() -> Option<Finding> {
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC);
    let why = timer.and_then(|timer| set_ticks(timer.as_fd(), 1)).err()?;
    Some(Finding::note(
        format!(
            "doorbells are eventfds, as the count of a timer cannot be set (TFD_IOC_SET_TICKS: {why}): a peer can make \
             a send wait"
        ),
        "a kernel with CONFIG_CHECKPOINT_RESTORE; until then no trust between users (docs/security.md)",
    ))
}

fn library() -> Finding {
    match launch::find_library() {
        Ok(path) => Finding::good(format!("library {}", path.display())),
        Err(e) => Finding::obstacle(e.to_string(), "install libsmclo, or set SMCLO_LIB"),
    }
}

pub fn in_container() -> bool {
    ["/.dockerenv", "/run/.containerenv"]
        .iter()
        .any(|p| Path::new(p).exists())
        || fs::read("/proc/1/environ").is_ok_and(|env| {
            env.split(|c| *c == 0)
                .any(|var| var.starts_with(b"container="))
        })
}

pub fn daemon_remedy(container: bool) -> &'static str {
    if container {
        "bind-mount the host's /run/smclo into the container, so that the host's daemon serves both \
         ends; or, when both ends are in it, start smclod there"
    } else {
        "start smclod (systemctl start smclod), or the programs with \"smclo run\", which starts one"
    }
}

fn daemon(socket: Option<&Path>) -> Finding {
    match Connection::find(socket) {
        Ok(daemon) => Finding::good(format!("smclod answers at {}", daemon.path.display())),
        Err(e) => {
            let what = e.to_string();
            let what = what.split("; start").next().unwrap_or_default();
            Finding::obstacle(what, daemon_remedy(in_container()))
        }
    }
}

/// What the files say of this program.
pub fn policies(program: Option<&[u8]>, uid: u32) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut read = |path: &Path, system: bool| -> Policy {
        let Ok(text) = fs::read_to_string(path) else {
            return Policy::default();
        };
        let parsed = policy::parse(&text, system);
        let path = path.display();
        if parsed.is_valid() {
            findings.push(Finding::good(format!("policy {path}")));
        } else {
            findings.push(Finding::note(
                format!("{path} has mistakes and is not used"),
                "see \"smclo config check\"",
            ));
        }
        parsed.policy
    };
    let system = read(Path::new(POLICY), true);
    let user = policy::user_file().map(|path| read(&path, false));
    let policies = [&system, &user.unwrap_or_default()];
    let own = std::env::var_os("SMCLO_POLICY");
    if own.as_deref() == Some(OsStr::new("off")) {
        findings.push(Finding::obstacle("SMCLO_POLICY is off", "unset it"));
    } else if own.is_none()
        && let Some(program) = program
    {
        let program = &program[..program.len().min(15)];
        let process = Process { program, uid };
        if policy::settings(&policies, process).accelerate == 0 {
            findings.push(Finding::obstacle(
                "the policy turns it off (accelerate = false)",
                "change the file, add a rule for the program, or set SMCLO_POLICY=default",
            ));
        }
    }
    findings
}

/// Limits of resources, in bytes and descriptors.
pub fn limits(address_space: u64, file_size: u64, files: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    let short = |what: &str, remedy: &str| Finding::obstacle(what, remedy);
    if address_space < ADDRESS_SPACE {
        findings.push(short(
            "the limit of address space (ulimit -v) is below 256 MiB",
            "raise it: ulimit -v unlimited",
        ));
    }
    if file_size < TABLE_LEN as u64 {
        findings.push(short(
            "the limit of file sizes (ulimit -f) is too low for the library's memory files",
            "raise it: ulimit -f unlimited",
        ));
    }
    if files < 32 {
        findings.push(short(
            "the limit of open files (ulimit -n) is below 32",
            "raise it: ulimit -n 1024",
        ));
    }
    findings
}
