//! A step of a send over TCP, which does not wait.

use super::{Put, Source};
use crate::conn::{Sock, died, flag, handshake, ready, revert};
use crate::{ctx, epoll, os};
use std::ffi::c_int;
use std::sync::atomic::Ordering::*;

/// Longest piece that is given to TCP at once while the connection may change carriers.
const TCP_CHUNK: usize = 256 << 10;
/// Longest piece of a file that goes over TCP at once.
const FILE_PIECE: usize = 64 << 10;
/// Longest piece of a pipe: less than what is free in a socket that poll calls writable.
const PIPE_PIECE: usize = 16 << 10;

pub(super) fn over_tcp(sock: Sock, source: Source<'_>, flags: c_int) -> Put {
    if sock.tx.repeat.load(Relaxed) != 0 {
        if !revert::repeat(sock) {
            return Put::Full;
        }
        if let Some(error) = sock.take_owed() {
            return Put::Error(error);
        }
    }
    if died::unseen(sock) {
        return Put::Error(died::reset(sock));
    }
    let sent = match source {
        Source::Buffers(iov, skip) => {
            let limit = match source.len() > TCP_CHUNK && stays_on_tcp(sock) {
                true => usize::MAX,
                false => TCP_CHUNK,
            };
            iov.tcp_send(sock.fd, skip, limit, flags)
        }
        Source::File(fd, offset, len) => file_over_tcp(sock.fd, fd, offset, len, flags),
        // The flag is about the pipe: into a socket without room the call would wait.
        Source::Pipe(..) if !has_room(sock) => Err(libc::EAGAIN),
        Source::Pipe(fd, len) => {
            os::splice(fd, sock.fd, len.min(PIPE_PIECE), libc::SPLICE_F_NONBLOCK)
        }
    };
    match sent {
        Ok(n) => {
            sock.count_tcp_sent(n as u64);
            if sock.has(flag::BEHIND_MESSAGE) && flags & libc::MSG_MORE == 0 {
                handshake::push(sock);
            }
            Put::Bytes(n)
        }
        Err(libc::EAGAIN) => {
            // An edge is owed when there is room.
            if sock.set(flag::NOSPACE) {
                epoll::stir(sock.conn);
                // A receive of no bytes waits for the room as well.
                if sock.sleepers.load(Acquire) != 0 {
                    ctx::ring_sleepers();
                }
            }
            Put::Full
        }
        Err(e) if died::in_order_after(&sock, e) => {
            Put::Bytes(died::swallow(&sock, source.len().min(TCP_CHUNK)))
        }
        Err(libc::EPIPE) if matches!(source, Source::Pipe(..)) => Put::Broken,
        Err(libc::EPIPE) if died::unseen(sock) => Put::Error(died::reset(sock)),
        Err(e) => {
            sock.note_error(e);
            Put::Error(e)
        }
    }
}

/// Whether the direction will not change carriers any more. Then the kernel gets all of a send at once: as
/// it does by itself, it takes what it has room for before it looks at a reset.
fn stays_on_tcp(sock: Sock) -> bool {
    sock.has(flag::LEAVE | flag::FIN_SEEN | flag::SHUT_WR)
        || os::poll_one(sock.fd, libc::POLLRDHUP, 0).unwrap_or(0) & ready::GONE != 0
}

/// Whether TCP takes something, or has an error to report.
pub(super) fn has_room(sock: Sock) -> bool {
    os::poll_one(sock.fd, ready::OUT, 0) != Ok(0)
}

/// A piece of a file, through a buffer (which a small stack has no room for): sendfile itself would
/// wait.
fn file_over_tcp(
    sock: c_int,
    fd: c_int,
    offset: i64,
    len: usize,
    flags: c_int,
) -> Result<usize, i32> {
    let room = len.min(FILE_PIECE);
    let piece = os::map_anonymous(room)?;
    let list = libc::iovec {
        iov_base: piece.cast(),
        iov_len: room,
    };
    let sent = os::preadv(fd, &list, 1, offset).and_then(|n| match n {
        0 => Ok(0),
        n => os::send_raw(
            sock,
            piece,
            n,
            flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        ),
    });
    os::munmap(piece, room);
    sent
}
