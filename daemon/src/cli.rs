//! The command lines of `smclo` and `smclod`: parsed by the programs, and the source of the man
//! pages and completions.

use crate::config::{Config, size};
use crate::eid;
use crate::tool::revert::{self, Target};
use crate::tool::trace::Wanted;
use clap::error::{ContextKind, ErrorKind};
use clap::{Args, Command, CommandFactory, Parser, Subcommand};
use protocol::ids::Eid;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Runs programs over shared memory instead of loopback TCP, and shows what happens.
#[derive(Debug, Parser)]
#[command(name = "smclo", version, max_term_width = 100)]
pub struct Cli {
    /// Socket of the daemon; else $SMCLO_SOCKET, else the usual places.
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub what: What,
}

#[derive(Debug, Subcommand)]
pub enum What {
    /// Run a command with its local TCP connections over shared memory.
    Run(RunArgs),
    /// List connections, what carries them and why.
    Ss(SsArgs),
    /// Tell what happened to a connection: claim, handshake, changes between ring and TCP.
    Trace(TraceArgs),
    /// Send connections back to TCP, for some time.
    Revert(RevertArgs),
    /// Show totals, or set them to zero.
    Stats(StatsArgs),
    /// Show the loopback device.
    Device,
    /// List link groups.
    #[command(alias = "linkgroup")]
    Linkgroups(LinkgroupArgs),
    /// Show the daemon.
    Info,
    /// Watch connections by rate.
    Top(TopArgs),
    /// Say whether and why a program can or cannot be accelerated, and what to do.
    Doctor {
        /// A running process or a command; without one, the host alone is looked at.
        #[arg(value_name = "PID|COMMAND")]
        subject: Option<OsString>,
    },
    /// Policy files.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// List user EIDs, or change the list.
    Ueid {
        #[command(subcommand)]
        what: Option<Ueid>,
    },
    /// Show the system EID, or turn it on or off.
    Seid {
        #[command(subcommand)]
        what: Option<Seid>,
    },
}

#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub struct RunArgs {
    /// Let the library print what it does.
    #[arg(short)]
    pub debug: bool,
    /// Settings for a purpose; what is set in the environment or by an option stays.
    #[arg(short, long, value_enum, default_value = "safe")]
    pub profile: Profile,
    /// Stay, and fail with the reason (status 3) when nothing could be accelerated.
    #[arg(long)]
    pub require: bool,
    /// Receive buffer (SMC_RCVBUF), a number with an optional suffix k or m.
    #[arg(short, value_name = "SIZE", value_parser = buffer)]
    pub rcvbuf: Option<u64>,
    /// Send buffer (SMC_SNDBUF), a number with an optional suffix k or m.
    #[arg(short = 't', value_name = "SIZE", value_parser = buffer)]
    pub sndbuf: Option<u64>,
    /// Print the version.
    #[arg(short = 'v', action = clap::ArgAction::SetTrue)]
    pub version: bool,
    /// The command and its arguments.
    #[arg(
        trailing_var_arg = true,
        required_unless_present = "version",
        value_name = "COMMAND"
    )]
    pub command: Vec<OsString>,
}

/// Sets of settings for `smclo run`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// The built-in settings, or what the policy files say.
    #[default]
    Safe,
    /// Accelerate early and spin longer: round trips count more than processor time.
    Latency,
    /// Large rings and no spinning: bytes count more than round trips.
    Throughput,
}

impl Profile {
    /// Variables that it sets.
    pub fn variables(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Profile::Safe => &[],
            Profile::Latency => &[
                ("SMCLO_CLAIM_EXCHANGES", "2"),
                ("SMCLO_CLAIM_BYTES", "4k"),
                ("SMCLO_SPIN_US", "200"),
            ],
            Profile::Throughput => &[
                ("SMCLO_CLAIM_BYTES", "16k"),
                ("SMC_RCVBUF", "1m"),
                ("SMCLO_SPIN_US", "0"),
            ],
        }
    }
}

#[derive(Debug, Default, Args)]
pub struct SsArgs {
    /// Listening sockets too, and those that are not connected yet.
    #[arg(short, long)]
    pub all: bool,
    /// Only listening sockets.
    #[arg(short, long, conflicts_with_all = ["all", "debug"])]
    pub listening: bool,
    /// Buffers, cursors, flags, GID and tokens too.
    #[arg(short, long)]
    pub debug: bool,
    /// Addresses in full.
    #[arg(short = 'W', long)]
    pub wide: bool,
}

#[derive(Debug, Args)]
pub struct LinkgroupArgs {
    /// What both ends agreed on and their buffers, a block for each group.
    #[arg(short, long)]
    pub details: bool,
    /// Only this one.
    #[arg(value_name = "LG-ID", value_parser = lgr)]
    pub id: Option<u32>,
}

fn lgr(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 16)
        .map_err(|_| "a number as the list shows it, such as 00000100".into())
}

#[derive(Debug, Args)]
pub struct RevertArgs {
    /// A process, or a connection by the address and port of one end.
    #[arg(value_name = "PID|ADDRESS:PORT", value_parser = Target::parse)]
    pub target: Target,
    /// How long it stays there, in seconds; 0 ends an earlier order.
    #[arg(long = "for", value_name = "SECONDS", default_value = "10", value_parser = revert::time)]
    pub milliseconds: u64,
}

