//! Makes a program that differs shorter, as long as it still differs.

use super::{Difference, LEGS, Program, Runner};
use std::time::Instant;

/// Takes steps out, most at a time first, until `end`.
pub fn shrink(runner: &Runner, found: Difference, end: Instant) -> Difference {
    let Some(leg) = LEGS.iter().find(|leg| leg.name == found.leg) else {
        return found;
    };
    let differs = |program: &Program| {
        let differences = runner.compare(std::slice::from_ref(program), leg);
        differences.into_iter().next().filter(|d| d.seen > 1)
    };
    let mut best = found;
    let mut part = best.program.steps.len().div_ceil(2);
    while part > 0 {
        let mut at = 0;
        let mut shorter = false;
        while at < best.program.steps.len() {
            if Instant::now() > end {
                return best;
            }
            let mut program = best.program.clone();
            let last = (at + part).min(program.steps.len());
            program.steps.drain(at..last);
            match differs(&program) {
                Some(difference) => {
                    best = difference;
                    shorter = true;
                }
                None => at += part,
            }
        }
        if part == 1 && !shorter {
            break;
        }
        part = if part == 1 { 1 } else { part / 2 };
    }
    best
}
