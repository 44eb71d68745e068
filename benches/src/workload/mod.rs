//! The programs that are compared.

mod own;
mod postgres;
mod reading;
mod stores;
mod tools;
mod web;

use crate::leg::{Leg, Transport};
use crate::place::Placement;
use crate::results::{Group, Label};
use std::path::{Path, PathBuf};
use tests::{Lab, Run};

pub use reading::Reading;

/// What a workload needs to know about its run.
#[derive(Debug)]
pub struct Place<'a> {
    pub dir: &'a Path,
    pub port: u16,
    /// Further ports, for servers behind a proxy.
    pub inner_port: u16,
    /// Use this UNIX domain socket instead of the port.
    pub unix: Option<PathBuf>,
    pub seconds: u32,
    /// What the workload is parameterised by: [`Workload::n`].
    pub n: u32,
    /// How many operations to do, when the client takes a count instead of a time.
    pub count: u32,
}

impl Place<'_> {
    /// Where our own programs meet.
    fn at(&self) -> String {
        match &self.unix {
            None => format!("127.0.0.1:{}", self.port),
            Some(path) => path.display().to_string(),
        }
    }
}

/// A command line.
#[derive(Clone, Debug)]
pub struct Program {
    pub program: String,
    pub args: Vec<String>,
    /// Run it as nobody when we are root: it refuses root.
    pub unprivileged: bool,
}

impl Program {
    /// A program with arguments that are separated by spaces.
    fn new(program: impl Into<String>, args: &str) -> Program {
        Program {
            program: program.into(),
            args: args.split_whitespace().map(String::from).collect(),
            unprivileged: false,
        }
    }

    fn arg(mut self, arg: impl Into<String>) -> Program {
        self.args.push(arg.into());
        self
    }

    /// The program as the last part of another command line.
    pub fn after(self, prefix: &[String]) -> Program {
        let mut words = prefix.iter().cloned();
        let program = words.next().unwrap_or_default();
        Program {
            program,
            args: words.chain([self.program]).chain(self.args).collect(),
            unprivileged: self.unprivileged,
        }
    }

    /// The program as it is started on a leg: `start` is [`Leg::server`] or [`Leg::client`].
    pub fn on(&self, leg: &Leg, lab: &Lab, start: fn(&Leg, &Lab, &str) -> Run) -> Run {
        if !self.unprivileged || !is_root() {
            return start(leg, lab, &self.program).args(&self.args);
        }
        let run = start(leg, lab, "setpriv")
            .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"])
            .arg(&self.program)
            .args(&self.args);
        if !leg.shimmed() {
            return run;
        }
        // Not everybody may read the directory with the build.
        let library = lab.dir().join("libsmclo.so");
        if !library.exists() {
            std::fs::copy(tests::artefacts::library(), &library).expect("room for the library");
        }
        run.env("LD_PRELOAD", library)
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A program of this crate: beside the running one, or one directory up (from a test).
pub fn own_program(name: &str) -> String {
    let me = std::env::current_exe().expect("a running program has a path");
    let dirs = me.ancestors().skip(1).take(2);
    let mut found = dirs.map(|dir| dir.join(name)).filter(|p| p.exists());
    let path = found.next().unwrap_or_else(|| PathBuf::from(name));
    path.display().to_string()
}

/// Makes what a workload needs.
pub type Prepare = fn(&Place<'_>) -> Result<(), String>;

/// Servers, a client, and how to read the client's output.
#[derive(Clone, Debug)]
pub struct Workload {
    pub key: String,
    pub title: String,
    pub unit: &'static str,
    pub lower_is_better: bool,
    /// What [`Reading::operations`] counts.
    pub operation: &'static str,
    pub group: Group,
    pub n: u32,
    /// Operations for each second of the plan, for a client that takes a count instead of a time.
    pub per_second: u32,
    /// Can use UNIX domain sockets.
    pub unix: bool,
    /// What has to be there before the servers start; does nothing the second time.
    pub prepare: Option<Prepare>,
    /// In the order in which they start; the last one is where the client goes.
    pub servers: fn(&Place<'_>) -> Vec<Program>,
    pub client: fn(&Place<'_>) -> Program,
    /// Arguments of `limit` for the same messages.
    pub limit: Option<fn(u32) -> String>,
    pub result: fn(&str) -> Option<Reading>,
    /// As [`Workload::result`], for the output of `limit`.
    pub limit_result: fn(&str) -> Option<Reading>,
}

impl Workload {
    /// Frame of a workload without special needs.
    fn new(key: impl Into<String>, title: impl Into<String>) -> Workload {
        Workload {
            key: key.into(),
            title: title.into(),
            unit: "req/s",
            lower_is_better: false,
            operation: "request",
            group: Group::Single,
            n: 0,
            per_second: 0,
            unix: false,
            prepare: None,
            servers: |_| Vec::new(),
            client: |_| Program::new("false", ""),
            limit: None,
            result: |_| None,
            limit_result: |_| None,
        }
    }

    /// Whether there is such a run at all.
    pub fn has(&self, leg: &Leg, placement: Placement) -> bool {
        match leg.transport {
            Transport::Tcp => true,
            Transport::Unix => self.unix,
            // A ring without sleeping needs to know its cores.
            Transport::Limit => self.limit.is_some() && placement != Placement::Free,
        }
    }

    pub fn label(&self) -> Label {
        Label {
            key: self.key.clone(),
            title: self.title.clone(),
            unit: self.unit.into(),
            lower_is_better: self.lower_is_better,
            operation: self.operation.into(),
            group: self.group,
            x: self.n,
        }
    }
}

/// All workloads, in the order of reports.
pub fn all() -> Vec<Workload> {
    let mut all = own::messages();
    all.extend(tools::all());
    all.extend(web::all());
    all.extend(stores::all());
    all.push(postgres::one_client());
    all.push(postgres::eight_clients());
    all.push(postgres::connecting());
    all.extend(own::connections());
    all.extend(own::sizes());
    all
}

/// Workloads of the demo.
pub const DEMO: &str = "sockperf-pp,sockperf-tp,iperf3,redis,wrk";

/// The workloads that a comma-separated list names; `*` at the end of a name stands for anything.
pub fn named(list: &[String]) -> Result<Vec<Workload>, String> {
    let all = all();
    let mut found: Vec<Workload> = Vec::new();
    for name in list {
        let fits = |w: &&Workload| match name.strip_suffix('*') {
            Some(start) => w.key.starts_with(start),
            None => w.key == *name,
        };
        let matches: Vec<_> = all.iter().filter(fits).cloned().collect();
        if matches.is_empty() {
            let known: Vec<_> = all.iter().map(|w| w.key.as_str()).collect();
            return Err(format!(
                "no workload {name:?}; there are {}",
                known.join(", ")
            ));
        }
        found.extend(matches);
    }
    Ok(found)
}

#[cfg(test)]
mod tests_of_names {
    use super::*;

    #[test]
    fn names_are_found_once() {
        let all = all();
        let mut keys: Vec<_> = all.iter().map(|w| &w.key).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), all.len());
        let some = named(&["redis".into(), "echo-*".into()]).unwrap();
        assert_eq!(some.len(), 6);
        assert!(named(&["nothing".into()]).unwrap_err().contains("redis"));
        assert!(named(&DEMO.split(',').map(String::from).collect::<Vec<_>>()).is_ok());
    }
}
