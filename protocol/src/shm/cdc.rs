//! Connection data control: cursors and flags as SMC-D lays them out (smc_cdc.h).
//!
//! A cursor word is one 64-bit store: wrap (u16), count (u32), producer flags (u8), connection
//! state flags (u8), host byte order. Flags travel only in the consumer cursor's word, as in the
//! kernel. Inside the library a position is a `u64` that never wraps; [`Cursor`] is how it stands
//! in shared memory.

/// `SMC_CDC_MSG_TYPE`, first byte of a CDC message.
pub const CDC_TYPE: u8 = 0xfe;

/// Flag bits of the word that carries the consumer cursor.
pub mod flag {
    /// Producer flag: the sender found the ring full and waits for space.
    pub const WRITE_BLOCKED: u16 = 0x80;
    /// Producer flag: the sender asks for a consumer update at once.
    pub const CONS_CURS_UPD_REQ: u16 = 0x10;
    /// Connection state: nothing more will be sent.
    pub const DONE_WRITING: u16 = 0x80 << 8;
    /// Connection state: closed.
    pub const CLOSED: u16 = 0x40 << 8;
    /// Connection state: closed with unread data.
    pub const ABORT: u16 = 0x20 << 8;
}

/// The peer published a cursor that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadCursor;

/// Position in a ring of `size` bytes, as published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    pub wrap: u16,
    /// `0..size`
    pub count: u32,
}

impl Cursor {
    /// The cursor word with `flags` ([`flag`]).
    #[inline]
    pub const fn word(self, flags: u16) -> u64 {
        self.wrap as u64 | (self.count as u64) << 16 | (flags as u64) << 48
    }

    #[inline]
    pub const fn from_word(word: u64) -> (Cursor, u16) {
        (
            Cursor {
                wrap: word as u16,
                count: (word >> 16) as u32,
            },
            (word >> 48) as u16,
        )
    }

    /// Moves forward by `n`, at most `size`.
    #[inline]
    pub const fn advance(self, n: u32, size: u32) -> Cursor {
        let count = self.count as u64 + n as u64;
        if count >= size as u64 {
            Cursor {
                wrap: self.wrap.wrapping_add(1),
                count: (count - size as u64) as u32,
            }
        } else {
            Cursor {
                wrap: self.wrap,
                count: count as u32,
            }
        }
    }

    /// Moves back by `n`, at most `size`.
    pub const fn back(self, n: u32, size: u32) -> Cursor {
        match self.count.checked_sub(n) {
            Some(count) => Cursor {
                wrap: self.wrap,
                count,
            },
            None => Cursor {
                wrap: self.wrap.wrapping_sub(1),
                count: size - (n - self.count),
            },
        }
    }

    /// Distance from `self` to `newer`, at most `size`; an error when `newer` is not at or after
    /// `self` within one turn of the ring.
    #[inline]
    pub const fn distance(self, newer: Cursor, size: u32) -> Result<u32, BadCursor> {
        if newer.count >= size {
            return Err(BadCursor);
        }
        if newer.wrap == self.wrap {
            match newer.count.checked_sub(self.count) {
                Some(d) => Ok(d),
                None => Err(BadCursor),
            }
        } else if newer.wrap == self.wrap.wrapping_add(1) && newer.count <= self.count {
            Ok(size - self.count + newer.count)
        } else {
            Err(BadCursor)
        }
    }
}

/// 2^64 divided by the size of a ring, for [`Place::by`].
pub const fn inverse(size: u32) -> u64 {
    if size == 0 { 0 } else { u64::MAX / size as u64 }
}

/// A cursor with the position that it stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub position: u64,
    pub cursor: Cursor,
}

impl Place {
    /// The place of an absolute position, from scratch (divides).
    pub const fn at(position: u64, size: u32) -> Place {
        let wrap = (position / size as u64) as u16;
        Place {
            position,
            cursor: Cursor {
                wrap,
                count: (position % size as u64) as u32,
            },
        }
    }

