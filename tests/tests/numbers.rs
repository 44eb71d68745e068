//! How much faster: only with `SMCLO_TEST_FULL`, on a machine that has nothing else to do.

use serde_json::Value;
use std::process::Command;
use tests::artefacts;

/// Workload, leg, and how many times as good as TCP it has to be.
const WANTED: [(&str, &str, f64); 7] = [
    ("sockperf-pp", "nocopy", 20.0),
    ("sockperf-tp", "nocopy", 2.5),
    ("iperf3", "nocopy", 2.5),
    ("redis", "nocopy", 2.0),
    ("wrk", "nocopy", 2.0),
    ("short", "nocopy", 0.95),
    ("wrk", "server-only", 0.97),
];

#[test]
fn ratios() {
    if !tests::full() || tests::plain_only() {
        return;
    }
    // Comparisons are made with the release build of everything.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args("run --release --quiet -p benches --bin compare -- --json --rounds 7".split(' '))
        .args(["--seconds", "2", "--legs", "tcp,nocopy,copy,server-only"])
        .args([
            "--workloads",
            "sockperf-pp,sockperf-tp,iperf3,redis,wrk,short",
        ])
        .env_remove("SMCLO_TARGET")
        .current_dir(artefacts::workspace())
        .output()
        .expect("compare runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let results: Value = serde_json::from_str(&text).expect("JSON from compare");
    let rows = results["summary"].as_array().expect("rows in the summary");
    let mut misses = Vec::new();
    for (workload, leg, wanted) in WANTED {
        let row = rows.iter().find(|r| r["workload"] == workload);
        let got = row.and_then(|r| r["legs"][leg]["ratio"].as_f64());
        println!("{workload:12} {leg:12} {got:?}, wanted {wanted}");
        if got.is_none_or(|got| got < wanted) {
            misses.push(format!("{workload} on {leg}: {got:?}, wanted {wanted}"));
        }
    }
    assert!(misses.is_empty(), "{misses:#?}");
}
