//! The application's door: what the call would have reached without us.
//!
//! One static table holds, for every hooked name, the next definition in the symbol search order
//! (libc's, or that of another preloaded library). The functions of this module call through it:
//! errno, cancellation and signals behave as if the shim were not there.
//!
//! All names are resolved at once by [`init`], never in the middle of a call: `dlsym` may allocate
//! and takes the loader's locks. A slot starts out pointing at an *early* function, which serves
//! hooks that run before that (constructors of other libraries, the loader itself) and stays in
//! place for names that this libc does not have: the raw system call where one exists. Calls that
//! only libc can make (fork with its handlers, popen, ...) run [`init`] first when they are early,
//! and fail with ENOSYS if that cannot help. So a call is one load and one indirect jump.
//!
//! The pointers are declared `extern "C"`: with `panic = "abort"` a call to a `"C-unwind"` function
//! would be wrapped in a landing pad that aborts, which thread cancellation would run into. Frames
//! between here and the application have no destructors, so the forced unwind passes over them.

use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, AtomicU8, Ordering};

use libc::{
    FILE, c_char, c_int, c_long, c_uint, c_ulong, c_void, epoll_event, fd_set, iovec, mmsghdr,
    msghdr, nfds_t, off_t, pid_t, pollfd, posix_spawn_file_actions_t, posix_spawnattr_t,
    sighandler_t, sigset_t, size_t, sockaddr, socklen_t, ssize_t, timespec, timeval,
};

/// An argument or environment vector.
pub type Argv = *const *const c_char;

const COLD: u8 = 0;
const STARTING: u8 = 1;
const READY: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(COLD);

/// Whether every name has been looked up.
#[allow(dead_code, reason = "for the logic")]
pub fn ready() -> bool {
    STATE.load(Ordering::Acquire) == READY
}

/// Looks up the next definition of every name. Idempotent; re-entered from inside `dlsym`, or
/// from another thread meanwhile, it returns at once and the early functions serve.
pub fn init() {
    if STATE
        .compare_exchange(COLD, STARTING, Ordering::AcqRel, Ordering::Acquire)
        .is_ok()
    {
        crate::errno::keep(resolve_all);
        STATE.store(READY, Ordering::Release);
    }
}

unsafe extern "C" {
    fn pthread_testcancel();
}

/// What a call of libc's that is a point of cancellation does first. Only from frames without
/// destructors.
pub fn cancellation_point() {
    // SAFETY: it has no requirements; of the frames that it may unwind see the module doc.
    unsafe { pthread_testcancel() }
}

fn resolve(slot: &AtomicPtr<c_void>, name: &CStr) {
    // SAFETY: the name is a C string; dlsym has no other requirement.
    let next = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    if !next.is_null() {
        slot.store(next, Ordering::Relaxed);
    }
}

/// Ends the program as a failed buffer check does.
fn stop() -> ! {
    // SAFETY: abort has no requirements.
    unsafe { libc::abort() }
}

/// For an early function without a system call behind it: is there something better by now?
fn resolved(slot: &AtomicPtr<c_void>, early: *mut c_void) -> bool {
    init();
    slot.load(Ordering::Relaxed) != early
}

