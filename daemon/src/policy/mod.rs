//! Policy: what is accelerated, and how. Files in TOML, read by the daemon alone; a client gets the
//! settings that hold for its program with the greeting, and the daemon judges each claim.
//!
//! Later words win: the built-in settings, the system's file, the user's file (whose text the client
//! hands over), and in the client the `SMCLO_*` variables. Within a file, the settings at its top,
//! then its rules from first to last.

mod file;
mod judge;
mod parse;
mod value;

pub use file::{Source, USER_FILE, user_file};
pub use parse::{Finding, Parsed, parse};

use protocol::ctl::{Endpoint, Settings};
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// What a file or a rule changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub accelerate: Option<bool>,
    pub eager: Option<bool>,
    pub exchanges: Option<u32>,
    pub bytes: Option<u64>,
    pub copy: Option<bool>,
    pub receive_buffer: Option<u32>,
    pub spin_us: Option<u32>,
    /// Accelerated connections of one process at one time.
    pub connections: Option<u64>,
}

/// Addresses that share their first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// IPv6, or IPv4 as mapped.
    bits: u128,
    len: u8,
}

impl Network {
    pub fn parse(text: &str) -> Option<Self> {
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len.parse::<u8>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let (bits, before, max) = match address {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped().to_bits(), 96, 32),
            IpAddr::V6(v6) => (v6.to_bits(), 0, 128),
        };
        let len = len.unwrap_or(max);
        (len <= max).then_some(Network {
            bits,
            len: before + len,
        })
    }

    fn has(&self, end: &Endpoint) -> bool {
        let differs = self.bits ^ u128::from_be_bytes(end.addr);
        differs.leading_zeros() >= u32::from(self.len)
    }
}

/// For whom a change holds. What is empty holds for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Names as in `/proc/PID/comm`; a `*` at the end stands for anything.
    pub programs: Vec<String>,
    pub uids: Vec<u32>,
    /// Of either end.
    pub ports: Vec<RangeInclusive<u16>>,
    pub addresses: Vec<Network>,
    pub change: Change,
}

/// A process as the rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Process<'a> {
    /// Without its padding.
    pub program: &'a [u8],
    pub uid: u32,
}

/// Longest name of a program that the kernel keeps.
const COMM: usize = 15;

impl Rule {
    fn is_for(&self, process: Process<'_>) -> bool {
        let named = |name: &String| {
            let (start, open) = match name.strip_suffix('*') {
                Some(start) => (start, true),
                None => (name.as_str(), false),
            };
            let start = &start.as_bytes()[..start.len().min(COMM)];
            process.program == start || (open && process.program.starts_with(start))
        };
        (self.programs.is_empty() || self.programs.iter().any(named))
            && (self.uids.is_empty() || self.uids.contains(&process.uid))
    }

    /// It looks at single connections.
    fn is_narrow(&self) -> bool {
        !self.ports.is_empty() || !self.addresses.is_empty()
    }

    fn has(&self, ends: [&Endpoint; 2]) -> bool {
        let port = |e: &&Endpoint| self.ports.iter().any(|p| p.contains(&e.port));
        let address = |e: &&Endpoint| self.addresses.iter().any(|a| a.has(e));
        (self.ports.is_empty() || ends.iter().any(port))
            && (self.addresses.is_empty() || ends.iter().any(address))
    }
}

/// Limits of the daemon (system's file only, read when it starts).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub dmbs: Option<u64>,
    pub bytes_per_user: Option<u64>,
    pub claims_per_process: Option<u64>,
}

/// One file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    pub change: Change,
    pub rules: Vec<Rule>,
    /// Users who share memory with each other, root like any (system's file only).
    pub trust: Vec<Vec<u32>>,
    pub limits: Limits,
}

impl Policy {
    /// Whether two users share memory: whoever is the same, and those who were said to.
    pub fn trusts(&self, one: u32, other: u32) -> bool {
        let both = |group: &Vec<u32>| group.contains(&one) && group.contains(&other);
        one == other || self.trust.iter().any(both)
    }
}

fn apply(settings: &mut Settings, change: &Change) {
    let on = |flag: bool| u8::from(flag);
    settings.accelerate = change.accelerate.map_or(settings.accelerate, on);
    settings.eager = change.eager.map_or(settings.eager, on);
    settings.copy = change.copy.map_or(settings.copy, on);
    settings.exchanges = change.exchanges.unwrap_or(settings.exchanges);
    settings.bytes = change.bytes.unwrap_or(settings.bytes);
    settings.rcvbuf = change.receive_buffer.unwrap_or(settings.rcvbuf);
    settings.spin_us = change.spin_us.unwrap_or(settings.spin_us);
}

