//! Sockets and their addresses.

use super::{Result, join};
use protocol::ctl::Endpoint;
use std::ffi::c_int;

const SO_ORIGINAL_DST: c_int = 80;

pub fn socket(domain: c_int, kind: c_int, protocol: c_int) -> Result<c_int> {
    call!(libc::SYS_socket, domain, kind, protocol).map(|fd| fd as c_int)
}

pub fn shutdown(fd: c_int, how: c_int) -> Result<()> {
    call!(libc::SYS_shutdown, fd, how).map(drop)
}

pub fn send(fd: c_int, bytes: &[u8], flags: c_int) -> Result<usize> {
    call!(
        libc::SYS_sendto,
        fd,
        bytes.as_ptr(),
        bytes.len(),
        flags,
        0,
        0
    )
}

/// Sends from memory that is not ours to describe as a slice (a ring).
pub fn send_raw(fd: c_int, at: *const u8, len: usize, flags: c_int) -> Result<usize> {
    call!(libc::SYS_sendto, fd, at, len, flags, 0, 0)
}

pub fn recv(fd: c_int, out: &mut [u8], flags: c_int) -> Result<usize> {
    call!(
        libc::SYS_recvfrom,
        fd,
        out.as_mut_ptr(),
        out.len(),
        flags,
        0,
        0
    )
}

/// Takes up to `n` bytes off a TCP socket that nobody sees. Does not wait.
pub fn discard(fd: c_int, n: usize) -> Result<usize> {
    let flags = libc::MSG_TRUNC | libc::MSG_DONTWAIT;
    call!(libc::SYS_recvfrom, fd, 0, n, flags, 0, 0)
}

pub fn sendmsg(fd: c_int, message: &mut libc::msghdr, flags: c_int) -> Result<usize> {
    call!(libc::SYS_sendmsg, fd, message as *mut libc::msghdr, flags)
}

pub fn recvmsg(fd: c_int, message: &mut libc::msghdr, flags: c_int) -> Result<usize> {
    call!(libc::SYS_recvmsg, fd, message as *mut libc::msghdr, flags)
}

pub fn connect_unix(fd: c_int, parts: &[&[u8]]) -> Result<()> {
    // SAFETY: zeros are a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as u16;
    let mut path = [0u8; 108];
    let len = join(&mut path, parts)?.len();
    for (to, from) in address.sun_path.iter_mut().zip(path) {
        *to = from as libc::c_char;
    }
    call!(libc::SYS_connect, fd, &raw const address, 2 + len).map(drop)
}

#[repr(C)]
union Address {
    any: libc::sockaddr,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
    room: [u8; 128],
}

fn endpoint(address: &Address) -> Result<Endpoint> {
    // SAFETY: the kernel has written an address whose family says which member it is.
    unsafe {
        match c_int::from(address.any.sa_family) {
            libc::AF_INET => Ok(Endpoint::v4(
                address.v4.sin_addr.s_addr.to_ne_bytes(),
                u16::from_be(address.v4.sin_port),
            )),
            libc::AF_INET6 => Ok(Endpoint {
                addr: address.v6.sin6_addr.s6_addr,
                port: u16::from_be(address.v6.sin6_port),
                zero: 0,
                scope: address.v6.sin6_scope_id,
            }),
            _ => Err(libc::EAFNOSUPPORT),
        }
    }
}

fn name(number: i64, fd: c_int) -> Result<Endpoint> {
    let mut address = Address { room: [0; 128] };
    let mut len: u32 = 128;
    call!(number, fd, &raw mut address, &raw mut len)?;
    endpoint(&address)
}

pub fn sockname(fd: c_int) -> Result<Endpoint> {
    name(libc::SYS_getsockname, fd)
}

pub fn peername(fd: c_int) -> Result<Endpoint> {
    name(libc::SYS_getpeername, fd)
}

/// Where a redirected connection was meant to go.
pub fn original_destination(fd: c_int) -> Option<Endpoint> {
    for level in [libc::SOL_IP, libc::SOL_IPV6] {
        let mut address = Address { room: [0; 128] };
        let mut len: u32 = 128;
        let (at, len) = (&raw mut address, &raw mut len);
        if call!(libc::SYS_getsockopt, fd, level, SO_ORIGINAL_DST, at, len).is_ok() {
            return endpoint(&address).ok();
        }
    }
    None
}
