//! Small C programs whose trace is compared between plain TCP and the shim.
//!
//! A program in `tests/c` holds named cases: `PROGRAM CASE` runs one and prints a canonical trace
//! (return values, error names, masks; no ports, pids or times). See `tests/c/common.h`.

use crate::{Lab, Mode, Policy, Run, Stats, artefacts, full, plain_only};
use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

/// Compiles `tests/c/NAME.c` with `common.c` once and gives the program's path.
#[track_caller]
pub fn compile(name: &str) -> PathBuf {
    build(name, &["common.c"], "-O1")
}

/// Compiles `tests/c/NAME.c`, with other files and options of gcc, once; gives the path.
#[track_caller]
pub fn build(name: &str, others: &[&str], options: &str) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());

    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("c");
    let mut files = vec![source.join(format!("{name}.c"))];
    files.extend(others.iter().map(|f| source.join(f)));
    let mut hasher = DefaultHasher::new();
    options.hash(&mut hasher);
    for file in files.iter().chain(&headers(&source)) {
        let text = fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        text.hash(&mut hasher);
    }
    let dir = artefacts::target().join("tests");
    let program = dir.join(format!("{name}-{:016x}", hasher.finish()));
    if program.exists() {
        return program;
    }
    fs::create_dir_all(&dir).expect("a directory in target");
    let unfinished = program.with_extension(std::process::id().to_string());
    let output = Command::new("gcc")
        .args(
            "-std=gnu11 -g -Wall -Wextra -Werror -Wno-restrict -Wno-nonnull \
                -Wno-stringop-overflow -Wno-stringop-overread -pthread -o"
                .split(' '),
        )
        .arg(&unfinished)
        .args(&files)
        .args(options.split_whitespace())
        .output()
        .expect("gcc runs");
    assert!(
        output.status.success(),
        "{name}.c: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    fs::rename(&unfinished, &program).expect("the program in place");
    program
}

/// What any of the programs may include.
fn headers(source: &std::path::Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(source).expect("the sources of the programs");
    let mut all: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    all.retain(|path| path.extension().is_some_and(|e| e == "h"));
    all.sort();
    all
}

/// One way to run a case.
struct Leg {
    name: &'static str,
    policy: Policy,
    mode: Mode,
    /// Exchanges of `warm()`; 0 makes the checked part meet the handshake itself.
    warm: u32,
}

const LEGS: [Leg; 4] = [
    Leg {
        name: "eager",
        policy: Policy::Eager,
        mode: Mode::NoCopy,
        warm: 64,
    },
    Leg {
        name: "default",
        policy: Policy::Default,
        mode: Mode::NoCopy,
        warm: 64,
    },
    Leg {
        name: "eager-copy",
        policy: Policy::Eager,
        mode: Mode::Copy,
        warm: 64,
    },
    Leg {
        name: "eager-cold",
        policy: Policy::Eager,
        mode: Mode::NoCopy,
        warm: 2,
    },
];

/// Exchanges that a connection is given at most, a millisecond each, before it is on a ring.
const MOST_WARM: u32 = 64 * 8 * 8;

/// Cases that take seconds on each leg, and legs on which they run unless all is to be run.
const SLOW: [&str; 6] = [
    "late_accept",
    "short_connections",
    "pure_uploader",
    "sends_interrupted",
    "replaced_while_polled",
    "same_reader",
];
const SLOW_LEGS: [&str; 2] = ["eager", "default"];

/// What the case must show besides an equal trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// In the warmed legs, bytes went over SMC.
    Fast,
    /// On no leg did a byte go over SMC.
    Tcp,
    /// No statement about what carried the bytes.
    Any,
}

/// Runs a case on plain TCP and on all shim legs, and compares the traces.
/// `SMCLO_TEST_LEGS=eager,copy` restricts the legs.
#[track_caller]
pub fn compare(program: &str, case: &str, carrier: Carrier) {
    compare_built(compile(program), case, carrier);
}

/// As [`compare`], for a program that was built already.
#[track_caller]
pub fn compare_built(binary: PathBuf, case: &str, carrier: Carrier) {
    compare_with(binary, case, carrier, |run| run);
}

/// As [`compare_built`], with more in the environment of each run.
#[track_caller]
pub fn compare_with(binary: PathBuf, case: &str, carrier: Carrier, dress: impl Fn(Run) -> Run) {
    let oracle = trace(dress(Lab::without_daemon().plain(&binary)), case);
    assert!(!oracle.is_empty(), "{case} prints no trace");
    if plain_only() {
        for _ in 0..3 {
            let again = trace(dress(Lab::without_daemon().plain(&binary)), case);
            if let Some(difference) = difference(&oracle, &again) {
                panic!("{case} is not the same each time on TCP: {difference}");
            }
        }
        return;
    }
    let only = std::env::var("SMCLO_TEST_LEGS").ok();
    for leg in LEGS {
        if only
            .as_ref()
            .is_some_and(|o| !o.split(',').any(|n| n == leg.name))
        {
            continue;
        }
        if only.is_none() && !full() && SLOW.contains(&case) && !SLOW_LEGS.contains(&leg.name) {
            continue;
        }
        let fast = carrier == Carrier::Fast && leg.name != "eager-cold";
        let mut warm = leg.warm;
        loop {
            let lab = Lab::start();
            let run = lab.shim(&binary).policy(leg.policy).mode(leg.mode);
            let got = trace(dress(run.env("TEST_WARM", warm.to_string())), case);
            if let Some(difference) = difference(&oracle, &got) {
                panic!("{case}, leg {}: {difference}", leg.name);
            }
            let stats = lab.settled();
            lab.assert_clean();
            assert!(
                carrier != Carrier::Tcp || stats.smc_bytes() == 0,
                "{case}, leg {}: went over SMC: {}",
                leg.name,
                stats.raw
            );
            if !fast || stats.share_smc(&Stats::zero()) > 0.0 {
                break;
            }
            // The daemon of a busy machine may have had no processor in that time.
            warm *= 8;
            assert!(
                warm <= MOST_WARM,
                "{case}, leg {}: nothing went over SMC: {}",
                leg.name,
                stats.raw
            );
        }
    }
}

#[track_caller]
fn trace(run: Run, case: &str) -> String {
    // Under a sanitizer each call takes ten times as long.
    let sanitized = std::env::var_os("SMCLO_TEST_PRELOAD").is_some();
    let limit = Duration::from_secs(if sanitized { 240 } else { 45 });
    run.arg(case).limit(limit).finish().ok()
}

/// The first lines that differ, with the two before them; None when the traces are equal.
fn difference(tcp: &str, shim: &str) -> Option<String> {
    let (a, b): (Vec<_>, Vec<_>) = (tcp.lines().collect(), shim.lines().collect());
    let at = (0..a.len().max(b.len())).find(|&i| a.get(i) != b.get(i))?;
    let part = |lines: &[&str]| {
        let from = at.saturating_sub(2).min(lines.len());
        lines[from..lines.len().min(at + 4)].join("\n    ")
    };
    Some(format!(
        "traces differ at line {}\n  TCP:\n    {}\n  shim:\n    {}",
        at + 1,
        part(&a),
        part(&b)
    ))
}
