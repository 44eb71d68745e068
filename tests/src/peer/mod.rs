//! A member of the protocol that is not the library: speaks with the daemon and with a program under
//! the shim as the library would, as long as the test wants it to, and can then do what it likes.
//!
//! * [`forger`]: a daemon that gives out whatever the test wants.
//! * [`session`]: Hello, claims, pairs; [`memory`]: what a pair shares; [`link`]: one connection,
//!   with its handshake and its rings.

pub mod forger;
pub mod link;
pub mod memory;
pub mod session;

pub use link::{Fault, Link, Stage};
pub use session::Session;
