//! `smclo doctor` on programs that cannot be accelerated: what is in the way, in words, and what to do.

use serde_json::Value;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use tests::{Lab, Run, artefacts, ccase, netns, plain_only, stage};

/// What was found about one subject.
struct Diagnosis {
    raw: Value,
    code: Option<i32>,
}

impl Diagnosis {
    #[track_caller]
    fn of(run: Run) -> Diagnosis {
        let said = run.finish();
        let raw = serde_json::from_str(&said.stdout);
        Diagnosis {
            raw: raw.unwrap_or_else(|e| panic!("{e}: {said}")),
            code: said.code(),
        }
    }

    /// The remedy of the finding with this level and these words.
    #[track_caller]
    fn remedy(&self, level: &str, words: &str) -> &str {
        let findings = self.raw["findings"].as_array().expect("findings");
        let found = findings
            .iter()
            .find(|f| f["level"] == level && f["what"].as_str().is_some_and(|w| w.contains(words)));
        let found = found.unwrap_or_else(|| panic!("no {level} {words:?} in {}", self.raw));
        found["remedy"].as_str().expect("a remedy")
    }

    #[track_caller]
    fn good(&self, words: &str) {
        self.remedy("good", words);
    }

    /// It cannot be accelerated, for this reason, and this helps.
    #[track_caller]
    fn obstacle(&self, words: &str, remedy: &str) {
        let said = self.remedy("obstacle", words);
        assert!(said.contains(remedy), "{remedy:?} is not in {said:?}");
        assert_eq!(self.raw["can_be_accelerated"], false);
        assert_eq!(self.code, Some(1));
    }

    #[track_caller]
    fn no_obstacle(&self) {
        assert_eq!(self.raw["can_be_accelerated"], true, "{}", self.raw);
        assert_eq!(self.code, Some(0));
    }
}

#[track_caller]
fn doctor(lab: &Lab, subject: impl AsRef<std::ffi::OsStr>) -> Diagnosis {
    Diagnosis::of(lab.smclo("--json doctor").arg(subject))
}

fn is_root() -> bool {
    // SAFETY: no arguments.
    unsafe { libc::geteuid() == 0 }
}

#[track_caller]
fn compile(lab: &Lab, compiler: &str, name: &str, source: &str, options: &str) -> PathBuf {
    let (file, program) = (
        lab.dir().join(name).with_extension("c"),
        lab.dir().join(name),
    );
    fs::write(&file, source).expect("the source");
    let built = Command::new(compiler)
        .args(options.split_whitespace())
        .arg(&file)
        .arg("-o")
        .arg(&program)
        .status();
    assert!(built.is_ok_and(|s| s.success()), "{compiler} {options}");
    program
}

const NOTHING: &str = "int main(void) { return 0; }\n";

#[test]
fn an_ordinary_program() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let sh = doctor(&lab, "sh");
    sh.no_obstacle();
    sh.good("smclod answers at");
    sh.good("dynamically linked with glibc");
    // Nobody but a person looks for marks and colours.
    let text = lab.smclo("doctor sh").finish().ok();
    assert!(text.contains(": can be accelerated\n  ok "), "{text}");
}

/// What a kernel without CONFIG_CHECKPOINT_RESTORE says.
#[test]
fn a_kernel_without_such_timers() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let words = "doorbells are eventfds";
    assert!(!doctor(&lab, "sh").raw.to_string().contains(words));
    let inject = ccase::build("inject", &[], "-O1 -shared -fPIC");
    let words_of = format!("{} 1 ffffffff 40085400 {} 0", libc::SYS_ioctl, libc::ENOTTY);
    let run = lab.smclo("--json doctor sh").env("LD_PRELOAD", inject);
    let found = Diagnosis::of(run.env("INJECT", words_of));
    found.no_obstacle();
    let remedy = found.remedy("note", words);
    assert!(remedy.contains("CONFIG_CHECKPOINT_RESTORE"), "{remedy}");
}

#[test]
fn static_programs() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let program = compile(&lab, "gcc", "static", NOTHING, "-static");
    let found = doctor(&lab, program);
    found.obstacle("statically linked", "a dynamically linked build");
    let program = compile(&lab, "gcc", "static-pie", NOTHING, "-static-pie");
    doctor(&lab, program).obstacle("statically linked", "a dynamically linked build");
}

#[test]
fn musl() {
    if plain_only() || !stage::wanted("musl-gcc") {
        return;
    }
    let lab = Lab::start();
    let program = compile(&lab, "musl-gcc", "musl", NOTHING, "");
    doctor(&lab, program).obstacle("linked with musl", "a build for glibc");
}

