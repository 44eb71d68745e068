//! Clients that break the rules lose their session; nobody else notices.

mod support;

use daemon::packet::{Packet, receive};
use daemon::report::{Info, Stats};
use daemon::ringer::set_ticks;
use nix::fcntl::SealFlag;
use nix::sys::socket::{MsgFlags, send};
use protocol::ctl::{self, Claim, Hello, MAX_MESSAGE, Message, Paired, Refused};
use protocol::ctl::{Release, Request, Verb};
use protocol::ids::Role;
use protocol::shm::wait;
use protocol::stats;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use support::{Client, Daemon, Files, Tcp, raw_socket, sealed};

fn hello() -> Hello {
    Hello {
        pid: 1,
        flags: 0,
        family: 1,
        program: [0xff; 16],
        run: 0,
    }
}

fn encoded<M: Message>(message: &M) -> Vec<u8> {
    let mut buf = [0; MAX_MESSAGE];
    let len = message.encode(&mut buf);
    buf[..len].to_vec()
}

fn dropped(socket: &OwnedFd) -> bool {
    loop {
        match receive(socket.as_fd(), MsgFlags::empty()) {
            Ok(None) => return true,
            // Unread input makes the end a reset.
            Err(e) => return e == nix::errno::Errno::ECONNRESET,
            Ok(Some(_)) => {}
        }
    }
}

/// A program that was started before an update of the daemon learns why it stays on TCP.
#[test]
fn another_version_is_told_so() {
    let daemon = Daemon::start(|_| {});
    let mut packet = encoded(&hello());
    packet[2] ^= 0x40;
    let socket = raw_socket(&daemon);
    send(socket.as_raw_fd(), &packet, MsgFlags::empty()).unwrap();
    let answer = receive(socket.as_fd(), MsgFlags::empty()).unwrap().unwrap();
    let refused = Refused::decode(answer.bytes()).unwrap();
    assert_eq!(refused.reason, protocol::reason::DAEMON_VERSION);
    assert!(dropped(&socket));
    let info: Info = daemon.ask(Verb::Info);
    assert_eq!((info.other_versions, info.protocol_errors), (1, 0));
}

#[test]
fn garbage_ends_the_session_only() {
    let daemon = Daemon::start(|_| {});
    let bystander = Client::new(&daemon);
    let good = encoded(&hello());
    let changed = |at: usize, to: u8| {
        let mut bad = good.clone();
        bad[at] = to;
        bad
    };
    let packets = [
        vec![0; 1],
        vec![0xff; 8],
        vec![0x55; 1024],
        vec![0x55; 4000],
        changed(0, 0),
        changed(4, 99),
        changed(6, 1),
        good[..20].to_vec(),
        good.clone(), // without descriptors
        encoded(&Release { pair: 1 }),
    ];
    for packet in &packets {
        let socket = raw_socket(&daemon);
        send(socket.as_raw_fd(), packet, MsgFlags::empty()).unwrap();
        assert!(dropped(&socket), "{packet:?}");
    }
    let info: Info = daemon.ask(Verb::Info);
    assert_eq!(
        (info.protocol_errors, info.clients),
        (packets.len() as u64, 1)
    );

    // A role that there is not; a second Hello.
    let client = Client::new(&daemon);
    let mut claim = encoded(&Tcp::new().claim(Role::Client, 1));
    claim[8 + 24] = 7;
    send(client.socket.as_raw_fd(), &claim, MsgFlags::empty()).unwrap();
    assert!(dropped(&client.socket));
    let client = Client::new(&daemon);
    client.send(&hello());
    assert!(dropped(&client.socket));

    assert!(bystander.quiet());
    bystander.send(&Release { pair: 77 });
    bystander.send(&Request {
        verb: 99,
        eid: [0; 32],
        arg: 0,
    });
    assert_eq!(bystander.get::<ctl::Reply>().error, libc::EOPNOTSUPP as u32);
}

#[test]
fn unfit_files_are_refused() {
    let daemon = Daemon::start(|_| {});
    let unsealed = || daemon::memfd::create(c"x", stats::TABLE_LEN as u64).unwrap();
    let null = || std::fs::File::open("/dev/null").unwrap();
    let cases = [
        vec![unsealed(), sealed(wait::PAGE_LEN)],
        vec![sealed(stats::TABLE_LEN), sealed(wait::PAGE_LEN + 1)],
        vec![sealed(wait::PAGE_LEN), sealed(stats::TABLE_LEN)],
        vec![null(), sealed(wait::PAGE_LEN)],
        vec![sealed(stats::TABLE_LEN)],
        vec![sealed(stats::TABLE_LEN), sealed(wait::PAGE_LEN), null()],
        vec![null(), null(), null(), null(), null(), null(), null()],
    ];
    for files in cases {
        let socket = raw_socket(&daemon);
        let fds = files
            .into_iter()
            .map(|f| Arc::new(OwnedFd::from(f)))
            .collect();
        Packet::new(&hello(), fds)
            .send(socket.as_fd(), MsgFlags::empty())
            .unwrap();
        assert!(dropped(&socket));
    }
    let info: Info = daemon.ask(Verb::Info);
    assert_eq!(info.clients, 0);
}

