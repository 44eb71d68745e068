//! The person's tool.

use daemon::cli::{
    self, Cli, ConfigCommand, LinkgroupArgs, RevertArgs, RunArgs, Seid, SsArgs, StatsArgs,
    TraceArgs, Ueid, What,
};
use daemon::client::{AskError, Connection};
use daemon::prometheus;
use daemon::report::{Connection as Row, LinkGroup, Trace};
use daemon::tool::doctor::Subject;
use daemon::tool::launch::{self, Run};
use daemon::tool::{config, device, doctor, pcap, require, revert, sockets, ss, stats, top, trace};
use nix::errno::Errno;
use protocol::ctl::Verb;
use protocol::ids::Eid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ffi::OsString;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == launch::START) {
        let started = launch::start_daemon(words.next().map(PathBuf::from).as_deref());
        return ExitCode::from(u8::from(started.is_err()));
    }
    let mut cli: Cli = cli::parse();
    let from_env = std::env::var_os("SMCLO_SOCKET").filter(|path| !path.is_empty());
    cli.socket = cli.socket.or(from_env.map(PathBuf::from));
    match cli.what {
        What::Run(args) => run(args, cli.socket),
        What::Config(ConfigCommand::Check { files, user }) => check(&files, user, cli.json),
        What::Doctor { subject } => examine(subject, cli.socket, cli.json),
        what => match ask(&cli.socket, &what, cli.json) {
            Ok(text) => {
                // Nobody may be left to read it (`smclo ss | head`).
                let _ = anstream::stdout().write_all(text.as_bytes());
                ExitCode::SUCCESS
            }
            Err(e) => {
                eprintln!("smclo: {e}");
                ExitCode::FAILURE
            }
        },
    }
}

/// Status 1 when the subject cannot be accelerated, 2 when there is no such thing.
fn examine(subject: Option<OsString>, socket: Option<PathBuf>, json: bool) -> ExitCode {
    let subject = match Subject::find(subject.as_deref()) {
        Ok(subject) => subject,
        Err(why) => {
            anstream::eprintln!("smclo: {why}");
            return ExitCode::from(2);
        }
    };
    let diagnosis = doctor::examine(&subject, socket.as_deref());
    let text = if json {
        serde_json::to_string(&diagnosis).unwrap_or_default() + "\n"
    } else {
        doctor::text(&diagnosis)
    };
    let _ = anstream::stdout().write_all(text.as_bytes());
    ExitCode::from(u8::from(!diagnosis.can_be_accelerated))
}

/// Status 1 when a file is not valid, 2 when it cannot be read.
fn check(files: &[PathBuf], user: bool, json: bool) -> ExitCode {
    let checked = match config::check(files, user) {
        Ok(checked) => checked,
        Err(why) => {
            anstream::eprintln!("smclo: {why}");
            return ExitCode::from(2);
        }
    };
    let text = if json {
        serde_json::to_string(&checked).unwrap_or_default() + "\n"
    } else {
        config::text(&checked)
    };
    let _ = anstream::stdout().write_all(text.as_bytes());
    ExitCode::from(u8::from(!checked.iter().all(|c| c.valid)))
}

