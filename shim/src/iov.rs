//! The program's buffers: a list of `iovec`s, walked while copying to and from rings.

use crate::{copy, os};
use protocol::shm::ring::Span;
use std::cell::Cell;
use std::ffi::c_int;

/// Scatter/gather list of a call, with its total length.
#[derive(Clone, Copy, Debug)]
pub struct Iov {
    /// Null: the one buffer `single`.
    list: *const libc::iovec,
    count: usize,
    single: libc::iovec,
    pub len: usize,
    /// Null, or for what TCP has to say beside the bytes. Outlives the call.
    pub control: *const Control,
}

/// Control data of a recvmsg.
#[derive(Debug)]
pub struct Control {
    /// The program's buffer.
    at: *mut libc::c_void,
    room: usize,
    /// How much of it the kernel has filled, and whether that was too little for it.
    filled: Cell<Option<(usize, c_int)>>,
}

impl Control {
    pub fn new(message: &libc::msghdr) -> Control {
        Control {
            at: message.msg_control,
            room: message.msg_controllen,
            filled: Cell::new(None),
        }
    }

    /// What the kernel has said, if the bytes came from it.
    pub fn filled(&self) -> Option<(usize, c_int)> {
        self.filled.get()
    }
}

/// `UIO_MAXIOV`
const MAX: usize = 1024;
/// The kernel moves at most this many bytes in a call (`MAX_RW_COUNT`).
const MAX_BYTES: usize = 0x7fff_f000;

/// Whether the kernel would refuse an address outright. Addresses that are merely not mapped are
/// found by touching them, as with any library call.
#[inline]
pub fn wild(base: *const libc::c_void, len: usize) -> bool {
    let start = base as usize;
    len != 0 && (start < 4096 || start.checked_add(len).is_none_or(|end| end > 1 << 47))
}

/// Not an errno: a bad address that the kernel finds when it has something to move, and not before.
pub const FAULT_LATER: i32 = 0x1000 + libc::EFAULT;

/// What the kernel says of a buffer's address before it looks at the socket.
#[inline]
fn check(base: *const libc::c_void, len: usize) -> Result<(), i32> {
    match wild(base, len) {
        false => Ok(()),
        true if (base as usize).saturating_add(len) > 1 << 47 => Err(libc::EFAULT),
        true => Err(FAULT_LATER),
    }
}

/// Bytes that the kernel would move with a list.
///
/// # Safety
/// `list` points to `count` iovecs.
pub unsafe fn lengths(list: *const libc::iovec, count: usize) -> usize {
    // SAFETY: the caller's promise.
    let each = (0..count).map(|i| unsafe { (*list.add(i)).iov_len });
    each.fold(0, usize::saturating_add)
}

impl Iov {
    /// One buffer.
    #[inline]
    pub fn single(base: *const libc::c_void, len: usize) -> Result<Iov, i32> {
        check(base, len).map(|()| Iov::unchecked(base, len))
    }

    /// One buffer of a receive, of which the kernel looks at as much as it can fill in one call.
    #[inline]
    pub fn cut(base: *const libc::c_void, len: usize) -> Result<Iov, i32> {
        Iov::single(base, len.min(MAX_BYTES))
    }

    /// One buffer that is not written to: the bytes are dropped (MSG_TRUNC).
    #[inline]
    pub fn unchecked(base: *const libc::c_void, len: usize) -> Iov {
        let len = len.min(MAX_BYTES);
        let single = libc::iovec {
            iov_base: base.cast_mut(),
            iov_len: len,
        };
        Iov {
            list: std::ptr::null(),
            count: 1,
            single,
            len,
            control: std::ptr::null(),
        }
    }

    fn at(&self, i: usize) -> libc::iovec {
        if self.list.is_null() {
            return self.single;
        }
        // SAFETY: i < count, and `many` was promised as many.
        unsafe { *self.list.add(i) }
    }

