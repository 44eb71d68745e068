//! A program's io_uring: what it is asked for is looked at first.

use crate::{errno, iov, uring};
use libc::{c_int, c_uint, c_void};

/// A ring is made, and its requests will not be seen.
pub fn ring_unseen() {
    errno::keep(uring::unseen);
}

/// liburing has made a ring.
pub fn ring_made(flags: u32) {
    errno::keep(|| uring::made(flags));
}

/// Requests are about to be passed on.
///
/// # Safety
/// As for liburing's functions with this `struct io_uring`.
pub unsafe fn submitting(ring: *const c_void) {
    // SAFETY: the caller's promise.
    errno::keep(|| unsafe { uring::submitting(ring) });
}

/// Descriptors become files of a ring.
///
/// # Safety
/// `fds` points to so many descriptors, or nowhere that could be an address.
pub unsafe fn registering(fds: *const c_int, count: c_uint) {
    let count = count as usize;
    if iov::wild(fds.cast(), count.saturating_mul(size_of::<c_int>())) {
        return;
    }
    errno::keep(|| {
        for i in 0..count {
            // SAFETY: the caller's promise.
            uring::touched(unsafe { *fds.add(i) });
        }
    });
}
