//! What runs around a program and inside it: allocators, sanitizers, other preloaded libraries,
//! modules, static programs, io_uring.

use protocol::reason;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use tests::ccase::{self, Carrier};
use tests::{Lab, Run, Stats, artefacts, net, plain_only, process};

/// 300 exchanges between two programs that `dress` puts into their surroundings; the share of bytes
/// that went over SMC.
#[track_caller]
fn talk(lab: &Lab, program: &Path, dress: impl Fn(Run) -> Run) -> (f64, [String; 2]) {
    let port = net::free_port();
    let before = lab.stats();
    let server = dress(lab.eager(program))
        .words(&format!("serve {port} 1"))
        .spawn()
        .listening(port);
    let client = dress(lab.eager(program))
        .words(&format!("ask {port} 300 0"))
        .finish();
    let errors = client.stderr.clone();
    assert!(client.ok().ends_with("end\n"));
    let server = server.finish();
    let errors = [errors, server.stderr.clone()];
    assert_eq!(server.ok(), "end 0\n");
    if plain_only() {
        return (1.0, errors);
    }
    (lab.settled().share_smc(&before), errors)
}

/// A list for LD_PRELOAD.
fn preload(libraries: &[&Path]) -> OsString {
    let mut list = OsString::new();
    for library in libraries {
        if !list.is_empty() {
            list.push(":");
        }
        list.push(library);
    }
    list
}

/// Our library beside another one, in both orders.
#[track_caller]
fn beside(other: &Path, check: impl Fn(&str)) {
    if plain_only() {
        return;
    }
    let (ours, program) = (artefacts::library(), ccase::compile("talk"));
    for list in [[other, &ours], [&ours, other]] {
        let lab = Lab::start();
        let list = preload(&list);
        let (share, errors) = talk(&lab, &program, |run| run.env("LD_PRELOAD", &list));
        assert!(share > 0.5, "{}: {share}", list.to_string_lossy());
        errors.iter().for_each(|text| check(text));
        lab.assert_clean();
    }
}

fn debian(library: &str) -> PathBuf {
    let path = Path::new("/usr/lib/x86_64-linux-gnu").join(library);
    assert!(path.exists(), "{library}: run scripts/install-deps");
    path
}

#[test]
fn hc_108_jemalloc() {
    beside(&debian("libjemalloc.so.2"), |_| {});
}

#[test]
fn hc_108_tcmalloc() {
    beside(&debian("libtcmalloc_minimal.so.4"), |_| {});
}

/// Built with AddressSanitizer, which intercepts much of what we do; whole cases and a talk.
#[test]
fn hc_108_address_sanitizer() {
    let options = "-O1 -fsanitize=address -static-libasan";
    let talker = ccase::build("talk", &["common.c"], options);
    let lab = Lab::start();
    let (share, _) = talk(&lab, &talker, |run| run);
    assert!(share > 0.5, "{share}");
    lab.assert_clean();
    for (program, case) in [
        ("transfer", "flags"),
        ("polling", "level"),
        ("process", "child_serves"),
        ("waiting", "handler_uses_sockets"),
        ("closing", "duplicates"),
    ] {
        let program = ccase::build(program, &["common.c"], options);
        ccase::compare_built(program, case, Carrier::Any);
    }
}

/// Sockets before any constructor.
#[test]
fn hc_109_before_constructors() {
    ccase::compare("early", "before_constructors", Carrier::Fast);
}

/// Another library that interposes the same calls and uses sockets in its own constructor.
#[test]
fn hc_121_other_preloads() {
    let other = ccase::build("interposer", &[], "-O1 -shared -fPIC");
    beside(&other, |text| {
        // What goes over a ring does not come by a library behind ours.
        assert!(text.starts_with("passed on: socket 1"), "{text}");
    });
}

