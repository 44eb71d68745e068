//! The results for programs, with what follows from them.

use crate::leg::TCP;
use crate::results::Results;
use crate::targets;
use serde_json::{Value, json};

/// Everything that was measured (`Results` reads it back), medians and ratios, and the targets.
pub fn json(results: &Results) -> Value {
    let mut value = serde_json::to_value(results).expect("results are plain data");
    let rows = results.rows.iter().map(|row| {
        let cells = row.cells.iter().map(|cell| {
            let summary = json!({
                "median": cell.median(),
                "ratio": row.ratio(&cell.leg, TCP),
                "cpu_us": cell.cpu_us(),
                "cpu_ratio": row.cpu_ratio(&cell.leg, TCP),
                "smc_share": cell.share(),
            });
            (cell.leg.clone(), summary)
        });
        json!({
            "workload": row.workload.key,
            "placement": row.placement,
            "legs": serde_json::Map::from_iter(cells),
        })
    });
    value["summary"] = rows.collect();
    value["targets"] = serde_json::to_value(targets::verdicts(results)).expect("plain data");
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::sample::{cell, row};

    #[test]
    fn json_can_be_read_back() {
        let results = Results {
            rows: vec![row(
                "redis",
                false,
                vec![cell("tcp", &[2.0]), cell("nocopy", &[5.0])],
            )],
            ..Default::default()
        };
        let value = json(&results);
        assert_eq!(value["summary"][0]["legs"]["nocopy"]["ratio"], 2.5);
        let back: Results = serde_json::from_value(value).unwrap();
        assert_eq!(back.rows[0].ratio("nocopy", "tcp"), Some(2.5));
    }
}
