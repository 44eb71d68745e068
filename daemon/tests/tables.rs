//! The tables of the clients, added up and listed.

mod support;

use daemon::report::{Connection, Info, Stats};
use protocol::ctl::{Eids, Reply, Request, Verb};
use protocol::ids::DEFAULT_UEID;
use protocol::reason;
use protocol::stats::{Mode, Row, TableHeader};
use std::mem::offset_of;
use std::os::unix::fs::FileExt;
use support::{Client, Daemon, Files};

fn word(n: u32) -> [u8; 4] {
    n.to_ne_bytes()
}

fn long(n: u64) -> [u8; 8] {
    n.to_ne_bytes()
}

/// One accelerated connection of 10 + 20 bytes, one on TCP with 3 + 4, one listener.
fn fill(files: &Files) {
    let pid = word(std::process::id());
    files.row(
        0,
        &[
            (offset_of!(Row, mode), &word(Mode::Smcd as u32)),
            (offset_of!(Row, pid), &pid),
            (offset_of!(Row, smc_tx.bytes), &long(10)),
            (offset_of!(Row, smc_rx.bytes), &long(20)),
            (offset_of!(Row, upgrades), &word(1)),
            (offset_of!(Row, lgr), &word(0x100)),
            (offset_of!(Row, token), &long(0xabc)),
        ],
    );
    files.row(
        1,
        &[
            (offset_of!(Row, mode), &word(Mode::Tcp as u32)),
            (offset_of!(Row, pid), &pid),
            (offset_of!(Row, reason), &word(reason::NOT_LOCAL)),
            (offset_of!(Row, tcp_tx), &long(3)),
            (offset_of!(Row, tcp_rx), &long(4)),
            (offset_of!(Row, cookie), &long(9)),
        ],
    );
    files.row(
        3,
        &[
            (offset_of!(Row, mode), &word(Mode::Listen as u32)),
            (offset_of!(Row, pid), &word(1)),
        ],
    );
}

#[test]
fn ss_lists_connections_with_reasons() {
    let daemon = Daemon::start(|_| {});
    let files = Files::new();
    let _client = Client::join(&daemon, &files, "web");
    fill(&files);
    let mut all: Vec<Connection> = daemon.ask(Verb::Ss);
    all.sort_by_key(|c| c.mode.clone());
    let [listen, ring, tcp] = &all[..] else {
        panic!("{all:?}");
    };
    assert_eq!(
        (&*ring.mode, &*ring.reason, &*ring.program),
        ("SMCD", "", "web")
    );
    assert_eq!((ring.smc_tx_bytes, ring.smc_rx_bytes), (10, 20));
    assert_eq!((&*ring.lgr, &*ring.token), ("00000100", "0000000000000abc"));
    assert_eq!((&*tcp.mode, &*tcp.reason), ("TCP", "NOT_LOCAL"));
    assert_eq!(tcp.reason_code, "0x0a000004");
    assert_eq!(tcp.reason_words, reason::words(reason::NOT_LOCAL));
    assert_eq!(tcp.pid, std::process::id());
    // A row of a process that is no member: its name comes from /proc.
    let init = std::fs::read_to_string("/proc/1/comm").unwrap();
    assert_eq!(
        (&*listen.mode, &*listen.program),
        ("LISTEN", init.trim_end())
    );
}

#[test]
fn a_family_counts_once_and_lives_on_in_the_totals() {
    let daemon = Daemon::start(|_| {});
    let files = Files::new();
    fill(&files);
    // Totals of rows that are gone: smc_tx, and the count of a reason.
    let at = offset_of!(TableHeader, totals.smc_tx.bytes) as u64;
    files.table.write_all_at(&long(100), at).unwrap();
    let parent = Client::join(&daemon, &files, "parent");
    let child = Client::join(&daemon, &files, "child");
    let check = |stats: &Stats| {
        assert_eq!((stats.counts.smc_bytes, stats.counts.tcp_bytes), (130, 7));
        assert_eq!(
            (
                stats.counts.upgrades,
                stats.counts.accelerated,
                stats.counts.plain
            ),
            (1, 1, 1)
        );
        assert_eq!(
            stats.counts.fallbacks,
            [("NOT_LOCAL".to_string(), 1)].into()
        );
    };
    let both: Stats = daemon.ask(Verb::Stats);
    check(&both);
    assert_eq!((both.clients, both.counts.connections), (2, 2));
    drop(parent);
    let one = daemon.wait_for::<Stats>(Verb::Stats, |s| s.clients == 1);
    check(&one);
    assert_eq!(one.counts.connections, 2);
    drop(child);
    let none = daemon.wait_for::<Stats>(Verb::Stats, |s| s.clients == 0);
    check(&none);
    assert_eq!(none.counts.connections, 0);
    assert!(daemon.ask::<Vec<Connection>>(Verb::Ss).is_empty());
}

#[test]
fn the_same_family_number_with_another_table_is_another_family() {
    let daemon = Daemon::start(|_| {});
    let (one, mut two) = (Files::new(), Files::new());
    two.family = one.family;
    fill(&one);
    fill(&two);
    let _clients = [
        Client::join(&daemon, &one, "a"),
        Client::join(&daemon, &two, "b"),
    ];
    assert_eq!(daemon.ask::<Stats>(Verb::Stats).counts.smc_bytes, 60);
}

#[test]
fn reset_starts_from_zero() {
    let daemon = Daemon::start(|_| {});
    let files = Files::new();
    fill(&files);
    let client = Client::join(&daemon, &files, "x");
    client.send(&Request {
        verb: Verb::StatsReset as u16,
        eid: [0; 32],
        arg: 0,
    });
    assert_eq!(client.get::<Reply>().error, 0);
    let zero: Stats = daemon.ask(Verb::Stats);
    assert_eq!(
        (
            zero.counts.smc_bytes,
            zero.counts.accelerated,
            zero.counts.fallbacks.len()
        ),
        (0, 0, 0)
    );
    files.row(0, &[(offset_of!(Row, smc_tx.bytes), &long(15))]);
    assert_eq!(daemon.ask::<Stats>(Verb::Stats).counts.smc_bytes, 5);
}

#[test]
fn clients_hear_of_new_eids() {
    let daemon = Daemon::start(|_| {});
    let client = Client::new(&daemon);
    let request = |verb: Verb, eid| {
        let verb = verb as u16;
        client.send(&Request { verb, eid, arg: 0 });
    };
    let mut mine = [b' '; 32];
    mine[..4].copy_from_slice(b"MINE");
    request(Verb::UeidAdd, mine);
    let eids: Eids = client.get();
    assert_eq!((eids.seid_on, eids.ueid_count), (0, 2));
    assert_eq!(&eids.ueids[..2], &[DEFAULT_UEID, mine]);
    assert_eq!(client.get::<Reply>().error, 0);
    request(Verb::UeidAdd, mine);
    assert_eq!(client.get::<Reply>().error, libc::EEXIST as u32);
    request(Verb::SeidEnable, mine);
    assert_eq!(client.get::<Eids>().seid_on, 1);
    client.get::<Reply>();
    request(Verb::SeidEnable, mine);
    assert_eq!(client.get::<Reply>().error, 0, "no news, no message");
    let info: Info = daemon.ask(Verb::Info);
    assert!(info.eids.seid_enabled && info.eids.ueids.len() == 2);
}