    /// As [`Place::at`], by multiplication with [`inverse`] of the size.
    #[inline]
    pub const fn by(position: u64, size: u32, inverse: u64) -> Place {
        let turns = ((position as u128 * inverse as u128) >> 64) as u64;
        // At most one turn too few.
        let count = position.wrapping_sub(turns * size as u64);
        let (turns, count) = if count < size as u64 {
            (turns, count)
        } else {
            (turns + 1, count - size as u64)
        };
        Place {
            position,
            cursor: Cursor {
                wrap: turns as u16,
                count: count as u32,
            },
        }
    }

    /// As [`Place::at`], without a division where `position` is at most a turn away.
    #[inline]
    pub const fn near(self, position: u64, size: u32) -> Place {
        let ahead = position.wrapping_sub(self.position);
        let behind = self.position.wrapping_sub(position);
        let cursor = if ahead <= size as u64 {
            self.cursor.advance(ahead as u32, size)
        } else if behind <= size as u64 {
            self.cursor.back(behind as u32, size)
        } else {
            return Place::at(position, size);
        };
        Place { position, cursor }
    }

    #[inline]
    pub const fn advance(self, n: u32, size: u32) -> Place {
        Place {
            position: self.position + n as u64,
            cursor: self.cursor.advance(n, size),
        }
    }

    /// The place that the peer's `newer` cursor means, given that it cannot lie beyond `limit`.
    #[inline]
    pub const fn follow(self, newer: Cursor, size: u32, limit: u64) -> Result<Place, BadCursor> {
        match self.cursor.distance(newer, size) {
            Ok(d) if self.position + d as u64 <= limit => Ok(Place {
                position: self.position + d as u64,
                cursor: newer,
            }),
            _ => Err(BadCursor),
        }
    }
}

/// How much a receiver may have taken beyond what it has confirmed before it may owe an update to a
/// peer that has not asked for one.
pub const fn update_limit(size: u32) -> u64 {
    let tenth = size as u64 / 10;
    if tenth > 2304 { tenth } else { 2304 }
}

/// Whether a receiver that has taken `owed` bytes beyond what it has confirmed, the last `n` of them now, is to look
/// at the peer's cursor and flags again, to learn whether it owes an update: once for each [`update_limit`]. Each
/// look takes a cache line away from a peer that is writing there.
#[inline]
pub const fn update_may_be_owed(size: u32, owed: u64, n: u32) -> bool {
    let limit = update_limit(size);
    owed > limit && (owed - 1) / limit != owed.saturating_sub(n as u64 + 1) / limit
}

