//! poll and select, called for every call of the program.

use crate::calls::waits;
use crate::fds::{self, Meaning};
use crate::pollset::{self, Call};
use crate::{clock, errno, os, real, wait};
use libc::{c_int, fd_set, nfds_t, pollfd, sigset_t, timespec, timeval};

const NOTHING: pollfd = pollfd {
    fd: -1,
    events: 0,
    revents: 0,
};

/// # Safety
/// `fds` points to `count` entries of the program's, `mask` is null or a signal set.
unsafe fn polling(
    fds: *mut pollfd,
    count: nfds_t,
    timeout: Option<u64>,
    mask: *const sigset_t,
    call: Call,
    kernel: impl FnOnce() -> c_int,
) -> c_int {
    // SAFETY: the caller's promise.
    if !unsafe { any_polled(fds, count) } {
        return kernel();
    }
    // SAFETY: likewise.
    let list = unsafe { std::slice::from_raw_parts_mut(fds, count as usize) };
    if !pollset::prepare(list) {
        if timeout == Some(0) {
            return kernel();
        }
        if let Ok(n) = waits::during(list, kernel) {
            return n;
        }
    }
    let mask = (!mask.is_null()).then_some(mask);
    let result = if list.len() < pollset::SHORT {
        let mut scratch = [NOTHING; pollset::SHORT];
        pollset::poll(list, &mut scratch, timeout, mask, call)
    } else {
        let bytes = (list.len() + 1) * size_of::<pollfd>();
        match os::map_anonymous(bytes) {
            Ok(at) => {
                // SAFETY: a fresh mapping of that size, unmapped below.
                let scratch =
                    unsafe { std::slice::from_raw_parts_mut(at.cast::<pollfd>(), list.len() + 1) };
                let result = pollset::poll(list, scratch, timeout, mask, call);
                os::munmap(at, bytes);
                result
            }
            Err(e) => Err(e),
        }
    };
    match result {
        Ok(n) => n as c_int,
        Err(e) => errno::fail(e),
    }
}

/// poll: every call comes here.
///
/// # Safety
/// As for the C function.
pub unsafe fn poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int {
    // SAFETY: the caller's own arguments.
    let kernel = || unsafe { real::poll(fds, count, timeout) };
    let limit = u64::try_from(timeout).ok().map(|ms| ms * 1_000_000);
    // SAFETY: likewise.
    unsafe { polling(fds, count, limit, std::ptr::null(), Call::Poll, kernel) }
}

/// A timespec as nanoseconds: `None` for null, an error for one that the kernel refuses.
///
/// # Safety
/// `time` is null or the program's.
pub(super) unsafe fn nanoseconds(time: *const timespec) -> Result<Option<u64>, ()> {
    // SAFETY: the caller's promise.
    match unsafe { time.as_ref() } {
        None => Ok(None),
        Some(t) if t.tv_sec >= 0 && (0..1_000_000_000).contains(&t.tv_nsec) => {
            let seconds = (t.tv_sec as u64).saturating_mul(1_000_000_000);
            Ok(Some(seconds.saturating_add(t.tv_nsec as u64)))
        }
        Some(_) => Err(()),
    }
}

/// ppoll: every call comes here.
///
/// # Safety
/// As for the C function.
pub unsafe fn ppoll(
    fds: *mut pollfd,
    count: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the caller's own arguments.
    let kernel = || unsafe { real::ppoll(fds, count, timeout, mask) };
    // SAFETY: likewise.
    let Ok(limit) = (unsafe { nanoseconds(timeout) }) else {
        return kernel();
    };
    // SAFETY: likewise.
    unsafe { polling(fds, count, limit, mask, Call::Poll, kernel) }
}

