//! The shim's own door to the kernel: raw system calls, x86_64.
//!
//! Nothing here goes through libc: no hook is entered again, `errno` is not touched, and none of
//! these is a cancellation point. All I/O on descriptors of our own, and all waiting that we do
//! on the application's behalf, uses only this door. Errors are positive errno values.
//!
//! Every `unsafe` block below is one `syscall` instruction with the arguments of the wrapper; the
//! wrappers that take pointers are `unsafe fn`, their caller vouches for the memory.

#![allow(
    dead_code,
    reason = "the door is complete whether or not each call has a user"
)]
#![allow(clippy::cast_sign_loss, reason = "register images of C integers")]

use std::arch::asm;
use std::ffi::CStr;

use libc::{
    c_int, c_long, c_uint, c_void, epoll_event, iovec, msghdr, pid_t, pollfd, sockaddr, socklen_t,
    timespec,
};

/// What the kernel answered: a value or an errno.
pub type Answer = Result<usize, i32>;

/// Size of the kernel's signal set, which is shorter than libc's.
pub const SIGSET_BYTES: usize = 8;

/// One system call, the kernel's bare return value.
///
/// # Safety
/// The arguments must be fit for system call `number`: what the kernel writes to, the caller owns.
#[inline(always)]
pub unsafe fn syscall6(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> isize {
    let answer: isize;
    // SAFETY: the x86_64 system call convention: rax in and out, rcx and r11 clobbered, the stack
    // untouched; memory effects are the caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => answer,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            in("r8") e,
            in("r9") f,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    answer
}

/// Splits the kernel's return value: -4095..=-1 are errors.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "errors are below 4096")]
pub fn answer(value: isize) -> Answer {
    if (-4095..0).contains(&value) {
        Err(-value as i32)
    } else {
        Ok(value as usize)
    }
}

macro_rules! call {
    ($number:expr $(, $arg:expr)*) => {
        call!(@pad [$number] [$($arg as usize),*])
    };
    (@pad [$n:expr] []) => { call!(@go $n, 0, 0, 0, 0, 0, 0) };
    (@pad [$n:expr] [$a:expr]) => { call!(@go $n, $a, 0, 0, 0, 0, 0) };
    (@pad [$n:expr] [$a:expr, $b:expr]) => { call!(@go $n, $a, $b, 0, 0, 0, 0) };
    (@pad [$n:expr] [$a:expr, $b:expr, $c:expr]) => { call!(@go $n, $a, $b, $c, 0, 0, 0) };
    (@pad [$n:expr] [$a:expr, $b:expr, $c:expr, $d:expr]) => {
        call!(@go $n, $a, $b, $c, $d, 0, 0)
    };
    (@pad [$n:expr] [$a:expr, $b:expr, $c:expr, $d:expr, $e:expr]) => {
        call!(@go $n, $a, $b, $c, $d, $e, 0)
    };
    (@pad [$n:expr] [$a:expr, $b:expr, $c:expr, $d:expr, $e:expr, $f:expr]) => {
        call!(@go $n, $a, $b, $c, $d, $e, $f)
    };
    (@go $n:expr, $a:expr, $b:expr, $c:expr, $d:expr, $e:expr, $f:expr) => {
        // SAFETY: the wrapper's caller vouches for the memory behind pointers; integers are
        // checked by the kernel.
        answer(unsafe { syscall6($n, $a, $b, $c, $d, $e, $f) })
    };
}

/// Wrappers that take integers only; the kernel checks them.
macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),*) = $number:ident;)*) => {
        $($(#[$doc])*
        #[inline]
        pub fn $name($($arg: $ty),*) -> Answer {
            call!(libc::$number $(, $arg)*)
        })*
    };
}

/// Wrappers that take pointers.
macro_rules! memory {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),*) = $number:ident $([$($extra:expr),*])?;)*) => {
        $($(#[$doc])*
        ///
        /// # Safety
        /// The pointers must be valid for what the kernel does with them, or null where it allows.
        #[inline]
        pub unsafe fn $name($($arg: $ty),*) -> Answer {
            call!(libc::$number $(, $arg)* $($(, $extra)*)?)
        })*
    };
}

