//! A session with the daemon.

use super::memory::{Group, Pair};
use daemon::diag::netns_cookie;
use daemon::memfd;
use daemon::packet::{Packet, Received, receive};
use nix::fcntl::SealFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr};
use nix::sys::socket::{MsgFlags, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use protocol::ctl::{self, Claim, Endpoint, Hello, Message, Paired, Refused, Welcome};
use protocol::ids::Role;
use protocol::shm::wait;
use protocol::stats;
use std::collections::HashMap;
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct Session {
    pub socket: OwnedFd,
    pub welcome: Welcome,
    pub table: File,
    pub wait_page: File,
    groups: HashMap<u32, Arc<Group>>,
    answers: HashMap<u64, Result<Pair, u32>>,
    next_claim: u64,
}

fn sealed(len: usize) -> File {
    let file = memfd::create(c"peer", len as u64).expect("a memfd");
    memfd::seal(&file, SealFlag::empty()).expect("a memfd that can be sealed");
    file
}

/// A socket to the daemon that has not said anything yet. Reads wait 10 seconds at most.
pub fn dial(path: &Path) -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).expect("a socket");
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(10)).expect("a timeout");
    let address = UnixAddr::new(path).expect("a path that fits");
    connect(socket.as_raw_fd(), &address).expect("the daemon listens");
    socket
}

impl Session {
    pub fn join(path: &Path) -> Session {
        Session::join_with(path, 0)
    }

    /// With bits of [`ctl::hello`].
    pub fn join_with(path: &Path, flags: u32) -> Session {
        let socket = dial(path);
        let (table, wait_page) = (sealed(stats::TABLE_LEN), sealed(wait::PAGE_LEN));
        let mut head = [0; 8];
        head[..4].copy_from_slice(&stats::MAGIC.to_ne_bytes());
        head[4..].copy_from_slice(&stats::VERSION.to_ne_bytes());
        table.write_all_at(&head, 0).expect("room in the table");
        let hello = Hello {
            run: 0,
            pid: std::process::id(),
            flags,
            family: u128::from(std::process::id()) << 64 | socket.as_raw_fd() as u128,
            program: *b"hostile peer\0\0\0\0",
        };
        let fds = [&table, &wait_page].map(|f| Arc::new(f.try_clone().expect("a copy").into()));
        let hello = Packet::new(&hello, fds.into());
        hello
            .send(socket.as_fd(), MsgFlags::empty())
            .expect("a daemon that takes the Hello");
        let answer = receive(socket.as_fd(), MsgFlags::empty());
        let answer = answer.expect("an answer").expect("no end");
        Session {
            welcome: Welcome::decode(answer.bytes()).expect("a Welcome"),
            socket,
            table,
            wait_page,
            groups: HashMap::new(),
            answers: HashMap::new(),
            next_claim: 0,
        }
    }

    pub fn send<M: Message>(&self, message: &M) {
        let packet = Packet::new(message, vec![]);
        packet
            .send(self.socket.as_fd(), MsgFlags::empty())
            .expect("a daemon that listens");
    }

    /// The claim that belongs to this end of a connection.
    pub fn claim_of(&mut self, end: &TcpStream, role: Role) -> Claim {
        self.next_claim += 1;
        Claim {
            claim: self.next_claim,
            cookie: cookie(end),
            netns: netns_cookie(end).expect("a cookie"),
            role,
            local: endpoint(end.local_addr().expect("an address")),
            peer: endpoint(end.peer_addr().expect("a connected socket")),
            original: Endpoint::default(),
            rmb_size: 64 << 10,
            received: 0,
        }
    }

    pub fn claim(&mut self, end: &TcpStream, role: Role) -> u64 {
        let claim = self.claim_of(end, role);
        self.send(&claim);
        claim.claim
    }

    /// The daemon's answer to a claim, if it has come: a pair, or the reason against it.
    pub fn answer(&mut self, claim: u64) -> Option<Result<Pair, u32>> {
        while let Ok(Some(packet)) = receive(self.socket.as_fd(), MsgFlags::MSG_DONTWAIT) {
            self.take(packet);
        }
        self.answers.remove(&claim)
    }

    /// Until the daemon says something, or for so long.
    pub fn wait(&self, longest: Duration) {
        let mut one = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let longest = PollTimeout::try_from(longest).expect("some seconds");
        poll(&mut one, longest).expect("a socket");
    }

    /// Waits for the daemon's answer.
    pub fn wait_for(&mut self, claim: u64) -> Result<Pair, u32> {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(answer) = self.answer(claim) {
                return answer;
            }
            assert!(Instant::now() < end, "no answer to a claim");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn take(&mut self, packet: Received) {
        let kind = ctl::header(packet.bytes()).expect("a message").kind;
        if kind == Refused::KIND {
            let refused = Refused::decode(packet.bytes()).expect("a Refused");
            self.answers.insert(refused.claim, Err(refused.reason));
        } else if kind == Paired::KIND {
            let paired = Paired::decode(packet.bytes()).expect("a Paired");
            if paired.fresh != 0 {
                let fds = packet.fds.try_into().expect("three descriptors");
                let group = Arc::new(Group::map(paired.arena_len, fds));
                self.groups.insert(paired.lgr, group);
            }
            let group = self.groups[&paired.lgr].clone();
            let pair = Pair { paired, group };
            self.answers.insert(paired.claim, Ok(pair));
        }
    }
}

fn cookie(socket: &TcpStream) -> u64 {
    let mut cookie = 0_u64;
    let mut len = 8;
    // SAFETY: `cookie` and `len` live in this frame and agree.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    assert_eq!(done, 0);
    cookie
}

fn endpoint(a: SocketAddr) -> Endpoint {
    match a {
        SocketAddr::V4(a) => Endpoint::v4(a.ip().octets(), a.port()),
        SocketAddr::V6(_) => unreachable!("the tests use IPv4"),
    }
}
