//! Settings: from the environment, read once by the constructor, and from the policy files, as the
//! daemon has understood them for this program. The environment wins.

use crate::os;
use protocol::ctl::{Settings, hello};
use std::ffi::{CStr, c_char};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::*};

/// When a connection is claimed (`SMCLO_POLICY`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Policy {
    /// When it has shown some traffic.
    Default = 0,
    /// At its first byte.
    Eager = 1,
    /// Never.
    Off = 2,
}

static KNOWN: AtomicBool = AtomicBool::new(false);
static POLICY: AtomicU8 = AtomicU8::new(0);
static COPY: AtomicBool = AtomicBool::new(false);
static DEBUG: AtomicBool = AtomicBool::new(false);
/// Upper bound of a spin, microseconds.
static SPIN_US: AtomicU32 = AtomicU32::new(Settings::DEFAULT.spin_us);
/// Exchanges or bytes from which on the default policy claims.
static CLAIM_EXCHANGES: AtomicU32 = AtomicU32::new(Settings::DEFAULT.exchanges);
static CLAIM_BYTES: AtomicU64 = AtomicU64::new(Settings::DEFAULT.bytes);
/// `SMC_RCVBUF` (smc_run -r): bytes wanted for RMBs; 0: from SO_RCVBUF.
static RCVBUF: AtomicU32 = AtomicU32::new(0);
/// `SMCLO_SOCKET`, the string in the environment.
static SOCKET: AtomicUsize = AtomicUsize::new(0);
/// Path of the user's policy, or empty.
static POLICY_FILE: [AtomicU8; FILE_MAX] = [const { AtomicU8::new(0) }; FILE_MAX];
pub const FILE_MAX: usize = 512;

/// `SMCLO_RUN`, which `smclo run --require` sets.
static RUN: AtomicU64 = AtomicU64::new(0);

/// Settings that the environment has made, see [`apply`].
static OWN: AtomicU32 = AtomicU32::new(0);

mod own {
    pub const POLICY: u32 = 1;
    pub const MODE: u32 = 2;
    pub const SPIN: u32 = 4;
    pub const RCVBUF: u32 = 8;
    pub const EXCHANGES: u32 = 0x10;
    pub const BYTES: u32 = 0x20;
}

/// Whether the environment has been read. The first sockets may come before.
pub fn known() -> bool {
    KNOWN.load(Acquire)
}

#[inline]
pub fn policy() -> Policy {
    match POLICY.load(Relaxed) {
        1 => Policy::Eager,
        2 => Policy::Off,
        _ => Policy::Default,
    }
}

/// Nothing is claimed from here on.
pub fn turn_off() {
    POLICY.store(Policy::Off as u8, Relaxed);
}

/// Copy mode: payload goes through a private sndbuf.
pub fn copy_mode() -> bool {
    COPY.load(Relaxed)
}

#[inline]
pub fn debug() -> bool {
    DEBUG.load(Relaxed)
}

pub fn spin_us() -> u32 {
    SPIN_US.load(Relaxed)
}

#[inline]
pub fn claim_exchanges() -> u32 {
    CLAIM_EXCHANGES.load(Relaxed)
}

#[inline]
pub fn claim_bytes() -> u64 {
    CLAIM_BYTES.load(Relaxed)
}

/// Whether `SMCLO_POLICY` says when to accelerate.
pub fn own_policy() -> bool {
    OWN.load(Relaxed) & own::POLICY != 0
}

/// What the daemon has to know of the process. The error is a want of descriptors or memory.
pub fn hello_flags() -> Result<u32, i32> {
    let bells = match os::bell_kind()? {
        os::Kind::Timers => 0,
        os::Kind::Eventfds => hello::EVENTFDS,
    };
    let policy = if own_policy() { hello::OWN_POLICY } else { 0 };
    Ok(bells | policy)
}

pub fn run() -> u64 {
    RUN.load(Relaxed)
}

/// What the policy files say, where the environment says nothing.
pub fn apply(s: &Settings) {
    let own = OWN.load(Relaxed);
    let free = |bit| own & bit == 0;
    if free(own::POLICY) {
        let policy = match (s.accelerate, s.eager) {
            (0, _) => Policy::Off,
            (_, 0) => Policy::Default,
            _ => Policy::Eager,
        };
        POLICY.store(policy as u8, Relaxed);
    }
    if free(own::MODE) {
        COPY.store(s.copy != 0, Relaxed);
    }
    if free(own::SPIN) {
        SPIN_US.store(s.spin_us.min(SPIN_MAX), Relaxed);
    }
    if free(own::RCVBUF) {
        RCVBUF.store(s.rcvbuf, Relaxed);
    }
    if free(own::EXCHANGES) {
        CLAIM_EXCHANGES.store(s.exchanges, Relaxed);
    }
    if free(own::BYTES) {
        CLAIM_BYTES.store(s.bytes, Relaxed);
    }
}

