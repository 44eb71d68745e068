//! System calls that fail: each one that the library makes for itself, with each error that fits, from
//! the start of the program or in the middle, at either end. The programs notice nothing: every byte arrives, over TCP
//! where it must. That the calls are made at all is looked at as well. The daemon's: `injected_daemon`.

use std::collections::BTreeSet;
use std::time::Duration;
use tests::ccase::Carrier;
use tests::inject::{Rule, faulty, rule};
use tests::{Lab, Outcome, ccase, full, net, plain_only};

use libc::{EACCES, EAGAIN, EINVAL, EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSPC, ENOSYS, ENOTTY};
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
        rule("munmap", libc::SYS_munmap, &[ENOMEM, EINVAL]).copying(),
        rule("timerfd_create", libc::SYS_timerfd_create, &[ENOMEM, EMFILE, ENFILE, EPERM, ENOSYS]),
        rule("timerfd_settime", libc::SYS_timerfd_settime, &[ENOSYS, EPERM]),
        rule("timerfd_gettime", libc::SYS_timerfd_gettime, &[ENOSYS, EPERM]),
        rule("ioctl TFD_IOC_SET_TICKS", libc::SYS_ioctl, &[ENOTTY, ENOSYS, EPERM]).when(1, ALL, 0x4008_5400),
        rule("socket of the session", libc::SYS_socket, &[ENOMEM, EMFILE, ENFILE, EACCES]).when(0, ALL, libc::AF_UNIX as u32),
        // With descriptors; the program's bytes come without this flag.
        rule("recvmsg", libc::SYS_recvmsg, all).when(2, cloexec, cloexec).early(),
        // Only the paths of the daemon are so long, and what is sent without waiting is the library's.
        rule("connect of the session", libc::SYS_connect, &[ENOMEM, EAGAIN, EACCES, EPERM]).when(2, 32, 32),
        rule("sendmsg with descriptors", libc::SYS_sendmsg, &[ENOMEM, ENOBUFS, ETOOMANYREFS, EPERM]).when(2, ALL, quiet).early(),
        rule("sendto of a message", libc::SYS_sendto, &[ENOMEM, ENOBUFS, EAGAIN]).when(3, ALL, quiet),
        rule("recvfrom, a look ahead", libc::SYS_recvfrom, all).when(3, ALL, look).resetting(),
        rule("epoll_create1 of a bed", libc::SYS_epoll_create1, &[ENOMEM, EMFILE, ENFILE, EPERM]),
        rule("epoll_ctl of a bed", libc::SYS_epoll_ctl, &[ENOMEM, ENOSPC, EPERM]).when(1, ALL, libc::EPOLL_CTL_ADD as u32),
        rule("epoll_wait in a bed", libc::SYS_epoll_wait, &[ENOMEM, EPERM, EINVAL]),
        rule("epoll_ctl of a registration", libc::SYS_epoll_ctl, &[ENOMEM, ENOSPC, EPERM]).when(1, ALL, libc::EPOLL_CTL_MOD as u32).of("set"),
        rule("kcmp", libc::SYS_kcmp, &[EPERM, ENOSYS]).in_case("python3", COMES_BACK),
        rule("kill 0", libc::SYS_kill, &[EPERM]).when(1, ALL, 0).in_case("process", "child_serves"),
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
        rule("uname", libc::SYS_uname, &[EPERM]),
        rule("madvise", libc::SYS_madvise, all),
        rule("getrlimit", libc::SYS_getrlimit, &[EPERM]),
        rule("ioctl TIOCOUTQ", libc::SYS_ioctl, all).when(1, ALL, libc::TIOCOUTQ as u32),
        rule("ioctl FIONREAD", libc::SYS_ioctl, all).when(1, ALL, libc::FIONREAD as u32),
        opt("getsockopt SO_COOKIE", libc::SO_COOKIE),
        opt("getsockopt SO_NETNS_COOKIE", 71),
        opt("getsockopt TCP_INFO", libc::TCP_INFO),
        opt("getsockopt TCP_CORK", libc::TCP_CORK),
        opt("getsockopt SO_RCVLOWAT", libc::SO_RCVLOWAT),
        rule("setsockopt SO_PEEK_OFF", libc::SYS_setsockopt, all).when(2, ALL, libc::SO_PEEK_OFF as u32).early(),
        rule("poll", libc::SYS_poll, &[ENOMEM, EINVAL]).when(1, ALL, 1).of("events"),
        rule("ppoll", libc::SYS_ppoll, &[ENOMEM, EINVAL]).when(1, ALL, 2),
    ]
}