macro_rules! real {
    ($(fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $early:block)*) => {
        /// The next definition of every hooked name.
        #[derive(Debug)]
        #[allow(non_snake_case, reason = "libc's names")]
        pub struct Next {
            $(pub $name: AtomicPtr<c_void>,)*
        }

        /// See [`Next`]. The naked trampolines jump through it by offset.
        pub static NEXT: Next = Next {
            $($name: AtomicPtr::new(early::$name as *mut c_void),)*
        };

        fn resolve_all() {
            $(resolve(&NEXT.$name, c_name!($name));)*
        }

        $(
            /// The next definition in the symbol search order.
            ///
            /// # Safety
            /// As for the C function of this name.
            #[allow(dead_code, reason = "the door is complete whether or not each call has a user")]
            #[allow(non_snake_case, reason = "libc's names")]
            #[inline(always)]
            pub unsafe fn $name($($arg: $ty),*) $(-> $ret)? {
                let next = NEXT.$name.load(Ordering::Relaxed);
                // SAFETY: the slot holds a function of this C signature from the start; the
                // caller keeps its contract.
                unsafe {
                    let next: unsafe extern "C" fn($($ty),*) $(-> $ret)? =
                        std::mem::transmute(next);
                    next($($arg),*)
                }
            }
        )*

        /// What serves before [`init`], and for names that this libc lacks.
        #[allow(non_snake_case, reason = "libc's names")]
        mod early {
            use std::mem::MaybeUninit;
            use std::ptr::{null, null_mut};

            use super::*;
            use crate::{errno, sys};
            $(
                #[allow(unused_variables, reason = "what can only fail needs no arguments")]
                pub unsafe extern "C" fn $name($($arg: $ty),*) $(-> $ret)? $early
            )*
        }
    };
}

macro_rules! c_name {
    ($name:ident) => {{
        const NAME: &CStr =
            match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => c"",
            };
        NAME
    }};
}

