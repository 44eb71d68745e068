//! The pair that the daemon has made of two claims, put into the connection.

use super::{WAITING, claimed, install_for, missed};
use crate::conn::{Conn, hope, phase, step};
use crate::{config, daemon, lgr, lock, os, trace, wait};
use protocol::ctl::{self, DmbPlace, Paired};
use protocol::reason;
use protocol::shm::cdc::inverse;
use protocol::shm::ring::ring_size;
use protocol::shm::{DMB_CODE_MAX, SLOT_LEN, SLOTS_AT, dmb_len};
use protocol::trace::Kind;
use std::ffi::c_int;
use std::sync::atomic::Ordering::*;

/// Both ends are known, says the daemon of this session. Takes the descriptors over when it gives true.
pub fn paired(session: u32, m: &Paired, received: [c_int; ctl::MAX_FDS]) -> bool {
    let [arena, channel, wait, _] = received;
    let fresh = m.fresh != 0;
    let complete = arena >= 0 && channel >= 0 && wait >= 0;
    let side = lgr::side_id(m.lgr, m.side);
    if fresh && complete || lgr::worth_a_sweep() {
        lgr::sweep(session);
    }
    let group = if fresh && complete {
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
