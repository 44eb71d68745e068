//! What is on the active list of a set.
//!
//! A registration is *hot* (on the list) from the moment that something may have become of it until
//! it was looked at in vain for a while. What can change while it is cold is told: by the peer's hint
//! ([`protocol::shm::wait::Hints`]), by the kernel's event for its tag, or by [`stir`] where this
//! process changes the connection's state. So thousands of idle connections cost nothing.

use super::mine::Mine;
use super::reg::{self, Reg, state};
use super::set::{self, Set};
use super::shown;
use super::table::View;
use crate::conn::ready;
use crate::conn::{Conn, Sock, flag, phase, tx};
use crate::{family, lgr, wait};
use protocol::shm::pair::{Carrier, GateState};
use protocol::shm::sync::fence;
use protocol::shm::wait::HINTS;
use protocol::stats::ROWS;
use std::sync::atomic::Ordering::*;

/// Looks in vain after which a registration becomes cold.
const PATIENCE: u32 = 16;

impl Set {
    /// Puts a converted registration on the list. False: there is no room for it. The caller holds
    /// the lists of the set.
    pub fn heat(&self, reg: &Reg, conn: &Conn) -> bool {
        let Some(mine) = self.enter(reg) else {
            return false;
        };
        mine.vain.store(0, Relaxed);
        if mine.place.load(Relaxed) != 0 {
            return true;
        }
        let Some(ctx) = self.ctx() else {
            return self.active.insert(reg, mine);
        };
        if mine.watched.load(Relaxed) != 0 {
            wait::call_cold(conn, ctx, false);
        } else if wait::watch(conn, ctx) {
            mine.watched.store(1, Relaxed);
        } else {
            return false;
        }
        let done = self.active.insert(reg, mine);
        if !done {
            mine.watched.store(0, Relaxed);
            wait::unwatch(conn, ctx);
        }
        done
    }

    /// The kernel reported `events` for the tag of a registration.
    pub fn note(&self, reg: &'static Reg, events: u32) {
        reg.note(events);
        let cold = |mine: &&Mine| mine.place.load(Relaxed) == 0 && mine.counted.load(Relaxed) != 0;
        if self.mine(reg).filter(cold).is_some()
            && let Some(table) = self.known()
        {
            let held = table.lists.lock();
            if reg.state.load(Relaxed) == state::OURS
                && self.has(reg)
                && let Some(conn) = family::conn(reg.conn.load(Relaxed))
            {
                self.heat(reg, conn);
            }
            table.lists.unlock(held);
        }
    }

    /// Puts all registrations of a connection on the list: nobody gives hints any more. The caller
    /// holds the lists of the set.
    pub fn heat_all(&self, conn: &Conn) {
        let Some(table) = self.known() else { return };
        for reg in table.of(conn).filter(|reg| self.has(reg)) {
            if reg.state.load(Relaxed) == state::OURS {
                self.heat(reg, conn);
            }
        }
    }

    /// Puts all that is converted on the list, and has the kernel asked about it.
    pub fn look_at_all(&self) {
        let Some(view) = self.view() else { return };
        let held = view.table.lists.lock();
        for (reg, mine) in view.used().filter(|(reg, mine)| mine.is_of(reg)) {
            if self.has(reg)
                && reg.state.load(Relaxed) == state::OURS
                && mine.counted.load(Relaxed) != 0
                && let Some(conn) = family::conn(reg.conn.load(Relaxed))
            {
                reg.announced.note(libc::EPOLLIN as u32);
                self.heat(reg, conn);
            }
        }
        view.table.lists.unlock(held);
        if let Some(ctx) = self.ctx() {
            // SYNC: sleep/publish. A thread that was rung for this may sleep again already.
            fence(SeqCst);
            if ctx.word().sleepers() {
                ctx.ring();
            }
        }
    }

    /// Counts a look that found nothing.
    #[inline]
    pub fn looked_in_vain(&self, reg: &'static Reg, mine: &'static Mine) {
        // Another thread's look at the same time need not count.
        let vain = mine.vain.load(Relaxed);
        mine.vain.store(vain + 1, Relaxed);
        if vain >= PATIENCE {
            self.cool(reg, mine);
        }
    }

    /// Takes those off the list that the program has deleted.
    pub fn cool_dormant(&self) {
        let Some(view) = self.view() else { return };
        loop {
            let moves = self.active.moves();
            for (reg, mine) in self.active.places().iter().filter_map(|at| view.at(at)) {
                if reg.state.load(Relaxed) == state::DORMANT {
                    self.cool(reg, mine);
                }
            }
            if self.active.moves() == moves {
                return;
            }
        }
    }