/// Whether a receiver owes a consumer update (the rule of `smc_tx_consumer_update`).
///
/// `confirmed` is the consumer position published last, `consumed` the real one, `produced` the
/// producer position seen last.
#[inline]
pub const fn owes_update(
    size: u32,
    confirmed: u64,
    consumed: u64,
    produced: u64,
    peer_flags: u16,
) -> bool {
    if consumed == confirmed {
        return false;
    }
    if peer_flags & flag::CONS_CURS_UPD_REQ != 0 {
        return true;
    }
    let limit = update_limit(size);
    // A peer that writes beyond what was confirmed to it has nothing free.
    let sender_free = (size as u64).saturating_sub(produced.wrapping_sub(confirmed));
    consumed - confirmed > limit
        && (sender_free <= size as u64 / 2 || peer_flags & flag::WRITE_BLOCKED != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_layout_is_the_kernels() {
        // smc-d: consumer wrap 0, count 0xff00, write_blocked, little-endian memory.
        let word = Cursor {
            wrap: 0,
            count: 0xff00,
        }
        .word(flag::WRITE_BLOCKED);
        assert_eq!(word.to_le_bytes(), [0, 0, 0x00, 0xff, 0, 0, 0x80, 0]);
        let word = Cursor { wrap: 1, count: 16 }.word(flag::CLOSED | flag::DONE_WRITING);
        assert_eq!(word.to_le_bytes(), [1, 0, 16, 0, 0, 0, 0, 0xc0]);
        assert_eq!(
            Cursor::from_word(word),
            (
                Cursor { wrap: 1, count: 16 },
                flag::CLOSED | flag::DONE_WRITING
            )
        );
    }

    #[test]
    fn full_and_empty_differ_by_wrap() {
        let a = Cursor {
            wrap: 7,
            count: 100,
        };
        assert_eq!(a.distance(a, 1000), Ok(0));
        let b = a.advance(1000, 1000);
        assert_eq!(
            b,
            Cursor {
                wrap: 8,
                count: 100
            }
        );
        assert_eq!(a.distance(b, 1000), Ok(1000));
        assert_eq!(b.distance(a, 1000), Err(BadCursor));
    }

    #[test]
    fn near_places_are_those_from_scratch() {
        let size = 1000;
        for here in [0, 1, 999, 1000, 65_536_000, 65_536_999, 123_456_789] {
            let place = Place::at(here, size);
            for away in [0u64, 1, 499, 789, 999, 1000, 1001, 5000] {
                let ahead = here + away;
                assert_eq!(place.near(ahead, size), Place::at(ahead, size));
                if let Some(behind) = here.checked_sub(away) {
                    assert_eq!(place.near(behind, size), Place::at(behind, size));
                }
            }
        }
    }

    #[test]
    fn places_by_multiplication_are_those_by_division() {
        let mut draw = 1u64;
        for size in [1, 2, 100, 16_256, 65_408, 262_016, 1_048_448, u32::MAX] {
            for bits in 0..48 {
                draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let turn = (draw >> 16) % (1 << bits) / u64::from(size) * u64::from(size);
                for position in [turn, turn.saturating_sub(1), turn + 1, draw >> 16 >> bits] {
                    let place = Place::by(position, size, inverse(size));
                    assert_eq!(place, Place::at(position, size), "{position} {size}");
                }
            }
        }
    }

    #[test]
    fn hostile_cursors_are_refused() {
        let size = 1000;
        let here = Place::at(123_456, size);
        for newer in [
            Cursor {
                wrap: here.cursor.wrap,
                count: size,
            },
            Cursor {
                wrap: here.cursor.wrap,
                count: u32::MAX,
            },
            Cursor {
                wrap: here.cursor.wrap,
                count: here.cursor.count - 1,
            },
            Cursor {
                wrap: here.cursor.wrap.wrapping_add(2),
                count: 0,
            },
            Cursor {
                wrap: here.cursor.wrap.wrapping_sub(1),
                count: 999,
            },
            Cursor {
                wrap: here.cursor.wrap.wrapping_add(1),
                count: here.cursor.count + 1,
            },
        ] {
            assert_eq!(
                here.follow(newer, size, u64::MAX),
                Err(BadCursor),
                "{newer:?}"
            );
        }
        let beyond = here.cursor.advance(10, size);
        assert_eq!(here.follow(beyond, size, here.position + 9), Err(BadCursor));
        assert!(here.follow(beyond, size, here.position + 10).is_ok());
    }

    #[test]
    fn update_rule() {
        let size = 65_536;
        assert!(!owes_update(size, 0, 0, 100, flag::CONS_CURS_UPD_REQ));
        assert!(owes_update(size, 0, 1, 100, flag::CONS_CURS_UPD_REQ));
        assert!(
            !owes_update(size, 0, 7000, 7000, 0),
            "sender has more than half"
        );
        assert!(owes_update(size, 0, 7000, 7000, flag::WRITE_BLOCKED));
        assert!(owes_update(size, 0, 7000, 40_000, 0));
        assert!(
            !owes_update(size, 0, 6553, 65_536, flag::WRITE_BLOCKED),
            "at most a tenth"
        );
    }

    /// A receiver of small messages that uses up what it knows of looks once for each tenth of the ring, and at the
    /// first byte at which an update can be owed.
    #[test]
    fn looks_are_seldom() {
        let size = 65_536;
        let limit = update_limit(size);
        for n in [1, 7, 6553, 6554, 40_000] {
            let looks = (1..).map(|i| i * n).take_while(|at| *at <= 65_536);
            let looks: Vec<_> = looks
                .filter(|at| update_may_be_owed(size, *at, n as u32))
                .collect();
            let first = (limit / n + 1) * n;
            assert_eq!(looks[0], first);
            let most = 65_536 / n.max(limit);
            assert!((most - 1..=most).contains(&(looks.len() as u64)));
        }
    }
}
