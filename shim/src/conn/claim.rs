//! From plain TCP to a pair: when a connection is worth it, what forbids it, and what the daemon
//! answers.

use super::{Conn, Sock, close, flag, hope, kept, life, phase, step};
use crate::config::{self, Policy};
use crate::{clock, daemon, epoll, family, fds, lgr, lock, os, trace, uring, wait};
use protocol::ctl::{self, Claim, DmbPlace, Endpoint, Paired, Refused};
use protocol::ids::Role;
use protocol::reason;
use protocol::shm::cdc::inverse;
use protocol::shm::ring::ring_size;
use protocol::shm::{DMB_CODE_MAX, SLOT_LEN, SLOTS_AT, dmb_code, dmb_len};
use protocol::stats::ROWS;
use protocol::trace::Kind;
use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

/// RMB when the program did not set SO_RCVBUF: stays in the cache.
const DEFAULT_RMB: u32 = 256 << 10;

/// Connections that wait for the daemon's answer.
static WAITING: AtomicU32 = AtomicU32::new(0);

/// Where the daemon is behind, no connection asks before this time (monotonic nanoseconds).
static NOT_BEFORE: AtomicU64 = AtomicU64::new(0);
/// How long it is given.
const BREATH_NS: u64 = 1_000_000;

/// How long, and for how many bytes at least, a claim waits for that of the other end; for a quarter
/// of the bytes that there were before, if that is more. The other end comes to its own within an exchange.
const PATIENCE_NS: u64 = 100_000_000;
const PATIENCE_BYTES: u64 = 4 << 10;

/// Called after each counted call of a plain connection.
#[inline]
pub fn consider(sock: Sock) {
    // Only the daemon knows what the files say of this program.
    if !daemon::settled() && !config::own_policy() {
        if daemon::silent() {
            sock.reason(reason::NO_DAEMON);
        }
        return;
    }
    let worth = match config::policy() {
        Policy::Off => return,
        Policy::Eager => true,
        Policy::Default => {
            sock.exchanges.load(Relaxed) >= config::claim_exchanges()
                || sock.tcp_bytes() >= config::claim_bytes()
        }
    };
    if worth && sock.tcp_bytes() >= sock.reclaim_at.load(Relaxed) {
        attempt(sock);
    }
}

/// Asks again after as much traffic as there was until now, and some.
fn later(conn: &Conn, code: u32) {
    conn.reason(code);
    trace::event(conn, Kind::Postponed, code, conn.tcp_bytes());
    conn.reclaim_at.store(conn.tcp_bytes() * 2 + 4096, Relaxed);
}

fn attempt(sock: Sock) {
    if sock.phase() != phase::PLAIN || sock.plain.calls() != 0 {
        return;
    }
    // While a call went on, the number may have become another connection's.
    if !kept::names(sock.fd, sock.conn) {
        return;
    }
    let not_before = NOT_BEFORE.load(Relaxed);
    if not_before != 0 && clock::now() < not_before {
        return;
    }
    if !hope::may_claim(&sock) {
        return sock.reason(reason::NO_PEER_YET);
    }
    if os::on_signal_stack() {
        return;
    }
    life::describe(sock);
    trace::begin(&sock);
    match examine(sock) {
        Ok(mut claim) => {
            sock.claims.fetch_add(1, AcqRel);
            claim.claim = claim_id(sock.conn);
            // The phase first: the answer may come before this thread runs on.
            sock.claimant.store(lock::pid(), Relaxed);
            sock.clear(flag::ASKED_BACK);
            sock.claimed_at.store(clock::now(), Relaxed);
            let bytes = sock.tcp_bytes();
            let patience = PATIENCE_BYTES.max(bytes / 4);
            sock.reclaim_at.store(bytes + patience, Relaxed);
            if !sock.change_phase(phase::PLAIN, phase::CLAIMED) {
                return;
            }
            WAITING.fetch_add(1, Relaxed);
            sock.reason(reason::NO_PEER_YET);
            sock.row().cookie.store(claim.cookie, Relaxed);
            trace::event(&sock, Kind::Claimed, 0, sock.tcp_bytes());
            if let Err(code) = daemon::claim(&claim) {
                if sock.change_phase(phase::CLAIMED, phase::PLAIN) {
                    WAITING.fetch_sub(1, Relaxed);
                }
                if code == reason::DAEMON_BUSY {
                    // No fault of this connection's, which may have little traffic left to come.
                    NOT_BEFORE.store(clock::now() + BREATH_NS, Relaxed);
                    sock.reclaim_at.store(0, Relaxed);
                    return sock.reason(code);
                }
                later(&sock, code);
            }
        }
        Err(Verdict::Never(code)) => sock.bar(code),
        Err(Verdict::Later(code)) => later(&sock, code),
    }
}