    /// Takes a registration off the list, if all that can become of it will be told.
    pub fn cool(&self, reg: &'static Reg, mine: &'static Mine) {
        let Some(view) = self.view() else { return };
        let held = view.table.lists.lock();
        mine.vain.store(0, Relaxed);
        if mine.place.load(Relaxed) != 0 {
            match reg.state.load(Relaxed) {
                // A relative has removed it, or given it back to the kernel.
                state::FREE | state::KERNEL | state::TAGGED => self.disown(view, mine),
                _ if !mine.is_of(reg) || reg.over() => self.disown(view, mine),
                state::SHOWN if shown::is_over(reg) => self.disown(view, mine),
                state::SHOWN => {}
                // The peer is not to ring for it. It is watched again when it is revived.
                state::DORMANT => self.unlist(view, mine),
                _ => self.cool_ours(view, reg, mine),
            }
        }
        view.table.lists.unlock(held);
    }

    fn cool_ours(&self, view: View, reg: &'static Reg, mine: &'static Mine) {
        let (Some(sock), Some(ctx)) = (reg.sock(), self.ctx()) else {
            return;
        };
        let group = sock.lgr.load(Relaxed).wrapping_sub(1);
        let Some(groups) = self.active.groups.get(group as usize / 64) else {
            return;
        };
        if !can_be_cold(sock, reg) || mine.watched.load(Relaxed) == 0 {
            return;
        }
        groups.fetch_or(1 << (group % 64), SeqCst);
        if !wait::call_cold(sock.conn, ctx, true) {
            return;
        }
        if reg.report(false) != 0 || !can_be_cold(sock, reg) {
            wait::call_cold(sock.conn, ctx, false);
        } else {
            self.active.take_out(view, mine);
        }
    }

    /// Calls `f` with each link group that may have hints for the set, until it gives true.
    fn any_group(&self, mut f: impl FnMut(u32, u32) -> bool) -> bool {
        let Some(ctx) = self.ctx() else { return false };
        (0..).zip(&self.active.groups).any(|(at, word)| {
            let mut bits = word.load(Relaxed);
            while bits != 0 {
                if f(at * 64 + bits.trailing_zeros() + 1, ctx.number) {
                    return true;
                }
                bits &= bits - 1;
            }
            false
        })
    }

    /// Whether there are hints.
    pub fn hinted(&self) -> bool {
        self.any_group(|group, n| {
            lgr::get(group)
                .and_then(|g| g.visit(n, |hints| hints.any()))
                .unwrap_or(false)
        })
    }

    /// Puts what there are hints for on the list. True: there were some.
    pub fn take_hints(&self) -> bool {
        if !self.hinted() {
            return false;
        }
        let Some(table) = self.known() else {
            return false;
        };
        let held = table.lists.lock();
        self.any_group(|group, n| {
            let heat = |number| self.heat_numbered(group, number);
            let there = lgr::get(group).and_then(|g| g.visit(n, |hints| hints.take(heat)));
            if there.is_none()
                && let Some(word) = self.active.groups.get((group - 1) as usize / 64)
            {
                // All its connections are gone.
                word.fetch_and(!(1 << ((group - 1) % 64)), Relaxed);
            }
            false
        });
        table.lists.unlock(held);
        true
    }

    /// The caller holds the lists of the set.
    fn heat_numbered(&self, group: u32, number: u32) {
        let high = family::table().map_or(0, |table| table.high.load(Relaxed));
        for index in (number..high.min(ROWS as u32)).step_by(HINTS as usize) {
            let Some(conn) = family::conn(index) else {
                return;
            };
            if conn.lgr.load(Relaxed) == group {
                self.heat_all(conn);
            }
        }
    }

    /// A registration has something to report that no bell has rung for. The caller holds the lists of the set.
    pub fn rouse(&self, reg: &Reg) {
        if let Some(ctx) = self.ctx() {
            // SYNC: sleep/publish. Whoever sleeps did not see it hot.
            fence(SeqCst);
            // Who sleeps in a poll of the set has only the kernel to hear from.
            if (ctx.word().sleepers() || self.foreign()) && reg.report(false) != 0 {
                ctx.ring();
            }
        }
    }
}