#[derive(Debug, Args)]
pub struct TopArgs {
    /// Seconds between looks.
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    pub interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let why = "a number of seconds from 0.1 to 3600";
    let seconds: f64 = text.parse().map_err(|_| why)?;
    if !(0.1..=3600.0).contains(&seconds) {
        return Err(why.into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[derive(Debug, Args)]
pub struct TraceArgs {
    /// The connection: a port, or ADDRESS:PORT, of either end.
    #[arg(value_name = "CONN", value_parser = Wanted::parse)]
    pub connection: Wanted,
    /// Only so many connections, the latest.
    #[arg(short, long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    pub number: u16,
    /// Write the CLC messages into a capture file, for
    /// "tshark -o tcp.try_heuristic_first:TRUE -r FILE" or Wireshark with that setting.
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct StatsArgs {
    /// Print them as Prometheus reads them.
    #[arg(long, conflicts_with = "json")]
    pub prometheus: bool,
    #[command(subcommand)]
    pub reset: Option<Reset>,
}

#[derive(Debug, Subcommand)]
pub enum Reset {
    /// Set the totals to zero.
    Reset,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say what is wrong with policy files; with line and column.
    Check {
        /// The files; else the system's and the user's.
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Read them as the user's: no limits, no names of users.
        #[arg(long)]
        user: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum Ueid {
    /// Add an EID.
    Add {
        #[arg(value_parser = eid::parse)]
        eid: Eid,
    },
    /// Remove an EID.
    Del {
        #[arg(value_parser = eid::parse)]
        eid: Eid,
    },
    /// Remove all.
    Flush,
    /// List the EIDs.
    Show,
}

#[derive(Debug, Subcommand)]
pub enum Seid {
    /// Let it take part in the match.
    Enable,
    /// Leave it out of the match.
    Disable,
    /// Show it.
    Show,
}

fn buffer(text: &str) -> Result<u64, String> {
    match size(text)? {
        0 => Err("a buffer has at least one byte".into()),
        bytes if bytes > i32::MAX as u64 => Err("at most 2047m".into()),
        bytes => Ok(bytes),
    }
}

/// The whole command line of `smclo`.
pub fn smclo() -> Command {
    Cli::command()
}

/// The whole command line of `smclod`.
pub fn smclod() -> Command {
    Config::command()
}

/// As [`parse`]; tells besides whether an option was given, by its field's name.
pub fn parse_given<T: Parser>() -> (T, impl Fn(&str) -> bool) {
    let parsed = parse::<T>();
    let matches = T::command().get_matches();
    let given =
        move |id: &str| matches.value_source(id) == Some(clap::parser::ValueSource::CommandLine);
    (parsed, given)
}

/// Parses the arguments of this process. Wrong ones end it with one sentence and status 2.
pub fn parse<T: Parser>() -> T {
    T::try_parse().unwrap_or_else(|e| {
        if !e.use_stderr() {
            e.exit();
        }
        let name = T::command().get_name().to_owned();
        anstream::eprintln!("{name}: {}", sentence(&e));
        std::process::exit(2)
    })
}

/// What is wrong, without the usage that clap adds: `--help` is there for that.
fn sentence(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "a command is missing; --help lists them".into();
    }
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = first.split_whitespace().collect();
    let mut said = words.join(" ");
    if let Some(rest) = said.strip_prefix("error: ") {
        said = rest.to_owned();
    }
    let similar = [
        ContextKind::SuggestedSubcommand,
        ContextKind::SuggestedArg,
        ContextKind::SuggestedValue,
    ];
    let similar = similar.iter().find_map(|kind| error.get(*kind));
    match similar {
        Some(name) => said + &format!("; did you mean {name}?"),
        None => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(line: &str) -> String {
        let words = line.split_whitespace();
        sentence(&Cli::try_parse_from(words).unwrap_err())
    }

    #[test]
    fn definitions_are_sound() {
        smclo().debug_assert();
        smclod().debug_assert();
    }

    #[test]
    fn one_sentence_says_what_is_wrong() {
        for line in [
            "smclo",
            "smclo zz",
            "smclo ss --zz",
            "smclo ss extra",
            "smclo ueid add",
            "smclo ueid add lower",
            "smclo run",
            "smclo run -r 1x cmd",
        ] {
            let said = wrong(line);
            assert!(!said.contains('\n') && !said.contains("Usage"), "{said}");
            assert!(said.len() > 10 && said.len() < 160, "{said}");
        }
        assert!(wrong("smclo stat").contains("did you mean"));
        assert!(wrong("smclo run -r 1x cmd").contains("suffix k, m or g"));
    }

    #[test]
    fn json_goes_before_and_after_the_command() {
        for line in [
            "smclo --json ss",
            "smclo ss --json",
            "smclo ueid show --json",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).unwrap().json);
        }
        let run = Cli::try_parse_from(["smclo", "run", "curl", "--json", "{}"]).unwrap();
        assert!(!run.json, "it is the command's");
    }
}
