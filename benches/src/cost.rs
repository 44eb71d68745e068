//! What processes have cost: processor time and context switches.

use nix::sys::resource::{UsageWho, getrusage};
use std::collections::HashMap;
use std::fs;
use std::ops::{Add, Sub};

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    pub cpu_s: f64,
    pub voluntary: u64,
    pub involuntary: u64,
}

impl Add for Cost {
    type Output = Cost;
    fn add(self, other: Cost) -> Cost {
        Cost {
            cpu_s: self.cpu_s + other.cpu_s,
            voluntary: self.voluntary + other.voluntary,
            involuntary: self.involuntary + other.involuntary,
        }
    }
}

impl Sub for Cost {
    type Output = Cost;
    fn sub(self, other: Cost) -> Cost {
        Cost {
            cpu_s: (self.cpu_s - other.cpu_s).max(0.0),
            voluntary: self.voluntary.saturating_sub(other.voluntary),
            involuntary: self.involuntary.saturating_sub(other.involuntary),
        }
    }
}

impl Cost {
    /// Of all children of this process that have ended, and of theirs.
    pub fn of_ended_children() -> Cost {
        let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else {
            return Cost::default();
        };
        let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
        Cost {
            cpu_s: seconds(usage.user_time()) + seconds(usage.system_time()),
            voluntary: usage.voluntary_context_switches() as u64,
            involuntary: usage.involuntary_context_switches() as u64,
        }
    }

    /// So far, of living processes and all that descends from them.
    pub fn of_trees(roots: impl IntoIterator<Item = u32>) -> Cost {
        let parents = parents();
        let mut todo: Vec<u32> = roots.into_iter().collect();
        let mut all = Cost::default();
        while let Some(pid) = todo.pop() {
            all = all + Cost::of_process(pid);
            todo.extend(parents.iter().filter(|(_, p)| **p == pid).map(|(c, _)| *c));
        }
        all
    }

    /// Of one living process, without its children.
    pub fn of_process(pid: u32) -> Cost {
        let tasks = fs::read_dir(format!("/proc/{pid}/task"));
        let tasks = tasks.into_iter().flatten().flatten();
        tasks
            .map(|task| {
                let read = |file| fs::read_to_string(task.path().join(file)).unwrap_or_default();
                of_task(&read("schedstat"), &read("status"))
            })
            .fold(Cost::default(), Cost::add)
    }
}

/// From the files that /proc has for a thread.
fn of_task(schedstat: &str, status: &str) -> Cost {
    let first = schedstat.split(' ').next().unwrap_or("");
    let line = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name));
        line.and_then(|l| l.trim().parse().ok()).unwrap_or(0)
    };
    Cost {
        cpu_s: first.parse::<f64>().unwrap_or(0.0) / 1e9,
        voluntary: line("voluntary_ctxt_switches:"),
        involuntary: line("nonvoluntary_ctxt_switches:"),
    }
}

/// Parent of each process.
fn parents() -> HashMap<u32, u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // The command name may hold spaces and parentheses: count from its end.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
            Some((pid, parent.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_understood() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t3\n";
        let cost = of_task("2500000000 12 5\n", status);
        assert_eq!((cost.cpu_s, cost.voluntary, cost.involuntary), (2.5, 7, 3));
    }

    #[test]
    fn own_work_is_seen() {
        let before = Cost::of_trees([std::process::id()]);
        let end = std::time::Instant::now() + std::time::Duration::from_millis(50);
        while std::time::Instant::now() < end {}
        let spent = Cost::of_trees([std::process::id()]) - before;
        assert!(spent.cpu_s > 0.0, "{spent:?}");
    }
}
