//! The event loop: one listener, one session per client, nothing that waits.
//!
//! Every handler works on what is already there and answers at once or not at all. A session that
//! breaks the protocol, dies or does not read is marked dead and dropped after the handler; nothing
//! that a client does ends the process.

use crate::across::{Across, TAP};
use crate::answer::{Kept, Past, Runs};
use crate::config::{Config, random_gid};
use crate::device::LoopbackDevice;
use crate::eid::Eids;
use crate::linkgroup::LinkGroups;
use crate::listener::{self, Listening};
use crate::metrics::Metrics;
use crate::netns::Namespaces;
use crate::packet::{Packet, Received, receive_any};
use crate::passed::Passed;
use crate::policy;
use crate::quota::Rate;
use crate::reaper::Reaper;
use crate::rendezvous::Rendezvous;
use crate::ringer::Ringer;
use crate::session::Session;
use crate::table::{Family, FamilyKey};
use crate::userns;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, SockFlag, accept4};
use protocol::ctl::{self, Bell, Claim, DecodeError, Hello, Hold, Message};
use protocol::ctl::{Refused, Release, Reply, Request, Withdraw};
use protocol::reason;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

const LISTENER: u64 = 1 << 32;
const STOP: u64 = LISTENER + 1;
const METRICS: u64 = LISTENER + 2;
/// With the number of a connection to the metrics port.
pub(crate) const ASKER: u64 = 1 << 34;
/// Packets taken from one session, or sessions begun, before the others have their turn.
const BURST: usize = 32;
/// Descriptors that a session costs at most: socket, wait page, mailbox, and the arena of a link
/// group with it.
const FDS_PER_SESSION: u64 = 8;
/// Pause between two attempts to take a caller, when the kernel lacks what that needs.
const DEAF: Duration = Duration::from_millis(20);

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    Listen(#[from] listener::ListenError),
    #[error("bad list of EIDs: {0}")]
    Eids(Errno),
    #[error("the kernel offers no sock_diag look-up: {0}")]
    Diag(io::Error),
    #[error("metrics at {0}: {1}")]
    Metrics(SocketAddr, io::Error),
    #[error("event loop: {0}")]
    Loop(#[from] Errno),
}

#[derive(Debug)]
pub struct Server {
    pub(crate) config: Config,
    pub(crate) device: LoopbackDevice,
    pub(crate) eids: Eids,
    pub(crate) namespaces: Namespaces,
    pub(crate) across: Across,
    pub(crate) groups: LinkGroups,
    pub(crate) claims: Rendezvous,
    pub(crate) rate: Rate,
    pub(crate) passed: Passed,
    pub(crate) reaper: Reaper,
    /// None where the kernel has no asynchronous I/O: sleepers then find an order when they wake.
    ringer: Ringer,
    pub(crate) families: HashMap<FamilyKey, Family>,
    /// Numbers and traces of the families that are gone.
    pub(crate) policy: policy::Source,
    pub(crate) kept: Kept,
    pub(crate) runs: Runs,
    pub(crate) past_traces: Past,
    pub(crate) sessions: HashMap<u32, Session>,
    pub(crate) sessions_of: HashMap<u32, u64>,
    max_sessions: u64,
    /// A uid that may be anybody's: nobody is served under it.
    stands_for_many: Option<u32>,
    last_session: u32,
    /// Sessions to look at once the current message has been dealt with.
    touched: Vec<u32>,
    pub(crate) counts: Counts,
    pub(crate) started: Instant,
    deaf_until: Option<Instant>,
    pub(crate) epoll: Epoll,
    pub(crate) metrics: Option<Metrics>,
    pub(crate) listening: Listening,
}

/// Numbers for `smclo info`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub pairs_made: u64,
    pub claims_refused: u64,
    /// Taken back, because the other end has not claimed the connection.
    pub claims_unanswered: u64,
    pub protocol_errors: u64,
    /// Sessions of programs that have another version of the library.
    pub other_versions: u64,
}

