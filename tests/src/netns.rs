//! Network namespaces of a test's own, made with iproute2 and gone on drop.

use crate::Run;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A network namespace with loopback up.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    #[track_caller]
    pub fn new() -> Netns {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Relaxed);
        let netns = Netns {
            name: format!("smclo-{}-{n}", std::process::id()),
        };
        must(&format!("ip netns add {}", netns.name));
        netns.ip("link set lo up");
        netns
    }

    /// Runs `ip ARGS` in it.
    #[track_caller]
    pub fn ip(&self, args: &str) {
        must(&format!("ip -n {} {args}", self.name));
    }

    /// Runs a command of a few words in it.
    #[track_caller]
    pub fn command(&self, words: &str) {
        must(&format!("ip netns exec {} {words}", self.name));
    }

    /// What a command of a few words in it prints.
    #[track_caller]
    pub fn output(&self, words: &str) -> String {
        must(&format!("ip netns exec {} {words}", self.name))
    }

    /// Loads rules in the language of nft.
    #[track_caller]
    pub fn nft(&self, rules: &str) {
        use std::io::Write;
        let mut nft = Command::new("ip")
            .args(["netns", "exec", &self.name, "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("ip and nft run");
        let mut input = nft.stdin.take().expect("a pipe");
        input.write_all(rules.as_bytes()).expect("nft reads");
        drop(input);
        assert!(nft.wait().expect("a child").success(), "nft: {rules}");
    }

    /// A veth pair: `own` here with an address, `other` there with another.
    #[track_caller]
    pub fn join(&self, own: (&str, &str), other: &Netns, theirs: (&str, &str)) {
        let there = &other.name;
        self.ip(&format!(
            "link add {} type veth peer name {} netns {there}",
            own.0, theirs.0
        ));
        self.address(own.0, own.1);
        other.address(theirs.0, theirs.1);
    }

    /// Gives an interface an address (none when empty) and brings it up.
    #[track_caller]
    pub fn address(&self, interface: &str, address: &str) {
        if !address.is_empty() {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            self.ip(&format!("addr add {address} dev {interface} {nodad}"));
        }
        self.ip(&format!("link set {interface} up"));
    }

    /// The words that put a program into it.
    pub fn path(&self) -> String {
        format!("--net=/run/netns/{}", self.name)
    }

    /// A program that runs in it.
    pub fn run(&self, run: Run) -> Run {
        run.through(&["nsenter", &self.path()])
    }

    /// A program that runs in it as in a container: with processes and mounts of its own.
    pub fn contained(&self, run: Run) -> Run {
        let own = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
        self.run(run).through(&own)
    }
}

impl Default for Netns {
    fn default() -> Self {
        Netns::new()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}

#[track_caller]
fn must(words: &str) -> String {
    let mut all = words.split_whitespace();
    let program = all.next().expect("a command");
    let done = Command::new(program)
        .args(all)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{words}: {e}"));
    assert!(
        done.status.success(),
        "{words}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// Whether this process may make network namespaces.
pub fn possible() -> bool {
    // SAFETY: geteuid cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("not root: no network namespaces, nothing tested");
    }
    root
}

/// Whether this kernel lets us boot a systemd in namespaces of our own.
pub fn can_boot() -> bool {
    let filesystems = std::fs::read_to_string("/proc/filesystems");
    filesystems.is_ok_and(|f| f.contains("cgroup2"))
        && possible()
        && std::path::Path::new("/lib/systemd/systemd").exists()
}