/// Programs that lock their memory (mlockall), before there is a connection or with one: theirs is locked as without
/// the library, and of a link group's no more than is in use takes memory.
#[test]
fn locked_memory() {
    if plain_only() || !process::is_root() {
        return;
    }
    let (locker, program) = (
        ccase::build("locker", &[], "-O1 -shared -fPIC"),
        ccase::compile("talk"),
    );
    let list = preload(&[&artefacts::library(), &locker]);
    let [now, later] = [libc::MCL_CURRENT, libc::MCL_FUTURE];
    for (when, flags, most) in [
        ("LOCK_FIRST", later, 16 << 10),
        ("LOCK_FIRST", now | later, 16 << 10),
        // The tables of all connections are there by then, see docs/limits.md.
        ("LOCK_LAST", now, 128 << 10),
    ] {
        let lab = Lab::start();
        let (share, errors) = talk(&lab, &program, |run| {
            run.env("LD_PRELOAD", &list).env(when, flags.to_string())
        });
        assert!(share > 0.5, "{when} {flags}: {share}");
        for text in errors {
            let words: Vec<_> = text.split_whitespace().collect();
            let number = |at: usize| words.get(at).and_then(|word| word.parse::<u32>().ok());
            let (shared, resident) = (number(1), number(3));
            assert!(
                shared.is_some_and(|kib| kib < most),
                "{when} {flags}: {text}"
            );
            assert_eq!(resident, Some(256), "{when} {flags}: {text}");
        }
        lab.assert_clean();
    }
}

#[track_caller]
fn with_module(case: &str, carrier: Carrier) {
    let module = ccase::build("plugin", &[], "-O1 -shared -fPIC");
    let program = ccase::compile("loader");
    ccase::compare_with(program, case, carrier, |run| run.env("PLUGIN", &module));
}

#[test]
fn hc_110_module() {
    with_module("plain_module", Carrier::Fast);
}

#[test]
fn hc_110_deep_module() {
    with_module("deep_module", Carrier::Fast);
}

#[test]
fn hc_110_module_in_a_namespace() {
    with_module("own_namespace", Carrier::Any);
}

/// A static client and a server under the shim: TCP, and the server's row says why.
#[test]
fn hc_113_static_program() {
    let (server, client) = (
        ccase::compile("talk"),
        ccase::build("talk", &["common.c"], "-O1 -static"),
    );
    let lab = Lab::start();
    let port = net::free_port();
    let server = lab
        .eager(server)
        .words(&format!("serve {port} 1"))
        .spawn()
        .listening(port);
    let text = lab.eager(client).words(&format!("ask {port} 300 0"));
    assert!(text.finish().ok().ends_with("end\n"));
    assert_eq!(server.finish().ok(), "end 0\n");
    if !plain_only() {
        let stats = lab.settled();
        assert_eq!(stats.share_smc(&Stats::zero()), 0.0);
        assert!(stats.fallbacks(reason::NO_PEER_YET) > 0, "{}", stats.raw);
    }
    lab.assert_clean();
}

/// A program takes a connection over, as from inetd: one that is on a ring, with bytes unread on it.
#[track_caller]
fn inetd(program: &Path) {
    let starter = ccase::compile("loader");
    ccase::compare_with(starter, "inetd", Carrier::Fast, |run| {
        run.env("PLUGIN", program)
    });
}

#[test]
fn hc_085_inetd_with_the_library() {
    inetd(&ccase::build("echo", &[], "-O1"));
}

#[test]
fn hc_086_inetd_static() {
    inetd(&ccase::build("echo", &[], "-O1 -static"));
}

#[test]
fn hc_086_inetd_busybox() {
    let program = Path::new("/bin/busybox");
    assert!(program.exists(), "busybox: run scripts/install-deps");
    // The loader of one that is not static would list its libraries instead of starting it.
    let asked = Lab::without_daemon()
        .plain(program)
        .args(["echo", "static"])
        .env("LD_TRACE_LOADED_OBJECTS", "1")
        .finish();
    assert_eq!(asked.ok(), "static\n");
    inetd(program);
}

