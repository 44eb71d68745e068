//! System calls that fail: each one that the library makes for itself, with each error that fits, from
//! the start of the program or in the middle, at either end. The programs notice nothing: every byte
//! arrives, over TCP where it must.

use std::collections::BTreeSet;
use std::time::Duration;
use tests::{Lab, Run, artefacts, ccase, full, net, plain_only, process};

/// A call, as a condition on one of its arguments, and errors that it may give.
struct Rule {
    name: &'static str,
    number: i64,
    argument: u32,
    mask: u32,
    value: u32,
    errors: &'static [i32],
    /// Also in the middle of a connection.
    late: bool,
    /// The server of `talk`.
    server: &'static str,
}

const fn rule(name: &'static str, number: i64, errors: &'static [i32]) -> Rule {
    Rule {
        name,
        number,
        argument: 0,
        mask: 0,
        value: 0,
        errors,
        late: true,
        server: "serve",
    }
}

impl Rule {
    /// From the start only. A process that may not receive descriptors any more once its connections
    /// are on a ring cannot learn whom to wake; and what it sends on TCP on the way there is the program's.
    const fn early(self) -> Rule {
        Rule {
            late: false,
            ..self
        }
    }

    /// Of a server with an epoll set that does not change its registrations itself.
    const fn in_a_set(self) -> Rule {
        Rule {
            server: "set",
            ..self
        }
    }

    /// Only calls whose argument has this value in these bits.
    const fn when(self, argument: u32, mask: u32, value: u32) -> Rule {
        Rule {
            argument,
            mask,
            value,
            ..self
        }
    }
}

impl Rule {
    /// As `inject.c` reads it.
    fn words(&self, error: i32, delay: i32) -> String {
        let Rule {
            number,
            argument,
            mask,
            value,
            ..
        } = self;
        format!("{number} {argument} {mask:x} {value:x} {error} {delay}")
    }
}

use libc::{EACCES, EAGAIN, EINVAL, EIO, EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSPC, ENOSYS};
use libc::{EPERM, ETOOMANYREFS};

const ALL: u32 = u32::MAX;

