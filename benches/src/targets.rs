//! What has to be reached, and whether it was.

use crate::leg::{LIMIT, NO_COPY, TCP, UNIX};
use crate::place::Placement::{self, SameCore, TwoCores};
use crate::results::Results;
use serde::Serialize;

/// Which number of a row is meant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum What {
    /// How many times as good as on another leg.
    Against(&'static str),
    /// Processor time per operation in parts of that on TCP.
    Cpu,
    /// The value itself.
    Value,
    /// The value in parts of another workload's, on the same leg.
    Of(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub workload: &'static str,
    pub placement: Placement,
    pub leg: &'static str,
    pub what: What,
    pub bound: Bound,
    /// The published ratio of the kernel's SMC-D loopback to TCP ([`crate::report::published`]).
    pub kernel: Option<f64>,
}

const fn target(workload: &'static str, what: What, bound: Bound) -> Target {
    Target {
        workload,
        placement: TwoCores,
        leg: NO_COPY,
        what,
        bound,
        kernel: None,
    }
}

/// At least so many times as good as TCP on two cores.
const fn times(workload: &'static str, times: f64, kernel: Option<f64>) -> Target {
    Target {
        kernel,
        ..target(workload, What::Against(TCP), Bound::AtLeast(times))
    }
}

/// Spinning off, both ends on one core; from "at most this part of the latency".
const fn one_core(base: &'static str, part: f64) -> Target {
    Target {
        placement: SameCore,
        leg: "nocopy-nospin",
        ..target("ping-pong", What::Against(base), Bound::AtLeast(1.0 / part))
    }
}

/// Nothing is accelerated: `leg` against plain TCP.
const fn unharmed(leg: &'static str) -> Target {
    Target {
        leg,
        ..times("wrk", 0.99, None)
    }
}

pub const ALL: [Target; 25] = [
    times("sockperf-pp", 40.0, Some(1.9)),
    target("sockperf-pp", What::Against(LIMIT), Bound::AtLeast(0.5)),
    times("ipc-bench", 40.0, Some(1.9)),
    Target {
        kernel: Some(1.3),
        ..target("ipc-bench", What::Against(UNIX), Bound::AtLeast(20.0))
    },
    target("stream-8", What::Value, Bound::AtLeast(10e6)),
    times("sockperf-tp", 3.5, Some(1.7)),
    target("sockperf-tp", What::Against(LIMIT), Bound::AtLeast(0.7)),
    times("iperf3", 4.0, Some(1.8)),
    times("wrk", 3.0, Some(1.4)),
    target("wrk", What::Cpu, Bound::AtMost(0.5)),
    times("wrk-500", 3.0, Some(1.4)),
    times("wrk-file", 2.3, Some(1.4)),
    times("redis", 3.0, Some(1.35)),
    times("redis-set", 3.0, Some(1.35)),
    target("redis", What::Cpu, Bound::AtMost(0.5)),
    times("redis-1", 15.0, Some(1.35)),
    times("redis-set-1", 15.0, Some(1.35)),
    times("memcached", 2.0, None),
    times("pgbench", 1.0, None),
    times("short", 0.98, None),
    unharmed("off"),
    unharmed("server-only"),
    one_core(TCP, 0.6),
    one_core(UNIX, 0.85),
    target(
        "busy-10-idle-10000",
        What::Of("busy-10"),
        Bound::AtLeast(0.95),
    ),
];

/// A target and what was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    pub workload: &'static str,
    pub placement: Placement,
    pub leg: &'static str,
    /// In words: "times TCP", "of the limit", ...
    pub measure: String,
    pub wanted: String,
    pub kernel: Option<f64>,
    pub got: f64,
    pub met: bool,
}

/// The targets that the results say something about.
pub fn verdicts(results: &Results) -> Vec<Verdict> {
    ALL.iter().filter_map(|t| t.verdict(results)).collect()
}

impl Target {
    fn verdict(&self, results: &Results) -> Option<Verdict> {
        let got = self.measured(results)?;
        Some(Verdict {
            workload: self.workload,
            placement: self.placement,
            leg: self.leg,
            measure: self.words(results)?,
            wanted: match self.bound {
                Bound::AtLeast(n) => format!("≥ {}", number(n)),
                Bound::AtMost(n) => format!("≤ {}", number(n)),
            },
            kernel: self.kernel,
            got,
            met: match self.bound {
                Bound::AtLeast(n) => got >= n,
                Bound::AtMost(n) => got <= n,
            },
        })
    }

    fn measured(&self, results: &Results) -> Option<f64> {
        let row = results.row(self.workload, self.placement)?;
        match self.what {
            What::Against(base) => row.ratio(self.leg, base),
            What::Cpu => row.cpu_ratio(self.leg, TCP),
            What::Value => row.cell(self.leg)?.median(),
            What::Of(other) => {
                let other = results.row(other, self.placement)?;
                Some(row.cell(self.leg)?.median()? / other.cell(self.leg)?.median()?)
            }
        }
    }

    fn words(&self, results: &Results) -> Option<String> {
        let row = results.row(self.workload, self.placement)?;
        Some(match self.what {
            What::Against(base) => format!("times {}", crate::leg::title(base)),
            What::Cpu => format!("of TCP's CPU per {}", row.workload.operation),
            What::Value => row.workload.unit.clone(),
            What::Of(other) => format!("of {other}"),
        })
    }
}

fn number(n: f64) -> String {
    if n >= 1e6 {
        format!("{} million", n / 1e6)
    } else {
        format!("{}", (n * 100.0).round() / 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::sample::{cell, row};

    fn results(nocopy: f64) -> Results {
        Results {
            rows: vec![row(
                "redis",
                false,
                vec![cell("tcp", &[100.0]), cell("nocopy", &[nocopy])],
            )],
            ..Default::default()
        }
    }

    #[test]
    fn targets_are_met_or_not() {
        let good = verdicts(&results(300.0));
        assert_eq!(good.len(), 2, "ratio and CPU: {good:?}");
        assert!(good.iter().all(|v| v.met), "{good:?}");
        let bad = verdicts(&results(299.0));
        assert!(!bad[0].met && bad[0].wanted == "≥ 3", "{bad:?}");
    }

    #[test]
    fn targets_name_what_there_is() {
        let known: Vec<String> = crate::workload::all().into_iter().map(|w| w.key).collect();
        for t in ALL {
            assert!(known.iter().any(|k| k == t.workload), "{t:?}");
            assert!(crate::leg::by_key(t.leg).is_some(), "{t:?}");
        }
    }
}
