//! The exported functions: one file per family, as thin as can be.
//!
//! A hook looks at one word of the descriptor table. Zero: the call goes to the next definition
//! with a jump, through [`crate::real`]. Otherwise, and for calls without a descriptor,
//! [`crate::calls`] decides. Nothing here allocates, locks, uses thread-local storage other than
//! errno, or panics.
//!
//! Each signature is checked against the `libc` crate's at compile time. Variadic functions are
//! defined with fixed arguments where all of them are integers or pointers (`fcntl`, `ioctl`,
//! `syscall`), which is the same thing to an x86_64 caller; the others are naked trampolines
//! that leave the caller's registers and stack as they found them.
//!
//! SAFETY, for the whole of this folder: a hook's caller is C code that keeps the contract of the
//! C function; the arguments are passed on as they came.

#[macro_use]
mod macros;

mod connect;
mod epoll;
mod fd;
mod file;
mod io;
mod msg;
mod poll;
mod proc;
mod rawsyscall;
mod signal;
mod socket;
mod sockopt;
mod stdio;
mod table;
mod uring;
