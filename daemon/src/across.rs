//! Claims whose other end may be in another network namespace: candidates, and proof.

use crate::rendezvous::ClaimId;
use crate::server::Server;
use crate::witness::{Tap, Verdict, Witness};
use nix::sys::epoll::{EpollEvent, EpollFlags};
use protocol::ctl::{Claim, Endpoint};
use protocol::ids::Role;
use protocol::reason;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// Epoll tags of taps: this, then twice the number of the observation, then the end.
pub(crate) const TAP: u64 = 1 << 33;
/// Observations at one time; the others wait for their turn.
const MAX_AT_ONCE: usize = 128;
/// Observations that wait; claims beyond that are asked to come again.
const MAX_WAITING: usize = 4096;
/// Candidates for one claim.
const MAX_CANDIDATES: usize = 8;
/// How long two ends are observed: as long as it may take until they exchange something again.
const OBSERVE: Duration = Duration::from_secs(10);
/// How long a claim waits for a partner when nothing says that the peer is on this host.
const PATIENCE: Duration = Duration::from_secs(1);

/// A claim as it was when something was begun with it.
type Held = (ClaimId, Claim);

#[derive(Debug)]
struct Observation {
    /// Client end first.
    ends: [Held; 2],
    witness: Witness,
    until: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct Across {
    running: HashMap<u32, Observation>,
    waiting: VecDeque<[Held; 2]>,
    last: u32,
    /// Claims whose peer may be on another host, oldest first.
    doubtful: VecDeque<(Instant, Held)>,
}

impl Across {
    /// Ends an observation. The kernel takes its time for closing a packet socket (it waits until no
    /// CPU looks at it any more), so that is done aside.
    fn end(&mut self, number: u32) -> Option<[Held; 2]> {
        let over = self.running.remove(&number)?;
        let ends = over.ends;
        let close = thread::Builder::new().stack_size(64 << 10);
        // Without a thread it is dropped here and now.
        let _ = close.spawn(move || drop(over));
        Some(ends)
    }
}

/// A loopback address, or one and the same: nobody else can be meant.
fn evidently_local(claim: &Claim) -> bool {
    let loopback = match claim.peer.as_v4() {
        Some([first, ..]) => first == 127,
        None => std::net::Ipv6Addr::from(claim.peer.addr).is_loopback(),
    };
    loopback || claim.local.addr == claim.peer.addr || claim.original != Endpoint::default()
}

impl Server {
    /// A claim has found no partner in its own namespace.
    pub(crate) fn look_across(&mut self, id: ClaimId, claim: Claim) {
        if !evidently_local(&claim) {
            let at = Instant::now() + PATIENCE;
            self.across.doubtful.push_back((at, (id, claim)));
        }
        for other in self.claims.candidates(&claim, MAX_CANDIDATES) {
            if self.across.waiting.len() >= MAX_WAITING {
                break;
            }
            let ends = match claim.role {
                Role::Client => [(id, claim), other],
                Role::Server => [other, (id, claim)],
            };
            self.across.waiting.push_back(ends);
        }
        self.observe_next();
    }

    fn waits(&self, (id, claim): &Held) -> bool {
        let now = self.claims.get(*id);
        now.is_some_and(|c| (c.cookie, c.netns) == (claim.cookie, claim.netns))
    }

    fn observe_next(&mut self) {
        while self.across.running.len() < MAX_AT_ONCE {
            let Some(ends) = self.across.waiting.pop_front() else {
                return;
            };
            if !ends.iter().all(|end| self.waits(end)) {
                continue;
            }
            if self.observe(ends).is_err() {
                for (id, _) in ends {
                    self.claims.remove(id);
                    self.refuse(id, reason::NETNS);
                }
            }
        }
    }

    fn observe(&mut self, ends: [Held; 2]) -> io::Result<()> {
        let tap = |(_, c): &Held| {
            let open = || Tap::open(c.role, c.local, c.peer);
            self.namespaces.within(c.netns, open)
        };
        let witness = Witness::new(tap(&ends[0])?, tap(&ends[1])?);
        self.across.last = self.across.last.wrapping_add(1);
        let number = self.across.last;
        for (end, tap) in witness.taps().iter().enumerate() {
            let tag = TAP | u64::from(number) << 1 | end as u64;
            self.epoll
                .add(tap.socket(), EpollEvent::new(EpollFlags::EPOLLIN, tag))?;
        }
        let until = Instant::now() + OBSERVE;
        let observation = Observation {
            ends,
            witness,
            until,
        };
        self.across.running.insert(number, observation);
        Ok(())
    }

    /// Packets of an observed connection have arrived.
    pub(crate) fn observed(&mut self, tag: u64) {
        let (number, end) = ((tag >> 1) as u32, (tag & 1) as usize);
        let Some(running) = self.across.running.get_mut(&number) else {
            return;
        };
        let verdict = running.witness.look(end);
        let ends = running.ends;
        match verdict {
            Verdict::Unknown => return,
            Verdict::OneConnection => {
                self.across.end(number);
                if ends.iter().all(|end| self.waits(end)) {
                    self.meet(ends[0], ends[1]);
                }
            }
            Verdict::Different => {
                self.across.end(number);
                self.not_proved(ends);
            }
        }
        self.observe_next();
    }

    /// Two ends are not known to belong together. Each may still be observed with another.
    fn not_proved(&mut self, ends: [Held; 2]) {
        for (id, claim) in ends {
            let mut others = self.across.running.values().flat_map(|o| &o.ends);
            let mut later = self.across.waiting.iter().flatten();
            let hopes = others.any(|(other, _)| *other == id) || later.any(|(o, _)| *o == id);
            if !hopes && self.waits(&(id, claim)) {
                self.claims.remove(id);
                self.refuse(id, reason::UNPROVEN);
            }
        }
    }

    /// When [`Server::tick`] is due.
    pub(crate) fn next_tick(&self) -> Option<Instant> {
        let observed = self.across.running.values().map(|o| o.until);
        let doubtful = self.across.doubtful.front().map(|d| d.0);
        observed.chain(doubtful).min()
    }

    /// Gives up what has been waited for long enough.
    pub(crate) fn tick(&mut self) {
        let now = Instant::now();
        while let Some((at, held)) = self.across.doubtful.front().copied() {
            if at > now {
                break;
            }
            self.across.doubtful.pop_front();
            let (id, claim) = held;
            // Whoever has its peer among the sockets of this host may wait for ever.
            if self.waits(&held) && !self.namespaces.has_socket(&claim.peer, &claim.local) {
                self.claims.remove(id);
                self.refuse(id, reason::NOT_LOCAL);
            }
        }
        let late = |o: &Observation| o.until <= now;
        let late = self.across.running.iter().filter(|(_, o)| late(o));
        for number in late.map(|(number, _)| *number).collect::<Vec<_>>() {
            if let Some(ends) = self.across.end(number) {
                self.not_proved(ends);
            }
        }
        self.observe_next();
    }

    /// Ends observations whose claims are gone.
    pub(crate) fn forget_unwanted(&mut self) {
        if self.across.running.is_empty() {
            return;
        }
        let all = self.across.running.iter();
        let gone = all.filter(|(_, o)| !o.ends.iter().all(|end| self.waits(end)));
        for number in gone.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.across.end(number);
        }
        self.observe_next();
    }
}
