//! What the kernel says about a connection: an exact look-up over `NETLINK_SOCK_DIAG`.
//!
//! The kernel answers within `send`, so nothing here waits.

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType};
use nix::sys::socket::{recv, send, socket};
use protocol::ctl::{Claim, Endpoint};
use protocol::reason;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_HDR: usize = 16;
/// `struct inet_diag_req_v2` and `struct inet_diag_msg` without attributes.
const REQUEST: usize = NLMSG_HDR + 56;
const REPLY: usize = NLMSG_HDR + 72;
const SO_NETNS_COOKIE: libc::c_int = 71;

const TCP_ESTABLISHED: u8 = 1;
/// FIN_WAIT1, FIN_WAIT2, TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, CLOSING.
const CLOSING: [u8; 7] = [4, 5, 6, 7, 8, 9, 11];

/// A socket as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelSocket {
    pub state: u8,
    pub cookie: u64,
    pub uid: u32,
}

#[derive(Debug)]
pub struct Diag {
    netlink: OwnedFd,
    netns: u64,
    seq: u32,
}

impl Diag {
    pub fn open() -> io::Result<Self> {
        let netlink = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )?;
        let netns = netns_cookie(&netlink)?;
        Ok(Diag {
            netlink,
            netns,
            seq: 0,
        })
    }

    /// Cookie of the network namespace in which look-ups happen.
    pub fn netns(&self) -> u64 {
        self.netns
    }

    /// The socket with exactly this tuple, if there is one.
    pub fn lookup(
        &mut self,
        local: &Endpoint,
        peer: &Endpoint,
    ) -> io::Result<Option<KernelSocket>> {
        match (local.as_v4(), peer.as_v4()) {
            (Some(_), Some(_)) => match self.ask(libc::AF_INET, local, peer)? {
                None => self.ask(libc::AF_INET6, local, peer),
                found => Ok(found),
            },
            (None, None) => self.ask(libc::AF_INET6, local, peer),
            _ => Ok(None),
        }
    }

    fn ask(
        &mut self,
        family: libc::c_int,
        local: &Endpoint,
        peer: &Endpoint,
    ) -> io::Result<Option<KernelSocket>> {
        self.seq = self.seq.wrapping_add(1);
        send(
            self.netlink.as_raw_fd(),
            &request(self.seq, family, local, peer),
            MsgFlags::empty(),
        )?;
        let mut buf = [0; 1024];
        loop {
            let len = recv(self.netlink.as_raw_fd(), &mut buf, MsgFlags::MSG_DONTWAIT)?;
            let Some(reply) = buf.get(..len).filter(|r| r.len() >= NLMSG_HDR + 4) else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            if u32_at(reply, 8) != self.seq {
                continue;
            }
            return match u16::from_ne_bytes([reply[4], reply[5]]) {
                NLMSG_ERROR => match Errno::from_raw((u32_at(reply, 16) as i32).wrapping_neg()) {
                    Errno::ENOENT => Ok(None),
                    e => Err(e.into()),
                },
                SOCK_DIAG_BY_FAMILY if reply.len() >= REPLY => Ok(found(reply, local, peer)),
                _ => Err(io::ErrorKind::InvalidData.into()),
            };
        }
    }

    /// Believes a claim only as far as the kernel confirms it; else the reason for a refusal.
    /// `may`: whether the claimant may claim sockets of a user.
    pub fn verify(&mut self, claim: &Claim, may: impl Fn(u32) -> bool) -> Result<(), u32> {
        if claim.netns != self.netns {
            return Err(reason::NOT_VERIFIED);
        }
        let found = self.lookup(&claim.local, &claim.peer);
        let socket = found.ok().flatten().ok_or(reason::NOT_VERIFIED)?;
        if socket.cookie != claim.cookie || !may(socket.uid) {
            return Err(reason::NOT_VERIFIED);
        }
        match socket.state {
            TCP_ESTABLISHED => Ok(()),
            state if CLOSING.contains(&state) => Err(reason::PEER_CLOSING),
            _ => Err(reason::NOT_VERIFIED),
        }
    }
}