/// Takes a claim back that the other end has not answered with its own: most likely it is no program
/// under the library, and careful calls cost more than plain ones. Whether it is too late for that only
/// the daemon knows, which may have paired the two in this very moment: it is asked first. One that does
/// not answer is told that the claim is over, and makes any pair of it void.
#[cold]
fn tire(sock: Sock) {
    if clock::now().wrapping_sub(sock.claimed_at.load(Relaxed)) < PATIENCE_NS {
        return;
    }
    if sock.claimant.load(Relaxed) != lock::pid() || sock.phase() != phase::CLAIMED {
        return;
    }
    if sock.set(flag::ASKED_BACK) {
        sock.claimed_at.store(clock::now(), Relaxed);
        daemon::withdraw(claim_id(sock.conn), false);
    } else if withdraw(sock.conn, phase::PLAIN) {
        given_back(sock.conn);
    }
}

/// The other end has not claimed the connection. The next attempt is at a total that both ends come to at
/// the same time, so that one which claims late still meets the other.
fn given_back(conn: &Conn) {
    hope::unanswered();
    conn.reason(reason::NO_PEER_YET);
    conn.reclaim_at.store(hope::next(conn.tcp_bytes()), Relaxed);
}

/// There was a pair, but one end had no memory for it, or was too late. It is worth another attempt when there was
/// some traffic more, at a total as in [`given_back`].
pub fn missed(conn: &Conn, code: u32) {
    conn.reason(code);
    conn.reclaim_at
        .store(hope::next(conn.tcp_bytes() + 4096), Relaxed);
}

/// Called by each careful call: reads what the daemon says while claims wait for it.
#[inline]
pub fn attend(sock: Sock) {
    if waiting() {
        daemon::poll();
        if sock.phase() == phase::CLAIMED && sock.tcp_bytes() >= sock.reclaim_at.load(Relaxed) {
            tire(sock);
        }
    } else if sock.phase() == phase::PAIRED && sock.step.load(Relaxed) == step::START {
        // The other end may not have taken the pair.
        daemon::poll();
    }
}

enum Verdict {
    Never(u32),
    Later(u32),
}

use Verdict::{Later, Never};

