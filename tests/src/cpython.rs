//! CPython's own test suites, as Debian packages them, plain and under the shim.

use crate::{Lab, Run};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Debian's interpreter, which has the package of test suites.
pub const PYTHON: &str = "/usr/bin/python3";

/// How one test of a suite ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    Skipped,
    Failed,
}

/// What a run of a suite came to: each test by its full name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Results(BTreeMap<String, Verdict>);

/// Stands for a test of which regrtest does not say the name; its output does.
const NAMELESS: &str = "a test with a subtest that failed";

impl Results {
    /// Reads what regrtest has written with `--junit-xml`.
    pub fn parse(xml: &str) -> Results {
        let tree = roxmltree::Document::parse(xml).expect("regrtest writes XML");
        let cases = tree.descendants().filter(|n| n.has_tag_name("testcase"));
        let mut all = BTreeMap::new();
        for case in cases {
            // A test of which a part has failed (subTest) gets neither a name nor a result.
            let name = case.attribute("name").unwrap_or(NAMELESS);
            let has = |tag| case.children().any(|child| child.has_tag_name(tag));
            let verdict = if name == NAMELESS || has("failure") || has("error") {
                Verdict::Failed
            } else if has("skipped") || case.attribute("status") == Some("notrun") {
                Verdict::Skipped
            } else {
                Verdict::Passed
            };
            // A class may be run twice by one suite: the worse counts.
            let worst = all.entry(name.to_owned()).or_insert(verdict);
            if verdict == Verdict::Failed {
                *worst = verdict;
            }
        }
        Results(all)
    }

    pub fn count(&self, verdict: Verdict) -> usize {
        self.0.values().filter(|v| **v == verdict).count()
    }

    /// Tests that did not end alike, a line each.
    pub fn differences(&self, other: &Results) -> Vec<String> {
        let names: std::collections::BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        let (mine, theirs) = (&self.0, &other.0);
        let differing = names.into_iter().filter(|n| mine.get(*n) != theirs.get(*n));
        differing
            .map(|n| format!("{n}: {:?} without, {:?} with", mine.get(n), theirs.get(n)))
            .collect()
    }
}

/// Which connections a suite must have on shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Talks {
    /// It exchanges enough with itself: some.
    ToItself,
    /// No or short connections: none are asked for.
    Little,
}

/// regrtest with a directory of its own.
fn regrtest(run: Run, dir: &Path, suite: &str) -> (PathBuf, Run) {
    let xml = dir.join(format!("{suite}.xml"));
    let temp = dir.join(format!("{suite}.tmp"));
    fs::create_dir(&temp).expect("a directory for regrtest");
    let run = run
        .args(["-m", "test", "-v", "--junit-xml"])
        .arg(&xml)
        .arg("--tempdir")
        .arg(&temp)
        // They wait for a hypervisor, without the shim too.
        .args(["-i", "*VSOCK*", suite])
        .limit(Duration::from_secs(900));
    (xml, run)
}

/// Runs a suite plain and then under the shim, both ends of all its connections: each test has to
/// end alike. Gives the line of the report, which is printed too.
#[track_caller]
pub fn compare(suite: &str, talks: Talks) -> String {
    let lab = Lab::start();
    let [plain_dir, shim_dir] = ["plain", "shim"].map(|name| lab.dir().join(name));
    let mut results = Vec::new();
    for (dir, run) in [
        (plain_dir, lab.plain(PYTHON)),
        (shim_dir, lab.eager(PYTHON)),
    ] {
        fs::create_dir(&dir).expect("a directory for the suite");
        let (xml, run) = regrtest(run, &dir, suite);
        let outcome = run.finish();
        let text =
            fs::read_to_string(&xml).unwrap_or_else(|e| panic!("no results: {e}: {outcome}"));
        results.push((Results::parse(&text), outcome));
    }
    let [(plain, _), (shim, outcome)] = &results[..] else {
        unreachable!("two runs");
    };
    assert!(plain.count(Verdict::Passed) > 0, "nothing was tested");
    let differences = plain.differences(shim);
    assert!(differences.is_empty(), "{differences:#?}\n{outcome}");

    let (stats, _) = lab.settle();
    let line = format!(
        "{suite}: {} passed without, {} with; over SMC {} of {} connections, {:.1} % of {} bytes",
        plain.count(Verdict::Passed),
        shim.count(Verdict::Passed),
        stats.get("accelerated"),
        stats.get("accelerated") + stats.get("plain"),
        stats.share_smc(&crate::Stats::zero()) * 100.0,
        stats.smc_bytes() + stats.tcp_bytes(),
    );
    // Past the test harness, which keeps the output of tests that pass to itself.
    let _ = writeln!(std::io::stderr(), "{line}");
    if talks == Talks::ToItself && !crate::plain_only() {
        assert!(stats.smc_bytes() > 0, "nothing over SMC: {}", stats.raw);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_regrtest() {
        let xml = |verdict: &str| {
            format!(
                r#"<testsuites><testsuite tests="3"><testcase name="a" status="run" />
                <testcase name="b" status="run"><skipped/></testcase>
                <testcase name="c" status="run">{verdict}</testcase></testsuite></testsuites>"#
            )
        };
        let good = Results::parse(&xml(""));
        let bad = Results::parse(&xml("<failure>why</failure>"));
        assert_eq!(good.count(Verdict::Passed), 2);
        assert_eq!(bad.count(Verdict::Passed), 1);
        assert_eq!(good.count(Verdict::Skipped), 1);
        assert_eq!(good.differences(&good), Vec::<String>::new());
        assert_eq!(good.differences(&bad).len(), 1);
        assert_eq!(good.differences(&Results::default()).len(), 3);
        let nameless = Results::parse("<testsuites><testcase /></testsuites>");
        assert_eq!(nameless.count(Verdict::Failed), 1);
    }
}
