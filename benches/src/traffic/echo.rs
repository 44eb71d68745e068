//! Many connections in one epoll set at each end. Some are busy, each with one message on its way;
//! the others have been used and are idle now.

use super::{Conn, Latencies, Listener, Report, many_descriptors};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

pub const SIZE: usize = 64;
/// Exchanges on each connection before anything is measured: more than the library waits for
/// before it takes a connection for one with traffic.
const WARM: u32 = 32;
const EVENTS: usize = 256;

fn watch(set: &Epoll, conn: &Conn, tag: u64) -> Result<()> {
    fcntl(conn.0.as_raw_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let event = EpollEvent::new(EpollFlags::EPOLLIN, tag);
    Ok(set.add(&conn.0, event)?)
}

/// Answers on all connections until the last client has gone.
pub fn serve(at: &str) -> Result<()> {
    const LISTENER: u64 = u64::MAX;
    many_descriptors()?;
    let listener = Listener::on(at)?;
    let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    set.add(&listener.fd, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut conns: Vec<Option<Conn>> = Vec::new();
    let mut open = 0;
    let mut events = [EpollEvent::empty(); EVENTS];
    let mut message = [0; SIZE];
    loop {
        let n = set.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..n] {
            if event.data() == LISTENER {
                let conn = listener.accept()?;
                watch(&set, &conn, conns.len() as u64)?;
                conns.push(Some(conn));
                open += 1;
                continue;
            }
            let slot = &mut conns[event.data() as usize];
            let Some(conn) = slot else { continue };
            match conn.recv(&mut message) {
                Ok(0) => {
                    *slot = None;
                    open -= 1;
                    if open == 0 {
                        return Ok(());
                    }
                }
                Ok(n) => conn.send_all(&message[..n])?,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// Both ends of the measured loop on the client's side.
struct Client {
    set: Epoll,
    conns: Vec<Conn>,
    sent_at: Vec<Instant>,
}

/// `busy` connections talk for the given time beside `idle` ones.
pub fn talk(at: &str, busy: usize, idle: usize, limit: Duration) -> Result<Report> {
    let mut client = Client::connect(at, busy + idle)?;
    // The busy ones come last, so that idle ones lie before them in every table.
    client.run(0..busy + idle, |_, rounds, _| rounds < WARM)?;
    let start = Instant::now();
    let mut latencies = Latencies::default();
    client.run(idle..busy + idle, |now, _, took| {
        latencies.record(took);
        now - start < limit
    })?;
    let done = latencies.count() as f64;
    Ok(Report {
        operations: done,
        warm_up: f64::from(WARM) * (busy + idle) as f64,
        seconds: start.elapsed().as_secs_f64(),
        bytes: done * SIZE as f64 * 2.0,
        percentiles: latencies.percentiles(),
    })
}

/// Opens connections, uses each, prints "ready", and lets them idle until its input ends.
pub fn hold(at: &str, count: usize) -> Result<()> {
    let mut client = Client::connect(at, count)?;
    let start = Instant::now();
    client.run(0..count, |_, rounds, _| rounds < WARM)?;
    let took = start.elapsed();
    println!("ready {:.3}", took.as_secs_f64());
    let mut events = [EpollEvent::empty(); EVENTS];
    // Nobody sends: this sleeps until the process is ended.
    loop {
        client.set.wait(&mut events, EpollTimeout::NONE)?;
    }
}

impl Client {
    fn connect(at: &str, count: usize) -> Result<Client> {
        many_descriptors()?;
        let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut conns = Vec::with_capacity(count);
        for tag in 0..count {
            let conn = Conn::to(at)?;
            watch(&set, &conn, tag as u64)?;
            conns.push(conn);
        }
        Ok(Client {
            set,
            sent_at: vec![Instant::now(); conns.len()],
            conns,
        })
    }

    /// Exchanges on the connections of `range` until `go_on` says no for each of them. It gets the
    /// time, the exchanges that this connection has had, and how long the last one took.
    fn run(
        &mut self,
        range: std::ops::Range<usize>,
        mut go_on: impl FnMut(Instant, u32, Duration) -> bool,
    ) -> Result<()> {
        let message = [b'*'; SIZE];
        let mut answer = [0; SIZE];
        let mut events = [EpollEvent::empty(); EVENTS];
        let mut rounds = vec![0; self.conns.len()];
        let mut active = range.len();
        for tag in range {
            self.sent_at[tag] = Instant::now();
            self.conns[tag].send_all(&message)?;
        }
        while active > 0 {
            let n = self.set.wait(&mut events, EpollTimeout::NONE)?;
            for event in &events[..n] {
                let tag = event.data() as usize;
                let conn = &self.conns[tag];
                // A message is small and was sent with one call: it comes in one piece.
                match conn.recv(&mut answer) {
                    Ok(SIZE) => {}
                    Ok(n) => return Err(Error::other(format!("an answer of {n} bytes"))),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => continue,
                    Err(e) => return Err(e),
                }
                let now = Instant::now();
                rounds[tag] += 1;
                if go_on(now, rounds[tag], now - self.sent_at[tag]) {
                    self.sent_at[tag] = now;
                    conn.send_all(&message)?;
                } else {
                    active -= 1;
                }
            }
        }
        Ok(())
    }
}
