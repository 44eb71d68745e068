//! Two users at one daemon. Needs root to become another user; else there is nothing to test.

mod support;

use daemon::client::{AskError, Connection};
use daemon::report;
use nix::errno::Errno;
use protocol::ctl::{Refused, Verb};
use protocol::ids::Role;
use protocol::reason;
use protocol::stats::{Mode, Row};
use std::mem::offset_of;
use support::{Client, Daemon, Files, Tcp, raw_socket};

const NOBODY: u32 = 65534;

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Runs in a thread of another user: the raw call changes this thread only.
fn as_nobody<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            // SAFETY: plain system call on integers.
            let done = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
            assert_eq!(done, 0);
            act()
        });
        other.join().unwrap()
    })
}

#[test]
fn ends_of_different_users_are_not_paired() {
    if !is_root() {
        return;
    }
    let daemon = Daemon::start(|_| {});
    let root = Client::new(&daemon);
    let (other, accepted) = as_nobody(|| (Client::new(&daemon), Tcp::new()));
    // Both ends of this connection belong to nobody; root may claim either.
    root.send(&accepted.claim(Role::Client, 1));
    daemon.wait_for::<report::Stats>(Verb::Stats, |s| s.claims_waiting == 1);
    other.send(&accepted.claim(Role::Server, 2));
    for (end, claim) in [(&root, 1), (&other, 2)] {
        let reason = reason::OTHER_UID;
        assert_eq!(end.get::<Refused>(), Refused { claim, reason });
    }
}

#[test]
fn nobody_claims_the_socket_of_another_user() {
    if !is_root() {
        return;
    }
    let daemon = Daemon::start(|_| {});
    let other = as_nobody(|| Client::new(&daemon));
    other.send(&Tcp::new().claim(Role::Client, 1));
    assert_eq!(other.get::<Refused>().reason, reason::NOT_VERIFIED);
}

#[test]
fn the_tool_shows_and_lets_change_only_what_is_ones_own() {
    if !is_root() {
        return;
    }
    let daemon = Daemon::start(|_| {});
    let (roots, others) = (Files::new(), as_nobody(Files::new));
    for files in [&roots, &others] {
        let mode = (Mode::Tcp as u32).to_ne_bytes();
        files.row(0, &[(offset_of!(Row, mode), &mode)]);
    }
    let _root = Client::join(&daemon, &roots, "root");
    let _other = as_nobody(|| Client::join(&daemon, &others, "other"));
    let ask = |verb| {
        Connection::open(&daemon.path)
            .unwrap()
            .ask(verb, [b' '; 32])
    };
    let mine = as_nobody(|| ask(Verb::Ss)).unwrap();
    let mine: Vec<report::Connection> = serde_json::from_slice(&mine).unwrap();
    assert_eq!(
        (mine.len(), mine[0].uid, &*mine[0].program),
        (1, NOBODY, "other")
    );
    assert_eq!(daemon.ask::<Vec<report::Connection>>(Verb::Ss).len(), 2);
    for verb in [Verb::StatsReset, Verb::SeidEnable, Verb::UeidAdd] {
        let refused = as_nobody(|| ask(verb));
        assert!(matches!(refused, Err(AskError::Refused(Errno::EPERM))));
    }
    assert!(as_nobody(|| ask(Verb::Stats)).is_ok());
}

/// What one user uses up is not taken from another.
#[test]
fn limits_are_of_each_user() {
    if !is_root() {
        return;
    }
    let daemon = Daemon::start(|c| {
        c.max_dmbs_per_uid = 2;
        c.max_claims_per_second = 40;
    });
    let (greedy, others) = as_nobody(|| {
        let ends = [(); 2].map(|()| Client::new(&daemon));
        let links = [(); 2].map(|()| Tcp::new());
        for (number, link) in links.iter().enumerate() {
            let number = number as u64;
            ends[0].send(&link.claim(Role::Client, number));
            ends[1].send(&link.claim(Role::Server, number));
        }
        (ends, links)
    });
    for end in &greedy {
        assert_eq!(end.get::<protocol::ctl::Paired>().claim, 0);
        let (claim, reason) = (1, reason::MAX_DMB);
        assert_eq!(end.get::<Refused>(), Refused { claim, reason });
    }
    drop(others);
    // Claims without end: all but a few are refused before the kernel is asked.
    let wrong = protocol::ctl::Claim {
        cookie: 1,
        ..Tcp::new().claim(Role::Client, 7)
    };
    for _ in 0..400 {
        greedy[0].send(&wrong);
    }
    let mut busy = 0;
    for _ in 0..400 {
        busy += u32::from(greedy[0].get::<Refused>().reason == reason::DAEMON_BUSY);
    }
    assert!(busy > 100, "only {busy} refused");
    // Root is another user, and is served.
    let (a, b, link) = (Client::new(&daemon), Client::new(&daemon), Tcp::new());
    a.send(&link.claim(Role::Client, 1));
    b.send(&link.claim(Role::Server, 1));
    let _: protocol::ctl::Paired = a.get();
    let _: protocol::ctl::Paired = b.get();
}

/// Sessions that say nothing: each costs a descriptor, and of those one user gets half at most.
#[test]
fn sessions_are_left_for_others() {
    if !is_root() {
        return;
    }
    let daemon = Daemon::start(|_| {});
    let silent = as_nobody(|| (0..300).map(|_| raw_socket(&daemon)).collect::<Vec<_>>());
    let info: report::Info = daemon.ask(Verb::Info);
    assert!(
        (50..=65).contains(&info.sessions),
        "{} sessions",
        info.sessions
    );
    drop(silent);
    daemon.wait_for::<report::Info>(Verb::Info, |i| i.sessions == 1);
}
