//! Birth of connections: socket, connect, accept, dup.

use super::passed::Standing;
use super::{Conn, Sock, claim, flag, phase};
use crate::config::{self, Policy};
use crate::{daemon, family, fds, lock, os};
use protocol::ctl::Endpoint;
use protocol::reason;
use protocol::stats::{Mode, Row};
use std::ffi::c_int;
use std::sync::atomic::Ordering::*;

/// A connection for a new descriptor. `None`: it stays unknown to us, plain TCP.
fn track(fd: c_int) -> Option<Sock> {
    if fd < 0 || !family::ready() {
        return None;
    }
    let conn = family::allocate().or_else(|| {
        super::close::sweep();
        family::allocate()
    })?;
    if !fds::put_conn(fd, conn) {
        conn.holders.store(0, Relaxed);
        super::close::finish(conn);
        return None;
    }
    let row = conn.row();
    clear(row);
    row.pid.store(lock::pid(), Relaxed);
    row.fd.store(fd as u32, Relaxed);
    row.reason.store(reason::NOT_YET, Relaxed);
    row.mode.store(Mode::Init as u32, Release);
    if config::policy() == Policy::Off {
        conn.bar(reason::POLICY_OFF);
    }
    Some(Sock { fd, conn })
}

fn clear(row: &Row) {
    for word in [
        &row.reason,
        &row.peer_diagnosis,
        &row.upgrades,
        &row.reverts,
        &row.lgr,
        &row.client,
        &row.shut,
        &row.trace,
        &row.dmb_len,
        &row.peer_dmb_len,
        &row.sndbuf_len,
    ] {
        word.store(0, Relaxed);
    }
    for word in [
        &row.inode,
        &row.cookie,
        &row.full,
        &row.smc_tx.bytes,
        &row.smc_rx.bytes,
        &row.tcp_tx,
        &row.tcp_rx,
        &row.rings,
        &row.sleeps,
        &row.spin_hits,
        &row.spin_misses,
        &row.token,
        &row.peer_token,
    ] {
        word.store(0, Relaxed);
    }
    for class in row.smc_tx.sizes.iter().chain(&row.smc_rx.sizes) {
        class.store(0, Relaxed);
    }
    for words in [&row.local, &row.peer] {
        Row::put_endpoint(words, &Endpoint::default());
    }
}

/// A new TCP socket.
pub fn created(fd: c_int, nonblock: bool) {
    if let Some(sock) = track(fd) {
        sock.put_nonblock(nonblock);
    }
}

pub fn listening(sock: Sock) {
    if sock.change_phase(phase::INIT, phase::LISTEN) {
        let row = sock.row();
        row.mode.store(Mode::Listen as u32, Relaxed);
        if let Ok(local) = os::sockname(sock.fd) {
            Row::put_endpoint(&row.local, &local);
        }
        row.inode.store(os::inode(sock.fd), Relaxed);
        daemon::greet();
    }
}

/// connect has succeeded or is on its way.
pub fn connecting(sock: Sock) {
    if !matches!(sock.phase(), phase::INIT | phase::BARRED) {
        return;
    }
    sock.set(flag::CLIENT);
    sock.row().client.store(1, Relaxed);
    announce(sock);
    sock.change_phase(phase::INIT, phase::PLAIN);
}

/// connect was called to dissolve the association, or on a socket that was connected before.
pub fn dissolved(sock: Sock) {
    sock.bar(reason::SOCKOPT);
}

/// accept gave a connection.
pub fn accepted(fd: c_int, nonblock: bool) {
    if let Some(sock) = track(fd) {
        sock.put_nonblock(nonblock);
        announce(sock);
        sock.change_phase(phase::INIT, phase::PLAIN);
    }
}

/// Another process has passed a connection to this one, where it stands.
pub fn received(fd: c_int, at: Standing) {
    if let Some(sock) = track(fd) {
        sock.set(flag::RECEIVED);
        if at.client {
            sock.set(flag::CLIENT);
            sock.row().client.store(1, Relaxed);
        }
        let status = os::fcntl(fd, libc::F_GETFL, 0).unwrap_or(0) as c_int;
        sock.put_nonblock(status & libc::O_NONBLOCK != 0);
        sock.tx.sent.store(at.sent, Relaxed);
        sock.rx.taken.store(at.taken, Relaxed);
        announce(sock);
        sock.change_phase(phase::INIT, phase::PLAIN);
    }
}

/// Lists the connection, and makes the process known to the daemon. Without system calls: most
/// connections are short, and nobody will ask for their addresses. See [`describe`].
fn announce(sock: Sock) {
    let row = sock.row();
    row.fd.store(sock.fd as u32, Relaxed);
    row.mode.store(Mode::Tcp as u32, Relaxed);
    if config::debug() {
        describe(sock);
    }
    daemon::greet();
}

/// Enters addresses and inode of a connection, when the row does not have them: before it is claimed,
/// and before the descriptor that the row names may come to mean something else. Until then the tool
/// finds them by that number.
pub fn describe(sock: Sock) {
    let row = sock.row();
    if row.inode.load(Relaxed) != 0 || row.mode.load(Relaxed) < Mode::Tcp as u32 {
        return;
    }
    if let Ok(local) = os::sockname(sock.fd) {
        Row::put_endpoint(&row.local, &local);
    }
    if let Ok(peer) = os::peername(sock.fd) {
        Row::put_endpoint(&row.peer, &peer);
    }
    row.inode.store(os::inode(sock.fd), Release);
}

/// A connection to which another descriptor refers now.
pub fn duplicated(conn: &'static Conn, fd: c_int) {
    describe(Sock { fd, conn });
    if !fds::put_conn(fd, conn) {
        // More descriptors than we count: it must not be accelerated.
        let _ = claim::withdraw(conn, phase::BARRED);
        conn.bar(reason::NO_ROOM);
    }
}
