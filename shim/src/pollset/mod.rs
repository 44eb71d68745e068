//! poll on a list in which some connections go through the state machine.

mod held;
mod sleep;

use crate::conn::ready::{self, IN};
use crate::conn::{Sock, claim, kept, tx};
use crate::fds::{self, Meaning};
use crate::{clock, daemon, epoll, family, os, short, signals, wait};
use held::{Held, entry};
use libc::pollfd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};

/// While rings are ready, how often the kernel is asked about the other descriptors.
const KERNEL_US: u64 = 40;

static ASKED: AtomicU64 = AtomicU64::new(0);
static SPIN: AtomicU32 = AtomicU32::new(0);

/// Lists longer than this go through a mapping of their own.
pub const SHORT: usize = 64;

fn careful(fd: i32) -> Option<Sock> {
    fds::sock(fd).filter(|sock| sock.careful())
}

/// What the program has called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Poll,
    Select,
}

impl Call {
    /// The answer for an entry whose number was closed while the call slept, and means nothing. select, which refuses such
    /// a number when it begins, has it ready for everything.
    fn closed(self, one: &pollfd) -> i16 {
        match self {
            Call::Poll => libc::POLLNVAL,
            Call::Select => one.events,
        }
    }
}

/// A list on its way through the state machine.
struct Polled<'a> {
    list: &'a mut [pollfd],
    /// What the kernel is asked; has one place more.
    scratch: &'a mut [pollfd],
    /// Empty before the first sleep.
    held: &'a mut [Held],
    call: Call,
    /// There is such a number.
    renamed: bool,
    /// And something has come that wakes the kernel's poll, which looks at what the numbers mean then.
    woken: bool,
}

/// What has to happen before the kernel may be asked: sets that are watched from outside leave
/// their rings. Tells whether the list has careful connections, or sets that could not leave all of them.
pub fn prepare(list: &[pollfd]) -> bool {
    let mut found = false;
    for one in list {
        if short::of(fds::get(one.fd), one.fd).is_some() {
            continue;
        }
        match fds::meaning(one.fd) {
            Meaning::Conn(sock) => found |= sock.careful(),
            Meaning::Set(index) => found |= epoll::watched(index),
            // To be asked about as something that is not there.
            Meaning::Ours => found = true,
            Meaning::None => {}
        }
    }
    found
}

/// Polls `list`; `scratch` has one place more. Gives the number of entries with events.
pub fn poll(
    list: &mut [pollfd],
    scratch: &mut [pollfd],
    timeout: Option<u64>,
    mask: Option<*const libc::sigset_t>,
    call: Call,
) -> Result<usize, i32> {
    // None is short any more.
    for one in list.iter() {
        fds::meaning(one.fd);
    }
    let mut polled = Polled {
        list,
        scratch,
        held: &mut [],
        call,
        renamed: false,
        woken: false,
    };
    let mut spun = false;
    if let Some(n) = polled.at_once(timeout == Some(0), &mut spun, mask)? {
        return Ok(n);
    }
    let end = timeout.map(clock::after);
    if polled.list.len() <= SHORT {
        let mut room = [Held::default(); SHORT];
        return polled.wait(&mut room, end, &mut spun, mask);
    }
    let bytes = polled.list.len() * size_of::<Held>();
    let Ok(at) = os::map_anonymous(bytes) else {
        return polled.wait(&mut [], end, &mut spun, mask);
    };
    // SAFETY: a fresh mapping of that size, unmapped below.
    let room = unsafe { std::slice::from_raw_parts_mut(at.cast(), polled.list.len()) };
    let result = polled.wait(room, end, &mut spun, mask);
    os::munmap(at, bytes);
    result
}

fn due() -> bool {
    let now = clock::ticks();
    if now.wrapping_sub(ASKED.load(Relaxed)) < clock::per_us() * KERNEL_US {
        return false;
    }
    ASKED.store(now, Relaxed);
    true
}

/// What is asked of it. Of a list with a closed number the kernel wakes for more than the program has asked for.
fn asked(one: &pollfd, sock: Sock, held: Option<&Held>) -> i16 {
    one.events | held.map_or(0, |held| held.wakes_for(one, sock))
}

/// What the kernel is to be asked about an entry.
fn question(one: &pollfd, sock: Option<Sock>, held: Option<&Held>) -> pollfd {
    let mut question = pollfd { revents: 0, ..*one };
    if let Some(sock) = sock {
        ready::service(sock);
        question.fd = sock.fd;
        question.events = ready::kernel_events(sock, asked(one, sock, held));
    } else if matches!(fds::meaning(one.fd), Meaning::Ours) {
        question.fd = i32::MAX;
    }
    question
}

