//! Copies into a ring.
//!
//! The lines of a ring that the peer has read lie in its core's cache. An ordinary store has to
//! fetch each from there before it overwrites it; a non-temporal one does not. For a peer on another
//! core long pieces go the second way: here 15 GB/s instead of 2 to 8. Short ones are there sooner
//! the first way, and on one core the cache is the best place for them.

/// From this length on the non-temporal way is at least as quick, also for one message alone.
pub const LONG: usize = 4096;

/// Copies `n` bytes to a place in a ring; `far`: its reader runs on another core. With `far`, what
/// was copied is in order with the stores that follow.
///
/// # Safety
/// As for [`std::ptr::copy_nonoverlapping`].
#[inline]
pub unsafe fn to_ring(from: *const u8, to: *mut u8, n: usize, far: bool) {
    if far && n >= LONG {
        // SAFETY: the caller's promise.
        unsafe { stream(from, to, n) }
    } else {
        // SAFETY: likewise.
        unsafe { std::ptr::copy_nonoverlapping(from, to, n) }
    }
}

/// # Safety
/// As for [`to_ring`].
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
            let line = [0, 1, 2, 3].map(|i| _mm_loadu_si128(s.add(i)));
            for (i, part) in line.into_iter().enumerate() {
                _mm_stream_si128(t.add(i), part);
            }
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
    fn both_ways_copy_all_and_nothing_else() {
        let source: Vec<u8> = (0..20_000u32).map(|i| (i * 7 + i / 256) as u8).collect();
        for n in [0, 1, 63, 64, 4095, 4096, 4097, 8191, 16_000] {
            for (skip, at) in [(0, 0), (1, 0), (0, 1), (5, 63), (64, 17)] {
                for far in [false, true] {
                    let mut target = vec![0xee; 20_000];
                    // SAFETY: both ranges lie in their vectors.
                    unsafe { to_ring(source[skip..].as_ptr(), target[at..].as_mut_ptr(), n, far) };
                    assert_eq!(target[at..at + n], source[skip..skip + n]);
                    assert!(target[..at].iter().all(|b| *b == 0xee));
                    assert!(target[at + n..].iter().all(|b| *b == 0xee));
                }
            }
        }
    }
}
