//! Makes programs: mostly legal, sometimes not, and without what the kernel leaves to chance.

mod life;

use super::{Program, Step};
use crate::stream::Stream;

const SLOTS: usize = 16;
const ACTORS: usize = 6;
/// Bytes that may lie unread in a direction: so few that all of them have arrived on TCP.
const UNREAD: i64 = 24_000;
/// Bytes that a ring takes beside them.
const RING: i64 = 60_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Empty,
    Listener,
    /// An end of a connection: connection and side.
    End(usize, usize),
    Set,
}

/// What is known of a connection's end.
#[derive(Clone, Debug, Default)]
struct End {
    /// Bytes sent to it that may be unread.
    unread: i64,
    /// An actor may sleep on it: in a receive, or in a wait for readiness.
    receiver: bool,
    waiter: bool,
    /// Bytes that the receive takes before it ends.
    wants: i64,
    /// Bytes do not end the wait.
    stubborn: bool,
    /// It may have been shut down for reading.
    deaf: bool,
    /// Somebody is told of room for more: an edge-triggered registration, or a receive of no bytes that sleeps.
    heeds_room: bool,
}

struct Model {
    random: Stream,
    /// Slots of each process.
    tables: Vec<[Kind; SLOTS]>,
    /// Process of each actor that has been started.
    actors: [Option<usize>; ACTORS],
    ends: Vec<[End; 2]>,
    /// Ends that were entered in some set, and whether bytes end each wait there.
    in_sets: Vec<(usize, usize, bool)>,
    /// Sets, by process and slot, that a process shares with its child: what one of them enters from
    /// then on, the other does not hear of (docs/limits.md).
    inherited: Vec<(usize, i64)>,
    /// The ends for which an actor may be asleep.
    rests: [Vec<(usize, usize)>; ACTORS],
    tag: i64,
    urgent: bool,
    /// A registration is edge-triggered or one-shot. When such a connection goes back to TCP, the program may
    /// hear once more of what it knows: nothing that makes it go back follows.
    edges: bool,
    steps: Vec<Step>,
}

/// The program of a seed.
pub fn generate(seed: u64) -> Program {
    let mut random = Stream::new(seed);
    let processes = 1 + usize::from(random.below(3) == 0);
    let pairs = 1 + usize::from(random.below(3) == 0);
    let threads = [0, 1, 2, 2][random.below(4) as usize];
    let mut table = [[Kind::Empty; SLOTS]; 2];
    table[0][0] = Kind::Listener;
    for pair in 0..pairs {
        let client_at = processes - 1;
        table[client_at][1 + 2 * pair] = Kind::End(pair, 0);
        table[0][2 + 2 * pair] = Kind::End(pair, 1);
    }
    let mut actors = [None; ACTORS];
    actors[0] = Some(0);
    if processes == 2 {
        actors[1] = Some(1);
    } else if threads > 0 {
        actors[1] = Some(0);
    }
    if threads > 1 {
        actors[2] = Some(0);
    }
    let warm = random.below(4) != 0;
    let length = 6 + random.below(18);
    let mut model = Model {
        random,
        tables: table[..processes].to_vec(),
        actors,
        ends: vec![Default::default(); pairs],
        in_sets: Vec::new(),
        inherited: Vec::new(),
        rests: Default::default(),
        tag: 0,
        urgent: false,
        edges: false,
        steps: Vec::new(),
    };
    for _ in 0..length {
        model.step();
    }
    model.look_at_all();
    Program {
        name: format!("seed-{seed}"),
        processes,
        pairs,
        warm,
        threads,
        steps: model.steps,
    }
}

const DONTWAIT: i64 = libc::MSG_DONTWAIT as i64;
const NOSIGNAL: i64 = libc::MSG_NOSIGNAL as i64;
const PEEK: i64 = libc::MSG_PEEK as i64;
const WAITALL: i64 = libc::MSG_WAITALL as i64;
const TRUNC: i64 = libc::MSG_TRUNC as i64;
const OOB: i64 = libc::MSG_OOB as i64;
/// Bits of poll that come with bytes, and with room for some.
const INPUT: i64 = (libc::POLLIN | libc::POLLRDNORM) as i64;
const OUTPUT: i64 = (libc::POLLOUT | libc::POLLWRNORM) as i64;
/// The time limit of receives among the options of the executor.
const RCVTIMEO: i64 = 15;

impl Model {
    fn below(&mut self, n: usize) -> usize {
        self.random.below(n.max(1) as u64) as usize
    }

    fn pick(&mut self, from: &[i64]) -> i64 {
        from[self.below(from.len())]
    }

    /// True once in `n`.
    fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn push(&mut self, actor: usize, op: &str, args: &[i64]) {
        self.steps.push(Step {
            actor,
            op: op.to_string(),
            args: args.to_vec(),
        });
    }

