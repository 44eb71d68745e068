//! The listening socket: one daemon per path, no stale socket in the way, gone after a clean stop.
//! Or a socket that systemd has made and keeps.

use crate::client::in_words;
use crate::paths;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4};
use nix::sys::socket::{bind, getsockname, getsockopt, listen as start, socket, sockopt};
use nix::sys::stat::FchmodatFlags::NoFollowSymlink;
use nix::sys::stat::{Mode, fchmodat};
use nix::unistd::geteuid;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// `SD_LISTEN_FDS_START`.
const FIRST_ACTIVATED: i32 = 3;

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("another smclod listens on {}", .0.display())]
    Running(PathBuf),
    #[error("{} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    #[error(
        "the descriptor from systemd (LISTEN_FDS) is no listening SOCK_SEQPACKET socket with a path; in the unit it is ListenSequentialPacket=PATH, alone"
    )]
    Activation,
    #[error("cannot use {} as socket: {}", path.display(), in_words(source))]
    Path { path: PathBuf, source: io::Error },
}

#[derive(Debug)]
pub struct Listening {
    pub socket: OwnedFd,
    pub path: PathBuf,
    /// Held as long as the socket exists; the file itself stays. None: the socket is systemd's,
    /// which keeps it for the next daemon.
    lock: Option<Flock<File>>,
    /// Given up for a moment when there is no other descriptor left.
    spare: Option<File>,
}

/// Listens at `path`, or at the default place of this user.
pub fn listen(path: Option<&Path>) -> Result<Listening, ListenError> {
    let uid = geteuid().as_raw();
    let default = path.is_none();
    let path = path.map_or_else(|| paths::default_socket(uid), Path::to_path_buf);
    let wrap = |source: io::Error| ListenError::Path {
        path: path.clone(),
        source,
    };
    if default {
        paths::prepare_dir(&path, uid).map_err(wrap)?;
    }
    let lock = lock(&path, wrap)?;
    match fs::symlink_metadata(&path) {
        Ok(meta) if !meta.file_type().is_socket() => return Err(ListenError::NotASocket(path)),
        // Nobody holds the lock, so nobody listens here any more.
        Ok(_) => fs::remove_file(&path).map_err(wrap)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(wrap(e)),
    }
    let socket = open(&path, uid).map_err(|e| wrap(e.into()))?;
    Ok(Listening {
        socket,
        path,
        lock: Some(lock),
        spare: File::open("/dev/null").ok(),
    })
}

/// Takes over descriptor 3 when systemd has started this process for it: `sd_listen_fds(3)`. None:
/// it has not. To be called before any descriptor is opened.
pub fn activated() -> Result<Option<Listening>, ListenError> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(None);
    }
    if number("LISTEN_FDS") != Some(1) {
        return Err(ListenError::Activation);
    }
    fcntl(FIRST_ACTIVATED, FcntlArg::F_GETFD).map_err(|_| ListenError::Activation)?;
    // SAFETY: it is open, and handed over to this process for this.
    let socket = unsafe { OwnedFd::from_raw_fd(FIRST_ACTIVATED) };
    adopt(socket).map(Some)
}

fn adopt(socket: OwnedFd) -> Result<Listening, ListenError> {
    let unusable = |_| ListenError::Activation;
    let packets = getsockopt(&socket, sockopt::SockType).map_err(unusable)? == SockType::SeqPacket;
    let listens = getsockopt(&socket, sockopt::AcceptConn).map_err(unusable)?;
    let address: UnixAddr = getsockname(socket.as_raw_fd()).map_err(unusable)?;
    let path = address.path().filter(|_| packets && listens);
    let path = path.ok_or(ListenError::Activation)?.to_path_buf();
    let flags = FcntlArg::F_SETFL(OFlag::O_NONBLOCK);
    fcntl(socket.as_raw_fd(), flags).map_err(unusable)?;
    let flags = FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC);
    fcntl(socket.as_raw_fd(), flags).map_err(unusable)?;
    Ok(Listening {
        socket,
        path,
        lock: None,
        spare: File::open("/dev/null").ok(),
    })
}

fn lock(path: &Path, wrap: impl Fn(io::Error) -> ListenError) -> Result<Flock<File>, ListenError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        // Not waiting: where others may write, it may be a FIFO of theirs.
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).bits())
        .open(name)
        .map_err(&wrap)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| match e {
        Errno::EWOULDBLOCK => ListenError::Running(path.to_path_buf()),
        e => wrap(e.into()),
    })
}

fn open(path: &Path, uid: u32) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    // Nobody can connect before `listen`, whatever the mode.
    let mode = if uid == 0 { 0o666 } else { 0o600 };
    // Where others may write, it may have become a link by now.
    fchmodat(None, path, Mode::from_bits_truncate(mode), NoFollowSymlink)
        .map_err(|_| Errno::EACCES)?;
    start(&socket, Backlog::new(1024)?)?;
    Ok(socket)
}

impl Listening {
    /// Without a free descriptor a waiting caller can be neither served nor refused, and the event
    /// loop would turn round and round. False: nobody could be turned away either.
    pub fn turn_one_away(&mut self) -> bool {
        drop(self.spare.take());
        let accepted = accept4(self.socket.as_raw_fd(), SockFlag::SOCK_CLOEXEC);
        if let Ok(raw) = accepted {
            // SAFETY: accept4 has just made this descriptor; nobody else knows it.
            drop(unsafe { OwnedFd::from_raw_fd(raw) });
        }
        self.spare = File::open("/dev/null").ok();
        accepted.is_ok()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if self.lock.is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket_at(kind: SockType, path: &Path) -> OwnedFd {
        let socket = socket(AddressFamily::Unix, kind, SockFlag::empty(), None).unwrap();
        bind(socket.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        socket
    }

    #[test]
    fn a_socket_of_systemd_is_used_and_left() {
        let dir = std::env::temp_dir().join(format!("smclo-listener-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let path = dir.join("good");
        let good = socket_at(SockType::SeqPacket, &path);
        start(&good, Backlog::new(1).unwrap()).unwrap();
        let listening = adopt(good).unwrap();
        assert_eq!(listening.path, path);
        drop(listening);
        assert!(path.exists());

        let stream = socket_at(SockType::Stream, &dir.join("stream"));
        start(&stream, Backlog::new(1).unwrap()).unwrap();
        let silent = socket_at(SockType::SeqPacket, &dir.join("silent"));
        for bad in [stream, silent] {
            assert!(matches!(adopt(bad), Err(ListenError::Activation)));
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
