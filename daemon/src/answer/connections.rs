//! `smclo ss`: the rows of all tables.

use super::Names;
use crate::arena::DmbHead;
use crate::report::{Connection, Cursors, reason_name, uuid};
use crate::server::Server;
use crate::table::RowCopy;
use protocol::close::{self, Ends, Flags, State};
use protocol::ctl::ss;
use protocol::reason;
use protocol::shm::cdc::Cursor;
use protocol::stats::{Mode, shut};
use std::collections::HashMap;

type Heads = HashMap<u64, DmbHead>;

impl Server {
    /// Users other than root see their own.
    pub(super) fn connections(&self, uid: u32, wanted: u64) -> Vec<Connection> {
        let heads = if wanted & ss::CURSORS == 0 {
            Heads::new()
        } else {
            self.groups.heads(uid)
        };
        let lowest = if wanted & ss::INIT == 0 {
            Mode::Listen
        } else {
            Mode::Init
        };
        let gid = uuid(self.device.get_local_gid());
        let mut names = Names::default();
        let mut all = Vec::new();
        for family in self.families.values() {
            let Some(owner) = self.visible_owner(family, uid) else {
                continue;
            };
            let rows = family.table.snapshot();
            for row in rows.filter(|r| r.mode >= lowest as u32) {
                let (pid, program) = self.process(family, row.pid, &mut names);
                let mut one = connection(&row, &heads);
                (one.pid, one.program, one.uid) = (pid, program, owner);
                if row.token != 0 {
                    one.gid.clone_from(&gid);
                }
                all.push(one);
            }
        }
        all.sort_by_key(|c| (c.pid, c.inode, c.fd));
        all
    }
}

fn connection(row: &RowCopy, heads: &Heads) -> Connection {
    let reason = if row.mode == Mode::Tcp as u32 {
        row.reason
    } else {
        0
    };
    let heads = [row.token, row.peer_token].map(|t| heads.get(&t).filter(|_| t != 0));
    Connection {
        state: state(row, heads[0]).name().into(),
        inode: row.inode,
        fd: row.fd,
        local: row.local.to_socket_addr().to_string(),
        peer: row.peer.to_socket_addr().to_string(),
        mode: mode(row).into(),
        reason: reason_name(reason),
        reason_code: hex(reason),
        reason_words: words(reason).into(),
        peer_diagnosis: hex(row.peer_diagnosis),
        smc_tx_bytes: row.smc_tx.bytes,
        smc_rx_bytes: row.smc_rx.bytes,
        tcp_tx_bytes: row.tcp_tx,
        tcp_rx_bytes: row.tcp_rx,
        upgrades: row.upgrades,
        reverts: row.reverts,
        rings: row.rings,
        sleeps: row.sleeps,
        spin_hits: row.spin_hits,
        spin_misses: row.spin_misses,
        ring_full: row.full,
        sent_sizes: row.smc_tx.sizes,
        received_sizes: row.smc_rx.sizes,
        lgr: unless_zero(row.lgr.into(), 8),
        token: unless_zero(row.token, 16),
        peer_token: unless_zero(row.peer_token, 16),
        dmb: row.dmb,
        peer_dmb: row.peer_dmb,
        sndbuf: row.sndbuf,
        cookie: row.cookie,
        client: row.client,
        shut: shutdowns(row).into(),
        cursors: match heads {
            [Some(own), Some(peer)] => Some(cursors(own, peer)),
            _ => None,
        },
        ..Connection::default()
    }
}

fn mode(row: &RowCopy) -> &'static str {
    const INIT: u32 = Mode::Init as u32;
    const LISTEN: u32 = Mode::Listen as u32;
    const SMCD: u32 = Mode::Smcd as u32;
    match row.mode {
        INIT => "INIT",
        LISTEN => "LISTEN",
        SMCD => "SMCD",
        _ => "TCP",
    }
}

fn hex(code: u32) -> String {
    if code == 0 {
        String::new()
    } else {
        format!("{code:#010x}")
    }
}

fn words(code: u32) -> &'static str {
    if code == 0 { "" } else { reason::words(code) }
}

fn unless_zero(n: u64, digits: usize) -> String {
    if n == 0 {
        String::new()
    } else {
        format!("{n:0digits$x}")
    }
}

/// The state that an SMC socket would be in.
fn state(row: &RowCopy, own: Option<&DmbHead>) -> State {
    match row.mode {
        m if m == Mode::Listen as u32 => return State::Listen,
        m if m == Mode::Init as u32 => return State::Init,
        _ => {}
    }
    let mut state = State::Active;
    let mut sent = Flags::NONE;
    if row.shut & shut::WRITING != 0 {
        (state, sent) = close::active_shutdown(state);
    }
    let mut received = Flags(own.map_or(0, |head| (head.flags >> 8) as u8));
    if row.shut & shut::PEER != 0 && received == Flags::NONE {
        received = Flags::DONE_WRITING;
    }
    let ends = Ends {
        sent,
        received,
        ..Ends::default()
    };
    close::passive(state, &ends)
}

fn shutdowns(row: &RowCopy) -> &'static str {
    let shut = |bit| row.shut & bit != 0;
    match (shut(shut::READING), shut(shut::WRITING)) {
        (false, false) => "<->",
        (true, false) => "R->",
        (false, true) => "<-W",
        (true, true) => "R-W",
    }
}

/// `own` is the DMB that the peer writes to, `peer` the one that this end writes to.
fn cursors(own: &DmbHead, peer: &DmbHead) -> Cursors {
    let text = |c: Cursor| format!("{:04x}:{:08x}", c.wrap, c.count);
    let flags = |f: u16| format!("{:02x}:{:02x}", f & 0xff, f >> 8);
    Cursors {
        rx_prod: text(own.producer),
        rx_cons: text(peer.consumer),
        tx_prod: text(peer.producer),
        tx_cons: text(own.consumer),
        rx_flags: flags(own.flags),
        tx_flags: flags(peer.flags),
    }
}
