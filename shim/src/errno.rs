//! The application's `errno`, written here and nowhere else.
//!
//! The raw door ([`crate::sys`]) returns errors as values; a hook that decides the outcome of a
//! call itself reports it through [`fail`]. Everything that may run before or after the
//! application's own call goes through [`keep`].

use libc::c_int;

/// The calling thread's `errno`.
#[inline]
pub fn get() -> c_int {
    // SAFETY: glibc returns a pointer to the calling thread's errno, valid while it runs.
    unsafe { *libc::__errno_location() }
}

/// Sets the calling thread's `errno`.
#[inline]
pub fn set(value: c_int) {
    // SAFETY: as in `get`.
    unsafe { *libc::__errno_location() = value }
}

/// Sets `errno` and gives the C return value of a failed call.
#[inline]
pub fn fail<T: From<i8>>(value: c_int) -> T {
    set(value);
    T::from(-1)
}

/// Turns the raw door's result into a C return value: a count, or -1 with `errno` set.
#[inline]
pub fn ret<T: CReturn>(result: Result<usize, i32>) -> T {
    match result {
        Ok(value) => T::of(value),
        Err(error) => fail(error),
    }
}

/// Runs `work` and puts `errno` back as it was.
#[inline]
pub fn keep<T>(work: impl FnOnce() -> T) -> T {
    let saved = get();
    let value = work();
    set(saved);
    value
}

/// The integer types that C calls return.
pub trait CReturn: From<i8> {
    /// The value of a successful call.
    fn of(value: usize) -> Self;
}

impl CReturn for c_int {
    #[inline]
    #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
    fn of(value: usize) -> Self {
        value as c_int
    }
}

impl CReturn for isize {
    #[inline]
    #[expect(clippy::cast_possible_wrap)]
    fn of(value: usize) -> Self {
        value as isize
    }
}

impl CReturn for i64 {
    #[inline]
    #[expect(clippy::cast_possible_wrap)]
    fn of(value: usize) -> Self {
        value as i64
    }
}
