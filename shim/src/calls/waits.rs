//! Waits in the kernel for several descriptors, of which no connection is careful. Each is entered as waited for, and
//! left afterwards; the list may mean others then.

use crate::calls::way::{self, Call};
use crate::conn::phase;
use crate::fds::{self, Meaning};
use crate::short::Short;
use crate::{os, short};
use libc::{c_int, pollfd};
use std::mem::MaybeUninit;

enum Waited {
    Short(Short),
    Full(Call),
}

type Room = [MaybeUninit<Waited>];

/// Connections whose waits are noted on the stack.
const FEW: usize = 64;

fn leave(entered: &Room) {
    for one in entered {
        // SAFETY: written by `enter`.
        match *unsafe { one.assume_init_ref() } {
            Waited::Short(short) => short.waited(),
            Waited::Full(call) => call.leave(),
        }
    }
}

/// Gives how many. `None`: one is careful now, and none is entered; or there is no room.
fn enter(list: &[pollfd], room: &mut Room) -> Option<usize> {
    let mut count = 0;
    for one in list {
        let entry = fds::get(one.fd);
        let waited = match short::enter(entry, one.fd) {
            Some(short) => Some(Waited::Short(short)),
            None => match fds::decode(entry, one.fd) {
                Meaning::Conn(sock) if sock.phase() == phase::PLAIN => {
                    way::enter(sock).map(Waited::Full)
                }
                _ => continue,
            },
        };
        match (waited, room.get_mut(count)) {
            (Some(waited), Some(place)) => {
                place.write(waited);
                count += 1;
            }
            (waited, _) => {
                let last = waited.map(MaybeUninit::new);
                leave(last.as_slice());
                leave(room.get(..count).unwrap_or(&[]));
                return None;
            }
        }
    }
    Some(count)
}

/// Whether a wait for it is noted: not one for a connection that is TCP for good.
fn counts(fd: c_int) -> bool {
    let entry = fds::get(fd);
    let plain = || fds::sock_of(entry, fd).is_some_and(|sock| sock.phase() == phase::PLAIN);
    entry != 0 && (short::of(entry, fd).is_some() || plain())
}

/// Runs `kernel`, which waits for those in the list. An error gives it back: it is not to run now.
pub fn during<K: FnOnce() -> c_int>(list: &[pollfd], kernel: K) -> Result<c_int, K> {
    let run = |room: &mut Room, kernel: K| match enter(list, room) {
        Some(count) => {
            let n = kernel();
            leave(room.get(..count).unwrap_or(&[]));
            Ok(n)
        }
        None => Err(kernel),
    };
    let count = list.iter().filter(|one| counts(one.fd)).count();
    if count <= FEW {
        return run(&mut [const { MaybeUninit::uninit() }; FEW], kernel);
    }
    let bytes = count * size_of::<Waited>();
    let Ok(at) = os::map_anonymous(bytes) else {
        return Err(kernel);
    };
    // SAFETY: a fresh mapping of that size, unmapped below.
    let room = unsafe { std::slice::from_raw_parts_mut(at.cast(), count) };
    let result = run(room, kernel);
    os::munmap(at, bytes);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::{Sock, close};
    use crate::family;
    use protocol::short::{CONNECTED, FDS};

    /// A wait goes on while its connection is closed, and another comes to the number: it is not taken off that one's
    /// calls.
    #[test]
    fn a_wait_outlasts_its_connection() {
        let fd = FDS as c_int - 4;
        while !short::begin(fd, CONNECTED) {
            std::thread::yield_now();
        }
        let one = pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        let mut next: Option<Sock> = None;
        let done = during(&[one], || {
            assert!(short::of(fds::get(fd), fd).is_some_and(Short::close));
            assert!(!short::begin(fd, CONNECTED));
            let conn = family::allocate().filter(|conn| fds::put_conn(fd, conn));
            next = conn.and_then(|_| fds::sock(fd));
            assert!(next.and_then(way::enter).is_some());
            7
        });
        assert!(matches!(done, Ok(7)));
        let Some(sock) = next else {
            unreachable!("a connection in full")
        };
        assert_eq!(sock.plain.calls(), 1);
        assert_eq!(fds::drop_conn(sock), Some(0));
        assert!(sock.life().leave());
        close::finish(sock.conn);
        assert!(short::begin(fd, 0));
        assert!(short::of(fds::get(fd), fd).is_some_and(Short::close));
    }
}