/// The settings of a process. `accelerate` is on where a rule turns it on for some connections.
pub fn settings(policies: &[&Policy], process: Process<'_>) -> Settings {
    let mut settings = Settings::default();
    let mut some = false;
    for policy in policies {
        apply(&mut settings, &policy.change);
        for rule in policy.rules.iter().filter(|r| r.is_for(process)) {
            if rule.is_narrow() {
                some |= rule.change.accelerate == Some(true);
            } else {
                apply(&mut settings, &rule.change);
            }
        }
    }
    settings.accelerate |= u8::from(some);
    settings
}

/// Whether a connection of a process may be accelerated.
pub fn allows(policies: &[&Policy], process: Process<'_>, ends: [&Endpoint; 2]) -> bool {
    let mut allowed = true;
    for policy in policies {
        allowed = policy.change.accelerate.unwrap_or(allowed);
        for rule in policy.rules.iter().filter(|r| r.is_for(process)) {
            if rule.has(ends) {
                allowed = rule.change.accelerate.unwrap_or(allowed);
            }
        }
    }
    allowed
}

/// How many connections of a process may be accelerated at one time.
pub fn max_connections(policies: &[&Policy], process: Process<'_>) -> u64 {
    let mut most = u64::MAX;
    for policy in policies {
        most = policy.change.connections.unwrap_or(most);
        for rule in policy.rules.iter().filter(|r| r.is_for(process)) {
            most = rule.change.connections.unwrap_or(most);
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Policy {
        let parsed = parse(text, true);
        assert!(parsed.findings.is_empty(), "{:?}", parsed.findings);
        parsed.policy
    }

    fn v4(last: u8, port: u16) -> Endpoint {
        Endpoint::v4([127, 0, 0, last], port)
    }

    const WEB: Process<'_> = Process {
        program: b"nginx",
        uid: 33,
    };

    #[test]
    fn later_words_win() {
        let system =
            policy("spin_us = 10\nmode = 'copy'\n[[rule]]\nprogram = 'nginx'\nspin_us = 20");
        let user = policy("mode = 'nocopy'\nreceive_buffer = '64k'");
        let web = settings(&[&system, &user], WEB);
        assert_eq!((web.spin_us, web.copy, web.rcvbuf), (20, 0, 65536));
        let other = Process {
            program: b"redis",
            ..WEB
        };
        assert_eq!(settings(&[&system], other).spin_us, 10);
        assert_eq!(settings(&[], other), Settings::default());
    }

    #[test]
    fn rules_choose_connections() {
        let text = "
            [[rule]]
            port = [5432, '6000-6010']
            accelerate = false
            [[rule]]
            address = ['127.0.0.8/29', 'fd00::/16']
            program = 'ngi*'
            accelerate = true";
        let policy = policy(text);
        let may = |a: u8, port: u16| allows(&[&policy], WEB, [&v4(a, port), &v4(1, 40000)]);
        assert!(may(1, 80) && !may(1, 5432) && !may(1, 6010) && may(1, 6011));
        assert!(may(9, 5432) && !may(16, 5432));
        let other = Process {
            program: b"psql",
            ..WEB
        };
        assert!(!allows(&[&policy], other, [&v4(9, 5432), &v4(1, 1)]));
    }

    #[test]
    fn off_but_for_one_port_leaves_the_program_on() {
        let policy = policy("accelerate = false\n[[rule]]\nport = 80\naccelerate = true");
        assert_eq!(settings(&[&policy], WEB).accelerate, 1);
        assert!(allows(&[&policy], WEB, [&v4(1, 80), &v4(1, 9)]));
        assert!(!allows(&[&policy], WEB, [&v4(1, 81), &v4(1, 9)]));
    }

    #[test]
    fn users_trust_each_other_within_a_group() {
        let policy = policy("trust = [['root', 33], [33, 44, 45]]");
        let all = [0, 33, 44, 45, 46];
        let trusts = |a: u32| all.map(|b| policy.trusts(a, b));
        assert_eq!(trusts(0), [true, true, false, false, false]);
        assert_eq!(trusts(33), [true, true, true, true, false]);
        assert_eq!(trusts(44), [false, true, true, true, false]);
        assert_eq!(trusts(46), [false, false, false, false, true]);
        assert!(!Policy::default().trusts(0, 33));
    }

    #[test]
    fn users_and_long_names() {
        let policy = policy(
            "[[rule]]\nuid = [33, 'root']\nprogram = 'a-very-long-name-of-a-program'\nconnections = 5",
        );
        let long = Process {
            program: b"a-very-long-nam",
            uid: 0,
        };
        assert_eq!(max_connections(&[&policy], long), 5);
        let stranger = Process { uid: 34, ..long };
        assert_eq!(max_connections(&[&policy], stranger), u64::MAX);
    }
}
