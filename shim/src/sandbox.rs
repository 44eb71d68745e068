//! seccomp: a process that is about to forbid itself system calls stays on TCP, whose calls are those
//! that the program makes itself. Ours (eventfd, ppoll, messages to the daemon) could be its death.

use crate::conn::revert;
use crate::{config, daemon, epoll, errno};
use protocol::reason;

/// Before a filter is installed, or strict mode entered.
pub fn entering() {
    errno::keep(|| {
        config::turn_off();
        revert::leave_all(reason::SANDBOX);
        epoll::surrender();
        daemon::leave();
    });
}
