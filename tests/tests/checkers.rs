//! Programs under the library and under a checker: valgrind's memcheck sees each access of ours, the
//! sanitizers of gcc those of the program around it. (AddressSanitizer: `surroundings`.)

use std::path::Path;
use std::time::Duration;
use tests::ccase::{self, Carrier};
use tests::{Lab, Run, Stats, net, plain_only, rounds};

const LIMIT: Duration = Duration::from_secs(240);

/// What each run has to say by its exit status; the outputs are looked at besides.
const FOUND: &str = "77";

/// A server of this kind and a client, both with the checker around; every byte is compared, and more
/// than half of them go over SMC.
#[track_caller]
fn talk(lab: &Lab, program: &Path, how: &str, dress: impl Fn(Run) -> Run) {
    let port = net::free_port();
    let run = |words: String| dress(lab.eager(program)).words(&words).limit(LIMIT);
    let connections = if how == "serve" { "1" } else { "" };
    let mut server = run(format!("{how} {port} {connections}"))
        .spawn()
        .listening(port);
    let client = run(format!("ask {port} 300 0")).finish();
    assert!(
        client.success() && client.stdout.ends_with("\nend\n"),
        "{client}"
    );
    let server = if how == "serve" {
        let server = server.finish();
        assert!(server.success(), "{server}");
        server
    } else {
        assert!(server.alive(), "{}", server.stop());
        server.stop()
    };
    for one in [&client, &server] {
        assert!(one.stderr.is_empty(), "{one}");
    }
    if !plain_only() {
        let share = lab.settled().share_smc(&Stats::zero());
        assert!(share > 0.5, "{share}");
    }
    lab.assert_clean();
}

/// Each process writes a file, which need not end: a child may be killed.
fn memcheck(run: Run, dir: &Path) -> Run {
    let (exit, log) = (
        format!("--error-exitcode={FOUND}"),
        format!("--log-file={}/memcheck.%p", dir.display()),
    );
    run.through(&["valgrind", &exit, &log, "--leak-check=no"])
}

#[track_caller]
fn nothing_found(dir: &Path) {
    let mut summaries = 0;
    for file in std::fs::read_dir(dir).expect("a directory").flatten() {
        if file.file_name().to_string_lossy().starts_with("memcheck.") {
            let text = std::fs::read_to_string(file.path()).expect("a log");
            if let Some(at) = text.find("ERROR SUMMARY: ") {
                assert!(text[at..].starts_with("ERROR SUMMARY: 0 "), "{text}");
                summaries += 1;
            }
        }
    }
    assert!(summaries > 0, "valgrind says nothing");
}

#[test]
fn valgrind() {
    let program = ccase::compile("talk");
    for how in ["serve", "threads", "events"] {
        let lab = Lab::start();
        talk(&lab, &program, how, |run| memcheck(run, lab.dir()));
        nothing_found(lab.dir());
    }
}

/// Whole cases, with the trace of plain TCP; such as make no error of their own.
#[test]
fn valgrind_cases() {
    // The last ones take a minute each.
    for (program, case) in [
        ("polling", "level"),
        ("process", "child_serves"),
        ("closing", "duplicates"),
        ("sets", "delete_and_add"),
        ("polling", "selects"),
    ]
    .into_iter()
    .take(rounds(3, 5))
    {
        let (program, logs) = (ccase::compile(program), Lab::without_daemon());
        ccase::compare_with(program, case, Carrier::Any, |run| memcheck(run, logs.dir()));
        nothing_found(logs.dir());
    }
}

#[test]
fn thread_and_undefined_behaviour_sanitizer() {
    for options in [
        "-O1 -fsanitize=thread -static-libtsan",
        "-O1 -fsanitize=undefined -static-libubsan",
    ] {
        let program = ccase::build("talk", &["common.c"], options);
        for how in ["serve", "threads", "events"] {
            talk(&Lab::start(), &program, how, |run| {
                let exit = format!("exitcode={FOUND}:halt_on_error=1");
                run.env("TSAN_OPTIONS", &exit).env("UBSAN_OPTIONS", &exit)
            });
        }
    }
}
