//! From text to [`Policy`], with the place of everything that is wrong.

use super::value::{Value, Wrong, boolean, bytes, choice, network, number, ports, program, user};
use super::{Change, Limits, Policy, Rule};
use std::fmt;
use std::ops::Range;
use toml::de::DeTable;

/// Something to be said about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// From 1; columns count characters.
    pub line: usize,
    pub column: usize,
    pub error: bool,
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.error { "error" } else { "warning" };
        let Finding { line, column, .. } = self;
        write!(f, "line {line}, column {column}: {kind}: {}", self.text)
    }
}

/// A file as understood. With an error in it, the policy is the default one.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    pub policy: Policy,
    pub findings: Vec<Finding>,
}

impl Parsed {
    pub fn is_valid(&self) -> bool {
        !self.findings.iter().any(|f| f.error)
    }
}

/// Rules of one file at most.
const MAX_RULES: usize = 1000;
const SPIN_MAX: u64 = 10_000;

const SETTINGS: &str = "accelerate, when, claim_after_exchanges, claim_after_bytes, mode, \
                        receive_buffer, spin_us, connections";

/// Reads a policy. `system`: it is the system's file, which may name users and set limits.
pub fn parse(text: &str, system: bool) -> Parsed {
    let mut reader = Reader {
        text,
        system,
        findings: Vec::new(),
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut policy = Policy::default();
    for error in &errors {
        reader.error(error.span().unwrap_or(0..0), error.message());
    }
    if errors.is_empty() {
        policy = reader.policy(table.get_ref());
    }
    let mut findings = reader.findings;
    findings.sort_by_key(|f| (f.line, f.column));
    if findings.iter().any(|f| f.error) {
        policy = Policy::default();
    }
    Parsed { policy, findings }
}

struct Reader<'t> {
    text: &'t str,
    system: bool,
    findings: Vec<Finding>,
}

