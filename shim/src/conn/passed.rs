//! Connections that go to another process over a Unix socket, and those that come.
//!
//! Who receives a connection may claim it as if it had accepted it, when nobody else holds it any more.
//! That is not to be seen from its descriptor. It is known to the daemon, from the process that passed it
//! on: which did so once, and has closed it since. What was on a ring before stays on TCP: its peer's
//! half of the pair lasts as long as the connection.

use super::{Conn, Sock, flag, phase};
use crate::config::{self, Policy};
use crate::{calls, daemon, fds, os};
use std::ffi::c_int;
use std::sync::atomic::Ordering::*;

/// What the kernel says of a connection that comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// This end has called connect.
    pub client: bool,
    /// Bytes of the program that were given to TCP, and taken from it.
    pub sent: u64,
    pub taken: u64,
}

/// Looks at the counts of a busy connection until two looks agree.
const LOOKS: usize = 8;

impl Standing {
    /// `None`: no TCP connection, or one that is about to end, or that does not stand still.
    fn of(fd: c_int) -> Option<Standing> {
        let mut info = os::tcp_bytes(fd).ok()?;
        for _ in 0..LOOKS {
            if !info.established {
                return None;
            }
            let queued_out = os::ioctl_int(fd, libc::TIOCOUTQ).ok()? as u64;
            let queued_in = os::ioctl_int(fd, libc::FIONREAD).ok()? as u64;
            let again = os::tcp_bytes(fd).ok()?;
            if again == info {
                return Standing::from_counts(info, queued_out, queued_in);
            }
            info = again;
        }
        None
    }

    /// The peer's acknowledgement of a SYN counts as that of a byte: so the kernel's two counts of what
    /// was sent differ by one at the end that called connect.
    fn from_counts(info: os::TcpBytes, queued_out: u64, queued_in: u64) -> Option<Standing> {
        let given = info.acked + queued_out;
        let client = match given.checked_sub(info.unsent + info.first_sent)? {
            0 => false,
            1 => true,
            _ => return None,
        };
        Some(Standing {
            client,
            sent: given - u64::from(client),
            taken: info.received.checked_sub(queued_in)?,
        })
    }
}

fn cookie(fd: c_int) -> Option<u64> {
    os::sockopt_u64(fd, libc::SOL_SOCKET, libc::SO_COOKIE).ok()
}

/// The connection is about to be passed on, and still what it was.
pub fn passing(sock: Sock) {
    if config::policy() == Policy::Off {
        // A sandbox may forbid what is asked here.
        return;
    }
    if sock.has(flag::RECEIVED) {
        // The receiver of this one cannot know who else holds it.
        if let Some(cookie) = cookie(sock.fd) {
            daemon::passed(cookie, false);
        }
    } else if matches!(sock.phase(), phase::PLAIN | phase::CLAIMED)
        && !sock.has(flag::SHUT_RD | flag::SHUT_WR)
    {
        sock.set(flag::PASSED_ONCE);
    }
}

/// It was.
pub fn went(sock: Sock) {
    sock.set(flag::GIVEN);
    if !sock.has(flag::PASSED_ONCE) {
        return;
    }
    if !sock.set(flag::PASSED) {
        return kept(sock.conn);
    }
    if let Some(cookie) = cookie(sock.fd) {
        sock.row().cookie.store(cookie, Relaxed);
    } else {
        kept(sock.conn);
    }
}

/// Somebody else has it as well, or may have.
pub fn kept(conn: &Conn) {
    conn.clear(flag::PASSED_ONCE);
}

/// A program is about to be started: it has what it inherits, and its end is not seen.
pub fn inherited() {
    for sock in fds::socks(0, c_int::MAX) {
        if sock.has(flag::PASSED_ONCE) && calls::escape::inheritable(sock) {
            kept(sock.conn);
        }
    }
}

/// No process of the family holds it any more.
pub fn closed(conn: &Conn) {
    if conn.has(flag::PASSED) && conn.has(flag::PASSED_ONCE) {
        daemon::passed(conn.row().cookie.load(Relaxed), true);
    }
}

/// The connection that the descriptor means, if this process has it still and it was on a ring: it stays what it is, and
/// what may lie there yet is known here only.
fn at_home(fd: c_int) -> Option<&'static Conn> {
    fds::socks(0, c_int::MAX)
        .filter(|sock| sock.has(flag::LEAVE))
        .find(|sock| os::same_file(fd, sock.fd))
        .map(|sock| sock.conn)
}

/// A descriptor has come. `peeked`: and comes again, as another one, or to another process.
pub fn came(fd: c_int, peeked: bool) {
    if config::policy() == Policy::Off {
        return;
    }
    if let Some(conn) = at_home(fd) {
        if peeked {
            kept(conn);
        }
        return super::life::duplicated(conn, fd);
    }
    let Some(standing) = Standing::of(fd) else {
        return;
    };
    if !peeked {
        super::life::received(fd, standing);
    } else if let Some(cookie) = cookie(fd) {
        daemon::greet();
        daemon::passed(cookie, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_by_their_counts() {
        let info = |acked, first_sent, unsent| os::TcpBytes {
            established: true,
            acked,
            received: 50,
            first_sent,
            unsent,
            min_rtt: 0,
        };
        let of = |info, out| Standing::from_counts(info, out, 20);
        let standing = |client, sent| Standing {
            client,
            sent,
            taken: 30,
        };
        // All acknowledged; some on its way; some not sent yet.
        assert_eq!(of(info(101, 100, 0), 0), Some(standing(true, 100)));
        assert_eq!(of(info(100, 100, 0), 0), Some(standing(false, 100)));
        assert_eq!(of(info(61, 100, 0), 40), Some(standing(true, 100)));
        assert_eq!(of(info(60, 90, 10), 40), Some(standing(false, 100)));
        assert_eq!(of(info(100, 90, 0), 0), None);
        assert_eq!(of(info(80, 90, 0), 0), None);
    }
}
