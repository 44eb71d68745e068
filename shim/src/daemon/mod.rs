//! This process's session with smclod. Everything here is non-blocking: a daemon that is absent or
//! hangs costs a connection nothing but its acceleration.

use crate::lock::Lock;
use crate::os::Access;
use crate::{clock, config, conn, ctx, family, lgr, lock, log, os, ownfd};
use protocol::ctl::{self, Bell, Claim, Eids, Hello, Message, Paired, Passed, PeerGone, Refused};
use protocol::ctl::{Release, Welcome, Withdraw};
use protocol::reason;
use protocol::shm::mail::Mail;
use std::ffi::c_int;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering::*};

mod device;

pub use device::DEVICE;

/// The session's socket, or -1.
static SOCKET: AtomicI32 = AtomicI32::new(-1);
/// How many there were, in this process and before it was forked. Read before the socket, it is never
/// too high: what comes may be of an older session, and is not taken for the newer one's.
static SESSION: AtomicU32 = AtomicU32::new(0);
/// Process that made it.
static OWNER: AtomicU32 = AtomicU32::new(0);
/// The mailbox word, once welcome.
static MAILBOX: AtomicPtr<AtomicU32> = AtomicPtr::new(std::ptr::null_mut());
/// Where the mailbox lies, that of each session over the last one's: a late look finds one or the other.
static MAILBOX_AT: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
/// How far messages were read.
static MAIL: Mail = Mail::nothing();
/// Do not look for a daemon before this time.
static RETRY_AT: AtomicU64 = AtomicU64::new(0);
/// Clock of the greeting that the daemon has not answered yet, or 0.
static GREETED: AtomicU64 = AtomicU64::new(0);
static LOOK_AT: AtomicU64 = AtomicU64::new(0);
static RECEIVING: Lock = Lock::new();
/// Why there is no session.
static WHY: AtomicU32 = AtomicU32::new(0);

/// The process whose daemon went away under it: its connections are to be known to the next one.
static BEREFT: AtomicU32 = AtomicU32::new(0);
/// Clock ticks of the last look whether it is there.
static LOOKED: AtomicU64 = AtomicU64::new(0);

const RETRY_NS: u64 = 1_000_000_000;
const MAILBOX_LEN: usize = 4096;

/// Gives a session, making one when there is none. The error is a reason code.
pub fn session() -> Result<c_int, u32> {
    let fd = SOCKET.load(Acquire);
    if fd >= 0 && OWNER.load(Relaxed) == lock::pid() {
        return Ok(fd);
    }
    if !config::known() {
        return Err(reason::NOT_YET);
    }
    let now = clock::now();
    let at = RETRY_AT.load(Relaxed);
    let why = WHY.load(Relaxed).max(reason::NO_DAEMON);
    if now < at
        || RETRY_AT
            .compare_exchange(at, now + RETRY_NS, AcqRel, Relaxed)
            .is_err()
    {
        return Err(why);
    }
    connect().map_err(|_| {
        log::no_session(why);
        why
    })
}

/// Which session this is, among those of this process and of those that it was forked from.
pub fn nth_session() -> u32 {
    SESSION.load(Acquire)
}

fn connect() -> Result<c_int, i32> {
    let fd = ownfd::raise(os::socket(
        libc::AF_UNIX,
        libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        0,
    )?)?;
    let done = find(fd).and_then(|()| hello(fd));
    if let Err(e) = done {
        ownfd::close(fd);
        return Err(e);
    }
    OWNER.store(lock::pid(), Relaxed);
    WHY.store(0, Relaxed);
    BEREFT.store(0, Relaxed);
    GREETED.store(clock::now(), Relaxed);
    SESSION.fetch_add(1, AcqRel);
    SOCKET.store(fd, Release);
    Ok(fd)
}

