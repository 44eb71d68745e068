//! Our own traffic patterns, as ordinary socket programs: they know nothing of libsmclo.
//!
//! The client ends by printing one [`Report`] as JSON on a line of its own.

pub mod echo;
pub mod pingpong;
pub mod stream;

use hdrhistogram::Histogram;
use nix::sys::socket::{self, MsgFlags, sockopt};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

/// A connected stream socket, TCP or UNIX domain. Every send and receive is one call.
#[derive(Debug)]
pub struct Conn(OwnedFd);

/// True when an address is the path of a UNIX domain socket, not `host:port`.
fn is_path(at: &str) -> bool {
    at.starts_with('/')
}

/// How long a client waits for its server.
const PATIENCE: Duration = Duration::from_secs(10);

impl Conn {
    /// Connects; the server may still be on its way up.
    pub fn to(at: &str) -> Result<Conn> {
        let end = Instant::now() + PATIENCE;
        loop {
            let fd = if is_path(at) {
                UnixStream::connect(at).map(OwnedFd::from)
            } else {
                TcpStream::connect(at).map(OwnedFd::from)
            };
            match fd {
                Ok(fd) => return Conn::new(fd, at),
                Err(e) if may_come(e.kind()) && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(e) => return Err(e),
            }
        }
    }

    fn new(fd: OwnedFd, at: &str) -> Result<Conn> {
        if !is_path(at) {
            socket::setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
        }
        Ok(Conn(fd))
    }

    pub fn send(&self, bytes: &[u8]) -> Result<usize> {
        let flags = MsgFlags::MSG_NOSIGNAL;
        Ok(socket::send(self.0.as_raw_fd(), bytes, flags)?)
    }

    pub fn recv(&self, bytes: &mut [u8]) -> Result<usize> {
        Ok(socket::recv(self.0.as_raw_fd(), bytes, MsgFlags::empty())?)
    }

    pub fn send_all(&self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let n = self.send(bytes)?;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// Fills the buffer; false when the stream has ended before its first byte.
    pub fn recv_all(&self, bytes: &mut [u8]) -> Result<bool> {
        let mut have = 0;
        while have < bytes.len() {
            match self.recv(&mut bytes[have..])? {
                0 if have == 0 => return Ok(false),
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                n => have += n,
            }
        }
        Ok(true)
    }

    /// No more bytes from here; the other direction goes on.
    pub fn end_of_sending(&self) -> Result<()> {
        Ok(socket::shutdown(
            self.0.as_raw_fd(),
            socket::Shutdown::Write,
        )?)
    }
}

fn may_come(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionRefused | ErrorKind::NotFound)
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    at: String,
}

impl Listener {
    pub fn on(at: &str) -> Result<Listener> {
        let fd: OwnedFd = if is_path(at) {
            UnixListener::bind(at)?.into()
        } else {
            TcpListener::bind(at)?.into()
        };
        Ok(Listener { fd, at: at.into() })
    }

    pub fn accept(&self) -> Result<Conn> {
        let fd = socket::accept4(self.fd.as_raw_fd(), socket::SockFlag::SOCK_CLOEXEC)?;
        // SAFETY: a descriptor that accept4 has just made for us.
        Conn::new(unsafe { OwnedFd::from_raw_fd(fd) }, &self.at)
    }
}

/// Asks for as many descriptors as this process may have.
pub fn many_descriptors() -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// What a client has measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Messages (ping-pong and echo: exchanges) in the measured time.
    pub operations: f64,
    /// Those before it, which cost as much.
    #[serde(default)]
    pub warm_up: f64,
    pub seconds: f64,
    pub bytes: f64,
    /// Microseconds, by percentile.
    pub percentiles: BTreeMap<String, f64>,
}

impl Report {
    pub fn print(&self) -> Result<()> {
        println!("{}", serde_json::to_string(self).map_err(Error::other)?);
        Ok(())
    }
}

/// Latencies of exchanges.
#[derive(Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        // Three digits, 1 ns to a minute: fixed memory, so that nothing grows while it is measured.
        let histogram = Histogram::new_with_bounds(1, 60_000_000_000, 3);
        Latencies(histogram.expect("bounds that hdrhistogram takes"))
    }
}

impl Latencies {
    pub fn record(&mut self, took: Duration) {
        self.0.saturating_record(took.as_nanos() as u64);
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    pub fn percentiles(&self) -> BTreeMap<String, f64> {
        let at = |name: &&str| {
            let quantile = name.parse::<f64>().expect("a number") / 100.0;
            let micros = self.0.value_at_quantile(quantile) as f64 / 1e3;
            (name.to_string(), micros)
        };
        crate::results::PERCENTILES.iter().map(at).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_microseconds() {
        let mut latencies = Latencies::default();
        for us in 1..=1000 {
            latencies.record(Duration::from_micros(us));
        }
        let p = latencies.percentiles();
        assert!((p["50"] - 500.0).abs() < 2.0, "{p:?}");
        assert!((p["99.9"] - 999.0).abs() < 2.0, "{p:?}");
        assert!((p["100"] - 1000.0).abs() < 2.0, "{p:?}");
    }

    #[test]
    fn both_kinds_of_address_carry_bytes() {
        let dir = std::env::temp_dir().join(format!("traffic-{}", std::process::id()));
        let path = dir.to_str().unwrap().to_owned();
        let port = ::tests::net::free_port();
        for at in [path.as_str(), &format!("127.0.0.1:{port}")] {
            let listener = Listener::on(at).unwrap();
            let client = Conn::to(at).unwrap();
            let server = listener.accept().unwrap();
            client.send_all(b"hello").unwrap();
            client.end_of_sending().unwrap();
            let mut bytes = [0; 5];
            assert!(server.recv_all(&mut bytes).unwrap());
            assert_eq!(&bytes, b"hello");
            assert!(!server.recv_all(&mut bytes).unwrap());
        }
        std::fs::remove_file(dir).unwrap();
    }
}
