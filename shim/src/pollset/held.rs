//! What a poll that sleeps holds: the connections of its list, also those whose numbers are closed meanwhile.

use super::careful;
use crate::conn::{Conn, Sock, kept};
use crate::family;
use libc::pollfd;
use std::ffi::c_void;
use std::sync::atomic::Ordering::*;

/// The connection of an entry that a poll has begun to wait for: its index + 1, and its generation. 0: the entry is
/// looked at by its number.
pub type Held = u64;
/// Beside these: the number does not mean it any more, and the poll has found that out. As in the kernel, it waits for
/// neither from then on, and looks at what the number means whenever it wakes.
pub const CLOSED: Held = 1 << 31;

fn name(conn: &Conn) -> Held {
    u64::from(conn.generation.load(Acquire)) << 32 | u64::from(conn.index() + 1)
}

pub fn named(held: Held) -> Option<&'static Conn> {
    let index = ((held & !CLOSED) as u32).checked_sub(1)?;
    family::conn(index)
}

pub fn closed(held: &Held) -> bool {
    held & CLOSED != 0
}

/// The connection of an entry, under whatever descriptor it has by now.
#[inline]
pub fn entry(one: &pollfd, held: Option<&Held>) -> Option<Sock> {
    match held {
        None | Some(&0) => careful(one.fd),
        Some(&held) => {
            let conn = named(held).filter(|conn| name(conn) == held)?;
            kept::again(Sock { fd: one.fd, conn })
        }
    }
}

/// A poll begins to sleep.
pub fn hold(list: &[pollfd], held: &mut [Held]) {
    for (one, held) in list.iter().zip(held) {
        if let Some(sock) = careful(one.fd) {
            kept::enter(sock.conn);
            match kept::names(one.fd, sock.conn) {
                true => *held = name(sock.conn),
                false => kept::leave(sock.conn),
            }
        }
    }
}

/// What a poll keeps.
pub struct Holding {
    pub at: *const Held,
    pub count: usize,
}

/// Ends a poll, see [`wait::undone`].
pub unsafe extern "C" fn let_go(holding: *mut c_void) {
    // SAFETY: `wait` has registered its own value, with the names of its caller.
    let held = unsafe {
        let holding = &*holding.cast::<Holding>();
        std::slice::from_raw_parts(holding.at, holding.count)
    };
    held.iter()
        .filter_map(|held| named(*held))
        .for_each(kept::leave);
}
