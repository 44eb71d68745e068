//! Support for the tests of whole programs: a temporary daemon, programs started plain or under
//! the shim with a watchdog, small C programs, statistics.
//!
//! Environment:
//! * `SMCLO_TARGET`: directory with `libsmclo.so`, `smclod` and `smclo`; built when not set.
//! * `SMCLO_TEST_PLAIN`: run everything on plain TCP, to check the tests themselves.
//! * `SMCLO_TEST_FULL`: also the slow tests and more rounds.

pub mod artefacts;
pub mod capture;
pub mod ccase;
pub mod cgroup;
pub mod cpython;
pub mod hc;
pub mod inject;
pub mod lab;
pub mod net;
pub mod netns;
pub mod package;
pub mod peer;
pub mod process;
pub mod prometheus;
pub mod random;
pub mod run;
pub mod stage;
pub mod stats;
pub mod stream;
pub mod terminal;
pub mod tool;

pub use lab::Lab;
pub use run::{Mode, Outcome, Policy, Run, Running};
pub use stats::Stats;

/// True when the programs are to run on plain TCP everywhere.
pub fn plain_only() -> bool {
    std::env::var_os("SMCLO_TEST_PLAIN").is_some()
}

/// True when the slow tests are wanted too.
pub fn full() -> bool {
    std::env::var_os("SMCLO_TEST_FULL").is_some()
}

/// `quick` in a normal run, `slow` with `SMCLO_TEST_FULL`.
pub fn rounds(quick: usize, slow: usize) -> usize {
    if full() { slow } else { quick }
}
