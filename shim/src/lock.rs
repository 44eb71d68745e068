//! The lock of one direction of a connection, in memory that the fork family shares.
//!
//! It is held only for copies and non-blocking calls, never while sleeping. What it protects is
//! published by one compare-and-swap of a position, so a holder that a signal handler interrupts
//! (or never returns to, by longjmp) leaves nothing half done: the same thread may enter again, and
//! the interrupted call finds at its own publication that it has to look anew.

use crate::os;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

static PID: AtomicU32 = AtomicU32::new(0);

/// The process id, cached; [`forked`] renews it.
#[inline]
pub fn pid() -> u32 {
    match PID.load(Ordering::Relaxed) {
        0 => forked(),
        pid => pid,
    }
}

/// Tries before a sleep: some ten microseconds.
const SPINS: u32 = 60;

/// To be called in the child of a fork.
pub fn forked() -> u32 {
    let pid = os::getpid() as u32;
    PID.store(pid, Ordering::Relaxed);
    pid
}

/// Names this thread among all threads of the family: its thread pointer and its process.
#[inline]
fn me() -> u64 {
    let tp: u64;
    // SAFETY: reads the thread pointer, which the x86-64 ABI keeps at %fs:0.
    unsafe {
        std::arch::asm!("mov {}, fs:0", out(reg) tp, options(nostack, readonly, preserves_flags))
    };
    (tp >> 6) << 22 | u64::from(pid() & 0x3f_ffff)
}

#[inline]
fn stack_pointer() -> u64 {
    let sp: u64;
    // SAFETY: copies a register.
    unsafe {
        std::arch::asm!("mov {}, rsp", out(reg) sp, options(nomem, nostack, preserves_flags))
    };
    sp
}

/// Publishes a position that a [`Lock`] protects, whose holder calls this: `to` in place of `from`. False: a signal
/// handler of this thread has moved it meanwhile. Nobody else could, so one instruction is enough, and no bus lock,
/// which would wait for all that was written before.
#[inline]
pub fn publish(position: &AtomicU64, from: u64, to: u64) -> bool {
    let done: u8;
    // SAFETY: writes the atomic as a store of its own does: x86-64 stores have Release order.
    unsafe {
        std::arch::asm!(
            "cmpxchg qword ptr [{at}], {to}",
            "sete {done}",
            at = in(reg) position.as_ptr(),
            to = in(reg) to,
            done = out(reg_byte) done,
            inout("rax") from => _,
            options(nostack)
        );
    }
    done != 0
}

#[derive(Debug, Default)]
#[repr(C)]
pub struct Lock {
    owner: AtomicU64,
    /// Stack pointer of the owner when it took the lock.
    stack: AtomicU64,
}

/// Proof of a held lock. Not released by `Drop`: frames of a hook may be unwound by cancellation.
#[must_use]
#[derive(Debug)]
pub struct Held {
    nested: bool,
}

impl Held {
    /// The lock was taken before, by a call of this thread that a signal handler has interrupted.
    #[inline]
    pub fn nested(&self) -> bool {
        self.nested
    }
}

impl Lock {
    pub const fn new() -> Self {
        Lock {
            owner: AtomicU64::new(0),
            stack: AtomicU64::new(0),
        }
    }

    #[inline]
    pub fn try_lock(&self) -> Option<Held> {
        let me = me();
        match self
            .owner
            .compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed)
        {
            Ok(_) => {
                self.stack.store(stack_pointer(), Ordering::Relaxed);
                Some(Held { nested: false })
            }
            Err(owner) if owner == me => {
                // A handler of this thread runs deeper in the stack than the call it interrupted;
                // otherwise that call was abandoned and its lock is ours.
                let nested = stack_pointer() < self.stack.load(Ordering::Relaxed);
                Some(Held { nested })
            }
            Err(_) => None,
        }
    }

    #[inline]
    pub fn lock(&self) -> Held {
        match self.try_lock() {
            Some(held) => held,
            None => self.wait(),
        }
    }

    #[cold]
    fn wait(&self) -> Held {
        loop {
            if let Some(held) = self.lock_within(u32::MAX) {
                return held;
            }
        }
    }

    /// As [`Lock::lock`], for at most so many tries, of 50 microseconds but for the first ones.
    pub fn lock_within(&self, most: u32) -> Option<Held> {
        let mut tries = 0u32;
        loop {
            let held = self.try_lock();
            if held.is_some() || tries == most {
                return held;
            }
            tries += 1;
            if tries < SPINS {
                // Ever rarer looks: whoever holds it may be copying, and needs the line of the lock at the end.
                for _ in 0..tries.min(32) {
                    std::hint::spin_loop();
                }
            } else {
                // No sched_yield: among programs that are all busy it costs milliseconds.
                os::sleep_ns(50_000);
                if tries.is_multiple_of(200) {
                    self.recover();
                }
            }
        }
    }

    /// Frees the lock of a process that died with it.
    fn recover(&self) {
        let owner = self.owner.load(Ordering::Relaxed);
        if owner != 0 && !os::process_alive((owner & 0x3f_ffff) as u32) {
            let _ = self
                .owner
                .compare_exchange(owner, 0, Ordering::Acquire, Ordering::Relaxed);
        }
    }

    #[inline]
    pub fn unlock(&self, held: Held) {
        if !held.nested {
            self.owner.store(0, Ordering::Release);
        }
    }

    /// Forgets any owner: the connection is new.
    pub fn reset(&self) {
        self.owner.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_published_once() {
        let position = AtomicU64::new(5);
        assert!(publish(&position, 5, 9));
        assert_eq!(position.load(Ordering::Relaxed), 9);
        // A signal handler was here.
        assert!(!publish(&position, 5, 12));
        assert_eq!(position.load(Ordering::Relaxed), 9);
    }
}
