//! What the hooks call: the logic behind each C function.
//!
//! A function here takes the C function's arguments, after the table's word for the descriptor
//! where there is one, and returns what the C function returns, with `errno` set through
//! [`crate::errno`]. None may panic, and none may hold a lock or a value with a destructor while
//! it calls down through [`crate::real`]: a cancelled thread unwinds from there.

pub mod epoll;
pub mod escape;
pub mod fd;
pub mod file;
pub mod inq;
pub mod io;
pub mod life;
pub mod msg;
pub mod passing;
mod patience;
pub mod poll;
pub mod proc;
pub mod sockopt;
pub mod stdio;
pub mod transfer;
pub mod uring;
pub mod waits;
pub mod way;