/// The body of an early function with a system call behind it.
macro_rules! raw {
    ($call:ident($($arg:expr),*)) => {
        // SAFETY: the C caller's own arguments.
        errno::ret(#[allow(unused_unsafe)] unsafe { sys::$call($($arg),*) })
    };
}

/// The body of an early function that only libc can serve.
macro_rules! only_libc {
    ($name:ident($($arg:expr),*) else $failed:expr) => {
        if resolved(&NEXT.$name, $name as *mut c_void) {
            // SAFETY: the C caller's own arguments.
            unsafe { super::$name($($arg),*) }
        } else {
            $failed
        }
    };
}

real! {
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
        raw!(socket(domain, kind, protocol))
    }
    fn bind(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
        raw!(bind(fd, addr, len))
    }
    fn listen(fd: c_int, backlog: c_int) -> c_int {
        raw!(listen(fd, backlog))
    }
    fn connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
        raw!(connect(fd, addr, len))
    }
    fn accept(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int {
        raw!(accept4(fd, addr, len, 0))
    }
    fn accept4(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int {
        raw!(accept4(fd, addr, len, flags))
    }
    fn read(fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t {
        raw!(read(fd, buf, len))
    }
    fn readv(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
        raw!(readv(fd, iov, count))
    }
    fn write(fd: c_int, buf: *const c_void, len: size_t) -> ssize_t {
        raw!(write(fd, buf, len))
    }
    fn writev(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t {
        raw!(writev(fd, iov, count))
    }
    fn preadv2(fd: c_int, iov: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t {
        raw!(preadv2(fd, iov, count, offset, 0, flags))
    }
    fn pwritev2(fd: c_int, iov: *const iovec, count: c_int, offset: off_t, flags: c_int) -> ssize_t {
        raw!(pwritev2(fd, iov, count, offset, 0, flags))
    }
    fn recv(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int) -> ssize_t {
        raw!(recvfrom(fd, buf, len, flags, null_mut(), null_mut()))
    }
    fn recvfrom(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int, addr: *mut sockaddr, addr_len: *mut socklen_t) -> ssize_t {
        raw!(recvfrom(fd, buf, len, flags, addr, addr_len))
    }
    fn send(fd: c_int, buf: *const c_void, len: size_t, flags: c_int) -> ssize_t {
        raw!(sendto(fd, buf, len, flags, null(), 0))
    }
    fn sendto(fd: c_int, buf: *const c_void, len: size_t, flags: c_int, addr: *const sockaddr, addr_len: socklen_t) -> ssize_t {
        raw!(sendto(fd, buf, len, flags, addr, addr_len))
    }
    fn recvmsg(fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t {
        raw!(recvmsg(fd, msg, flags))
    }
    fn sendmsg(fd: c_int, msg: *const msghdr, flags: c_int) -> ssize_t {
        raw!(sendmsg(fd, msg, flags))
    }
    fn recvmmsg(fd: c_int, vec: *mut mmsghdr, count: c_uint, flags: c_int, timeout: *mut timespec) -> c_int {
        raw!(recvmmsg(fd, vec, count, flags, timeout))
    }
    fn sendmmsg(fd: c_int, vec: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int {
        raw!(sendmmsg(fd, vec, count, flags))
    }
    fn poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int {
        raw!(poll(fds, count as usize, timeout))
    }
    fn ppoll(fds: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t) -> c_int {
        let mut left = MaybeUninit::<timespec>::uninit();
        let mut copy = null_mut();
        if !timeout.is_null() {
            // SAFETY: the C caller's timeout; libc's function does not change it either.
            copy = left.write(unsafe { *timeout });
        }
        raw!(ppoll(fds, count as usize, copy, mask))
    }
    fn select(count: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set, timeout: *mut timeval) -> c_int {
        raw!(select(count, read, write, except, timeout))
    }
    fn pselect(count: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set, timeout: *const timespec, mask: *const sigset_t) -> c_int {
        let mut left = MaybeUninit::<timespec>::uninit();
        let mut copy = null_mut();
        if !timeout.is_null() {
            // SAFETY: the C caller's timeout; libc's function does not change it either.
            copy = left.write(unsafe { *timeout });
        }
        let mask = sys::MaskArgument { mask, len: sys::SIGSET_BYTES };
        raw!(pselect6(count, read, write, except, copy, &raw const mask))
    }
    fn epoll_create(size: c_int) -> c_int {
        if size <= 0 { errno::fail(libc::EINVAL) } else { raw!(epoll_create1(0)) }
    }
    fn epoll_create1(flags: c_int) -> c_int {
        raw!(epoll_create1(flags))
    }
    fn epoll_ctl(epfd: c_int, op: c_int, fd: c_int, event: *mut epoll_event) -> c_int {
        raw!(epoll_ctl(epfd, op, fd, event))
    }
    fn epoll_wait(epfd: c_int, events: *mut epoll_event, max: c_int, timeout: c_int) -> c_int {
        raw!(epoll_pwait(epfd, events, max, timeout, null()))
    }
    fn epoll_pwait(epfd: c_int, events: *mut epoll_event, max: c_int, timeout: c_int, mask: *const sigset_t) -> c_int {
        raw!(epoll_pwait(epfd, events, max, timeout, mask))
    }
    fn epoll_pwait2(epfd: c_int, events: *mut epoll_event, max: c_int, timeout: *const timespec, mask: *const sigset_t) -> c_int {
        raw!(epoll_pwait2(epfd, events, max, timeout, mask))
    }
    fn close(fd: c_int) -> c_int {
        raw!(close(fd))
    }
    fn shutdown(fd: c_int, how: c_int) -> c_int {
        raw!(shutdown(fd, how))
    }
    fn dup(fd: c_int) -> c_int {
        raw!(dup(fd))
    }
    fn dup2(old: c_int, new: c_int) -> c_int {
        if old == new {
            // dup3 refuses equal descriptors; dup2 only checks them.
            return match sys::fcntl(old, libc::F_GETFD, 0) {
                Ok(_) => new,
                Err(error) => errno::fail(error),
            };
        }
        raw!(dup3(old, new, 0))
    }
    fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int {
        raw!(dup3(old, new, flags))
    }
    fn fcntl(fd: c_int, command: c_int, argument: usize) -> c_int {
        raw!(fcntl(fd, command, argument))
    }
    fn ioctl(fd: c_int, request: c_ulong, argument: usize) -> c_int {
        raw!(ioctl(fd, request as usize, argument))
    }
    fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
        raw!(close_range(first, last, flags as c_uint))
    }
    fn closefrom(lowest: c_int) {
        #[expect(clippy::cast_sign_loss)]
        let _ = sys::close_range(lowest.max(0) as c_uint, c_uint::MAX, 0);
    }
    fn getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut socklen_t) -> c_int {
        raw!(getsockopt(fd, level, name, value, len))
    }
    fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: socklen_t) -> c_int {
        raw!(setsockopt(fd, level, name, value, len))
    }
    fn sendfile(output: c_int, input: c_int, offset: *mut off_t, count: size_t) -> ssize_t {
        raw!(sendfile(output, input, offset, count))
    }
    fn splice(input: c_int, off_in: *mut off_t, output: c_int, off_out: *mut off_t, len: size_t, flags: c_uint) -> ssize_t {
        raw!(splice(input, off_in, output, off_out, len, flags))
    }
    fn tee(input: c_int, output: c_int, len: size_t, flags: c_uint) -> ssize_t {
        raw!(tee(input, output, len, flags))
    }
    fn vmsplice(fd: c_int, iov: *const iovec, count: size_t, flags: c_uint) -> ssize_t {
        raw!(vmsplice(fd, iov, count, flags))
    }
    fn fork() -> pid_t {
        only_libc!(fork() else errno::fail(libc::ENOSYS))
    }
    fn vfork() -> pid_t {
        // Early only inside `init` itself: the trampoline has run it. A fork serves as well.
        // SAFETY: no arguments.
        unsafe { super::fork() }
    }
    fn clone(entry: usize, stack: usize, flags: c_int, argument: usize) -> c_int {
        // The trampoline has run `init`; arguments beyond these would be lost.
        errno::fail(libc::ENOSYS)
    }
    fn _Fork() -> pid_t {
        only_libc!(_Fork() else errno::fail(libc::ENOSYS))
    }
    fn forkpty(master: *mut c_int, name: *mut c_char, termios: *const c_void, size: *const c_void) -> pid_t {
        only_libc!(forkpty(master, name, termios, size) else errno::fail(libc::ENOSYS))
    }
    fn posix_spawn(pid: *mut pid_t, path: *const c_char, actions: *const posix_spawn_file_actions_t, attr: *const posix_spawnattr_t, argv: Argv, envp: Argv) -> c_int {
        only_libc!(posix_spawn(pid, path, actions, attr, argv, envp) else libc::ENOSYS)
    }
    fn posix_spawnp(pid: *mut pid_t, file: *const c_char, actions: *const posix_spawn_file_actions_t, attr: *const posix_spawnattr_t, argv: Argv, envp: Argv) -> c_int {
        only_libc!(posix_spawnp(pid, file, actions, attr, argv, envp) else libc::ENOSYS)
    }
    fn posix_spawn_file_actions_adddup2(actions: *mut posix_spawn_file_actions_t, fd: c_int, new: c_int) -> c_int {
        only_libc!(posix_spawn_file_actions_adddup2(actions, fd, new) else libc::ENOSYS)
    }
    fn execve(path: *const c_char, argv: Argv, envp: Argv) -> c_int {
        raw!(execve(path, argv, envp))
    }
    fn execv(path: *const c_char, argv: Argv) -> c_int {
        // SAFETY: libc's `environ`, as its execv reads it; the rest are the C caller's arguments.
        raw!(execve(path, argv, super::environ))
    }
    fn execvp(file: *const c_char, argv: Argv) -> c_int {
        only_libc!(execvp(file, argv) else errno::fail(libc::ENOSYS))
    }
    fn execvpe(file: *const c_char, argv: Argv, envp: Argv) -> c_int {
        only_libc!(execvpe(file, argv, envp) else errno::fail(libc::ENOSYS))
    }
    fn fexecve(fd: c_int, argv: Argv, envp: Argv) -> c_int {
        raw!(execveat(fd, c"".as_ptr(), argv, envp, libc::AT_EMPTY_PATH))
    }
    fn execveat(dir: c_int, path: *const c_char, argv: Argv, envp: Argv, flags: c_int) -> c_int {
        raw!(execveat(dir, path, argv, envp, flags))
    }
    fn system(command: *const c_char) -> c_int {
        only_libc!(system(command) else errno::fail(libc::ENOSYS))
    }
    fn popen(command: *const c_char, mode: *const c_char) -> *mut FILE {
        only_libc!(popen(command, mode) else {
            errno::set(libc::ENOSYS);
            null_mut()
        })
    }
    fn daemon(nochdir: c_int, noclose: c_int) -> c_int {
        only_libc!(daemon(nochdir, noclose) else errno::fail(libc::ENOSYS))
    }
    fn prctl(option: c_int, a: usize, b: usize, c: usize, d: usize) -> c_int {
        raw!(prctl(option, a, b, c, d))
    }
    fn sigaction(signal: c_int, new: *const libc::sigaction, old: *mut libc::sigaction) -> c_int {
        only_libc!(sigaction(signal, new, old) else errno::fail(libc::ENOSYS))
    }
    fn signal(number: c_int, handler: sighandler_t) -> sighandler_t {
        only_libc!(signal(number, handler) else libc::SIG_ERR)
    }
    fn sysv_signal(number: c_int, handler: sighandler_t) -> sighandler_t {
        only_libc!(sysv_signal(number, handler) else libc::SIG_ERR)
    }
    fn sigset(number: c_int, handler: sighandler_t) -> sighandler_t {
        only_libc!(sigset(number, handler) else libc::SIG_ERR)
    }
    fn siginterrupt(number: c_int, interrupt: c_int) -> c_int {
        only_libc!(siginterrupt(number, interrupt) else errno::fail(libc::ENOSYS))
    }
    fn _exit(status: c_int) -> ! {
        loop {
            let _ = sys::exit_group(status);
        }
    }
    fn fdopen(fd: c_int, mode: *const c_char) -> *mut FILE {
        only_libc!(fdopen(fd, mode) else {
            errno::set(libc::ENOSYS);
            null_mut()
        })
    }
    fn vdprintf(fd: c_int, format: *const c_char, list: *mut c_void) -> c_int {
        only_libc!(vdprintf(fd, format, list) else errno::fail(libc::ENOSYS))
    }
    fn __vdprintf_chk(fd: c_int, flag: c_int, format: *const c_char, list: *mut c_void) -> c_int {
        only_libc!(__vdprintf_chk(fd, flag, format, list) else errno::fail(libc::ENOSYS))
    }
    fn dprintf(fd: c_int, format: *const c_char) -> c_int {
        // Arguments beyond the named ones would be lost; the trampoline has run `init` by now.
        errno::fail(libc::ENOSYS)
    }
    fn __dprintf_chk(fd: c_int, flag: c_int, format: *const c_char) -> c_int {
        errno::fail(libc::ENOSYS)
    }
    fn syscall(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> c_long {
        // SAFETY: the C caller's own arguments.
        errno::ret(sys::answer(unsafe { sys::syscall6(number, a, b, c, d, e, f) }))
    }
    fn __read_chk(fd: c_int, buf: *mut c_void, len: size_t, size: size_t) -> ssize_t {
        // Only called for a buffer that is too small.
        super::stop()
    }
    fn __recv_chk(fd: c_int, buf: *mut c_void, len: size_t, size: size_t, flags: c_int) -> ssize_t {
        // Only called for a buffer that is too small.
        super::stop()
    }
    fn __recvfrom_chk(fd: c_int, buf: *mut c_void, len: size_t, size: size_t, flags: c_int, addr: *mut sockaddr, addr_len: *mut socklen_t) -> ssize_t {
        // Only called for a buffer that is too small.
        super::stop()
    }
    fn __poll_chk(fds: *mut pollfd, count: nfds_t, timeout: c_int, size: size_t) -> c_int {
        // Only called for a buffer that is too small.
        super::stop()
    }
    fn __ppoll_chk(fds: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t, size: size_t) -> c_int {
        // Only called for a buffer that is too small.
        super::stop()
    }
}

unsafe extern "C" {
    /// The program's environment, as libc's own execv and friends read it.
    static environ: Argv;
}