plain! {
    /// close(2). The descriptor is gone whatever the answer, EINTR included.
    close(fd: c_int) = SYS_close;
    /// dup(2).
    dup(fd: c_int) = SYS_dup;
    /// dup3(2).
    dup3(old: c_int, new: c_int, flags: c_int) = SYS_dup3;
    /// epoll_create1(2).
    epoll_create1(flags: c_int) = SYS_epoll_create1;
    /// eventfd2(2).
    eventfd2(initial: c_uint, flags: c_int) = SYS_eventfd2;
    /// fchmod(2).
    fchmod(fd: c_int, mode: libc::mode_t) = SYS_fchmod;
    /// fcntl(2) with an integer argument.
    fcntl(fd: c_int, command: c_int, argument: usize) = SYS_fcntl;
    /// ftruncate(2).
    ftruncate(fd: c_int, length: usize) = SYS_ftruncate;
    /// The real getpid, not one that libc may cache.
    getpid() = SYS_getpid;
    /// getppid(2).
    getppid() = SYS_getppid;
    /// gettid(2).
    gettid() = SYS_gettid;
    /// getuid(2).
    getuid() = SYS_getuid;
    /// geteuid(2).
    geteuid() = SYS_geteuid;
    /// getegid(2).
    getegid() = SYS_getegid;
    /// kcmp(2).
    kcmp(one: pid_t, other: pid_t, kind: c_int, a: usize, b: usize) = SYS_kcmp;
    /// kill(2).
    kill(pid: pid_t, signal: c_int) = SYS_kill;
    /// tgkill(2).
    tgkill(pid: pid_t, tid: pid_t, signal: c_int) = SYS_tgkill;
    /// listen(2).
    listen(fd: c_int, backlog: c_int) = SYS_listen;
    /// sched_yield(2).
    sched_yield() = SYS_sched_yield;
    /// setsid(2).
    setsid() = SYS_setsid;
    /// shutdown(2).
    shutdown(fd: c_int, how: c_int) = SYS_shutdown;
    /// socket(2).
    socket(domain: c_int, kind: c_int, protocol: c_int) = SYS_socket;
    /// close_range(2).
    close_range(first: c_uint, last: c_uint, flags: c_uint) = SYS_close_range;
    /// exit_group(2); returns only if the kernel refuses to die.
    exit_group(status: c_int) = SYS_exit_group;
}

