//! Where and when something was measured.

use crate::results::Machine;
use std::fs;
use std::process::Command;

pub fn now() -> Machine {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name"));
    let cpu = model.map_or("unknown", |l| l.trim_start_matches([' ', '\t', ':']));
    let load = load_average();
    Machine {
        cpu: cpu.into(),
        cores: std::thread::available_parallelism().map_or(1, |n| n.get()),
        kernel: said("uname", &["-sr"]),
        date: said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        load: (load.clone(), load),
        version: said("git", &["-C", source(), "describe", "--always", "--dirty"]),
    }
}

fn source() -> &'static str {
    env!("CARGO_MANIFEST_DIR")
}

/// What a program prints, or nothing.
fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    text.unwrap_or_default()
}

/// Of the last minute: what else the machine had to do.
pub fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}

impl Machine {
    pub fn words(&self) -> String {
        let (before, after) = &self.load;
        format!(
            "{}, {} cores, {}; {}, version {}; load average {before} before, {after} after.",
            self.cpu, self.cores, self.kernel, self.date, self.version
        )
    }
}
