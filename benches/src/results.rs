//! What was measured: plain data that goes to JSON and back, so that runs can be put together.

use crate::place::Placement;
use crate::standing::Standing;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything that one or several calls of `compare` have found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Results {
    pub machine: Machine,
    pub rows: Vec<Row>,
    /// Connections that nobody uses.
    #[serde(default)]
    pub standing: Vec<Standing>,
}

/// Where and when.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    /// Day and time of the first run, UTC.
    pub date: String,
    /// Load average of the last minute before the runs and after them.
    pub load: (String, String),
    /// Version of the programs that were measured: `git describe`, when there is a repository.
    pub version: String,
}

/// Workloads that belong into one plot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// On its own.
    Single,
    /// `x` is the number of connections.
    Connections,
    /// `x` is the size of a message in bytes.
    MessageSize,
}

/// What a workload is, for reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Label {
    pub key: String,
    pub title: String,
    pub unit: String,
    pub lower_is_better: bool,
    /// What is counted as one operation: "request", "message", "MiB".
    pub operation: String,
    pub group: Group,
    pub x: u32,
}

/// One workload in one placement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub workload: Label,
    pub placement: Placement,
    pub cells: Vec<Cell>,
}

/// One workload in one placement on one leg: several runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Cell {
    pub leg: String,
    pub runs: Vec<Sample>,
    /// Why runs gave no value.
    pub failures: Vec<String>,
}

/// One run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub value: f64,
    /// Operations in the run, of which the costs below are the whole.
    pub operations: f64,
    /// Processor seconds of all processes together: servers, clients, daemon.
    pub cpu_s: f64,
    /// Context switches of all processes: went to sleep, and were pushed off.
    pub voluntary: u64,
    pub involuntary: u64,
    /// Latencies in microseconds by percentile, as text ("99.9"), when the client measures them.
    pub percentiles: BTreeMap<String, f64>,
    /// What the library counted, both ends together; absent without it.
    pub smc: Option<Smc>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Smc {
    pub smc_bytes: u64,
    pub tcp_bytes: u64,
    pub sleeps: u64,
    pub rings: u64,
    pub spin_hits: u64,
    pub spin_misses: u64,
}

impl Results {
    /// Puts the runs of `other` beside those that are here.
    pub fn merge(&mut self, other: Results) {
        if self.rows.is_empty() && self.standing.is_empty() {
            *self = other;
            return;
        }
        self.standing.extend(other.standing);
        for row in other.rows {
            let mine = self
                .rows
                .iter_mut()
                .find(|r| r.workload.key == row.workload.key && r.placement == row.placement);
            match mine {
                None => self.rows.push(row),
                Some(mine) => mine.merge(row),
            }
        }
    }

    pub fn row(&self, workload: &str, placement: Placement) -> Option<&Row> {
        let mut rows = self.rows.iter();
        rows.find(|r| r.workload.key == workload && r.placement == placement)
    }

    pub fn failures(&self) -> impl Iterator<Item = &String> {
        let cells = self.rows.iter().flat_map(|r| &r.cells);
        cells.flat_map(|c| &c.failures)
    }
}

impl Row {
    pub fn cell(&self, leg: &str) -> Option<&Cell> {
        self.cells.iter().find(|c| c.leg == leg)
    }

    fn merge(&mut self, other: Row) {
        for cell in other.cells {
            match self.cells.iter_mut().find(|c| c.leg == cell.leg) {
                None => self.cells.push(cell),
                Some(mine) => {
                    mine.runs.extend(cell.runs);
                    mine.failures.extend(cell.failures);
                }
            }
        }
    }

    /// How many times as good as on leg `base`.
    pub fn ratio(&self, leg: &str, base: &str) -> Option<f64> {
        let (base, value) = (self.cell(base)?.median()?, self.cell(leg)?.median()?);
        Some(if self.workload.lower_is_better {
            base / value
        } else {
            value / base
        })
    }

    /// Processor time per operation, in parts of that on leg `base`.
    pub fn cpu_ratio(&self, leg: &str, base: &str) -> Option<f64> {
        Some(self.cell(leg)?.cpu_us()? / self.cell(base)?.cpu_us()?)
    }
}