memory! {
    /// read(2).
    read(fd: c_int, buf: *mut c_void, len: usize) = SYS_read;
    /// write(2).
    write(fd: c_int, buf: *const c_void, len: usize) = SYS_write;
    /// readv(2).
    readv(fd: c_int, iov: *const iovec, count: c_int) = SYS_readv;
    /// writev(2).
    writev(fd: c_int, iov: *const iovec, count: c_int) = SYS_writev;
    /// preadv2(2); offset -1 reads at the current position.
    preadv2(fd: c_int, iov: *const iovec, count: c_int, offset: i64, high: usize, flags: c_int) = SYS_preadv2;
    /// pwritev2(2); offset -1 writes at the current position.
    pwritev2(fd: c_int, iov: *const iovec, count: c_int, offset: i64, high: usize, flags: c_int) = SYS_pwritev2;
    /// recvfrom(2).
    recvfrom(fd: c_int, buf: *mut c_void, len: usize, flags: c_int, addr: *mut sockaddr, addr_len: *mut socklen_t) = SYS_recvfrom;
    /// sendto(2).
    sendto(fd: c_int, buf: *const c_void, len: usize, flags: c_int, addr: *const sockaddr, addr_len: socklen_t) = SYS_sendto;
    /// recvmsg(2).
    recvmsg(fd: c_int, msg: *mut msghdr, flags: c_int) = SYS_recvmsg;
    /// sendmsg(2).
    sendmsg(fd: c_int, msg: *const msghdr, flags: c_int) = SYS_sendmsg;
    /// recvmmsg(2).
    recvmmsg(fd: c_int, vec: *mut libc::mmsghdr, count: c_uint, flags: c_int, timeout: *mut timespec) = SYS_recvmmsg;
    /// sendmmsg(2).
    sendmmsg(fd: c_int, vec: *mut libc::mmsghdr, count: c_uint, flags: c_int) = SYS_sendmmsg;
    /// poll(2).
    poll(fds: *mut pollfd, count: usize, timeout_ms: c_int) = SYS_poll;
    /// ppoll(2); the kernel writes the time left to `timeout`.
    ppoll(fds: *mut pollfd, count: usize, timeout: *mut timespec, mask: *const libc::sigset_t) = SYS_ppoll [SIGSET_BYTES];
    /// select(2); the kernel writes the time left to `timeout`.
    select(count: c_int, read: *mut libc::fd_set, write: *mut libc::fd_set, except: *mut libc::fd_set, timeout: *mut libc::timeval) = SYS_select;
    /// pselect6(2); `mask` points at the kernel's {set, size} pair.
    pselect6(count: c_int, read: *mut libc::fd_set, write: *mut libc::fd_set, except: *mut libc::fd_set, timeout: *mut timespec, mask: *const MaskArgument) = SYS_pselect6;
    /// epoll_ctl(2).
    epoll_ctl(epfd: c_int, op: c_int, fd: c_int, event: *mut epoll_event) = SYS_epoll_ctl;
    /// epoll_pwait(2).
    epoll_pwait(epfd: c_int, events: *mut epoll_event, max: c_int, timeout_ms: c_int, mask: *const libc::sigset_t) = SYS_epoll_pwait [SIGSET_BYTES];
    /// epoll_pwait2(2).
    epoll_pwait2(epfd: c_int, events: *mut epoll_event, max: c_int, timeout: *const timespec, mask: *const libc::sigset_t) = SYS_epoll_pwait2 [SIGSET_BYTES];
    /// fcntl(2) with a pointer argument (locks, owners).
    fcntl_ptr(fd: c_int, command: c_int, argument: *mut c_void) = SYS_fcntl;
    /// ioctl(2).
    ioctl(fd: c_int, request: usize, argument: usize) = SYS_ioctl;
    /// getsockopt(2).
    getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut socklen_t) = SYS_getsockopt;
    /// setsockopt(2).
    setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: socklen_t) = SYS_setsockopt;
    /// getsockname(2).
    getsockname(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) = SYS_getsockname;
    /// getpeername(2).
    getpeername(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) = SYS_getpeername;
    /// bind(2).
    bind(fd: c_int, addr: *const sockaddr, len: socklen_t) = SYS_bind;
    /// connect(2).
    connect(fd: c_int, addr: *const sockaddr, len: socklen_t) = SYS_connect;
    /// accept4(2).
    accept4(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t, flags: c_int) = SYS_accept4;
    /// mmap(2); the answer is the address.
    mmap(addr: *mut c_void, len: usize, prot: c_int, flags: c_int, fd: c_int, offset: usize) = SYS_mmap;
    /// munmap(2).
    munmap(addr: *mut c_void, len: usize) = SYS_munmap;
    /// madvise(2).
    madvise(addr: *mut c_void, len: usize, advice: c_int) = SYS_madvise;
    /// mprotect(2).
    mprotect(addr: *mut c_void, len: usize, prot: c_int) = SYS_mprotect;
    /// futex(2); `timeout` is the fourth argument, a count for some operations.
    futex(word: *const u32, op: c_int, value: u32, timeout: *const timespec, word2: *const u32, value3: u32) = SYS_futex;
    /// rt_sigaction(2), in the kernel's layout.
    rt_sigaction(signal: c_int, new: *const KernelSigaction, old: *mut KernelSigaction) = SYS_rt_sigaction [SIGSET_BYTES];
    /// rt_sigprocmask(2) on 64-bit sets.
    rt_sigprocmask(how: c_int, set: *const u64, old: *mut u64) = SYS_rt_sigprocmask [SIGSET_BYTES];
    /// prctl(2).
    prctl(option: c_int, a: usize, b: usize, c: usize, d: usize) = SYS_prctl;
    /// clock_gettime(2) by system call; libc's goes through the vDSO and is faster.
    clock_gettime(clock: c_int, time: *mut timespec) = SYS_clock_gettime;
    /// nanosleep(2).
    nanosleep(request: *const timespec, left: *mut timespec) = SYS_nanosleep;
    /// sched_getaffinity(2); the answer is the number of bytes written.
    sched_getaffinity(pid: pid_t, len: usize, mask: *mut c_void) = SYS_sched_getaffinity;
    /// getcpu(2).
    getcpu(cpu: *mut c_uint, node: *mut c_uint) = SYS_getcpu;
    /// getrandom(2).
    getrandom(buf: *mut c_void, len: usize, flags: c_uint) = SYS_getrandom;
    /// getdents64(2).
    getdents64(fd: c_int, buf: *mut c_void, len: usize) = SYS_getdents64;
    /// splice(2).
    splice(input: c_int, off_in: *mut i64, output: c_int, off_out: *mut i64, len: usize, flags: c_uint) = SYS_splice;
    /// tee(2) has no pointers but shares the contract of its family.
    tee(input: c_int, output: c_int, len: usize, flags: c_uint) = SYS_tee;
    /// vmsplice(2).
    vmsplice(fd: c_int, iov: *const iovec, count: usize, flags: c_uint) = SYS_vmsplice;
    /// sendfile(2).
    sendfile(output: c_int, input: c_int, offset: *mut i64, count: usize) = SYS_sendfile;
    /// execve(2).
    execve(path: *const libc::c_char, argv: *const *const libc::c_char, envp: *const *const libc::c_char) = SYS_execve;
    /// execveat(2).
    execveat(dir: c_int, path: *const libc::c_char, argv: *const *const libc::c_char, envp: *const *const libc::c_char, flags: c_int) = SYS_execveat;
}

