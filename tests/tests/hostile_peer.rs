//! A peer that speaks the real handshake and then does what it likes with all that it got: shared
//! words, rings, doorbells, channel. Its own connection may suffer; the program under the shim, the
//! program's other connections, and the daemon go on.

use daemon::ringer::set_ticks;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use protocol::ctl::{Release, Withdraw};
use protocol::ids::Role;
use protocol::reason;
use protocol::shm::cdc::Cursor;
use protocol::shm::pair::{Carrier, Direction};
use protocol::shm::wait;
use std::io::{IoSlice, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use tests::peer::link::{Ended, Ping};
use tests::peer::{Fault, Link, Session, Stage, memory};
use tests::stream::Stream;
use tests::{Lab, Running, Stats, ccase, net, plain_only, process, rounds};

/// A program under the shim that echoes on many connections at once.
struct Victim {
    program: Running,
    port: u16,
}

fn victim(lab: &Lab, how: &str) -> Victim {
    let port = net::free_port();
    let program = lab.eager(ccase::compile("talk"));
    let program = program
        .words(&format!("{how} {port}"))
        .limit(Duration::from_secs(300));
    Victim {
        program: program.spawn().listening(port),
        port,
    }
}

/// A decent client of the same program, which checks each byte of what comes back.
fn bystander(lab: &Lab, port: u16, exchanges: usize) -> Running {
    let program = lab.eager(ccase::compile("talk"));
    let client = program.words(&format!("ask {port} {exchanges} 0"));
    client.limit(Duration::from_secs(120)).spawn()
}

fn established(session: &mut Session, port: u16) -> Link {
    let tcp = TcpStream::connect(("127.0.0.1", port)).expect("a server");
    let mut link = Link::open(session, tcp, Role::Client).expect("a pair");
    let ended = link.handshake(&mut Ping::default(), Stage::Proposal, &Fault::None);
    assert_eq!(ended, Ended::Established);
    link
}

type Attack = fn(&mut Link, &mut Session, &mut Stream);

const ATTACKS: [(&str, Attack); 16] = [
    ("every word random", every_word),
    ("one word after the other", single_words),
    ("cursors back and forth", cursors),
    ("wild wraps", wraps),
    ("flags", flags),
    ("direction words", directions),
    ("gates", gates),
    ("watchers that there are not", watchers),
    ("doorbell storm", doorbell_storm),
    ("never reading", never_reading),
    ("odd messages on the channel", odd_channel_messages),
    ("wrong descriptors on the channel", wrong_descriptors),
    ("saturated doorbells", saturated_doorbells),
    ("wait page that always sleeps", sleepless_wait_page),
    ("bytes on TCP while the ring carries", both_carriers),
    ("counts that lie", lying_counts),
];

fn word(random: &mut Stream) -> u64 {
    random.below(1 << 48) << 16 ^ random.below(1 << 48)
}

fn every_word(link: &mut Link, _: &mut Session, random: &mut Stream) {
    for _ in 0..50 {
        for place in link.pair.words() {
            place.store(word(random), Relaxed);
        }
        link.wake();
    }
}

fn single_words(link: &mut Link, _: &mut Session, random: &mut Stream) {
    for _ in 0..20 {
        let words = link.pair.words();
        let place = words[random.below(words.len() as u64) as usize];
        let small = random.below(5);
        let value = if random.below(2) == 0 {
            small
        } else {
            word(random)
        };
        place.store(value, Relaxed);
        link.wake();
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn cursor(wrap: u64, count: u64) -> u64 {
    let (wrap, count) = (wrap as u16, count as u32);
    Cursor { wrap, count }.word(0)
}

fn cursors(link: &mut Link, _: &mut Session, random: &mut Stream) {
    for _ in 0..200 {
        let header = link.pair.peer();
        let at = cursor(0, random.below(300_000));
        let place = if random.below(2) == 0 {
            &header.producer
        } else {
            &header.consumer
        };
        place.store(at, Relaxed);
        link.wake();
    }
}

fn wraps(link: &mut Link, _: &mut Session, random: &mut Stream) {
    for _ in 0..200 {
        let at = cursor(random.below(1 << 16), random.below(1 << 32));
        link.pair.peer().producer.store(at, Relaxed);
        let at = cursor(random.below(1 << 16), random.below(1 << 32));
        link.pair.peer().consumer.store(at, Relaxed);
        link.wake();
    }
}

fn flags(link: &mut Link, _: &mut Session, random: &mut Stream) {
    for _ in 0..100 {
        let word = Cursor::default().word(random.below(1 << 16) as u16);
        link.pair.peer().consumer.store(word, Relaxed);
        link.wake();
        std::thread::sleep(Duration::from_micros(100));
    }
}

fn directions(link: &mut Link, _: &mut Session, random: &mut Stream) {
    const CARRIERS: [Carrier; 7] = [
        Carrier::Tcp,
        Carrier::Ring,
        Carrier::Final,
        Carrier::Frozen,
        Carrier::Repeating,
        Carrier::Twice,
        Carrier::TwiceAll,
    ];
    for _ in 0..200 {
        let direction = Direction {
            generation: random.below(4) as u16,
            carrier: CARRIERS[random.below(7) as usize],
            position: random.below(100),
        };
        link.pair.words()[random.below(2) as usize].store(direction.word(), Relaxed);
        link.wake();
    }
}

fn gates(link: &mut Link, _: &mut Session, random: &mut Stream) {
    for _ in 0..200 {
        link.pair.words()[2 + random.below(2) as usize].store(random.below(6), Relaxed);
        let _ = link.tcp.write_all(b"some more");
        link.wake();
    }
}

fn watchers(link: &mut Link, session: &mut Session, random: &mut Stream) {
    sleepless_wait_page(link, session, random);
    for place in &link.pair.peer().watchers {
        place.store(word(random), Relaxed);
    }
    link.pair.peer().cpu.store(u32::MAX, Relaxed);
    let _ = link.tcp.write_all(&[1; 1000]);
}

fn doorbell_storm(link: &mut Link, _: &mut Session, _: &mut Stream) {
    for _ in 0..20_000 {
        link.wake();
    }
}

fn never_reading(link: &mut Link, _: &mut Session, _: &mut Stream) {
    link.switch();
    link.send_ring(&[5; 60_000]);
    // The echo fills the ring that way; then this one fills up too.
    std::thread::sleep(Duration::from_millis(150));
}

/// A message on the channel, with descriptors.
fn announce(link: &Link, bytes: &[u8], fds: &[i32]) {
    let rights = [ControlMessage::ScmRights(fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    let channel = link.pair.group.channel.as_raw_fd();
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let _ = sendmsg::<()>(channel, &[IoSlice::new(bytes)], control, flags, None);
}

fn odd_channel_messages(link: &mut Link, session: &mut Session, random: &mut Stream) {
    let fd = link.tcp.as_raw_fd();
    for len in [8, 0, 1, 7, 9, 64, 1000, 8] {
        let mut bytes = vec![0; len];
        random.fill(&mut bytes[..len / 8 * 8]);
        announce(link, &bytes, &[]);
        announce(link, &bytes, &[fd]);
        announce(link, &bytes, &[fd; 30]);
    }
    for _ in 0..500 {
        announce(link, &0_u64.to_ne_bytes(), &[fd]);
    }
    watchers(link, session, random);
}

fn pipe_that_blocks() -> [OwnedFd; 2] {
    let mut fds = [0; 2];
    // SAFETY: two places for two descriptors.
    assert_eq!(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    // SAFETY: pipe2 has just made them.
    let [reader, writer] = fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    // SAFETY: descriptors of ours, a buffer of this frame.
    unsafe {
        libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK);
        while libc::write(writer.as_raw_fd(), [0; 4096].as_ptr().cast(), 4096) > 0 {}
        libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, 0);
    }
    [reader, writer]
}

/// As doorbells of all contexts: what would block, or do something else.
fn wrong_descriptors(link: &mut Link, session: &mut Session, random: &mut Stream) {
    let [_reader, full] = pipe_that_blocks();
    let file = std::fs::File::open("/dev/zero").expect("a device");
    // SAFETY: no pointers.
    let blocking = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    // SAFETY: eventfd has just made it.
    let blocking = unsafe { OwnedFd::from_raw_fd(blocking) };
    let most = (u64::MAX - 1).to_ne_bytes();
    // SAFETY: eight bytes of this frame.
    unsafe { libc::write(blocking.as_raw_fd(), most.as_ptr().cast(), 8) };
    let wrong = [
        full.as_raw_fd(),
        blocking.as_raw_fd(),
        file.as_raw_fd(),
        link.tcp.as_raw_fd(),
        link.pair.group.arena_fd.as_raw_fd(),
        link.pair.group.channel.as_raw_fd(),
    ];
    for context in 0..wait::CONTEXTS as u64 {
        let fd = wrong[context as usize % wrong.len()];
        announce(link, &context.to_ne_bytes(), &[fd]);
    }
    for first in [0x0004_0003_0002_0001_u64, 0x0008_0007_0006_0005] {
        link.pair.peer().watchers[0].store(first, Relaxed);
        link.pair.peer().watchers[1].store(first + 0x0008_0008_0008_0008, Relaxed);
        sleepless_wait_page(link, session, random);
        link.wake();
    }
    // The program sends by the ring, and looks who is to be woken.
    link.switch();
    link.send_ring(&[9; 2000]);
    std::thread::sleep(Duration::from_millis(20));
}

fn saturated_doorbells(link: &mut Link, _: &mut Session, _: &mut Stream) {
    link.wake();
    for bell in link.pair.group.bells().iter() {
        set_ticks(bell.as_fd(), u64::MAX).expect("a timer");
    }
    link.switch();
    link.send_ring(&[3; 5000]);
}

/// Our wait page says of each context that it sleeps, each time in another epoch.
fn sleepless_wait_page(_: &mut Link, session: &mut Session, random: &mut Stream) {
    for context in 0..wait::CONTEXTS as u64 {
        let asleep = (random.below(1 << 30) << 16 | 1).to_ne_bytes();
        let done = session.wait_page.write_all_at(&asleep, context * 64);
        done.expect("a page of our own");
    }
}

fn both_carriers(link: &mut Link, _: &mut Session, _: &mut Stream) {
    link.switch();
    link.send_ring(&[3; 5000]);
    let _ = link.tcp.write_all(&[4; 5000]);
    link.wake();
}

fn lying_counts(link: &mut Link, _: &mut Session, random: &mut Stream) {
    for _ in 0..100 {
        let counts = link.pair.slot().counts(link.role());
        counts.consumed.store(random.below(2000), Relaxed);
        counts.taken.store(word(random), Relaxed);
        let _ = link.tcp.write_all(b"some more");
        link.wake();
    }
}

/// `uid`: the attacker's, where the host's policy lets it share memory with root.
fn attack_all(how: &str, uid: Option<u32>) {
    if plain_only() {
        return;
    }
    let lab = match uid {
        Some(uid) => Lab::start_for_all(&format!("trust = [[0, {uid}]]")),
        None => Lab::start(),
    };
    let mut victim = victim(&lab, how);
    let seed = match std::env::var("SMCLO_TEST_SEED") {
        Ok(seed) => seed.parse().expect("SMCLO_TEST_SEED is a number"),
        Err(_) => u64::from(std::process::id()),
    };
    println!("SMCLO_TEST_SEED={seed}");
    let mut random = Stream::new(seed);
    let mut attacks = 0;
    // What is left on the channels counts for that user, to whom the kernel allows only so much of it.
    let most = if uid.is_some() { 10 } else { 60 };
    for round in 0..rounds(2, most) {
        // Talks with the program all the time.
        let other = bystander(&lab, victim.port, 1500);
        let mut all = || {
            let mut session = Session::join(&lab.socket());
            for (name, attack) in ATTACKS {
                let mut link = established(&mut session, victim.port);
                attack(&mut link, &mut session, &mut random);
                // Whatever it makes of it: it is woken, and has something to read.
                let _ = link.tcp.write_all(&[0; 100]);
                link.wake();
                std::thread::sleep(Duration::from_millis(2));
                drop(link);
                assert!(victim.program.alive(), "{name}");
                attacks += 1;
            }
        };
        match uid {
            Some(uid) => process::as_user(uid, all),
            None => all(),
        }
        let said = other.finish();
        assert!(
            said.success() && said.stdout.ends_with("\nend\n"),
            "round {round}: {said}"
        );
    }
    // It serves, at full speed as soon as the daemon has had its time, and does not spin.
    let mut share = 0.0;
    let fast = net::wait_until(Duration::from_secs(60), || {
        let before = lab.stats();
        let said = bystander(&lab, victim.port, 1500).finish().ok();
        assert!(said.ends_with("\nend\n"), "{said}");
        share = lab.stats().share_smc(&before);
        share > 0.5
    });
    assert!(fast, "only {share} over SMC after the attacks");
    std::thread::sleep(Duration::from_millis(300));
    let ticks = process::cpu_ticks(victim.program.pid());
    std::thread::sleep(Duration::from_millis(1000));
    let used = process::cpu_ticks(victim.program.pid()) - ticks;
    assert!(used <= 2, "the program used {used} ticks when all was over");
    println!(
        "{attacks} attacks on talk {how} (uid {uid:?}): 0 crashed, 0 hung, 0 bytes of others lost"
    );
    victim.program.stop();
    lab.assert_clean();
}

#[test]
fn scribbling_at_a_threaded_server() {
    attack_all("threads", None);
}

#[test]
fn scribbling_at_an_event_loop() {
    attack_all("events", None);
}

#[test]
fn scribbling_of_another_user() {
    if process::is_root() {
        attack_all("threads", Some(65534));
        attack_all("events", Some(65534));
    }
}

/// What a peer has of others: nothing but the arena of its own pairs, which it cannot resize, nor open
/// anew, nor can it write what is for reading.
#[test]
fn memory_out_of_reach() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let victim = victim(&lab, "threads");
    let mut session = Session::join(&lab.socket());
    let link = established(&mut session, victim.port);
    let group = &link.pair.group;
    let arena = group.arena_fd.as_raw_fd();
    let len = group.len as i64;
    // SAFETY: system calls on descriptors of ours; none of them touches memory of this process.
    unsafe {
        for size in [0, 4096, len - 4096, len + 4096] {
            assert_eq!(libc::ftruncate(arena, size), -1, "the arena can be resized");
        }
        let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // Clears content that it may write anyway; the pages come back as zeros, not as faults.
        assert_eq!(libc::fallocate(arena, punch, 0, 4096), 0);
        assert_eq!(
            libc::fcntl(arena, libc::F_ADD_SEALS, libc::F_SEAL_WRITE),
            -1
        );
    }
    let wait_page = group.wait_page.as_raw_fd();
    assert_eq!(memory::map(wait_page, 4096), libc::MAP_FAILED);
    // Another user, who got the descriptors somehow, opens neither of them anew.
    for fd in [arena, wait_page] {
        assert!(!opens_as_nobody(fd), "opened again through /proc");
    }
    drop(link);
    victim.program.stop();
}

/// Whether a child with another uid can open our descriptor again, for reading and writing.
fn opens_as_nobody(fd: i32) -> bool {
    let path = std::ffi::CString::new(format!("/proc/self/fd/{fd}")).expect("a path");
    // SAFETY: the child makes system calls only, then ends.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            if libc::geteuid() == 0 && libc::setresuid(65534, 65534, 65534) != 0 {
                libc::_exit(2);
            }
            libc::_exit(i32::from(libc::open(path.as_ptr(), libc::O_RDWR) < 0));
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        libc::WEXITSTATUS(status) == 0
    }
}

/// A thread, or an epoll set, has one doorbell for all of its peers, and each of them can take off what others have
/// rung, without a pause if it likes. The others go on, some tenths of a second later.
#[test]
fn drained_doorbells() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let victim = victim(&lab, "events");
    let mut session = Session::join(&lab.socket());
    let mut link = established(&mut session, victim.port);
    link.exchange_on_rings(50_000);
    let other = lab.eager(ccase::compile("talk"));
    let other = other.words(&format!("pump {} 500", victim.port));
    let other = other.limit(Duration::from_secs(120)).spawn();
    let fast = || lab.stats().smc_bytes() > 1 << 20;
    assert!(net::wait_until(Duration::from_secs(60), fast), "on a ring");
    let (taken, over) = (AtomicU32::new(0), AtomicBool::new(false));
    let bells = link.pair.group.bells();
    let steps = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                for bell in bells.iter() {
                    let mut count = [0_u8; 8];
                    // SAFETY: eight bytes of this frame.
                    let n = unsafe { libc::read(bell.as_raw_fd(), count.as_mut_ptr().cast(), 8) };
                    taken.fetch_add(u32::from(n == 8), Relaxed);
                }
            }
        });
        let first = || taken.load(Relaxed) != 0;
        let steps = net::wait_until(Duration::from_secs(60), first).then(|| {
            let goes_on = |_: &u32| {
                let at = other.stdout().len();
                net::wait_until(Duration::from_secs(10), || other.stdout().len() > at)
            };
            (0..10).take_while(goes_on).count()
        });
        over.store(true, Relaxed);
        steps
    });
    let taken = taken.into_inner();
    drop(bells);
    println!("{taken} rings taken off, {steps:?} steps of the other meanwhile");
    assert_eq!(steps, Some(10), "{}", other.stdout());
    drop(link);
    drop(session);
    victim.program.stop();
    let said = other.finish();
    assert!(said.stdout.contains("\nend "), "{said}");
    assert!(!said.stdout.contains("differs"), "{said}");
    lab.assert_clean();
}

