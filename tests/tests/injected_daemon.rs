//! System calls of the daemon that fail, once it serves.

use libc::{EACCES, EAGAIN, EIO, EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSPC, ENOTTY, EPERM};
use std::io::{Read, Write};
use std::time::Duration;
use tests::inject::{Rule, injector, rule};
use tests::netns::{self, Netns};
use tests::{Lab, ccase, full, net, plain_only, process};

const ALL: u32 = u32::MAX;

/// Calls of the daemon that want memory, descriptors or rights.
#[rustfmt::skip]
fn rules() -> Vec<Rule> {
    vec![
        rule("memfd_create", libc::SYS_memfd_create, &[ENOMEM, EMFILE, ENFILE]),
        rule("ftruncate", libc::SYS_ftruncate, &[ENOMEM, ENOSPC]),
        rule("fchmod", libc::SYS_fchmod, &[EPERM]),
        rule("fcntl F_ADD_SEALS", libc::SYS_fcntl, &[EPERM]).when(1, ALL, libc::F_ADD_SEALS as u32),
        rule("fcntl F_GET_SEALS", libc::SYS_fcntl, &[EPERM]).when(1, ALL, libc::F_GET_SEALS as u32),
        rule("fstatfs", libc::SYS_fstatfs, &[ENOMEM]),
        rule("statx", libc::SYS_statx, &[ENOMEM, EACCES]),
        rule("mmap shared", libc::SYS_mmap, &[ENOMEM]).when(3, 0xf, libc::MAP_SHARED as u32),
        rule("openat", libc::SYS_openat, &[ENOMEM, EMFILE, ENFILE, EACCES]),
        rule("readlink", libc::SYS_readlink, &[EACCES]),
        rule("socketpair", libc::SYS_socketpair, &[ENOMEM, EMFILE, ENFILE]),
        rule("accept4", libc::SYS_accept4, &[ENOMEM, EMFILE, ENFILE]),
        rule("socket, in another namespace", libc::SYS_socket, &[ENOMEM, EMFILE, ENFILE]),
        rule("setsockopt", libc::SYS_setsockopt, &[ENOMEM, EPERM]),
        rule("bind", libc::SYS_bind, &[ENOMEM, EPERM]),
        rule("setns", libc::SYS_setns, &[ENOMEM, EPERM]),
        rule("getsockopt", libc::SYS_getsockopt, &[ENOBUFS]),
        rule("recvmsg", libc::SYS_recvmsg, &[ENOMEM]),
        rule("sendmsg", libc::SYS_sendmsg, &[ENOMEM, ENOBUFS, EMFILE]),
        rule("sendto, to the kernel", libc::SYS_sendto, &[ENOBUFS, EPERM]),
        rule("recvfrom, of the kernel", libc::SYS_recvfrom, &[ENOBUFS]),
        rule("epoll_ctl", libc::SYS_epoll_ctl, &[ENOMEM, ENOSPC]),
        rule("pwrite64", libc::SYS_pwrite64, &[ENOSPC, EIO]),
        rule("pread64", libc::SYS_pread64, &[EIO]),
        rule("ioctl TFD_IOC_SET_TICKS", libc::SYS_ioctl, &[ENOTTY, EPERM]).when(1, ALL, 0x4008_5400),
        rule("clone3, of the thread that closes", libc::SYS_clone3, &[EAGAIN]),
        rule("uname", libc::SYS_uname, &[EPERM]),
        rule("ioctl, of who asks for metrics", libc::SYS_ioctl, &[ENOMEM, EPERM]),
    ]
}

/// Calls of the daemon, once it serves, for which there is no rule.
const WITHOUT: [(i64, &str); 23] = [
    (libc::SYS_close, "the descriptor is gone whatever it says"),
    (libc::SYS_shutdown, "of a session that ends anyway"),
    (libc::SYS_munmap, "of what is not needed any more"),
    (libc::SYS_madvise, "likewise"),
    (libc::SYS_mprotect, "of a new thread's stack, by libc"),
    (
        libc::SYS_mmap,
        "private: memory of its own, without which nothing goes on",
    ),
    (libc::SYS_brk, "likewise"),
    (
        libc::SYS_read,
        "of files that were opened, and doorbells of its own",
    ),
    (libc::SYS_write, "to these, and to standard error"),
    (libc::SYS_futex, "libc's"),
    (libc::SYS_epoll_wait, "its one sleep"),
    (
        libc::SYS_sigaltstack,
        "of a new thread, by the standard library",
    ),
    (libc::SYS_rt_sigprocmask, "likewise, by libc"),
    (libc::SYS_prctl, "likewise: its name"),
    (libc::SYS_rseq, "likewise"),
    (libc::SYS_set_robust_list, "likewise"),
    (libc::SYS_sched_getaffinity, "likewise"),
    (libc::SYS_getpid, "cannot fail"),
    (
        libc::SYS_getrandom,
        "seeds of tables, by the standard library",
    ),
    (libc::SYS_gettid, "cannot fail"),
    (libc::SYS_geteuid, "cannot fail"),
    (libc::SYS_exit, "cannot fail"),
    (libc::SYS_rt_sigreturn, "of the signal that starts this"),
];

