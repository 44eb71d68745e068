//! Birth of connections: socket, connect, accept, dup.

use super::passed::Standing;
use super::{Conn, Sock, claim, flag, phase};
use crate::config::{self, Policy};
use crate::short;
use crate::{daemon, family, fds, lock, os};
use protocol::ctl::Endpoint;
use protocol::reason;
use protocol::short::{CLIENT, CONNECTED, NONBLOCK, SHUT_RD, SHUT_WR, Word};
use protocol::stats::{Mode, Row};
use std::ffi::c_int;
use std::sync::atomic::Ordering::*;

/// A place for a connection.
fn take() -> Option<&'static Conn> {
    super::close::sweep_some();
    family::allocate().or_else(|| {
        super::close::sweep();
        family::allocate()
    })
}

/// The row of a new connection.
fn begin(row: &Row, fd: c_int) {
    clear(row);
    row.pid.store(lock::pid(), Relaxed);
    row.fd.store(fd as u32, Relaxed);
    row.reason.store(reason::NOT_YET, Relaxed);
    row.mode.store(Mode::Init as u32, Release);
}

/// A connection for a new descriptor. `None`: it stays unknown to us, plain TCP.
fn track(fd: c_int) -> Option<Sock> {
    if fd < 0 || !family::ready() {
        return None;
    }
    let conn = take()?;
    if !fds::put_conn(fd, conn) {
        give_back(conn);
        return None;
    }
    begin(conn.row(), fd);
    if config::policy() == Policy::Off {
        conn.bar(reason::POLICY_OFF);
    }
    Some(Sock { fd, conn })
}

/// A place for a short connection that is to be entered in full.
pub fn place(fd: c_int) -> Option<&'static Conn> {
    let conn = take()?;
    fds::put_count(conn, 1);
    begin(conn.row(), fd);
    Some(conn)
}

/// It was not needed.
pub fn unplace(conn: &Conn) {
    fds::put_count(conn, 0);
    give_back(conn);
}

fn give_back(conn: &Conn) {
    conn.holders.store(0, Relaxed);
    super::close::finish(conn);
}

/// What a word tells of a short connection; nobody knows of the place yet. One call more is under way on it, that which
/// enters it.
pub fn fill(sock: Sock, word: Word) {
    let mut flags = 0;
    for (said, flag) in [
        (NONBLOCK, flag::NONBLOCK),
        (CLIENT, flag::CLIENT),
        (SHUT_WR, flag::SHUT_WR),
        (SHUT_RD, flag::SHUT_RD),
    ] {
        if word.has(said) {
            flags |= flag;
        }
    }
    sock.flags.store(0, Relaxed);
    sock.set(flags);
    let generation = sock.generation.load(Relaxed);
    sock.plain.begin(generation, word.calls() + 1);
    sock.exchanges.store(word.exchanges(), Relaxed);
    sock.tx.sent.store(word.sent(), Relaxed);
    sock.rx.taken.store(word.taken(), Relaxed);
    let shut = word.has(SHUT_WR | SHUT_RD);
    sock.shutdowns.store(u32::from(shut), Relaxed);
    let phase = match (word.has(CONNECTED), word.has(SHUT_WR)) {
        (_, true) => phase::BARRED,
        (true, _) => phase::PLAIN,
        (false, _) => phase::INIT,
    };
    sock.phase.store(phase, Release);
    let row = sock.row();
    row.client.store(u32::from(word.has(CLIENT)), Relaxed);
    row.tcp_tx.store(word.sent(), Relaxed);
    row.tcp_rx.store(word.taken(), Relaxed);
}

/// It is entered, and listed.
pub fn filled(sock: Sock, word: Word) {
    if word.has(CONNECTED) {
        sock.row().mode.store(Mode::Tcp as u32, Release);
    }
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
    if short::begin(fd, short::nonblock(nonblock)) {
        return;
    }
    if let Some(sock) = track(fd) {
        sock.put(flag::NONBLOCK, nonblock);
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
    if short::begin(fd, CONNECTED | short::nonblock(nonblock)) {
        return short::greet(fd);
    }
    if let Some(sock) = track(fd) {
        sock.put(flag::NONBLOCK, nonblock);
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
        sock.put(flag::NONBLOCK, status & libc::O_NONBLOCK != 0);
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
