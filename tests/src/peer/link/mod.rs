//! One connection of the peer: its handshake, with a fault at a chosen stage; `rings` has its rings.

mod rings;

use super::memory::Pair;
use super::session::Session;
use protocol::clc::negotiate::{self, Identity, Offer};
use protocol::clc::{self, AcceptConfirm, Decline, Message, Proposal};
use protocol::ctl::{DmbPlace, Welcome};
use protocol::ids::{DmbToken, LOOPBACK_CHID, Role};
use protocol::reason;
use protocol::shm::dmb_code;
use protocol::shm::pair::GateState;
use protocol::shm::ring::{Consumer, Producer, ring_size};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::{Duration, Instant};

/// Longest wait for anything that must come.
const PATIENCE: Duration = Duration::from_secs(10);

/// The messages of a handshake, in order. The client sends the first and the third.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Proposal,
    Accept,
    Confirm,
    ConfirmAck,
}

impl Stage {
    pub const OF_CLIENT: [Stage; 2] = [Stage::Proposal, Stage::Confirm];
    pub const OF_SERVER: [Stage; 2] = [Stage::Accept, Stage::ConfirmAck];
}

/// What happens in place of a message.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing: the message is sent as it is.
    None,
    /// A Decline instead.
    Refuse,
    /// The message, this much later, while the right to send it is held.
    Delay(Duration),
    /// Only so many bytes of it, then the end of the stream.
    Cut(usize),
    /// Another value in one byte.
    Corrupt(usize, u8),
    /// Bytes that are no CLC message at all.
    Garbage(Vec<u8>),
    /// The same of a server: what comes next is sent back.
    Echo,
    /// Another message of the protocol, out of order.
    Unexpected,
    /// The right to send is taken and given back without a message.
    Withhold,
    /// The connection is closed with the right to send in hand.
    Vanish,
    /// An Accept or Confirm that names something else.
    Forge(fn(&mut AcceptConfirm)),
}

/// How a handshake ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    Established,
    /// The program's library declined.
    Declined(u32),
    /// This peer has ended it as the fault says.
    Faulty,
    /// End of the stream, or its reset.
    Closed,
}

#[derive(Debug)]
pub struct Link {
    pub tcp: TcpStream,
    pub pair: Pair,
    welcome: Welcome,
    sent: u64,
    taken: u64,
    accept: Option<AcceptConfirm>,
    confirm: Option<AcceptConfirm>,
    producer: Producer,
    consumer: Consumer,
    tx_ring: bool,
    rx_ring: bool,
    /// The bytes of the last message that were put onto the stream.
    last: Vec<u8>,
}

/// Traffic that lets the program's library get on.
pub trait Traffic {
    /// Some exchange over TCP. False: the stream has ended.
    fn turn(&mut self, link: &mut Link) -> bool;
}

/// Sends a little and reads the echo of it.
#[derive(Debug, Default)]
pub struct Ping(u8);

impl Traffic for Ping {
    fn turn(&mut self, link: &mut Link) -> bool {
        self.0 = self.0.wrapping_add(1);
        let out = [self.0; 64];
        let mut back = [0; 64];
        link.send_tcp(&out).is_ok() && link.recv_tcp(&mut back).is_ok() && {
            assert_eq!(out, back, "the echo differs");
            true
        }
    }
}

/// Sends back what comes.
#[derive(Debug, Default)]
pub struct Echo {
    pub bytes: usize,
}

impl Traffic for Echo {
    fn turn(&mut self, link: &mut Link) -> bool {
        let mut block = [0; 1 << 16];
        match link.take_tcp(&mut block) {
            Some(0) => false,
            Some(n) => {
                self.bytes += n;
                link.send_tcp(&block[..n]).is_ok()
            }
            None => {
                std::thread::sleep(Duration::from_micros(100));
                true
            }
        }
    }
}

