//! Copies into a ring.
//!
//! The lines of a ring that the peer has read lie in its core's cache. An ordinary store has to
//! fetch each from there before it overwrites it; a non-temporal one does not. For a peer on another
//! core long pieces go the second way: 15 GB/s instead of 2 to 8 on an AMD EPYC. Short ones are there sooner
//! the first way, and on one core the cache is the best place for them.
//!
//! On Intel processors `rep movsb`, with which memcpy makes long copies there, does not fetch the lines
//! either, and leaves them in the cache: 11 to 14 GB/s on a Xeon, where non-temporal stores, which go to memory, come to 8.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// From this length on the non-temporal way is at least as quick, also for one message alone.
pub const LONG: usize = 4096;

/// Copies `n` bytes to a place in a ring; `far`: its reader runs on another core. With `far`, what
/// was copied is in order with the stores that follow.
///
/// # Safety
/// As for [`std::ptr::copy_nonoverlapping`].
#[inline]
pub unsafe fn to_ring(from: *const u8, to: *mut u8, n: usize, far: bool) {
    if far && n >= LONG && fetches() {
        // SAFETY: the caller's promise.
        unsafe { stream(from, to, n) }
    } else {
        // SAFETY: likewise.
        unsafe { std::ptr::copy_nonoverlapping(from, to, n) }
    }
}

/// Asks for the cache line at `at`, which may be any address.
#[inline]
pub fn prefetch(at: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a hint, which faults nowhere.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
}

/// Asks for the cache line at `at`, which may be any address, to write there. Processors that do not know the
/// instruction pass over it.
#[inline]
pub fn prefetch_for_write(at: *const u8) {
    // SAFETY: a hint, which faults nowhere.
    unsafe {
        std::arch::asm!("prefetchw [{at}]", at = in(reg) at, options(nostack, preserves_flags, readonly))
    };
}

/// Whether memcpy fetches the lines that it is about to overwrite. Asked once: the instruction is slow, more
/// so in a virtual machine.
fn fetches() -> bool {
    static KNOWN: AtomicU8 = AtomicU8::new(0);
    match KNOWN.load(Relaxed) {
        0 => {
            let fetches = !quick_strings();
            KNOWN.store(1 + u8::from(fetches), Relaxed);
            fetches
        }
        known => known == 2,
    }
}

/// An Intel processor that calls its `rep movsb` enhanced.
fn quick_strings() -> bool {
    use std::arch::x86_64::__cpuid_count;
    const ENHANCED: u32 = 1 << 9;
    let base = __cpuid_count(0, 0);
    let vendor = [base.ebx, base.edx, base.ecx].map(u32::to_le_bytes);
    vendor.as_flattened() == b"GenuineIntel"
        && base.eax >= 7
        && __cpuid_count(7, 0).ebx & ENHANCED != 0
}

/// # Safety
/// As for [`to_ring`].
#[inline(never)]
unsafe fn stream(from: *const u8, to: *mut u8, n: usize) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
    const LINE: usize = 64;
    let head = to.align_offset(LINE).min(n);
    let lines = (n - head) / LINE;
    let tail = head + lines * LINE;
    // SAFETY: head, lines and tail cover [0, n) once; the lines start at a multiple of their size.
    unsafe {
        std::ptr::copy_nonoverlapping(from, to, head);
        let (mut source, mut target) = (from.add(head), to.add(head));
        for _ in 0..lines {
            let (s, t) = (source.cast::<__m128i>(), target.cast::<__m128i>());
            // One by one: an array's `map` became calls where this is built without link-time optimisation.
            let (a, b) = (_mm_loadu_si128(s), _mm_loadu_si128(s.add(1)));
            let (c, d) = (_mm_loadu_si128(s.add(2)), _mm_loadu_si128(s.add(3)));
            _mm_stream_si128(t, a);
            _mm_stream_si128(t.add(1), b);
            _mm_stream_si128(t.add(2), c);
            _mm_stream_si128(t.add(3), d);
            (source, target) = (source.add(LINE), target.add(LINE));
        }
        std::ptr::copy_nonoverlapping(from.add(tail), to.add(tail), n - tail);
        // Non-temporal stores are not in order with the one that publishes, without this.
        _mm_sfence();
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn all_ways_copy_all_and_nothing_else() {
        let source: Vec<u8> = (0..20_000u32).map(|i| (i * 7 + i / 256) as u8).collect();
        for n in [0, 1, 63, 64, 4095, 4096, 4097, 8191, 16_000] {
            for (skip, at) in [(0, 0), (1, 0), (0, 1), (5, 63), (64, 17)] {
                for way in ["near", "far", "stream"] {
                    let mut target = vec![0xee; 20_000];
                    let (from, to) = (source[skip..].as_ptr(), target[at..].as_mut_ptr());
                    // SAFETY: both ranges lie in their vectors.
                    unsafe {
                        match way {
                            "stream" => stream(from, to, n),
                            way => to_ring(from, to, n, way == "far"),
                        }
                    };
                    assert_eq!(target[at..at + n], source[skip..skip + n]);
                    assert!(target[..at].iter().all(|b| *b == 0xee));
                    assert!(target[at + n..].iter().all(|b| *b == 0xee));
                }
            }
        }
    }
}
