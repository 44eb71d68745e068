//! What `libsmclo.so`, `smclod` and `smclo` must agree on.
//!
//! * [`clc`]: the SMC CLC messages that two ends exchange on their TCP connection (RFC 7609, v2.1).
//! * [`close`]: the states in which an SMC-D connection ends.
//! * [`shm`]: everything that lives in memory shared by two ends: CDC cursors, rings, gates,
//!   direction words, wait words.
//! * [`ctl`]: the messages between a shim (or the tool) and the daemon.
//! * [`stats`]: the table in which a process publishes its connections to the daemon.
//! * [`short`]: what that table tells of connections with little traffic.
//! * [`reason`]: why a connection is on TCP.
//!
//! This crate exports no C symbol and makes no system call.

pub mod clc;
pub mod close;
pub mod ctl;
pub mod ids;
pub mod reason;
pub mod shm;
pub mod short;
pub mod stats;
pub mod trace;
