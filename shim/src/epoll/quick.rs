//! The short way of a look: a registration whose connection is on a ring both ways, at rest. Nearly every look ends
//! here. It decides nothing: whatever is not as usual is left to [`super::report`].

use super::reg::Reg;
use crate::conn::ready::{IN, OUT};
use crate::conn::{Sock, flag, rx, tx};
use protocol::shm::cdc;
use protocol::shm::pair::Carrier;
use std::sync::atomic::Ordering::*;

/// What a look has to take care of.
const UNUSUAL: u32 = flag::RESET
    | flag::DEAD
    | flag::LEAVE
    | flag::FIN_SEEN
    | flag::SHUT_RD
    | flag::SHUT_WR
    | flag::URGENT
    | flag::NOSPACE;

/// [`Reg::carriers`], with both directions on a ring.
const BOTH: u32 = 3;

impl Reg {
    /// Events to report now, as [`Reg::report`] would. `None`: there is more to look at.
    #[inline]
    pub fn quick(&self, sock: Sock, commit: bool) -> Option<u32> {
        let usual = sock.flags.load(Relaxed) & UNUSUAL == 0
            && sock.rx_ring()
            && sock.tx_ring()
            && sock.owed.load(Relaxed) == 0
            && sock.tx.repeat.load(Relaxed) == 0
            && self.carriers.load(Relaxed) == BOTH
            && !self.announced.seen().anything();
        if !usual || !at_rest(sock) {
            return None;
        }
        let events = self.asked();
        let asked = events as i16;
        let mut mask = 0;
        if asked & IN != 0 && rx::available(&sock) != 0 {
            mask |= asked & IN;
        }
        if asked & OUT != 0 {
            // Who waits for room has to be told when it comes.
            if !tx::has_room(&sock) {
                return None;
            }
            mask |= asked & OUT;
        }
        if mask == 0 {
            return Some(0);
        }
        let mark = match events & libc::EPOLLET as u32 {
            0 => 0,
            _ => self.mark(sock, 0, mask),
        };
        let news = self.tell(events, mark, commit);
        Some(if news { mask as u16 as u32 } else { 0 })
    }
}

/// Nobody has taken a direction off the ring, or wants it to leave.
#[inline]
fn at_rest(sock: Sock) -> bool {
    let Some(slot) = sock.slot() else {
        return false;
    };
    let ring = |sender| slot.direction(sender).load().carrier == Carrier::Ring;
    let ended = cdc::flag::CLOSED | cdc::flag::ABORT | cdc::flag::DONE_WRITING;
    ring(sock.role())
        && ring(sock.role().peer())
        && slot.order().word() == sock.tx.held.load(Relaxed)
        && tx::peer_flags(&sock) & ended == 0
}
