//! One packet with descriptors, over a `SOCK_SEQPACKET` socket.

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use protocol::ctl::{MAX_FDS, MAX_MESSAGE, Message};
use std::io::IoSlice;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// A message ready to be sent. Descriptors may be shared with other messages.
#[derive(Debug)]
pub struct Packet {
    pub bytes: Vec<u8>,
    pub fds: Vec<Arc<OwnedFd>>,
}

impl Packet {
    pub fn new<M: Message>(message: &M, fds: Vec<Arc<OwnedFd>>) -> Self {
        let mut buf = [0; MAX_MESSAGE];
        let len = message.encode(&mut buf);
        Packet {
            bytes: buf[..len].to_vec(),
            fds,
        }
    }

    pub fn send(&self, socket: BorrowedFd<'_>, flags: MsgFlags) -> Result<(), Errno> {
        let raw: Vec<RawFd> = self.fds.iter().map(|fd| fd.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
        let iov = [IoSlice::new(&self.bytes)];
        let flags = flags | MsgFlags::MSG_NOSIGNAL;
        loop {
            match sendmsg::<()>(socket.as_raw_fd(), &iov, control, flags, None) {
                Err(Errno::EINTR) => {}
                other => return other.map(drop),
            }
        }
    }
}

/// A received packet. Its descriptors are closed unless taken.
#[derive(Debug)]
pub struct Received {
    buf: [u8; MAX_MESSAGE],
    len: usize,
    /// Not longer than any message.
    pub whole: bool,
    pub fds: Vec<OwnedFd>,
}

impl Received {
    pub fn bytes(&self) -> &[u8] {
        &self.buf[..self.len]
    }
}

/// Room for the descriptors of one message, aligned as a `cmsghdr` must be.
#[repr(C, align(8))]
struct Control([u8; 1040]);

const _: () = assert!(align_of::<libc::cmsghdr>() <= 8);

/// Reads one packet; `None` at the end of the stream (an empty packet counts as one).
/// `EMSGSIZE`: longer than any message, or more descriptors than any message carries.
pub fn receive(socket: BorrowedFd<'_>, flags: MsgFlags) -> Result<Option<Received>, Errno> {
    match receive_any(socket, flags)? {
        Some(got) if !got.whole || got.fds.len() > MAX_FDS => Err(Errno::EMSGSIZE),
        got => Ok(got),
    }
}

/// As [`receive`], also what is too long, so that the caller decides who closes its descriptors.
///
/// Not `nix`'s `recvmsg`: that keeps the descriptors of a truncated packet from the caller, so that
/// nobody could close them.
pub fn receive_any(socket: BorrowedFd<'_>, flags: MsgFlags) -> Result<Option<Received>, Errno> {
    let mut got = Received {
        buf: [0; MAX_MESSAGE],
        len: 0,
        whole: true,
        fds: Vec::new(),
    };
    let mut control = Control([0; 1040]);
    let mut iov = libc::iovec {
        iov_base: got.buf.as_mut_ptr().cast(),
        iov_len: got.buf.len(),
    };
    // SAFETY: all zeros is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = CONTROL_LEN;
    let flags = (flags | MsgFlags::MSG_CMSG_CLOEXEC).bits();
    got.len = loop {
        // SAFETY: the header names a buffer and a control buffer that live in this frame.
        let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
        match Errno::result(n) {
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
            Ok(n) => break n as usize,
        }
    };
    // SAFETY: the kernel has filled the header and the control buffer.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !at.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give headers inside the control buffer.
        let (cmsg, data) = unsafe { (at.read(), libc::CMSG_DATA(at)) };
        if cmsg.cmsg_level == libc::SOL_SOCKET && cmsg.cmsg_type == libc::SCM_RIGHTS {
            let head = data as usize - at as usize;
            let count = cmsg.cmsg_len.saturating_sub(head) / size_of::<RawFd>();
            for i in 0..count {
                // SAFETY: the kernel wrote `count` descriptors here, which it has just installed
                // for us; nobody else knows them.
                let fd =
                    unsafe { OwnedFd::from_raw_fd(data.cast::<RawFd>().add(i).read_unaligned()) };
                got.fds.push(fd);
            }
        }
        // SAFETY: `at` is a header of this message.
        at = unsafe { libc::CMSG_NXTHDR(&raw const header, at) };
    }
    got.whole = header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) == 0;
    Ok((got.len > 0 || !got.fds.is_empty()).then_some(got))
}

/// Descriptors that the kernel lets one message carry (`SCM_MAX_FD`). With less room it would close the
/// rest itself, within the call.
const SCM_MAX_FD: usize = 253;
/// `CMSG_SPACE` of them.
const CONTROL_LEN: usize =
    // SAFETY: arithmetic only.
    unsafe { libc::CMSG_SPACE((SCM_MAX_FD * size_of::<RawFd>()) as u32) as usize };
const _: () = assert!(CONTROL_LEN <= size_of::<Control>());
