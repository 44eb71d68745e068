//! The two ends of a ring: producer (send side) and consumer (the owner of the RMB).
//!
//! A DMB starts with what the *peer* writes into it ([`DmbHeader`]); the ring follows at
//! [`RING_AT`]. The private state of an end ([`Producer`], [`Consumer`]) lives where only the owning
//! family can write; what is read from the DMB is checked against it.
//!
//! No-copy mode writes payload straight into the peer's RMB. Copy mode writes it into a private
//! sndbuf first and moves it from there, as `move_data` does.

use super::cdc::{self, BadCursor, Cursor, Place};
use super::sync::{AtomicU32, AtomicU64, Ordering, fence};

/// Bytes of a message that lie beside the cursor.
pub const SMALL: u32 = 36;

/// Start of a DMB. The first cache line is what the owner waits for: the CDC message, and the last message
/// itself, where it is small. The second line is what the peer says of itself, and seldom changes.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct DmbHeader {
    /// [`cdc::CDC_TYPE`] in the first byte.
    pub kind: AtomicU32,
    /// Offset in the ring of what the cursors count as 0 ([`rebase`]).
    pub base: AtomicU32,
    /// Producer cursor of the stream into this DMB.
    pub producer: AtomicU64,
    /// Consumer cursor of the opposite stream, with all flags.
    pub consumer: AtomicU64,
    /// Which message lies in `small` ([`note`]); 0: none.
    note: AtomicU32,
    small: [AtomicU32; SMALL as usize / 4],
    /// Wait contexts of the peer that watch the connection: eight `u16`, context number + 1, and
    /// [`super::wait::COLD`].
    pub watchers: [AtomicU64; 2],
    /// CPU + 1 on which the peer waited last, 0 if it did not yet.
    pub cpu: AtomicU32,
    /// The number under which the peer wants hints for the connection ([`super::wait::Hints`]).
    pub hint: AtomicU32,
}

const _: () = assert!(size_of::<DmbHeader>() == RING_AT as usize || cfg!(loom));

/// Offset of the ring in a DMB: what the peer polls and payload do not share a line.
pub const RING_AT: u32 = 128;

/// A message of `n` bytes, 1 to [`SMALL`], from `position` on: 26 bits of that, many times the length of a ring.
const fn note(position: u64, n: u32) -> u32 {
    (position as u32) << 6 | n
}

impl DmbHeader {
    /// Sender, before it publishes a message of `n` bytes that lies in the ring: `fill` puts a small one beside
    /// the cursor as well, so that the receiver waits for one cache line and not for two.
    #[inline]
    pub fn put_small(&self, position: u64, n: u32, fill: impl FnOnce(&[AtomicU32])) {
        self.note.store(0, Ordering::Relaxed);
        if n <= SMALL {
            // SYNC: small. Who reads the last message there meanwhile finds that its note has gone.
            fence(Ordering::Release);
            fill(&self.small);
            self.note.store(note(position, n), Ordering::Relaxed);
        }
    }

    /// Receiver, after it has loaded a new producer cursor: takes the first `n` bytes of the message that starts
    /// at `position` by `take`, if that is the one beside the cursor. False: what was taken, if anything was, does
    /// not count; the bytes are in the ring.
    #[inline]
    pub fn take_small(&self, position: u64, n: u32, take: impl FnOnce(&[AtomicU32])) -> bool {
        let seen = self.note.load(Ordering::Relaxed);
        let len = seen & 63;
        if n > len || len > SMALL || seen != note(position, len) {
            return false;
        }
        take(&self.small);
        // SYNC: small. Before the note is looked at once more.
        fence(Ordering::Acquire);
        self.note.load(Ordering::Relaxed) == seen
    }

    /// Whether the last message lies beside the cursor.
    #[inline]
    pub fn has_small(&self) -> bool {
        self.note.load(Ordering::Relaxed) != 0
    }
}

/// Bytes of the ring in a DMB of `dmb` bytes.
pub const fn ring_size(dmb: u32) -> u32 {
    dmb - RING_AT
}

/// Until here a ring is filled before anybody looks whether it may be used from its start again.
const FIRST: u32 = if cfg!(loom) { 1 } else { 4096 };

/// Where a message of some length lies in the ring: one chunk, or two around the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Offset in the ring.
    pub at: u32,
    /// Bytes up to the end of the ring.
    pub first: u32,
    /// Bytes at the start of the ring.
    pub second: u32,
}

impl Span {
    /// `n` bytes in one piece that starts where a pointer points to.
    pub const fn whole(n: u32) -> Span {
        Span {
            at: 0,
            first: n,
            second: 0,
        }
    }

    pub const fn bytes(self) -> u32 {
        self.first + self.second
    }
}

/// Where `cursor` points to in a ring of `size` with this base, both below `size`.
#[inline]
pub const fn offset(cursor: Cursor, size: u32, base: u32) -> u32 {
    let to_end = size - base;
    if cursor.count < to_end {
        cursor.count + base
    } else {
        cursor.count - to_end
    }
}

