//! Whether a connection can be claimed: what the kernel and the program say of its socket.

use crate::conn::{Sock, flag};
use crate::{config, epoll, os, uring};
use protocol::ctl::{Claim, Endpoint};
use protocol::ids::Role;
use protocol::reason;
use protocol::shm::{DMB_CODE_MAX, dmb_code, dmb_len};
use std::ffi::c_int;
use std::sync::atomic::Ordering::*;

/// RMB when the program did not set SO_RCVBUF: stays in the cache.
const DEFAULT_RMB: u32 = 256 << 10;

/// Why a connection is not claimed.
pub(super) enum Verdict {
    Never(u32),
    Later(u32),
}

use Verdict::{Later, Never};

/// What the kernel and the program say of the socket.
pub(super) fn examine(sock: Sock) -> Result<Claim, Verdict> {
    let fd = sock.fd;
    if fd <= 2 {
        return Err(Never(reason::STD_FD));
    }
    if uring::seen() {
        return Err(Never(reason::ASYNC_IO));
    }
    if sock.holders.load(Acquire) > 1 {
        return Err(Later(reason::SHARED));
    }
    let (local, peer) = endpoints(fd).ok_or(Later(reason::NOT_YET))?;
    if !is_local(&local, &peer) && !may_be_local(fd, &local, &peer) {
        return Err(Never(reason::NOT_LOCAL));
    }
    if local == peer {
        return Err(Never(reason::SELF_CONNECT));
    }
    if epoll::forbids(sock.conn) {
        return Err(Never(reason::EPOLL));
    }
    options(fd).map_err(Never)?;
    if os::sockopt_int(fd, libc::IPPROTO_TCP, crate::calls::inq::TCP_INQ).is_ok_and(|on| on != 0) {
        sock.set(flag::INQ);
    }
    let info = os::tcp_bytes(fd).map_err(|_| Later(reason::COUNTS))?;
    if !info.established {
        return Err(Never(reason::PEER_CLOSING));
    }
    if !counts_agree(sock, info) {
        // Bytes in flight make the counts differ for a moment; bytes that we never saw, for good.
        return Err(Later(reason::COUNTS));
    }
    let role = sock.role();
    Ok(Claim {
        claim: 0,
        cookie: os::sockopt_u64(fd, libc::SOL_SOCKET, libc::SO_COOKIE).unwrap_or(0),
        netns: os::sockopt_u64(fd, libc::SOL_SOCKET, os::SO_NETNS_COOKIE).unwrap_or(0),
        role,
        local,
        peer,
        original: original(fd, role, &local),
        rmb_size: rmb_size(fd),
        received: u8::from(sock.has(flag::RECEIVED)),
    })
}

fn endpoints(fd: c_int) -> Option<(Endpoint, Endpoint)> {
    Some((os::sockname(fd).ok()?, os::peername(fd).ok()?))
}

/// Both ends on this host: a loopback address, or the same address twice.
fn is_local(local: &Endpoint, peer: &Endpoint) -> bool {
    let loopback = match peer.as_v4() {
        Some([first, ..]) => first == 127,
        None => std::net::Ipv6Addr::from(peer.addr).is_loopback(),
    };
    loopback || local.addr == peer.addr
}

/// A round trip that no router and no cable between two hosts is fast enough for, microseconds.
const LOCAL_RTT: u32 = 100;

/// Whether the peer may be in another network namespace of this host, or the host may redirect the
/// connection to itself. The daemon finds out; connections to the internet never get that far.
fn may_be_local(fd: c_int, local: &Endpoint, peer: &Endpoint) -> bool {
    let near = match (local.as_v4(), peer.as_v4()) {
        (Some([a, b, c, _]), Some(to)) => {
            let to_ip = std::net::Ipv4Addr::from(to);
            let shared = to[0] == 100 && to[1] & 0xc0 == 64;
            to_ip.is_private() || to_ip.is_link_local() || shared || to[..3] == [a, b, c]
        }
        _ => {
            let to = std::net::Ipv6Addr::from(peer.addr);
            let unique_local = to.segments()[0] & 0xfe00 == 0xfc00;
            let link_local = to.segments()[0] & 0xffc0 == 0xfe80;
            unique_local || link_local || local.addr[..8] == peer.addr[..8]
        }
    };
    near || os::tcp_bytes(fd).is_ok_and(|info| info.min_rtt < LOCAL_RTT)
}

/// Options that only TCP can carry, as they may come from the listener too.
fn options(fd: c_int) -> Result<(), u32> {
    let get = |level, name| os::sockopt_int(fd, level, name).unwrap_or(0);
    if get(libc::SOL_SOCKET, libc::SO_RCVLOWAT) > 1 {
        return Err(reason::LOWAT);
    }
    if get(libc::SOL_SOCKET, libc::SO_OOBINLINE) != 0
        || get(libc::SOL_SOCKET, libc::SO_PROTOCOL) != libc::IPPROTO_TCP
    {
        return Err(reason::SOCKOPT);
    }
    let status = os::fcntl(fd, libc::F_GETFL, 0).unwrap_or(0) as c_int;
    if status & libc::O_ASYNC != 0 {
        return Err(reason::ASYNC_IO);
    }
    Ok(())
}

/// Whether the kernel has carried exactly the bytes that went through our hooks.
fn counts_agree(sock: Sock, info: os::TcpBytes) -> bool {
    let queued_out = os::ioctl_int(sock.fd, libc::TIOCOUTQ).unwrap_or(0) as u64;
    let queued_in = os::ioctl_int(sock.fd, libc::FIONREAD).unwrap_or(0) as u64;
    let syn = u64::from(sock.has(flag::CLIENT));
    let sent = (info.acked + queued_out).wrapping_sub(syn);
    let taken = info.received.wrapping_sub(queued_in);
    sent == sock.tx.sent.load(Acquire) && taken == sock.rx.taken.load(Acquire)
}

/// The destination that the client named, when the host rewrote it.
fn original(fd: c_int, role: Role, local: &Endpoint) -> Endpoint {
    if role == Role::Client {
        return Endpoint::default();
    }
    match os::original_destination(fd) {
        Some(to) if to != *local => to,
        _ => Endpoint::default(),
    }
}

fn rmb_size(fd: c_int) -> u32 {
    let wanted = match config::rcvbuf() {
        0 if os::rcvbuf_locked(fd) => {
            // The kernel reports twice what was asked for.
            (os::sockopt_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUF).unwrap_or(0) / 2) as u32
        }
        0 => DEFAULT_RMB,
        bytes => bytes,
    };
    dmb_len(dmb_code(wanted).min(DMB_CODE_MAX)).unwrap_or(DEFAULT_RMB)
}
