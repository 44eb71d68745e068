//! What the tool is told, as JSON. The names of the fields are a contract.

use protocol::stats::SIZES;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One connection of `smclo ss`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    pub pid: u32,
    pub program: String,
    pub local: String,
    pub peer: String,
    /// As `smcss` names them: `ACTIVE`, `LISTEN`, `APPCLOSEWAIT1`, ...
    pub state: String,
    pub inode: u64,
    /// While `inode` is 0: a descriptor of the process, which tells the addresses. See
    /// [`crate::tool::sockets`].
    #[serde(default)]
    pub fd: u32,
    /// `SMCD`, `TCP` or `LISTEN`.
    pub mode: String,
    /// Name of the reason; empty when there is none.
    pub reason: String,
    pub reason_code: String,
    pub reason_words: String,
    /// Code of the peer's Decline, or empty.
    pub peer_diagnosis: String,
    pub smc_tx_bytes: u64,
    pub smc_rx_bytes: u64,
    pub tcp_tx_bytes: u64,
    pub tcp_rx_bytes: u64,
    pub upgrades: u32,
    pub reverts: u32,
    pub rings: u64,
    pub sleeps: u64,
    pub spin_hits: u64,
    pub spin_misses: u64,
    /// Sends that found the ring full.
    pub ring_full: u64,
    /// Messages over the ring by size, see [`SIZE_NAMES`].
    pub sent_sizes: Sizes,
    pub received_sizes: Sizes,
    pub lgr: String,
    pub token: String,
    pub peer_token: String,
    pub dmb: u32,
    pub peer_dmb: u32,
    /// Private send buffer; 0 in the no-copy mode, where the peer's DMB is it.
    pub sndbuf: u32,
    pub uid: u32,
    pub cookie: u64,
    /// This end connected, else it accepted.
    pub client: bool,
    /// Of either end: both are on the one device.
    pub gid: String,
    /// `<->`, or what is shut: `R->`, `<-W`, `R-W`.
    pub shut: String,
    /// Only when asked for, and while the connection has DMBs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cursors: Option<Cursors>,
}

/// Where both streams of a connection stand, as published to the peer: `wrap:count`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursors {
    pub rx_prod: String,
    pub rx_cons: String,
    pub tx_prod: String,
    pub tx_cons: String,
    /// `producer flags:connection state flags`, as published by the peer and by this end.
    pub rx_flags: String,
    pub tx_flags: String,
}

/// Counts of messages by size.
pub type Sizes = [u64; SIZES];

/// Sizes up to which each class goes.
pub const SIZE_NAMES: [&str; SIZES] = ["64", "512", "4K", "32K", "256K", "2M", ">2M"];

/// Counts over connections, living and gone, since the daemon started or the last reset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    pub smc_bytes: u64,
    pub tcp_bytes: u64,
    pub smc_tx_bytes: u64,
    pub smc_rx_bytes: u64,
    pub tcp_tx_bytes: u64,
    pub tcp_rx_bytes: u64,
    /// Connections that were on a ring at some time, and that were not.
    pub accelerated: u64,
    pub plain: u64,
    pub upgrades: u64,
    pub reverts: u64,
    /// Why connections are, or ended, on TCP.
    pub fallbacks: BTreeMap<String, u64>,
    /// Those of `plain` and `fallbacks` that exist now.
    pub plain_now: u64,
    pub fallbacks_now: BTreeMap<String, u64>,
    pub sent_sizes: Sizes,
    pub received_sizes: Sizes,
    pub ring_full: u64,
    pub rings: u64,
    pub sleeps: u64,
    pub spin_hits: u64,
    pub spin_misses: u64,
    /// Connections that exist now.
    pub connections: u64,
}

/// A program with the processes that it forked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessStats {
    pub program: String,
    pub uid: u32,
    pub pids: Vec<u32>,
    #[serde(flatten)]
    pub counts: Counts,
}

/// A user, programs that have ended included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UserStats {
    pub uid: u32,
    pub dmb_bytes: u64,
    #[serde(flatten)]
    pub counts: Counts,
}

