//! Each command of `smclo` as a person meets it: help, JSON, wrong input, a real terminal.

use serde_json::Value;
use std::fs;
use std::process::Command;
use std::time::Duration;
use tests::terminal::Terminal;
use tests::{Lab, Run, artefacts, ccase, net, plain_only};

const COMMANDS: [&str; 19] = [
    "run",
    "ss",
    "trace",
    "revert",
    "stats",
    "stats reset",
    "device",
    "linkgroups",
    "info",
    "top",
    "doctor",
    "config check",
    "ueid add",
    "ueid del",
    "ueid show",
    "seid show",
    "ueid flush",
    "seid enable",
    "seid disable",
];

#[test]
fn every_command_has_help() {
    let lab = Lab::without_daemon();
    for command in COMMANDS {
        let help = lab.smclo(command).arg("--help").finish().ok();
        assert!(help.contains("Usage: smclo"), "{command}: {help}");
        let first = help.lines().next().unwrap_or_default();
        assert!(
            first.len() > 5 && !first.starts_with("Usage"),
            "{command}: {help}"
        );
    }
    let all = lab.smclo("--help").finish().ok();
    let top = COMMANDS.iter().map(|c| c.split(' ').next().unwrap());
    for command in top {
        assert!(all.contains(&format!("\n  {command} ")), "{command}: {all}");
    }
}

#[test]
fn wrong_input_gives_one_sentence_and_status_2() {
    let lab = Lab::without_daemon();
    for line in [
        "",
        "no-such-command",
        "--no-such-option",
        "run",
        "run -r 1x true",
        "run -r 0 true",
        "run -t 0k true",
        "run -r 9g true",
        "run --profile fast true",
        "ss extra",
        "ss -l -a",
        // As smcss has it.
        "ss -l -d",
        "trace",
        "trace host",
        "trace 0",
        "trace 80 -n 0",
        "stats --prometheus --json",
        "stats rest",
        "device extra",
        "linkgroups extra",
        "linkgroups 100 200",
        "linkgroups 123456789",
        "revert",
        "revert nobody",
        "revert 1.2.3.4",
        "revert 5 --for soon",
        "revert 5 --for -1",
        "trace 80 extra",
        "trace 99999",
        "--socket",
        "info extra",
        "top -i 0",
        "doctor no-such-command-at-all",
        "doctor /etc/passwd",
        "doctor /etc",
        "doctor 4000000000",
        "config",
        "config check /no/such/file",
        "ueid add lower",
        "ueid add A..B",
        "ueid add",
        "ueid del",
        "ueid show extra",
        "ueid flush extra",
        "ueid zz",
        "seid on",
    ] {
        let wrong = lab.smclo(line).finish();
        assert_eq!(wrong.code(), Some(2), "{line}: {wrong}");
        assert_eq!(wrong.stdout, "", "{line}");
        assert_eq!(wrong.stderr.lines().count(), 1, "{line}: {}", wrong.stderr);
        assert!(
            wrong.stderr.starts_with("smclo: "),
            "{line}: {}",
            wrong.stderr
        );
    }
    for (line, said) in [
        ("--metrics 0.0.0.0:1", "only a loopback"),
        (
            "--config /no/such/file",
            "--config /no/such/file: no such file",
        ),
    ] {
        let daemon = Run::new(lab.dir(), artefacts::path("smclod")).words(line);
        let wrong = daemon.finish();
        assert_eq!(wrong.code(), Some(2), "{line}");
        assert!(
            wrong.stderr.starts_with("smclod: ") && wrong.stderr.contains(said),
            "{line}: {}",
            wrong.stderr
        );
    }
}

#[test]
fn every_command_speaks_json() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    for line in [
        "ss -a -d",
        "stats",
        "device",
        "linkgroups -d",
        "info",
        "ueid add MINE",
        "ueid show",
        "ueid del MINE",
        "ueid flush",
        "ueid",
        "seid",
        "seid enable",
        "seid show",
        "stats reset",
        "top -i 0.1",
        "doctor",
        "config check",
    ] {
        let said = lab.smclo("--json").words(line).finish();
        let value: Result<Value, _> = serde_json::from_str(&said.stdout);
        assert!(value.is_ok(), "{line}: {said}");
        assert_eq!(said.stdout.lines().count(), 1, "{line}");
    }
    let nobody = lab
        .plain(artefacts::path("smclo"))
        .words("--socket /no/such/socket ss")
        .finish();
    assert_eq!(nobody.code(), Some(1));
    assert!(
        nobody
            .stderr
            .contains("no smclod answers at /no/such/socket"),
        "{nobody}"
    );
}

#[test]
fn only_root_and_the_daemons_user_change_things() {
    if plain_only() || !nix_root() {
        return;
    }
    let lab = Lab::start();
    let open = |path: &std::path::Path| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(path, mode).unwrap();
    };
    open(lab.dir());
    open(&lab.socket());
    for line in ["stats reset", "ueid add MINE", "seid enable"] {
        let refused = lab
            .plain("setpriv")
            .words("--reuid 65534 --regid 65534 --clear-groups")
            .arg(artefacts::path("smclo"))
            .arg("--socket")
            .arg(lab.socket())
            .words(line)
            .finish();
        assert_eq!(refused.code(), Some(1), "{line}: {refused}");
        assert!(
            refused
                .stderr
                .contains("only root and the user of the daemon"),
            "{refused}"
        );
    }
}

