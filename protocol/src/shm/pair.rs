//! The pair slot: what the two ends of one connection agree on outside their rings.
//!
//! * A **gate** per direction, owned by its receiver: while it is open, the receiver's library
//!   looks at this slot and at the TCP stream in every call, and a CLC message may be put onto the
//!   stream. `OPEN → BUSY` is the sender's right to put exactly one there, `OPEN → SWITCH` its right
//!   to change the direction word; the receiver can only shut an open gate.
//! * A **direction word** per direction says who carries it: TCP or the ring. It is changed by
//!   compare-and-swap only, so that of two crossing wishes one wins and the loser follows:
//!
//! ```text
//!   TCP(g) ──sender, gate held──▶ RING(g+1, start)      from the seam on; before it, over TCP
//!   RING ──sender──▶ FINAL(F)      bytes after ring position F go over TCP
//!   RING ──sender──▶ TWICE(C)      the sender gives TCP [C, produced) as well, for a reader that stands still
//!   TWICE(C) ──sender──▶ TWICE_ALL(C)    TCP has all of it, and bytes after it go there; else FINAL
//!   RING ──receiver─▶ FROZEN(C)    what follows C comes over TCP, once the sender knows
//!   FROZEN(C) ──receiver─▶ FROZEN(C')    until then, the receiver takes it from the ring
//!   FROZEN(C) ──sender──▶ REPEATING(C)   the sender repeats [C, produced) over TCP
//!   FINAL ──receiver, consumed up to F──▶ TCP        REPEATING ──sender, repeated──▶ TCP
//!   TWICE_ALL ──receiver, once TCP goes on where it stands──▶ TCP
//! ```
//! * Counts: what each receiver has consumed from the TCP stream; the **seam**, the place of that
//!   stream at which it goes on on the ring; and **behind**, at which it goes on behind the ring's end, where
//!   that is not the same.
//!
//! A receiver takes from the ring with plain stores, so a sender cannot know exactly what it has taken. It need not,
//! when it carries something twice: C is as far as the receiver had come for sure. What that has taken beyond C comes
//! once more over TCP, as the first there, and it lets it fall ([`Direction::owed`]).

use super::SLOT_LEN;
use super::sync::{AtomicU64, Ordering};
use crate::ids::Role;

/// Position bits of a direction word: 256 TiB through one ring.
const POS_BITS: u32 = 48;
const POS_MASK: u64 = (1 << POS_BITS) - 1;
const GENERATION_MASK: u16 = 0x1fff;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Carrier {
    Tcp = 0,
    Ring = 1,
    Final = 2,
    Frozen = 3,
    Repeating = 4,
    Twice = 5,
    TwiceAll = 6,
}

/// Value of a direction word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direction {
    /// Counts the periods on the ring (13 bits).
    pub generation: u16,
    pub carrier: Carrier,
    /// `Ring`: position at which the period starts; `Final`: F; the others: C.
    pub position: u64,
}

impl Direction {
    pub const fn word(self) -> u64 {
        (self.generation as u64 & GENERATION_MASK as u64) << (POS_BITS + 3)
            | (self.carrier as u64) << POS_BITS
            | self.position & POS_MASK
    }

    #[inline]
    pub const fn from_word(word: u64) -> Self {
        let carrier = match word >> POS_BITS & 7 {
            1 => Carrier::Ring,
            2 => Carrier::Final,
            3 => Carrier::Frozen,
            4 => Carrier::Repeating,
            5 => Carrier::Twice,
            6 => Carrier::TwiceAll,
            _ => Carrier::Tcp,
        };
        Direction {
            generation: (word >> (POS_BITS + 3)) as u16,
            carrier,
            position: word & POS_MASK,
        }
    }

    /// The absolute position at or after `base` that [`Direction::position`] means; `None` when
    /// it is not within `limit`.
    pub const fn position_after(self, base: u64, limit: u64) -> Option<u64> {
        let ahead = self.position.wrapping_sub(base) & POS_MASK;
        if ahead > limit.wrapping_sub(base) {
            None
        } else {
            Some(base + ahead)
        }
    }

    /// Receiver that reads TCP and has not frozen the ring, at ring position `consumed`: whether the
    /// sender has gone onto the ring. It may have left it again already (`Final`): what it put there
    /// in between comes before what is on TCP.
    pub const fn has_gone_onto_ring(self, consumed: u64, size: u32) -> bool {
        match self.carrier {
            // Nothing was taken in this period yet, so C is its start.
            Carrier::Ring | Carrier::Twice => self.position_after(consumed, consumed).is_some(),
            Carrier::Final => self
                .position_after(consumed, consumed + size as u64)
                .is_some(),
            Carrier::Tcp | Carrier::Frozen | Carrier::Repeating | Carrier::TwiceAll => false,
        }
    }

