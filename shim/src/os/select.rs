//! pselect6 in place of poll, which refuses lists longer than RLIMIT_NOFILE: where that is 0, of one already. select has
//! no such limit, and sandboxes of that kind are made for programs that use it.

use super::{Result, options, timespec};
use libc::pollfd;
use std::ffi::c_int;

/// Room for our own numbers, see [`crate::ownfd`], and a program's.
const WORDS: usize = 288;
const IN: i16 = libc::POLLIN | libc::POLLRDNORM;
const OUT: i16 = libc::POLLOUT | libc::POLLWRNORM;

/// Longest sleep when there is something that select does not tell.
const BLIND_NS: u64 = 1_000_000;

/// A list of poll's as select has it.
pub struct Sets {
    /// Read, write, except.
    bits: [[u64; WORDS]; 3],
    count: c_int,
    blind: bool,
}

impl Sets {
    /// `None`: a number too high.
    #[cold]
    pub fn of(fds: &[pollfd]) -> Option<Sets> {
        let mut sets = Sets {
            bits: [[0; WORDS]; 3],
            count: 0,
            blind: false,
        };
        for one in fds.iter().filter(|one| one.fd >= 0) {
            for (bits, asked) in sets.bits.iter_mut().zip([IN, OUT, libc::POLLPRI]) {
                let word = bits.get_mut(one.fd as usize / 64)?;
                if one.events & asked != 0 {
                    *word |= 1 << (one.fd % 64);
                }
            }
            // An end alone: bytes would wake at once.
            sets.blind |= one.events & (IN | libc::POLLRDHUP) == libc::POLLRDHUP;
            sets.count = sets.count.max(one.fd + 1);
        }
        Some(sets)
    }

    pub fn count(&self) -> c_int {
        self.count
    }

    pub fn pointers(&mut self) -> [*mut libc::fd_set; 3] {
        self.bits.each_mut().map(|bits| bits.as_mut_ptr().cast())
    }

    /// How long to sleep; `limit` as for ppoll.
    pub fn limit(&self, limit: Option<u64>) -> Option<u64> {
        match self.blind {
            true => Some(limit.map_or(BLIND_NS, |ns| ns.min(BLIND_NS))),
            false => limit,
        }
    }

    /// After the call: the list as poll would have left it, and how many have events. Of an error that is pending it is
    /// told only that there is something to read.
    pub fn tell(&self, fds: &mut [pollfd]) -> usize {
        for one in fds.iter_mut() {
            one.revents = 0;
            if one.fd < 0 {
                continue;
            }
            for (bits, means) in self.bits.iter().zip([IN, OUT, libc::POLLPRI]) {
                let word = bits.get(one.fd as usize / 64).copied().unwrap_or(0);
                if word >> (one.fd % 64) & 1 != 0 {
                    one.revents |= one.events & means;
                }
            }
            one.revents |= match options::end_of(one.fd) {
                options::End::Open => 0,
                options::End::Fin => one.events & libc::POLLRDHUP,
                options::End::Closed => one.events & libc::POLLRDHUP | libc::POLLHUP,
            };
        }
        fds.iter().filter(|one| one.revents != 0).count()
    }
}

/// ppoll's arguments and answer. An error other than EINTR: this one is refused, too.
#[cold]
pub fn select(
    fds: &mut [pollfd],
    limit: Option<u64>,
    mask: Option<*const libc::sigset_t>,
) -> Result<usize> {
    let mut sets = Sets::of(fds).ok_or(libc::EINVAL)?;
    let time = sets.limit(limit).map(timespec);
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let [read, write, except] = sets.pointers();
    let mask = crate::sys::MaskArgument {
        mask: mask.unwrap_or(std::ptr::null()),
        len: crate::sys::SIGSET_BYTES,
    };
    call!(
        libc::SYS_pselect6,
        sets.count(),
        read,
        write,
        except,
        time,
        &raw const mask
    )?;
    Ok(sets.tell(fds))
}