/// The calls that the library makes of its own accord; what the program itself asks for is the
/// program's, with the kernel's answer.
#[rustfmt::skip]
fn rules() -> Vec<Rule> {
    let all = &[ENOMEM, EMFILE, ENOSPC, EPERM];
    let cloexec = libc::MSG_CMSG_CLOEXEC as u32;
    let quiet = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u32;
    let look = (libc::MSG_PEEK | libc::MSG_DONTWAIT) as u32;
    // The option's number tells the calls apart: no two levels share one here.
    let opt = |name, option: i32| rule(name, libc::SYS_getsockopt, all).when(2, ALL, option as u32);
    vec![
        rule("memfd_create", libc::SYS_memfd_create, &[ENOMEM, EMFILE, ENFILE, EPERM]),
        rule("ftruncate", libc::SYS_ftruncate, all),
        rule("fcntl F_ADD_SEALS", libc::SYS_fcntl, all).when(1, ALL, libc::F_ADD_SEALS as u32),
        rule("fcntl F_GET_SEALS", libc::SYS_fcntl, all).when(1, ALL, libc::F_GET_SEALS as u32),
        rule("fcntl F_DUPFD_CLOEXEC", libc::SYS_fcntl, all).when(1, ALL, libc::F_DUPFD_CLOEXEC as u32),
        rule("fcntl F_GETFL", libc::SYS_fcntl, all).when(1, ALL, libc::F_GETFL as u32),
        rule("mmap shared", libc::SYS_mmap, all).when(3, 0xf, libc::MAP_SHARED as u32),
        rule("munmap", libc::SYS_munmap, &[ENOMEM, EINVAL]),
        rule("eventfd2", libc::SYS_eventfd2, &[ENOMEM, EMFILE, ENFILE]),
        rule("socket of the session", libc::SYS_socket, &[ENOMEM, EMFILE, ENFILE, EACCES]).when(0, ALL, libc::AF_UNIX as u32),
        // With descriptors; the program's bytes come without this flag.
        rule("recvmsg", libc::SYS_recvmsg, all).when(2, cloexec, cloexec).early(),
        // Only the paths of the daemon are so long, and what is sent without waiting is the library's.
        rule("connect of the session", libc::SYS_connect, &[ENOMEM, EAGAIN, EACCES, EPERM]).when(2, 32, 32),
        rule("sendmsg with descriptors", libc::SYS_sendmsg, &[ENOMEM, ENOBUFS, ETOOMANYREFS, EPERM]).when(2, ALL, quiet).early(),
        rule("sendto of a message", libc::SYS_sendto, &[ENOMEM, ENOBUFS, EAGAIN]).when(3, ALL, quiet),
        rule("recvfrom, a look ahead", libc::SYS_recvfrom, &[ENOMEM, EAGAIN]).when(3, ALL, look),
        rule("epoll_ctl of a registration", libc::SYS_epoll_ctl, &[ENOMEM, ENOSPC, EPERM]).when(1, ALL, libc::EPOLL_CTL_MOD as u32).in_a_set(),
        rule("kcmp", libc::SYS_kcmp, &[EPERM, ENOSYS]),
        rule("kill 0", libc::SYS_kill, &[EPERM]).when(1, ALL, 0),
        rule("prctl PR_GET_NAME", libc::SYS_prctl, &[EPERM]).when(0, ALL, libc::PR_GET_NAME as u32),
        rule("newfstatat", libc::SYS_newfstatat, all),
        rule("mprotect", libc::SYS_mprotect, &[ENOMEM, EACCES]),
        rule("munlock", libc::SYS_munlock, &[ENOMEM, EPERM]),
        rule("sigaltstack", libc::SYS_sigaltstack, &[ENOMEM, EPERM]),
        rule("getrandom", libc::SYS_getrandom, all),
        rule("getpeername", libc::SYS_getpeername, all),
        rule("getsockname", libc::SYS_getsockname, all),
        rule("fstat", libc::SYS_fstat, all),
        rule("openat", libc::SYS_openat, all),
        rule("readlinkat", libc::SYS_readlinkat, all),
        rule("getdents64", libc::SYS_getdents64, all),
        rule("sched_getaffinity", libc::SYS_sched_getaffinity, all),
        rule("sched_yield", libc::SYS_sched_yield, &[EPERM]),
        rule("uname", libc::SYS_uname, &[EPERM]),
        rule("madvise", libc::SYS_madvise, all),
        rule("nanosleep", libc::SYS_nanosleep, &[EPERM, ENOMEM]),
        rule("getrlimit", libc::SYS_getrlimit, &[EPERM]),
        rule("geteuid", libc::SYS_geteuid, &[EPERM]),
        rule("ioctl TIOCOUTQ", libc::SYS_ioctl, all).when(1, ALL, libc::TIOCOUTQ as u32),
        rule("ioctl FIONREAD", libc::SYS_ioctl, all).when(1, ALL, libc::FIONREAD as u32),
        opt("getsockopt SO_COOKIE", libc::SO_COOKIE),
        opt("getsockopt SO_NETNS_COOKIE", 71),
        opt("getsockopt TCP_INFO", libc::TCP_INFO),
        opt("getsockopt TCP_CORK", libc::TCP_CORK),
        opt("getsockopt SO_RCVLOWAT", libc::SO_RCVLOWAT),
        rule("setsockopt SO_PEEK_OFF", libc::SYS_setsockopt, all).when(2, ALL, libc::SO_PEEK_OFF as u32).early(),
        rule("poll", libc::SYS_poll, &[ENOMEM, EINVAL]).when(1, ALL, 1),
        rule("ppoll", libc::SYS_ppoll, &[ENOMEM, EINVAL]).when(1, ALL, 2),
    ]
}