    /// Receiver of a `Twice` or `TwiceAll` direction at ring position `consumed`, which has taken `beyond` bytes from TCP
    /// since the seam: how many of those that TCP brings next it has taken from the ring. `None`: the peer breaks the rules.
    pub const fn owed(self, consumed: u64, size: u32, beyond: u64) -> Option<u64> {
        let earliest = consumed.saturating_sub(size as u64);
        match self.position_after(earliest, consumed) {
            Some(from) => (consumed - from).checked_sub(beyond),
            None => None,
        }
    }
}

/// A direction word in shared memory.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct DirectionWord(AtomicU64);

impl DirectionWord {
    #[inline]
    pub fn load(&self) -> Direction {
        Direction::from_word(self.0.load(Ordering::SeqCst))
    }

    fn change(&self, from: Direction, carrier: Carrier, position: u64) -> Result<(), Direction> {
        let to = Direction {
            carrier,
            position,
            ..from
        };
        self.swap(from, to)
    }

    fn swap(&self, from: Direction, to: Direction) -> Result<(), Direction> {
        self.0
            .compare_exchange(from.word(), to.word(), Ordering::SeqCst, Ordering::SeqCst)
            .map(drop)
            .map_err(Direction::from_word)
    }

    /// Sender, with the gate held and the seam written: the direction goes onto the ring at position
    /// `start`.
    pub fn to_ring(&self, start: u64) -> Result<Direction, Direction> {
        let from = self.load();
        if from.carrier != Carrier::Tcp {
            return Err(from);
        }
        let generation = from.generation.wrapping_add(1) & GENERATION_MASK;
        let to = Direction {
            generation,
            carrier: Carrier::Ring,
            position: start & POS_MASK,
        };
        self.swap(from, to).map(|()| to)
    }

    /// Sender: what follows ring position `end` goes over TCP.
    pub fn finish(&self, end: u64) -> Result<(), Direction> {
        let from = self.load();
        if from.carrier != Carrier::Ring {
            return Err(from);
        }
        self.change(from, Carrier::Final, end)
    }

    /// Sender: what lies on the ring from `taken` on goes over TCP as well.
    pub fn twice(&self, taken: u64) -> Result<(), Direction> {
        let from = self.load();
        if from.carrier != Carrier::Ring {
            return Err(from);
        }
        self.change(from, Carrier::Twice, taken)
    }

    /// Sender of a `Twice` direction: TCP has all of it.
    pub fn twice_all(&self) -> Result<(), Direction> {
        let from = self.load();
        if from.carrier != Carrier::Twice {
            return Err(from);
        }
        self.change(from, Carrier::TwiceAll, from.position)
    }

    /// Sender of a `Twice` direction, with `behind` written: TCP has not taken all of it, and what follows ring position
    /// `end` comes there.
    pub fn twice_in_part(&self, end: u64) -> Result<(), Direction> {
        let from = self.load();
        if from.carrier != Carrier::Twice {
            return Err(from);
        }
        self.change(from, Carrier::Final, end)
    }

    /// Receiver: what lies on the ring beyond `consumed` shall come over TCP.
    pub fn freeze(&self, consumed: u64) -> Result<(), Direction> {
        let from = self.load();
        if from.carrier != Carrier::Ring {
            return Err(from);
        }
        self.change(from, Carrier::Frozen, consumed)
    }

    /// Receiver that has found the direction to be `frozen`, and has copied what lies on the ring up to
    /// `consumed`: takes that. An error: the sender repeats it.
    pub fn take_frozen(&self, frozen: Direction, consumed: u64) -> Result<(), Direction> {
        self.change(frozen, Carrier::Frozen, consumed & POS_MASK)
    }

    /// Sender that has found the direction to be `frozen`: what the receiver has not taken so far it
    /// repeats. An error: the receiver has taken more.
    pub fn repeat(&self, frozen: Direction) -> Result<(), Direction> {
        self.change(frozen, Carrier::Repeating, frozen.position)
    }

    /// Receiver of a `Final` or `TwiceAll`, or sender of a `Repeating`, direction: all of it is over TCP now.
    pub fn to_tcp(&self) -> Result<(), Direction> {
        let from = self.load();
        match from.carrier {
            Carrier::Final | Carrier::Repeating | Carrier::TwiceAll => {
                self.change(from, Carrier::Tcp, 0)
            }
            _ => Err(from),
        }
    }
}

