//! `smclo ss`: the columns of `smcss`, and what else a person wants to know.

use crate::cli::SsArgs;
use crate::report::Connection;
use crate::tool::table::{BAD, Cell, FAINT, GOOD, Table, WARN};
use clap::builder::styling::Style;
use protocol::ctl::ss;
use protocol::reason;

/// Widest address, unless `--wide`.
const ADDRESS: usize = 23;

/// What the daemon has to look up for these arguments.
pub fn wanted(args: &SsArgs) -> u64 {
    let init = if args.all { ss::INIT } else { 0 };
    let cursors = if args.debug { ss::CURSORS } else { 0 };
    init | cursors
}

/// Whether these arguments ask for the connection.
pub fn asked(args: &SsArgs, c: &Connection) -> bool {
    match c.state.as_str() {
        "LISTEN" => args.all || args.listening,
        "INIT" => args.all,
        _ => !args.listening,
    }
}

pub fn text(connections: &[Connection], args: &SsArgs) -> String {
    let mut table = Table::headed([
        "State",
        "UID",
        "Inode",
        "Local Address",
        "Peer Address",
        "Mode",
        "Program",
        "PID",
    ]);
    if !args.listening {
        table.head(&[
            "SMC-Bytes",
            "TCP-Bytes",
            "Up",
            "Back",
            "Rings",
            "Sleeps",
            "Spins",
        ]);
    }
    if args.debug {
        table.head(&[
            "Shutd",
            "Sndbuf",
            "Rcvbuf",
            "Peerbuf",
            "rxprod",
            "rxcons",
            "txprod",
            "txcons",
            "rxFlags",
            "txFlags",
            "GID",
            "Token",
            "Peer-Token",
            "Linkid",
        ]);
    }
    if !args.listening {
        table.head(&["Reason"]);
    }
    for c in connections {
        table.row(row(c, args));
    }
    table.finish()
}

fn row(c: &Connection, args: &SsArgs) -> Vec<Cell> {
    let connected = !matches!(c.state.as_str(), "LISTEN" | "INIT");
    let mut cells = vec![
        Cell::new(&c.state),
        Cell::number(c.uid),
        Cell::number(c.inode),
        address(&c.local, args.wide).into(),
        address(if connected { &c.peer } else { "" }, args.wide).into(),
        Cell::new(mode(c)).style(colour(c)),
        Cell::new(&c.program),
        Cell::number(c.pid),
    ];
    if args.listening {
        return cells;
    }
    if connected {
        cells.extend([
            Cell::number(c.smc_tx_bytes.saturating_add(c.smc_rx_bytes)),
            Cell::number(c.tcp_tx_bytes.saturating_add(c.tcp_rx_bytes)),
            Cell::number(c.upgrades),
            Cell::number(c.reverts),
            Cell::number(c.rings),
            Cell::number(c.sleeps),
            Cell::number(c.spin_hits),
        ]);
    } else {
        cells.extend(vec![Cell::default(); 7]);
    }
    if args.debug {
        cells.extend(details(c, connected));
    }
    if connected && !c.reason_words.is_empty() {
        cells.push(Cell::new(format!("{} ({})", c.reason_words, c.reason)).style(FAINT));
    }
    cells
}

fn details(c: &Connection, connected: bool) -> Vec<Cell> {
    if !connected {
        return vec![Cell::default(); 14];
    }
    let cursors = c.cursors.clone().unwrap_or_default();
    let mut cells = vec![
        Cell::new(&c.shut),
        format!("{:08x}", c.sndbuf).into(),
        format!("{:08x}", c.dmb).into(),
        format!("{:08x}", c.peer_dmb).into(),
    ];
    let texts = [
        &cursors.rx_prod,
        &cursors.rx_cons,
        &cursors.tx_prod,
        &cursors.tx_cons,
        &cursors.rx_flags,
        &cursors.tx_flags,
        &c.gid,
        &c.token,
        &c.peer_token,
        &c.lgr,
    ];
    cells.extend(texts.map(Cell::new));
    cells
}

/// `SMCD`, or `TCP` with the own reason and the peer's.
fn mode(c: &Connection) -> String {
    match (c.mode.as_str(), c.peer_diagnosis.as_str()) {
        ("TCP", "") => format!("TCP {}", c.reason_code),
        ("TCP", peer) => format!("TCP {}/{peer}", c.reason_code),
        ("SMCD", _) => "SMCD".into(),
        _ => String::new(),
    }
}

/// A connection that may still come onto shared memory is no cause for alarm.
fn colour(c: &Connection) -> Style {
    let waits = [
        reason::NOT_YET,
        reason::NO_PEER_YET,
        reason::HANDSHAKE,
        reason::REVERTED,
    ];
    match c.mode.as_str() {
        "SMCD" => GOOD,
        "TCP" if waits.iter().any(|code| c.reason == reason::name(*code)) => WARN,
        "TCP" => BAD,
        _ => Style::new(),
    }
}

fn address(text: &str, wide: bool) -> String {
    if wide || text.chars().count() <= ADDRESS {
        return text.into();
    }
    // The port is the part that tells connections apart.
    let tail: String = text.chars().rev().take(ADDRESS - 2).collect();
    let tail: String = tail.chars().rev().collect();
    format!("..{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(connections: &[Connection], args: &SsArgs) -> String {
        let shown: Vec<_> = connections
            .iter()
            .filter(|c| asked(args, c))
            .cloned()
            .collect();
        anstream::adapter::strip_str(&text(&shown, args)).to_string()
    }

    fn samples() -> [Connection; 2] {
        let listening = Connection {
            state: "LISTEN".into(),
            mode: "LISTEN".into(),
            program: "listener".into(),
            ..Connection::default()
        };
        let tcp = Connection {
            state: "ACTIVE".into(),
            mode: "TCP".into(),
            local: "[fd00:1234:5678:9abc:def0:1234:5678:9abc]:5432".into(),
            program: "web".into(),
            reason: "NOT_LOCAL".into(),
            reason_code: "0x0a000004".into(),
            reason_words: "the peer is on another host".into(),
            peer_diagnosis: "0x03030007".into(),
            tcp_tx_bytes: 5,
            tcp_rx_bytes: 6,
            ..Connection::default()
        };
        [listening, tcp]
    }

    #[test]
    fn the_reason_is_there_in_words_and_code() {
        let some = plain(&samples(), &SsArgs::default());
        assert!(some.contains("TCP 0x0a000004/0x03030007"), "{some}");
        assert!(some.contains("the peer is on another host (NOT_LOCAL)"));
        assert!(some.contains("  11  ") && !some.contains("listener"));
        assert!(some.contains("..") && some.contains(":5432"), "{some}");
    }

    #[test]
    fn options_choose_rows_and_columns() {
        let all = SsArgs {
            all: true,
            wide: true,
            ..SsArgs::default()
        };
        let text = plain(&samples(), &all);
        assert!(text.contains("listener") && text.contains("[fd00:1234:5678"));
        let listening = SsArgs {
            listening: true,
            ..SsArgs::default()
        };
        let text = plain(&samples(), &listening);
        assert!(text.contains("listener") && !text.contains("web"));
        let debug = SsArgs {
            debug: true,
            ..SsArgs::default()
        };
        assert!(plain(&samples(), &debug).contains("txFlags"));
        assert_eq!((wanted(&all), wanted(&debug)), (ss::INIT, ss::CURSORS));
    }
}
