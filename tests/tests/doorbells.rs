//! Doorbells in the hands of a peer that means harm, and where they cannot be timers.

use daemon::ringer::set_ticks;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use protocol::ctl::hello;
use protocol::ids::Role;
use protocol::reason;
use std::io::IoSlice;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use tests::inject::injector;
use tests::peer::link::{Ended, Ping};
use tests::peer::{Fault, Link, Session, Stage};
use tests::{Lab, Run, Running, Stats, artefacts, ccase, net, plain_only, process};

/// What is left for the kernel to say of TFD_IOC_SET_TICKS without CONFIG_CHECKPOINT_RESTORE, see `inject.c`.
fn without_timers(run: Run) -> Run {
    let libraries = format!(
        "{}:{}",
        artefacts::library().display(),
        injector().display()
    );
    let words = format!("{} 1 ffffffff 40085400 {} 0", libc::SYS_ioctl, libc::ENOTTY);
    run.env("LD_PRELOAD", libraries).env("INJECT", words)
}

fn talk(lab: &Lab, eventfds: bool, words: &str) -> Running {
    let run = lab.eager(ccase::compile("talk")).words(words);
    // Each step is a ring.
    let run = run.env("SMCLO_SPIN_US", "0");
    let run = if eventfds { without_timers(run) } else { run };
    run.limit(Duration::from_secs(300)).spawn()
}

fn nonblocking(fd: RawFd, on: bool) {
    let flags = if on { libc::O_NONBLOCK } else { 0 };
    // SAFETY: no pointers.
    unsafe { libc::fcntl(fd, libc::F_SETFL, flags) };
}

fn read(fd: RawFd) {
    let mut count = [0_u8; 8];
    // SAFETY: eight bytes of this frame.
    unsafe { libc::read(fd, count.as_mut_ptr().cast(), 8) };
}

fn write(fd: RawFd, count: u64) {
    // SAFETY: eight bytes of this frame.
    unsafe { libc::write(fd, count.to_ne_bytes().as_ptr().cast(), 8) };
}

fn arm(fd: RawFd, flags: i32, first: (i64, i64), again: i64) {
    let time = |(tv_sec, tv_nsec)| libc::timespec { tv_sec, tv_nsec };
    let times = libc::itimerspec {
        it_value: time(first),
        it_interval: time((0, again)),
    };
    // SAFETY: lives in this frame.
    unsafe { libc::timerfd_settime(fd, flags, &raw const times, std::ptr::null_mut()) };
}