impl Reader<'_> {
    fn say(&mut self, span: Range<usize>, error: bool, text: impl Into<String>) {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        self.findings.push(Finding {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            error,
            text: text.into().replace('\n', " "),
        });
    }

    fn error(&mut self, span: Range<usize>, text: impl Into<String>) {
        self.say(span, true, text);
    }

    fn unknown(&mut self, span: Range<usize>, key: &str, known: &str) {
        self.say(
            span,
            false,
            format!("unknown key {key:?}; known are {known}"),
        );
    }

    fn take<T>(&mut self, key: &str, value: Result<T, Wrong>) -> Option<T> {
        match value {
            Ok(value) => Some(value),
            Err((span, why)) => {
                self.error(span, format!("{key}: {why}"));
                None
            }
        }
    }

    fn policy(&mut self, table: &DeTable<'_>) -> Policy {
        let mut policy = Policy::default();
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            match name {
                "rule" => policy.rules = self.rules(value),
                "limits" if self.system => policy.limits = self.limits(value),
                "trust" if self.system => policy.trust = self.trust(value),
                "limits" | "trust" => {
                    let text = format!("{name} counts only in the system's file");
                    self.say(key.span(), false, text);
                }
                _ if self.change(&mut policy.change, name, value) => {}
                _ => self.unknown(
                    key.span(),
                    name,
                    &format!("{SETTINGS}, rule, limits, trust"),
                ),
            }
        }
        policy
    }

    /// False: it is no such key.
    fn change(&mut self, change: &mut Change, key: &str, value: Value<'_, '_>) -> bool {
        match key {
            "accelerate" => change.accelerate = self.take(key, boolean(value)),
            "when" => {
                let words = ["traffic", "first-byte"];
                change.eager = self.take(key, choice(value, words)).map(|n| n == 1);
            }
            "mode" => {
                let words = ["nocopy", "copy"];
                change.copy = self.take(key, choice(value, words)).map(|n| n == 1);
            }
            "claim_after_exchanges" => {
                let n = self.take(key, number(value, 0..=u64::from(u32::MAX)));
                change.exchanges = n.map(|n| n as u32);
            }
            "claim_after_bytes" => change.bytes = self.take(key, bytes(value, 0..=1 << 50)),
            "receive_buffer" => {
                let n = self.take(key, bytes(value, 0..=1 << 30));
                change.receive_buffer = n.map(|n| n as u32);
            }
            "spin_us" => {
                let n = self.take(key, number(value, 0..=SPIN_MAX));
                change.spin_us = n.map(|n| n as u32);
            }
            "connections" => {
                change.connections = self.take(key, number(value, 0..=u64::from(u32::MAX)));
            }
            _ => return false,
        }
        true
    }

    fn rules(&mut self, value: Value<'_, '_>) -> Vec<Rule> {
        let Some(all) = value.get_ref().as_array() else {
            self.error(value.span(), "rules are written as [[rule]]");
            return Vec::new();
        };
        if all.len() > MAX_RULES {
            self.error(value.span(), format!("more than {MAX_RULES} rules"));
            return Vec::new();
        }
        let mut rules = Vec::new();
        for value in all {
            match value.get_ref().as_table() {
                Some(table) => rules.push(self.rule(table, value.span())),
                None => self.error(value.span(), "rules are written as [[rule]]"),
            }
        }
        rules
    }

    fn rule(&mut self, table: &DeTable<'_>, span: Range<usize>) -> Rule {
        let mut rule = Rule::default();
        let mut settings = Vec::new();
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let system = self.system;
            match name {
                "program" => rule.programs = self.list(name, value, program),
                "port" => rule.ports = self.list(name, value, ports),
                "address" => rule.addresses = self.list(name, value, network),
                "uid" => rule.uids = self.list(name, value, |v| user(v, system)),
                _ if self.change(&mut rule.change, name, value) => {
                    settings.push((name, key.span()))
                }
                _ => {
                    let known = format!("program, uid, port, address, {SETTINGS}");
                    self.unknown(key.span(), name, &known);
                }
            }
        }
        if settings.is_empty() {
            self.say(span, false, "this rule changes nothing");
        }
        if rule.is_narrow() {
            for (name, span) in settings
                .into_iter()
                .filter(|(name, _)| *name != "accelerate")
            {
                let why = "a rule with port or address can say only \"accelerate\"";
                self.error(span, format!("{name}: {why}"));
            }
        }
        rule
    }

    /// One value, or an array of them.
    fn list<T>(
        &mut self,
        key: &str,
        value: Value<'_, '_>,
        one: impl Fn(Value<'_, '_>) -> Result<T, Wrong>,
    ) -> Vec<T> {
        match value.get_ref().as_array() {
            Some(all) if all.is_empty() => {
                self.error(value.span(), format!("{key}: an empty list is for nobody"));
                Vec::new()
            }
            Some(all) => all.iter().filter_map(|v| self.take(key, one(v))).collect(),
            None => self.take(key, one(value)).into_iter().collect(),
        }
    }

    fn trust(&mut self, value: Value<'_, '_>) -> Vec<Vec<u32>> {
        let groups = value.get_ref().as_array();
        let Some(groups) = groups.filter(|all| all.iter().all(|g| g.get_ref().is_array())) else {
            let why = "trust: lists of users within a list, such as [[\"root\", \"www-data\"]]";
            self.error(value.span(), why);
            return Vec::new();
        };
        let all = groups.iter();
        all.map(|group| self.list("trust", group, |v| user(v, true)))
            .collect()
    }

    fn limits(&mut self, value: Value<'_, '_>) -> Limits {
        let mut limits = Limits::default();
        let Some(table) = value.get_ref().as_table() else {
            self.error(value.span(), "limits are written below [limits]");
            return limits;
        };
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            match name {
                "dmbs" => limits.dmbs = self.take(name, number(value, 2..=1 << 24)),
                "bytes_per_user" => {
                    limits.bytes_per_user = self.take(name, bytes(value, 32 << 10..=1 << 50));
                }
                "claims_per_process" => {
                    limits.claims_per_process = self.take(name, number(value, 1..=1 << 20));
                }
                _ => self.unknown(key.span(), name, "dmbs, bytes_per_user, claims_per_process"),
            }
        }
        limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The findings as text.
    fn said(text: &str) -> Vec<String> {
        parse(text, true)
            .findings
            .iter()
            .map(Finding::to_string)
            .collect()
    }

    #[test]
    fn errors_have_their_place() {
        for (text, start) in [
            (
                "spin_us = 'x'",
                "line 1, column 11: error: spin_us: a number from 0 to 10000",
            ),
            (
                "\n\n  mode = \"fast\"",
                "line 3, column 10: error: mode: say \"nocopy\" or \"copy\"",
            ),
            (
                "# ü\n[[rule]]\nport = [1, 70000]",
                "line 3, column 12: error: port: a port",
            ),
            (
                "[[rule]]\naddress = '10.0.0.0/33'",
                "line 2, column 11: error: address: an IP",
            ),
            ("[[rule]]\nport = '9-8'", "line 2, column 8: error: port"),
            (
                "[[rule]]\nport = 1\nmode = 'copy'",
                "line 3, column 1: error: mode: a rule with",
            ),
            (
                "[[rule]]\nuid = 'no-such-user-here'",
                "line 2, column 7: error: uid: there is no",
            ),
            (
                "receive_buffer = '2x'",
                "line 1, column 18: error: receive_buffer: bytes",
            ),
            ("rule = 1", "line 1, column 8: error: rules are"),
            (
                "trust = ['root', 'daemon']",
                "line 1, column 9: error: trust: lists of users",
            ),
            (
                "trust = [[0], ['no-such-user-here']]",
                "line 1, column 16: error: trust: there is no such user",
            ),
            (
                "accelerate = 1",
                "line 1, column 14: error: accelerate: say true or false",
            ),
            ("a = ", "line 1, column "),
        ] {
            let said = said(text);
            assert!(
                said.iter().any(|s| s.starts_with(start)),
                "{text}: {said:?}"
            );
            assert_eq!(parse(text, true).policy, Policy::default());
        }
    }

    #[test]
    fn unknown_keys_warn_and_the_rest_counts() {
        let text = "spin = 5\nspin_us = 7\n[[rule]]\nprograms = 'x'\n[limits]\ndmb = 4";
        let parsed = parse(text, true);
        assert!(parsed.is_valid());
        assert_eq!(parsed.policy.change.spin_us, Some(7));
        let said = said(text);
        assert!(said[0].starts_with("line 1, column 1: warning: unknown key \"spin\""));
        assert!(
            said.iter()
                .any(|s| s.starts_with("line 4, column 1: warning: unknown key"))
        );
        assert!(said.iter().any(|s| s.contains("changes nothing")));
        assert!(
            said.iter()
                .any(|s| s.starts_with("line 6, column 1: warning"))
        );
    }

    #[test]
    fn a_user_has_no_limits_and_no_names() {
        let parsed = parse(
            "trust = [[0, 1]]\n[limits]\ndmbs = 4\n[[rule]]\nuid = 'root'\nspin_us = 1",
            false,
        );
        assert!(!parsed.is_valid());
        let said: Vec<_> = parsed.findings.iter().map(Finding::to_string).collect();
        for text in [
            "trust counts only",
            "limits counts only",
            "users are named only",
        ] {
            assert!(said.iter().any(|s| s.contains(text)), "{said:?}");
        }
    }

    #[test]
    fn everything_at_once() {
        let text = r#"
            accelerate = true
            when = "first-byte"
            claim_after_exchanges = 0x10
            claim_after_bytes = "1m"
            mode = "copy"
            receive_buffer = 65536
            spin_us = 0
            connections = 100
            [limits]
            dmbs = 1000
            bytes_per_user = "1g"
            claims_per_process = 10
            [[rule]]
            program = ["a", "b*"]
            port = "80-90"
            accelerate = false
        "#;
        let parsed = parse(text, true);
        assert_eq!(parsed.findings, []);
        let change = &parsed.policy.change;
        assert_eq!((change.eager, change.exchanges), (Some(true), Some(16)));
        assert_eq!(change.receive_buffer, Some(65536));
        assert_eq!(parsed.policy.limits.bytes_per_user, Some(1 << 30));
        assert_eq!(parsed.policy.rules[0].ports, [80..=90]);
    }
}
