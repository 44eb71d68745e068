//! Descriptors that travel over Unix sockets.

use super::{Result, close, recvmsg, sendmsg, set_sockopt_int};
use protocol::ctl;
use std::ffi::{c_int, c_void};

#[repr(C, align(8))]
struct Control {
    room: [u8; 64],
}

fn header(control: &mut Control, len: usize, io: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: zeros are a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = io;
    message.msg_iovlen = 1;
    message.msg_control = control.room.as_mut_ptr().cast();
    message.msg_controllen = len;
    message
}

/// Sends `bytes` with descriptors (at most [`ctl::MAX_FDS`]).
pub fn send_fds(fd: c_int, bytes: &[u8], fds: &[c_int]) -> Result<()> {
    let mut control = Control { room: [0; 64] };
    let count = fds.len().min(ctl::MAX_FDS);
    let len = 16 + 4 * count;
    let put = |room: &mut [u8; 64], at: usize, value: &[u8]| {
        for (to, from) in room.iter_mut().skip(at).zip(value) {
            *to = *from;
        }
    };
    // struct cmsghdr: length (8), level (4), type (4), then the descriptors.
    put(&mut control.room, 0, &len.to_ne_bytes());
    put(&mut control.room, 8, &libc::SOL_SOCKET.to_ne_bytes());
    put(&mut control.room, 12, &libc::SCM_RIGHTS.to_ne_bytes());
    for (i, one) in fds.iter().take(count).enumerate() {
        put(&mut control.room, 16 + 4 * i, &one.to_ne_bytes());
    }
    let mut io = libc::iovec {
        iov_base: bytes.as_ptr() as *mut c_void,
        iov_len: bytes.len(),
    };
    let mut message = header(&mut control, len.next_multiple_of(8), &mut io);
    sendmsg(fd, &mut message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL).map(drop)
}

pub fn send_fd(fd: c_int, bytes: &[u8], one: c_int) -> Result<()> {
    send_fds(fd, bytes, &[one])
}

/// Receives a packet without waiting; descriptors that came along go to `fds`, the rest of which
/// is left alone. Those for which there is no place are closed.
pub fn recv_fds(fd: c_int, out: &mut [u8], fds: &mut [c_int]) -> Result<usize> {
    receive(fd, out, fds, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC)
}

fn receive(fd: c_int, out: &mut [u8], fds: &mut [c_int], flags: c_int) -> Result<usize> {
    let mut control = Control { room: [0; 64] };
    let mut io = libc::iovec {
        iov_base: out.as_mut_ptr().cast(),
        iov_len: out.len(),
    };
    let mut message = header(&mut control, 64, &mut io);
    let n = recvmsg(fd, &mut message, flags)?;
    let used = message.msg_controllen.min(64);
    let word = |at: usize| {
        let raw = control.room.get(at..at + 4)?;
        Some(c_int::from_ne_bytes(raw.try_into().ok()?))
    };
    if used >= 20 && word(8) == Some(libc::SOL_SOCKET) && word(12) == Some(libc::SCM_RIGHTS) {
        let end = (word(0).unwrap_or(0) as usize).min(used);
        let mut places = fds.iter_mut();
        for at in (16..end).step_by(4) {
            let Some(one) = word(at).filter(|_| at + 4 <= end) else {
                break;
            };
            match places.next() {
                Some(place) => *place = one,
                None => close(one),
            }
        }
    }
    Ok(n)
}

/// Looks at the message that starts `offset` bytes into a channel without taking it off; gives the
/// descriptor that came along.
pub fn peek_fd(fd: c_int, offset: u32, out: &mut [u8]) -> Result<c_int> {
    set_sockopt_int(fd, libc::SOL_SOCKET, libc::SO_PEEK_OFF, offset as c_int)?;
    let mut fds = [-1];
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    let n = receive(fd, out, &mut fds, flags)?;
    let [one] = fds;
    if one < 0 {
        return Err(libc::EPROTO);
    }
    if n != out.len() {
        close(one);
        return Err(libc::EPROTO);
    }
    Ok(one)
}