/// A connection on the ring is passed on and comes back, under another number.
const COMES_BACK: &str = "import socket
listener = socket.create_server(('127.0.0.1', 0))
a = socket.create_connection(listener.getsockname())
b = listener.accept()[0]
def talk(a, b):
    for i in range(300):
        out = bytes([i & 255]) * (1 + i * 7)
        a.sendall(out)
        left = len(out)
        while left:
            got = b.recv(left)
            assert got and got == out[:len(got)]
            left -= len(got)
        a, b = b, a
talk(a, b)
x, y = socket.socketpair()
socket.send_fds(x, [b'x'], [a.fileno()])
talk(a, b)
c = socket.socket(fileno=socket.recv_fds(y, 1, 1)[1][0])
talk(a, b)
talk(c, b)
print('well')";

/// Calls for which there is no rule.
const WITHOUT: [(&str, &str); 19] = [
    ("close", "the descriptor is gone whatever it says"),
    ("shutdown", "of a connection that is reset anyway"),
    ("geteuid", "cannot fail"),
    ("nanosleep", "between two looks, whatever it says"),
    ("pselect6", "where poll is refused"),
    ("getpid", "cannot fail"),
    ("getppid", "cannot fail"),
    ("gettid", "cannot fail"),
    ("tgkill", "SIGPIPE for the thread itself"),
    (
        "read",
        "of a doorbell that cannot be silenced otherwise; of files that were opened",
    ),
    ("write", "to an eventfd, see doorbells.rs"),
    ("eventfd2", "where there are no timers, likewise"),
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
    // Made by way of libc, which is a point of cancellation.
    made.insert("epoll_wait".to_owned());
    let gone: Vec<_> = all.difference(&made).collect();
    assert!(gone.is_empty(), "what is not made: {gone:?}");
    println!(
        "{} calls: {} with rules ({}), {} without",
        made.len(),
        known.len(),
        rules.len(),
        without.len()
    );
}

/// A server and a client of `talk`, with the fault in one of them.
struct Faulted<'a> {
    lab: &'a Lab,
    rule: &'a Rule,
    place: Place,
}

/// At the server, and after how many milliseconds.
type Place = (bool, u32);

/// Where a rule is tried. A program of its own is one process, from its start.
fn places(rule: &Rule) -> impl Iterator<Item = Place> {
    let all = [(false, 0), (true, 0), (false, 15), (true, 15)];
    let (late, count) = (rule.late, if rule.case.is_some() { 1 } else { all.len() });
    let tried = all.into_iter().take(count);
    tried.filter(move |(_, delay)| late || *delay == 0)
}

