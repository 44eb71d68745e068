//! Runs programs on both transports.

use super::{Program, known};
use crate::{Lab, Mode, Policy, Run, ccase};
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// A way of running the shim.
#[derive(Clone, Copy, Debug)]
pub struct Leg {
    pub name: &'static str,
    policy: Policy,
    mode: Mode,
}

pub const LEGS: [Leg; 3] = [
    Leg {
        name: "eager",
        policy: Policy::Eager,
        mode: Mode::NoCopy,
    },
    Leg {
        name: "copy",
        policy: Policy::Eager,
        mode: Mode::Copy,
    },
    Leg {
        name: "default",
        policy: Policy::Default,
        mode: Mode::NoCopy,
    },
];

/// A program that did under the shim what it never did on TCP.
#[derive(Clone, Debug)]
pub struct Difference {
    pub program: Program,
    pub leg: &'static str,
    pub tcp: Vec<String>,
    pub shim: Vec<String>,
    /// How often it came in how many runs.
    pub seen: usize,
    pub of: usize,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = (0..self.tcp.len().max(self.shim.len()))
            .find(|&i| self.tcp.get(i) != self.shim.get(i))
            .unwrap_or(0);
        let part = |lines: &[String]| {
            let from = at.saturating_sub(3).min(lines.len());
            lines[from..lines.len().min(at + 4)].join("\n    ")
        };
        write!(
            f,
            "{}, leg {}, in {} of {} runs\n  TCP:\n    {}\n  shim:\n    {}\n{}",
            self.program.name,
            self.leg,
            self.seen,
            self.of,
            part(&self.tcp),
            part(&self.shim),
            self.program.text(None)
        )
    }
}

/// Where programs are run: one daemon.
pub struct Runner {
    pub lab: Lab,
    binary: PathBuf,
}

type Trace = Vec<String>;

impl Runner {
    #[track_caller]
    pub fn new() -> Runner {
        let files = ["program_ops.c", "common.c"];
        Runner {
            lab: Lab::start(),
            binary: ccase::build("program", &files, "-O1"),
        }
    }

    /// Traces by name of the program. A run that ends early has fewer.
    fn traces(&self, run: Run, text: &str, count: usize) -> HashMap<String, Trace> {
        static FILES: AtomicU32 = AtomicU32::new(0);
        let name = format!("program.{}.txt", FILES.fetch_add(1, Relaxed));
        let file = self.lab.dir().join(name);
        fs::write(&file, text).expect("a file in the temporary directory");
        let limit = Duration::from_secs(30 + 20 * count as u64);
        let outcome = run.arg(&file).limit(limit).finish();
        let _ = fs::remove_file(&file);
        let mut traces = HashMap::new();
        let mut now: Option<(String, Trace)> = None;
        for line in outcome.stdout.lines() {
            if let Some(name) = line.strip_prefix("program ") {
                now = Some((name.to_string(), Vec::new()));
            } else if line == "end" {
                traces.extend(now.take());
            } else if let Some((_, trace)) = &mut now {
                trace.push(line.to_string());
            }
        }
        if let Some((name, mut trace)) = now {
            trace.push(format!("no end: {outcome}"));
            traces.insert(name, trace);
        }
        traces
    }

    fn on_tcp(&self, programs: &[Program]) -> HashMap<String, Trace> {
        let text: String = programs.iter().map(|p| p.text(None)).collect();
        self.traces(self.lab.plain(&self.binary), &text, programs.len())
    }

    fn on_shim(
        &self,
        programs: &[Program],
        tcp: &HashMap<String, Trace>,
        leg: &Leg,
    ) -> HashMap<String, Trace> {
        let text: String = programs
            .iter()
            .filter_map(|p| Some(p.text(Some(&known(tcp.get(&p.name)?, p.steps.len())))))
            .collect();
        let run = self
            .lab
            .shim(&self.binary)
            .policy(leg.policy)
            .mode(leg.mode);
        self.traces(run.env("TEST_WARM", "1"), &text, programs.len())
    }

    /// Runs all programs on TCP and on a leg; gives those that differ.
    pub fn compare(&self, programs: &[Program], leg: &Leg) -> Vec<Difference> {
        let tcp = self.on_tcp(programs);
        let shim = self.on_shim(programs, &tcp, leg);
        let suspects = programs
            .iter()
            .filter(|p| tcp.get(&p.name) != shim.get(&p.name));
        suspects
            .filter_map(|program| {
                let first = shim.get(&program.name).cloned().unwrap_or_default();
                self.examine(program, tcp.get(&program.name)?, first, leg)
            })
            .collect()
    }

    /// Is it a difference, or does TCP do so as well at times? Half of its runs find the machine busy,
    /// so that what is a matter of who comes first is seen to be.
    fn examine(
        &self,
        program: &Program,
        tcp: &Trace,
        shim: Trace,
        leg: &Leg,
    ) -> Option<Difference> {
        const AGAIN: usize = 10;
        let one = std::slice::from_ref(program);
        let mut oracle = vec![tcp.clone()];
        for round in 0..AGAIN {
            let runs = || self.on_tcp(one).into_values().next();
            let trace = if round % 2 == 1 {
                under_load(runs)
            } else {
                runs()
            };
            oracle.extend(trace.filter(|trace| !oracle.contains(trace)));
            if oracle.contains(&shim) {
                return None;
            }
        }
        let as_tcp = |known: &Trace| {
            let all = HashMap::from([(program.name.clone(), known.clone())]);
            let again = self.on_shim(one, &all, leg).into_values().next();
            again.is_some_and(|trace| oracle.contains(&trace))
        };
        // A call that sleeps is waited for as long as the first run on TCP says. Others may say that it
        // is right to sleep.
        let hung = shim.iter().any(|line| line.ends_with("HUNG"));
        if hung && oracle.iter().skip(1).any(as_tcp) {
            return None;
        }
        let (mut seen, mut of) = (1, 1);
        for _ in 0..4 {
            of += 1;
            seen += usize::from(!as_tcp(tcp));
        }
        Some(Difference {
            program: program.clone(),
            leg: leg.name,
            tcp: tcp.clone(),
            shim,
            seen,
            of,
        })
    }
}

/// Runs `f` while all processors are busy, twice over. One at a time: others make enough load.
fn under_load<R>(f: impl FnOnce() -> R) -> R {
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
    let over = AtomicBool::new(false);
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..2 * processors {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let _end = End(&over);
        f()
    })
}

impl Default for Runner {
    fn default() -> Self {
        Runner::new()
    }
}
