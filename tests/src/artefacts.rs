//! Where the things under test are.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Root of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests live in a workspace")
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace().join(dir),
        None => workspace().join("target"),
    }
}

/// Directory with `libsmclo.so`, `smclod` and `smclo`: `SMCLO_TARGET`, or the release build,
/// brought up to date once.
#[track_caller]
pub fn dir() -> &'static Path {
    static DIR: OnceLock<Option<PathBuf>> = OnceLock::new();
    let dir = DIR.get_or_init(|| match std::env::var_os("SMCLO_TARGET") {
        Some(dir) => Some(PathBuf::from(dir)),
        None => build().then(|| target().join("release")),
    });
    dir.as_deref().expect("libsmclo and smclod build")
}

fn build() -> bool {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    Command::new(cargo)
        .args([
            "build",
            "--release",
            "--quiet",
            "-p",
            "shim",
            "-p",
            "daemon",
            "-p",
            "packaging",
        ])
        .current_dir(workspace())
        .status()
        .is_ok_and(|status| status.success())
}

/// Path of one artefact.
#[track_caller]
pub fn path(name: &str) -> PathBuf {
    let path = dir().join(name);
    assert!(path.exists(), "{} is missing", path.display());
    path
}

/// The preload library.
#[track_caller]
pub fn library() -> PathBuf {
    path("libsmclo.so")
}

/// What LD_PRELOAD says: the library; beside the runtime of a sanitizer where it was built with one
/// (`scripts/check-sanitizers` says how).
#[track_caller]
pub fn preload() -> OsString {
    std::env::var_os("SMCLO_TEST_PRELOAD").unwrap_or_else(|| library().into())
}
