//! A memory control group of a test's own, gone on drop.

use crate::{Run, net};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug)]
pub struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// A group whose processes may have so many bytes; `None` where this process may not make one.
    pub fn new(bytes: u64) -> Option<MemoryGroup> {
        let places = [
            (
                "/sys/fs/cgroup/memory",
                "memory.limit_in_bytes",
                "memory.memsw.limit_in_bytes",
            ),
            ("/sys/fs/cgroup", "memory.max", "memory.swap.max"),
        ];
        for (root, limit, swap) in places {
            let path = Path::new(root).join(format!("smclo-test-{}", std::process::id()));
            if fs::create_dir(&path).is_err() {
                continue;
            }
            let group = MemoryGroup(path);
            if fs::write(group.0.join(limit), bytes.to_string()).is_ok() {
                // Not everywhere, and of no matter where there is no swap.
                let with_swap = if swap == "memory.swap.max" { 0 } else { bytes };
                let _ = fs::write(group.0.join(swap), with_swap.to_string());
                return Some(group);
            }
        }
        eprintln!("no memory control group, nothing tested");
        None
    }

    /// A program in this group.
    pub fn run(&self, run: Run) -> Run {
        let script = format!("echo $$ >{}/cgroup.procs && exec \"$@\"", self.0.display());
        run.through(&["sh", "-c", &script, "sh"])
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        net::wait_until(Duration::from_secs(5), || fs::remove_dir(&self.0).is_ok());
    }
}