/// Pairs, claims and tokens of others, of the dead, or used twice.
#[test]
fn what_belongs_to_others() {
    if plain_only() {
        return;
    }
    let lab = Lab::start();
    let mut victim = victim(&lab, "threads");
    let other = bystander(&lab, victim.port, 2000);
    // Before it is over.
    let others = client_port(victim.port);
    let mut session = Session::join(&lab.socket());
    let mut link = established(&mut session, victim.port);
    let mine = link.pair.paired.pair;
    // The pairs of others are not ours to give back, nor their claims to withdraw.
    for pair in (0..50).filter(|p| *p != mine) {
        session.send(&Release { pair });
    }
    for claim in 0..50 {
        session.send(&Withdraw { claim, last: 1 });
    }
    // The same end, claimed once more: nobody claims the other, so nothing comes of it.
    let again = session.claim(&link.tcp, Role::Client);
    // A connection that is over.
    let gone = {
        let tcp = TcpStream::connect(("127.0.0.1", victim.port)).expect("a server");
        let claim = session.claim_of(&tcp, Role::Client);
        drop(tcp);
        session.send(&claim);
        claim.claim
    };
    // A connection of the bystander's, whose cookie we can only guess.
    let mut guessed = session.claim_of(&link.tcp, Role::Client);
    guessed.local.port = others;
    session.send(&guessed);
    for (claim, what) in [(gone, "of the dead"), (guessed.claim, "of others")] {
        let why = session.wait_for(claim).expect_err("a refusal");
        let known = [reason::NOT_VERIFIED, reason::PEER_CLOSING].contains(&why);
        assert!(known, "{what}: {}", reason::name(why));
    }
    assert!(session.answer(again).is_none());
    // Twice released is released once.
    link.exchange_on_rings(50_000);
    session.send(&Release { pair: mine });
    session.send(&Release { pair: mine });
    let said = other.finish().ok();
    assert!(said.ends_with("\nend\n"), "{said}");
    drop(link);
    drop(session);
    assert!(victim.program.alive());
    assert!(lab.settle().0.share_smc(&Stats::zero()) > 0.5);
    victim.program.stop();
    lab.assert_clean();
}

/// The port of a client of `server`, once one is connected.
fn client_port(server: u16) -> u16 {
    let mut found = 0;
    let seen = net::wait_until(Duration::from_secs(10), || {
        found = net::peers(server).into_iter().next().unwrap_or(0);
        found != 0
    });
    assert!(seen, "the other client is connected");
    found
}