fn run(args: RunArgs, socket: Option<PathBuf>) -> ExitCode {
    if args.version {
        println!("smclo {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let run = Run {
        debug: args.debug,
        rcvbuf: args.rcvbuf,
        sndbuf: args.sndbuf,
        profile: args.profile,
        socket,
        command: args.command,
    };
    let done = if args.require {
        require::run(&run).map(ExitCode::from)
    } else {
        run.exec().map(|never| match never {})
    };
    match done {
        Ok(code) => code,
        Err(e) => {
            eprintln!("smclo: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}

type AnyError = Box<dyn std::error::Error>;

fn ask(socket: &Option<PathBuf>, what: &What, json: bool) -> Result<String, AnyError> {
    let asked = Asked {
        daemon: Connection::find(socket.as_deref())?,
        json,
    };
    match what {
        What::Ss(args) => asked.ss(args),
        What::Trace(args) => asked.trace(args),
        What::Revert(args) => asked.revert(args),
        What::Stats(StatsArgs { reset: Some(_), .. }) => asked.order(Verb::StatsReset, [b' '; 32]),
        What::Stats(args) if args.prometheus => asked.show(Verb::Stats, |s| prometheus::text(&s)),
        What::Stats(_) => asked.show(Verb::Stats, |s| stats::text(&s)),
        What::Device => asked.show(Verb::Device, |d| device::device(&d)),
        What::Linkgroups(args) => asked.link_groups(args),
        What::Info => asked.show(Verb::Info, |i| device::info(&i)),
        What::Ueid {
            what: Some(Ueid::Add { eid }),
        } => asked.order(Verb::UeidAdd, *eid),
        What::Ueid {
            what: Some(Ueid::Del { eid }),
        } => asked.order(Verb::UeidDel, *eid),
        What::Ueid {
            what: Some(Ueid::Flush),
        } => asked.order(Verb::UeidFlush, [b' '; 32]),
        What::Ueid {
            what: None | Some(Ueid::Show),
        } => asked.show(Verb::UeidList, |e| device::ueids(&e)),
        What::Seid {
            what: Some(Seid::Enable),
        } => asked.order(Verb::SeidEnable, [b' '; 32]),
        What::Seid {
            what: Some(Seid::Disable),
        } => asked.order(Verb::SeidDisable, [b' '; 32]),
        What::Seid {
            what: None | Some(Seid::Show),
        } => asked.show(Verb::Seid, |e| device::seid(&e)),
        What::Top(args) => asked.top(args.interval),
        What::Run(_) | What::Config(_) | What::Doctor { .. } => Ok(String::new()),
    }
}

/// A daemon, and how its answers are wanted.
struct Asked {
    daemon: Connection,
    json: bool,
}

impl Asked {
    fn show<T: DeserializeOwned>(
        &self,
        verb: Verb,
        human: impl FnOnce(T) -> String,
    ) -> Result<String, AnyError> {
        let answer = self.daemon.ask(verb, [b' '; 32])?;
        if self.json {
            return Ok(String::from_utf8(answer)? + "\n");
        }
        Ok(human(serde_json::from_slice(&answer)?))
    }

    fn revert(&self, args: &RevertArgs) -> Result<String, AnyError> {
        let done = revert::revert(&self.daemon, args.target, args.milliseconds)?;
        if self.json {
            return Ok(serde_json::to_string(&done)? + "\n");
        }
        let connections = match done.connections {
            1 => "1 connection".into(),
            n => format!("{n} connections"),
        };
        let mut said = match args.milliseconds {
            0 => format!("{connections} may go onto shared memory again\n"),
            ms => format!("{connections} on TCP for {} s\n", ms as f64 / 1000.0),
        };
        if done.left != 0 {
            said += &format!("{} more {}\n", done.left, revert::LEFT);
        }
        Ok(said)
    }

    /// What was chosen from a longer answer.
    fn chosen<T: Serialize>(
        &self,
        all: &T,
        human: impl FnOnce(&T) -> String,
    ) -> Result<String, AnyError> {
        if self.json {
            return Ok(serde_json::to_string(all)? + "\n");
        }
        Ok(human(all))
    }

    fn ss(&self, args: &SsArgs) -> Result<String, AnyError> {
        let answer = self.daemon.ask_about(Verb::Ss, ss::wanted(args))?;
        let mut rows: Vec<Row> = serde_json::from_slice(&answer)?;
        rows.retain(|row| ss::asked(args, row));
        sockets::look_up(&mut rows);
        self.chosen(&rows, |rows| ss::text(rows, args))
    }

    fn link_groups(&self, args: &LinkgroupArgs) -> Result<String, AnyError> {
        let answer = self.daemon.ask(Verb::LinkGroups, [b' '; 32])?;
        let mut all: Vec<LinkGroup> = serde_json::from_slice(&answer)?;
        if let Some(id) = args.id {
            let id = format!("{id:08x}");
            all.retain(|group| group.lgr == id);
            if all.is_empty() {
                let why = "it has ended, or belongs to another user";
                return Err(format!("no link group {id} is there: {why}").into());
            }
        }
        let human = if args.details {
            device::link_group_details
        } else {
            device::link_groups
        };
        self.chosen(&all, |all| human(all))
    }

    fn top(&self, interval: Duration) -> Result<String, AnyError> {
        if self.json {
            let sample = top::once(&self.daemon, interval)?;
            return Ok(serde_json::to_string(&sample)? + "\n");
        }
        if !io::stdout().is_terminal() {
            return Err("top needs a terminal; \"smclo top --json\" prints one sample".into());
        }
        top::live(&self.daemon, interval)?;
        Ok(String::new())
    }

    fn trace(&self, args: &TraceArgs) -> Result<String, AnyError> {
        let port = args.connection.port().into();
        let answer = self.daemon.ask_about(Verb::Trace, port)?;
        let mut traces: Vec<Trace> = serde_json::from_slice(&answer)?;
        traces.retain(|trace| args.connection.is(trace));
        traces.drain(..traces.len().saturating_sub(args.number.into()));
        if traces.is_empty() {
            return Err(
                "no trace of such a connection: it was never considered for SMC-D, \
                        it ended long ago, or it belongs to another user"
                    .into(),
            );
        }
        if let Some(path) = &args.pcap {
            let at = |e: &dyn Display| format!("{}: {e}", path.display());
            let file = File::create(path).map_err(|e| at(&e))?;
            pcap::write(BufWriter::new(file), &traces).map_err(|e| at(&e))?;
        }
        self.chosen(&traces, |traces| trace::text(traces))
    }

    /// Done orders say nothing; as JSON, an empty object.
    fn order(&self, verb: Verb, eid: Eid) -> Result<String, AnyError> {
        let said = order(&self.daemon, verb, eid)?;
        Ok(if self.json {
            "{}\n".into()
        } else {
            said.into()
        })
    }
}

fn order(daemon: &Connection, verb: Verb, eid: Eid) -> Result<&'static str, AnyError> {
    match daemon.ask(verb, eid) {
        Ok(_) => Ok(""),
        Err(AskError::Refused(Errno::EAGAIN)) => {
            Ok("That was the last UEID: the SEID is enabled again.\n")
        }
        Err(AskError::Refused(e)) => Err(match (verb, e) {
            (_, Errno::EPERM) => "only root and the user of the daemon may change this".into(),
            (Verb::UeidAdd, Errno::ERANGE) => "there are four UEIDs already".into(),
            (Verb::UeidAdd, Errno::EEXIST) => "this UEID is there already".into(),
            (Verb::UeidDel, Errno::ENOENT) => "there is no such UEID".into(),
            (Verb::SeidDisable, Errno::ENOENT) => {
                "without a UEID the SEID cannot be disabled".into()
            }
            _ => AnyError::from(AskError::Refused(e)),
        }),
        Err(e) => Err(e.into()),
    }
}