#[test]
fn go() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    // What Go's linker writes, in a static and in a dynamic program.
    let note = lab.dir().join("note");
    fs::write(&note, b"\x04\0\0\0\x04\0\0\0\x04\0\0\0Go\0\0test").expect("a note");
    for (name, options) in [("go-static", "-static"), ("go-dynamic", "")] {
        let program = compile(&lab, "gcc", name, NOTHING, options);
        let add = lab.plain("objcopy").arg("--add-section");
        let section = format!(".note.go.buildid={}", note.display());
        add.arg(section).arg(&program).finish().ok();
        let found = doctor(&lab, program);
        found.obstacle("a Go program", "haproxy, nginx");
        assert!(!found.raw.to_string().contains("linked"), "{}", found.raw);
    }
    // The Go command is a Go program itself.
    if Command::new("go").arg("version").output().is_ok() {
        doctor(&lab, "go").obstacle("a Go program", "haproxy, nginx");
    }
}

/// A copy of an ordinary program that this user may change.
fn copy(lab: &Lab, name: &str) -> PathBuf {
    let path = lab.dir().join(name);
    fs::copy("/bin/sleep", &path).expect("a copy");
    path
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

#[test]
fn programs_that_gain_rights() {
    if plain_only() || !is_root() {
        return;
    }
    let lab = Lab::start();
    let remedy = "start it as that user, without the bit";
    let (user, group) = (copy(&lab, "setuid"), copy(&lab, "setgid"));
    chown(&user, Some(65534), None).expect("an owner");
    set_mode(&user, 0o4755);
    doctor(&lab, &user).obstacle("setuid: the loader ignores LD_PRELOAD", remedy);
    chown(&group, None, Some(65534)).expect("a group");
    set_mode(&group, 0o2755);
    doctor(&lab, &group).obstacle("setgid: the loader ignores LD_PRELOAD", remedy);
    // The own user gains nothing, and the loader knows.
    let own = copy(&lab, "own");
    set_mode(&own, 0o4755);
    doctor(&lab, &own).no_obstacle();

    // CAP_NET_BIND_SERVICE, permitted and effective (struct vfs_cap_data, version 2).
    let bind = copy(&lab, "capable");
    let mut value = [0u8; 20];
    value[..4].copy_from_slice(&0x0200_0001u32.to_le_bytes());
    value[4..8].copy_from_slice(&(1u32 << 10).to_le_bytes());
    let path = std::ffi::CString::new(bind.as_os_str().as_encoded_bytes()).expect("a path");
    // SAFETY: two strings that end with zero, and 20 bytes.
    let set = unsafe {
        let name = c"security.capability".as_ptr();
        libc::setxattr(path.as_ptr(), name, value.as_ptr().cast(), value.len(), 0)
    };
    if set == 0 {
        doctor(&lab, &bind).obstacle("file capabilities", remedy);
    }
}

#[test]
fn no_daemon() {
    let lab = Lab::without_daemon();
    let found = doctor(&lab, "sh");
    found.obstacle("no smclod answers at", "start smclod");
    let program = lab.plain("sleep").arg("60").spawn();
    let found = doctor(&lab, program.pid().to_string());
    found.obstacle("no smclod answers", "start smclod");
}

#[test]
fn policies() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let with = |file: &str| {
        let path = lab.dir().join("smclo.toml");
        fs::write(&path, file).expect("a policy");
        let run = lab.smclo("--json doctor sh").env("SMCLO_CONFIG", &path);
        Diagnosis::of(run)
    };
    let remedy = "add a rule for the program, or set SMCLO_POLICY=default";
    with("accelerate = false").obstacle("the policy turns it off", remedy);
    with("[[rule]]\nprogram = 'sh'\naccelerate = false")
        .obstacle("the policy turns it off", remedy);
    with("[[rule]]\nprogram = 'other'\naccelerate = false").no_obstacle();
    let wrong = with("accelerate = 3");
    wrong.no_obstacle();
    let remedy = wrong.remedy("note", "has mistakes and is not used");
    assert!(remedy.contains("smclo config check"), "{remedy}");
    let off = lab.smclo("--json doctor sh").env("SMCLO_POLICY", "off");
    Diagnosis::of(off).obstacle("SMCLO_POLICY is off", "unset it");
}

