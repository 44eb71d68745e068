//! The same scenario on plain TCP and under the shim.

use crate::{Lab, Run, Stats, plain_only};
use std::fmt::Debug;
use std::path::Path;

/// A laboratory in which programs start plain, or all under the shim.
#[derive(Debug)]
pub struct Stage {
    pub lab: Lab,
    shim: bool,
}

impl Stage {
    pub fn dir(&self) -> &Path {
        self.lab.dir()
    }

    /// A program of the scenario.
    #[track_caller]
    pub fn run(&self, program: impl AsRef<std::ffi::OsStr>) -> Run {
        if self.shim {
            self.lab.eager(program)
        } else {
            self.lab.plain(program)
        }
    }

    /// Whether programs start under the shim.
    pub fn shimmed(&self) -> bool {
        self.shim
    }

    /// Bytes over SMC of everything that has run; the programs have ended. On plain TCP the least
    /// that a caller can ask for.
    #[track_caller]
    pub fn accelerated(&self) -> u64 {
        if plain_only() {
            return u64::MAX;
        }
        self.lab.settle().0.smc_bytes()
    }

    #[track_caller]
    pub fn stats(&self) -> Stats {
        self.lab.settle().0
    }
}

/// Plays a scenario on plain TCP, then with all its programs under the shim. What it gives has to
/// be the same. Its programs have ended when it returns.
#[track_caller]
pub fn same<T: PartialEq + Debug>(scenario: impl Fn(&Stage) -> T) -> Stage {
    let plain = Stage {
        lab: Lab::without_daemon(),
        shim: false,
    };
    let oracle = scenario(&plain);
    let stage = Stage {
        lab: Lab::start(),
        shim: !plain_only(),
    };
    assert_eq!(scenario(&stage), oracle, "under the shim, and without");
    stage
}

/// As [`same`]; and something went over SMC.
#[track_caller]
pub fn same_and_fast<T: PartialEq + Debug>(scenario: impl Fn(&Stage) -> T) {
    let stage = same(scenario);
    let bytes = stage.accelerated();
    assert!(bytes > 0, "nothing over SMC: {}", stage.stats().raw);
    stage.lab.assert_clean();
}

/// Whether a program that is not always installed is to be tested: where it is there, and with
/// `--full`, for which `scripts/install-deps` has seen to it.
pub fn wanted(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
    crate::full()
        || std::env::split_paths(&path)
            .chain(sbin)
            .any(|dir| dir.join(program).exists())
}