    fn actor(&mut self) -> usize {
        loop {
            let actor = self.below(ACTORS);
            if self.actors[actor].is_some() {
                return actor;
            }
        }
    }

    fn process(&self, actor: usize) -> usize {
        self.actors[actor].unwrap_or(0)
    }

    /// A slot of the wanted sort; now and then any.
    fn slot(&mut self, actor: usize, wanted: impl Fn(Kind) -> bool) -> i64 {
        let table = self.tables[self.process(actor)];
        let fit: Vec<usize> = (0..SLOTS).filter(|slot| wanted(table[*slot])).collect();
        if fit.is_empty() || self.once_in(25) {
            return self.below(8) as i64;
        }
        fit[self.below(fit.len())] as i64
    }

    fn socket(&mut self, actor: usize) -> i64 {
        self.slot(actor, |kind| matches!(kind, Kind::End(..)))
    }

    fn set(&mut self, actor: usize) -> i64 {
        self.slot(actor, |kind| kind == Kind::Set)
    }

    fn free(&mut self, actor: usize) -> Option<i64> {
        let table = self.tables[self.process(actor)];
        (5..SLOTS)
            .find(|slot| table[*slot] == Kind::Empty)
            .map(|slot| slot as i64)
    }

    fn kind(&self, actor: usize, slot: i64) -> Kind {
        let table = self.tables[self.process(actor)];
        table.get(slot as usize).copied().unwrap_or(Kind::Empty)
    }

    fn put(&mut self, actor: usize, slot: i64, kind: Kind) {
        let process = self.process(actor);
        // What one who may sleep is to make may never be there.
        let kind = if self.rests(actor) { Kind::Empty } else { kind };
        self.inherited.retain(|place| *place != (process, slot));
        self.tables[process][slot as usize] = kind;
    }

    fn size(&mut self) -> i64 {
        match self.below(10) {
            0 => 0,
            1 | 2 => 1,
            3..=6 => 2 + self.below(200) as i64,
            7 | 8 => 200 + self.below(3000) as i64,
            _ => 3000 + self.below(12_000) as i64,
        }
    }

    fn step(&mut self) {
        let actor = self.actor();
        match self.below(100) {
            0..=23 => self.send(actor),
            24..=43 => self.receive(actor),
            44..=49 => self.poll(actor),
            50..=53 => self.make_set(actor),
            54..=60 => self.register(actor),
            61..=68 => self.wait(actor),
            69..=72 => self.shutdown(actor),
            73..=75 => self.close(actor),
            76..=78 => self.duplicate(actor),
            79..=82 => self.flags(actor),
            83..=86 => self.options(actor),
            87 | 88 => self.ask(actor),
            89 | 90 => self.connect(actor),
            91 | 92 => self.fork(actor),
            // A bad address takes a receive past a mark of urgent data, on TCP.
            93 if !self.urgent => self.bad(actor),
            93 | 94 => self.signal(actor),
            95 => self.pass(actor),
            96 => self.spawn_or_exit(actor),
            97 => self.bulk(),
            _ => self.drain(actor),
        }
    }

    /// Other end of what a slot holds.
    fn peer(&self, actor: usize, slot: i64) -> Option<(usize, usize)> {
        match self.kind(actor, slot) {
            Kind::End(conn, side) => Some((conn, 1 - side)),
            _ => None,
        }
    }

    fn send(&mut self, actor: usize) {
        let slot = self.socket(actor);
        let mut bytes = self.size();
        let asleep = self.rests(actor);
        let way = self.below(12);
        let urgent = way == 2 && bytes < 3000 && !self.urgent && !self.edges;
        let mut wakes = false;
        if let Some((conn, side)) = self.peer(actor, slot) {
            let end = &mut self.ends[conn][side];
            wakes = end.receiver;
            // Some ways of sending need a byte.
            if end.unread + bytes.max(1) > UNREAD {
                return;
            }
            end.unread += bytes.max(1);
            // Whether an urgent byte ends a wait depends on the wait.
            if bytes > 0 && !asleep && !urgent {
                end.wants -= bytes;
                end.receiver &= end.wants > 0;
                end.waiter &= end.stubborn;
            }
        } else {
            bytes = bytes.min(2000);
        }
        match way {
            0 => self.push(
                actor,
                "sendfile",
                &[slot, bytes, self.steps.len() as i64 % 2 - 1, 0],
            ),
            1 => self.push(actor, "splice", &[slot, bytes.max(1), 1, 0]),
            _ if urgent => {
                self.urgent = true;
                self.push(actor, "send", &[slot, bytes.max(1), OOB | NOSIGNAL, 0]);
            }
            _ => {
                let flags = self.pick(&[0, 0, DONTWAIT, NOSIGNAL, DONTWAIT | NOSIGNAL]);
                // Of two messages a receiver that the first one wakes may find one or both.
                let how = match self.below(8) as i64 {
                    5 if wakes => 3,
                    how => how,
                };
                self.push(actor, "send", &[slot, bytes, flags, how]);
            }
        }
    }

