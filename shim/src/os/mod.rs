//! System calls of the library's own, typed: what the rest of it uses instead of `libc`.
//!
//! Through [`crate::sys`]: no hook, no errno, no cancellation point. The `unsafe` blocks pass
//! pointers to locals or to arguments that outlive the call.

macro_rules! call {
    ($n:expr) => { call!($n, 0) };
    ($n:expr, $a:expr) => { call!($n, $a, 0) };
    ($n:expr, $a:expr, $b:expr) => { call!($n, $a, $b, 0) };
    ($n:expr, $a:expr, $b:expr, $c:expr) => { call!($n, $a, $b, $c, 0) };
    ($n:expr, $a:expr, $b:expr, $c:expr, $d:expr) => { call!($n, $a, $b, $c, $d, 0) };
    ($n:expr, $a:expr, $b:expr, $c:expr, $d:expr, $e:expr) => {
        call!($n, $a, $b, $c, $d, $e, 0)
    };
    ($n:expr, $a:expr, $b:expr, $c:expr, $d:expr, $e:expr, $f:expr) => {
        // SAFETY: pointers among the arguments are to memory that outlives the call (module doc).
        $crate::sys::answer(unsafe {
            $crate::sys::syscall6(
                $n, $a as usize, $b as usize, $c as usize, $d as usize, $e as usize, $f as usize,
            )
        })
    };
}

mod bell;
mod file;
mod memory;
mod options;
mod pass;
mod process;
mod select;
mod socket;
mod wait;

pub use bell::*;
pub use file::*;
pub use memory::*;
pub use options::*;
pub use pass::*;
pub use process::*;
pub use select::*;
pub use socket::*;
pub use wait::*;

pub type Result<T> = std::result::Result<T, i32>;

pub fn decimal(mut n: u32, out: &mut [u8; 10]) -> &[u8] {
    let mut at = out.len();
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (n % 10) as u8;
        n /= 10;
        at -= 1;
        if n == 0 {
            break;
        }
    }
    out.get(at..).unwrap_or(&[])
}

/// Concatenates `parts` and a NUL in `out`.
fn join<'a>(out: &'a mut [u8], parts: &[&[u8]]) -> Result<&'a [u8]> {
    let mut at = 0;
    for part in parts.iter().chain([&b"\0".as_slice()]) {
        let space = out.get_mut(at..at + part.len()).ok_or(libc::ENAMETOOLONG)?;
        space.copy_from_slice(part);
        at += part.len();
    }
    out.get(..at).ok_or(libc::ENAMETOOLONG)
}