fn nix_root() -> bool {
    // SAFETY: no arguments.
    unsafe { libc::geteuid() == 0 }
}

/// A program that no loader touches.
fn static_program(lab: &Lab) -> std::path::PathBuf {
    let source = lab.dir().join("static.c");
    let program = lab.dir().join("static");
    fs::write(&source, "int main(void) { return 0; }\n").unwrap();
    let built = Command::new("gcc")
        .arg("-static")
        .arg(&source)
        .arg("-o")
        .arg(&program)
        .status();
    assert!(built.unwrap().success(), "gcc -static");
    program
}

#[test]
fn run_requires_acceleration_when_told_to() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let talk = ccase::compile("talk");
    let (talk, port) = (talk.display(), net::free_port());
    // Tries again until the server listens.
    let script = format!(
        "{talk} serve {port} 1 & until {talk} ask {port} 20000 0 2>/dev/null; do :; done; wait"
    );
    let required = || lab.smclo("run --require sh -c").arg(&script);
    let good = required().finish();
    assert_eq!(good.code(), Some(0), "{good}");
    assert!(!good.stderr.contains("nothing was accelerated"), "{good}");

    let off = required().env("SMCLO_POLICY", "off").finish();
    assert_eq!(off.code(), Some(3), "{off}");
    assert!(
        off.stderr.contains("POLICY_OFF: turned off by policy"),
        "{off}"
    );

    let fixed = lab
        .smclo("run --require")
        .arg(static_program(&lab))
        .finish();
    assert_eq!(fixed.code(), Some(3), "{fixed}");
    assert!(fixed.stderr.contains("statically linked"), "{fixed}");

    let failed = lab.smclo("run --require sh -c").arg("exit 7").finish();
    assert_eq!(failed.code(), Some(7), "the command's own status: {failed}");
    assert!(failed.stderr.contains("made a TCP socket"), "{failed}");
    lab.assert_clean();
}

#[test]
fn run_hands_signals_on() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let script = "trap 'echo got it; exit 5' TERM; echo ready; while :; do sleep 0.1; done";
    let run = lab.smclo("run --require sh -c").arg(script).spawn();
    assert!(net::wait_until(Duration::from_secs(10), || run
        .stdout()
        .contains("ready")));
    run.signal(libc::SIGTERM);
    let outcome = run.finish();
    assert_eq!(outcome.code(), Some(5), "{outcome}");
    assert!(outcome.stdout.contains("got it"));
}

#[test]
fn profiles_set_what_is_not_set() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let run = |args: &str| {
        let run = lab.smclo("run").words(args).words("sh -c");
        let echo = "echo $SMCLO_SPIN_US/$SMC_RCVBUF/$SMCLO_CLAIM_EXCHANGES";
        run.env("SMCLO_SPIN_US", "3").arg(echo).finish().ok()
    };
    assert_eq!(run(""), "3//\n");
    assert_eq!(run("--profile throughput"), "3/1m/\n");
    assert_eq!(run("-p throughput -r 64k"), "3/65536/\n");
    assert_eq!(run("--profile latency"), "3//2\n");
}

#[test]
fn top_on_a_terminal() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let program = ccase::compile("talk");
    let port = net::free_port();
    let server = lab.eager(&program).words(&format!("serve {port} 1"));
    let server = server.spawn().listening(port);
    let client = lab
        .eager(&program)
        .words(&format!("pump {port} 1000"))
        .spawn();
    let socket = lab.socket().display().to_string();
    let tool = artefacts::path("smclo").display().to_string();
    let command = format!("{tool} --socket {socket} top -i 0.2; echo ended $?; sleep 60");
    let terminal = Terminal::start(&lab, &command);
    let end = format!("127.0.0.1:{port}");
    let screen = terminal.shows(&["smclo top", "bytes over SMC-D, peak", &end, "B/s", "▂"]);
    assert!(screen.contains("\x1b["), "no colours");
    terminal.press("q");
    // The terminal is as it was before.
    let after = terminal.shows(&["ended 0"]);
    assert!(!after.contains("smclo top"), "{after}");
    client.kill();
    server.finish();

    let blind = lab.smclo("top").finish();
    assert_eq!(blind.code(), Some(1));
    assert!(blind.stderr.contains("top needs a terminal"), "{blind}");
}

#[test]
fn colours_only_on_a_terminal_that_wants_them() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let held = lab.hold();
    let socket = lab.socket().display().to_string();
    let tool = artefacts::path("smclo").display().to_string();
    let command = format!(
        "{tool} --socket {socket} ss -W; NO_COLOR=1 {tool} --socket {socket} device; sleep 60"
    );
    let terminal = Terminal::start(&lab, &command);
    let screen = terminal.shows(&["SMCD", "loopback-ism"]);
    let line = |text: &str| {
        screen
            .lines()
            .find(|l| l.contains(text))
            .unwrap_or_default()
    };
    assert!(line("SMCD").contains("\x1b[32m"), "{screen:?}");
    assert!(!line("CHID").contains("\x1b["), "{screen:?}");
    held.end();
}