    fn receive(&mut self, actor: usize) {
        let slot = self.socket(actor);
        let bytes = self.size();
        let may_sleep = match self.kind(actor, slot) {
            Kind::End(conn, side) => {
                let end = &self.ends[conn][side];
                !end.receiver && !end.waiter
            }
            _ => true,
        };
        let sleeps = may_sleep && self.once_in(3);
        let how = if sleeps {
            self.below(8) as i64
        } else {
            self.pick(&[0, 3, 4, 5])
        };
        let mut flags = if sleeps {
            self.pick(&[0, 0, 0, WAITALL, PEEK])
        } else {
            DONTWAIT | self.pick(&[0, 0, 0, PEEK, TRUNC, WAITALL])
        };
        // A sleep behind a first message of no bytes ends for any signal of the process.
        let bytes = if sleeps && how == 5 {
            bytes.max(3)
        } else {
            bytes
        };
        if how == 5 {
            // Many messages: peeking and dropping come to the same as elsewhere.
            flags &= !(PEEK | TRUNC);
        }
        if sleeps && let Kind::End(conn, side) = self.kind(actor, slot) {
            let end = &mut self.ends[conn][side];
            end.receiver = true;
            end.wants = if flags & WAITALL != 0 {
                bytes.max(1)
            } else {
                1
            };
            end.heeds_room |= bytes == 0;
            self.rest(actor, Some((conn, side)));
        }
        if sleeps && self.once_in(8) {
            self.push(
                actor,
                "splice",
                &[slot, bytes.max(1), 0, libc::SPLICE_F_NONBLOCK as i64],
            );
            return;
        }
        self.push(actor, "recv", &[slot, bytes, flags, how]);
    }

    fn events(&mut self) -> i64 {
        let mut events = 0;
        for (bit, one_in) in [(1, 2), (4, 2), (2, 6), (0x2000, 3), (0x40, 8), (0x100, 8)] {
            if self.once_in(one_in) {
                events |= bit;
            }
        }
        events
    }

    fn poll(&mut self, actor: usize) {
        let (a, b) = (self.socket(actor), self.socket(actor));
        let second = if self.once_in(2) { -1 } else { b };
        let forever = self.once_in(6) && second < 0 && self.claim_wait(actor, a);
        let timeout = if forever { -1 } else { self.pick(&[0, 0, 8]) };
        let (first_events, second_events) = (self.events(), self.events());
        if forever
            && first_events & (INPUT | OUTPUT) == 0
            && let Kind::End(conn, side) = self.kind(actor, a)
        {
            self.ends[conn][side].stubborn = true;
        }
        let how = self.below(4) as i64;
        let args = [a, first_events, second, second_events, timeout, how];
        self.push(actor, "poll", &args);
    }

    /// Notes that an actor may sleep until something comes for this end. False: somebody else may.
    fn claim_wait(&mut self, actor: usize, slot: i64) -> bool {
        let Kind::End(conn, side) = self.kind(actor, slot) else {
            return false;
        };
        let end = &mut self.ends[conn][side];
        if end.receiver || end.waiter {
            return false;
        }
        end.waiter = true;
        self.rest(actor, Some((conn, side)));
        true
    }

    /// Whether an actor may be asleep. Then its steps may never be made: they wake nobody and take
    /// nothing, as far as one can know. (Two that sleep in a receive on one end share out what comes as it
    /// happens, on TCP as well: one of them may get all.)
    fn rests(&self, actor: usize) -> bool {
        self.rests[actor].iter().any(|(conn, side)| {
            let end = &self.ends[*conn][*side];
            end.receiver || end.waiter
        })
    }

    /// An actor may fall asleep, until something comes for that end; unless it sleeps already, which is not known.
    fn rest(&mut self, actor: usize, end: Option<(usize, usize)>) {
        if !self.rests(actor) {
            self.rests[actor].clear();
        }
        self.rests[actor].extend(end);
    }

    fn make_set(&mut self, actor: usize) {
        if let Some(slot) = self.free(actor) {
            let closed = self.below(2) as i64;
            self.push(actor, "epoll", &[slot, closed]);
            self.put(actor, slot, Kind::Set);
            for _ in 0..1 + self.below(2) {
                self.register(actor);
            }
        }
    }

