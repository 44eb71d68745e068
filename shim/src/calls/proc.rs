//! Processes: fork, spawn, exec, exit.

use crate::calls::escape::{self, Told};
use crate::conn::{Sock, claim, close, flag, kept, life, passed, phase, revert};
use crate::{ctx, daemon, epoll, errno, family, fds, lgr, lock, os, real, sandbox, short};
use libc::{c_int, pid_t};
use protocol::reason;
use std::sync::atomic::{AtomicBool, Ordering::*};

/// A child may run, or has run, in the memory of this process.
static BORROWED: AtomicBool = AtomicBool::new(false);

/// Whether this is a child in its parent's memory (vfork): what it does to its own descriptors must
/// not change the parent's tables.
pub fn borrowed_memory() -> bool {
    BORROWED.load(Relaxed) && os::getpid() as u32 != lock::pid()
}

/// Registers for every fork of libc, also for those inside it (daemon, forkpty).
pub fn follow_forks() {
    // SAFETY: the three functions live as long as the library, which is never unloaded.
    unsafe { libc::pthread_atfork(Some(prepare), None, Some(child)) };
}

/// Connections will have one holder more.
unsafe extern "C" fn prepare() {
    errno::keep(|| {
        short::fill(|_| true);
        epoll::forking();
        let mut asleep = false;
        for_each(|sock| {
            life::describe(sock);
            sock.holders.fetch_add(1, AcqRel);
            asleep |= sock.sleepers.load(Acquire) != 0;
            // The answer would come to this process only.
            claim::withdraw(sock.conn, phase::PLAIN);
        });
        if asleep {
            // From now on somebody may wake them who cannot ring.
            ctx::ring_sleepers();
        }
    });
}

unsafe extern "C" fn child() {
    errno::keep(|| {
        lock::forked();
        family::forked();
        short::forked();
        epoll::forked();
        lgr::forked();
        ctx::forked();
        daemon::forked();
        claim::forked();
        kept::forked();
    });
}

/// Each connection of this process once.
fn for_each(mut f: impl FnMut(Sock)) {
    for sock in fds::socks(0, c_int::MAX) {
        if fds::count(sock.conn) == 1 || fds::any_fd(sock.conn) == Some(sock.fd) {
            f(sock);
        }
    }
}

/// The whole of fork.
pub fn fork() -> pid_t {
    // SAFETY: no arguments; libc runs the registered handlers.
    let pid = unsafe { real::fork() };
    if pid < 0 {
        // The child that `prepare` has counted is not there.
        errno::keep(|| {
            for_each(|sock| {
                sock.holders.fetch_sub(1, AcqRel);
            })
        });
    }
    pid
}

/// A child is about to be made that the shim does not follow: _Fork, clone without CLONE_THREAD, and
/// the same through syscall(). Runs with the caller's registers saved.
pub fn before_clone() {
    BORROWED.store(true, Relaxed);
    errno::keep(|| {
        escape::everything();
    });
}

/// As [`before_clone`], for a child that can do little but start another program.
pub fn before_vfork() {
    BORROWED.store(true, Relaxed);
    errno::keep(escape::later);
}

/// The process image is about to be replaced. False: it must not be, because bytes wait in memory
/// that the new one cannot see.
pub fn before_exec(told: Told) -> bool {
    errno::keep(|| {
        let free = escape::known_to(told);
        if free && os::getpid() as u32 == lock::pid() {
            short::ending();
            for_each(|sock| {
                if sock.phase() != phase::BARRED || !escape::inheritable(sock) {
                    let _ = close::abandon(sock);
                }
            });
        }
        free
    })
}

/// It was not.
pub fn exec_failed() {
    errno::keep(|| {
        for_each(|sock| {
            sock.clear(flag::LEAVE);
        })
    });
}

/// libc is about to start another program by itself: posix_spawn, system, popen.
pub fn before_spawn(told: Told) {
    errno::keep(|| {
        escape::known_to(told);
    });
}

/// A descriptor that libc will hand to a program, whatever its close-on-exec flag says.
pub fn handed_on(fd: c_int) {
    if let fds::Meaning::Conn(sock) = fds::meaning(fd) {
        errno::keep(|| {
            passed::kept(sock.conn);
            revert::leave(sock, reason::ESCAPED);
        });
    }
}

/// The whole of daemon: libc's forks inside, the parent exits, the child goes on.
pub fn daemon(nochdir: c_int, noclose: c_int) -> c_int {
    // SAFETY: no pointers.
    unsafe { real::daemon(nochdir, noclose) }
}

/// The process ends without exit handlers: _exit, _Exit, exit_group. May be a vfork child.
pub fn exit_now(_status: c_int) {
    // In a sandbox everything is the kernel's by now.
    if !sandbox::within() && os::getpid() as u32 == lock::pid() {
        ending(true);
    }
}

/// The process ends, `now` or after what other libraries still do at its exit: others that hold its
/// connections go on alone.
pub fn ending(now: bool) {
    short::ending();
    for_each(|sock| close::at_exit(sock, now));
    ctx::ending();
}