#[test]
fn descriptors_that_nobody_wants_are_closed() {
    let daemon = Daemon::start(|_| {});
    let (reader, writer) = nix::unistd::pipe().unwrap();
    let socket = raw_socket(&daemon);
    let writer = Arc::new(writer);
    let packet = Packet::new(&hello(), vec![writer.clone(); 12]);
    packet.send(socket.as_fd(), MsgFlags::empty()).unwrap();
    assert!(dropped(&socket));
    drop((packet, writer));
    // The end of the pipe shows that no copy is left in the daemon.
    assert_eq!(nix::unistd::read(reader.as_raw_fd(), &mut [0; 1]), Ok(0));
}

#[test]
fn who_never_reads_is_dropped_and_the_rest_goes_on() {
    let daemon = Daemon::start(|_| {});
    let deaf = Client::new(&daemon);
    let flags = MsgFlags::MSG_DONTWAIT;
    let info = Request {
        verb: Verb::Info as u16,
        eid: [0; 32],
        arg: 0,
    };
    let packet = Packet::new(&info, vec![]);
    let mut sent = 0_u32;
    let ended = loop {
        match packet.send(deaf.socket.as_fd(), flags) {
            Ok(()) => sent += 1,
            Err(nix::errno::Errno::EAGAIN) => {
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
            Err(e) => break e,
        }
        assert!(sent < 1_000_000);
    };
    assert!(matches!(
        ended,
        nix::errno::Errno::EPIPE | nix::errno::Errno::ECONNRESET
    ));
    let (a, b) = (Client::new(&daemon), Client::new(&daemon));
    let tcp = Tcp::new();
    a.send(&tcp.claim(Role::Client, 1));
    b.send(&tcp.claim(Role::Server, 2));
    let _: Paired = a.get();
    let _: Paired = b.get();
}

#[test]
fn messages_wait_for_a_slow_reader() {
    let daemon = Daemon::start(|_| {});
    let (slow, other) = (Client::new(&daemon), Client::new(&daemon));
    let tcp = Tcp::new();
    let wrong = Claim {
        cookie: 1,
        ..tcp.claim(Role::Client, 0)
    };
    const MESSAGES: u64 = 3000;
    for claim in 0..MESSAGES {
        slow.send(&Claim { claim, ..wrong });
    }
    daemon.wait_for::<Info>(Verb::Info, |i| i.claims_refused == MESSAGES);
    slow.send(&tcp.claim(Role::Client, MESSAGES));
    other.send(&tcp.claim(Role::Server, 1));
    let _: Paired = other.get();
    for claim in 0..MESSAGES {
        assert_eq!(slow.get::<ctl::Refused>().claim, claim);
    }
    assert_eq!(slow.get::<Paired>().claim, MESSAGES);
}

#[test]
fn a_table_full_of_nonsense_harms_nobody() {
    use std::os::unix::fs::FileExt;
    let daemon = Daemon::start(|_| {});
    let files = Files::new();
    let _client = Client::join(&daemon, &files, "liar");
    files.table.write_all_at(&[0xff; 64 << 10], 8).unwrap();
    let stats: Stats = daemon.ask(Verb::Stats);
    assert_eq!(stats.counts.smc_bytes, u64::MAX);
    let rows: Vec<daemon::report::Connection> = daemon.ask(Verb::Ss);
    assert!(rows.is_empty(), "rows of no known mode");

    let row = [2, 0, 0, 0]
        .iter()
        .chain(&[0xff; 252])
        .copied()
        .collect::<Vec<u8>>();
    files
        .table
        .write_all_at(&row, stats::ROWS_AT as u64)
        .unwrap();
    let rows: Vec<daemon::report::Connection> = daemon.ask(Verb::Ss);
    assert_eq!(rows.len(), 1);

    // A table that is not one, or of another version, counts for nothing.
    files.table.write_all_at(&[0; 4], 0).unwrap();
    let rows: Vec<daemon::report::Connection> = daemon.ask(Verb::Ss);
    assert!(rows.is_empty());
}

#[test]
fn sealing_of_the_mailbox_holds() {
    let daemon = Daemon::start(|_| {});
    let client = Client::new(&daemon);
    let path = format!("/proc/self/fd/{}", client.mailbox.as_raw_fd());
    let seals = nix::fcntl::fcntl(
        client.mailbox.as_raw_fd(),
        nix::fcntl::FcntlArg::F_GET_SEALS,
    );
    let seals = SealFlag::from_bits_retain(seals.unwrap());
    assert!(seals.contains(SealFlag::F_SEAL_FUTURE_WRITE | SealFlag::F_SEAL_SHRINK));
    // Root may open it for writing, but not write.
    if let Ok(file) = std::fs::OpenOptions::new().write(true).open(path) {
        use std::os::unix::fs::FileExt;
        assert!(file.write_at(b"x", 0).is_err());
    }
}

/// A TCP socket whose close waits for a peer that reads nothing, for ten minutes.
fn slow_to_close() -> (OwnedFd, std::net::TcpStream) {
    use nix::sys::socket::{setsockopt, sockopt};
    let tcp = Tcp::new();
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 600,
    };
    setsockopt(&tcp.client, sockopt::Linger, &linger).unwrap();
    let flags = MsgFlags::MSG_DONTWAIT;
    while send(tcp.client.as_raw_fd(), &[0; 1 << 16], flags).is_ok() {}
    (tcp.client.into(), tcp.server)
}

