//! Programs that check single hooks from inside: `tests/c/hooks_*.c` end with status 0 on plain TCP
//! and must do so under the shim.

use tests::{Lab, ccase};

#[track_caller]
fn check(name: &str, options: &str) {
    let program = ccase::build(name, &[], options);
    let lab = Lab::start();
    lab.plain(&program).finish().ok();
    lab.eager(&program).finish().ok();
    lab.assert_clean();
}

#[test]
fn cancel() {
    check("hooks_cancel", "-O1 -Wno-unused-result");
}

#[test]
fn exec() {
    check("hooks_exec", "-O1");
}

#[test]
fn fortify() {
    check("hooks_fortify", "-O2 -D_FORTIFY_SOURCE=3");
}

#[test]
fn process() {
    check("hooks_process", "-O1");
}

#[test]
fn stdio() {
    check("hooks_stdio", "-O1");
}

#[test]
fn stdio_fortified() {
    check("hooks_stdio", "-O2 -D_FORTIFY_SOURCE=3");
}

#[test]
fn syscall() {
    check("hooks_syscall", "-O1");
}

#[test]
fn twins() {
    check("hooks_twins", "-O1");
}

#[test]
fn uring() {
    check("hooks_uring", "-O1");
}