impl Cell {
    /// Median of something over the runs.
    pub fn median_of(&self, what: impl Fn(&Sample) -> f64) -> Option<f64> {
        let mut sorted: Vec<f64> = self.runs.iter().map(what).collect();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        (n > 0).then(|| (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0)
    }

    pub fn median(&self) -> Option<f64> {
        self.median_of(|s| s.value)
    }

    /// Lowest and highest value.
    pub fn range(&self) -> Option<(f64, f64)> {
        let values = || self.runs.iter().map(|s| s.value);
        let low = values().min_by(f64::total_cmp)?;
        let high = values().max_by(f64::total_cmp)?;
        Some((low, high))
    }

    /// Processor microseconds per operation, all processes together.
    pub fn cpu_us(&self) -> Option<f64> {
        self.per_operation(|s| s.cpu_s * 1e6)
    }

    /// Median of a cost for each operation.
    pub fn per_operation(&self, cost: impl Fn(&Sample) -> f64) -> Option<f64> {
        let counted = self.runs.iter().all(|s| s.operations > 0.0);
        counted
            .then(|| self.median_of(|s| cost(s) / s.operations))
            .flatten()
    }

    /// Share of the bytes that went over SMC, of those that the library saw.
    pub fn share(&self) -> Option<f64> {
        let smc = || self.runs.iter().filter_map(|s| s.smc);
        let over: u64 = smc().map(|s| s.smc_bytes).sum();
        let all: u64 = smc().map(|s| s.smc_bytes + s.tcp_bytes).sum();
        (all > 0).then(|| over as f64 / all as f64)
    }

    /// Median latency at a percentile, over the runs that have it.
    pub fn percentile(&self, at: &str) -> Option<f64> {
        let runs = self.runs.iter();
        let all: Option<Vec<f64>> = runs.map(|s| s.percentiles.get(at).copied()).collect();
        let mut sorted = all?;
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }
}

/// Names of the percentiles in a report, in order.
pub const PERCENTILES: [&str; 5] = ["50", "90", "99", "99.9", "100"];

#[cfg(test)]
pub mod sample {
    use super::*;

    /// A cell with these values, for tests of reports.
    pub fn cell(leg: &str, values: &[f64]) -> Cell {
        let run = |value: &f64| Sample {
            value: *value,
            operations: 1000.0,
            cpu_s: 1.0 / value,
            ..Default::default()
        };
        Cell {
            leg: leg.into(),
            runs: values.iter().map(run).collect(),
            failures: vec![],
        }
    }

    pub fn row(key: &str, lower_is_better: bool, cells: Vec<Cell>) -> Row {
        Row {
            workload: Label {
                key: key.into(),
                title: format!("the {key}"),
                unit: "u".into(),
                lower_is_better,
                operation: "message".into(),
                group: Group::Single,
                x: 0,
            },
            placement: Placement::TwoCores,
            cells,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::sample::{cell, row};
    use super::*;

    #[test]
    fn ratios_say_how_much_better() {
        let latency = row("a", true, vec![cell("tcp", &[20.0]), cell("x", &[1.0])]);
        assert_eq!(latency.ratio("x", "tcp"), Some(20.0));
        let rate = row(
            "b",
            false,
            vec![cell("tcp", &[2.0]), cell("x", &[4.0, 6.0, 90.0])],
        );
        assert_eq!(rate.ratio("x", "tcp"), Some(3.0));
        assert_eq!(rate.ratio("y", "tcp"), None);
    }

    #[test]
    fn medians_and_ranges() {
        let c = cell("x", &[5.0, 1.0, 2.0, 4.0]);
        assert_eq!(c.median(), Some(3.0));
        assert_eq!(c.range(), Some((1.0, 5.0)));
        assert_eq!(cell("x", &[]).median(), None);
    }

    #[test]
    fn shares_need_bytes() {
        let mut c = cell("x", &[1.0, 1.0]);
        assert_eq!(c.share(), None);
        c.runs[0].smc = Some(Smc {
            smc_bytes: 3,
            tcp_bytes: 1,
            ..Default::default()
        });
        assert_eq!(c.share(), Some(0.75));
    }

    #[test]
    fn runs_are_put_together() {
        let mut all = Results::default();
        for values in [[1.0], [3.0]] {
            all.merge(Results {
                rows: vec![row("a", false, vec![cell("tcp", &values)])],
                ..Default::default()
            });
        }
        assert_eq!(all.rows.len(), 1);
        assert_eq!(all.rows[0].cell("tcp").unwrap().median(), Some(2.0));
        let text = serde_json::to_string(&all).unwrap();
        let back: Results = serde_json::from_str(&text).unwrap();
        assert_eq!(back.rows[0].cells[0].runs.len(), 2);
    }
}
