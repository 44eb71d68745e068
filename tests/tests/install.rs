//! What an operator installs: complete, working, and gone afterwards.

use std::fs;
use std::path::Path;
use std::time::Duration;
use tests::netns::{self, Netns};
use tests::terminal::Terminal;
use tests::{Lab, Run, Running, artefacts, ccase, full, net, package, plain_only, stage};

fn script(lab: &Lab, name: &str) -> Run {
    lab.plain(artefacts::workspace().join("scripts").join(name))
}

fn install(lab: &Lab, prefix: &Path) {
    script(lab, "install")
        .args(["--no-build", "--target"])
        .arg(artefacts::dir())
        .arg("--prefix")
        .arg(prefix)
        .finish()
        .ok();
}

/// All files below a directory, relative to it.
fn files(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(&next).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.is_symlink() {
                todo.push(path);
            } else {
                let name = path.strip_prefix(dir).expect("a path below");
                all.push(name.to_string_lossy().into_owned());
            }
        }
    }
    all.sort();
    all
}

fn in_box(lab: &Lab) -> Run {
    lab.plain(artefacts::workspace().join("tests/box"))
        .arg(package::build())
        .limit(Duration::from_secs(300))
}

#[test]
fn prefix_works_and_goes_without_a_trace() {
    let lab = Lab::without_daemon();
    let prefix = lab.dir().join("prefix");
    fs::create_dir(&prefix).expect("a directory");
    install(&lab, &prefix);
    let all = files(&prefix);
    for wanted in [
        "bin/smc_run",
        "bin/smclo",
        "bin/smclod",
        "lib/libsmclo.so",
        "lib/systemd/system/smclod.socket",
        "lib/systemd/user/smclod.service",
        "etc/smclo/smclo.toml",
        "share/man/man7/smclo.7.gz",
        "share/man/man8/libsmclo.so.8.gz",
        "share/man/man8/smc_run.8.gz",
        "share/man/man8/smclo-ss.8.gz",
        "share/man/man8/smclod.8.gz",
        "share/bash-completion/completions/smclo",
        "share/zsh/site-functions/_smclo",
        "share/fish/vendor_completions.d/smclod.fish",
    ] {
        assert!(all.iter().any(|f| f == wanted), "no {wanted} in {all:?}");
    }
    if !plain_only() {
        // The installed programs find each other and the library.
        let port = net::free_port();
        let talk = ccase::compile("talk");
        let run = |words: &str| {
            let run = lab.plain(prefix.join("bin/smc_run"));
            let run = run.arg(&talk).words(words);
            run.env("SMCLO_SOCKET", lab.socket())
        };
        let server = run(&format!("serve {port} 1")).spawn().listening(port);
        run(&format!("ask {port} 20000 0")).finish().ok();
        server.finish().ok();
        let tool = lab.plain(prefix.join("bin/smclo"));
        let said = tool.arg("--socket").arg(lab.socket());
        let said = said.words("stats --json").finish().ok();
        let stats: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        assert!(stats["smc_bytes"].as_u64() > Some(1 << 20), "{said}");
        let tool = lab.plain(prefix.join("bin/smclo"));
        let info = tool.arg("--socket").arg(lab.socket());
        let info = info.words("info --json").finish().ok();
        let info: serde_json::Value = serde_json::from_str(&info).expect("JSON");
        let pid = info["pid"].as_i64().expect("a pid") as i32;
        // SAFETY: a signal to the daemon that smc_run has started for this test.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }
    script(&lab, "install")
        .arg("--uninstall")
        .arg("--prefix")
        .arg(&prefix)
        .finish()
        .ok();
    let left: Vec<_> = fs::read_dir(&prefix).expect("the prefix").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn wrong_arguments_are_one_sentence() {
    let lab = Lab::without_daemon();
    for words in ["--prefix", "--prefix relative", "--what", "extra"] {
        let outcome = script(&lab, "install").words(words).finish();
        assert_eq!(outcome.code(), Some(2), "{outcome}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
    }
    let outcome = script(&lab, "install")
        .arg("--uninstall")
        .arg("--prefix")
        .arg(lab.dir())
        .finish();
    assert!(!outcome.success());
    assert!(
        outcome.stderr.contains("nothing was installed"),
        "{outcome}"
    );
}

/// The policy that is installed says nothing, and what it shows in comments is right.
#[test]
fn sample_policy() {
    let lab = Lab::without_daemon();
    let sample = artefacts::workspace().join("packaging/smclo.toml");
    let sample = fs::read_to_string(sample).expect("the sample");
    let code = |line: &str| line.starts_with('#') && !line.starts_with("# ");
    let lines = sample.lines().map(|l| if code(l) { &l[1..] } else { l });
    let all = lines.collect::<Vec<_>>().join("\n");
    assert!(all.contains("\naccelerate = true") && all.contains("\n[[rule]]"));
    for (name, text) in [("as-it-is", &sample), ("all", &all)] {
        let file = lab.dir().join(name);
        fs::write(&file, text).expect("a file");
        let check = lab.plain(artefacts::path("smclo")).words("config check");
        let outcome = check.arg(&file).finish();
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        assert!(outcome.success() && !said.contains("warning"), "{outcome}");
    }
}

/// Every page is free of warnings, and what the tool can do has one.
#[test]
fn manual_pages() {
    let lab = Lab::without_daemon();
    let prefix = lab.dir().join("prefix");
    install(&lab, &prefix);
    let pages = files(&prefix.join("share/man"));
    for page in &pages {
        let outcome = lab
            .plain("man")
            .words("--warnings -E UTF-8 -l -Tutf8 -Z")
            .arg(prefix.join("share/man").join(page))
            .finish();
        assert!(outcome.success() && outcome.stderr.is_empty(), "{outcome}");
    }
    let help = lab.plain(prefix.join("bin/smclo")).arg("--help");
    let help = help.finish().ok();
    let commands = help.lines().skip_while(|l| !l.starts_with("Commands:"));
    let commands = commands.skip(1).take_while(|l| l.starts_with("  "));
    let commands: Vec<_> = commands
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    assert!(commands.contains(&"ss"), "{help}");
    for command in commands.iter().filter(|c| **c != "help") {
        let page = format!("man8/smclo-{command}.8.gz");
        assert!(pages.contains(&page), "no {page} in {pages:?}");
    }
}

/// Each shell in a terminal: a word is begun, Tab completes it, and the line works.
#[test]
fn completions() {
    let lab = Lab::without_daemon();
    let prefix = lab.dir().join("prefix");
    install(&lab, &prefix);
    let (home, prefix) = (lab.dir().display(), prefix.display());
    for (shell, setup) in [
        (
            "bash --norc",
            format!("source {prefix}/share/bash-completion/completions/smclo"),
        ),
        (
            "zsh -f",
            format!(
                "fpath=({prefix}/share/zsh/site-functions $fpath); autoload -Uz compinit; compinit -u"
            ),
        ),
        // It looks below XDG_DATA_DIRS itself.
        ("fish", "true".into()),
    ] {
        let name = shell.split(' ').next().expect("a name");
        if !stage::wanted(name) {
            continue;
        }
        let terminal = Terminal::start(
            &lab,
            &format!(
                "env HOME={home} PATH={prefix}/bin:$PATH XDG_DATA_DIRS={prefix}/share:/usr/share \
                 SMCLO_SOCKET={home}/none {shell} -i"
            ),
        );
        terminal.type_text(&format!("{setup}; echo ready | tr a-z A-Z"));
        terminal.press("Enter");
        terminal.reads(&["READY"]);
        terminal.type_text("smclo uei");
        terminal.press("Tab");
        terminal.reads(&["smclo ueid"]);
        terminal.type_text("flu");
        terminal.press("Tab");
        terminal.type_text("--help");
        terminal.press("Enter");
        terminal.reads(&["Remove all"]);
        terminal.type_text("clear; smclo s");
        terminal.press("Tab");
        terminal.press("Tab");
        let screen = terminal.reads(&["seid", "stats", "ss"]);
        assert!(!screen.contains("start-daemon"), "{shell}: {screen}");
    }
}

/// systemd finds nothing wrong with the units.
#[test]
fn units() {
    if !netns::possible() {
        return;
    }
    let lab = Lab::without_daemon();
    let prefix = lab.dir().join("prefix");
    install(&lab, &prefix);
    let units = prefix.join("lib/systemd/system");
    let with_containers = units.join("smclod.service.d");
    fs::create_dir(&with_containers).expect("a directory");
    let conf = "containers.conf";
    fs::copy(
        prefix.join("share/smclo").join(conf),
        with_containers.join(conf),
    )
    .expect("the drop-in");
    for unit in ["smclod.socket", "smclod.service"] {
        let outcome = lab.plain("systemd-analyze").arg("verify");
        let outcome = outcome.args(["--man=no", "--recursive-errors=one"]);
        let outcome = outcome.arg(units.join(unit)).finish();
        assert!(outcome.success() && outcome.stderr.is_empty(), "{outcome}");
    }
}

/// The daemon as the unit runs it: with a socket of systemd's, as nobody in particular, with these
/// capabilities only.
fn activated(lab: &Lab, capabilities: &[&str]) -> Running {
    let mut sets = "-all".to_owned();
    for capability in capabilities {
        sets += &format!(",+{capability}");
    }
    let socket = lab.socket().display().to_string();
    let mut words = vec!["systemd-socket-activate", "--seqpacket", "-l", &socket];
    words.extend("setpriv --reuid=65534 --regid=65534 --clear-groups".split(' '));
    let sets = ["inh-caps", "ambient-caps", "bounding-set"].map(|set| format!("--{set}={sets}"));
    words.extend(sets.iter().map(String::as_str));
    // That user may not be allowed to read what cargo has built.
    let copy = lab.dir().join("smclod");
    fs::copy(artefacts::path("smclod"), &copy).expect("a copy of smclod");
    let daemon = lab.plain(&copy).through(&words).spawn();
    let up = net::wait_until(Duration::from_secs(10), || lab.socket().exists());
    assert!(up, "{}", daemon.stderr());
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    fs::set_permissions(lab.socket(), everybody).expect("a mode");
    daemon
}

fn expect_fast(lab: &Lab) {
    let tool = lab.plain(artefacts::path("smclo")).arg("--socket");
    let said = tool.arg(lab.socket()).words("stats --json").finish().ok();
    let stats: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert!(stats["smc_bytes"].as_u64() > Some(1 << 20), "{said}");
}

#[test]
fn daemon_of_the_unit() {
    if !netns::possible() || plain_only() {
        return;
    }
    let lab = Lab::without_daemon();
    let daemon = activated(&lab, &[]);
    let (port, talk) = (net::free_port(), ccase::compile("talk"));
    let run = |words: &str| lab.eager(&talk).words(words);
    let server = run(&format!("serve {port} 1")).spawn().listening(port);
    run(&format!("ask {port} 20000 0")).finish().ok();
    server.finish().ok();
    expect_fast(&lab);
    let said = daemon.stop();
    assert!(said.stderr.contains("listening on"), "{said}");
    assert!(lab.socket().exists(), "the socket is systemd's");
}

/// With the capabilities of `containers.conf`.
#[test]
fn daemon_of_the_unit_with_containers() {
    if !netns::possible() || plain_only() {
        return;
    }
    let conf = artefacts::workspace().join("packaging/systemd/containers.conf");
    let conf = fs::read_to_string(conf).expect("the drop-in");
    let line = conf
        .lines()
        .find_map(|l| l.strip_prefix("AmbientCapabilities="));
    let capabilities = line.expect("capabilities").to_lowercase();
    let capabilities: Vec<_> = capabilities
        .split(' ')
        .filter_map(|c| c.strip_prefix("cap_"))
        .collect();
    let lab = Lab::without_daemon();
    let daemon = activated(&lab, &capabilities);
    let [a, b] = [Netns::new(), Netns::new()];
    a.join(("eth0", "10.95.0.1/24"), &b, ("eth0", "10.95.0.2/24"));
    let (port, talk) = (7000, ccase::compile("talk"));
    let run = |words: &str| lab.eager(&talk).words(words).env("TALK_AT", "10.95.0.2");
    let server = b.run(run(&format!("serve {port} 1"))).spawn();
    let server = server.listening(port);
    a.run(run(&format!("ask {port} 20000 0"))).finish().ok();
    server.finish().ok();
    expect_fast(&lab);
    daemon.stop();
}

/// The package on a copy of this machine: works, and leaves nothing when it is purged.
#[test]
fn package_comes_and_goes() {
    if !netns::possible() || plain_only() {
        return;
    }
    let lab = Lab::without_daemon();
    let left = lab.dir().join("left");
    let talk = ccase::compile("talk");
    let work = lab.dir().join("work");
    fs::create_dir(&work).expect("a directory");
    fs::copy(talk, work.join("talk")).expect("a copy");
    let outcome = in_box(&lab)
        .args(["bash", "-ec", USE])
        .env("BOX_LEFT", &left)
        .env("BOX_DIR", &work)
        .finish();
    let said = outcome.ok();
    assert!(said.contains("\"smc_bytes\""), "{said}");
    assert_eq!(fs::read_to_string(left).expect("a list"), "");
}

/// A first use, and the proof.
const USE: &str = r#"
smc_run /given/talk serve 7000 1 &
for i in {1..100}; do ss -ltn | grep -q :7000 && break; sleep 0.05; done
smc_run /given/talk ask 7000 20000 0
wait
smclo stats --json | tee stats
python3 - <<'END' || perl -ne 'exit 1 if /"smc_bytes":\s*0[,}]/' stats
import json; assert json.load(open("stats"))["smc_bytes"] > 1 << 20
END
man -w smclo.7 smc_run >/dev/null || test -e /usr/share/man/man7/smclo.7.gz
rm stats
kill "$(smclo info --json | grep -o '"pid": *[0-9]*' | grep -o '[0-9]*')"
"#;

/// The same in a fresh Debian 12 that has nothing else.
#[test]
fn package_in_a_clean_root() {
    if !full() || !netns::possible() || plain_only() {
        return;
    }
    let lab = Lab::without_daemon();
    let root = lab.dir().join("debian");
    lab.plain("debootstrap")
        .args(["--variant=minbase", "--include=iproute2", "bookworm"])
        .arg(&root)
        .limit(Duration::from_secs(900))
        .finish()
        .ok();
    let (left, work) = (lab.dir().join("left"), lab.dir().join("work"));
    fs::create_dir(&work).expect("a directory");
    fs::copy(ccase::compile("talk"), work.join("talk")).expect("a copy");
    let outcome = in_box(&lab)
        .args(["bash", "-ec", USE])
        .env("BOX_ROOT", &root)
        .env("BOX_LEFT", &left)
        .env("BOX_DIR", &work)
        .finish();
    assert!(outcome.ok().contains("\"smc_bytes\""));
    assert_eq!(fs::read_to_string(left).expect("a list"), "");
}

/// Nothing of the machine on which the package was built goes with it.
#[test]
fn package_names_no_path_of_this_machine() {
    let lab = Lab::without_daemon();
    let root = lab.dir().join("root");
    lab.plain("dpkg-deb")
        .arg("-x")
        .arg(package::build())
        .arg(&root)
        .finish()
        .ok();
    let home = artefacts::workspace().as_os_str().as_encoded_bytes();
    for file in files(&root) {
        let text = fs::read(root.join(&file)).expect("a file");
        let found = text.windows(home.len()).any(|w| w == home);
        assert!(!found, "{file} names {}", artefacts::workspace().display());
    }
}
