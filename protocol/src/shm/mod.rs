//! Memory shared by the two ends of a link group.
//!
//! The arena of a link group is one memfd made by the daemon, fchmod 0, sealed against shrinking,
//! growing and further seals:
//!
//! ```text
//! 0            page 0: reserved for the daemon (zero)
//! HINTS_AT     hints for the wait contexts of both sides                          (wait)
//! SLOTS_AT     pair slots, SLOT_LEN bytes each: gates, direction words, counts   (pair)
//! dmbs_at(n)   DMBs, page aligned: CDC, extension words, ring                    (dmb, ring)
//! ```
//!
//! Both ends map it writable, so every word is hostile: it is read once, checked, and used from the
//! copy. No reference to plain data is ever made into it, only to atomics.

pub mod announced;
pub mod cdc;
pub mod consumer_word;
pub mod life;
pub mod mail;
pub mod pair;
pub mod ring;
pub mod sync;
pub mod wait;

/// Offset of the hints for the contexts of side 0; those for side 1 follow.
pub const HINTS_AT: usize = 4096;
/// Offset of the first pair slot in an arena.
pub const SLOTS_AT: usize = HINTS_AT + 2 * wait::HINTS_LEN;
/// Bytes of one pair slot.
pub const SLOT_LEN: usize = 256;

/// Offset of the first DMB in an arena with `slots` pair slots.
pub const fn dmbs_at(slots: usize) -> usize {
    (SLOTS_AT + slots * SLOT_LEN).next_multiple_of(4096)
}

/// Bytes of a DMB with size code 0 (`SMC_BUF_MIN_SIZE`).
pub const DMB_MIN: u32 = 16 << 10;
/// Largest size code that SMC-D sends (`SMCD_DMBE_SIZES`).
pub const DMB_CODE_MAX: u8 = 6;

/// Size code of a DMB that holds `size` bytes, as `smc_compress_bufsize` computes it.
pub const fn dmb_code(size: u32) -> u8 {
    if size <= DMB_MIN {
        return 0;
    }
    let code = ((size - 1) >> 14).ilog2() as u8 + 1;
    if code > DMB_CODE_MAX {
        DMB_CODE_MAX
    } else {
        code
    }
}

/// Bytes of a DMB with this size code, header included; `None` for codes never sent.
pub const fn dmb_len(code: u8) -> Option<u32> {
    if code > DMB_CODE_MAX {
        None
    } else {
        Some(DMB_MIN << code)
    }
}
