//! TCP_INQ: each recvmsg tells how many bytes are left (tcp(7); `tcp_inq_hint` in net/ipv4/tcp.c).

use crate::conn::{Sock, flag, phase, ready, rx};
use crate::os;
use libc::{c_int, cmsghdr, msghdr};

pub const TCP_INQ: c_int = 36;
/// `TCP_CM_INQ`
const CM_INQ: c_int = TCP_INQ;

/// The program has set the option.
pub fn put(sock: Sock, on: bool) {
    sock.put(flag::INQ, on);
}

/// Bytes that another receive finds now; the end of the stream counts as one more.
fn left(sock: Sock) -> c_int {
    ready::service(sock);
    let on_tcp = if sock.rx_ring() || rx::message_ahead(&sock) {
        0
    } else {
        os::ioctl_int(sock.fd, libc::FIONREAD).unwrap_or(0)
    };
    let on_ring = match sock.phase() {
        phase::PAIRED => rx::on_ring(&sock) as c_int,
        _ => 0,
    };
    on_tcp.saturating_add(on_ring + c_int::from(ended(sock)))
}

/// A sender in good order leaves the ring before it ends the stream; the end of one that was killed
/// is an event of its own, which sets the flag.
fn ended(sock: Sock) -> bool {
    let carried = sock.rx_ring() && sock.slot().is_some_and(|s| !rx::carrier_moved(&sock, s));
    if carried && !sock.has(flag::FIN_SEEN) {
        return false;
    }
    let gone = libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR;
    !sock.has(flag::SHUT_RD)
        && (sock.has(flag::FIN_SEEN)
            || os::poll_one(sock.fd, libc::POLLRDHUP, 0).unwrap_or(0) & gone != 0)
}

/// Puts the control message where the program wants it. After a receive that has succeeded.
pub fn tell(sock: Sock, msg: &mut msghdr, room: usize) {
    if !sock.has(flag::INQ) {
        return;
    }
    // SAFETY: arithmetic.
    let (len, space) = unsafe { (libc::CMSG_LEN(4), libc::CMSG_SPACE(4)) };
    let (len, space) = (len as usize, space as usize);
    if msg.msg_control.is_null() || room < size_of::<cmsghdr>() {
        msg.msg_flags |= libc::MSG_CTRUNC;
        return;
    }
    let cut = room < len;
    let head = cmsghdr {
        cmsg_len: len.min(room),
        cmsg_level: libc::IPPROTO_TCP,
        cmsg_type: CM_INQ,
    };
    let left = left(sock).to_ne_bytes();
    let bytes = len.min(room) - size_of::<cmsghdr>();
    // SAFETY: the program's buffer has `room` bytes, which these do not exceed.
    unsafe {
        let at = msg.msg_control.cast::<u8>();
        at.cast::<cmsghdr>().write_unaligned(head);
        let data = at.add(size_of::<cmsghdr>());
        std::ptr::copy_nonoverlapping(left.as_ptr(), data, bytes.min(left.len()));
    }
    if cut {
        msg.msg_flags |= libc::MSG_CTRUNC;
    }
    msg.msg_controllen = space.min(room);
}
