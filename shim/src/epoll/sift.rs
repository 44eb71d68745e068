//! Takes reports of the kernel's out of a set that are of no use to the program.
//!
//! To change a registration makes the kernel report what holds, told or not. Whoever waits would find nothing, and
//! to poll, select and another set, for which the kernel answers, the set would be ready.

use super::reg::{Reg, state};
use super::set::{self, Set, Tagged};
use super::{convert, share};
use crate::config::{self, Policy};
use crate::os;
use std::ffi::c_int;
use std::sync::atomic::Ordering::*;

/// Room for what the kernel says of a set's registrations, a line each; it takes what is used of it.
const TEXT: usize = 1 << 24;
/// Events that are taken at a time, and how often.
const EVENTS: usize = 32;
const ROUNDS: usize = 64;

/// The set is about to be watched by poll, select or another set. True: not all that the kernel has of it is the
/// program's, see [`tells`].
pub fn watched(index: u32) -> bool {
    if set::get(index).is_some_and(Set::inherited) {
        share::adopt(index);
    } else {
        share::escape(index);
    }
    if set::get(index).is_some_and(Set::outer) {
        share::look_into();
    }
    let Some((set, ctx)) = set::get(index).and_then(|set| Some((set, set.ctx()?))) else {
        return false;
    };
    // What lies on a ring until it is drained, the doorbell tells of.
    let rings = set.rings();
    match rings && set.any_hot(|reg| reg.report(false) != 0) {
        true => ctx.ring_once(),
        false => set.hush(),
    }
    rings
}

/// The kernel has something of a set that is watched. Whether the program has: a connection that cannot leave its ring
/// yet is registered there for more than the program is to hear of.
pub fn tells(index: u32) -> bool {
    let Some(set) = set::get(index).filter(|set| set.any_hot(Reg::converted)) else {
        return true;
    };
    let Some(table) = set.known().filter(|_| config::policy() != Policy::Off) else {
        // A sandbox may forbid what follows.
        return true;
    };
    let held = table.lists.lock();
    let others = set.sift(None);
    table.lists.unlock(held);
    let ours = || set.any_hot(|reg| reg.report(false) != 0);
    if !ours() {
        set.hush();
    }
    let ours = ours();
    if ours && let Some(ctx) = set.ctx() {
        // Whoever sleeps on the set has not been told of it either.
        ctx.ring_once();
    }
    ours || others != Some(false)
}

/// What the kernel says is registered in a set.
struct Registered {
    file: c_int,
    at: *mut u8,
    used: usize,
}

impl Registered {
    /// Makes sure that it can be read. `None`: there is no /proc, or no room.
    fn open(epfd: c_int) -> Option<Self> {
        let (path, len) = path(epfd)?;
        let file = os::open_to_read(path.get(..len)?).ok()?;
        let at = os::map_anonymous(TEXT)
            .inspect_err(|_| os::close(file))
            .ok()?;
        Some(Registered { file, at, used: 0 })
    }

    /// Reads it, once.
    fn read(&mut self) {
        // SAFETY: mapped by `open` with that length, and nobody else knows of it.
        let text = unsafe { std::slice::from_raw_parts_mut(self.at, TEXT) };
        while self.file >= 0 {
            match os::read(self.file, text.get_mut(self.used..).unwrap_or(&mut [])) {
                Ok(n) if n > 0 => self.used += n,
                _ => os::close(std::mem::replace(&mut self.file, -1)),
            }
        }
    }

    /// Events of the program's were taken, with this data, that the kernel may not report again by itself.
    fn put_back(&mut self, set: &Set, taken: &[u64]) {
        if taken.is_empty() {
            return;
        }
        self.read();
        // SAFETY: so much of the mapping was filled.
        let text = unsafe { std::slice::from_raw_parts(self.at, self.used) };
        let once = (libc::EPOLLET | libc::EPOLLONESHOT) as u32;
        let change = |op, fd, mut event| os::epoll_ctl(set.epfd(), op, fd, &mut event);
        for (fd, event) in text.split(|byte| *byte == b'\n').filter_map(parse) {
            if taken.contains(&{ event.u64 })
                && event.events & once != 0
                && change(libc::EPOLL_CTL_MOD, fd, event) == Err(libc::EINVAL)
            {
                // EPOLLEXCLUSIVE cannot be changed.
                let _ = change(libc::EPOLL_CTL_DEL, fd, event);
                let _ = change(libc::EPOLL_CTL_ADD, fd, event);
            }
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        os::munmap(self.at, TEXT);
        if self.file >= 0 {
            os::close(self.file);
        }
    }
}

impl Set {
    /// Notes that the program makes a registration of its own with these events. What the kernel has for it is part of the
    /// next wait, though rings may have events.
    pub fn note_own(&self, events: u32) {
        self.looked.store(0, Relaxed);
        if events & libc::EPOLLONESHOT as u32 != 0 {
            self.once.store(1, Release);
        }
    }

