//! `smclod`, the SMC-D loopback device of one host, and what `smclo` needs to talk to it.
//!
//! * [`server`]: the event loop; `membership`: greetings and ends; [`session`]: one client; [`reaper`],
//!   [`ringer`]: what could wait for a client; [`listener`], [`paths`]: where it listens.
//! * `pairing`, [`rendezvous`], [`diag`]: claims of connection ends, and what the kernel says about them.
//! * [`netns`], [`witness`]: network namespaces of clients, and proof that two ends in different ones are one connection.
//! * [`device`], [`arena`], [`linkgroup`]: DMBs, tokens, and the memory that two clients share.
//! * [`cli`]: both command lines. [`client`], [`tool`]: the tool's side of
//!   the socket, and what each of its commands does.
//! * [`policy`]: what is accelerated, and how.
//! * [`table`], [`answer`](server), [`report`]: what the clients publish and the tool shows.

mod across;
mod answer;
pub mod arena;
pub mod cli;
pub mod client;
pub mod config;
pub mod device;
pub mod diag;
pub mod eid;
pub mod linkgroup;
pub mod listener;
mod membership;
pub mod memfd;
pub mod metrics;
pub mod netns;
pub mod packet;
mod pairing;
mod passed;
pub mod paths;
pub mod policy;
pub mod prometheus;
pub mod quota;
pub mod reaper;
pub mod rendezvous;
pub mod report;
pub mod ringer;
pub mod server;
pub mod session;
pub mod sums;
pub mod table;
pub mod tool;
pub mod userns;
pub mod witness;
