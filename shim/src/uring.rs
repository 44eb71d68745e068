//! io_uring reaches sockets behind the hooks. What a program asks of liburing is looked at before
//! liburing passes it on: a connection that is named there is TCP for good from then on, and a
//! program that uses its ring for files alone keeps its connections on SMC. A process that makes
//! rings without liburing, or asks for what cannot be looked at, stays on TCP with all of them.

use crate::conn::revert;
use crate::fds::{self, Meaning};
use crate::iov;
use protocol::reason;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering::*};

static SEEN: AtomicBool = AtomicBool::new(false);

/// Whether this process has an io_uring whose requests we do not see.
pub fn seen() -> bool {
    SEEN.load(Relaxed)
}

/// Requests may name any connection from now on.
pub fn unseen() {
    if !SEEN.swap(true, AcqRel) {
        revert::leave_all(reason::ASYNC_IO);
    }
}

/// A ring was made by liburing, with these `IORING_SETUP_*` flags.
pub fn made(flags: u32) {
    /// `IORING_SETUP_SQE128`: requests of another length.
    const SQE128: u32 = 1 << 10;
    /// All flags that Linux 6.12 knows.
    const KNOWN: u32 = (1 << 18) - 1;
    if flags & (SQE128 | !KNOWN) != 0 {
        unseen();
    }
}

/// The beginning of `struct io_uring_sq`, and so of `struct io_uring`, in all versions of liburing.
#[repr(C)]
struct Queue {
    khead: *const u32,
    ktail: *const u32,
    ring_mask: *const u32,
    ring_entries: *const u32,
    kflags: *const u32,
    kdropped: *const u32,
    array: *const u32,
    entries: *const Request,
    /// Requests between these two were made, and not passed on yet.
    head: u32,
    tail: u32,
}

/// `struct io_uring_sqe`, as far as it names descriptors.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Request {
    opcode: u8,
    flags: u8,
    ioprio: u16,
    fd: c_int,
    off: u64,
    addr: u64,
    len: u32,
    op_flags: u32,
    user_data: u64,
    buffer: u16,
    personality: u16,
    fd_in: c_int,
    rest: [u64; 2],
}
const _: () = assert!(size_of::<Request>() == 64);

/// `IORING_OP_*`
mod op {
    pub const SENDMSG: u8 = 9;
    pub const FILES_UPDATE: u8 = 20;
    pub const EPOLL_CTL: u8 = 29;
    pub const SPLICE: u8 = 30;
    pub const TEE: u8 = 33;
    pub const MSG_RING: u8 = 40;
    pub const SENDMSG_ZC: u8 = 48;
}

/// `IOSQE_FIXED_FILE`: the descriptor is an index of those that were registered.
const FIXED_FILE: u8 = 1;
/// `SPLICE_F_FD_IN_FIXED`
const FD_IN_FIXED: u32 = 1 << 31;

/// The requests that `ring` holds are about to be passed on.
///
/// # Safety
/// `ring` is the program's `struct io_uring`, set up by liburing.
pub unsafe fn submitting(ring: *const c_void) {
    if seen() || ring.is_null() {
        return;
    }
    let queue = ring.cast::<Queue>();
    // SAFETY: the caller's promise; liburing reads the same in this call, and only the thread that
    // makes it may change it.
    let (mut at, tail, mask, entries) = unsafe {
        let mask = (*queue).ring_mask;
        if mask.is_null() {
            return;
        }
        ((*queue).head, (*queue).tail, *mask, (*queue).entries)
    };
    while at != tail {
        // SAFETY: the queue has as many places as its mask says.
        look_at(unsafe { &*entries.add((at & mask) as usize) });
        at = at.wrapping_add(1);
    }
}

fn look_at(request: &Request) {
    if request.flags & FIXED_FILE == 0 {
        touched(request.fd);
    }
    match request.opcode {
        op::SPLICE | op::TEE if request.op_flags & FD_IN_FIXED == 0 => touched(request.fd_in),
        op::EPOLL_CTL | op::FILES_UPDATE | op::MSG_RING => unseen(),
        op::SENDMSG | op::SENDMSG_ZC => {
            let message = request.addr as *const libc::msghdr;
            // Of an address that cannot be one the kernel tells the program.
            let wild = iov::wild(message.cast(), size_of::<libc::msghdr>());
            // SAFETY: the program's message, which the kernel is about to read.
            if !wild && unsafe { (*message).msg_controllen } != 0 {
                // It may pass descriptors on.
                unseen();
            }
        }
        _ => {}
    }
}

/// The kernel will use this descriptor without asking us.
pub fn touched(fd: c_int) {
    match fds::meaning(fd) {
        Meaning::Conn(sock) => {
            revert::leave(sock, reason::ASYNC_IO);
        }
        // What wakes the set's own waits does not wake others.
        Meaning::Set(_) => unseen(),
        Meaning::None | Meaning::Ours => {}
    }
}