/// What the kernel and the program say of the socket.
fn examine(sock: Sock) -> Result<Claim, Verdict> {
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

pub fn endpoints(fd: c_int) -> Option<(Endpoint, Endpoint)> {
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

/// Names the connection among all of the family, at any time.
pub fn name(conn: &Conn) -> u64 {
    u64::from(conn.generation.load(Relaxed)) << 32 | u64::from(conn.index())
}

const _: () = assert!(ROWS <= 1 << 16);

/// Names its last claim.
fn claim_id(conn: &Conn) -> u64 {
    let nth = conn.claims.load(Acquire) & 0xffff;
    name(conn) | u64::from(nth) << 16
}

fn claimed(id: u64) -> Option<&'static Conn> {
    let conn = family::conn(id as u32 & 0xffff)?;
    (claim_id(conn) == id).then_some(conn)
}

/// Runs `install` on the connection of that claim, if it is there. While that runs, its place cannot become another
/// connection's, which may be claimed as well.
fn install_for(id: u64, install: impl FnOnce(&'static Conn) -> bool) -> bool {
    let found = family::conn(id as u32 & 0xffff).and_then(|conn| {
        let generation = conn.generation.load(Acquire);
        close::pinned(conn, generation, || claimed(id).is_some_and(install))
    });
    found == Some(true)
}

/// Whether some connection waits for the daemon.
#[inline]
pub fn waiting() -> bool {
    WAITING.load(Relaxed) != 0
}

/// The claim is not wanted any more. True: the connection is as if it had never been made.
pub fn withdraw(conn: &Conn, to: u32) -> bool {
    if conn.claimant.load(Relaxed) != lock::pid() || !conn.change_phase(phase::CLAIMED, to) {
        return false;
    }
    WAITING.fetch_sub(1, Relaxed);
    conn.reclaim_at.store(0, Relaxed);
    daemon::withdraw(claim_id(conn), true);
    trace::event(conn, Kind::Withdrawn, 0, 0);
    true
}

/// The daemon found no way.
pub fn refused(m: &Refused) {
    let Some(conn) = claimed(m.claim) else { return };
    if conn.claimant.load(Relaxed) != lock::pid() {
        return;
    }
    if conn.phase() == phase::PAIRED {
        return void(conn);
    }
    if conn.change_phase(phase::CLAIMED, phase::PLAIN) {
        WAITING.fetch_sub(1, Relaxed);
        if m.reason == reason::NO_PEER_YET {
            trace::event(conn, Kind::Withdrawn, 0, 0);
            return given_back(conn);
        }
        trace::event(conn, Kind::Refused, m.reason, 0);
        match m.reason {
            // Whoever passed it to this process may close its own descriptor yet.
            reason::DAEMON_BUSY | reason::ESCAPED => later(conn, m.reason),
            reason::MAX_DMB
            | reason::MEM
            | reason::NOT_VERIFIED
            | reason::POLICY_LIMIT
            | reason::NOT_LOCAL
            | reason::NETNS
            | reason::UNPROVEN => {
                conn.reason(m.reason);
                conn.reclaim_at
                    .store(conn.tcp_bytes() * 2 + (1 << 20), Relaxed);
            }
            code => conn.bar(code),
        }
    }
}

/// The other end has not taken the pair. If it had, the first step would not be left to be taken for long, and
/// nothing that the daemon says of it counts any more. The memory stays, for as long as the connection is there:
/// the daemon gives the same again to both when they have claimed anew.
fn void(conn: &Conn) {
    let first = conn
        .step
        .compare_exchange(step::START, step::VOID, AcqRel, Relaxed);
    if first.is_ok() {
        conn.reason(reason::NO_PEER_YET);
    }
}

/// Before the session ends: nobody is to wait for what it might still say.
pub fn withdraw_all() {
    for sock in fds::socks(0, c_int::MAX) {
        withdraw(sock.conn, phase::PLAIN);
    }
}

/// The daemon is gone: what waited for it goes back to being plain.
pub fn session_lost() {
    for sock in fds::socks(0, c_int::MAX) {
        if sock.claimant.load(Relaxed) == lock::pid()
            && sock.change_phase(phase::CLAIMED, phase::PLAIN)
        {
            WAITING.fetch_sub(1, Relaxed);
            later(&sock, reason::NO_DAEMON);
        }
    }
}

/// In the child of a fork.
pub fn forked() {
    WAITING.store(0, Relaxed);
}

/// Both ends are known, says the daemon of this session. Takes the descriptors over when it gives true.
pub fn paired(session: u32, m: &Paired, received: [c_int; ctl::MAX_FDS]) -> bool {
    let [arena, channel, wait, _] = received;
    let fresh = m.fresh != 0;
    let complete = arena >= 0 && channel >= 0 && wait >= 0;
    let side = lgr::side_id(m.lgr, m.side);
    let group = if fresh && complete {
        lgr::sweep();
        lgr::add(session, side, m.arena_len, [arena, channel, wait]).ok()
    } else {
        lgr::find(session, side)
    };
    let installed = group.is_some_and(|group| install_for(m.claim, |conn| install(m, group, conn)));
    if !installed {
        // The other end is not to wait for this one.
        daemon::withdraw(m.claim, true);
        not_installed(m.claim, group.is_some());
    }
    fresh && complete
}

/// There was no memory for the pair of a claim. There may be some later, unless what the whole link group needs
/// (`grouped`: it is there) could not be had, or the connection keeps the memory of another pair (of the last
/// daemon's, or of a parent's session).
fn not_installed(claim: u64, grouped: bool) {
    let Some(conn) = claimed(claim) else { return };
    let again = grouped && conn.slot().is_none();
    if conn.phase() == phase::CLAIMED && again {
        missed(conn, reason::MEM);
        trace::event(conn, Kind::Postponed, reason::MEM, conn.tcp_bytes());
    }
    if conn.change_phase(phase::CLAIMED, phase::PLAIN) {
        WAITING.fetch_sub(1, Relaxed);
        if !again {
            conn.bar(reason::MEM);
        }
    }
}

/// Whether `[offset, offset + len)` lies behind the arena's first page and within it.
fn inside(offset: u64, len: u64, arena: u64) -> bool {
    offset >= SLOTS_AT as u64 && offset.checked_add(len).is_some_and(|end| end <= arena)
}

fn dmb_ok(dmb: &DmbPlace, arena: u64) -> bool {
    let known = (0..=DMB_CODE_MAX).any(|code| dmb_len(code) == Some(dmb.len));
    known && dmb.offset.is_multiple_of(4096) && inside(dmb.offset, u64::from(dmb.len), arena)
}

fn install(m: &Paired, group: u32, conn: &Conn) -> bool {
    let Some(lgr) = lgr::get(group) else {
        return false;
    };
    let len = lgr.mapped.len();
    if m.role != conn.role()
        || !inside(m.slot, SLOT_LEN as u64, len)
        || !m.slot.is_multiple_of(SLOT_LEN as u64)
        || !dmb_ok(&m.own, len)
        || !dmb_ok(&m.peer, len)
    {
        return false;
    }
    if conn.phase() != phase::CLAIMED || conn.claimant.load(Relaxed) != lock::pid() {
        return false;
    }
    let ends = [
        m.slot + SLOT_LEN as u64,
        m.own.offset + u64::from(m.own.len),
        m.peer.offset + u64::from(m.peer.len),
    ];
    if ends.iter().any(|end| lgr.mapped.open(*end).is_err()) {
        return false;
    }
    let base = lgr.mapped.arena().cast_const();
    let at = |offset: u64| base.wrapping_add(offset as usize);
    let (slot, own, peer) = (at(m.slot), at(m.own.offset), at(m.peer.offset));
    // The pair that this end has kept since the other did not take it: all is in its place.
    let kept = conn.slot().is_some();
    if kept && (conn.pair.load(Relaxed) != m.pair || !conn.is_attached(slot, own, peer)) {
        return false;
    }
    conn.pair.store(m.pair, Relaxed);
    conn.lgr.store(group, Relaxed);
    conn.own_token.store(m.own.token, Relaxed);
    conn.peer_token.store(m.peer.token, Relaxed);
    conn.own_index.store(m.own.index, Relaxed);
    conn.peer_index.store(m.peer.index, Relaxed);
    let (rx_size, tx_size) = (ring_size(m.own.len), ring_size(m.peer.len));
    conn.rx.size.store(rx_size, Relaxed);
    conn.rx.inverse.store(inverse(rx_size), Relaxed);
    conn.tx.size.store(tx_size, Relaxed);
    conn.tx.inverse.store(inverse(tx_size), Relaxed);
    conn.step.store(step::START, Relaxed);
    // Given up at once, and not a second time when the connection is closed: this process may hold the other end,
    // too.
    let give_up = || {
        conn.pair.store(0, Relaxed);
        false
    };
    if config::copy_mode() && !kept {
        // In memory of the family: a child that goes on sending uses the same.
        let Ok(at) = os::map_anonymous_shared(conn.tx.size.load(Relaxed) as usize) else {
            return give_up();
        };
        conn.tx.sndbuf.store(at as u64, Relaxed);
        let len = conn.tx.size.load(Relaxed);
        conn.row().sndbuf_len.store(len, Relaxed);
    }
    if !kept {
        conn.attach(slot, own, peer);
        lgr::join(conn, group);
    }
    wait::introduce(conn);
    if !conn.change_phase(phase::CLAIMED, phase::PAIRED) {
        if kept {
            return false;
        }
        // Taken back meanwhile. It is not in the link group, and does not leave it at its end.
        conn.attach(std::ptr::null(), std::ptr::null(), std::ptr::null());
        lgr::leave(conn.index(), conn.generation.load(Relaxed));
        return give_up();
    }
    WAITING.fetch_sub(1, Relaxed);
    hope::answered();
    let row = conn.row();
    conn.reason(reason::HANDSHAKE);
    trace::event(conn, Kind::Paired, 0, m.lgr.into());
    row.lgr.store(m.lgr, Relaxed);
    row.token.store(m.own.token, Relaxed);
    row.peer_token.store(m.peer.token, Relaxed);
    row.dmb_len.store(m.own.len, Relaxed);
    row.peer_dmb_len.store(m.peer.len, Relaxed);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last holder closes a connection while its pair is installed: the place is not given back before that is
    /// over, and nothing is installed for the same claim then.
    #[test]
    fn a_place_is_kept_while_a_pair_is_installed() {
        assert!(family::ready());
        let Some(conn) = family::allocate() else {
            unreachable!("room for a connection")
        };
        let (id, generation) = (claim_id(conn), conn.generation.load(Acquire));
        let installed = install_for(id, |found| {
            assert!(std::ptr::eq(found, conn));
            assert!(conn.life().leave());
            close::finish(conn);
            assert_eq!(conn.generation.load(Acquire), generation);
            true
        });
        assert!(installed);
        assert_ne!(conn.generation.load(Acquire), generation);
        assert!(!install_for(id, |_| unreachable!("it is gone")));
    }
}