/// poll's events for a descriptor in the read, write or except set, and the answers that put it
/// there (fs/select.c).
const ASKED: [i16; 3] = [libc::POLLIN, libc::POLLOUT, libc::POLLPRI];
const ANSWERS: [i16; 3] = [
    libc::POLLIN | libc::POLLRDNORM | libc::POLLRDBAND | libc::POLLHUP | libc::POLLERR,
    libc::POLLOUT | libc::POLLWRNORM | libc::POLLWRBAND | libc::POLLERR,
    libc::POLLPRI,
];

/// Whether select returns for this one.
fn answered(one: &pollfd) -> bool {
    let mut pairs = ASKED.iter().zip(ANSWERS);
    one.revents & libc::POLLNVAL != 0
        || pairs.any(|(asked, answers)| one.events & asked != 0 && one.revents & answers != 0)
}

fn word(set: *mut fd_set, fd: usize) -> *mut u64 {
    set.cast::<u64>().wrapping_add(fd / 64)
}

/// # Safety
/// The sets are null or hold `count` bits.
unsafe fn selecting(
    count: c_int,
    sets: [*mut fd_set; 3],
    timeout: Option<u64>,
    mask: *const sigset_t,
    kernel: impl FnOnce() -> c_int,
) -> c_int {
    // SAFETY: the caller's promise.
    if !unsafe { any_selected(count, sets.map(<*mut fd_set>::cast_const)) } {
        return kernel();
    }
    let has = |set: *mut fd_set, fd: usize| {
        // SAFETY: `fd` below stays under `count`, which the sets hold.
        !set.is_null() && unsafe { *word(set, fd) } >> (fd % 64) & 1 != 0
    };
    let events = |fd: usize| {
        let asked = sets.iter().zip(ASKED);
        asked.fold(
            0,
            |all, (set, one)| if has(*set, fd) { all | one } else { all },
        )
    };
    let asked = (0..usize::try_from(count).unwrap_or(0))
        .map(|fd| pollfd {
            fd: fd as c_int,
            events: events(fd),
            revents: 0,
        })
        .filter(|one| one.events != 0);
    let mut room = [NOTHING; pollset::SHORT];
    let used = asked.clone().count();
    if used <= room.len() {
        room.iter_mut().zip(asked).for_each(|(to, one)| *to = one);
        let list = room.get_mut(..used).unwrap_or(&mut []);
        // SAFETY: the caller's promise.
        return unsafe { selecting_from(list, sets, timeout, mask, kernel) };
    }
    let bytes = used * size_of::<pollfd>();
    let Ok(at) = os::map_anonymous(bytes) else {
        return errno::fail(libc::ENOMEM);
    };
    // SAFETY: a fresh mapping of that size, unmapped below.
    let list = unsafe { std::slice::from_raw_parts_mut(at.cast::<pollfd>(), used) };
    list.iter_mut().zip(asked).for_each(|(to, one)| *to = one);
    // SAFETY: the caller's promise.
    let result = unsafe { selecting_from(list, sets, timeout, mask, kernel) };
    os::munmap(at, bytes);
    result
}

/// # Safety
/// Each set is null or holds the descriptors of `list`.
unsafe fn selecting_from(
    list: &mut [pollfd],
    sets: [*mut fd_set; 3],
    timeout: Option<u64>,
    mask: *const sigset_t,
    kernel: impl FnOnce() -> c_int,
) -> c_int {
    let by_kernel = match (pollset::prepare(list), timeout) {
        (true, _) => Err(kernel),
        (false, Some(0)) => Ok(kernel()),
        (false, _) => waits::during(list, kernel),
    };
    // SAFETY: as for the sets.
    by_kernel.unwrap_or_else(|kernel| unsafe { select_careful(list, sets, timeout, mask, kernel) })
}

