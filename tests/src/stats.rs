//! What `smclo stats --json` and `smclo ss --json` say.

use protocol::reason;
use serde_json::Value;

/// Totals of a daemon.
#[derive(Clone, Debug)]
pub struct Stats {
    pub raw: Value,
}

impl Stats {
    /// A counter by its key, 0 when absent.
    pub fn get(&self, key: &str) -> u64 {
        self.raw.get(key).and_then(Value::as_u64).unwrap_or(0)
    }

    /// A counter that has to be there.
    #[track_caller]
    pub fn must(&self, key: &str) -> u64 {
        match self.raw.get(key).and_then(Value::as_u64) {
            Some(value) => value,
            None => panic!("no number {key:?} in {}", self.raw),
        }
    }

    pub fn smc_bytes(&self) -> u64 {
        self.must("smc_bytes")
    }

    pub fn tcp_bytes(&self) -> u64 {
        self.must("tcp_bytes")
    }

    /// Share of all bytes that went over SMC since `before`, 0 when there were none.
    pub fn share_smc(&self, before: &Stats) -> f64 {
        let smc = self.smc_bytes().saturating_sub(before.smc_bytes());
        let tcp = self.tcp_bytes().saturating_sub(before.tcp_bytes());
        smc as f64 / (smc + tcp).max(1) as f64
    }

    /// How many connections ended on TCP for a reason.
    pub fn fallbacks(&self, code: u32) -> u64 {
        let counts = self.raw["fallbacks"].as_object();
        let counts = counts.into_iter().flatten();
        let mine = counts.filter(|(key, _)| names(key, code));
        mine.filter_map(|(_, count)| count.as_u64()).sum()
    }

    /// Empty totals, as of a daemon that nobody has used.
    pub fn zero() -> Stats {
        Stats {
            raw: serde_json::json!({"smc_bytes": 0, "tcp_bytes": 0, "fallbacks": {}}),
        }
    }
}

/// Does a text that the tool prints stand for this reason?
fn names(text: &str, code: u32) -> bool {
    text == reason::name(code) || text == reason::words(code)
}

/// One row of `smclo ss`.
#[derive(Clone, Debug)]
pub struct Socket {
    pub raw: Value,
}

impl Socket {
    pub fn text(&self, key: &str) -> &str {
        self.raw.get(key).and_then(Value::as_str).unwrap_or("")
    }

    pub fn number(&self, key: &str) -> u64 {
        self.raw.get(key).and_then(Value::as_u64).unwrap_or(0)
    }

    /// True when one end has this port.
    pub fn has_port(&self, port: u16) -> bool {
        let end = format!(":{port}");
        self.text("local").ends_with(&end) || self.text("peer").ends_with(&end)
    }

    /// True when the row says that it is TCP for this reason.
    pub fn is_tcp_for(&self, code: u32) -> bool {
        self.text("mode") == "TCP" && names(self.text("reason"), code)
    }

    pub fn is_smcd(&self) -> bool {
        self.text("mode") == "SMCD"
    }
}