/// Connects to the first daemon of the search order ([`ctl::SYSTEM_SOCKET`]).
fn find(fd: c_int) -> Result<(), i32> {
    if let Some(path) = config::socket() {
        return os::connect_unix(fd, &[path.to_bytes()]);
    }
    if os::connect_unix(fd, &[ctl::SYSTEM_SOCKET.as_bytes()]).is_ok() {
        return Ok(());
    }
    let mut digits = [0u8; 10];
    let uid = os::decimal(os::geteuid(), &mut digits);
    if os::owned_directory(&[b"/run/user/", uid])
        && os::connect_unix(fd, &[b"/run/user/", uid, b"/smclo/smclod.sock"]).is_ok()
    {
        return Ok(());
    }
    if !os::owned_directory(&[b"/tmp/.smclo-", uid]) {
        return Err(libc::ENOENT);
    }
    os::connect_unix(fd, &[b"/tmp/.smclo-", uid, b"/smclod.sock"])
}

fn hello(fd: c_int) -> Result<(), i32> {
    let mut program = [0u8; 16];
    os::thread_name(&mut program);
    let hello = Hello {
        pid: lock::pid(),
        flags: config::hello_flags()?,
        family: family::id(),
        program,
        run: config::run(),
    };
    let mut packet = [0; ctl::MAX_MESSAGE];
    let len = hello.encode(&mut packet);
    let packet = packet.get(..len).unwrap_or(&[]);
    os::send_fds(fd, packet, &family::descriptors())?;
    ctx::each(|ctx| send_bell(fd, ctx.number, ctx.bell));
    Ok(())
}

fn send<M: Message>(fd: c_int, message: &M) -> Result<(), i32> {
    let mut packet = [0; ctl::MAX_MESSAGE];
    let len = message.encode(&mut packet);
    match os::send(
        fd,
        packet.get(..len).unwrap_or(&[]),
        libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
    ) {
        Ok(_) => Ok(()),
        Err(libc::EAGAIN) => Err(libc::EAGAIN),
        Err(e) => {
            last_words(fd);
            lost(fd, 0);
            Err(e)
        }
    }
}

/// The daemon has closed the session. What it said before may tell why.
fn last_words(fd: c_int) {
    if os::on_signal_stack() {
        return;
    }
    if let Some(held) = RECEIVING.try_lock() {
        // Nested: a message of its is being acted upon, and those behind it are read afterwards.
        if !held.nested() {
            let session = SESSION.load(Acquire);
            while receive(session, fd) {}
        }
        RECEIVING.unlock(held);
    }
}

/// The session is over; claims that wait will be made anew.
fn lost(fd: c_int, why: u32) {
    if SOCKET.compare_exchange(fd, -1, AcqRel, Relaxed).is_ok() {
        WHY.store(why, Relaxed);
        MAILBOX.store(std::ptr::null_mut(), Release);
        GREETED.store(0, Relaxed);
        BEREFT.store(lock::pid(), Relaxed);
        ownfd::close(fd);
        conn::claim::session_lost();
    }
}

/// For those who were woken from a sleep in the kernel: once in a second, whether the daemon is still
/// there, or there is one again. Without this a program whose connections stay as they are, with nothing to
/// claim, would never be known to a daemon that was started anew. Who sleeps and finds nothing asks for
/// nothing.
#[inline]
pub fn keep_in_touch() {
    let now = clock::ticks();
    let last = LOOKED.load(Relaxed);
    if now.wrapping_sub(last) >= clock::per_us() * (RETRY_NS / 1000) {
        look_for_daemon(now, last);
    }
}

#[cold]
#[inline(never)]
fn look_for_daemon(now: u64, last: u64) {
    let mine = LOOKED.compare_exchange(last, now, Relaxed, Relaxed).is_ok();
    if !mine || RETRY_AT.load(Relaxed) == u64::MAX {
        return;
    }
    let fd = SOCKET.load(Acquire);
    if fd >= 0 {
        if OWNER.load(Relaxed) != lock::pid() {
            return;
        }
        if !hung_up(fd) {
            // The answer to a greeting that nobody else asks for.
            settled();
            return;
        }
        last_words(fd);
        lost(fd, 0);
    }
    if BEREFT.load(Relaxed) == lock::pid() && !os::on_signal_stack() {
        let _ = session();
    }
}

/// Whether the other end has closed.
fn hung_up(fd: c_int) -> bool {
    let mut asked = [libc::pollfd {
        fd,
        events: libc::POLLRDHUP,
        revents: 0,
    }];
    os::ppoll(&mut asked, Some(0), None).is_ok_and(|n| n != 0)
}