/// Descriptors whose close waits are closed where nobody has to wait with them: in place of files, too
/// many of them, with a packet that is too long, in a queue that the daemon never reads.
#[test]
fn what_is_slow_to_close_holds_nobody_up() {
    let daemon = Daemon::start(|_| {});
    let bystander = Client::new(&daemon);
    let long = vec![0x55; 4000];
    let packets = [
        (encoded(&hello()), 1),
        (encoded(&hello()), 2),
        (encoded(&hello()), 200),
        (long, 1),
        (encoded(&Release { pair: 1 }), 3),
    ];
    // Their peers: a reset would let a close go on.
    let mut peers = Vec::new();
    for (bytes, count) in packets {
        let socket = raw_socket(&daemon);
        let (file, peer) = slow_to_close();
        peers.push(peer);
        let file = Arc::new(file);
        let fds = vec![file; count];
        // The first packet ends the session; the second is never read.
        let packet = Packet { bytes, fds };
        packet.send(socket.as_fd(), MsgFlags::empty()).unwrap();
        let _ = packet.send(socket.as_fd(), MsgFlags::MSG_DONTWAIT);
        // Whoever closes it last waits: as a rule the daemon, at times this.
        std::thread::spawn(move || drop(packet));
        assert!(dropped(&socket));
        let began = std::time::Instant::now();
        let info: Info = daemon.ask(Verb::Info);
        assert!(info.clients == 1 && began.elapsed().as_secs() < 5);
    }
    assert!(bystander.quiet());
}

/// A doorbell that blocks, as full as it can be: who rings it does not wait. One that is none ends the
/// session.
#[test]
fn doorbells_that_block_hold_nobody_up() {
    use nix::sys::eventfd::EventFd;
    use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
    let daemon = Daemon::start(|_| {});
    let (a, b, tcp) = (Client::new(&daemon), Client::new(&daemon), Tcp::new());
    let bell = EventFd::new().unwrap();
    bell.write(u64::MAX - 1).unwrap();
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::empty()).unwrap();
    set_ticks(timer.as_fd(), u64::MAX).unwrap();
    let give_as = |client: &Client, context: u32, file: OwnedFd| {
        let packet = Packet::new(&ctl::Bell { context }, vec![Arc::new(file)]);
        packet
            .send(client.socket.as_fd(), MsgFlags::empty())
            .unwrap();
    };
    let give = |client: &Client, file| give_as(client, 0, file);
    give(&a, bell.as_fd().try_clone_to_owned().unwrap());
    give_as(&a, 1, timer.as_fd().try_clone_to_owned().unwrap());
    a.send(&tcp.claim(Role::Client, 1));
    b.send(&tcp.claim(Role::Server, 1));
    let (mine, _): (Paired, Paired) = (a.get(), b.get());
    for _ in 0..3 {
        a.send(&ctl::Hold {
            token: mine.own.token,
            milliseconds: 10,
        });
        assert_eq!(a.get::<ctl::Reply>().error, 0);
    }
    let mut count = [0; 8];
    assert_eq!(
        nix::unistd::read(timer.as_fd().as_raw_fd(), &mut count),
        Ok(8)
    );
    assert_eq!(u64::from_ne_bytes(count), 1, "rung last by the daemon");
    give(&a, std::fs::File::open("/dev/null").unwrap().into());
    assert!(dropped(&a.socket));
}