/// # Safety
/// Each set is null or holds the descriptors of `list`.
unsafe fn select_careful(
    list: &mut [pollfd],
    sets: [*mut fd_set; 3],
    timeout: Option<u64>,
    mask: *const sigset_t,
    kernel: impl FnOnce() -> c_int,
) -> c_int {
    let at = list.as_mut_ptr();
    // Nothing of the list may need us any more, now that it was prepared.
    let mut by_kernel = false;
    let kernel = || {
        by_kernel = true;
        kernel()
    };
    let (count, end) = (list.len() as nfds_t, timeout.map(clock::after));
    // SAFETY: the list itself.
    let mut n = unsafe { polling(at, count, timeout, mask, Call::Select, kernel) };
    if n < 0 || by_kernel {
        return n;
    }
    let for_so_long = |list: &mut [pollfd], left: Option<u64>| {
        let at = list.as_mut_ptr();
        let rest = || {
            let mask = (!mask.is_null()).then_some(mask);
            // SAFETY: the list itself.
            let list = unsafe { std::slice::from_raw_parts_mut(at, count as usize) };
            wait::by_poll_or_select(list, left, mask).map_or_else(errno::fail, |n| n as c_int)
        };
        // SAFETY: likewise.
        unsafe { polling(at, count, left, mask, Call::Select, rest) }
    };
    while n > 0 && !list.iter().any(answered) {
        // An end that was not asked for: select sleeps on, and of this one nothing else will come, or nothing that could be
        // waited for.
        let mut blind = false;
        for one in list.iter_mut().filter(|one| one.revents != 0) {
            let open =
                || fds::sock(one.fd).is_some_and(|sock| os::end_of(sock.fd) == os::End::Open);
            blind |= one.events & libc::POLLPRI != 0 && open();
            (one.fd, one.revents) = (!one.fd, 0);
        }
        let left = end.map(|end| end.saturating_sub(clock::now()));
        let nap = left.map_or(wait::BLIND_NS, |left| left.min(wait::BLIND_NS));
        n = for_so_long(list, if blind { Some(nap) } else { left });
        if n == 0 && blind && left != Some(nap) {
            list.iter_mut().for_each(|one| one.fd = one.fd.max(!one.fd));
            n = for_so_long(list, left.map(|left| left - nap));
        }
    }
    if n < 0 {
        return n;
    }
    if list.iter().any(|one| one.revents & libc::POLLNVAL != 0) {
        return errno::fail(libc::EBADF);
    }
    let mut found = 0;
    for one in list.iter() {
        let fd = one.fd.max(!one.fd) as usize;
        for ((set, asked), answers) in sets.iter().zip(ASKED).zip(ANSWERS) {
            if one.events & asked == 0 || set.is_null() {
                continue;
            }
            let bit = 1u64 << (fd % 64);
            // SAFETY: the caller's promise.
            let word = unsafe { &mut *word(*set, fd) };
            if one.revents & answers != 0 {
                *word |= bit;
                found += 1;
            } else {
                *word &= !bit;
            }
        }
    }
    found
}

/// select: every call comes here. Linux leaves the time that was left in `timeout`.
///
/// # Safety
/// As for the C function.
pub unsafe fn select(
    count: c_int,
    read: *mut fd_set,
    write: *mut fd_set,
    except: *mut fd_set,
    timeout: *mut timeval,
) -> c_int {
    let count = reach(count);
    // SAFETY: the caller's own arguments.
    let kernel = || unsafe { real::select(count, read, write, except, timeout) };
    // SAFETY: null or the program's.
    let limit = match unsafe { timeout.as_ref() } {
        None => None,
        Some(t) if t.tv_sec >= 0 && t.tv_usec >= 0 => {
            let seconds = (t.tv_sec as u64).saturating_mul(1_000_000_000);
            Some(seconds.saturating_add((t.tv_usec as u64).saturating_mul(1000)))
        }
        Some(_) => return kernel(),
    };
    let began = clock::now();
    let mut in_kernel = false;
    // SAFETY: the caller's own arguments.
    let n = unsafe {
        selecting(
            count,
            [read, write, except],
            limit,
            std::ptr::null(),
            || {
                in_kernel = true;
                kernel()
            },
        )
    };
    // SAFETY: null or the program's.
    if let (false, Some(limit), Some(t)) = (in_kernel, limit, unsafe { timeout.as_mut() }) {
        let left = limit.saturating_sub(clock::now() - began);
        t.tv_sec = (left / 1_000_000_000) as i64;
        t.tv_usec = (left % 1_000_000_000 / 1000) as i64;
    }
    n
}