/// The next `n` bytes from `cursor` on.
#[inline]
pub const fn span(cursor: Cursor, n: u32, size: u32, base: u32) -> Span {
    let at = offset(cursor, size, base);
    let to_end = size - at;
    let first = if n < to_end { n } else { to_end };
    Span {
        at,
        first,
        second: n - first,
    }
}

/// Sender: the base for the next `n` bytes, which go to `here`. A ring that is filled cyclically takes as much
/// of the caches as it has bytes, however few are in it. So where the offset passes a power of two, and the
/// receiver has `taken` all, the ring goes on at its start: who is answered before he sends again needs a
/// page of it, a stream whose reader lags uses all. The receiver finds the new base beside the cursor of the
/// first byte that it holds for ([`Producer::publish`]); there is none that the old one still holds for.
#[inline]
pub fn rebase(here: Place, n: u32, size: u32, base: u32, taken: &AtomicU64) -> u32 {
    let at = offset(here.cursor, size, base);
    let below = at | (FIRST - 1);
    // The highest bit that differs is none of those up to here.
    let passes = below ^ (at + n) > below;
    // SYNC: ring-space. The receiver stores with Release after it has copied.
    if at == 0 || !passes || taken.load(Ordering::Acquire) != here.position {
        return base;
    }
    match here.cursor.count {
        0 => 0,
        count => size - count,
    }
}

/// Receiver, after it has loaded a new producer cursor: the base that holds for what it has not taken.
#[inline]
pub fn base_of(own: &DmbHeader, size: u32) -> Result<u32, BadCursor> {
    let base = own.base.load(Ordering::Relaxed);
    if base < size {
        Ok(base)
    } else {
        Err(BadCursor)
    }
}

/// Private state of the sending end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Producer {
    pub size: u32,
    pub base: u32,
    /// Published position.
    pub produced: Place,
    /// Consumer position of the peer, as checked last.
    pub consumed: Place,
}

impl Producer {
    #[inline]
    pub const fn free(&self) -> u32 {
        self.size - (self.produced.position - self.consumed.position) as u32
    }

    /// Takes the peer's consumer cursor into account. Gives the peer's flags.
    #[inline]
    pub fn refresh(&mut self, own: &DmbHeader) -> Result<u16, BadCursor> {
        // SYNC: ring-space. The consumer stores its cursor with Release after it has copied.
        let (cursor, flags) = Cursor::from_word(own.consumer.load(Ordering::Acquire));
        if cursor != self.consumed.cursor {
            self.consumed = self
                .consumed
                .follow(cursor, self.size, self.produced.position)?;
        }
        Ok(flags)
    }

    /// Where the next `n` bytes go; the caller has checked [`Producer::free`].
    pub const fn span(&self, n: u32) -> Span {
        span(self.produced.cursor, n, self.size, self.base)
    }

    /// The state after `n` more bytes.
    pub const fn after(&self, n: u32) -> Place {
        self.produced.advance(n, self.size)
    }

    /// Before [`Producer::span`]: [`rebase`].
    pub fn rebase(&mut self, n: u32, taken: &AtomicU64) {
        self.base = rebase(self.produced, n, self.size, self.base, taken);
    }

    /// Publishes a new position in the peer's DMB.
    pub fn publish(&mut self, peer: &DmbHeader, place: Place) {
        peer.put_small(0, u32::MAX, |_| {});
        self.publish_as_is(peer, place);
    }

    /// As [`Producer::publish`], after [`DmbHeader::put_small`].
    pub fn publish_as_is(&mut self, peer: &DmbHeader, place: Place) {
        self.produced = place;
        peer.base.store(self.base, Ordering::Relaxed);
        // SYNC: ring-data. Pairs with the load in `Consumer::refresh`.
        peer.producer.store(place.cursor.word(0), Ordering::Release);
    }
}

/// Private state of the receiving end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Consumer {
    pub size: u32,
    pub base: u32,
    /// Producer position of the peer, as checked last.
    pub produced: Place,
    pub consumed: Place,
    /// Consumer position published last.
    pub confirmed: u64,
}

impl Consumer {
    #[inline]
    pub const fn available(&self) -> u32 {
        (self.produced.position - self.consumed.position) as u32
    }

    /// Takes the peer's producer cursor into account.
    #[inline]
    pub fn refresh(&mut self, own: &DmbHeader) -> Result<(), BadCursor> {
        // SYNC: ring-data. Pairs with the store in `Producer::publish`.
        let (cursor, _) = Cursor::from_word(own.producer.load(Ordering::Acquire));
        if cursor != self.produced.cursor {
            let limit = self.consumed.position + u64::from(self.size);
            let base = base_of(own, self.size)?;
            self.produced = self.produced.follow(cursor, self.size, limit)?;
            self.base = base;
        }
        Ok(())
    }

    /// Where the next `n` bytes are; the caller has checked [`Consumer::available`].
    pub const fn span(&self, n: u32) -> Span {
        span(self.consumed.cursor, n, self.size, self.base)
    }