type Way = fn(BorrowedFd<'_>);

/// What a peer can do to the file of a doorbell, of either kind; what does not fit fails.
const WAYS: [(&str, Way); 8] = [
    ("as it is", |_| {}),
    ("full, then blocking", |bell| fill(bell, false)),
    ("full", |bell| fill(bell, true)),
    ("blocking and empty", |bell| {
        empty(bell.as_raw_fd());
        nonblocking(bell.as_raw_fd(), false);
    }),
    ("running, blocking", |bell| {
        nonblocking(bell.as_raw_fd(), false);
        arm(bell.as_raw_fd(), 0, (0, 1), 1);
    }),
    ("running far from now", |bell| {
        nonblocking(bell.as_raw_fd(), false);
        arm(bell.as_raw_fd(), 0, (i64::MAX, 0), i64::MAX % 1_000_000_000);
    }),
    ("canceled by the clock", |bell| {
        let flags = libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET;
        arm(bell.as_raw_fd(), flags, (i64::MAX, 0), 0);
        nonblocking(bell.as_raw_fd(), false);
    }),
    ("silenced", |bell| {
        empty(bell.as_raw_fd());
        arm(bell.as_raw_fd(), 0, (0, 0), 0);
    }),
];

fn empty(fd: RawFd) {
    nonblocking(fd, true);
    read(fd);
}

fn fill(bell: BorrowedFd<'_>, nonblock: bool) {
    empty(bell.as_raw_fd());
    write(bell.as_raw_fd(), u64::MAX - 1);
    let _ = set_ticks(bell, u64::MAX);
    nonblocking(bell.as_raw_fd(), nonblock);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Timer,
    Clock,
    Eventfd,
}

impl Kind {
    fn make(self) -> OwnedFd {
        let timer = |clock| TimerFd::new(clock, TimerFlags::TFD_NONBLOCK).expect("a timer");
        match self {
            Kind::Timer => timer(ClockId::CLOCK_MONOTONIC).as_fd().try_clone_to_owned(),
            Kind::Clock => timer(ClockId::CLOCK_REALTIME).as_fd().try_clone_to_owned(),
            Kind::Eventfd => Ok(EventFd::from_flags(EfdFlags::EFD_NONBLOCK)
                .expect("an eventfd")
                .into()),
        }
        .expect("a copy")
    }
}

/// Gives the other end a doorbell for our context `number`, which sleeps and watches the connection from now on.
fn announce(link: &Link, session: &Session, number: u64, bell: BorrowedFd<'_>) {
    let (fds, name) = ([bell.as_raw_fd()], number.to_ne_bytes());
    let channel = link.pair.group.channel.as_raw_fd();
    let sent = sendmsg::<()>(
        channel,
        &[IoSlice::new(&name)],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    );
    sent.expect("room in the channel");
    fall_asleep(session, number, 1);
    link.pair.peer().watchers[0].store(number + 1, Relaxed);
}

fn fall_asleep(session: &Session, number: u64, epoch: u64) {
    let asleep = (epoch << 16 | 1).to_ne_bytes();
    let done = session.wait_page.write_all_at(&asleep, number * 64);
    done.expect("a page of our own");
}

/// Whether it is rung within ten seconds.
fn is_rung(bell: BorrowedFd<'_>) -> bool {
    let mut one = [PollFd::new(bell, PollFlags::POLLIN)];
    poll(&mut one, PollTimeout::from(10_000_u16)).expect("a descriptor") == 1
}

/// Whether a client goes on that says how far it is.
fn goes_on(other: &Running) -> bool {
    let at = other.stdout().len();
    net::wait_until(Duration::from_secs(10), || other.stdout().len() > at)
}

/// How many ways were tried, and in how many of them the program under the library did nothing for others any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    tried: u32,
    hung: u32,
}

/// The peer's own doorbells, with which the program has rung it once: spoiled, then to be rung again.
fn own(link: &mut Link, session: &Session, eventfds: bool, other: &Running) -> Count {
    let (mut count, mut kept) = (Count::default(), Vec::new());
    let kinds = [Kind::Timer, Kind::Clock, Kind::Eventfd];
    let all = kinds.iter().flat_map(|kind| WAYS.map(|way| (*kind, way)));
    for (number, (kind, (name, spoil))) in (0..).zip(all) {
        let bell = kind.make();
        announce(link, session, number, bell.as_fd());
        link.exchange_on_rings(800);
        let fits = (kind == Kind::Eventfd) == eventfds;
        assert!(!fits || is_rung(bell.as_fd()), "{kind:?} {name}");
        spoil(bell.as_fd());
        fall_asleep(session, number, 2);
        link.send_ring(&[7; 800]);
        count.tried += 1;
        if !(goes_on(other) && goes_on(other)) {
            count.hung += 1;
            println!("hung: {kind:?} {name}");
            return count;
        }
        link.recv_all(&mut [0; 800]);
        // Also by its end.
        if number % 2 == 0 {
            kept.push(bell);
        }
    }
    count
}