/// What the programs of one `smclo run --require` came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// Programs with TCP sockets that run, and that have ended.
    pub programs: u64,
    pub ended: u64,
    #[serde(flatten)]
    pub counts: Counts,
}

/// `smclo stats`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    #[serde(flatten)]
    pub counts: Counts,
    pub dmbs: u64,
    pub dmb_bytes: u64,
    pub link_groups: u64,
    pub claims_waiting: u64,
    pub clients: u64,
    /// Sessions refused because the program has another version of the library.
    pub other_versions: u64,
    /// The asker's own, root's all.
    pub processes: Vec<ProcessStats>,
    pub users: Vec<UserStats>,
}

/// `smclo trace`: what happened to one connection, seen from one end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    pub program: String,
    pub pid: u32,
    pub uid: u32,
    pub local: String,
    pub peer: String,
    pub client: bool,
    pub inode: u64,
    pub closed: bool,
    pub events: Vec<TraceEvent>,
    /// CLC messages of the handshake.
    pub messages: Vec<TraceMessage>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TraceEvent {
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    pub pid: u32,
    pub event: String,
    pub words: String,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub reason: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TraceMessage {
    pub time_ns: u64,
    pub sent: bool,
    pub hex: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    pub name: String,
    pub gid: String,
    pub chid: String,
    pub smcd_v2: bool,
    pub nocopy: bool,
    pub dmbs: u64,
    pub max_dmbs: u64,
    pub max_dmbs_per_uid: u64,
    pub max_claims_per_second: u32,
    pub dmb_bytes: u64,
    pub max_bytes_per_uid: u64,
    pub pairs: u64,
    pub link_groups: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkGroup {
    pub lgr: String,
    /// As `smcd` has them; on the loopback device there are none.
    pub vlan: u16,
    pub pnet_id: String,
    pub version: u8,
    pub peer_release: u8,
    pub peer_host: String,
    pub peer_os: String,
    /// By which both ends found each other on first contact.
    pub eid: String,
    pub uids: [u32; 2],
    pub pids: [u32; 2],
    pub programs: [String; 2],
    pub pairs: u64,
    pub dmbs: u64,
    pub dmbs_pooled: u64,
    pub dmb_bytes: u64,
    /// Private send buffers of both processes.
    pub sndbuf_bytes: u64,
    pub arena_bytes: u64,
    pub slots_in_use: u64,
    /// One of the processes is gone; it ends with its last pair.
    pub dying: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Eids {
    pub seid: String,
    pub seid_enabled: bool,
    pub ueids: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Info {
    pub version: String,
    pub protocol_version: u16,
    pub smc_version: String,
    pub pid: u32,
    pub uid: u32,
    pub socket: String,
    pub gid: String,
    pub chid: String,
    #[serde(flatten)]
    pub eids: Eids,
    pub uptime_seconds: u64,
    pub clients: u64,
    pub sessions: u64,
    /// Network namespaces of its clients, its own included.
    pub namespaces: u64,
    pub pairs_made: u64,
    pub claims_refused: u64,
    /// Taken back, because the other end has not claimed the connection.
    pub claims_unanswered: u64,
    pub protocol_errors: u64,
    /// Sessions of programs that have another version of the library: they stay on TCP.
    pub other_versions: u64,
}

/// A GID as a UUID.
pub fn uuid(gid: protocol::ids::Gid) -> String {
    let hex = format!("{gid}");
    let (a, b, c) = (&hex[..8], &hex[8..12], &hex[12..16]);
    format!("{a}-{b}-{c}-{}-{}", &hex[16..20], &hex[20..])
}

/// Name of a reason; unnamed codes as numbers, none for 0.
pub fn reason_name(code: u32) -> String {
    match (code, protocol::reason::name(code)) {
        (0, _) => String::new(),
        (_, "UNKNOWN") => format!("{code:#010x}"),
        (_, name) => name.into(),
    }
}
