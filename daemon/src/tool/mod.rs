//! What `smclo` shows and does; each command in a module of its own.

pub mod config;
pub mod device;
pub mod doctor;
pub mod launch;
pub mod pcap;
pub mod require;
pub mod revert;
pub mod sockets;
pub mod ss;
pub mod stats;
pub mod table;
pub mod top;
pub mod trace;
