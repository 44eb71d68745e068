//! The Debian package of what is tested, built once for a test program.

use crate::{Lab, artefacts};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

#[track_caller]
pub fn build() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let lab = Lab::without_daemon();
        // Test programs may run at the same time.
        let dir = artefacts::target().join(format!("tests/debian-{}", std::process::id()));
        let said = lab
            .plain(artefacts::workspace().join("scripts/deb"))
            .args(["--no-build", "--fast", "--target"])
            .arg(artefacts::dir())
            .arg(&dir)
            .limit(Duration::from_secs(300))
            .finish()
            .ok();
        PathBuf::from(said.trim())
    })
}