/// Why a session ends early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("{0:?}")]
    Decode(DecodeError),
    #[error("unexpected message or descriptors")]
    Unexpected,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<DecodeError> for Broken {
    fn from(e: DecodeError) -> Self {
        Broken::Decode(e)
    }
}

impl Server {
    /// Listens. `open_files` is the limit of descriptors that sessions must share.
    pub fn bind(config: &Config, open_files: u64) -> Result<Self, ServerError> {
        let listening = listener::listen(config.socket.as_deref())?;
        Server::new(config, open_files, listening)
    }

    /// As [`Server::bind`], with a socket that listens already.
    pub fn new(
        config: &Config,
        open_files: u64,
        listening: Listening,
    ) -> Result<Self, ServerError> {
        let eids = Eids::new(&config.ueid, config.seid).map_err(ServerError::Eids)?;
        let namespaces = Namespaces::open().map_err(ServerError::Diag)?;
        let gid = config.gid.unwrap_or_else(random_gid);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(
            &listening.socket,
            EpollEvent::new(EpollFlags::EPOLLIN, LISTENER),
        )?;
        let metrics = match config.metrics {
            Some(at) => Some(Metrics::bind(at).map_err(|e| ServerError::Metrics(at, e))?),
            None => None,
        };
        if let Some(metrics) = &metrics {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, METRICS);
            epoll.add(&metrics.listener, event)?;
        }
        Ok(Server {
            config: config.clone(),
            device: LoopbackDevice::new(gid, config.max_dmbs, config.max_bytes_per_uid)
                .with_max_dmbs_per_uid(config.max_dmbs_per_uid),
            rate: Rate::new(config.max_claims_per_second),
            reaper: Reaper::default(),
            ringer: Ringer::default(),
            eids,
            namespaces,
            across: Across::default(),
            groups: LinkGroups::new(config.arena, (open_files / 4).max(8) as usize),
            claims: Rendezvous::default(),
            passed: Passed::default(),
            families: HashMap::new(),
            policy: policy::Source::new(&config.config),
            kept: Kept::default(),
            runs: Runs::default(),
            past_traces: Past::default(),
            sessions: HashMap::new(),
            sessions_of: HashMap::new(),
            max_sessions: (open_files / FDS_PER_SESSION).max(8),
            stands_for_many: userns::stands_for_many(),
            last_session: 0,
            touched: Vec::new(),
            counts: Counts::default(),
            started: Instant::now(),
            deaf_until: None,
            epoll,
            metrics,
            listening,
        })
    }

    pub fn socket_path(&self) -> &Path {
        &self.listening.path
    }

    pub fn gid(&self) -> protocol::ids::Gid {
        self.device.get_local_gid()
    }

    /// Ends [`Server::run`] when `stop` becomes readable. From here on nothing of the start can fail any more.
    pub fn stop_at(&mut self, stop: BorrowedFd<'_>) -> Result<(), ServerError> {
        self.epoll
            .add(stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        Ok(())
    }

    /// Serves.
    pub fn run(&mut self) -> Result<(), ServerError> {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            self.reaper.start();
            let n = match self.epoll.wait(&mut events, self.timeout()) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            for event in &events[..n] {
                match event.data() {
                    STOP => return Ok(()),
                    LISTENER => self.accept_some(),
                    METRICS => self.accept_asker(),
                    id if id & ASKER != 0 => self.serve_asker(id as u32),
                    tag if tag & TAP != 0 => self.observed(tag),
                    id => self.serve(id as u32, event.events()),
                }
                self.settle();
            }
            if self.deaf_until.is_some_and(|at| at <= Instant::now()) {
                self.listen(true);
            }
            if self.next_tick().is_some_and(|at| at <= Instant::now()) {
                self.tick();
                self.settle();
            }
        }
    }

    /// Until something is due that no event announces.
    fn timeout(&self) -> EpollTimeout {
        let Some(at) = self.next_tick().into_iter().chain(self.deaf_until).min() else {
            return EpollTimeout::NONE;
        };
        let left = at.saturating_duration_since(Instant::now());
        // Rounded up, or the loop would turn round and round in the last millisecond.
        EpollTimeout::try_from(left.as_millis() as u64 + 1).unwrap_or(EpollTimeout::MAX)
    }

    /// Whether those who want something wake the event loop; not for a while, when the kernel lacks
    /// what it needs to take one.
    pub(crate) fn listen(&mut self, on: bool) {
        let flags = match on {
            true => EpollFlags::EPOLLIN,
            false => EpollFlags::empty(),
        };
        self.deaf_until = (!on).then(|| Instant::now() + DEAF);
        let mut event = EpollEvent::new(flags, LISTENER);
        let _ = self.epoll.modify(&self.listening.socket, &mut event);
        if let Some(metrics) = &self.metrics {
            let mut event = EpollEvent::new(flags, METRICS);
            let _ = self.epoll.modify(&metrics.listener, &mut event);
        }
    }

    /// Begins sessions with those who wait for one.
    fn accept_some(&mut self) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        for _ in 0..BURST {
            match accept4(self.listening.socket.as_raw_fd(), flags) {
                // SAFETY: accept4 has just made this descriptor; nobody else knows it.
                Ok(raw) => self.admit(unsafe { OwnedFd::from_raw_fd(raw) }),
                Err(Errno::EAGAIN) => return,
                // Out of descriptors: the caller stays in the backlog, so give one up to turn it away.
                Err(_) => {
                    if !self.listening.turn_one_away() {
                        self.listen(false);
                    }
                    return;
                }
            }
        }
    }

    fn admit(&mut self, socket: OwnedFd) {
        let Ok(session) = Session::new(socket) else {
            return;
        };
        if self.stands_for_many == Some(session.uid) {
            return self.reaper.hang_up(session.uid, session.socket);
        }
        // One user can take half of what there is; the rest is for the others.
        let mine = self.sessions_of.get(&session.uid).copied().unwrap_or(0);
        let mine = mine + self.reaper.owed(session.uid) / FDS_PER_SESSION;
        let all = self.sessions.len() as u64;
        if all >= self.max_sessions || (session.uid != 0 && mine >= self.max_sessions / 2) {
            return self.reaper.hang_up(session.uid, session.socket);
        }
        let id = loop {
            self.last_session = self.last_session.wrapping_add(1);
            if self.last_session != 0 && !self.sessions.contains_key(&self.last_session) {
                break self.last_session;
            }
        };
        let event = EpollEvent::new(EpollFlags::EPOLLIN, id.into());
        if self.epoll.add(&session.socket, event).is_ok() {
            *self.sessions_of.entry(session.uid).or_default() += 1;
            self.sessions.insert(id, session);
        }
    }

    fn serve(&mut self, id: u32, events: EpollFlags) {
        self.touched.push(id);
        if events.contains(EpollFlags::EPOLLOUT)
            && let Some(session) = self.sessions.get_mut(&id)
        {
            session.flush();
        }
        if !events.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            return;
        }
        for _ in 0..BURST {
            let Some(session) = self.sessions.get_mut(&id).filter(|s| !s.dead) else {
                return;
            };
            let done = match receive_any(session.socket.as_fd(), MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN) => return,
                Ok(None) | Err(_) => {
                    session.dead = true;
                    return;
                }
                Ok(Some(packet)) => self.handle(id, packet),
            };
            if let Err(why) = done {
                self.end(id, &why);
            }
        }
    }

    /// Ends the session of a client that is not understood.
    fn end(&mut self, id: u32, why: &Broken) {
        let other_version = matches!(why, Broken::Decode(DecodeError::Version(_)));
        if other_version {
            self.counts.other_versions += 1;
        } else {
            self.counts.protocol_errors += 1;
        }
        if let Some(session) = self.sessions.get_mut(&id) {
            if other_version {
                // The header of whatever comes from here tells the library why it stays on TCP.
                let reason = reason::DAEMON_VERSION;
                session.send(Packet::new(&Refused { claim: 0, reason }, vec![]));
            }
            session.dead = true;
        }
    }

    fn handle(&mut self, id: u32, mut packet: Received) -> Result<(), Broken> {
        let done = self.obey(id, &mut packet);
        let uid = self.sessions.get(&id).map_or(0, |s| s.uid);
        self.reaper.close(uid, packet.fds);
        done
    }

    /// Does what a packet says, and leaves the descriptors that it has no use for.
    fn obey(&mut self, id: u32, packet: &mut Received) -> Result<(), Broken> {
        if !packet.whole {
            return Err(Broken::Unexpected);
        }
        let kind = ctl::header(packet.bytes())?.kind;
        let known = self.sessions.get(&id).is_some_and(|s| s.client.is_some());
        if kind == Hello::KIND && !known {
            return self.hello(id, Hello::decode(packet.bytes())?, &mut packet.fds);
        }
        if kind == Bell::KIND && known {
            return self.bell(id, Bell::decode(packet.bytes())?, &mut packet.fds);
        }
        if !packet.fds.is_empty() {
            return Err(Broken::Unexpected);
        }
        let raw = packet.bytes();
        match kind {
            Claim::KIND if known => self.claim(id, Claim::decode(raw)?),
            Withdraw::KIND if known => self.withdraw(id, Withdraw::decode(raw)?),
            ctl::Passed::KIND if known => {
                let ctl::Passed { cookie, free } = ctl::Passed::decode(raw)?;
                if let Some(uid) = self.sessions.get(&id).map(|s| s.uid) {
                    self.passed.note(uid, cookie, free != 0);
                }
            }
            Release::KIND if known => {
                let pair = Release::decode(raw)?.pair;
                self.groups.release(&mut self.device, id, pair);
            }
            // An answer costs a descriptor, so who does not read them gets no more.
            Request::KIND | Hold::KIND
                if self.sessions.get(&id).is_some_and(Session::is_behind) =>
            {
                return Err(Broken::Unexpected);
            }
            Hold::KIND => {
                let hold = Hold::decode(raw)?;
                self.hold(id, hold);
            }
            Request::KIND => {
                let request = Request::decode(raw)?;
                self.answer(id, &request);
            }
            _ => return Err(Broken::Unexpected),
        }
        Ok(())
    }

    /// Both ends see the order in memory at their next call; those that sleep are woken for it.
    fn hold(&mut self, id: u32, hold: Hold) {
        let Some(uid) = self.sessions.get(&id).map(|s| s.uid) else {
            return;
        };
        let ends = self.groups.hold(uid, hold.token, hold.milliseconds);
        for end in ends.iter().flatten() {
            let client = self.sessions.get(end).and_then(|s| s.client.as_ref());
            if let Some(client) = client {
                client.ring(&mut self.ringer);
            }
        }
        let error = ends.map_or(Errno::ENOENT as u32, |_| 0);
        self.send(id, Packet::new(&Reply { error, len: 0 }, vec![]));
    }

    pub(crate) fn send(&mut self, id: u32, packet: Packet) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.send(packet);
            self.touched.push(id);
        }
    }

    /// Drops dead sessions, which may touch others, and watches for room where messages wait.
    fn settle(&mut self) {
        self.forget_unwanted();
        while let Some(id) = self.touched.pop() {
            let Some(session) = self.sessions.get_mut(&id) else {
                continue;
            };
            if session.dead {
                self.drop_session(id);
            } else if session.wants_room() != session.watches_room {
                session.watches_room = session.wants_room();
                let mut flags = EpollFlags::EPOLLIN;
                flags.set(EpollFlags::EPOLLOUT, session.watches_room);
                let mut event = EpollEvent::new(flags, id.into());
                if self.epoll.modify(&session.socket, &mut event).is_err() {
                    self.drop_session(id);
                }
            }
        }
    }
}