    fn register(&mut self, actor: usize) {
        let (set, slot) = (self.set(actor), self.socket(actor));
        let op = self.pick(&[1, 1, 1, 3, 3, 2]);
        let mut events = self.events() | self.pick(&[0, 1, 5]);
        if self.once_in(2) {
            events |= libc::EPOLLET as u32 as i64;
            self.edges = true;
        }
        if self.once_in(4) {
            events |= libc::EPOLLONESHOT as i64;
            self.edges = true;
        }
        self.tag = (self.tag + 1) % 64;
        if op != 2 && self.inherited.contains(&(self.process(actor), set)) {
            return;
        }
        if let Kind::End(conn, side) = self.kind(actor, slot) {
            let wakes = events & INPUT != 0 && events & libc::EPOLLONESHOT as i64 == 0;
            self.in_sets.push((conn, side, wakes));
            let edge = events & libc::EPOLLET as u32 as i64 != 0;
            self.ends[conn][side].heeds_room |= edge && events & OUTPUT != 0;
        }
        self.push(actor, "ctl", &[set, op, slot, events, self.tag]);
    }

    fn wait(&mut self, actor: usize) {
        let set = self.set(actor);
        let quiet = self.in_sets.iter().all(|(conn, side, _)| {
            let end = &self.ends[*conn][*side];
            !end.receiver && !end.waiter
        });
        let forever = quiet && self.once_in(5);
        if forever {
            for (conn, side, wakes) in &self.in_sets {
                let end = &mut self.ends[*conn][*side];
                end.waiter = true;
                end.stubborn |= !wakes;
            }
            let first = self.in_sets.first();
            self.rest(actor, first.map(|(conn, side, _)| (*conn, *side)));
        }
        let timeout = if forever { -1 } else { self.pick(&[0, 0, 8]) };
        let (max, how) = (self.pick(&[1, 8, 8, 32, 0]), self.below(4) as i64);
        // Which of several ready ones comes first is not said.
        let max = if max == 1 && self.in_sets.len() > 1 {
            8
        } else {
            max
        };
        self.push(actor, "wait", &[set, max, timeout, how]);
    }

    /// Much data from one actor to another, both in blocking calls.
    fn bulk(&mut self) {
        let actor = self.actor();
        let slot = self.socket(actor);
        let Some((conn, side)) = self.peer(actor, slot) else {
            return;
        };
        let reader = (0..ACTORS).find_map(|at| {
            let process = self.actors[at].filter(|_| at != actor)?;
            let at_slot = self.tables[process]
                .iter()
                .position(|kind| *kind == Kind::End(conn, side))?;
            Some((at, at_slot as i64))
        });
        let Some((reader, at)) = reader else { return };
        if self.rests(actor) || self.rests(reader) {
            return;
        }
        let end = &self.ends[conn][side];
        if end.receiver || end.waiter || end.deaf {
            // Nobody reads: how much is sent would depend on the kernel's buffers.
            return;
        }
        let mut bytes = 20_000 + self.below(500_000) as i64;
        if self.ends[conn][1 - side].heeds_room {
            // Who has found a ring full is told of room, as on TCP, which is full later.
            bytes = bytes.min(RING);
        }
        let chunk = self.pick(&[100, 5000, 70_000, 1_000_000]);
        // No time limit either: who gives up early does not read.
        self.push(reader, "flags", &[at, 0, 0]);
        self.push(reader, "setopt", &[at, RCVTIMEO, 0]);
        self.push(reader, "drain", &[at]);
        self.push(actor, "flags", &[slot, 0, 0]);
        self.push(reader, "recvall", &[at, bytes, chunk]);
        self.push(actor, "sendall", &[slot, bytes]);
        self.ends[conn][side].unread = 0;
        self.ends[conn][side].receiver = true;
        self.ends[conn][side].wants = 1;
    }

    fn drain(&mut self, actor: usize) {
        let slot = self.socket(actor);
        self.push(actor, "drain", &[slot]);
        if !self.rests(actor)
            && let Kind::End(conn, side) = self.kind(actor, slot)
        {
            self.ends[conn][side].unread = 0;
        }
    }

    /// In the end, what is left everywhere.
    fn look_at_all(&mut self) {
        for actor in 0..ACTORS {
            let Some(process) = self.actors[actor] else {
                continue;
            };
            if (0..actor).any(|other| self.actors[other] == Some(process)) {
                continue;
            }
            for slot in 0..SLOTS {
                match self.tables[process][slot] {
                    Kind::End(..) => {
                        let slot = slot as i64;
                        self.push(actor, "drain", &[slot]);
                        self.push(actor, "poll", &[slot, 0x2047, -1, 0, 0, 0]);
                    }
                    Kind::Set => self.push(actor, "wait", &[slot as i64, 32, 0, 0]),
                    _ => {}
                }
            }
        }
    }
}