/// The loader ignores LD_PRELOAD for a program that runs as another user than its caller.
#[test]
fn hc_097_set_user_id() {
    use std::os::unix::fs::{PermissionsExt, chown};
    let lab = Lab::without_daemon();
    let program = lab.dir().join("echo");
    std::fs::copy(ccase::build("echo", &[], "-O1"), &program).expect("a copy");
    if chown(&program, Some(65534), None).is_err() {
        eprintln!("not root: not tested");
        return;
    }
    let mode = std::fs::Permissions::from_mode(0o4755);
    std::fs::set_permissions(&program, mode).expect("the set-user-id bit");
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(lab.dir(), open).expect("a directory for all");
    inetd(&program);
}

/// The same with a ring as without the library. Gives what the daemon has counted.
#[track_caller]
fn with_uring(case: &str) -> Option<Stats> {
    let program = ccase::build("uring", &["common.c"], "-O1 -luring");
    let oracle = Lab::without_daemon()
        .plain(&program)
        .arg(case)
        .finish()
        .ok();
    let lab = Lab::start();
    let run = lab.eager(&program).env("TEST_WARM", "64").arg(case);
    // The number of exchanges to warm up does not show in the trace.
    assert_eq!(oracle, run.finish().ok());
    let stats = (!plain_only()).then(|| lab.settled());
    lab.assert_clean();
    stats
}

#[test]
fn hc_116_uring_server() {
    if let Some(stats) = with_uring("server") {
        // The server has its connection from the kernel alone: nobody claims that end.
        assert!(stats.fallbacks(reason::NO_PEER_YET) > 0, "{}", stats.raw);
        assert_eq!(stats.smc_bytes(), 0, "{}", stats.raw);
    }
}

/// Connections leave the ring when a request names them.
#[track_caller]
fn uring_takes_them_off(case: &str) {
    if let Some(stats) = with_uring(case) {
        assert!(stats.smc_bytes() > 0, "{}", stats.raw);
        assert!(stats.fallbacks(reason::ASYNC_IO) > 0, "{}", stats.raw);
    }
}

#[test]
fn hc_116_uring_comes_late() {
    uring_takes_them_off("late_ring");
}

#[test]
fn hc_116_uring_for_files() {
    if let Some(stats) = with_uring("files_only") {
        assert_eq!(stats.fallbacks(reason::ASYNC_IO), 0, "{}", stats.raw);
        let share = stats.share_smc(&Stats::zero());
        assert!(share > 0.9, "{share}: {}", stats.raw);
    }
}

#[test]
fn hc_116_uring_names_sockets() {
    uring_takes_them_off("other_names");
}

/// Under `smclo run` a program linked with musl runs as it is; preloaded by hand the library, which
/// needs glibc, keeps its loader from starting it.
#[test]
fn hc_112_musl() {
    if plain_only() || !tests::stage::wanted("musl-gcc") {
        return;
    }
    let lab = Lab::start();
    let source = lab.dir().join("hello.c");
    std::fs::write(
        &source,
        "#include <stdio.h>\nint main(void) { puts(\"hello\"); return 0; }",
    )
    .unwrap();
    let program = lab.dir().join("hello");
    lab.plain("musl-gcc")
        .arg(&source)
        .arg("-o")
        .arg(&program)
        .finish()
        .ok();
    let run = lab.plain(artefacts::path("smclo")).arg("run").arg(&program);
    let said = run.env("SMCLO_SOCKET", lab.socket()).finish();
    assert!(said.stderr.contains("linked with musl"), "{said}");
    assert_eq!(said.stderr.lines().count(), 1, "{said}");
    assert_eq!(said.ok(), "hello\n");
    assert_eq!(lab.shim(&program).finish().code(), Some(127));
}