fn request(seq: u32, family: libc::c_int, local: &Endpoint, peer: &Endpoint) -> [u8; REQUEST] {
    let mut out = [0; REQUEST];
    out[0..4].copy_from_slice(&(REQUEST as u32).to_ne_bytes());
    out[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    out[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    out[8..12].copy_from_slice(&seq.to_ne_bytes());
    out[16] = family as u8;
    out[17] = libc::IPPROTO_TCP as u8;
    out[20..24].copy_from_slice(&u32::MAX.to_ne_bytes());
    out[24..26].copy_from_slice(&local.port.to_be_bytes());
    out[26..28].copy_from_slice(&peer.port.to_be_bytes());
    let (src, dst) = (address(family, local), address(family, peer));
    out[28..44].copy_from_slice(&src);
    out[44..60].copy_from_slice(&dst);
    out[60..64].copy_from_slice(&local.scope.max(peer.scope).to_ne_bytes());
    // INET_DIAG_NOCOOKIE: the cookie is compared by us.
    out[64..72].fill(0xff);
    out
}

/// The 16 address bytes of a request or reply of this family.
fn address(family: libc::c_int, end: &Endpoint) -> [u8; 16] {
    match end.as_v4() {
        Some(v4) if family == libc::AF_INET => {
            let mut out = [0; 16];
            out[..4].copy_from_slice(&v4);
            out
        }
        _ => end.addr,
    }
}

/// Reads an `inet_diag_msg`. A look-up may fall through to a listener or a socket in TIME_WAIT, so
/// the tuple is compared once more.
fn found(reply: &[u8], local: &Endpoint, peer: &Endpoint) -> Option<KernelSocket> {
    let body = &reply[NLMSG_HDR..];
    let family = libc::c_int::from(body[0]);
    let same = body[4..6] == local.port.to_be_bytes()
        && body[6..8] == peer.port.to_be_bytes()
        && body[8..24] == address(family, local)
        && body[24..40] == address(family, peer);
    same.then(|| KernelSocket {
        state: body[1],
        cookie: u64::from(u32_at(body, 44)) | u64::from(u32_at(body, 48)) << 32,
        uid: u32_at(body, 64),
    })
}

fn u32_at(raw: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]])
}

/// `SO_NETNS_COOKIE` of a socket.
pub fn netns_cookie(socket: &impl AsRawFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `cookie` and `len` live in this frame and `len` is the size of `cookie`.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    Errno::result(done)?;
    Ok(cookie)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, TcpListener, TcpStream};

    fn endpoint(a: SocketAddr) -> Endpoint {
        match a {
            SocketAddr::V4(a) => Endpoint::v4(a.ip().octets(), a.port()),
            SocketAddr::V6(a) => Endpoint {
                addr: a.ip().octets(),
                port: a.port(),
                zero: 0,
                scope: a.scope_id(),
            },
        }
    }

    fn check(listen: &str, connect: &str) {
        let listener = TcpListener::bind(listen).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect((connect, port)).unwrap();
        let (server, _) = listener.accept().unwrap();
        let mut diag = Diag::open().unwrap();
        let mut cookies = Vec::new();
        for end in [&client, &server] {
            let local = endpoint(end.local_addr().unwrap());
            let peer = endpoint(end.peer_addr().unwrap());
            let found = diag.lookup(&local, &peer).unwrap().unwrap();
            assert_eq!(found.state, TCP_ESTABLISHED);
            assert_eq!(found.uid, nix::unistd::geteuid().as_raw());
            cookies.push(found.cookie);
            let other = Endpoint {
                port: peer.port ^ 1,
                ..peer
            };
            assert_eq!(diag.lookup(&local, &other).unwrap(), None);
        }
        assert_ne!(cookies[0], cookies[1]);
    }

    #[test]
    fn v4() {
        check("127.0.0.1:0", "127.0.0.1");
    }

    #[test]
    fn v4_mapped() {
        check("[::]:0", "127.0.0.1");
    }

    #[test]
    fn v6() {
        check("[::1]:0", "::1");
    }
}
