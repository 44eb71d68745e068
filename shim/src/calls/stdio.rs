//! stdio and dprintf write through calls inside libc that no hook sees.

use crate::conn::revert;
use crate::fds;
use libc::c_int;
use protocol::reason;

/// The program hands `fd` to stdio, or is about to write to it by dprintf.
pub fn note(fd: c_int) {
    if let fds::Meaning::Conn(sock) = fds::meaning(fd) {
        crate::errno::keep(|| revert::leave(sock, reason::STDIO));
    }
}