#[test]
fn limits() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    for (limit, words, remedy) in [
        ("--nofile=20", "open files", "ulimit -n 1024"),
        ("--fsize=100000", "file sizes", "ulimit -f unlimited"),
        ("--as=200000000", "address space", "ulimit -v unlimited"),
    ] {
        let command = lab.smclo("--json doctor sh");
        Diagnosis::of(command.through(&["prlimit", limit])).obstacle(words, remedy);
        let program = lab.plain("sleep").arg("60").through(&["prlimit", limit]);
        let program = program.spawn();
        let exe = format!("/proc/{}/exe", program.pid());
        let begun = || fs::read_link(&exe).is_ok_and(|path| path.ends_with("sleep"));
        // Until prlimit has become the program, it has no limit.
        assert!(tests::net::wait_until(
            std::time::Duration::from_secs(10),
            begun
        ));
        doctor(&lab, program.pid().to_string()).obstacle(words, remedy);
    }
}

#[test]
fn processes() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let held = lab.hold();
    let found = doctor(&lab, held.client.pid().to_string());
    found.no_obstacle();
    found.good("the library is loaded");
    found.good("1 connections on SMC-D now");
    held.end();

    let without = lab.plain("sleep").arg("60").spawn();
    let found = doctor(&lab, without.pid().to_string());
    found.obstacle("the library is not loaded", "\"smclo run\"");

    let lost = lab.plain("sleep").arg("60");
    let lost = lost
        .env("LD_PRELOAD", lab.dir().join("libsmclo.so"))
        .spawn();
    let found = doctor(&lab, lost.pid().to_string());
    found.obstacle("the loader has not loaded it", "the path must exist");

    let off = lab.shim("sleep").arg("60").env("SMCLO_POLICY", "off");
    let off = off.spawn();
    doctor(&lab, off.pid().to_string()).obstacle("SMCLO_POLICY=off", "unset it");
}

/// What cannot be looked at is not judged.
#[test]
fn processes_of_others() {
    if !tests::netns::possible() {
        return;
    }
    let lab = Lab::without_daemon();
    let theirs = lab.plain("sleep").arg("60").spawn();
    // That user may not be allowed to read what cargo has built.
    let copy = lab.dir().join("smclo");
    // By a process of its own: what one of ours still had open for writing could not be run.
    let copying = lab.plain("cp").arg(artefacts::path("smclo"));
    copying.arg(&copy).finish().ok();
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let run = lab.plain(&copy).arg("doctor").arg(theirs.pid().to_string());
    let said = run.through(&nobody).finish();
    assert_eq!(said.code(), Some(2), "{said}");
    assert!(said.stdout.is_empty(), "{said}");
    assert!(
        said.stderr
            .contains("belongs to another user: run the doctor as root"),
        "{said}"
    );
    theirs.stop();
}

/// Under a filter that allows everything: what it forbids nobody can see from outside.
const FILTERED: &str = "
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <unistd.h>
int main(void) {
    struct sock_filter all = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {1, &all};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        return 1;
    puts(\"filtered\");
    fflush(stdout);
    pause();
}
";

#[test]
fn seccomp() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let program = compile(&lab, "gcc", "filtered", FILTERED, "");
    let mut program = lab.plain(program).spawn();
    let limit = std::time::Duration::from_secs(10);
    let up = tests::net::wait_until(limit, || {
        program.stdout().contains("filtered") || !program.alive()
    });
    assert!(up && program.alive(), "{}", program.stderr());
    let found = doctor(&lab, program.pid().to_string());
    let remedy = found.remedy("note", "under a seccomp filter");
    assert!(remedy.contains("allow memfd_create"), "{remedy}");
}

#[test]
fn containers() {
    if plain_only() || !netns::possible() {
        return;
    }
    let lab = Lab::start();
    // The directory of the socket is another one inside.
    let hidden = lab.dir().join("hidden");
    fs::create_dir(&hidden).expect("a directory");
    let socket = hidden.join("smclod.sock");
    fs::write(&socket, "").expect("a file");
    let script = "mount -t tmpfs tmpfs \"$1\"; echo hidden; exec sleep 60";
    let program = lab.plain("unshare").words("--mount sh -ec").arg(script);
    let program = program.arg("-").arg(&hidden).env("SMCLO_SOCKET", &socket);
    let program = program.spawn();
    let limit = std::time::Duration::from_secs(10);
    let up = tests::net::wait_until(limit, || program.stdout().contains("hidden"));
    assert!(up, "{}", program.stderr());
    doctor(&lab, program.pid().to_string()).obstacle(
        "in a container without the daemon's socket",
        "bind-mount the host's /run/smclo into the container",
    );
    // From inside, where the tool does not see it either.
    let mark = "mkdir -p /run; mount -t tmpfs tmpfs /run; : >/run/.containerenv; exec \"$@\"";
    let inside = Lab::without_daemon();
    let inside = inside.smclo("--json doctor sh");
    let inside = inside.through(&["unshare", "--mount", "sh", "-ec", mark, "-"]);
    Diagnosis::of(inside).obstacle("no smclod answers", "bind-mount the host's /run/smclo");
}
