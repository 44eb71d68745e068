//! Instructions of the library for a call, or for all calls of a short connection, counted by callgrind: numbers that do not depend on what
//! else the machine does.
//!
//! Only the library's own instructions count, not those of libc or of the calling program.

use crate::workload::own_program;
use clap::ValueEnum;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;
use tests::Lab;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// send of 8 bytes on a ring
    RingSend,
    /// recv of 8 bytes that are there
    RingRecv,
    RingSend4k,
    RingRecv4k,
    /// epoll_wait that finds one connection on a ring ready
    RingEpoll,
    /// Calls on descriptors that are not ours: what the library adds to them
    OtherSend,
    OtherRecv,
    OtherWrite,
    OtherRead,
    /// Likewise on a connection with the policy off
    OffSend,
    OffRecv,
    OffEpoll,
    /// All calls of one end of a connection that is over after one exchange
    ShortClient,
    ShortServer,
}

impl Case {
    pub fn name(self) -> String {
        let value = self.to_possible_value().expect("no case is hidden");
        value.get_name().to_owned()
    }

    /// Whether bytes have to go over a ring.
    fn ring(self) -> bool {
        use Case::*;
        matches!(
            self,
            RingSend | RingRecv | RingSend4k | RingRecv4k | RingEpoll
        )
    }

    fn policy(self) -> tests::Policy {
        use Case::*;
        match self {
            OffSend | OffRecv | OffEpoll => tests::Policy::Off,
            ShortClient | ShortServer => tests::Policy::Default,
            _ => tests::Policy::Eager,
        }
    }

    fn short(self) -> bool {
        matches!(self, Case::ShortClient | Case::ShortServer)
    }

    /// What is counted in a run: calls, or connections.
    pub fn times(self) -> usize {
        if self.short() { MESSAGES / 8 } else { MESSAGES }
    }
}

/// Calls in a run.
const MESSAGES: usize = 3200;

/// Instructions of the library for one call.
pub fn count(case: Case) -> Result<f64, String> {
    let lab = Lab::start();
    let out = lab.dir().join("callgrind");
    let outcome = lab
        .shim("valgrind")
        .policy(case.policy())
        .args(["--tool=callgrind", "--collect-atstart=no"])
        .arg("--toggle-collect=measured_section")
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(own_program("counted"))
        .arg(case.name())
        .limit(Duration::from_secs(100))
        .finish();
    if !outcome.success() {
        return Err(outcome.to_string());
    }
    let share = lab.settled().share_smc(&tests::Stats::zero());
    if case.ring() && share < 0.5 {
        return Err(format!(
            "only {:.1} % of the bytes went over SMC",
            share * 100.0
        ));
    }
    let text = fs::read_to_string(&out).map_err(|e| e.to_string())?;
    let library = tests::artefacts::library();
    let name = library.file_name().and_then(|n| n.to_str()).unwrap_or("");
    Ok(of_object(&text, name) as f64 / case.times() as f64)
}

/// Instructions in one object, from callgrind's output: its own, without those that it called.
pub fn of_object(text: &str, name: &str) -> u64 {
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    let mut current = "";
    let mut inclusive = false;
    let mut total = 0;
    for line in text.lines() {
        // "(7) /path" names an object, "(7)" repeats it.
        if let Some(object) = line.strip_prefix("ob=").or(line.strip_prefix("cob=")) {
            let (id, path) = object.split_once(' ').unwrap_or((object, ""));
            if !path.is_empty() {
                names.insert(id, path);
            }
            if line.starts_with("ob=") {
                current = names.get(id).copied().unwrap_or("");
            }
        } else if line.starts_with("calls=") {
            inclusive = true;
        } else if line.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c)) {
            let cost = line.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok());
            if !inclusive && current.ends_with(name) {
                total += cost.unwrap_or(0);
            }
            inclusive = false;
        }
    }
    total
}

/// Counts by case, for one way of building.
pub type Counts = BTreeMap<String, f64>;

/// The counts that are checked in, by build profile.
#[derive(Clone, Debug, Default)]
pub struct Baseline(BTreeMap<String, Counts>);

impl Baseline {
    pub fn read(file: &Path) -> Result<Baseline, String> {
        let text = fs::read_to_string(file).unwrap_or_else(|_| "{}".into());
        let all = serde_json::from_str(&text);
        Ok(Baseline(
            all.map_err(|e| format!("{}: {e}", file.display()))?,
        ))
    }

    pub fn of(&self, profile: &str) -> Option<&Counts> {
        self.0.get(profile)
    }

    pub fn put(&mut self, profile: &str, counts: Counts) {
        self.0.insert(profile.into(), counts);
    }

    pub fn write(&self, file: &Path) -> std::io::Result<()> {
        let text = serde_json::to_string_pretty(&self.0).expect("plain data");
        fs::write(file, text + "\n")
    }
}

#[cfg(test)]
mod tests_of_output {
    use super::*;

    const OUTPUT: &str = "version: 1\n\
        events: Ir\n\
        ob=(1) /usr/bin/counted\n\
        fl=(1) x.rs\n\
        fn=(1) work\n\
        10 5\n\
        cob=(2) /target/libsmclo.so\n\
        cfn=(2) send\n\
        calls=3 20\n\
        +1 900\n\
        ob=(2)\n\
        fn=(2)\n\
        20 100\n\
        * 11\n\
        cob=(3) /lib/libc.so.6\n\
        cfn=(3) memcpy\n\
        calls=1 0\n\
        -2 700\n\
        +3 7\n";

    #[test]
    fn own_instructions_are_summed() {
        assert_eq!(of_object(OUTPUT, "libsmclo.so"), 118);
        assert_eq!(of_object(OUTPUT, "counted"), 5);
        assert_eq!(of_object(OUTPUT, "libc.so.6"), 0);
    }

    #[test]
    fn baselines_go_to_files_and_back() {
        let file = std::env::temp_dir().join(format!("baseline-{}", std::process::id()));
        let mut baseline = Baseline::read(&file).unwrap();
        assert!(baseline.of("ci").is_none());
        baseline.put("ci", Counts::from([("ring-send".into(), 100.5)]));
        baseline.write(&file).unwrap();
        let back = Baseline::read(&file).unwrap();
        assert_eq!(back.of("ci").unwrap()["ring-send"], 100.5);
        fs::remove_file(file).unwrap();
    }
}
