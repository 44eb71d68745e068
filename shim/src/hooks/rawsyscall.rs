//! syscall(): the same calls by number.
//!
//! A naked function looks the number up in a byte table: most go straight on, a few that matter
//! on our descriptors go to [`on_descriptor`], those that matter always to [`always`], and those
//! that make processes jump on after a note, because the child returns through the same frame.
//!
//! The kernel's conventions differ from libc's in places: signal sets have 8 bytes, ppoll and
//! pselect6 write the time left, and none is a cancellation point. So whatever is not ours goes
//! to the next `syscall`, not to the next function of that name.

use std::arch::naked_asm;
use std::mem::offset_of;

use libc::{c_int, c_long, c_uint, timespec};

use crate::calls::life::Which;
use crate::calls::{self, epoll, file, io, life, msg, passing, sockopt};
use crate::real::{self, NEXT, Next};
use crate::{errno, fds, sandbox, sys};

const PASS: u8 = 0;
/// The first argument is a descriptor; of interest if it has an entry.
const DESCRIPTOR: u8 = 1;
/// Always looked at.
const ALWAYS: u8 = 2;
/// Makes a process or a thread.
const CHILD: u8 = 3;

const NUMBERS: usize = 512;

const ON_DESCRIPTOR: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_ioctl,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_dup,
    libc::SYS_connect,
    libc::SYS_accept,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_shutdown,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_setsockopt,
    libc::SYS_getsockopt,
    libc::SYS_fcntl,
    libc::SYS_epoll_wait,
    libc::SYS_vmsplice,
    libc::SYS_epoll_pwait,
    libc::SYS_accept4,
    libc::SYS_recvmmsg,
    libc::SYS_sendmmsg,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_epoll_pwait2,
];

const EVERY: &[c_long] = &[
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_dup2,
    libc::SYS_sendfile,
    libc::SYS_socket,
    libc::SYS_execve,
    libc::SYS_epoll_create,
    libc::SYS_exit_group,
    libc::SYS_epoll_ctl,
    libc::SYS_pselect6,
    libc::SYS_ppoll,
    libc::SYS_splice,
    libc::SYS_tee,
    libc::SYS_epoll_create1,
    libc::SYS_dup3,
    libc::SYS_execveat,
    libc::SYS_io_uring_setup,
    libc::SYS_close_range,
    libc::SYS_prctl,
    libc::SYS_seccomp,
];

const CHILDREN: &[c_long] = &[
    libc::SYS_clone,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_clone3,
];

#[expect(
    clippy::indexing_slicing,
    clippy::cast_sign_loss,
    reason = "evaluated at compile time"
)]
const fn mark(mut kinds: [u8; NUMBERS], numbers: &[c_long], kind: u8) -> [u8; NUMBERS] {
    let mut at = 0;
    while at < numbers.len() {
        kinds[numbers[at] as usize] = kind;
        at += 1;
    }
    kinds
}

static KINDS: [u8; NUMBERS] = {
    let kinds = mark([PASS; NUMBERS], ON_DESCRIPTOR, DESCRIPTOR);
    let kinds = mark(kinds, EVERY, ALWAYS);
    mark(kinds, CHILDREN, CHILD)
};

/// syscall: variadic in C, at most seven integer arguments, the last of them on the stack.
///
/// # Safety
/// As for the C function.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[unsafe(naked)]
pub unsafe extern "C-unwind" fn syscall() -> c_long {
    naked_asm!(
        "cmp rdi, {numbers}",
        "jae 2f",
        "lea r11, [rip + {kinds}]",
        "movzx eax, byte ptr [r11 + rdi]",
        "test eax, eax",
        "jne 3f",
        "2:",
        "jmp qword ptr [rip + {next} + {slot}]",
        "3:",
        "cmp eax, {always}",
        "je {always_fn}",
        "jb {descriptor_fn}",
        // A child: keep the seven arguments and leave no frame.
        "push rdi",
        "push rsi",
        "push rdx",
        "push rcx",
        "push r8",
        "push r9",
        "sub rsp, 8",
        "call {child_fn}",
        "add rsp, 8",
        "pop r9",
        "pop r8",
        "pop rcx",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        "jmp 2b",
        numbers = const NUMBERS,
        kinds = sym KINDS,
        always = const ALWAYS,
        always_fn = sym always,
        descriptor_fn = sym on_descriptor,
        child_fn = sym before_child,
        next = sym NEXT,
        slot = const offset_of!(Next, syscall),
    )
}

/// fork, vfork, clone or clone3 by number.
extern "C" fn before_child(number: c_long, flags: usize) {
    // clone's flags are its first argument; clone3's are behind a pointer that may be bad.
    super::proc::before_clone(if number == libc::SYS_clone { flags } else { 0 });
}

/// A register as the C `int` that it holds.
#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
fn int(value: usize) -> c_int {
    value as c_int
}