    /// # Safety
    /// `list` points to `count` iovecs that stay as they are during the call.
    pub unsafe fn many(list: *const libc::iovec, count: usize) -> Result<Iov, i32> {
        if count > MAX {
            return Err(libc::EMSGSIZE);
        }
        if count != 0 && wild(list.cast(), count * size_of::<libc::iovec>()) {
            return Err(libc::EFAULT);
        }
        let single = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        let mut iov = Iov {
            list,
            count: if list.is_null() { 0 } else { count },
            single,
            len: 0,
            control: std::ptr::null(),
        };
        // Lengths first; then the addresses, of a single buffer as in `cut`.
        if (0..iov.count).any(|i| iov.at(i).iov_len > isize::MAX as usize) {
            return Err(libc::EINVAL);
        }
        let most = if iov.count == 1 {
            MAX_BYTES
        } else {
            usize::MAX
        };
        for i in 0..iov.count {
            let one = iov.at(i);
            check(one.iov_base, one.iov_len.min(most))?;
            iov.len = iov.len.saturating_add(one.iov_len);
        }
        iov.len = iov.len.min(MAX_BYTES);
        Ok(iov)
    }

    /// Calls `f(base, len)` for the pieces of `[skip, skip + len)`.
    fn pieces(&self, skip: usize, len: usize, mut f: impl FnMut(*mut u8, usize)) {
        let (mut skip, mut left) = (skip, len);
        for i in 0..self.count {
            if left == 0 {
                return;
            }
            let one = self.at(i);
            if skip >= one.iov_len {
                skip -= one.iov_len;
                continue;
            }
            let n = (one.iov_len - skip).min(left);
            f((one.iov_base as *mut u8).wrapping_add(skip), n);
            left -= n;
            skip = 0;
        }
    }

    /// Copies `[skip, …)` of the program's bytes to `span` of the ring at `ring`; `far` as in
    /// [`copy::to_ring`].
    #[inline]
    pub fn copy_to_ring(&self, skip: usize, ring: *mut u8, span: Span, far: bool) {
        if self.list.is_null() && span.second == 0 {
            let from = self.single.iov_base.cast::<u8>().wrapping_add(skip);
            let to = ring.wrapping_add(span.at as usize);
            // SAFETY: the span lies in the ring, and is no longer than the program's buffer.
            return unsafe { copy::to_ring(from, to, span.first as usize, far) };
        }
        self.walk_to_ring(skip, ring, span, far);
    }

    #[inline(never)]
    fn walk_to_ring(&self, skip: usize, ring: *mut u8, span: Span, far: bool) {
        let mut to = Walker::new(ring, span);
        self.pieces(skip, span.bytes() as usize, |from, n| {
            to.chunks(n, |ring, done, n| {
                // SAFETY: `ring..+n` lies in the ring (Walker), `from..+n` in the program's buffer.
                // The peer may write the ring at the same time; bytes are not interpreted here.
                unsafe { copy::to_ring(from.add(done), ring, n, far) }
            });
        });
    }

    /// Copies `span` of the ring to the program's buffers from `skip` on.
    #[inline]
    pub fn copy_from_ring(&self, skip: usize, ring: *mut u8, span: Span) {
        if self.list.is_null() && span.second == 0 {
            let to = self.single.iov_base.cast::<u8>().wrapping_add(skip);
            let from = ring.wrapping_add(span.at as usize);
            // SAFETY: as in `copy_to_ring`, the other way.
            return unsafe { std::ptr::copy_nonoverlapping(from, to, span.first as usize) };
        }
        self.walk_from_ring(skip, ring, span);
    }

    #[inline(never)]
    fn walk_from_ring(&self, skip: usize, ring: *mut u8, span: Span) {
        let mut from = Walker::new(ring, span);
        self.pieces(skip, span.bytes() as usize, |to, n| {
            from.chunks(n, |ring, done, n| {
                // SAFETY: as in `copy_to_ring`, the other way.
                unsafe { std::ptr::copy_nonoverlapping(ring, to.add(done), n) }
            });
        });
    }