/// Calls for which there is no rule.
const WITHOUT: [(&str, &str); 16] = [
    ("close", "the descriptor is gone whatever it says"),
    ("shutdown", "of a connection that is reset anyway"),
    ("getpid", "cannot fail"),
    ("getppid", "cannot fail"),
    ("gettid", "cannot fail"),
    ("tgkill", "SIGPIPE for the thread itself"),
    (
        "read",
        "of an eventfd, which knows no such error; of files that were opened",
    ),
    ("write", "to an eventfd, likewise"),
    (
        "epoll_pwait",
        "the program's wait, with the kernel's answer",
    ),
    ("epoll_pwait2", "likewise"),
    ("readv", "the program's transfer, with the kernel's answer"),
    ("writev", "likewise"),
    ("preadv", "likewise"),
    ("splice", "likewise"),
    ("lseek", "likewise"),
    (
        "epoll_create1",
        "for what a relative sees from afar, which these programs do not",
    ),
];

/// Each call that the library can make of its own accord, read from where it makes them, has a rule, or a reason why not.
#[test]
fn none_is_left_out() {
    let os = concat!(env!("CARGO_MANIFEST_DIR"), "/../shim/src/os");
    let mut made = BTreeSet::new();
    for file in std::fs::read_dir(os).expect("its sources").flatten() {
        let text = std::fs::read_to_string(file.path()).expect("a source");
        let calls = text.split("libc::SYS_").skip(1);
        let word = |rest: &str| {
            rest.split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
                .map(str::to_owned)
        };
        made.extend(calls.filter_map(word));
    }
    let rules: Vec<_> = rules().into_iter().map(|rule| rule.name).collect();
    let first = |name: &str| name.split([' ', ',']).next().map(str::to_owned);
    let known: BTreeSet<_> = rules.iter().filter_map(|name| first(name)).collect();
    let without: BTreeSet<_> = WITHOUT.iter().map(|(name, _)| (*name).to_owned()).collect();
    let all: BTreeSet<_> = known.union(&without).cloned().collect();
    let left: Vec<_> = made.difference(&all).collect();
    assert!(left.is_empty(), "neither a rule nor a reason: {left:?}");
    let gone: Vec<_> = without.difference(&made).collect();
    assert!(gone.is_empty(), "a reason for what is not made: {gone:?}");
    println!(
        "{} calls: {} with rules ({}), {} without",
        made.len(),
        known.len(),
        rules.len(),
        without.len()
    );
}

/// Puts the fault into a program.
fn faulty(run: Run, rule: &Rule, error: i32, delay: u32) -> Run {
    let libraries = format!(
        "{}:{}",
        artefacts::library().display(),
        ccase::build("inject", &[], "-O1 -shared -fPIC").display()
    );
    run.env("LD_PRELOAD", libraries)
        .env("INJECT", rule.words(error, delay as i32))
}

#[test]
fn each_call_fails() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let program = ccase::compile("talk");
    let (mut runs, mut ran) = (0, 0);
    // In a normal run a third of all, another third each time.
    let turn = std::process::id() as usize % 3;
    for rule in rules() {
        for (i, error) in rule.errors.iter().enumerate() {
            for (at_server, delay) in [(true, 0), (false, 0), (true, 15), (false, 15)] {
                if delay > 0 && !rule.late {
                    continue;
                }
                runs += 1;
                if !full() && (runs + i) % 3 != turn {
                    continue;
                }
                ran += 1;
                let name = format!(
                    "{} error {error} server {at_server} delay {delay}",
                    rule.name
                );
                let port = net::free_port();
                let words = format!("{} {port} 1", rule.server);
                let server = lab.eager(&program).words(&words);
                let client = lab.eager(&program).words(&format!("ask {port} 600 0"));
                let client = client.limit(Duration::from_secs(20));
                let (server, client) = if at_server {
                    (faulty(server, &rule, *error, delay), client)
                } else {
                    (server, faulty(client, &rule, *error, delay))
                };
                let mut server = server.spawn().listening(port);
                let client = client.finish();
                let well = client.success() && client.stdout.ends_with("\nend\n");
                assert!(well, "{name}: {client}");
                if rule.server == "set" {
                    assert!(server.alive(), "{name}: {}", server.stop());
                    server.stop();
                    continue;
                }
                let server = server.finish();
                assert_eq!(server.stdout, "end 0\n", "{name}: {server}");
            }
        }
    }
    lab.assert_clean();
    println!("{ran} of {runs} combinations: 0 lost, 0 hung, 0 crashed");
}

