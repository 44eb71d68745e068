//! What a signal does to a call of ours that it interrupts.
//!
//! The kernel restarts an interrupted receive or send when the handler that ran has SA_RESTART. Our
//! sleep is a ppoll or an epoll_wait, which it never restarts, and it does not say which handler ran. So a handler
//! without SA_RESTART is put behind [`note`], which leaves a mark for its thread; the program reads
//! back what it has set.

use crate::{lock, os, sys};
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering::*};

/// Handlers of the program behind [`note`], by signal.
static HANDLERS: [AtomicUsize; 65] = [const { AtomicUsize::new(0) }; 65];

/// Threads in which a handler without SA_RESTART ran, each at a place that its address gives. Two
/// that share one could take a mark from each other, at the same moment only.
static MARKS: [AtomicUsize; 4096] = [const { AtomicUsize::new(0) }; 4096];

/// The calling thread's control block: its address names the thread. Not thread-local storage, which
/// may allocate when a signal handler is the first to use it.
fn thread() -> usize {
    let at: usize;
    // SAFETY: x86-64 keeps the block's own address at its start.
    unsafe {
        std::arch::asm!("mov {}, fs:0", out(reg) at, options(nostack, readonly, preserves_flags));
    }
    at
}

fn mark(thread: usize) -> &'static AtomicUsize {
    static NONE: AtomicUsize = AtomicUsize::new(0);
    let place = thread.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52;
    MARKS.get(place).unwrap_or(&NONE)
}

/// Runs in place of a handler without SA_RESTART. The kernel hands over three arguments whether or
/// not the handler takes them. No frame stays behind for a longjmp or an unwinding to pass over.
unsafe extern "C-unwind" fn note(signal: c_int, info: *mut c_void, context: *mut c_void) {
    let thread = thread();
    mark(thread).store(thread, Relaxed);
    let handler = HANDLERS.get(signal as usize).map_or(0, |h| h.load(Acquire));
    if handler > libc::SIG_IGN {
        // SAFETY: the program gave this address as a handler.
        unsafe {
            let handler: unsafe extern "C-unwind" fn(c_int, *mut c_void, *mut c_void) =
                std::mem::transmute(handler);
            handler(signal, info, context);
        }
    }
}

/// Signals of the thread's own doing, which do not come in a sleep.
const SYNCHRONOUS: [c_int; 6] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGSYS,
];

/// Whether an action is one to be put behind [`note`].
pub fn matters(action: &libc::sigaction) -> bool {
    action.sa_sigaction > libc::SIG_IGN && action.sa_flags & libc::SA_RESTART == 0
}

/// The program has set the action of `signal`.
pub fn changed(signal: c_int) {
    let Some(slot) = HANDLERS.get(signal as usize) else {
        return;
    };
    if SYNCHRONOUS.contains(&signal) || os::getpid() as u32 != lock::pid() {
        return;
    }
    let Ok(action) = sys::sigaction(signal) else {
        return;
    };
    if action.handler <= libc::SIG_IGN
        || action.handler == note as *const () as usize
        || action.flags & libc::SA_RESTART as u64 != 0
    {
        return;
    }
    slot.store(action.handler, Release);
    let _ = sys::set_sigaction(
        signal,
        &sys::KernelSigaction {
            handler: note as *const () as usize,
            ..action
        },
    );
}

/// The handler of `signal` as the program has set it, when it is one behind [`note`].
pub fn behind(signal: c_int) -> usize {
    HANDLERS.get(signal as usize).map_or(0, |h| h.load(Acquire))
}

/// What the program is to see where it reads `handler`.
pub fn shown(handler: usize, behind: usize) -> usize {
    if handler == note as *const () as usize {
        behind
    } else {
        handler
    }
}

/// Beside a mark: a handler has ended a wait. The blocks that the addresses name are aligned.
const ENDED: usize = 1;

/// A sleep begins: what ran before does not count.
pub fn forget() {
    let thread = thread();
    let seen = mark(thread).load(Relaxed);
    if seen & !ENDED == thread {
        let _ = mark(thread).compare_exchange(seen, 0, Relaxed, Relaxed);
    }
}

/// A handler, whatever its flags, has ended a wait of this thread's.
pub fn end_wait() {
    let thread = thread();
    mark(thread).store(thread | ENDED, Relaxed);
}

/// Whether one has since [`forget`].
pub fn wait_ended() -> bool {
    let thread = thread();
    mark(thread).load(Relaxed) == thread | ENDED
}

/// Whether a handler without SA_RESTART has run in this thread since [`forget`].
pub fn noted() -> bool {
    let thread = thread();
    mark(thread).load(Relaxed) & !ENDED == thread
}

/// Whether an interrupted call fails with EINTR rather than going on. A handler that was set past
/// libc counts if it has no SA_RESTART, whether or not it was the one that ran.
pub fn interrupts() -> bool {
    noted()
        || (1..=64).filter(|s| !SYNCHRONOUS.contains(s)).any(|signal| {
            sys::sigaction(signal).is_ok_and(|action| {
                action.handler > libc::SIG_IGN
                    && action.handler != note as *const () as usize
                    && action.flags & libc::SA_RESTART as u64 == 0
            })
        })
}

/// SIGPIPE for the calling thread, as a send on a broken connection gives.
pub fn broken_pipe() {
    os::signal_self(libc::SIGPIPE);
}