/// The program's answer from the kernel's.
fn answer(one: &pollfd, sock: Option<Sock>, held: Option<&Held>, mut from_kernel: i16) -> i16 {
    let Some(sock) = sock else {
        let others = from_kernel & IN != 0
            && matches!(fds::meaning(one.fd), Meaning::Set(index) if !epoll::tells(index));
        return if others {
            from_kernel & !IN
        } else {
            from_kernel
        };
    };
    let asked = asked(one, sock, held);
    if from_kernel != 0 {
        ready::note_gone(sock, from_kernel);
        // A handshake message is not the program's.
        ready::service(sock);
        from_kernel = ready::ask_kernel(sock, ready::kernel_events(sock, asked));
    }
    ready::combine(sock, asked, from_kernel)
}

impl<'a> Polled<'a> {
    fn entries(&self) -> impl Iterator<Item = (&pollfd, Option<Sock>)> {
        let all = self.list.iter().enumerate();
        all.map(|(i, one)| (one, entry(one, self.held.get(i))))
    }

    /// What can be said without a sleep: the answer, when there is one or `last` is set.
    fn at_once(
        &mut self,
        last: bool,
        spun: &mut bool,
        mask: Option<*const libc::sigset_t>,
    ) -> Result<Option<usize>, i32> {
        loop {
            if claim::waiting() {
                daemon::poll();
            }
            let rings = self.look();
            if self.woken {
                match self.by_number(mask)? {
                    0 => continue,
                    n => return Ok(Some(n)),
                }
            }
            let kernel = last || rings && (self.kernel_tells() || due());
            if kernel {
                self.ask(mask)?;
            }
            if rings || last {
                let n = self.settle(kernel);
                let n = self.anew(n, mask)?;
                if n != 0 || last {
                    return Ok(Some(n));
                }
            }
            if *spun || !self.spin() {
                return Ok(None);
            }
            *spun = true;
        }
    }

    /// Sleeps until there is an answer. The kernel keeps what is polled open as long, and so do we.
    fn wait(
        mut self,
        room: &'a mut [Held],
        end: Option<u64>,
        spun: &mut bool,
        mask: Option<*const libc::sigset_t>,
    ) -> Result<usize, i32> {
        signals::forget();
        let count = self.list.len().min(room.len());
        self.held = room.get_mut(..count).unwrap_or(&mut []);
        held::hold(self.list, self.held);
        let mut holding = held::Holding {
            at: self.held.as_ptr(),
            count,
        };
        let rest = || {
            loop {
                let left = end.map(|end| end.saturating_sub(clock::now()));
                if left == Some(0) {
                    // The wait may have been just long enough for a reader that stands still.
                    self.give_up();
                    return self.by_number(mask);
                }
                // A handler that has run since then, between two sleeps, ends it as one that runs in a sleep.
                let slept = match signals::noted() {
                    true => Err(libc::EINTR),
                    false => self.sleep(left, mask),
                };
                if slept == Err(libc::EINTR) && self.renumber() {
                    // The kernel looks once more.
                    match self.by_number(mask)? {
                        0 => {}
                        n => return Ok(n),
                    }
                }
                slept?;
                let n = self.settle(true);
                let n = self.anew(n, mask)?;
                if n != 0 {
                    return Ok(n);
                }
                if let Some(n) = self.at_once(false, spun, mask)? {
                    return Ok(n);
                }
            }
        };
        // SAFETY: the names live longer than the wait, and nothing is let go of elsewhere that is still named.
        unsafe { wait::undone(held::let_go, (&raw mut holding).cast(), rest) }
    }

    /// Of a list in which a number was closed: what the kernel wakes for from here on.
    fn begin_anew(&mut self) {
        self.renamed = true;
        for (one, held) in self.list.iter().zip(self.held.iter_mut()) {
            if let Some(sock) = entry(one, Some(held)).filter(|_| !held.closed()) {
                held.begin_anew(one, sock);
            }
        }
    }

    /// Notes what has come that wakes the kernel's poll. If there is something new, and a number is closed by now, it is one that
    /// finds that, however late this thread comes to look.
    fn note(&mut self) {
        let (mut come, mut closed) = (false, false);
        for (one, held) in self.list.iter().zip(self.held.iter_mut()) {
            if let Some(sock) = entry(one, Some(held)).filter(|_| held.named().is_some()) {
                come |= held.note(one, sock);
                closed |= sock.fd != one.fd;
            }
        }
        if closed && !self.renamed {
            self.begin_anew();
        }
        self.woken |= come && self.renamed;
    }

    /// Whenever it wakes, the kernel looks at each number anew. True: one of them does not mean any more what it meant.
    fn renumber(&mut self) -> bool {
        let mut any = false;
        for (one, held) in self.list.iter().zip(self.held.iter_mut()) {
            if let Some(conn) = held.named()
                && !kept::names(one.fd, conn)
            {
                held.close();
                any = true;
            }
        }
        any
    }

