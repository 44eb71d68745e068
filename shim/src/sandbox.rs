//! seccomp: a process that is about to forbid itself system calls stays on TCP, whose calls are those
//! that the program makes itself. Ours (timerfd, ppoll, messages to the daemon) could be its death.

use crate::conn::{Sock, kept, phase, revert};
use crate::{clock, config, ctx, daemon, epoll, errno, fds, os};
use libc::c_int;
use protocol::reason;
use std::sync::atomic::{AtomicBool, Ordering::*};

/// Of this process, and of its children.
static WITHIN: AtomicBool = AtomicBool::new(false);

pub fn within() -> bool {
    WITHIN.load(Acquire)
}

/// How long other threads have to make the calls in which they sleep the kernel's.
const WAIT_NS: u64 = 300_000_000;

/// Before a filter is installed, or strict mode entered.
pub fn entering() {
    errno::keep(|| {
        config::turn_off();
        revert::leave_all(reason::SANDBOX);
        epoll::surrender();
        daemon::leave();
        // The filter may be for all threads.
        WITHIN.store(true, Release);
        let end = clock::now() + WAIT_NS;
        while fds::socks(0, c_int::MAX).any(waits) && clock::now() < end {
            ctx::ring_sleepers();
            let _ = os::ppoll(&mut [], Some(1_000_000), None);
        }
    });
}

/// Whether a receive or send has not gone to the kernel yet. Who has been rung and is awake makes calls of ours as well.
fn waits(sock: Sock) -> bool {
    sock.phase() == phase::BARRED && kept::transferred_on(sock.conn)
}

/// Whether a call that sleeps on a connection, and has moved nothing, is to be made anew as the kernel's own.
pub fn gives_to_kernel(sock: Sock) -> bool {
    within() && sock.phase() == phase::BARRED
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::close;
    use crate::family;

    /// A receive that is rung runs a little before it is the kernel's, or sleeps again; a poll does not go to the kernel.
    #[test]
    fn who_is_awake_is_waited_for_as_well() {
        assert!(family::ready());
        let Some(conn) = family::allocate() else {
            unreachable!("room for a connection")
        };
        let sock = Sock { fd: -1, conn };
        conn.bar(reason::SANDBOX);
        assert!(!waits(sock));
        kept::enter(conn);
        assert!(!waits(sock));
        kept::during(conn, || {
            assert_eq!(0, conn.sleepers.load(Acquire));
            assert!(waits(sock));
        });
        assert!(!waits(sock) && kept::waited_on(conn));
        kept::leave(conn);
        assert!(!kept::waited_on(conn));
        conn.holders.store(0, Relaxed);
        close::finish(conn);
    }
}
