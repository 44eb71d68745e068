//! What the library says when asked to (`SMC_DEBUG`): one line on standard error for each
//! connection that goes onto shared memory, or stays on TCP for good, and one when there is no daemon
//! to ask.

use crate::conn::Conn;
use crate::{config, lock, os};
use protocol::reason;
use protocol::stats::Row;
use std::fmt::Write;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A line on the stack; what does not fit is cut.
struct Line {
    text: [u8; 240],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, part: &str) -> std::fmt::Result {
        let room = self.text.get_mut(self.len..).unwrap_or(&mut []);
        for (to, from) in room.iter_mut().zip(part.bytes()) {
            *to = from;
            self.len += 1;
        }
        Ok(())
    }
}

fn say(what: std::fmt::Arguments<'_>) {
    let mut line = Line {
        text: [0; 240],
        len: 0,
    };
    let _ = writeln!(line, "libsmclo[{}]: {what}", lock::pid());
    let _ = os::write(2, line.text.get(..line.len).unwrap_or(&[]));
}

fn connection(conn: &Conn, what: std::fmt::Arguments<'_>) {
    let row = conn.row();
    let ends = [&row.local, &row.peer].map(|words| Row::endpoint(words).to_socket_addr());
    let [local, peer] = ends;
    say(format_args!("{local} {peer} {what}"));
}

/// Nothing can be accelerated for now: said once, until the reason is another.
pub fn no_session(code: u32) {
    static SAID: AtomicU32 = AtomicU32::new(0);
    if config::debug() && SAID.swap(code, Relaxed) != code {
        let (name, words) = (reason::name(code), reason::words(code));
        say(format_args!("TCP {code:#010x} {name}: {words}"));
    }
}

pub fn accelerated(conn: &Conn) {
    if config::debug() {
        connection(conn, format_args!("SMC-D"));
    }
}

pub fn barred(conn: &Conn, code: u32) {
    if config::debug() {
        let (name, words) = (reason::name(code), reason::words(code));
        connection(conn, format_args!("TCP {code:#010x} {name}: {words}"));
    }
}
