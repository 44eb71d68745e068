//! A daemon in a thread, and clients as the library would be, with real TCP connections.

#![allow(dead_code, reason = "each test file uses a part")]

use daemon::client::Connection;
use daemon::config::Config;
use daemon::diag::netns_cookie;
use daemon::memfd;
use daemon::packet::{Packet, Received, receive};
use daemon::server::Server;
use nix::fcntl::SealFlag;
use nix::sys::eventfd::EventFd;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use protocol::ctl::{self, Claim, Endpoint, Hello, Message, Verb, Welcome};
use protocol::ids::Role;
use protocol::shm::wait;
use protocol::stats;
use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub struct Daemon {
    pub path: PathBuf,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    pub fn start(change: impl FnOnce(&mut Config)) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("smclod-test-{}-{n}.sock", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut config = Config {
            socket: Some(path.clone()),
            // That of the host must not count.
            config: path.with_extension("toml"),
            ..Config::default()
        };
        change(&mut config);
        let mut server = Server::bind(&config, 1024).unwrap();
        let stop = Arc::new(EventFd::new().unwrap());
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            server.stop_at(stopped.as_fd()).unwrap();
            server.run().unwrap();
        });
        Daemon {
            path,
            stop,
            thread: Some(thread),
        }
    }

    pub fn ask<T: serde::de::DeserializeOwned>(&self, verb: Verb) -> T {
        let json = Connection::open(&self.path)
            .unwrap()
            .ask(verb, [b' '; 32])
            .unwrap();
        serde_json::from_slice(&json).unwrap()
    }

    /// Asks until the answer is right; the daemon learns of deaths by and by.
    pub fn wait_for<T>(&self, verb: Verb, right: impl Fn(&T) -> bool) -> T
    where
        T: serde::de::DeserializeOwned + std::fmt::Debug,
    {
        let start = Instant::now();
        loop {
            let got = self.ask(verb);
            if right(&got) {
                return got;
            }
            assert!(start.elapsed() < Duration::from_secs(10), "still {got:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.write(1).unwrap();
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap();
            assert!(!self.path.exists(), "the socket stays behind");
        }
        let mut lock = self.path.clone().into_os_string();
        lock.push(".lock");
        let _ = std::fs::remove_file(lock);
    }
}

pub fn raw_socket(daemon: &Daemon) -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).unwrap();
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(10)).unwrap();
    connect(socket.as_raw_fd(), &UnixAddr::new(&daemon.path).unwrap()).unwrap();
    socket
}

/// Sealed memfd, as a client makes them.
pub fn sealed(len: usize) -> File {
    let file = memfd::create(c"client", len as u64).unwrap();
    memfd::seal(&file, SealFlag::empty()).unwrap();
    file
}

/// The two files that a family shares.
pub struct Files {
    pub family: u128,
    pub table: File,
    pub wait_page: File,
}

impl Files {
    pub fn new() -> Self {
        let table = sealed(stats::TABLE_LEN);
        let mut head = [0; 8];
        head[..4].copy_from_slice(&stats::MAGIC.to_ne_bytes());
        head[4..].copy_from_slice(&stats::VERSION.to_ne_bytes());
        table.write_all_at(&head, 0).unwrap();
        Files {
            family: rand::random(),
            table,
            wait_page: sealed(wait::PAGE_LEN),
        }
    }

    /// Writes words of a row; the row count covers it.
    pub fn row(&self, index: usize, fields: &[(usize, &[u8])]) {
        let at = (stats::ROWS_AT + index * size_of::<stats::Row>()) as u64;
        for (offset, bytes) in fields {
            self.table.write_all_at(bytes, at + *offset as u64).unwrap();
        }
        let high = (index as u32 + 1).to_ne_bytes();
        self.table.write_all_at(&high, 8).unwrap();
    }
}

pub struct Client {
    pub socket: OwnedFd,
    pub welcome: Welcome,
    pub mailbox: File,
}

impl Client {
    pub fn join(daemon: &Daemon, files: &Files, program: &str) -> Self {
        let socket = raw_socket(daemon);
        let mut name = [0; 16];
        name[..program.len()].copy_from_slice(program.as_bytes());
        let hello = Hello {
            pid: std::process::id(),
            flags: 0,
            family: files.family,
            program: name,
            run: 0,
        };
        let fds = [&files.table, &files.wait_page].map(|f| Arc::new(f.try_clone().unwrap().into()));
        let packet = Packet::new(&hello, fds.into());
        packet.send(socket.as_fd(), MsgFlags::empty()).unwrap();
        let mut answer = receive(socket.as_fd(), MsgFlags::empty()).unwrap().unwrap();
        assert_eq!(answer.fds.len(), 1);
        Client {
            welcome: expect(&answer),
            mailbox: answer.fds.remove(0).into(),
            socket,
        }
    }

    pub fn new(daemon: &Daemon) -> Self {
        Client::join(daemon, &Files::new(), "test")
    }

    pub fn send<M: Message>(&self, message: &M) {
        let packet = Packet::new(message, vec![]);
        packet.send(self.socket.as_fd(), MsgFlags::empty()).unwrap();
    }

    pub fn receive(&self) -> Received {
        let got = receive(self.socket.as_fd(), MsgFlags::empty());
        got.expect("an answer").expect("no end")
    }

    pub fn get<M: Message>(&self) -> M {
        expect(&self.receive())
    }

    pub fn quiet(&self) -> bool {
        receive(self.socket.as_fd(), MsgFlags::MSG_DONTWAIT).is_err()
    }

    pub fn mail(&self) -> u32 {
        let mut word = [0; 4];
        self.mailbox.read_exact_at(&mut word, 0).unwrap();
        u32::from_ne_bytes(word)
    }
}

pub fn expect<M: Message>(packet: &Received) -> M {
    let header = ctl::header(packet.bytes()).unwrap();
    assert_eq!(header.kind, M::KIND, "kind of message");
    M::decode(packet.bytes()).unwrap()
}

/// A TCP connection on the loopback, with the claim of either end.
pub struct Tcp {
    pub client: TcpStream,
    pub server: TcpStream,
}

impl Tcp {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        Tcp { client, server }
    }

    pub fn claim(&self, role: Role, number: u64) -> Claim {
        let end = match role {
            Role::Client => &self.client,
            Role::Server => &self.server,
        };
        Claim {
            claim: number,
            cookie: cookie(end),
            netns: netns_cookie(end).unwrap(),
            role,
            local: endpoint(end.local_addr().unwrap()),
            peer: endpoint(end.peer_addr().unwrap()),
            original: Endpoint::default(),
            rmb_size: 64 << 10,
            received: 0,
        }
    }
}

pub fn cookie(socket: &TcpStream) -> u64 {
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

pub fn endpoint(a: SocketAddr) -> Endpoint {
    match a {
        SocketAddr::V4(a) => Endpoint::v4(a.ip().octets(), a.port()),
        SocketAddr::V6(_) => panic!("not used here"),
    }
}
