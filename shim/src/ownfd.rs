//! The library's own descriptors in somebody else's process: few, high, close-on-exec, and not to
//! be found by the program. Where the program insists on a number of ours, ours moves away.

use crate::conn::kept;
use crate::{ctx, daemon, epoll, family, fds, lgr, os};
use std::ffi::c_int;

/// Below this limit on descriptors the process is left alone.
pub const MIN_LIMIT: usize = 64;

/// Where our numbers start: high, but not so high that the kernel's table grows large.
fn base() -> Result<usize, i32> {
    let limit = os::descriptor_limit();
    if limit < MIN_LIMIT {
        return Err(libc::EMFILE);
    }
    Ok((limit - limit / 4).min(16_000))
}

/// Whether half of the numbers that may be ours are taken, by one that [`raise`] has given.
pub fn scarce(fd: c_int) -> bool {
    let limit = os::descriptor_limit();
    base().is_ok_and(|base| fd as usize >= base + limit.saturating_sub(base) / 2)
}

/// Moves a new descriptor of ours up.
pub fn raise(fd: c_int) -> Result<c_int, i32> {
    let high = base().and_then(|base| os::fcntl(fd, libc::F_DUPFD_CLOEXEC, base));
    os::close(fd);
    let high = high? as c_int;
    if !fds::put_ours(high) {
        os::close(high);
        return Err(libc::EMFILE);
    }
    Ok(high)
}

/// As [`raise`], but a descriptor that cannot be moved is kept where it is.
pub fn adopt(fd: c_int) -> c_int {
    match base().and_then(|base| os::fcntl(fd, libc::F_DUPFD_CLOEXEC, base)) {
        Ok(high) if fds::put_ours(high as c_int) => {
            os::close(fd);
            high as c_int
        }
        Ok(high) => {
            os::close(high as c_int);
            fd
        }
        Err(_) => {
            fds::put_ours(fd);
            fd
        }
    }
}

pub fn close(fd: c_int) {
    fds::clear(fd);
    os::close(fd);
}

/// The program wants number `fd`, which is ours: gets out of the way.
pub fn make_way(fd: c_int) {
    let Ok(to) = base().and_then(|base| os::fcntl(fd, libc::F_DUPFD_CLOEXEC, base)) else {
        return;
    };
    let to = to as c_int;
    fds::put_ours(to);
    family::moved(fd, to);
    daemon::moved(fd, to);
    lgr::moved(fd, to);
    ctx::moved(fd, to);
    kept::moved(fd, to);
    epoll::moved(fd, to);
    fds::clear(fd);
}
