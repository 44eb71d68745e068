//! The statistics tables of the clients, as the daemon sees them: read-only, and every word hostile.
//! Numbers are copied out once and only added up and printed.

use crate::memfd::Inode;
use crate::policy::Policy;
use crate::sums::{Moved, Sums};
use memmap2::{Mmap, MmapOptions};
use protocol::ctl::Endpoint;
use protocol::reason;
use protocol::short::{CLIENT, CONNECTED, FDS, Place, SHUT_RD, SHUT_WR, Word, Words};
use protocol::stats::TableHeader;
use protocol::stats::{self, Mode, ROWS, ROWS_AT, Row, TABLE_LEN, TEXT_AT, TEXT_LEN};
use protocol::stats::{TRACES_AT, WORDS_AT, shut};
use protocol::trace::{self, EVENTS, MESSAGE_HEAD, TRACES, Trace};
use std::fs::File;
use std::io;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::{Acquire, Relaxed};

#[derive(Debug)]
pub struct Table {
    map: Mmap,
}

/// A row in use.
#[derive(Clone, Debug, Default)]
pub struct RowCopy {
    pub index: u32,
    pub mode: u32,
    pub pid: u32,
    pub reason: u32,
    pub peer_diagnosis: u32,
    pub inode: u64,
    pub fd: u32,
    pub shut: u32,
    pub cookie: u64,
    pub smc_tx: Moved,
    pub smc_rx: Moved,
    pub tcp_tx: u64,
    pub tcp_rx: u64,
    pub upgrades: u32,
    pub reverts: u32,
    pub rings: u64,
    pub sleeps: u64,
    pub spin_hits: u64,
    pub spin_misses: u64,
    pub full: u64,
    pub local: Endpoint,
    pub peer: Endpoint,
    pub lgr: u32,
    pub client: bool,
    pub token: u64,
    pub peer_token: u64,
    pub dmb: u32,
    pub peer_dmb: u32,
    pub sndbuf: u32,
}

/// One event of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventCopy {
    pub time: u64,
    pub kind: trace::Kind,
    pub code: u32,
    pub arg: u64,
    pub pid: u32,
}

/// A CLC message of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageCopy {
    pub time: u64,
    pub sent: bool,
    pub bytes: Vec<u8>,
}

/// What happened to one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceCopy {
    pub owner: u64,
    pub closed: bool,
    pub client: bool,
    pub local: Endpoint,
    pub peer: Endpoint,
    pub inode: u64,
    /// Oldest first.
    pub events: Vec<EventCopy>,
    pub messages: Vec<MessageCopy>,
}

impl Table {
    /// `file` has passed [`crate::memfd::check_foreign`] with [`TABLE_LEN`].
    pub fn map(file: &File) -> io::Result<Self> {
        // SAFETY: the file has this size and is sealed against shrinking, so every access is
        // backed. Others write to it, so it is only ever looked at through atomics (below).
        let map = unsafe { MmapOptions::new().len(TABLE_LEN).map(file)? };
        Ok(Table { map })
    }

    /// `T` at byte `at` of the table.
    ///
    /// # Safety
    /// `T` consists of atomics only, `at` is aligned for it, and `at + size_of::<T>()` is at most
    /// [`TABLE_LEN`].
    unsafe fn at<T>(&self, at: usize) -> &T {
        // SAFETY: the caller's promise; the map has TABLE_LEN bytes.
        unsafe { &*self.map.as_ptr().add(at).cast() }
    }

    fn header(&self) -> &TableHeader {
        // SAFETY: the table begins with it.
        unsafe { self.at(0) }
    }

    fn known(&self) -> bool {
        let header = self.header();
        header.magic.load(Relaxed) == stats::MAGIC && header.version.load(Relaxed) == stats::VERSION
    }

    pub fn snapshot(&self) -> impl Iterator<Item = RowCopy> {
        let high = if self.known() {
            self.header().high.load(Relaxed) as usize
        } else {
            0
        };
        let rows = (0..high.min(ROWS)).filter_map(|i| {
            // SAFETY: `i < ROWS`; the rows lie there, aligned.
            let row: &Row = unsafe { self.at(ROWS_AT + i * size_of::<Row>()) };
            copy_row(i as u32, row)
        });
        rows.chain(self.short())
    }

    /// The places of connections that have no row yet: process, number of the descriptor.
    fn places(&self) -> impl Iterator<Item = (u32, u32, &Place)> {
        // SAFETY: the words lie there, aligned.
        let words: &Words = unsafe { self.at(WORDS_AT) };
        let known = self.known();
        let blocks = words.owners.iter().zip(&words.high).zip(&words.blocks);
        blocks
            .filter(move |_| known)
            .flat_map(|((owner, high), block)| {
                let (pid, high) = (owner.load(Relaxed), high.load(Relaxed) as usize);
                let high = if pid == 0 { 0 } else { high.min(FDS) };
                let places = (0..).zip(block).take(high);
                places.map(move |(fd, place)| (pid, fd, place))
            })
    }

    fn short(&self) -> impl Iterator<Item = RowCopy> {
        let word = |place: &Place| place.word.now();
        self.places()
            .filter_map(move |(pid, fd, place)| copy_word(pid, fd, word(place)))
    }

    /// Everything in this table, rows and totals of the rows that are gone.
    pub fn sums(&self) -> Sums {
        let mut sums = Sums::of_totals(&self.header().totals);
        for row in self.snapshot() {
            sums.add_row(&row);
        }
        for (_, _, place) in self.places() {
            sums.add_ended(place);
        }
        for entry in &self.header().reasons {
            let (reason, count) = (entry.reason.load(Relaxed), entry.count.load(Relaxed));
            if reason != 0 && count != 0 {
                sums.count_reason(reason, count);
            }
        }
        sums
    }