/// The program's doorbell, which rings for other peers as well: spoiled without a pause.
fn theirs(link: &Link, other: &Running) -> Count {
    let (over, tried) = (AtomicBool::new(false), AtomicU32::new(0));
    let bells = link.pair.group.bells();
    assert!(!bells.is_empty());
    let went_on = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                for (_, spoil) in WAYS {
                    bells.iter().for_each(|bell| spoil(bell.as_fd()));
                    tried.fetch_add(1, Relaxed);
                }
            }
        });
        let first = || tried.load(Relaxed) != 0;
        assert!(net::wait_until(Duration::from_secs(60), first));
        let steps = (0..5).take_while(|_| goes_on(other)).count();
        over.store(true, Relaxed);
        steps
    });
    Count {
        tried: tried.into_inner(),
        hung: u32::from(went_on < 5),
    }
}

/// A server with one loop for all, another client of it, and a peer: root's, or of the user `uid`.
fn spoil_all(uid: Option<u32>, eventfds: bool) -> Count {
    let lab = match uid {
        Some(uid) => Lab::start_for_all(&format!("trust = [[0, {uid}]]")),
        None => Lab::start(),
    };
    let port = net::free_port();
    let mut victim = talk(&lab, eventfds, &format!("events {port}")).listening(port);
    let other = talk(&lab, eventfds, &format!("pump {port} 500"));
    let fast = || lab.stats().smc_bytes() > 1 << 20;
    assert!(net::wait_until(Duration::from_secs(60), fast), "on a ring");
    let peer = || {
        let flags = if eventfds { hello::EVENTFDS } else { 0 };
        let mut session = Session::join_with(&lab.socket(), flags);
        let tcp = TcpStream::connect(("127.0.0.1", port)).expect("a server");
        let mut link = Link::open(&mut session, tcp, Role::Client).expect("a pair");
        let ended = link.handshake(&mut Ping::default(), Stage::Proposal, &Fault::None);
        assert_eq!(ended, Ended::Established);
        link.exchange_on_rings(50_000);
        let count = own(&mut link, &session, eventfds, &other);
        if count.hung != 0 {
            return count;
        }
        let more = theirs(&link, &other);
        Count {
            tried: count.tried + more.tried,
            hung: more.hung,
        }
    };
    let count = match uid {
        Some(uid) => process::as_user(uid, peer),
        None => peer(),
    };
    println!("uid {uid:?}, eventfds {eventfds}: {count:?}");
    if count.hung == 0 {
        assert!(goes_on(&other), "{}", other.stdout());
        assert!(victim.alive());
        victim.stop();
        let said = other.finish();
        assert!(said.stdout.contains("\nend "), "{said}");
        assert!(!said.stdout.contains("differs"), "{said}");
        lab.assert_clean();
    }
    count
}

#[test]
fn a_spoiled_doorbell_makes_nobody_wait() {
    if !plain_only() {
        assert_eq!(spoil_all(None, false).hung, 0);
    }
}

#[test]
fn nor_does_one_of_another_user() {
    if !plain_only() && process::is_root() {
        assert_eq!(spoil_all(Some(65534), false).hung, 0);
    }
}

/// Where doorbells are eventfds, as docs/security.md says; and the two above would tell.
#[test]
fn an_eventfd_does() {
    if !plain_only() {
        assert_eq!(spoil_all(None, true).hung, 1);
    }
}

/// Programs that cannot have timers wake each other all the same; one that can and one that cannot stay on TCP.
#[test]
fn without_timers_in_both_or_one() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    for (server, client) in [(true, true), (true, false), (false, true)] {
        let (before, port) = (lab.settled(), net::free_port());
        let serves = talk(&lab, server, &format!("serve {port} 1")).listening(port);
        let asks = talk(&lab, client, &format!("ask {port} 3000 0"));
        let said = asks.finish().ok();
        assert!(said.ends_with("\nend\n"), "{said}");
        assert_eq!(serves.finish().ok(), "end 0\n");
        let after = lab.settled();
        let share = after.share_smc(&before);
        match server == client {
            true => assert!(share > 0.5, "{share}: {}", after.raw),
            false => assert!(after.fallbacks(reason::SANDBOX) > 0, "{}", after.raw),
        }
    }
    lab.assert_clean();
    assert!(lab.settled().share_smc(&Stats::zero()) > 0.0);
}