/// Ends the session for good.
pub fn leave() {
    RETRY_AT.store(u64::MAX, Relaxed);
    let fd = SOCKET.load(Acquire);
    if fd >= 0 && OWNER.load(Relaxed) == lock::pid() {
        conn::claim::withdraw_all();
        lost(fd, reason::SANDBOX);
    }
}

pub fn claim(claim: &Claim) -> Result<(), u32> {
    let fd = session()?;
    send(fd, claim).map_err(|e| {
        if e == libc::EAGAIN {
            reason::DAEMON_BUSY
        } else {
            reason::NO_DAEMON
        }
    })
}

pub fn withdraw(claim: u64, last: bool) {
    let fd = SOCKET.load(Acquire);
    if fd >= 0 && OWNER.load(Relaxed) == lock::pid() {
        let last = u32::from(last);
        let _ = send(fd, &Withdraw { claim, last });
    }
}

pub fn release(pair: u64) {
    let fd = SOCKET.load(Acquire);
    if fd >= 0 && OWNER.load(Relaxed) == lock::pid() {
        let _ = send(fd, &Release { pair });
    }
}

/// A socket was passed on; whether its receiver is the only one to hold it now.
pub fn passed(cookie: u64, free: bool) {
    let fd = SOCKET.load(Acquire);
    if fd >= 0 && OWNER.load(Relaxed) == lock::pid() {
        let free = u8::from(free);
        let _ = send(fd, &Passed { cookie, free });
    }
}

/// Makes the process known, so that its connections are listed. Never waits.
pub fn greet() {
    let _ = session();
}

/// Whether it is known what the policy says: the daemon has answered, or there is none.
#[inline]
pub fn settled() -> bool {
    GREETED.load(Relaxed) == 0 || answered()
}

/// Whether the daemon has not answered for long.
pub fn silent() -> bool {
    let greeted = GREETED.load(Relaxed);
    greeted != 0 && clock::now().saturating_sub(greeted) > RETRY_NS
}

/// Looks for the answer to the greeting, at ever longer distances.
#[cold]
fn answered() -> bool {
    let greeted = GREETED.load(Relaxed);
    let now = clock::now();
    if greeted != 0 && now >= LOOK_AT.load(Relaxed) {
        LOOK_AT.store(now + (now - greeted) / 8, Relaxed);
        poll();
    }
    GREETED.load(Relaxed) == 0
}

/// Lets the daemon wake those who sleep on this context. Not before the session has begun.
pub fn bell(context: u32, bell: c_int) {
    let fd = SOCKET.load(Acquire);
    if fd >= 0 && OWNER.load(Relaxed) == lock::pid() {
        send_bell(fd, context, bell);
    }
}

fn send_bell(session: c_int, context: u32, bell: c_int) {
    let mut packet = [0; ctl::MAX_MESSAGE];
    let len = Bell { context }.encode(&mut packet);
    let _ = os::send_fds(session, packet.get(..len).unwrap_or(&[]), &[bell]);
}

/// Reads what the daemon has sent, if the mailbox says that it has. Called while claims wait.
pub fn poll() {
    // In this order: the second is a system call.
    if MAIL.has_come(said()) && !os::on_signal_stack() {
        take_answers();
    }
}

/// Count of the messages that the daemon has sent. `None`: there is no mailbox.
#[inline]
pub fn said() -> Option<u32> {
    // SAFETY: null, or a mailbox, which is mapped read-only, and only another one takes its place.
    let mailbox = unsafe { MAILBOX.load(Acquire).as_ref() }?;
    Some(mailbox.load(Acquire))
}

#[inline(never)]
fn take_answers() {
    let read = || {
        let session = SESSION.load(Acquire);
        let fd = SOCKET.load(Acquire);
        if fd >= 0 && OWNER.load(Relaxed) == lock::pid() {
            while receive(session, fd) {}
        }
    };
    let unlock = |held| RECEIVING.unlock(held);
    MAIL.take(said, || RECEIVING.try_lock(), read, unlock);
}