/// A register as the C `unsigned` that it holds.
#[expect(clippy::cast_possible_truncation)]
fn uint(value: usize) -> c_uint {
    value as c_uint
}

fn small(value: c_int) -> c_long {
    c_long::from(value)
}

fn long(value: isize) -> c_long {
    value as c_long
}

/// Runs a wait of libc's kind, which leaves `timeout` alone, and then writes the time left to it
/// as the system call does.
///
/// # Safety
/// `timeout` must be null or valid for the whole call.
unsafe fn timed(timeout: *mut timespec, wait: impl FnOnce() -> c_int) -> c_int {
    const SECOND: i64 = 1_000_000_000;
    let now = || {
        let mut now = timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: a local. libc's function uses the vDSO, is not hooked, and cannot fail here.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
        now.tv_sec
            .saturating_mul(SECOND)
            .saturating_add(now.tv_nsec)
    };
    if timeout.is_null() {
        return wait();
    }
    let start = now();
    let answer = wait();
    let passed = now().saturating_sub(start);
    // SAFETY: the caller's timeout.
    let given = unsafe { timeout.read() };
    // What the wait has refused stays as it is.
    if given.tv_sec >= 0 && (0..SECOND).contains(&given.tv_nsec) {
        let left = given
            .tv_sec
            .saturating_mul(SECOND)
            .saturating_add(given.tv_nsec)
            - passed;
        let left = left.max(0);
        // SAFETY: as above.
        unsafe {
            timeout.write(timespec {
                tv_sec: left / SECOND,
                tv_nsec: left % SECOND,
            })
        };
    }
    answer
}

unsafe extern "C-unwind" fn on_descriptor(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    let fd = int(a);
    let own = fds::get(fd);
    // SAFETY: the C caller's arguments, in the kernel's order for this number, given types again.
    unsafe {
        if own == 0 {
            return match number {
                libc::SYS_recvmsg => long(passing::recvmsg(fd, b as _, int(c))),
                libc::SYS_sendmsg => long(passing::sendmsg(fd, b as _, int(c))),
                libc::SYS_recvmmsg => small(passing::recvmmsg(fd, b as _, uint(c), int(d), e as _)),
                libc::SYS_sendmmsg => small(passing::sendmmsg(fd, b as _, uint(c), int(d))),
                _ => real::syscall(number, a, b, c, d, e, f),
            };
        }
        let found = fds::sock(fd).map(|sock| sock.conn);
        match number {
            libc::SYS_read => long(io::read(fd, b as _, c, found)),
            libc::SYS_write => long(io::write(fd, b as _, c, found)),
            libc::SYS_readv => long(io::readv(fd, b as _, int(c), found)),
            libc::SYS_writev => long(io::writev(fd, b as _, int(c), found)),
            // The position is split over two arguments; on 64 bits the second one is unused.
            libc::SYS_preadv2 => long(io::preadv2(own, fd, b as _, int(c), d as _, int(f))),
            libc::SYS_pwritev2 => long(io::pwritev2(own, fd, b as _, int(c), d as _, int(f))),
            libc::SYS_recvfrom => long(io::recvfrom(fd, b as _, c, int(d), e as _, f as _, found)),
            libc::SYS_sendto => long(io::sendto(fd, b as _, c, int(d), e as _, uint(f), found)),
            libc::SYS_recvmsg => long(msg::recvmsg(own, fd, b as _, int(c))),
            libc::SYS_sendmsg => long(msg::sendmsg(own, fd, b as _, int(c))),
            libc::SYS_recvmmsg => small(msg::recvmmsg(own, fd, b as _, uint(c), int(d), e as _)),
            libc::SYS_sendmmsg => small(msg::sendmmsg(own, fd, b as _, uint(c), int(d))),
            libc::SYS_close => small(calls::fd::close(own, fd)),
            libc::SYS_shutdown => small(calls::fd::shutdown(own, fd, int(b))),
            libc::SYS_dup => small(calls::fd::dup(own, fd)),
            libc::SYS_fcntl => small(calls::fd::fcntl(own, fd, int(b), c)),
            libc::SYS_ioctl => small(calls::fd::ioctl(own, fd, b as _, c)),
            libc::SYS_bind => small(life::bind(own, fd, b as _, uint(c))),
            libc::SYS_listen => small(life::listen(own, fd, int(b))),
            libc::SYS_connect => small(life::connect(own, fd, b as _, uint(c))),
            libc::SYS_accept => small(life::accept4(own, fd, b as _, c as _, 0, Which::Accept)),
            libc::SYS_accept4 => small(life::accept4(
                own,
                fd,
                b as _,
                c as _,
                int(d),
                Which::Accept4,
            )),
            libc::SYS_getsockopt => {
                small(sockopt::getsockopt(own, fd, int(b), int(c), d as _, e as _))
            }
            libc::SYS_setsockopt => small(sockopt::setsockopt(
                own,
                fd,
                int(b),
                int(c),
                d as _,
                uint(e),
            )),
            libc::SYS_vmsplice => long(file::vmsplice(own, fd, b as _, c, uint(d))),
            libc::SYS_epoll_wait => small(epoll::wait(own, fd, b as _, int(c), int(d))),
            libc::SYS_epoll_pwait if e == 0 || f == sys::SIGSET_BYTES => {
                small(epoll::pwait(own, fd, b as _, int(c), int(d), e as _))
            }
            libc::SYS_epoll_pwait2 if e == 0 || f == sys::SIGSET_BYTES => {
                small(epoll::pwait2(own, fd, b as _, int(c), d as _, e as _))
            }
            _ => real::syscall(number, a, b, c, d, e, f),
        }
    }
}