/// State of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum GateState {
    Shut = 0,
    Open = 1,
    /// A CLC message is, or will be in a moment, the next thing on the TCP stream.
    Busy = 2,
    /// The sender is changing the direction word; nothing comes over TCP.
    Switch = 3,
}

/// A gate in shared memory.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Gate(AtomicU64);

impl Gate {
    pub fn state(&self) -> GateState {
        match self.0.load(Ordering::SeqCst) {
            1 => GateState::Open,
            2 => GateState::Busy,
            3 => GateState::Switch,
            _ => GateState::Shut,
        }
    }

    fn change(&self, from: GateState, to: GateState) -> bool {
        self.0
            .compare_exchange(from as u64, to as u64, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// Receiver: opens; its consumed count is published.
    pub fn open(&self) -> bool {
        self.change(GateState::Shut, GateState::Open)
    }

    /// Receiver: shuts an open gate. False: the sender holds it.
    pub fn shut(&self) -> bool {
        self.change(GateState::Open, GateState::Shut) || self.state() == GateState::Shut
    }

    /// Sender: the right to put one CLC message onto the stream.
    pub fn hold_for_message(&self) -> bool {
        self.change(GateState::Open, GateState::Busy)
    }

    /// Sender: the message could not be sent after all.
    pub fn message_not_sent(&self) -> bool {
        self.change(GateState::Busy, GateState::Open)
    }

    /// Receiver: the message was taken off the stream; the gate is open again or shut.
    pub fn message_taken(&self, reopen: bool) {
        let to = if reopen {
            GateState::Open
        } else {
            GateState::Shut
        };
        self.change(GateState::Busy, to);
    }

    /// Sender: the right to change the direction word.
    pub fn hold_for_switch(&self) -> bool {
        self.change(GateState::Open, GateState::Switch)
    }

    /// Sender: done changing.
    pub fn switched(&self) {
        self.change(GateState::Switch, GateState::Open);
    }
}

/// Written by one end only.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct Counts {
    /// Application bytes that this end has read from the TCP stream.
    pub consumed: AtomicU64,
    /// Ring position that this end has taken: exact at every moment. The peer reads it to tell whether
    /// an end that was killed left something unread, and whether the ring is empty
    /// ([`super::ring::rebase`]).
    pub taken: AtomicU64,
    /// Application bytes that this end has sent over TCP before its direction went onto the ring.
    /// Written before the direction word; it holds until the receiver has followed.
    pub seam: AtomicU64,
    /// Application bytes that this end had sent over TCP when its direction became `Final`, if some of the ring's were
    /// among them: those before this count come once more.
    pub behind: AtomicU64,
}

/// The slot of a connection in the arena.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct PairSlot {
    /// Indexed by the sender's role.
    direction: [DirectionWord; 2],
    gate: [Gate; 2],
    /// Written by the daemon.
    hold: AtomicU64,
    pad: [u64; 3],
    /// Indexed by the writer's role.
    counts: [Counts; 2],
}

const _: () = assert!(size_of::<PairSlot>() <= SLOT_LEN || cfg!(loom));
/// Where the daemon writes an [`Order`].
pub const HOLD_AT: usize = std::mem::offset_of!(PairSlot, hold);

/// The daemon's order that both directions are to be carried by TCP for a time, which each end
/// counts by its own clock from when it sees the order: those of two time namespaces differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order(u64);

impl Order {
    /// `number` is another one for each order, and not 0. Longer times are cut to 49 days; none:
    /// the connection may go onto the ring again.
    pub fn new(number: u32, milliseconds: u64) -> Self {
        let time = u32::try_from(milliseconds).unwrap_or(u32::MAX);
        Order(u64::from(number) << 32 | u64::from(time))
    }

    pub fn word(self) -> u64 {
        self.0
    }

    pub fn milliseconds(self) -> u64 {
        self.0 & u64::from(u32::MAX)
    }
}

impl PairSlot {
    /// The daemon's last order; a sender that is on the ring leaves it. It lies beside the direction
    /// words, which every send looks at.
    #[inline]
    pub fn order(&self) -> Order {
        Order(self.hold.load(Ordering::Relaxed))
    }

    /// The direction in which `sender` sends.
    #[inline]
    pub fn direction(&self, sender: Role) -> &DirectionWord {
        match sender {
            Role::Client => &self.direction[0],
            Role::Server => &self.direction[1],
        }
    }