/// The path of the user's policy, with its zero; `None`: there is none.
pub fn policy_file(path: &mut [u8; FILE_MAX]) -> Option<()> {
    for (to, from) in path.iter_mut().zip(&POLICY_FILE) {
        *to = from.load(Relaxed);
    }
    (path.first() != Some(&0)).then_some(())
}

pub fn rcvbuf() -> u32 {
    RCVBUF.load(Relaxed)
}

pub fn socket() -> Option<&'static CStr> {
    let at = SOCKET.load(Relaxed) as *const c_char;
    // SAFETY: set once, from a string of ours that is never freed.
    (!at.is_null()).then(|| unsafe { CStr::from_ptr(at) })
}

/// Bytes with an optional suffix k, m or g.
fn size(text: &[u8]) -> Option<u32> {
    let (digits, shift) = match text.split_last()? {
        (b'k' | b'K', head) => (head, 10),
        (b'm' | b'M', head) => (head, 20),
        (b'g' | b'G', head) => (head, 30),
        _ => (text, 0),
    };
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    u32::try_from(number.checked_shl(shift)?).ok()
}

const PATH_MAX: usize = 108;
static SOCKET_COPY: [AtomicU8; PATH_MAX + 1] = [const { AtomicU8::new(0) }; PATH_MAX + 1];

fn var(name: &CStr) -> Option<&'static [u8]> {
    // SAFETY: called from the constructor; the result is used before the program can change it.
    let at = unsafe { libc::getenv(name.as_ptr()) };
    // SAFETY: getenv gives null or a string.
    (!at.is_null()).then(|| unsafe { CStr::from_ptr(at) }.to_bytes())
}

const SPIN_MAX: u32 = 10_000;
/// Below the home directory; `SMCLO_CONFIG` is a path instead of it, or empty: no file.
const POLICY_BELOW_HOME: &[u8] = b"/.config/smclo.toml";

fn note_policy_file() {
    let parts = match (var(c"SMCLO_CONFIG"), var(c"HOME")) {
        (Some(path), _) => [path, b""],
        (None, Some(home)) if !home.is_empty() => [home, POLICY_BELOW_HOME],
        _ => return,
    };
    if parts.iter().map(|p| p.len()).sum::<usize>() < FILE_MAX {
        let bytes = parts.into_iter().flatten();
        for (to, from) in POLICY_FILE.iter().zip(bytes) {
            to.store(*from, Relaxed);
        }
    }
}

/// Reads the environment.
pub fn read() {
    let mut own = 0;
    let mut set = |bit| own |= bit;
    let policy = match var(c"SMCLO_POLICY") {
        Some(b"eager") => Some(Policy::Eager),
        Some(b"off") => Some(Policy::Off),
        Some(b"default") => Some(Policy::Default),
        _ => None,
    };
    if let Some(policy) = policy {
        POLICY.store(policy as u8, Relaxed);
        set(own::POLICY);
    }
    if let Some(mode @ (b"copy" | b"nocopy")) = var(c"SMCLO_MODE") {
        COPY.store(mode == b"copy", Relaxed);
        set(own::MODE);
    }
    DEBUG.store(
        var(c"SMC_DEBUG").is_some_and(|v| !v.is_empty() && v != b"0"),
        Relaxed,
    );
    let number = |name| std::str::from_utf8(var(name)?).ok()?.parse::<u32>().ok();
    if let Some(us) = number(c"SMCLO_SPIN_US") {
        SPIN_US.store(us.min(SPIN_MAX), Relaxed);
        set(own::SPIN);
    }
    if let Some(n) = number(c"SMCLO_CLAIM_EXCHANGES") {
        CLAIM_EXCHANGES.store(n, Relaxed);
        set(own::EXCHANGES);
    }
    if let Some(n) = var(c"SMCLO_CLAIM_BYTES").and_then(size) {
        CLAIM_BYTES.store(n.into(), Relaxed);
        set(own::BYTES);
    }
    if let Some(bytes) = var(c"SMC_RCVBUF").and_then(size) {
        RCVBUF.store(bytes, Relaxed);
        set(own::RCVBUF);
    }
    OWN.store(own, Relaxed);
    let run = var(c"SMCLO_RUN").and_then(|v| std::str::from_utf8(v).ok());
    let run = run.and_then(|v| u64::from_str_radix(v, 16).ok());
    RUN.store(run.unwrap_or(0), Relaxed);
    note_policy_file();
    if let Some(path) = var(c"SMCLO_SOCKET").filter(|p| !p.is_empty() && p.len() < PATH_MAX) {
        for (to, from) in SOCKET_COPY.iter().zip(path) {
            to.store(*from, Relaxed);
        }
        SOCKET.store(SOCKET_COPY.as_ptr() as usize, Relaxed);
    }
    KNOWN.store(true, Release);
}