impl Link {
    /// Claims this end of a connection with a program under the shim and waits for the pair, with
    /// exchanges over TCP meanwhile. `Err`: the reason that the daemon gave.
    pub fn open(
        session: &mut Session,
        mut tcp: TcpStream,
        role: Role,
    ) -> Result<Link, (u32, TcpStream)> {
        tcp.set_nodelay(true).expect("a socket");
        tcp.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let claim = session.claim(&tcp, role);
        let (mut sent, mut taken) = (0, 0);
        let end = Instant::now() + PATIENCE;
        let pair = loop {
            // A program whose words are few must not be through before a busy daemon has seen both claims.
            if taken > 4096 {
                session.wait(Duration::from_millis(5));
            }
            match session.answer(claim) {
                Some(Ok(pair)) => break pair,
                Some(Err(reason)) => return Err((reason, tcp)),
                None => assert!(Instant::now() < end, "no pair"),
            }
            let mut block = [7; 64];
            let n = match role {
                Role::Client => {
                    tcp.write_all(&block).expect("a program that listens");
                    tcp.read_exact(&mut block).expect("an echo");
                    block.len()
                }
                Role::Server => {
                    let n = tcp.read(&mut block).expect("something to echo");
                    tcp.write_all(&block[..n]).expect("a program that reads");
                    n
                }
            } as u64;
            sent += n;
            taken += n;
        };
        let ring = |dmb: &DmbPlace| ring_size(dmb.len);
        let link = Link {
            tcp,
            welcome: session.welcome,
            sent,
            taken,
            accept: None,
            confirm: None,
            producer: Producer {
                size: ring(&pair.paired.peer),
                ..Default::default()
            },
            consumer: Consumer {
                size: ring(&pair.paired.own),
                ..Default::default()
            },
            tx_ring: false,
            rx_ring: false,
            last: Vec::new(),
            pair,
        };
        link.publish_taken();
        assert!(link.gate_in().open(), "a new gate is shut");
        Ok(link)
    }

    pub fn role(&self) -> Role {
        self.pair.role()
    }

    /// The gate of what we receive.
    pub fn gate_in(&self) -> &protocol::shm::pair::Gate {
        self.pair.slot().gate(self.role().peer())
    }

    /// The gate of what we send.
    pub fn gate_out(&self) -> &protocol::shm::pair::Gate {
        self.pair.slot().gate(self.role())
    }

    fn publish_taken(&self) {
        let counts = self.pair.slot().counts(self.role());
        counts.consumed.store(self.taken, Release);
    }

    pub fn send_tcp(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.tcp.write_all(bytes)?;
        self.sent += bytes.len() as u64;
        Ok(())
    }

    pub fn recv_tcp(&mut self, bytes: &mut [u8]) -> std::io::Result<()> {
        self.tcp.read_exact(bytes)?;
        self.taken += bytes.len() as u64;
        self.publish_taken();
        Ok(())
    }

    /// Bytes of the program that are there now; `None` when there are none, or a message is due.
    fn take_tcp(&mut self, block: &mut [u8]) -> Option<usize> {
        let open = self.gate_in().state() == GateState::Open;
        if open && !self.gate_in().shut() || self.gate_in().state() != GateState::Shut {
            return None;
        }
        self.tcp.set_nonblocking(true).expect("a socket");
        let got = self.tcp.read(block);
        self.tcp.set_nonblocking(false).expect("a socket");
        if let Ok(n) = got {
            self.taken += n as u64;
            self.publish_taken();
        }
        if open {
            self.gate_in().open();
        }
        match got {
            Ok(n) => Some(n),
            Err(e) if e.kind() == ErrorKind::WouldBlock => None,
            Err(_) => Some(0),
        }
    }