    /// The answer for what the numbers mean now.
    fn by_number(&mut self, mask: Option<*const libc::sigset_t>) -> Result<usize, i32> {
        self.renumber();
        self.woken = false;
        self.look();
        for (i, (one, copy)) in self.list.iter().zip(self.scratch.iter_mut()).enumerate() {
            if self.held.get(i).is_some_and(Held::closed) {
                *copy = question(one, careful(one.fd), None);
            }
        }
        self.ask(mask)?;
        self.settle(true);
        let mut n = 0;
        for (i, (one, copy)) in self.list.iter_mut().zip(self.scratch.iter()).enumerate() {
            if self.held.get(i).is_some_and(Held::closed) {
                one.revents = match copy.revents & libc::POLLNVAL {
                    0 => answer(one, careful(one.fd), None, copy.revents),
                    _ => self.call.closed(one),
                };
            }
            // Beyond these it was woken only.
            one.revents &= one.events | libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;
            n += usize::from(one.revents != 0);
        }
        self.begin_anew();
        Ok(n)
    }

    /// After [`Polled::settle`] has found `n`: what is reported of a number that was closed is what that means now.
    fn anew(&mut self, n: usize, mask: Option<*const libc::sigset_t>) -> Result<usize, i32> {
        match n != 0 && (self.renumber() || self.renamed) {
            true => self.by_number(mask),
            false => Ok(n),
        }
    }

    /// Whether something of the list can be answered by the kernel only: then an answer without it
    /// would be shorter than that of the kernel's own poll.
    fn kernel_tells(&self) -> bool {
        let by_ring = |sock: Sock| sock.rx_ring() && sock.tx_ring() && !ready::ends_soon(sock);
        self.entries()
            .any(|(one, sock)| one.fd >= 0 && !sock.is_some_and(by_ring))
    }

    /// Prepares what the kernel is to be asked, and tells whether a ring has something to report.
    fn look(&mut self) -> bool {
        self.note();
        let mut found = self.woken;
        for (i, (one, copy)) in self.list.iter().zip(self.scratch.iter_mut()).enumerate() {
            let held = self.held.get(i);
            if held.is_some_and(Held::closed) {
                *copy = pollfd { fd: -1, ..*one };
                continue;
            }
            let sock = entry(one, held);
            *copy = question(one, sock, held);
            found |= sock.is_some_and(|sock| ready::combine(sock, asked(one, sock, held), 0) != 0);
        }
        found
    }

    /// Takes directions off full rings whose readers do not move, for a program that wants to send.
    fn give_up(&self) {
        for (one, sock) in self.entries() {
            if let Some(sock) = sock.filter(|sock| one.events & ready::OUT != 0 && sock.tx_ring()) {
                tx::give_up_if_stalled(sock);
            }
        }
    }

    fn ask(&mut self, mask: Option<*const libc::sigset_t>) -> Result<(), i32> {
        let asked = self.scratch.get_mut(..self.list.len()).unwrap_or(&mut []);
        match os::ppoll(asked, Some(0), mask) {
            Err(e) if e != libc::EINTR && self.call == Call::Select => {
                os::select(asked, Some(0), mask).map(drop)
            }
            done => done.map(drop),
        }
    }

    /// Fills in the program's results. Gives the number of entries with events.
    fn settle(&mut self, asked: bool) -> usize {
        let mut count = 0;
        for (i, (one, copy)) in self.list.iter_mut().zip(self.scratch.iter()).enumerate() {
            let held = self.held.get(i);
            one.revents = match held.is_some_and(Held::closed) {
                true => 0,
                false => {
                    let from_kernel = if asked { copy.revents } else { 0 };
                    let sock = entry(one, held);
                    // Of a number that was closed meanwhile the kernel says nothing of use.
                    let same = sock.is_none_or(|sock| sock.fd == copy.fd);
                    answer(one, sock, held, if same { from_kernel } else { 0 })
                }
            };
            if one.revents != 0 {
                count += 1;
            }
        }
        count
    }

    fn spin(&self) -> bool {
        let mut apart = false;
        for (_, sock) in self.entries() {
            apart |= sock.is_some_and(|sock| sock.on_ring() && !wait::spin::same_cpu(&sock));
        }
        if !apart || self.list.len() > 256 || !wait::spin::worth_spinning(&SPIN) {
            return false;
        }
        let hit = wait::spin::spin(|_| {
            self.entries().any(|(one, sock)| {
                sock.is_some_and(|sock| {
                    ready::ring_mask(sock, one.events) & one.events != 0
                        || (sock.tx_ring() && tx::disturbed(&sock))
                })
            })
        });
        wait::spin::spun(&SPIN, hit);
        if let Some(table) = family::table() {
            let counter = if hit {
                &table.totals.spin_hits
            } else {
                &table.totals.spin_misses
            };
            counter.fetch_add(1, Relaxed);
        }
        hit
    }
}
