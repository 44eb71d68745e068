//! sigaction and its older forms: see [`crate::signals`].

use libc::{c_int, sigaction as Action, sighandler_t};

use crate::{errno, real, signals};

/// After a call that gave the old handler back.
fn replaced(signal: c_int, behind: usize, old: sighandler_t) -> sighandler_t {
    if old == libc::SIG_ERR {
        return old;
    }
    errno::keep(|| signals::changed(signal));
    signals::shown(old, behind)
}

hook! {
    libc fn sigaction(signal: c_int, new: *const Action, old: *mut Action) -> c_int {
        let behind = signals::behind(signal);
        // Now: the old one may go to the same place.
        let matters = new.as_ref().is_some_and(signals::matters);
        let result = real::sigaction(signal, new, old);
        if result == 0 {
            if let Some(old) = old.as_mut() {
                old.sa_sigaction = signals::shown(old.sa_sigaction, behind);
            }
            if matters {
                errno::keep(|| signals::changed(signal));
            }
        }
        result
    }

    own fn __sigaction(signal: c_int, new: *const Action, old: *mut Action) -> c_int {
        sigaction(signal, new, old)
    }

    libc fn signal(signal: c_int, handler: sighandler_t) -> sighandler_t {
        let behind = signals::behind(signal);
        replaced(signal, behind, real::signal(signal, handler))
    }

    own fn bsd_signal(number: c_int, handler: sighandler_t) -> sighandler_t {
        signal(number, handler)
    }

    own fn ssignal(number: c_int, handler: sighandler_t) -> sighandler_t {
        signal(number, handler)
    }

    own fn sysv_signal(signal: c_int, handler: sighandler_t) -> sighandler_t {
        let behind = signals::behind(signal);
        replaced(signal, behind, real::sysv_signal(signal, handler))
    }

    own fn __sysv_signal(signal: c_int, handler: sighandler_t) -> sighandler_t {
        sysv_signal(signal, handler)
    }

    own fn sigset(signal: c_int, handler: sighandler_t) -> sighandler_t {
        let behind = signals::behind(signal);
        replaced(signal, behind, real::sigset(signal, handler))
    }

    own fn siginterrupt(signal: c_int, interrupt: c_int) -> c_int {
        // It reads the action, changes a flag and sets it again.
        let result = real::siginterrupt(signal, interrupt);
        if result == 0 {
            errno::keep(|| signals::changed(signal));
        }
        result
    }
}