unsafe extern "C-unwind" fn always(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    let ours = |fd: usize| fds::get(int(fd)) != 0;
    // SAFETY: the C caller's arguments, in the kernel's order for this number, given types again.
    unsafe {
        match number {
            libc::SYS_socket => small(super::socket::socket(int(a), int(b), int(c))),
            libc::SYS_poll if calls::poll::any_polled(a as _, b as _) => {
                small(calls::poll::poll(a as _, b as _, int(c)))
            }
            libc::SYS_ppoll
                if (d == 0 || e == sys::SIGSET_BYTES)
                    && calls::poll::any_polled(a as _, b as _) =>
            {
                small(timed(c as _, || {
                    calls::poll::ppoll(a as _, b as _, c as _, d as _)
                }))
            }
            libc::SYS_select if calls::poll::any_selected(int(a), [b as _, c as _, d as _]) => {
                small(calls::poll::select(int(a), b as _, c as _, d as _, e as _))
            }
            libc::SYS_pselect6 if calls::poll::any_selected(int(a), [b as _, c as _, d as _]) => {
                // The sixth argument points at the set and its size.
                let given = f as *const sys::MaskArgument;
                let mask = if given.is_null() {
                    std::ptr::null()
                } else {
                    let given = given.read_unaligned();
                    if !given.mask.is_null() && given.len != sys::SIGSET_BYTES {
                        return errno::fail(libc::EINVAL);
                    }
                    given.mask
                };
                small(timed(e as _, || {
                    calls::poll::pselect(int(a), b as _, c as _, d as _, e as _, mask)
                }))
            }
            libc::SYS_dup2 if ours(a) || ours(b) => small(super::fd::dup2(int(a), int(b))),
            libc::SYS_dup3 if ours(a) || ours(b) => small(super::fd::dup3(int(a), int(b), int(c))),
            libc::SYS_sendfile if ours(a) || ours(b) => {
                long(super::file::sendfile(int(a), int(b), c as _, d))
            }
            libc::SYS_splice if ours(a) || ours(c) => long(super::file::splice(
                int(a),
                b as _,
                int(c),
                d as _,
                e,
                uint(f),
            )),
            libc::SYS_tee if ours(a) || ours(b) => {
                long(super::file::tee(int(a), int(b), c, uint(d)))
            }
            libc::SYS_epoll_ctl if ours(a) || ours(c) => {
                small(super::epoll::epoll_ctl(int(a), int(b), int(c), d as _))
            }
            libc::SYS_epoll_create => small(epoll::create(int(a))),
            libc::SYS_epoll_create1 => small(epoll::create1(int(a))),
            libc::SYS_close_range => small(calls::fd::close_range(uint(a), uint(b), int(c))),
            libc::SYS_execve => small(super::proc::execve(a as _, b as _, c as _)),
            libc::SYS_execveat => small(super::proc::execveat(
                int(a),
                b as _,
                c as _,
                d as _,
                int(e),
            )),
            libc::SYS_exit_group => {
                calls::proc::exit_now(int(a));
                real::syscall(number, a, b, c, d, e, f)
            }
            libc::SYS_prctl | libc::SYS_seccomp => {
                // seccomp's first two operations install something, the others ask.
                if number == libc::SYS_seccomp && a < 2 || int(a) == libc::PR_SET_SECCOMP {
                    sandbox::entering();
                }
                real::syscall(number, a, b, c, d, e, f)
            }
            libc::SYS_io_uring_setup => {
                let ring = real::syscall(number, a, b, c, d, e, f);
                if ring >= 0 {
                    calls::uring::ring_unseen();
                }
                ring
            }
            _ => real::syscall(number, a, b, c, d, e, f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_number_is_marked_once() {
        let marked = KINDS.iter().filter(|kind| **kind != PASS).count();
        assert_eq!(marked, ON_DESCRIPTOR.len() + EVERY.len() + CHILDREN.len());
    }
}
