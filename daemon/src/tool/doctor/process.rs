//! What can be seen of a process that runs.

use super::{Finding, host, program};
use crate::client::Connection;
use crate::report::Connection as Row;
use crate::tool::launch::LIBRARY;
use protocol::ctl::{SYSTEM_SOCKET, Verb};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

struct Proc {
    pid: u32,
    dir: PathBuf,
}

impl Proc {
    fn read(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.dir.join(name)).ok()
    }

    fn text(&self, name: &str) -> Option<String> {
        self.read(name)
            .map(|raw| String::from_utf8_lossy(&raw).into_owned())
    }

    /// A variable of the environment with which it was started.
    fn variable(&self, name: &str) -> Option<Vec<u8>> {
        let env = self.read("environ")?;
        let mut all = env.split(|c| *c == 0);
        all.find_map(|var| var.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
            .map(<[u8]>::to_vec)
    }

    /// A number of `/proc/PID/status`.
    fn status(&self, name: &str) -> Option<u32> {
        let text = self.text("status")?;
        let mut lines = text.lines();
        let line = lines.find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    }

    /// A soft limit of `/proc/PID/limits`.
    fn limit(&self, name: &str) -> u64 {
        let text = self.text("limits").unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix(name));
        let soft = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
        soft.unwrap_or(u64::MAX)
    }

    /// Whether it sees another file system or network than we do.
    fn is_elsewhere(&self) -> bool {
        let place = |path: PathBuf| fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
        let differs = |name: &str| {
            let (own, its) = (Path::new("/proc/self").join(name), self.dir.join(name));
            let (own, its) = (place(own), place(its));
            own.is_some() && its.is_some() && own != its
        };
        ["root", "ns/mnt", "ns/net"].into_iter().any(differs)
    }
}

/// Whether there is anything to look at.
pub fn visible(pid: u32) -> Result<(), String> {
    let dir = PathBuf::from(format!("/proc/{pid}"));
    match fs::metadata(dir.join("exe")) {
        Ok(_) => Ok(()),
        Err(_) if !dir.is_dir() => Err(format!("there is no process {pid}")),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(format!(
            "process {pid} belongs to another user: run the doctor as root"
        )),
        Err(_) => Err(format!(
            "process {pid} is a part of the kernel, or has ended"
        )),
    }
}

/// Name of the subject, and what was found.
pub fn check(pid: u32, socket: Option<&Path>) -> (String, Vec<Finding>) {
    let process = Proc {
        pid,
        dir: format!("/proc/{pid}").into(),
    };
    let comm = process.text("comm").unwrap_or_default();
    let subject = format!("{} [{pid}]", comm.trim_end());
    let exe = process.dir.join("exe");
    let mut findings = program::check(&exe);
    findings.push(library(&process));
    findings.extend(daemon(&process, socket));
    if process.variable("SMCLO_POLICY").as_deref() == Some(b"off") {
        findings.push(Finding::obstacle(
            "started with SMCLO_POLICY=off",
            "unset it",
        ));
    } else if process.variable("SMCLO_POLICY").is_none() {
        let uid = process.status("Uid").unwrap_or(0);
        findings.extend(host::policies(Some(comm.trim_end().as_bytes()), uid));
    }
    findings.extend(seccomp(&process));
    findings.extend(host::doorbells());
    findings.extend(host::limits(
        process.limit("Max address space"),
        process.limit("Max file size"),
        process.limit("Max open files"),
    ));
    (subject, findings)
}

fn library(process: &Proc) -> Finding {
    let maps = process.text("maps").unwrap_or_default();
    if maps.lines().any(|l| l.trim_end().ends_with(LIBRARY)) {
        return Finding::good("the library is loaded");
    }
    let remedy = "start it anew with \"smclo run\", or with LD_PRELOAD";
    match process.variable("LD_PRELOAD") {
        Some(preload) if contains(&preload, LIBRARY.as_bytes()) => Finding::obstacle(
            "LD_PRELOAD names the library, but the loader has not loaded it",
            "the path must exist where the program sees it, and be readable for its user",
        ),
        _ => Finding::obstacle("the library is not loaded", remedy),
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|w| w == part)
}

fn seccomp(process: &Proc) -> Option<Finding> {
    (process.status("Seccomp")? != 0).then(|| {
        Finding::note(
            "under a seccomp filter: where it forbids what the library needs, connections stay on TCP",
            "allow memfd_create, socket(AF_UNIX), sendmsg, recvmsg, ppoll, timerfd_create, timerfd_settime, timerfd_gettime and its ioctl",
        )
    })
}

/// The daemon as the process finds it, and what it knows of the process.
fn daemon(process: &Proc, socket: Option<&Path>) -> Vec<Finding> {
    let named = process.variable("SMCLO_SOCKET").filter(|p| !p.is_empty());
    let named = named.map(|p| PathBuf::from(OsStr::from_bytes(&p)));
    if process.is_elsewhere() {
        let inside = named.clone().unwrap_or_else(|| SYSTEM_SOCKET.into());
        let seen = process
            .dir
            .join("root")
            .join(inside.strip_prefix("/").unwrap_or(&inside));
        if fs::metadata(&seen).is_err() {
            let what = format!(
                "in a container without the daemon's socket ({})",
                inside.display()
            );
            return vec![Finding::obstacle(what, host::daemon_remedy(true))];
        }
    }
    let ours = named.as_deref().filter(|_| !process.is_elsewhere());
    let Ok(daemon) = Connection::find(socket.or(ours)) else {
        return vec![Finding::obstacle(
            "no smclod answers",
            host::daemon_remedy(host::in_container()),
        )];
    };
    let mut findings = vec![Finding::good(format!(
        "smclod answers at {}",
        daemon.path.display()
    ))];
    let answer = daemon.ask_about(Verb::Ss, 0).ok();
    let rows: Vec<Row> = answer
        .and_then(|a| serde_json::from_slice(&a).ok())
        .unwrap_or_default();
    let mine = rows.iter().filter(|r| r.pid == process.pid);
    let mine: Vec<&Row> = mine.filter(|r| r.mode != "LISTEN").collect();
    findings.extend(connections(&mine));
    findings
}

fn connections(rows: &[&Row]) -> Vec<Finding> {
    if rows.is_empty() {
        return vec![Finding::note(
            "it has no TCP connection now that the daemon knows of",
            "",
        )];
    }
    let mut findings = Vec::new();
    let fast = rows.iter().filter(|r| r.mode == "SMCD").count();
    if fast > 0 {
        findings.push(Finding::good(format!("{fast} connections on SMC-D now")));
    }
    let mut plain: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for row in rows.iter().filter(|r| r.mode == "TCP") {
        *plain.entry((&row.reason, &row.reason_words)).or_default() += 1;
    }
    for ((name, words), count) in plain {
        let what = format!("{count} connections on TCP: {words} ({name})");
        findings.push(Finding::note(what, remedy(name)));
    }
    findings
}

/// What can be done about a reason.
fn remedy(reason: &str) -> &'static str {
    match reason {
        "NO_PEER_YET" => "start the program at the other end with \"smclo run\" too",
        "NOT_YET" => "nothing: it has had little traffic",
        "OTHER_UID" => {
            "run both ends as the same user, or let the two users trust each other in the host's policy file"
        }
        "NO_DAEMON" | "DAEMON_VERSION" => "start smclod, of the same version",
        "POLICY_OFF" | "POLICY_LIMIT" => "see the policy files",
        "LIMITS" | "MEM" | "MAX_DMB" => "raise the limits of the process or of smclod",
        "NETNS" => "run smclod as root",
        _ => "see docs/limits.md",
    }
}