    pub const fn after(&self, n: u32) -> Place {
        self.consumed.advance(n, self.size)
    }

    /// After `n` bytes more were taken: [`cdc::update_may_be_owed`].
    pub const fn may_owe_update(&self, n: u32) -> bool {
        cdc::update_may_be_owed(self.size, self.consumed.position - self.confirmed, n)
    }

    /// Whether the consumer cursor has to be published now.
    pub fn owes_update(&self, peer_flags: u16) -> bool {
        cdc::owes_update(
            self.size,
            self.confirmed,
            self.consumed.position,
            self.produced.position,
            peer_flags,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_wrap() {
        let mut p = Producer {
            size: 100,
            ..Default::default()
        };
        p.produced = Place::at(290, 100);
        p.consumed = Place::at(250, 100);
        assert_eq!(p.free(), 60);
        assert_eq!(
            p.span(10),
            Span {
                at: 90,
                first: 10,
                second: 0
            }
        );
        assert_eq!(
            p.span(11),
            Span {
                at: 90,
                first: 10,
                second: 1
            }
        );
        assert_eq!(p.after(10), Place::at(300, 100));
    }

    #[test]
    fn producer_and_consumer_follow_each_other() {
        let (to_rx, to_tx) = (DmbHeader::default(), DmbHeader::default());
        let mut p = Producer {
            size: 64,
            ..Default::default()
        };
        let mut c = Consumer {
            size: 64,
            ..Default::default()
        };
        let mut total = 0u64;
        for n in (1..60).chain(1..60) {
            p.refresh(&to_tx).unwrap();
            assert_eq!(p.free(), 64);
            let place = p.after(n);
            p.publish(&to_rx, place);
            c.refresh(&to_rx).unwrap();
            assert_eq!(c.available(), n);
            c.consumed = c.after(n);
            to_tx
                .consumer
                .store(c.consumed.cursor.word(0), Ordering::Release);
            total += u64::from(n);
            assert_eq!(c.consumed, Place::at(total, 64));
        }
    }

    /// A note means one message, at one place, up to its length; a long message has none.
    #[test]
    fn a_small_message_is_known_by_its_place() {
        let header = DmbHeader::default();
        let put = |at, n| header.put_small(at, n, |words| words[0].store(7, Ordering::Relaxed));
        let taken = |at, n| {
            let mut seen = 0;
            let whole = header.take_small(at, n, |words| seen = words[0].load(Ordering::Relaxed));
            assert_eq!(seen, if whole { 7 } else { 0 });
            whole
        };
        assert!(!taken(0, 1) && !header.has_small());
        put(1000, 10);
        assert!(taken(1000, 10) && taken(1000, 1) && header.has_small());
        assert!(!taken(1000, 11) && !taken(1001, 9) && !taken(999, 10));
        put(1010, SMALL);
        assert!(taken(1010, SMALL) && !taken(1000, 10));
        put(1010 + u64::from(SMALL), SMALL + 1);
        assert!(!header.has_small());
        for at in [1000, 1010, 1010 + (1 << 26), 1010 + u64::from(SMALL)] {
            assert!(!taken(at, 1));
        }
        // What a hostile peer may say: more than there is room for.
        header.note.store(note(0, 40), Ordering::Relaxed);
        assert!(!taken(0, 40) && !taken(0, 1));
    }

    /// Small messages stay within a page and what follows it while each is taken before the next one is sent; otherwise
    /// they go around the ring.
    #[test]
    fn an_empty_ring_is_used_from_its_start() {
        let size = ring_size(1 << 16);
        for lags in [false, true] {
            let (to_rx, taken) = (DmbHeader::default(), AtomicU64::new(0));
            let start = Place::at(u64::from(size) * 3 + 50, size);
            let mut p = Producer {
                size,
                produced: start,
                consumed: start,
                ..Default::default()
            };
            let mut c = Consumer {
                size,
                produced: start,
                consumed: start,
                ..Default::default()
            };
            taken.store(start.position, Ordering::Release);
            let mut seen = [u32::MAX, 0];
            for _ in 0..10_000 {
                p.rebase(100, &taken);
                let span = p.span(100);
                seen = [seen[0].min(span.at), seen[1].max(span.at + span.first)];
                p.publish(&to_rx, p.after(100));
                c.refresh(&to_rx).unwrap();
                assert_eq!((c.span(100), c.base), (span, p.base));
                c.consumed = c.after(100);
                let late = if lags { 1 } else { 0 };
                taken.store(c.consumed.position - late, Ordering::Release);
            }
            match lags {
                false => assert!(seen[1] < 4196 && p.base != 0, "{seen:?}"),
                true => assert!(seen[0] < 100 && seen[1] == size, "{seen:?}"),
            }
        }
        let hostile = DmbHeader::default();
        hostile.base.store(size, Ordering::Relaxed);
        assert_eq!(base_of(&hostile, size), Err(BadCursor));
    }
}