    /// The gate of the direction in which `sender` sends.
    pub fn gate(&self, sender: Role) -> &Gate {
        match sender {
            Role::Client => &self.gate[0],
            Role::Server => &self.gate[1],
        }
    }

    /// What `writer` publishes.
    pub fn counts(&self, writer: Role) -> &Counts {
        match writer {
            Role::Client => &self.counts[0],
            Role::Server => &self.counts[1],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn direction_word_round_trip() {
        for carrier in [
            Carrier::Tcp,
            Carrier::Ring,
            Carrier::Final,
            Carrier::Frozen,
            Carrier::Repeating,
            Carrier::Twice,
            Carrier::TwiceAll,
        ] {
            for generation in [0, 1, GENERATION_MASK] {
                let d = Direction {
                    generation,
                    carrier,
                    position: 0x1234_5678_9abc,
                };
                assert_eq!(Direction::from_word(d.word()), d);
            }
        }
    }

    #[test]
    fn one_of_two_crossing_wishes_wins() {
        let w = DirectionWord::default();
        assert!(w.finish(0).is_err());
        let ring = w.to_ring(5).unwrap();
        assert_eq!((ring.generation, ring.position), (1, 5));
        w.freeze(7).unwrap();
        assert_eq!(w.finish(9).unwrap_err().carrier, Carrier::Frozen);
        let frozen = w.load();
        w.take_frozen(frozen, 8).unwrap();
        let now = w.repeat(frozen).unwrap_err();
        assert_eq!((now.carrier, now.position), (Carrier::Frozen, 8));
        assert!(w.to_tcp().is_err());
        w.repeat(now).unwrap();
        assert_eq!(
            w.take_frozen(now, 9).unwrap_err().carrier,
            Carrier::Repeating
        );
        w.to_tcp().unwrap();
        assert_eq!(
            w.load(),
            Direction {
                generation: 1,
                carrier: Carrier::Tcp,
                position: 0
            }
        );
        assert_eq!(w.to_ring(9).unwrap().generation, 2);
    }

    #[test]
    fn what_was_carried_twice_is_known() {
        let w = DirectionWord::default();
        assert!(w.twice(0).is_err());
        w.to_ring(5).unwrap();
        w.twice(7).unwrap();
        assert_eq!(w.freeze(7).unwrap_err().carrier, Carrier::Twice);
        assert!(w.finish(9).is_err() && w.to_tcp().is_err());
        let owed = |consumed, beyond| w.load().owed(consumed, 100, beyond);
        assert_eq!(
            (owed(7, 0), owed(10, 0), owed(10, 2)),
            (Some(0), Some(3), Some(1))
        );
        assert_eq!((owed(10, 4), owed(6, 0), owed(108, 0)), (None, None, None));
        w.twice_all().unwrap();
        assert_eq!(w.load().position, 7);
        assert!(w.twice_all().is_err() && w.twice_in_part(9).is_err());
        w.to_tcp().unwrap();
        w.to_ring(9).unwrap();
        w.twice(9).unwrap();
        w.twice_in_part(12).unwrap();
        assert_eq!((w.load().carrier, w.load().position), (Carrier::Final, 12));
    }

    #[test]
    fn positions_beyond_reach_are_refused() {
        let d = Direction {
            generation: 1,
            carrier: Carrier::Final,
            position: 50,
        };
        assert_eq!(d.position_after(40, 60), Some(50));
        assert_eq!(d.position_after(51, 60), None);
        let base = (3 << 48) + 10;
        assert_eq!(d.position_after(base, base + 100), Some((3 << 48) + 50));
    }

    #[test]
    fn a_period_on_the_ring_that_is_over_is_not_missed() {
        let w = DirectionWord::default();
        assert!(!w.load().has_gone_onto_ring(7, 100));
        w.to_ring(7).unwrap();
        assert!(w.load().has_gone_onto_ring(7, 100));
        assert!(!w.load().has_gone_onto_ring(6, 100));
        w.finish(107).unwrap();
        assert!(w.load().has_gone_onto_ring(7, 100));
        assert!(!w.load().has_gone_onto_ring(6, 100));
        assert!(!w.load().has_gone_onto_ring(108, 100));
    }

    #[test]
    fn a_held_gate_is_not_shut_by_its_owner() {
        let g = Gate::default();
        assert!(!g.hold_for_message());
        assert!(g.open());
        assert!(g.hold_for_message());
        assert!(!g.shut());
        g.message_taken(true);
        assert!(g.hold_for_switch());
        assert!(!g.shut());
        g.switched();
        assert!(g.shut() && g.shut());
    }
}
