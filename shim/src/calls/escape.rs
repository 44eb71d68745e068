//! Which connections another program may take over, when one is started.
//!
//! Connections without close-on-exec go along with every program that is started, mostly by
//! accident. To send them all back to TCP would cost a busy server its acceleration at each
//! `system("date")`. A program can use what it inherits only where it knows of it: by a low number
//! that both agreed on, or by a number that it is told in its arguments or its environment. So
//! where there are many, and this process or a relative goes on holding them, only those go.

use crate::conn::{Sock, passed, phase, revert};
use crate::real::Argv;
use crate::{epoll, fds, iov, lock, os, short};
use protocol::reason;
use std::ffi::{c_char, c_int};
use std::sync::atomic::Ordering::*;

/// Up to so many connections all go, whatever the new program is told.
const FEW: usize = 16;
/// Descriptors up to this one may be meant without being named.
const LOW: c_int = 9;

unsafe extern "C" {
    static environ: Argv;
}

/// What the new program will know.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    vectors: [Argv; 2],
    command: *const c_char,
    /// This process goes on, whatever becomes of the other.
    stays: bool,
}

impl Told {
    /// An exec with these arguments and this environment; null: the process's own.
    pub fn exec(argv: Argv, envp: Argv) -> Self {
        Told {
            vectors: [argv, own_if_null(envp)],
            command: std::ptr::null(),
            stays: false,
        }
    }

    /// A new process with these.
    pub fn spawn(argv: Argv, envp: Argv) -> Self {
        Told {
            stays: true,
            ..Told::exec(argv, envp)
        }
    }

    /// A shell with this command.
    pub fn shell(command: *const c_char) -> Self {
        Told {
            command,
            ..Told::spawn(std::ptr::null(), std::ptr::null())
        }
    }

    /// Every number in the texts.
    fn numbers(self, mut each: impl FnMut(c_int)) {
        let texts = |vector: Argv| {
            let mut at = vector;
            std::iter::from_fn(move || {
                if iov::wild(at.cast(), size_of::<*const c_char>()) {
                    return None;
                }
                // SAFETY: the program's vector, which a null ends.
                let text = unsafe { *at };
                at = at.wrapping_add(1);
                (!iov::wild(text.cast(), 1)).then_some(text)
            })
        };
        let [argv, envp] = self.vectors;
        let command = (!iov::wild(self.command.cast(), 1)).then_some(self.command);
        for text in texts(argv).chain(texts(envp)).chain(command) {
            numbers_of(text, &mut each);
        }
    }
}

fn own_if_null(envp: Argv) -> Argv {
    if envp.is_null() {
        // SAFETY: libc's variable; the program does not change it while it starts another one.
        unsafe { environ }
    } else {
        envp
    }
}

fn numbers_of(text: *const c_char, each: &mut impl FnMut(c_int)) {
    let mut at = text.cast::<u8>();
    let mut number = None;
    loop {
        // SAFETY: a string of the program's, up to its end.
        let byte = unsafe { *at };
        at = at.wrapping_add(1);
        match (byte, number) {
            (b'0'..=b'9', so_far) => {
                let digit = c_int::from(byte - b'0');
                number = Some(
                    so_far
                        .unwrap_or(0 as c_int)
                        .saturating_mul(10)
                        .saturating_add(digit),
                );
            }
            (_, Some(n)) => {
                each(n);
                number = None;
            }
            _ => {}
        }
        if byte == 0 {
            return;
        }
    }
}

pub fn inheritable(sock: Sock) -> bool {
    stays_open(sock.fd)
}

fn stays_open(fd: c_int) -> bool {
    os::fcntl(fd, libc::F_GETFD, 0).is_ok_and(|flags| flags as c_int & libc::FD_CLOEXEC == 0)
}

fn goes_along(sock: Sock) -> bool {
    sock.phase() != phase::BARRED && sock.phase() != phase::LISTEN && inheritable(sock)
}

/// Whether this is a vfork child, whose parent goes on.
fn vforked() -> bool {
    os::getpid() as u32 != lock::pid()
}

/// The connection is the kernel's alone from here on. False: bytes wait in memory for a program that
/// cannot see them. One that another process holds too does not count, unless it is put where a
/// program looks for it: its bytes are safe.
fn release(sock: Sock) -> bool {
    let shared = vforked() || sock.holders.load(Acquire) > 1;
    revert::leave(sock, reason::ESCAPED) || shared && sock.fd > 2
}

fn all() -> impl Iterator<Item = Sock> {
    fds::socks(0, c_int::MAX).filter(|sock| goes_along(*sock))
}

/// A child is made of which nothing is known: every connection that it inherits goes back to TCP.
pub fn everything() -> bool {
    short::fill(stays_open);
    passed::inherited();
    let mut free = true;
    revert::unread_first(goes_along, |sock| free &= release(sock));
    epoll::before_program();
    free
}

/// Another program is about to be started. False: see [`release`].
pub fn known_to(told: Told) -> bool {
    short::fill(stays_open);
    if all().take(FEW + 1).count() <= FEW {
        return everything();
    }
    passed::inherited();
    let vforked = vforked();
    let mut free = true;
    // Nobody would be left to read what is on the ring.
    let alone = |sock: Sock| !told.stays && !vforked && sock.holders.load(Acquire) <= 1;
    revert::unread_first(
        |sock| goes_along(sock) && (sock.fd <= LOW || alone(sock)),
        |sock| free &= release(sock),
    );
    told.numbers(|n| {
        if let Some(sock) = fds::sock(n).filter(|sock| goes_along(*sock)) {
            free &= release(sock);
        }
    });
    epoll::before_program();
    free
}

/// A child is made that will start another program, when it is known what that is told.
pub fn later() {
    short::fill(stays_open);
    passed::inherited();
    if all().take(FEW + 1).count() <= FEW {
        everything();
    } else {
        epoll::before_program();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_texts() {
        let told = Told {
            vectors: [std::ptr::null(); 2],
            ..Told::shell(c"cat <&12; fd=7,800 x9y 99999999999 0".as_ptr())
        };
        let mut seen = Vec::new();
        told.numbers(|n| seen.push(n));
        assert_eq!(seen, [12, 7, 800, 9, c_int::MAX, 0]);
    }

    #[test]
    fn vectors_end_with_null() {
        let argv = [c"a1".as_ptr(), c"2".as_ptr(), std::ptr::null()];
        let envp = [c"LISTEN=3".as_ptr(), std::ptr::null()];
        let mut seen = Vec::new();
        Told::exec(argv.as_ptr(), envp.as_ptr()).numbers(|n| seen.push(n));
        assert_eq!(seen, [1, 2, 3]);
    }
}
