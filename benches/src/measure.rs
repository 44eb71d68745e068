//! Runs of the cells.

use crate::cost::Cost;
use crate::leg::{Leg, Transport};
use crate::place::Placement;
use crate::results::{Cell, Row, Sample, Smc};
use crate::workload::{Place, Program, Reading, Workload, own_program};
use std::time::Duration;
use tests::{Lab, Run, Running, Stats, net};

/// How to run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub rounds: u32,
    pub seconds: u32,
    pub placements: Vec<Placement>,
}

/// Runs everything; gives a row per workload and placement. `progress` gets a line per run.
pub fn run(
    lab: &mut Lab,
    plan: &Plan,
    workloads: &[Workload],
    legs: &[Leg],
    mut progress: impl FnMut(&str),
) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut jobs = Vec::new();
    for placement in &plan.placements {
        for workload in workloads {
            let legs = legs.iter().filter(|l| workload.has(l, *placement));
            let cell = |leg: &Leg| Cell {
                leg: leg.key.into(),
                ..Default::default()
            };
            rows.push(Row {
                workload: workload.label(),
                placement: *placement,
                cells: legs.clone().map(cell).collect(),
            });
            let row = rows.len() - 1;
            jobs.extend(legs.enumerate().map(|(i, leg)| (row, i, workload, *leg)));
        }
    }
    let total = plan.rounds as usize * jobs.len();
    let mut done = 0;
    for _ in 0..plan.rounds {
        for (row, i, workload, leg) in &jobs {
            done += 1;
            let placement = rows[*row].placement;
            let cell = &mut rows[*row].cells[*i];
            let (title, short) = (&workload.title, placement.short());
            let line = format!("[{done:3}/{total}] {title:44} {short:9} {:16}", leg.title);
            match once(lab, plan.seconds, placement, workload, leg) {
                Ok(sample) => {
                    progress(&format!("{line} {:12.2} {}", sample.value, workload.unit));
                    cell.runs.push(sample);
                }
                Err(why) => {
                    progress(&format!("{line}       failed: {why}"));
                    cell.failures.push(why);
                }
            }
        }
    }
    rows
}

/// Servers or client of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum End {
    Server,
    Client,
}

/// A tool that runs the programs of one end, such as a profiler.
#[derive(Clone, Debug)]
pub struct Tool {
    pub end: End,
    /// Its command line, up to the program.
    pub prefix: Vec<String>,
}

fn under(tool: Option<&Tool>, end: End, program: Program) -> Program {
    match tool {
        Some(tool) if tool.end == end => program.after(&tool.prefix),
        _ => program,
    }
}

/// One run of a workload.
pub fn once(
    lab: &mut Lab,
    seconds: u32,
    placement: Placement,
    workload: &Workload,
    leg: &Leg,
) -> Result<Sample, String> {
    with_tool(lab, seconds, placement, workload, leg, None)
}

/// As [`once`], with a tool at one end.
pub fn with_tool(
    lab: &mut Lab,
    seconds: u32,
    placement: Placement,
    workload: &Workload,
    leg: &Leg,
    tool: Option<&Tool>,
) -> Result<Sample, String> {
    let daemon = lab.daemon().map(|d| d.pid());
    let port = net::free_port();
    let place = Place {
        dir: lab.dir(),
        port,
        inner_port: net::free_port(),
        unix: (leg.transport == Transport::Unix).then(|| lab.dir().join(format!("{port}.unix"))),
        seconds,
        n: workload.n,
        count: workload.per_second * seconds,
    };
    if let Some(prepare) = workload.prepare {
        prepare(&place)?;
    }
    let before = leg.shimmed().then(|| lab.stats());
    let ended = Cost::of_ended_children();
    let of_daemon = || daemon.map(Cost::of_process).unwrap_or_default();
    let daemon_before = of_daemon();

    let (reading, start_up) = match leg.transport {
        Transport::Limit => (limit(lab, placement, &place, workload)?, Cost::default()),
        _ => programs(lab, placement, &place, workload, leg, tool)?,
    };

    let cost = Cost::of_ended_children() - ended - start_up + (of_daemon() - daemon_before);
    let smc = before.map(|before| difference(&lab.settle().0, &before));
    let operations = match reading.operations {
        0.0 => f64::from(place.count),
        n => n,
    };
    Ok(Sample {
        value: reading.value,
        operations,
        cpu_s: cost.cpu_s,
        voluntary: cost.voluntary,
        involuntary: cost.involuntary,
        percentiles: reading.percentiles,
        smc,
    })
}

