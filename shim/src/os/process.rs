//! The process, its limits, its time and its host.

use super::{Result, decimal, file::read_file, join};
use std::ffi::c_int;

pub fn getpid() -> c_int {
    call!(libc::SYS_getpid).unwrap_or(0) as c_int
}

pub fn getppid() -> c_int {
    call!(libc::SYS_getppid).unwrap_or(0) as c_int
}

pub fn geteuid() -> u32 {
    call!(libc::SYS_geteuid).unwrap_or(0) as u32
}

/// Whether this thread runs on its alternate signal stack, which may be as small as 2 KiB.
pub fn on_signal_stack() -> bool {
    // SAFETY: all zero is a valid stack_t.
    let mut stack: libc::stack_t = unsafe { std::mem::zeroed() };
    let _ = call!(libc::SYS_sigaltstack, 0, &raw mut stack);
    stack.ss_flags & libc::SS_ONSTACK != 0
}

pub fn sleep_ns(ns: u64) {
    let _ = nap(ns);
}

/// As [`sleep_ns`], where a signal ends it.
pub fn nap(ns: u64) -> Result<()> {
    let time = timespec(ns);
    call!(libc::SYS_nanosleep, &raw const time, 0).map(drop)
}

pub fn timespec(ns: u64) -> libc::timespec {
    libc::timespec {
        tv_sec: (ns / 1_000_000_000) as i64,
        tv_nsec: (ns % 1_000_000_000) as i64,
    }
}

pub fn clock_monotonic() -> u64 {
    let mut time = timespec(0);
    // The C library's function is the vDSO's: no system call, no hook of ours, signal-safe.
    // SAFETY: a local of the right type.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Whether a process exists, be it as a zombie.
pub fn process_exists(pid: u32) -> bool {
    pid != 0 && call!(libc::SYS_kill, pid, 0) != Err(libc::ESRCH)
}

/// Whether a process exists and has not ended (a zombie has).
pub fn process_alive(pid: u32) -> bool {
    if !process_exists(pid) {
        return false;
    }
    let mut digits = [0u8; 10];
    let mut path = [0u8; 32];
    let stat = join(&mut path, &[b"/proc/", decimal(pid, &mut digits), b"/stat"]);
    let mut text = [0u8; 512];
    let Some(n) = stat.ok().and_then(|path| read_file(path, &mut text).ok()) else {
        return true;
    };
    let text = text.get(..n).unwrap_or(&[]);
    let after = text
        .iter()
        .rposition(|c| *c == b')')
        .and_then(|at| text.get(at + 2));
    !matches!(after, Some(b'Z' | b'X'))
}

pub fn thread_name(out: &mut [u8; 16]) {
    let _ = call!(libc::SYS_prctl, libc::PR_GET_NAME, out.as_mut_ptr());
}

pub fn host_name(out: &mut [u8; 65]) -> &[u8] {
    // SAFETY: zeros are a valid utsname.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    if call!(libc::SYS_uname, &raw mut name).is_err() {
        return b"localhost";
    }
    let mut len = 0;
    for (to, from) in out.iter_mut().zip(name.nodename) {
        if from == 0 {
            break;
        }
        *to = from as u8;
        len += 1;
    }
    out.get(..len).unwrap_or(b"localhost")
}

pub fn getrandom(out: &mut [u8]) -> Result<()> {
    call!(libc::SYS_getrandom, out.as_mut_ptr(), out.len(), 0).map(drop)
}

/// CPUs that are online; at least one.
pub fn online_cpus() -> u32 {
    let mut text = [0u8; 256];
    let Ok(n) = read_file(b"/sys/devices/system/cpu/online\0", &mut text) else {
        return 1;
    };
    // "0-3,8,10-11"
    let mut count = 0;
    for part in text.get(..n).unwrap_or(&[]).split(|c| *c == b',') {
        let mut ends = part.split(|c| *c == b'-').map(|digits| {
            digits
                .iter()
                .filter(|c| c.is_ascii_digit())
                .fold(0u32, |n, c| {
                    n.saturating_mul(10).saturating_add(u32::from(c - b'0'))
                })
        });
        let first = ends.next().unwrap_or(0);
        count += ends.next().unwrap_or(first).saturating_sub(first) + 1;
    }
    count.max(1)
}

/// Places in the kernel's table of this process's descriptors; as many as there may be when it does not
/// say.
pub fn descriptor_table() -> c_int {
    const NAME: &[u8] = b"\nFDSize:\t";
    let mut text = [0u8; 2048];
    let n = read_file(b"/proc/self/status\0", &mut text).unwrap_or(0);
    let text = text.get(..n).unwrap_or(&[]);
    let at = text.windows(NAME.len()).position(|part| part == NAME);
    let digits = at.and_then(|at| text.get(at + NAME.len()..)).unwrap_or(&[]);
    let digits = digits.iter().take_while(|c| c.is_ascii_digit());
    match digits.fold(0, |n: c_int, c| {
        n.saturating_mul(10).saturating_add(c_int::from(c - b'0'))
    }) {
        0 => c_int::try_from(descriptor_limit()).unwrap_or(c_int::MAX),
        n => n,
    }
}

pub fn descriptor_limit() -> usize {
    limit_of(libc::RLIMIT_NOFILE as c_int)
}

/// RLIMIT_FSIZE. Memory files count too, and a longer one is answered by a signal.
pub fn file_size_limit() -> usize {
    limit_of(libc::RLIMIT_FSIZE as c_int)
}

/// A soft limit; 0 when it cannot be had.
fn limit_of(what: c_int) -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let got = call!(libc::SYS_getrlimit, what, &raw mut limit);
    if got.is_ok() {
        usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
    } else {
        0
    }
}

/// Whether two descriptors of this process are one open file. No, where that may not be asked.
pub fn same_file(a: c_int, b: c_int) -> bool {
    const KCMP_FILE: c_int = 0;
    let me = getpid();
    call!(libc::SYS_kcmp, me, me, KCMP_FILE, a, b) == Ok(0)
}

/// Sends a signal to the calling thread.
pub fn signal_self(signal: c_int) {
    let tid = call!(libc::SYS_gettid).unwrap_or(0);
    let _ = call!(libc::SYS_tgkill, getpid(), tid, signal);
}