    /// Takes our reports out of what the kernel has to tell, up to that of `reg`, and puts back what is the program's:
    /// whether there is such. `None`: that is not possible. The caller holds the lists.
    pub fn sift(&self, reg: Option<&Reg>) -> Option<bool> {
        let mut known = Registered::open(self.epfd())?;
        let mut others = false;
        if self.once.load(Acquire) != 0 || self.spread() {
            // What has fired the kernel does not say any more.
            known.read();
        }
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        // What is put back comes behind what is there, and so does all that is level-triggered.
        for _ in 0..ROUNDS {
            let at = events.as_mut_ptr();
            let n = os::epoll_wait(self.epfd(), at, EVENTS as c_int, Some(0), std::ptr::null());
            let taken = n.unwrap_or(0);
            let (mut found, mut programs, mut data) = (false, 0, [0; EVENTS]);
            for event in events.iter().take(taken) {
                match self.read_tag(event.u64) {
                    Tagged::Reg(other) if other.state.load(Acquire) == state::TAGGED => {
                        others |= convert::tell_again(other);
                    }
                    Tagged::Reg(other) => {
                        self.note(other, event.events);
                        found |= reg.is_some_and(|reg| std::ptr::eq(reg, other));
                    }
                    Tagged::Program => {
                        if let Some(at) = data.get_mut(programs) {
                            (*at, programs) = (event.u64, programs + 1);
                        }
                    }
                    Tagged::Bell | Tagged::Stale => {}
                }
            }
            others |= programs != 0;
            // In one walk through all that is registered.
            known.put_back(self, data.get(..programs).unwrap_or(&[]));
            if taken < EVENTS || found {
                break;
            }
        }
        Some(others)
    }
}

/// The file that says it, and the length of its name.
fn path(epfd: c_int) -> Option<([u8; 32], usize)> {
    const START: &[u8] = b"/proc/self/fdinfo/";
    let mut path = [0; 32];
    path.get_mut(..START.len())?.copy_from_slice(START);
    let digits = epfd.checked_ilog10().map_or(1, |n| n as usize + 1);
    let mut rest = epfd;
    for at in (START.len()..START.len() + digits).rev() {
        *path.get_mut(at)? = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    Some((path, START.len() + digits + 1))
}

/// A line of it: "tfd:  5 events: 80000001 data: 5 ...", the last two in hexadecimal.
fn parse(line: &[u8]) -> Option<(c_int, libc::epoll_event)> {
    let line = str::from_utf8(line).ok()?;
    let mut words = line.split_ascii_whitespace();
    let mut value = |name| (words.next()? == name).then(|| words.next()).flatten();
    let fd = value("tfd:")?.parse().ok()?;
    let events = u32::from_str_radix(value("events:")?, 16).ok()?;
    let u64 = u64::from_str_radix(value("data:")?, 16).ok()?;
    Some((fd, libc::epoll_event { events, u64 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says() {
        let line = b"tfd:        5 events: 8000001d data:             ffff0007  pos:0 ino:a sdev:8";
        let Some((fd, event)) = parse(line) else {
            unreachable!()
        };
        assert_eq!(
            (fd, { event.events }, { event.u64 }),
            (5, 0x8000_001d, 0xffff_0007)
        );
        assert!(parse(b"pos:\t0").is_none());
        for (epfd, name) in [(0, "0"), (7, "7"), (10, "10"), (c_int::MAX, "2147483647")] {
            let Some((path, len)) = path(epfd) else {
                unreachable!()
            };
            let expected = format!("/proc/self/fdinfo/{name}\0");
            assert_eq!(path.get(..len), Some(expected.as_bytes()));
        }
    }

    /// Of the events that the program has not been told of, none is lost.
    #[test]
    fn nothing_of_the_program_is_lost() {
        let made = || -> Option<()> {
            let epfd = crate::calls::epoll::create1(libc::EPOLL_CLOEXEC);
            let event = os::new_bell().ok()?;
            os::ring(event);
            let bits = (libc::EPOLLIN | libc::EPOLLET | libc::EPOLLONESHOT) as u32;
            let mut it = libc::epoll_event {
                events: bits,
                u64: 7,
            };
            os::epoll_ctl(epfd, libc::EPOLL_CTL_ADD, event, &mut it).ok()?;
            let set = set::live().find(|set| set.epfd() == epfd)?;
            set.note_own(bits);
            let view = crate::epoll::table::own().and_then(crate::epoll::table::view)?;
            assert_eq!(set.sift(Some(view.both(0)?.0)), Some(true));
            let mut out = libc::epoll_event { events: 0, u64: 0 };
            let n = os::epoll_wait(epfd, &mut out, 1, Some(0), std::ptr::null());
            assert_eq!((n, { out.u64 }), (Ok(1), 7));
            Some(())
        };
        assert_eq!(made(), Some(()));
    }
}