/// A libc that lacks what came into glibc over time, and its aliases: the library makes the system calls
/// itself, and a program cannot tell.
#[test]
fn hc_111_older_libc() {
    const LACKING: &str = "accept4 recvmmsg sendmmsg epoll_create1 epoll_pwait epoll_pwait2 preadv2 \
        preadv64v2 pwritev2 pwritev64v2 close_range closefrom dup3 ppoll pselect splice tee vmsplice \
        sendfile64 execveat __poll __select __dup2 __read __write __close __send __recv_chk __read_chk";
    if plain_only() {
        return;
    }
    let old = ccase::build("oldlibc", &[], "-O1 -shared -fPIC");
    // Behind ours: what it passes on is then looked for behind both.
    let list = preload(&[&artefacts::library(), &old]);
    for (program, case) in [
        ("transfer", "mmsg"),
        ("transfer", "vectors"),
        ("transfer", "sendfile"),
        ("transfer", "splice"),
        ("polling", "level"),
        ("polling", "edge"),
        ("polling", "selects"),
        ("polling", "poll_masks"),
        ("hc_process", "hc_090_closes_everything"),
        ("closing", "duplicates"),
    ] {
        let program = ccase::compile(program);
        let oracle = Lab::without_daemon()
            .plain(&program)
            .arg(case)
            .finish()
            .ok();
        let lab = Lab::start();
        let run = lab.eager(&program).env("LD_PRELOAD", &list);
        let run = run.env("LACKING", LACKING).env("TEST_WARM", "64");
        let outcome = run.arg(case).finish();
        let asked = outcome.stderr.lines().filter_map(|line| {
            let count = line.strip_prefix("lacking: ")?;
            count.parse::<usize>().ok()
        });
        // Aliases share the one that is looked for.
        assert!(asked.max() > Some(15), "{case}: {outcome}");
        assert_eq!(outcome.ok(), oracle, "{case}");
        assert!(lab.settled().smc_bytes() > 0, "{case}");
        lab.assert_clean();
    }
}

/// Words that start a program in namespaces of its own, when `prepare` has run there.
fn apart<'a>(namespaces: &'a str, script: &'a str) -> Vec<&'a str> {
    let mut words = vec!["unshare"];
    words.extend(namespaces.split_whitespace());
    words.extend(["sh", "-c", script, "sh"]);
    words
}

/// Both programs where nothing can be written, and there is no memory to be had from /dev/shm.
#[test]
fn hc_094_no_shm_and_read_only() {
    if !tests::netns::possible() {
        return;
    }
    let script = "mount -t tmpfs -o ro,noexec none /dev/shm && mount -o remount,bind,ro / && \
                  ! touch /dev/shm/x /x 2>/dev/null && exec \"$@\"";
    let words = apart("--mount", script);
    let lab = Lab::start();
    let (share, errors) = talk(&lab, &ccase::compile("talk"), |run| run.through(&words));
    assert!(share > 0.5, "{share} {errors:?}");
    lab.assert_clean();
}

/// Where the host forbids files in memory that could be executed, and a library on a file system
/// from which nothing may be executed, which the loader leaves out.
#[test]
fn hc_118_nothing_executable() {
    const SETTING: &str = "/proc/sys/vm/memfd_noexec";
    if !tests::netns::possible() {
        return;
    }
    let program = ccase::compile("talk");
    if Path::new(SETTING).exists() {
        // The setting is one of the process namespace.
        let script = format!("echo 2 > {SETTING} && exec \"$@\"");
        let words = apart("--pid --fork --kill-child --mount-proc", &script);
        let lab = Lab::start_through(&words, &[]);
        let (share, errors) = talk(&lab, &program, |run| run.through(&words));
        assert!(share > 0.5, "{share} {errors:?}");
        lab.assert_clean();
    }
    let lab = Lab::start();
    let place = lab.dir().join("place");
    std::fs::create_dir(&place).unwrap();
    let library = artefacts::library();
    let script = format!(
        "mount -t tmpfs -o noexec none {at} && cp {from} {at}/l.so && LD_PRELOAD={at}/l.so \"$@\"",
        at = place.display(),
        from = library.display()
    );
    let words = apart("--mount", &script);
    let preloaded = |run: Run| run.env("LD_PRELOAD", "").through(&words);
    let (share, errors) = talk(&lab, &program, preloaded);
    if !plain_only() {
        assert_eq!(share, 0.0);
    }
    assert!(
        errors.iter().all(|e| e.contains("cannot be preloaded")),
        "{errors:?}"
    );
    lab.assert_clean();
}