/// Servers, then the client; also gives what the servers had cost when the client started.
fn programs(
    lab: &Lab,
    placement: Placement,
    place: &Place<'_>,
    workload: &Workload,
    leg: &Leg,
    tool: Option<&Tool>,
) -> Result<(Reading, Cost), String> {
    let mut servers = Vec::new();
    let programs = (workload.servers)(place);
    let count = programs.len();
    for (i, program) in programs.into_iter().enumerate() {
        let last = i + 1 == count;
        // Of several servers the tool has the one that the client talks to.
        let tool = tool.filter(|_| last);
        let program = under(tool, End::Server, program);
        let port = if last { place.port } else { place.inner_port };
        let unix = place.unix.as_deref().filter(|_| last);
        let mut server = pinned(program.on(leg, lab, Leg::server), placement.server_core()).spawn();
        let up = match unix {
            // PostgreSQL gives its socket another name, but opens its port after it.
            Some(path) if workload.prepare.is_none() => {
                let there = || path.exists() || !server.alive();
                net::wait_until(Duration::from_secs(20), there) && server.alive()
            }
            _ => server.comes_up(port),
        };
        if !up {
            return Err(server.stop().to_string());
        }
        servers.push(server);
    }
    let start_up = Cost::of_trees(servers.iter().map(Running::pid));
    let client = under(tool, End::Client, (workload.client)(place));
    let client = pinned(client.on(leg, lab, Leg::client), placement.client_core());
    let outcome = client.limit(patience(place)).finish();
    for server in servers.into_iter().rev() {
        server.stop();
    }
    match (workload.result)(&outcome.stdout) {
        Some(reading) if outcome.success() && reading.value > 0.0 => Ok((reading, start_up)),
        _ => Err(outcome.to_string()),
    }
}

/// Some clients take a count, and a slow machine its time.
fn patience(place: &Place<'_>) -> Duration {
    Duration::from_secs(u64::from(place.seconds) * 8 + 20)
}

fn pinned(run: Run, core: Option<usize>) -> Run {
    match core {
        None => run,
        Some(core) => run.core(core),
    }
}

/// The same messages through a bare ring; it puts itself on its cores.
fn limit(
    lab: &Lab,
    placement: Placement,
    place: &Place<'_>,
    workload: &Workload,
) -> Result<Reading, String> {
    let pattern = workload.limit.ok_or("has no limit")?;
    let mut program = Program {
        program: own_program("limit"),
        args: pattern(workload.n).split(' ').map(String::from).collect(),
        unprivileged: false,
    };
    let more = [
        ("--seconds", Some(place.seconds as usize)),
        ("--server-core", placement.server_core()),
        ("--client-core", placement.client_core()),
    ];
    for (name, value) in more {
        if let Some(value) = value {
            program.args.extend([name.into(), value.to_string()]);
        }
    }
    let run = lab.plain(&program.program).args(&program.args);
    let outcome = run.limit(patience(place)).finish();
    (workload.limit_result)(&outcome.stdout).ok_or_else(|| outcome.to_string())
}

fn difference(after: &Stats, before: &Stats) -> Smc {
    let of = |key| after.get(key).saturating_sub(before.get(key));
    Smc {
        smc_bytes: of("smc_bytes"),
        tcp_bytes: of("tcp_bytes"),
        sleeps: of("sleeps"),
        rings: of("rings"),
        spin_hits: of("spin_hits"),
        spin_misses: of("spin_misses"),
    }
}
