//! One client: its socket, what it may still be sent, and who it is.

use crate::memfd;
use crate::packet::Packet;
use crate::ringer::Ringer;
use crate::table::FamilyKey;
use memmap2::{MmapMut, MmapOptions};
use nix::errno::Errno;
use nix::fcntl::SealFlag;
use nix::sys::socket::{MsgFlags, getsockopt, sockopt::PeerCredentials};
use protocol::ctl::{Hello, hello as flags};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Messages kept for a client that does not read; one more and it is dropped.
const MAX_QUEUE: usize = 8192;
const MAILBOX_LEN: usize = 4096;

/// A page in which the client sees, without a system call, that messages were sent.
#[derive(Debug)]
pub struct Mailbox {
    map: MmapMut,
    pub read_only: Arc<OwnedFd>,
}

impl Mailbox {
    pub fn new() -> io::Result<Self> {
        let file = memfd::create(c"smclo-mailbox", MAILBOX_LEN as u64)?;
        // SAFETY: the file has this size, is sealed below against shrinking, and is touched only
        // through the atomic in `count_up`.
        let map = unsafe { MmapOptions::new().len(MAILBOX_LEN).map_mut(&file)? };
        let read_only = memfd::reopen_read_only(file.as_fd())?;
        memfd::restrict(&file, 0o400)?;
        // From here on nobody can map it writable any more; our own map stays.
        memfd::seal(&file, SealFlag::F_SEAL_FUTURE_WRITE)?;
        Ok(Mailbox {
            map,
            read_only: Arc::new(read_only),
        })
    }

    fn count_up(&mut self) {
        // SAFETY: a page-aligned map longer than the word; everybody uses it as an atomic.
        let word = unsafe { AtomicU32::from_ptr(self.map.as_mut_ptr().cast()) };
        // SYNC: mailbox. The client that loads the new number finds the message in its socket.
        word.fetch_add(1, Ordering::Release);
    }
}

/// A session that has said Hello.
#[derive(Debug)]
pub struct Client {
    /// As the process sees itself; may differ from the credentials in another pid namespace.
    pub own_pid: u32,
    pub program: [u8; 16],
    /// The run that it belongs to, or 0.
    pub run: u64,
    /// Its environment says when to accelerate.
    pub own_policy: bool,
    /// Its doorbells are eventfds.
    pub eventfds: bool,
    pub family: FamilyKey,
    /// For the peers, read-only.
    pub wait_page: Arc<OwnedFd>,
    pub mailbox: Mailbox,
    /// Doorbells by context.
    bells: Vec<(u32, OwnedFd)>,
}

/// Doorbells kept for a client. Each costs a descriptor, so those of its first contexts have to do:
/// who sleeps on another looks when it wakes by itself.
const MAX_BELLS: usize = 4;

impl Client {
    pub fn new(hello: &Hello, family: FamilyKey, wait_page: OwnedFd, mailbox: Mailbox) -> Self {
        Client {
            own_pid: hello.pid,
            program: hello.program,
            run: hello.run,
            own_policy: hello.flags & flags::OWN_POLICY != 0,
            eventfds: hello.flags & flags::EVENTFDS != 0,
            family,
            wait_page: Arc::new(wait_page),
            mailbox,
            bells: Vec::new(),
        }
    }

    /// `bell` has passed [`is_bell`](crate::ringer::is_bell).
    pub fn add_bell(&mut self, context: u32, bell: OwnedFd) {
        if let Some(known) = self.bells.iter_mut().find(|(c, _)| *c == context) {
            known.1 = bell;
        } else if self.bells.len() < MAX_BELLS {
            self.bells.push((context, bell));
        }
    }

    /// Wakes those who sleep.
    pub fn ring(&self, ringer: &mut Ringer) {
        for (_, bell) in &self.bells {
            let _ = ringer.ring(bell.as_fd());
        }
    }
}

#[derive(Debug)]
pub struct Session {
    pub socket: OwnedFd,
    pub pid: u32,
    pub uid: u32,
    /// Network namespace that it keeps known.
    pub netns: Option<u64>,
    pub client: Option<Client>,
    queue: VecDeque<Packet>,
    /// To be dropped as soon as the current message has been dealt with.
    pub dead: bool,
    /// Whether the event loop watches for room in the socket.
    pub watches_room: bool,
}

impl Session {
    pub fn new(socket: OwnedFd) -> Result<Self, Errno> {
        let who = getsockopt(&socket, PeerCredentials)?;
        Ok(Session {
            socket,
            pid: who.pid() as u32,
            uid: who.uid(),
            netns: None,
            client: None,
            queue: VecDeque::new(),
            dead: false,
            watches_room: false,
        })
    }

    /// Sends, or queues when the socket is full.
    pub fn send(&mut self, packet: Packet) {
        if self.queue.len() >= MAX_QUEUE {
            self.dead = true;
        } else if !self.dead {
            self.queue.push_back(packet);
            self.flush();
        }
    }

    /// Sends what fits.
    pub fn flush(&mut self) {
        let mut sent = false;
        while let Some(packet) = self.queue.front() {
            match packet.send(self.socket.as_fd(), MsgFlags::MSG_DONTWAIT) {
                Ok(()) => {
                    self.queue.pop_front();
                    sent = true;
                }
                Err(Errno::EAGAIN) => break,
                Err(_) => {
                    self.dead = true;
                    break;
                }
            }
        }
        if sent && let Some(client) = &mut self.client {
            client.mailbox.count_up();
        }
    }

    /// Whether messages wait for the client to read.
    pub fn is_behind(&self) -> bool {
        !self.queue.is_empty()
    }

    pub fn wants_room(&self) -> bool {
        !self.queue.is_empty() && !self.dead
    }

    pub fn program(&self) -> [u8; 16] {
        self.client.as_ref().map_or([0; 16], |c| c.program)
    }
}

/// Text of a NUL-padded name from a client, safe to print.
pub fn printable(name: &[u8]) -> String {
    let end = name.iter().position(|c| *c == 0).unwrap_or(name.len());
    let text = String::from_utf8_lossy(&name[..end]);
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}