/// pselect: every call comes here.
///
/// # Safety
/// As for the C function.
pub unsafe fn pselect(
    count: c_int,
    read: *mut fd_set,
    write: *mut fd_set,
    except: *mut fd_set,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    let count = reach(count);
    // SAFETY: the caller's own arguments.
    let kernel = || unsafe { real::pselect(count, read, write, except, timeout, mask) };
    // SAFETY: likewise.
    let Ok(limit) = (unsafe { nanoseconds(timeout) }) else {
        return kernel();
    };
    // SAFETY: likewise.
    unsafe { selecting(count, [read, write, except], limit, mask, kernel) }
}

/// Whether any of `count` polled descriptors has an entry.
///
/// # Safety
/// `fds` must be null or point at `count` entries.
pub unsafe fn any_polled(fds: *const pollfd, count: nfds_t) -> bool {
    if count > MOST
        || count > FEW && count as usize > os::descriptor_limit()
        || crate::iov::wild(fds.cast(), count as usize * size_of::<pollfd>())
    {
        return false;
    }
    // SAFETY: the caller's array; the kernel would read all of it too.
    (0..count as usize).any(|at| unsafe { crate::fds::get((*fds.add(at)).fd) } != 0)
}

/// Whether any descriptor below `count` in any of the sets has an entry.
///
/// # Safety
/// Each set must be null or hold `count` bits, rounded up to a whole word.
pub unsafe fn any_selected(count: c_int, sets: [*const fd_set; 3]) -> bool {
    let count = reach(count);
    let words = usize::try_from(count).unwrap_or(0).div_ceil(64);
    sets.into_iter().filter(|set| !set.is_null()).any(|set| {
        (0..words).any(|word| {
            // SAFETY: the caller's set; the kernel would read all of it too.
            let mut bits = unsafe { *set.cast::<u64>().add(word) };
            let mut found = false;
            while bits != 0 && !found {
                #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
                let fd = (word * 64 + bits.trailing_zeros() as usize) as c_int;
                found = fd < count && crate::fds::get(fd) != 0;
                bits &= bits - 1;
            }
            found
        })
    })
}

/// What a `fd_set` holds.
const SET: c_int = 1024;

/// How many descriptors a select that names `count` is about. The kernel looks no further than its table
/// of the process goes, so that programs name as many as there may ever be, with sets for fewer. Our own
/// descriptors, which are high, have made the table longer, and it would read and write beyond the sets.
fn reach(count: c_int) -> c_int {
    if count <= SET {
        count
    } else {
        far_reach(count)
    }
}

#[cold]
fn far_reach(count: c_int) -> c_int {
    const PART: usize = 512;
    let mut part = [NOTHING; PART];
    let mut end = count.min(os::descriptor_table());
    while end > SET {
        let from = (end - PART as c_int).max(SET);
        let asked = part.get_mut(..(end - from) as usize).unwrap_or(&mut []);
        for (one, fd) in asked.iter_mut().zip(from..) {
            one.fd = fd;
        }
        if os::ppoll(asked, Some(0), None).is_err() {
            return end;
        }
        let open = |one: &pollfd| {
            one.revents & libc::POLLNVAL == 0 && !matches!(fds::meaning(one.fd), Meaning::Ours)
        };
        if let Some(highest) = asked.iter().rfind(|one| open(one)) {
            return highest.fd + 1;
        }
        end = from;
    }
    SET
}

/// The kernel refuses a list longer than the limit of descriptors, and the array need not be as long
/// as it is said to be. Lists up to this length are not worth a look at the limit.
const FEW: nfds_t = 256;

/// More descriptors than any process can have: the kernel refuses such a call.
const MOST: nfds_t = 1 << 20;
