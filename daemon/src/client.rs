//! The tool's side: finding a daemon and asking it.

use crate::packet::{Packet, receive};
use crate::paths;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr};
use nix::sys::socket::{connect, getsockopt, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::geteuid;
use protocol::ctl::{self, Hold, Message, Reply, Request, Verb};
use protocol::ids::Eid;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// How long a daemon may take to answer.
const PATIENCE_SECONDS: i64 = 10;

#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("the daemon says: {}", .0.desc())]
    Refused(Errno),
    #[error("the daemon does not answer: {}", .0.desc())]
    Silent(Errno),
    #[error("the daemon closed the connection; it may be of another version")]
    Closed,
    #[error("the daemon's answer is not understood; it may be of another version")]
    Garbled,
}

/// An error without the number that the standard library adds.
pub fn in_words(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_string(),
        None => error.to_string(),
    }
}

/// No daemon; says where it was looked for.
#[derive(Debug)]
pub struct NoDaemon(pub Vec<(PathBuf, io::Error)>);

impl std::fmt::Display for NoDaemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut looked = String::new();
        for (i, (path, error)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            let why = match error.kind() {
                io::ErrorKind::NotFound => "not there".to_string(),
                io::ErrorKind::ConnectionRefused => "nobody listens on it".to_string(),
                _ => in_words(error),
            };
            let _ = write!(looked, "{comma}{} ({why})", path.display());
        }
        write!(
            f,
            "no smclod answers at {looked}; start one with \"smclod\" or use \"smclo run\""
        )
    }
}

impl std::error::Error for NoDaemon {}

#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    pub path: PathBuf,
}

impl Connection {
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        let patience = TimeVal::seconds(PATIENCE_SECONDS);
        setsockopt(&socket, sockopt::SendTimeout, &patience)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Connection {
            socket,
            path: path.to_path_buf(),
        })
    }

    /// The daemon at `explicit`, or the first one on the search path that may be trusted.
    pub fn find(explicit: Option<&Path>) -> Result<Self, NoDaemon> {
        if let Some(path) = explicit {
            return Connection::open(path).map_err(|e| NoDaemon(vec![(path.into(), e)]));
        }
        let uid = geteuid().as_raw();
        let mut looked = Vec::new();
        for path in paths::socket_candidates(uid) {
            match Connection::open_trusted(&path, uid) {
                Ok(connection) => return Ok(connection),
                Err(e) => looked.push((path, e)),
            }
        }
        Err(NoDaemon(looked))
    }

    fn open_trusted(path: &Path, uid: u32) -> io::Result<Self> {
        let foreign = || io::Error::new(io::ErrorKind::PermissionDenied, "belongs to another user");
        let connection = Connection::open(path)?;
        let who = getsockopt(&connection.socket, sockopt::PeerCredentials)?.uid();
        if !paths::trusted(path, uid) || (who != 0 && who != uid) {
            return Err(foreign());
        }
        Ok(connection)
    }

    /// The JSON that answers a question; empty for an order.
    pub fn ask(&self, verb: Verb, eid: Eid) -> Result<Vec<u8>, AskError> {
        let verb = verb as u16;
        self.exchange(&Request { verb, eid, arg: 0 })
    }

    /// A question with a number.
    pub fn ask_about(&self, verb: Verb, arg: u64) -> Result<Vec<u8>, AskError> {
        self.exchange(&Request {
            verb: verb as u16,
            eid: [b' '; 32],
            arg,
        })
    }

    /// The connection of this DMB goes back to TCP for so long.
    pub fn hold(&self, token: u64, milliseconds: u64) -> Result<(), AskError> {
        let hold = Hold {
            token,
            milliseconds,
        };
        self.exchange(&hold).map(drop)
    }

    fn exchange<M: Message>(&self, message: &M) -> Result<Vec<u8>, AskError> {
        let packet = Packet::new(message, vec![]);
        let sent = packet.send(self.socket.as_fd(), MsgFlags::empty());
        sent.map_err(AskError::Silent)?;
        let answer = match receive(self.socket.as_fd(), MsgFlags::empty()) {
            Ok(Some(answer)) => answer,
            Ok(None) | Err(Errno::ECONNRESET) => return Err(AskError::Closed),
            Err(e) => return Err(AskError::Silent(e)),
        };
        let header = ctl::header(answer.bytes()).map_err(|_| AskError::Garbled)?;
        if header.kind != Reply::KIND {
            return Err(AskError::Garbled);
        }
        let reply = Reply::decode(answer.bytes()).map_err(|_| AskError::Garbled)?;
        if reply.error != 0 {
            return Err(AskError::Refused(Errno::from_raw(reply.error as i32)));
        }
        let Some(fd) = answer.fds.into_iter().next() else {
            return Ok(Vec::new());
        };
        let mut json = vec![0; reply.len as usize];
        let read = File::from(fd).read_exact_at(&mut json, 0);
        read.map_err(|_| AskError::Garbled)?;
        Ok(json)
    }
}