/// Calls of the daemon that want memory, descriptors or rights.
#[rustfmt::skip]
fn rules_of_the_daemon() -> Vec<Rule> {
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
        rule("getsockopt", libc::SYS_getsockopt, &[ENOBUFS]),
        rule("recvmsg", libc::SYS_recvmsg, &[ENOMEM]),
        rule("sendmsg", libc::SYS_sendmsg, &[ENOMEM, ENOBUFS, EMFILE]),
        rule("sendto, to the kernel", libc::SYS_sendto, &[ENOBUFS, EPERM]),
        rule("recvfrom, of the kernel", libc::SYS_recvfrom, &[ENOBUFS]),
        rule("epoll_ctl", libc::SYS_epoll_ctl, &[ENOMEM, ENOSPC]),
        rule("pwrite64", libc::SYS_pwrite64, &[ENOSPC, EIO]),
        rule("pread64", libc::SYS_pread64, &[EIO]),
        rule("io_submit", libc::SYS_io_submit, &[EAGAIN]),
        rule("clone3, of the thread that closes", libc::SYS_clone3, &[EAGAIN]),
        rule("getrandom", libc::SYS_getrandom, &[EPERM]),
    ]
}

/// The same in the daemon, once it serves: the programs lose nothing, and it does not crash, nor
/// use up a processor.
#[test]
fn each_call_of_the_daemon_fails() {
    if plain_only() {
        return;
    }
    let program = ccase::compile("talk");
    let inject = ccase::build("inject", &[], "-O1 -shared -fPIC");
    let preload = format!("LD_PRELOAD={}", inject.display());
    let (mut runs, mut ran) = (0, 0);
    let turn = std::process::id() as usize % 3;
    for rule in rules_of_the_daemon() {
        for error in rule.errors {
            runs += 1;
            if !full() && runs % 3 != turn {
                continue;
            }
            ran += 1;
            let name = format!("{} error {error}", rule.name);
            let words = format!("INJECT={}", rule.words(*error, -1));
            let metrics = format!("127.0.0.1:{}", net::free_port());
            let prefix = ["env", &preload, &words];
            let mut lab = Lab::start_through(&prefix, &["--metrics", &metrics]);
            let daemon = lab.daemon().expect("a daemon").pid();
            let status = format!("/proc/{daemon}/status");
            let filtered = || {
                let text = std::fs::read_to_string(&status).unwrap_or_default();
                text.contains("Seccomp:\t2")
            };
            lab.daemon().expect("a daemon").signal(libc::SIGUSR2);
            assert!(net::wait_until(Duration::from_secs(20), filtered), "{name}");
            // Somebody asks at the metrics port, whom it may be unable to take.
            let asks = std::net::TcpStream::connect(&metrics).expect("a backlog");
            let sleeps = net::wait_until(Duration::from_secs(10), || process::sleeps(daemon));
            assert!(sleeps, "{name}: the daemon does not sleep");
            drop(asks);
            for _ in 0..2 {
                let port = net::free_port();
                let server = lab.eager(&program).words(&format!("serve {port} 1"));
                let server = server.spawn().listening(port);
                let client = lab.eager(&program).words(&format!("ask {port} 300 0"));
                let client = client.finish();
                let well = client.success() && client.stdout.ends_with("\nend\n");
                assert!(well, "{name}: {client}");
                let server = server.finish();
                assert_eq!(server.stdout, "end 0\n", "{name}: {server}");
            }
            // Who turns round and round is never seen asleep.
            let sleeps = net::wait_until(Duration::from_secs(10), || process::sleeps(daemon));
            let daemon = lab.daemon().expect("a daemon");
            assert!(daemon.alive(), "{name}: {}", daemon.stderr());
            assert!(
                !daemon.stderr().contains("panicked"),
                "{name}: {}",
                daemon.stderr()
            );
            assert!(sleeps, "{name}: the daemon does not sleep");
        }
    }
    println!("{ran} of {runs} combinations in the daemon: 0 lost, 0 hung, 0 crashed");
}