impl Faulted<'_> {
    /// Server and client, and whether nothing went wrong. 0 for the error: the end of who makes the call.
    fn run(&self, error: i32) -> (Option<Outcome>, Outcome, bool) {
        let (lab, rule, port) = (self.lab, self.rule, net::free_port());
        let (at_server, delay) = self.place;
        let program = ccase::compile("talk");
        let run = |words: String, faulted: bool| {
            let run = lab.eager(&program).words(&words).mode(rule.mode);
            match faulted {
                true => faulty(run, rule, error, delay),
                false => run,
            }
        };
        let server = run(format!("{} {port} 1", rule.server), at_server);
        let mut server = server.spawn();
        if !server.comes_up(port) {
            return (None, server.stop(), false);
        }
        // As many that it can be met on a busy machine, too.
        let count = if error == 0 { 3000 } else { 600 };
        let client = run(format!("ask {port} {count} 0"), !at_server);
        let client = client.limit(Duration::from_secs(20)).finish();
        let good = client.success() && client.stdout.ends_with("\nend\n");
        // It ends with its connection; but who was killed may never have had one.
        let ends = rule.server == "serve" && (at_server || error != 0);
        let alive = server.alive();
        let server = if ends { server.finish() } else { server.stop() };
        let served = if ends {
            server.stdout == "end 0\n"
        } else {
            alive
        };
        let told = rule.resets && !client.timed_out && !client.stdout.contains("differs");
        (Some(client), server, good && served || told)
    }
}

#[track_caller]
fn fault_in_case(lab: &Lab, rule: &Rule, (program, case): (&str, &str), error: i32) {
    let dress = |run| faulty(run, rule, error, 0);
    if program == "python3" {
        let run = dress(lab.eager(program).args(["-c", case]));
        assert_eq!(run.finish().ok(), "well\n", "{} {error}", rule.name);
    } else {
        ccase::compare_with(ccase::compile(program), case, Carrier::Any, dress);
    }
}

#[test]
fn each_call_fails() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let (mut runs, mut ran, mut bad) = (0, 0, Vec::new());
    // In a normal run a third of all, another third each time.
    let turn = std::process::id() as usize % 3;
    for rule in rules() {
        for (i, error) in rule.errors.iter().enumerate() {
            for place in places(&rule) {
                runs += 1;
                if !full() && (runs + i) % 3 != turn {
                    continue;
                }
                ran += 1;
                if let Some(case) = rule.case {
                    fault_in_case(&lab, &rule, case, *error);
                    continue;
                }
                let (lab, rule) = (&lab, &rule);
                let faulted = Faulted { lab, rule, place };
                if let (client, server, false) = faulted.run(*error) {
                    let client = client.map_or("none".to_owned(), |c| c.to_string());
                    let name = format!("{} error {error}, {place:?}", rule.name);
                    bad.push(format!("{name}: {client}\n{server}"));
                }
            }
        }
    }
    lab.assert_clean();
    println!("{ran} of {runs} combinations, {} went wrong", bad.len());
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// Each rule is about a call that these programs make, at one end at least: here it is the end of who makes it. Of
/// a rule that is never met, nothing is shown by the test above.
#[test]
fn each_call_is_made() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let (mut tried, mut met, mut never) = (0, 0, Vec::new());
    for rule in rules() {
        let mut at = Vec::new();
        for place in places(&rule) {
            if !at.is_empty() && !full() {
                continue;
            }
            tried += 1;
            let killed = |end: &Outcome| end.signal() == Some(libc::SIGSYS);
            let made = if let Some((program, case)) = rule.case {
                // Of several processes perhaps one, and the others say that something is wrong.
                let run = || match program {
                    "python3" => lab.eager(program).args(["-c", case]),
                    _ => lab.eager(ccase::compile(program)).arg(case),
                };
                let run = || run().limit(Duration::from_secs(10));
                run().finish().success() && !faulty(run(), &rule, 0, 0).finish().success()
            } else {
                let (lab, rule) = (&lab, &rule);
                let faulted = Faulted { lab, rule, place };
                let (client, server, _) = faulted.run(0);
                killed(&server) || client.is_some_and(|client| killed(&client))
            };
            if made {
                at.push(place);
            }
        }
        met += at.len();
        println!("{}: {at:?}", rule.name);
        if at.is_empty() {
            never.push(rule.name);
        }
    }
    println!("{} rules, made in {met} of {tried} places", rules().len());
    assert!(never.is_empty(), "never made: {never:?}");
}