    fn identity<T>(&self, f: impl FnOnce(&Identity<'_>) -> T) -> T {
        let w = &self.welcome;
        f(&Identity {
            gid: w.gid,
            chid: LOOPBACK_CHID,
            seid_on: w.seid_on != 0,
            seid: w.seid,
            ueids: &w.ueids[..usize::from(w.ueid_count)],
            release: clc::RELEASE,
            hostname: negotiate::hostname(b"peer"),
        })
    }

    fn offer(&self, dmb: &DmbPlace) -> Offer {
        Offer {
            token: DmbToken(dmb.token),
            index: dmb.index as u8,
            size_code: dmb_code(dmb.len),
            link_id: self.pair.paired.lgr,
            first_contact: true,
        }
    }

    /// The message of a stage of ours, as it has to be.
    fn message(&self, stage: Stage, proposal: Option<&Proposal>) -> Message {
        let own = self.offer(&self.pair.paired.own);
        match stage {
            Stage::Proposal => Message::Proposal(self.identity(negotiate::make_proposal)),
            Stage::Accept => {
                let proposal = proposal.expect("a Proposal");
                let accept = self.identity(|id| negotiate::answer_proposal(proposal, id, own));
                Message::Accept(accept.expect("a Proposal that can be accepted"))
            }
            Stage::Confirm => {
                let accept = self.accept.as_ref().expect("an Accept");
                let confirm = self.identity(|id| {
                    let proposal = negotiate::make_proposal(id);
                    let server = self.offer(&self.pair.paired.peer);
                    let agreed = negotiate::check_accept(accept, &proposal, id, &server, false);
                    negotiate::answer_accept(&agreed.expect("a good Accept"), id, own)
                });
                Message::Confirm(confirm)
            }
            Stage::ConfirmAck => {
                let token = self.confirm.as_ref().expect("a Confirm").token;
                Message::ConfirmAck(clc::ConfirmAck { token })
            }
        }
    }

    /// Whether the other end has read everything and lets us put a message onto the stream.
    fn may_send(&self) -> bool {
        let counts = self.pair.slot().counts(self.role().peer());
        counts.consumed.load(Acquire) == self.sent && self.gate_out().state() == GateState::Open
    }

    /// Takes a message off the stream, which the other end has announced.
    fn take_message(&mut self) -> Option<Message> {
        let mut packet = vec![0; clc::HEADER_LEN];
        self.tcp.read_exact(&mut packet).ok()?;
        let head = packet[..].try_into().expect("a header");
        let len = clc::message_len(head).expect("the library sends CLC messages");
        packet.resize(len, 0);
        self.tcp.read_exact(&mut packet[clc::HEADER_LEN..]).ok()?;
        self.gate_in().message_taken(true);
        Some(clc::decode(&packet).expect("the library sends whole messages"))
    }

    /// The handshake, with `fault` in place of this peer's message of `stage`.
    pub fn handshake(&mut self, traffic: &mut impl Traffic, stage: Stage, fault: &Fault) -> Ended {
        self.handshake_with(traffic, stage, fault, |_| {})
    }

    /// Client: the handshake with a message that was changed. Where that is no message any more, its
    /// bytes are the program's, which sends them back; where it claims to be longer than it is, more
    /// bytes follow.
    pub fn corrupted(&mut self, stage: Stage, fault: &Fault) -> Ended {
        let ended = self.changed(&mut Ping::default(), stage, fault);
        if ended == Ended::Faulty {
            let sent = std::mem::take(&mut self.last);
            let mut back = vec![0; sent.len()];
            self.sent += sent.len() as u64;
            match self.recv_tcp(&mut back) {
                Ok(()) => assert_eq!(sent, back, "what is no message is the program's"),
                Err(_) => return Ended::Closed,
            }
        }
        ended
    }

    /// The handshake with a message that was changed, and more bytes where it claims to be longer than it is.
    pub fn changed(&mut self, traffic: &mut impl Traffic, stage: Stage, fault: &Fault) -> Ended {
        let mut waited = 0;
        let longer = matches!(fault, Fault::Corrupt(5 | 6, _));
        self.handshake_with(traffic, stage, fault, |link| {
            waited += u32::from(!link.last.is_empty());
            // What has its length must be answered without more traffic.
            assert!(
                longer || link.role() == Role::Server || waited < 50_000,
                "no answer: {:?}",
                link.pair.slot()
            );
            if waited == 1000 && longer {
                let _ = link.tcp.write_all(&[0; clc::MAX_LEN]);
            }
        })
    }

    fn handshake_with(
        &mut self,
        traffic: &mut impl Traffic,
        stage: Stage,
        fault: &Fault,
        mut waiting: impl FnMut(&mut Link),
    ) -> Ended {
        let mut due = (self.role() == Role::Client).then_some(Stage::Proposal);
        let mut proposal = None;
        let end = Instant::now() + PATIENCE;
        loop {
            assert!(
                Instant::now() < end,
                "handshake: {due:?} not in time, {fault:?}"
            );
            if self.gate_in().state() == GateState::Busy {
                match self.take_message() {
                    None => return Ended::Closed,
                    Some(Message::Decline(d)) => return self.over(Ended::Declined(d.reason)),
                    Some(Message::Proposal(p)) => {
                        proposal = Some(p);
                        due = Some(Stage::Accept);
                    }
                    Some(Message::Accept(a)) => {
                        self.accept = Some(a);
                        due = Some(Stage::Confirm);
                    }
                    Some(Message::Confirm(c)) => {
                        self.confirm = Some(c);
                        due = Some(Stage::ConfirmAck);
                    }
                    Some(Message::ConfirmAck(_)) => return Ended::Established,
                }
            }
            let Some(now) = due.filter(|_| self.may_send()) else {
                // A client that waits for an answer needs no traffic: the answer wakes it.
                if due.is_none() && self.role() == Role::Client {
                    if self.answered_by_program() {
                        return self.over(Ended::Faulty);
                    }
                    if self.ended() {
                        return Ended::Closed;
                    }
                    waiting(self);
                    std::thread::sleep(Duration::from_micros(100));
                } else if due.is_none() && self.confirm.is_some() && self.receives_by_ring() {
                    // Whatever was wrong with our answer, it has been taken for one.
                    return Ended::Established;
                } else {
                    waiting(self);
                    if !traffic.turn(self) {
                        return Ended::Closed;
                    }
                }
                continue;
            };
            if !self.gate_out().hold_for_message() {
                continue;
            }
            let message = self.message(now, proposal.as_ref());
            let fault = if now == stage { fault } else { &Fault::None };
            due = None;
            if let Some(ended) = self.put(message, fault) {
                return ended;
            }
            if now == Stage::ConfirmAck && matches!(fault, Fault::None | Fault::Delay(_)) {
                return Ended::Established;
            }
        }
    }

    /// Whether the program itself has sent something: its library took our message for the program's.
    /// The gate alone does not tell, it is shut for a moment after each message.
    fn answered_by_program(&self) -> bool {
        self.gate_out().state() == GateState::Shut
            && self.look().is_ok_and(|n| n > 0)
            && self.gate_in().state() != GateState::Busy
    }

    /// Puts a message onto the stream, or what the fault says. `Some`: the handshake is over.
    fn put(&mut self, message: Message, fault: &Fault) -> Option<Ended> {
        let mut packet = [0; clc::MAX_LEN];
        let len = message.encode(&mut packet);
        let mut bytes = packet[..len].to_vec();
        let encoded = |message: Message| {
            let mut packet = [0; clc::MAX_LEN];
            let len = message.encode(&mut packet);
            packet[..len].to_vec()
        };
        match fault {
            Fault::None => {}
            Fault::Refuse => {
                let decline = Decline::new(clc::VERSION_2, reason::CNFERR);
                bytes = encoded(Message::Decline(decline));
                self.tcp.write_all(&bytes).ok();
                return Some(self.over(Ended::Faulty));
            }
            Fault::Delay(time) => std::thread::sleep(*time),
            Fault::Cut(n) => {
                bytes.truncate(*n);
                self.tcp.write_all(&bytes).ok();
                self.tcp.shutdown(Shutdown::Write).ok();
                return Some(Ended::Closed);
            }
            Fault::Corrupt(at, value) => {
                if let Some(byte) = bytes.get_mut(*at) {
                    *byte = *value;
                }
            }
            Fault::Garbage(garbage) => {
                // The program's, as far as its library can tell.
                self.send_tcp(garbage).ok();
                return Some(self.over(Ended::Faulty));
            }
            Fault::Echo => {
                let mut echo = Echo::default();
                while echo.bytes == 0 {
                    if !echo.turn(self) {
                        return Some(Ended::Closed);
                    }
                }
                return Some(self.over(Ended::Faulty));
            }
            Fault::Unexpected => {
                let token = DmbToken(1);
                bytes = encoded(match message {
                    Message::ConfirmAck(_) => {
                        Message::Proposal(self.identity(negotiate::make_proposal))
                    }
                    _ => Message::ConfirmAck(clc::ConfirmAck { token }),
                });
            }
            Fault::Withhold => {
                self.gate_out().message_not_sent();
                return Some(self.over(Ended::Faulty));
            }
            Fault::Vanish => {
                self.tcp.shutdown(Shutdown::Both).ok();
                return Some(Ended::Closed);
            }
            Fault::Forge(change) => {
                bytes = encoded(match message {
                    Message::Accept(mut m) => {
                        change(&mut m);
                        Message::Accept(m)
                    }
                    Message::Confirm(mut m) => {
                        change(&mut m);
                        Message::Confirm(m)
                    }
                    other => other,
                });
            }
        }
        self.tcp.write_all(&bytes).ok();
        self.last = bytes;
        None
    }

    /// The last message that was sent, as it was sent.
    pub fn last_sent(&self) -> &[u8] {
        &self.last
    }

    /// How many bytes can be read: 0 is the end of the stream.
    fn look(&self) -> std::io::Result<usize> {
        let mut byte = [0];
        self.tcp.set_nonblocking(true).expect("a socket");
        let look = self.tcp.peek(&mut byte);
        self.tcp.set_nonblocking(false).expect("a socket");
        look
    }

    /// Whether the stream has ended, with nothing left to be read.
    fn ended(&self) -> bool {
        match self.look() {
            Ok(n) => n == 0,
            Err(e) => e.kind() != ErrorKind::WouldBlock,
        }
    }

    /// Some traffic, now that there is no handshake any more. False: the stream has ended.
    pub fn turn(&mut self, traffic: &mut impl Traffic) -> bool {
        traffic.turn(self)
    }

    /// No more messages: shuts the own gate; a message that is on its way is taken first.
    fn over(&mut self, ended: Ended) -> Ended {
        let end = Instant::now() + PATIENCE;
        while !self.gate_in().shut() {
            assert!(Instant::now() < end, "a gate is held for ever");
            if self.gate_in().state() == GateState::Busy && self.take_message().is_none() {
                return Ended::Closed;
            }
        }
        ended
    }
}