    /// The rest from `skip` on, at most `limit` bytes, as a list of at most `N` iovecs.
    fn rest<const N: usize>(&self, skip: usize, limit: usize) -> ([libc::iovec; N], usize) {
        let none = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        let mut out = [none; N];
        let mut used = 0;
        let len = self.len.saturating_sub(skip).min(limit);
        self.pieces(skip, len, |base, n| {
            if let Some(slot) = out.get_mut(used) {
                *slot = libc::iovec {
                    iov_base: base.cast(),
                    iov_len: n,
                };
                used += 1;
            }
        });
        (out, used)
    }

    /// Receives at most `limit` bytes from TCP into the buffers from `skip` on, without waiting.
    pub fn tcp_recv(
        &self,
        fd: c_int,
        skip: usize,
        limit: usize,
        flags: c_int,
    ) -> Result<usize, i32> {
        self.message(skip, limit, |m| {
            // SAFETY: see the field.
            let control = unsafe { self.control.as_ref() };
            if let Some(control) = control {
                (m.msg_control, m.msg_controllen) = (control.at, control.room);
            }
            let n = os::recvmsg(fd, m, flags | libc::MSG_DONTWAIT)?;
            if let Some(control) = control {
                let cut = m.msg_flags & libc::MSG_CTRUNC;
                control.filled.set(Some((m.msg_controllen, cut)));
            }
            Ok(n)
        })
    }

    /// Sends the bytes from `skip` on, at most `limit`, over TCP without waiting.
    pub fn tcp_send(
        &self,
        fd: c_int,
        skip: usize,
        limit: usize,
        flags: c_int,
    ) -> Result<usize, i32> {
        let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        self.message(skip, limit, |m| os::sendmsg(fd, m, flags))
    }

    fn message<R>(&self, skip: usize, limit: usize, f: impl FnOnce(&mut libc::msghdr) -> R) -> R {
        let (mut list, used) = self.rest::<16>(skip, limit);
        // SAFETY: a msghdr of zeros is a valid one.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = list.as_mut_ptr();
        message.msg_iovlen = used;
        f(&mut message)
    }
}

/// Walks the bytes of a span, around the end of the ring.
struct Walker {
    ring: *mut u8,
    at: usize,
    first: usize,
}

impl Walker {
    fn new(ring: *mut u8, span: Span) -> Self {
        Walker {
            ring,
            at: span.at as usize,
            first: span.first as usize,
        }
    }

    /// Calls `f(place in the ring, bytes done, bytes)` for the next `n` bytes of the span.
    fn chunks(&mut self, n: usize, mut f: impl FnMut(*mut u8, usize, usize)) {
        let head = n.min(self.first);
        if head != 0 {
            f(self.ring.wrapping_add(self.at), 0, head);
            self.at += head;
            self.first -= head;
        }
        if n > head {
            if self.first == 0 && self.at != usize::MAX {
                self.at = 0;
                self.first = usize::MAX;
            }
            f(self.ring.wrapping_add(self.at), head, n - head);
            self.at += n - head;
            self.first -= n - head;
        }
    }
}

/// Splits a span's bytes into its one or two places, as iovecs into the ring.
pub fn ring_iovecs(ring: *mut u8, span: Span) -> ([libc::iovec; 2], usize) {
    let one = |at: usize, len: u32| libc::iovec {
        iov_base: ring.wrapping_add(at).cast(),
        iov_len: len as usize,
    };
    let count = if span.second == 0 { 1 } else { 2 };
    (
        [one(span.at as usize, span.first), one(0, span.second)],
        count,
    )
}

/// Writes what a pipe has room for of a span of a ring.
pub fn pour(pipe: c_int, ring: *mut u8, span: Span) -> Result<usize, i32> {
    os::writev_now(pipe, ring_iovecs(ring, span).0)
}