    /// The user's policy; `None` when the file is longer than [`TEXT_LEN`].
    pub fn policy_text(&self) -> Option<Vec<u8>> {
        let len = self.header().text_len.load(Acquire) as usize;
        // SAFETY: the text lies there; bytes need no alignment.
        let text: &[AtomicU8; TEXT_LEN] = unsafe { self.at(TEXT_AT) };
        let text = text.get(..len)?;
        Some(text.iter().map(|byte| byte.load(Relaxed)).collect())
    }

    pub fn traces(&self) -> impl Iterator<Item = TraceCopy> {
        let count = if self.known() {
            self.header().next_trace.load(Relaxed) as usize
        } else {
            0
        };
        (0..count.min(TRACES)).filter_map(|i| {
            // SAFETY: `i < TRACES`; the traces lie there, aligned.
            copy_trace(unsafe { self.at(TRACES_AT + i * size_of::<Trace>()) })
        })
    }
}

fn copy_word(pid: u32, fd: u32, word: Word) -> Option<RowCopy> {
    let mode = match word.has(CONNECTED) {
        true => Mode::Tcp,
        false => Mode::Init,
    };
    let mut shut = 0;
    for (said, bit) in [(SHUT_WR, shut::WRITING), (SHUT_RD, shut::READING)] {
        if word.has(said) {
            shut |= bit;
        }
    }
    word.is_short().then(|| RowCopy {
        mode: mode as u32,
        pid,
        reason: reason::NOT_YET,
        fd,
        shut,
        client: word.has(CLIENT),
        tcp_tx: word.sent(),
        tcp_rx: word.taken(),
        ..RowCopy::default()
    })
}

fn copy_row(index: u32, row: &Row) -> Option<RowCopy> {
    let mode = row.mode.load(Relaxed);
    if mode == Mode::Free as u32 || mode > Mode::Smcd as u32 {
        return None;
    }
    Some(RowCopy {
        index,
        mode,
        pid: row.pid.load(Relaxed),
        reason: row.reason.load(Relaxed),
        peer_diagnosis: row.peer_diagnosis.load(Relaxed),
        inode: row.inode.load(Relaxed),
        fd: row.fd.load(Relaxed),
        shut: row.shut.load(Relaxed),
        cookie: row.cookie.load(Relaxed),
        smc_tx: Moved::copy(&row.smc_tx),
        smc_rx: Moved::copy(&row.smc_rx),
        tcp_tx: row.tcp_tx.load(Relaxed),
        tcp_rx: row.tcp_rx.load(Relaxed),
        upgrades: row.upgrades.load(Relaxed),
        reverts: row.reverts.load(Relaxed),
        rings: row.rings.load(Relaxed),
        sleeps: row.sleeps.load(Relaxed),
        spin_hits: row.spin_hits.load(Relaxed),
        spin_misses: row.spin_misses.load(Relaxed),
        full: row.full.load(Relaxed),
        local: Row::endpoint(&row.local),
        peer: Row::endpoint(&row.peer),
        lgr: row.lgr.load(Relaxed),
        client: row.client.load(Relaxed) != 0,
        token: row.token.load(Relaxed),
        peer_token: row.peer_token.load(Relaxed),
        dmb: row.dmb_len.load(Relaxed),
        peer_dmb: row.peer_dmb_len.load(Relaxed),
        sndbuf: row.sndbuf_len.load(Relaxed),
    })
}

/// An event that is being written, or is of no known kind, is left out.
fn copy_trace(trace: &Trace) -> Option<TraceCopy> {
    let owner = trace.owner.load(Acquire);
    if owner == 0 {
        return None;
    }
    let count = trace.count.load(Acquire) as usize;
    let events = (count.saturating_sub(EVENTS)..count).filter_map(|n| {
        let event = &trace.events[n % EVENTS];
        Some(EventCopy {
            kind: trace::Kind::from_number(event.kind.load(Acquire))?,
            time: event.time.load(Relaxed),
            code: event.code.load(Relaxed),
            arg: event.arg.load(Relaxed),
            pid: event.pid.load(Relaxed),
        })
    });
    Some(TraceCopy {
        owner,
        closed: trace.closed.load(Relaxed) != 0,
        client: trace.client.load(Relaxed) != 0,
        local: Row::endpoint(&trace.local),
        peer: Row::endpoint(&trace.peer),
        inode: trace.inode.load(Relaxed),
        events: events.collect(),
        messages: copy_messages(trace),
    })
}

fn copy_messages(trace: &Trace) -> Vec<MessageCopy> {
    let used = trace.used.load(Acquire) as usize;
    let Some(all) = trace.messages.get(..used) else {
        return Vec::new();
    };
    let all: Vec<u8> = all.iter().map(|byte| byte.load(Relaxed)).collect();
    let mut rest = &all[..];
    let mut messages = Vec::new();
    while let Some((head, tail)) = rest.split_first_chunk::<MESSAGE_HEAD>() {
        let [sent, _, a, b, time @ ..] = *head;
        let Some((bytes, after)) = tail.split_at_checked(u16::from_ne_bytes([a, b]).into()) else {
            break;
        };
        messages.push(MessageCopy {
            time: u64::from_ne_bytes(time),
            sent: sent != 0,
            bytes: bytes.to_vec(),
        });
        rest = after;
    }
    messages
}

/// A process and the children that it forked: they share one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FamilyKey {
    pub family: u128,
    pub inode: Inode,
}

#[derive(Debug)]
pub struct Family {
    pub table: Table,
    /// Sessions of the members.
    pub members: Vec<u32>,
    /// The user's file, as the first member found it.
    pub policy: Policy,
}