/// pselect6's sixth argument.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MaskArgument {
    /// The signal set, or null.
    pub mask: *const libc::sigset_t,
    /// Its size: [`SIGSET_BYTES`].
    pub len: usize,
}

/// struct sigaction as the kernel has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelSigaction {
    /// Handler address; 0 is SIG_DFL, 1 is SIG_IGN.
    pub handler: usize,
    /// SA_* flags.
    pub flags: u64,
    /// Address of the return trampoline.
    pub restorer: usize,
    /// Signals blocked while the handler runs.
    pub mask: u64,
}

/// The installed action of `signal`.
#[inline]
pub fn sigaction(signal: c_int) -> Result<KernelSigaction, i32> {
    let mut old = KernelSigaction::default();
    // SAFETY: no new action is given, and `old` is a local of the kernel's layout.
    unsafe { rt_sigaction(signal, std::ptr::null(), &raw mut old) }.map(|_| old)
}

/// Sets the action of `signal`, with everything that libc puts into it.
#[inline]
pub fn set_sigaction(signal: c_int, new: &KernelSigaction) -> Result<(), i32> {
    // SAFETY: the action is of the kernel's layout, and its restorer is libc's.
    unsafe { rt_sigaction(signal, std::ptr::from_ref(new), std::ptr::null_mut()) }.map(drop)
}

/// A copy of `fd` at `lowest` or above, closed on exec.
#[inline]
pub fn dup_cloexec(fd: c_int, lowest: usize) -> Answer {
    fcntl(fd, libc::F_DUPFD_CLOEXEC, lowest)
}

/// openat(2).
#[inline]
pub fn openat(dir: c_int, path: &CStr, flags: c_int, mode: libc::mode_t) -> Answer {
    call!(libc::SYS_openat, dir, path.as_ptr(), flags, mode)
}

/// readlinkat(2) into `buf`; the answer is the length, without a terminator.
#[inline]
pub fn readlinkat(dir: c_int, path: &CStr, buf: &mut [u8]) -> Answer {
    call!(
        libc::SYS_readlinkat,
        dir,
        path.as_ptr(),
        buf.as_mut_ptr(),
        buf.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_errors_are_told_apart() {
        assert_eq!(answer(0), Ok(0));
        assert_eq!(answer(-1), Err(1));
        assert_eq!(answer(-4095), Err(4095));
        assert_eq!(answer(-4096), Ok(usize::MAX - 4095));
    }

    #[test]
    fn calls_reach_the_kernel_and_leave_errno_alone() {
        crate::errno::set(77);
        assert_eq!(getpid(), Ok(std::process::id() as usize));
        assert_eq!(close(-1), Err(libc::EBADF));
        assert_eq!(crate::errno::get(), 77);
    }

    #[test]
    fn six_arguments_arrive() {
        let len = 4096;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh anonymous map, unmapped below and not used in between.
        let at = unsafe { mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
        assert_eq!(at.map(|address| address % 4096), Ok(0));
        // SAFETY: the map made above.
        let gone = unsafe { munmap(at.unwrap_or(0) as *mut c_void, len) };
        assert_eq!(gone, Ok(0));
    }

    #[test]
    fn the_signal_layout_is_the_kernels() {
        let action = sigaction(libc::SIGPIPE).map(|action| action.handler);
        assert_eq!(action, Ok(libc::SIG_IGN), "Rust programs ignore SIGPIPE");
    }
}
