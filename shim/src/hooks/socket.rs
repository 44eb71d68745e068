//! socket, bind, listen.

use libc::{c_int, sockaddr, socklen_t};

use crate::{calls, errno, real};

/// The address family of kernel SMC; its protocols choose the IP version.
const AF_SMC: c_int = 43;
const SMCPROTO_SMC: c_int = 0;
const SMCPROTO_SMC6: c_int = 1;
/// SMC as a protocol of the IP families.
const IPPROTO_SMC: c_int = 256;

const TYPE_MASK: c_int = 0xf;

hook! {
    libc fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
        let stream = kind & TYPE_MASK == libc::SOCK_STREAM;
        match (domain, protocol) {
            (libc::AF_INET | libc::AF_INET6, 0 | libc::IPPROTO_TCP) if stream => {
                calls::life::socket(domain, kind, protocol)
            }
            (libc::AF_INET | libc::AF_INET6, IPPROTO_SMC) if stream => {
                calls::life::socket(domain, kind, 0)
            }
            // The kernel's own order of checks: the type, then the protocol.
            (AF_SMC, _) if !stream => errno::fail(libc::ESOCKTNOSUPPORT),
            (AF_SMC, SMCPROTO_SMC) => calls::life::socket(libc::AF_INET, kind, 0),
            (AF_SMC, SMCPROTO_SMC6) => calls::life::socket(libc::AF_INET6, kind, 0),
            (AF_SMC, _) => errno::fail(libc::EPROTONOSUPPORT),
            _ => real::socket(domain, kind, protocol),
        }
    }

    fd(life) fn bind(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int;
    fd(life) fn listen(fd: c_int, backlog: c_int) -> c_int;
}
