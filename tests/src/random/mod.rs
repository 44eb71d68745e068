//! Generated socket programs, run on plain TCP and under the shim, and compared.
//!
//! A program is a list of steps, see `tests/c/program.h`; the kernel's trace of it is the oracle. It
//! only holds what the kernel makes the same each time, and where it does not after all (an
//! interrupt that came late), the program is run again and every trace that TCP gives counts.

mod generate;
mod run;
mod shrink;

pub use generate::generate;
pub use run::{Difference, LEGS, Leg, Runner};
pub use shrink::shrink;

use std::fmt::Write;

/// One step: who does what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub actor: usize,
    pub op: String,
    pub args: Vec<i64>,
}

/// A program, as `tests/c/program.c` reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    pub name: String,
    pub processes: usize,
    pub pairs: usize,
    pub warm: bool,
    pub threads: usize,
    pub steps: Vec<Step>,
}

/// What the run on TCP has shown of a step.
#[derive(Clone, Debug, Default)]
pub struct Known {
    sleeps: bool,
    ends: Vec<usize>,
}

impl Program {
    /// The text, with what is known of each step.
    pub fn text(&self, known: Option<&[Known]>) -> String {
        let mut text = format!(
            "program {} {} {} {} {}\n",
            self.name,
            self.processes,
            self.pairs,
            u8::from(self.warm),
            self.threads
        );
        for (i, step) in self.steps.iter().enumerate() {
            let _ = write!(text, "{} {}", step.actor, step.op);
            for arg in &step.args {
                let _ = write!(text, " {arg}");
            }
            if let Some(known) = known.and_then(|all| all.get(i)) {
                text.push_str(if known.sleeps { " !" } else { " =" });
                for actor in &known.ends {
                    let _ = write!(text, " >{actor}");
                }
            }
            text.push('\n');
        }
        text.push_str("end\n");
        text
    }

    /// The programs of a file; lines that start with `#` are for people.
    pub fn parse(text: &str) -> Vec<Program> {
        let mut programs: Vec<Program> = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.split_whitespace();
            let first = words.next().unwrap_or("");
            if first == "program" {
                let name = words.next().expect("a name").to_string();
                let numbers: Vec<usize> = words.map(|w| w.parse().expect("a number")).collect();
                programs.push(Program {
                    name,
                    processes: numbers[0],
                    pairs: numbers[1],
                    warm: numbers[2] != 0,
                    threads: numbers[3],
                    steps: Vec::new(),
                });
            } else if let Ok(actor) = first.parse() {
                let step = Step {
                    actor,
                    op: words.next().expect("a call").to_string(),
                    args: words.map(|w| w.parse().expect("a number")).collect(),
                };
                programs.last_mut().expect("a program").steps.push(step);
            }
        }
        programs
    }
}

/// What the trace of a run on TCP says of each step.
pub fn known(trace: &[String], steps: usize) -> Vec<Known> {
    let mut known = vec![Known::default(); steps];
    for line in trace {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(number) = words.first().and_then(|w| w.parse::<usize>().ok()) else {
            continue;
        };
        let Some(step) = number.checked_sub(1).and_then(|at| known.get_mut(at)) else {
            continue;
        };
        if words.get(1) == Some(&"ended") {
            let actor = words
                .get(3)
                .and_then(|w| w.trim_matches(['A', ':']).parse::<usize>().ok());
            step.ends.extend(actor);
        } else if words.last() == Some(&"asleep") {
            step.sleeps = true;
        }
    }
    known
}
