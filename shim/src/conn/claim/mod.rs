//! From plain TCP to a pair: when a connection is worth it, what forbids it, and what the daemon
//! answers.

use super::{Conn, Sock, close, flag, hope, kept, life, phase, step};
use crate::config::{self, Policy};
use crate::{clock, daemon, family, fds, lock, os, trace};
use examine::{Verdict, examine};
use protocol::ctl::Refused;
use protocol::reason;
use protocol::stats::ROWS;
use protocol::trace::Kind;
use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

mod examine;
mod install;

pub use install::paired;

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
            // It may have come from a parent, which has closed it.
            sock.row().pid.store(lock::pid(), Relaxed);
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