/// A daemon whose calls are looked at from here on, with what it is asked for: programs, metrics, the `tool`. What
/// the metrics say, if the daemon lives so long.
fn used(variable: &str, tool: bool) -> (Lab, String) {
    let program = ccase::compile("talk");
    let preload = format!("LD_PRELOAD={}", injector().display());
    let metrics = format!("127.0.0.1:{}", net::free_port());
    let prefix = ["env", &preload, variable];
    let mut lab = Lab::start_through(&prefix, &["--metrics", &metrics]);
    let daemon = lab.daemon().expect("a daemon");
    daemon.signal(libc::SIGUSR2);
    filtered(daemon.pid());
    for how in ["serve", "threads", "events"] {
        let port = net::free_port();
        let server = lab.eager(&program).words(&format!("{how} {port} 1"));
        let server = server.spawn().listening(port);
        let client = lab.eager(&program).words(&format!("ask {port} 3000 300"));
        let client = client.spawn();
        let orders = ["ss", "stats", "info", "linkgroups", "device"].map(str::to_owned);
        let revert = format!("revert --for 0.05 127.0.0.1:{port}");
        if tool {
            for order in orders.into_iter().chain([revert]) {
                lab.smclo(&order).finish();
            }
            // Its exchanges are over, and the connection is there.
            net::wait_until(Duration::from_secs(20), || !client.stdout().is_empty());
            lab.smclo("ss --debug").finish();
        }
        assert!(client.finish().ok().ends_with("\nend\n"));
        server.stop();
        if !lab.daemon().expect("a daemon").alive() {
            break;
        }
    }
    if netns::possible() {
        let [a, b] = [Netns::new(), Netns::new()];
        a.join(("eth0", "10.95.0.1/24"), &b, ("eth0", "10.95.0.2/24"));
        let run = |words| lab.eager(&program).words(words).env("TALK_AT", "10.95.0.2");
        let server = b.run(run("serve 7000 1")).spawn().listening(7000);
        let client = a.run(run("ask 7000 3000 0")).finish().ok();
        assert!(client.ends_with("\nend\n"));
        server.finish().ok();
    }
    // Somebody at the metrics port, whom it may be unable to take, and who goes again.
    drop(std::net::TcpStream::connect(&metrics));
    let mut text = String::new();
    if let Ok(mut asks) = std::net::TcpStream::connect(&metrics) {
        let asked = asks.write_all(b"GET /metrics HTTP/1.0\r\n\r\n");
        let patience = asks.set_read_timeout(Some(Duration::from_secs(1)));
        let _ = asked
            .and(patience)
            .and_then(|()| asks.read_to_string(&mut text));
    }
    (lab, text)
}

/// The daemon makes no call but those that have a rule, or a reason why not.
#[test]
fn none_is_left_out() {
    if plain_only() {
        return;
    }
    let rules = rules();
    let known = rules.iter().map(|rule| rule.number);
    let known = known.chain(WITHOUT.iter().map(|(number, _)| *number));
    let known: Vec<_> = known.map(|number| number.to_string()).collect();
    let (mut lab, metrics) = used(&format!("INJECT_KNOWN={}", known.join(" ")), true);
    let daemon = lab.daemon().expect("a daemon");
    assert!(daemon.alive(), "{}", daemon.stderr());
    assert!(metrics.contains("smclo_"), "{metrics}");
    lab.assert_clean();
    assert!(lab.stats().smc_bytes() > 0);
    println!("{} calls known: {} rules", known.len(), rules.len());
}

/// Each rule is about a call that it makes: here it is the daemon's end, which the programs do not notice.
#[test]
fn each_call_is_made() {
    if plain_only() {
        return;
    }
    let made = |rule: &Rule| {
        let (mut lab, _) = used(&format!("INJECT={}", rule.words(0, -1)), true);
        let gone = || !lab.daemon().expect("a daemon").alive();
        net::wait_until(Duration::from_secs(2), gone)
    };
    let never: Vec<_> = rules().into_iter().filter(|rule| !made(rule)).collect();
    let never: Vec<_> = never.iter().map(|rule| rule.name).collect();
    assert!(never.is_empty(), "never made: {never:?}");
}

/// Waits until the process has its filter.
#[track_caller]
fn filtered(pid: u32) {
    let status = format!("/proc/{pid}/status");
    let filtered = || {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        text.contains("Seccomp:\t2")
    };
    assert!(
        net::wait_until(Duration::from_secs(20), filtered),
        "no filter"
    );
}

/// Each fails, once the daemon serves: the programs lose nothing, and it does not crash, nor
/// use up a processor.
#[test]
fn each_call_fails() {
    if plain_only() {
        return;
    }
    let (mut runs, mut ran) = (0, 0);
    let turn = std::process::id() as usize % 3;
    for rule in rules() {
        for error in rule.errors {
            runs += 1;
            if !full() && runs % 3 != turn {
                continue;
            }
            ran += 1;
            let name = format!("{} error {error}", rule.name);
            let (mut lab, _) = used(&format!("INJECT={}", rule.words(*error, -1)), false);
            let daemon = lab.daemon().expect("a daemon");
            // Who turns round and round is never seen asleep.
            let pid = daemon.pid();
            let sleeps = net::wait_until(Duration::from_secs(10), || process::sleeps(pid));
            let well = daemon.alive() && sleeps && !daemon.stderr().contains("panicked");
            assert!(well, "{name}, asleep {sleeps}: {}", daemon.stderr());
        }
    }
    println!("{ran} of {runs} combinations in the daemon: 0 lost, 0 hung, 0 crashed");
}
