//! The package under a systemd that has booted: units, sandbox, socket activation.

use std::fs;
use std::time::Duration;
use tests::{Lab, artefacts, ccase, netns, package, plain_only};

#[test]
fn booted() {
    if !netns::can_boot() || plain_only() {
        return;
    }
    let lab = Lab::without_daemon();
    let work = lab.dir().join("work");
    fs::create_dir(&work).expect("a directory");
    fs::copy(ccase::compile("talk"), work.join("talk")).expect("a copy");
    let script = artefacts::workspace().join("tests/booted");
    fs::copy(script, work.join("script")).expect("a copy");
    let outcome = lab
        .plain(artefacts::workspace().join("tests/box"))
        .arg(package::build())
        .args(["bash", "/given/script"])
        .env("BOX_SYSTEMD", "yes")
        .env("BOX_DIR", &work)
        .limit(Duration::from_secs(120))
        .finish();
    // Each part announces itself, so the last line says where it ended.
    assert!(outcome.success(), "{outcome}");
    assert!(outcome.stdout.contains("\ngone\n"), "{outcome}");
}

/// systemd's own judgement of the sandbox: 0 is best, 10 is none.
#[test]
fn exposure() {
    if !netns::possible() {
        return;
    }
    let lab = Lab::without_daemon();
    let root = lab.dir().join("root");
    let extract = lab.plain("dpkg-deb").arg("-x").arg(package::build());
    extract.arg(&root).finish().ok();
    let judged = lab
        .plain("systemd-analyze")
        .words("security --offline=yes --no-pager --threshold=20")
        .arg(root.join("usr/lib/systemd/system/smclod.service"))
        .finish();
    assert!(judged.success(), "more than 2.0: {judged}");
    assert!(judged.stdout.contains("Overall exposure level"), "{judged}");
}