/// Takes one message. False: there is no more.
fn receive(session: u32, fd: c_int) -> bool {
    let mut packet = [0u8; ctl::MAX_MESSAGE];
    let mut fds = [-1; ctl::MAX_FDS];
    let len = match os::recv_fds(fd, &mut packet, &mut fds) {
        Ok(0) => {
            lost(fd, 0);
            return false;
        }
        Ok(len) => len,
        Err(libc::EAGAIN | libc::EINTR) => return false,
        // Said once, of what it has left unread, and before what it has sent.
        Err(libc::ECONNRESET) => return true,
        Err(_) => {
            lost(fd, 0);
            return false;
        }
    };
    let packet = packet.get(..len).unwrap_or(&[]);
    let used = match ctl::header(packet) {
        Ok(header) => dispatch(session, header.kind, packet, fds),
        Err(ctl::DecodeError::Version(_)) => {
            lost(fd, reason::DAEMON_VERSION);
            log::no_session(reason::DAEMON_VERSION);
            false
        }
        Err(_) => {
            lost(fd, 0);
            false
        }
    };
    if !used {
        for fd in fds.into_iter().filter(|fd| *fd >= 0) {
            os::close(fd);
        }
    }
    SOCKET.load(Acquire) == fd
}

/// Acts on a message. True: the descriptors were taken over.
fn dispatch(session: u32, kind: u16, packet: &[u8], fds: [c_int; ctl::MAX_FDS]) -> bool {
    match kind {
        Welcome::KIND => Welcome::decode(packet).is_ok_and(|m| welcome(&m, fds)),
        Paired::KIND => Paired::decode(packet).is_ok_and(|m| conn::claim::paired(session, &m, fds)),
        Refused::KIND => {
            if let Ok(m) = Refused::decode(packet) {
                conn::claim::refused(&m);
            }
            false
        }
        Eids::KIND => {
            if let Ok(m) = Eids::decode(packet) {
                DEVICE.put(m.seid_on, m.ueid_count, &m.ueids);
            }
            false
        }
        PeerGone::KIND => {
            lgr::sweep(session);
            false
        }
        _ => false,
    }
}

fn welcome(m: &Welcome, fds: [c_int; ctl::MAX_FDS]) -> bool {
    config::apply(&m.settings);
    GREETED.store(0, Relaxed);
    DEVICE.name(m.gid, &m.seid);
    DEVICE.put(m.seid_on, m.ueid_count, &m.ueids);
    let [mailbox, ..] = fds;
    let sealed = os::fcntl(mailbox, libc::F_GET_SEALS, 0)
        .is_ok_and(|seals| seals as c_int & libc::F_SEAL_SHRINK != 0)
        && os::file_size(mailbox).is_ok_and(|len| len >= MAILBOX_LEN as u64);
    if sealed && let Ok(at) = map_mailbox(mailbox) {
        MAIL.begin();
        MAILBOX.store(at as *mut AtomicU32, Release);
    }
    false
}

fn map_mailbox(file: c_int) -> Result<*mut u8, i32> {
    let last = MAILBOX_AT.load(Relaxed);
    if !last.is_null() {
        return match os::map_over(last, file, 0, MAILBOX_LEN, Access::Read) {
            Ok(()) => Ok(last),
            Err(e) => {
                // It may be somebody else's by the time of the next session.
                MAILBOX_AT.store(std::ptr::null_mut(), Relaxed);
                Err(e)
            }
        };
    }
    let at = os::map_shared(file, MAILBOX_LEN, Access::Read)?;
    MAILBOX_AT.store(at, Relaxed);
    Ok(at)
}

pub fn moved(from: c_int, to: c_int) {
    let _ = SOCKET.compare_exchange(from, to, AcqRel, Relaxed);
}

/// In the child of a fork: the session is the parent's.
pub fn forked() {
    RECEIVING.reset();
    let fd = SOCKET.swap(-1, AcqRel);
    MAILBOX.store(std::ptr::null_mut(), Release);
    GREETED.store(0, Relaxed);
    RETRY_AT.store(0, Relaxed);
    BEREFT.store(0, Relaxed);
    if fd >= 0 {
        ownfd::close(fd);
    }
}
