//! libsmclo.so
#![deny(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used
)]
// A test binary exports no hooks, so nothing calls what is behind them.
#![cfg_attr(test, allow(dead_code))]

mod calls;
mod clock;
mod config;
mod conn;
mod copy;
mod ctx;
mod daemon;
mod epoll;
mod errno;
mod family;
mod fds;
mod hooks;
mod init;
mod iov;
mod lgr;
mod lock;
mod log;
mod os;
mod ownfd;
mod pollset;
mod real;
mod sandbox;
mod short;
mod signals;
mod sys;
mod trace;
mod uring;
mod wait;