/// Whether each change that matters to `reg` is told. A direction on TCP is as well as one on a ring: its
/// bytes, and messages of a handshake, are the kernel's to tell, and who goes onto the ring with it tells when
/// it has published something there.
fn can_be_cold(sock: Sock, reg: &Reg) -> bool {
    // One that is on TCP for good stands where it was left.
    let left = sock.phase() == phase::BARRED;
    let ours_alone = (left || sock.phase() == phase::PAIRED && !sock.has(flag::LEAVE))
        && sock.holders.load(Relaxed) == 1;
    let Some(slot) = sock.slot() else {
        return false;
    };
    let own = sock.role();
    let on_tcp = |sender| slot.direction(sender).load().carrier == Carrier::Tcp;
    let gate = slot.gate(own.peer()).state();
    let at_rest = matches!(gate, GateState::Open | GateState::Shut);
    let waits_for_room = reg.wants_room() && (!sock.tx_ring() || !tx::has_room(&sock));
    ours_alone
        && (sock.rx_ring() || at_rest && on_tcp(own.peer()) && sock.rx.frozen.load(Relaxed) == 0)
        && (sock.tx_ring() || on_tcp(own) && sock.tx.repeat.load(Relaxed) == 0)
        && !ready::ending(sock)
        && !sock.has(flag::RESET | flag::DEAD | flag::SHUT_WR | flag::NOSPACE)
        && !waits_for_room
}

/// A direction has left the ring: the kernel has something to say about it from here on, or has said so
/// before anybody listened.
pub fn ask(conn: &Conn) {
    reg::each(conn, |table| {
        for reg in table.of(conn).filter(|reg| reg.converted()) {
            reg.announced.note(libc::EPOLLIN as u32);
        }
    });
}

/// This process has changed the state of a connection in a way that its sets may have to report.
pub fn stir(conn: &Conn) {
    reg::each(conn, |table| {
        for reg in table.of(conn) {
            if reg.state.load(Relaxed) == state::OURS
                && let Some(set) = set::of(reg)
                && let Some(mine) = set.mine(reg)
                && mine.place.load(Relaxed) == 0
                && mine.counted.load(Relaxed) != 0
            {
                set.heat(reg, conn);
                if let Some(ctx) = set.ctx().filter(|ctx| ctx.word().sleepers()) {
                    ctx.ring();
                }
            }
        }
    });
}

/// As [`stir`], after a call of this process that the kernel's sets hear of as of an event.
pub fn rouse(conn: &Conn) {
    stir(conn);
    reg::each(conn, |table| {
        for reg in table
            .of(conn)
            .filter(|reg| reg.state.load(Relaxed) == state::OURS)
        {
            if let Some(set) = set::of(reg) {
                set.rouse(reg);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os;
    use protocol::shm::pair::PairSlot;
    use protocol::shm::ring::DmbHeader;

    fn leaked<T>() -> &'static T {
        let Ok(at) = os::map_anonymous(size_of::<T>()) else {
            unreachable!()
        };
        // SAFETY: zeroed memory for a T of atomics, never unmapped.
        unsafe { &*at.cast::<T>() }
    }

    /// Also while a handshake stands between two messages, where nothing happens without traffic.
    #[test]
    fn cold_is_what_waits_for_others() {
        let (conn, reg): (&Conn, &Reg) = (leaked(), leaked());
        let slot: &PairSlot = leaked();
        let (own, peer): (&DmbHeader, &DmbHeader) = (leaked(), leaked());
        conn.attach(
            std::ptr::from_ref(slot).cast(),
            std::ptr::from_ref(own).cast(),
            std::ptr::from_ref(peer).cast(),
        );
        let sock = Sock { fd: -1, conn };
        let (incoming, outgoing) = (sock.role().peer(), sock.role());
        assert!(!can_be_cold(sock, reg), "not paired");
        conn.phase.store(phase::PAIRED, Relaxed);
        conn.holders.store(1, Relaxed);
        assert!(can_be_cold(sock, reg), "TCP both ways");
        assert!(slot.gate(incoming).open());
        assert!(can_be_cold(sock, reg));
        assert!(slot.gate(incoming).hold_for_message());
        assert!(!can_be_cold(sock, reg), "a message comes");
        slot.gate(incoming).message_taken(true);
        assert!(slot.direction(incoming).to_ring(0).is_ok());
        assert!(
            !can_be_cold(sock, reg),
            "the way onto the ring is not followed yet"
        );
        conn.rx.ring.store(1, Relaxed);
        assert!(can_be_cold(sock, reg), "a ring one way");
        assert!(slot.direction(outgoing).to_ring(0).is_ok());
        conn.tx.ring.store(1, Relaxed);
        assert!(can_be_cold(sock, reg));
        conn.tx.ring.store(0, Relaxed);
        assert!(!can_be_cold(sock, reg), "the way off the ring is not over");
        conn.tx.ring.store(1, Relaxed);
        conn.flags.store(flag::FIN_SEEN, Relaxed);
        assert!(!can_be_cold(sock, reg), "an end has to be reported");
    }
}
