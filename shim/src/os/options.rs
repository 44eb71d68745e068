//! Socket options.

use super::Result;
use std::ffi::c_int;

/// `SO_NETNS_COOKIE`
pub const SO_NETNS_COOKIE: c_int = 71;

pub fn sockopt_int(fd: c_int, level: c_int, name: c_int) -> Result<c_int> {
    let mut value: c_int = 0;
    let mut len: u32 = 4;
    call!(
        libc::SYS_getsockopt,
        fd,
        level,
        name,
        &raw mut value,
        &raw mut len
    )?;
    Ok(value)
}

pub fn sockopt_u64(fd: c_int, level: c_int, name: c_int) -> Result<u64> {
    let mut value: u64 = 0;
    let mut len: u32 = 8;
    call!(
        libc::SYS_getsockopt,
        fd,
        level,
        name,
        &raw mut value,
        &raw mut len
    )?;
    Ok(value)
}

pub fn set_sockopt_int(fd: c_int, level: c_int, name: c_int, value: c_int) -> Result<()> {
    call!(libc::SYS_setsockopt, fd, level, name, &raw const value, 4).map(drop)
}

pub fn set_linger(fd: c_int, on: bool, seconds: c_int) -> Result<()> {
    let linger = libc::linger {
        l_onoff: c_int::from(on),
        l_linger: seconds,
    };
    let (level, name) = (libc::SOL_SOCKET, libc::SO_LINGER);
    let len = size_of::<libc::linger>();
    call!(
        libc::SYS_setsockopt,
        fd,
        level,
        name,
        &raw const linger,
        len
    )
    .map(drop)
}

/// A receive or send timeout in nanoseconds; `None`: waits for ever.
pub fn timeout(fd: c_int, name: c_int) -> Option<u64> {
    let mut time = libc::timeval {
        tv_sec: 0,
        tv_usec: 0,
    };
    let mut len = size_of::<libc::timeval>() as u32;
    let (at, len) = (&raw mut time, &raw mut len);
    call!(libc::SYS_getsockopt, fd, libc::SOL_SOCKET, name, at, len).ok()?;
    let seconds = (time.tv_sec as u64).saturating_mul(1_000_000_000);
    let ns = seconds.saturating_add(time.tv_usec as u64 * 1000);
    (ns != 0).then_some(ns)
}

/// Whether the program has fixed the receive buffer's size (`SOCK_RCVBUF_LOCK`).
pub fn rcvbuf_locked(fd: c_int) -> bool {
    const SO_BUF_LOCK: c_int = 72;
    const RCVBUF_LOCK: c_int = 2;
    sockopt_int(fd, libc::SOL_SOCKET, SO_BUF_LOCK).is_ok_and(|lock| lock & RCVBUF_LOCK != 0)
}

/// What TCP_INFO says of a connection and its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpBytes {
    /// Neither end has closed its direction, which the kernel counts as a byte.
    pub established: bool,
    pub acked: u64,
    pub received: u64,
    /// Shortest round trip that was seen, microseconds.
    pub min_rtt: u32,
    /// Bytes that were sent for the first time, without the SYN.
    pub first_sent: u64,
    /// Bytes that wait to be sent for the first time.
    pub unsent: u64,
}

/// How far the kernel's connection has come to its end, whatever poll says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Open,
    /// The peer's FIN has come.
    Fin,
    Closed,
}

impl End {
    /// By the state in struct tcp_info.
    fn of(state: u8) -> End {
        const TIME_WAIT: u8 = 6;
        const CLOSE: u8 = 7;
        const CLOSE_WAIT: u8 = 8;
        const LAST_ACK: u8 = 9;
        const CLOSING: u8 = 11;
        match state {
            CLOSE => End::Closed,
            TIME_WAIT | CLOSE_WAIT | LAST_ACK | CLOSING => End::Fin,
            _ => End::Open,
        }
    }
}

/// The state in struct tcp_info, or 0.
pub fn tcp_state(fd: c_int) -> u8 {
    // Only the first byte is asked for.
    let word = sockopt_int(fd, libc::IPPROTO_TCP, libc::TCP_INFO);
    word.map_or(0, |word| word as u8)
}

pub fn end_of(fd: c_int) -> End {
    End::of(tcp_state(fd))
}

pub fn tcp_bytes(fd: c_int) -> Result<TcpBytes> {
    // struct tcp_info of linux/tcp.h: tcpi_state first, tcpi_bytes_acked at 120,
    // tcpi_bytes_received at 128, tcpi_notsent_bytes at 144, tcpi_min_rtt at 148, tcpi_bytes_sent at
    // 200, tcpi_bytes_retrans at 208.
    const ESTABLISHED: u8 = 1;
    let mut info = [0u64; 32];
    let mut len = size_of_val(&info) as u32;
    let at = info.as_mut_ptr();
    call!(
        libc::SYS_getsockopt,
        fd,
        libc::IPPROTO_TCP,
        libc::TCP_INFO,
        at,
        &raw mut len
    )?;
    if len < 152 {
        return Err(libc::ENOPROTOOPT);
    }
    let word = |at: usize| info.get(at / 8).copied().unwrap_or(0);
    // The kernel counts a FIN as a byte.
    let fin = u64::from(matches!(End::of(word(0) as u8), End::Fin));
    Ok(TcpBytes {
        established: word(0) as u8 == ESTABLISHED,
        acked: word(120),
        received: word(128).saturating_sub(fin),
        min_rtt: (word(144) >> 32) as u32,
        first_sent: word(200).wrapping_sub(word(208)),
        unsent: word(144) & u64::from(u32::MAX),
    })
}

/// What poll would say of a TCP connection, as far as other calls tell, where poll and select are refused. Not an
/// error that is pending, which they would take.
#[cold]
pub(super) fn without_poll(fd: c_int, events: i16) -> Result<i16> {
    const HERE: i16 = libc::POLLIN | libc::POLLRDNORM;
    const ROOM: i16 = libc::POLLOUT | libc::POLLWRNORM;
    let state = sockopt_int(fd, libc::IPPROTO_TCP, libc::TCP_INFO)? as u8;
    let mut seen = match End::of(state) {
        End::Open => 0,
        End::Fin => HERE | libc::POLLRDHUP,
        End::Closed => HERE | libc::POLLRDHUP | libc::POLLHUP | ROOM,
    };
    if super::ioctl_int(fd, libc::FIONREAD).is_ok_and(|n| n > 0) {
        seen |= HERE;
    }
    if events & ROOM != 0 && has_room(fd) {
        seen |= ROOM;
    }
    Ok(seen & (events | libc::POLLHUP))
}

/// As the kernel's `sk_stream_is_writeable`: a third of the buffer is free.
fn has_room(fd: c_int) -> bool {
    // SO_MEMINFO of linux/sock_diag.h: SK_MEMINFO_SNDBUF at 3, SK_MEMINFO_WMEM_QUEUED at 5.
    const SO_MEMINFO: c_int = 55;
    let mut info = [0u32; 16];
    let mut len = size_of_val(&info) as u32;
    let (at, len_at) = (info.as_mut_ptr(), &raw mut len);
    let got = call!(
        libc::SYS_getsockopt,
        fd,
        libc::SOL_SOCKET,
        SO_MEMINFO,
        at,
        len_at
    );
    let [_, _, _, most, _, queued, ..] = info;
    got.is_ok()
        && most
            .checked_sub(queued)
            .is_some_and(|left| left >= queued >> 1)
}
