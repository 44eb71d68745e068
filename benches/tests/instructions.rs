//! Instructions of the library for a call, against the numbers that are checked in.
//!
//! A change that costs more fails; one that costs less should bring its new numbers along:
//!
//!     SMCLO_RENEW=1 cargo test --profile ci -p benches --test instructions
//!
//! with SMCLO_TARGET as for the other tests. Counts depend on the build profile and on the compiler.

use benches::instructions::{Baseline, Case, Counts, count};
use clap::ValueEnum;
use std::path::Path;

/// Parts by which a count may grow, and instructions for those that are small: what other decisions
/// of the compiler change.
const TOLERANCE: f64 = 0.15;
const SLACK: f64 = 4.0;

#[test]
fn counts_do_not_grow() {
    if tests::plain_only() {
        return;
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("baseline/instructions.json");
    let mut baseline = Baseline::read(&file).expect("the baseline");
    let dir = tests::artefacts::dir().canonicalize().expect("the build");
    let profile = dir.file_name().and_then(|n| n.to_str()).expect("a name");

    let counts: Counts = Case::value_variants()
        .iter()
        .map(|case| {
            let got = count(*case).unwrap_or_else(|why| panic!("{}: {why}", case.name()));
            (case.name(), (got * 10.0).round() / 10.0)
        })
        .collect();
    if std::env::var_os("SMCLO_RENEW").is_some() {
        baseline.put(profile, counts);
        baseline.write(&file).expect("the baseline can be written");
        return;
    }
    let Some(old) = baseline.of(profile) else {
        panic!(
            "no counts for the profile {profile} in {}; see the top of this file",
            file.display()
        );
    };
    let mut grown = Vec::new();
    for (case, got) in &counts {
        let was = old.get(case).copied().unwrap_or(0.0);
        println!("{case:14} {got:8.1}, baseline {was:8.1}");
        if *got > was * (1.0 + TOLERANCE) + SLACK {
            grown.push(format!("{case}: {got}, was {was}"));
        }
    }
    assert!(
        grown.is_empty(),
        "instructions for a call have grown: {grown:#?}"
    );
}
