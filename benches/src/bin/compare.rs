//! `compare`: real programs and bare traffic on TCP, UNIX domain sockets and SMC-D, side by side.

use benches::leg::{self, Leg};
use benches::machine;
use benches::measure::{self, Plan};
use benches::place::Placement;
use benches::report::{html, json, table};
use benches::results::Results;
use benches::standing;
use benches::workload;
use clap::Parser;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use tests::Lab;

/// Runs real programs and bare traffic on TCP and over SMC-D, interleaved, and prints tables.
#[derive(Parser, Debug)]
#[command(version)]
struct Args {
    /// One round of one second each; of the demo's programs under a minute in all
    #[arg(long)]
    quick: bool,
    /// All workloads on all legs, half an hour or so
    #[arg(long)]
    full: bool,
    /// Runs of each workload on each leg
    #[arg(long)]
    rounds: Option<u32>,
    /// Length of a run
    #[arg(long)]
    seconds: Option<u32>,
    /// What carries the bytes: tcp, unix, copy, nocopy, copy-nospin, nocopy-nospin, limit,
    /// server-only, off
    #[arg(long, value_delimiter = ',')]
    legs: Vec<String>,
    /// Which programs; a * at the end stands for anything. An unknown name lists all
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<String>,
    /// Cores for the programs; several with commas
    #[arg(long, value_enum, value_delimiter = ',', default_value = "two-cores")]
    placement: Vec<Placement>,
    /// Print JSON instead of the tables, or write it to a file beside them
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    json: Option<PathBuf>,
    /// Write a page with plots
    #[arg(long)]
    html: Option<PathBuf>,
    /// Instead of programs: what so many connections cost that nobody uses
    #[arg(long, value_delimiter = ',', num_args = 0.., default_missing_value = "1000,10000")]
    report: Option<Vec<u32>>,
    /// Put runs of earlier calls, from their JSON files, together with those of this call
    #[arg(long, value_delimiter = ',')]
    load: Vec<PathBuf>,
    /// Run nothing: only show what was loaded
    #[arg(long, requires = "load")]
    show: bool,
}

fn main() -> ExitCode {
    match compare(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("compare: {why}");
            ExitCode::from(2)
        }
    }
}

/// True when all runs gave a value.
fn compare(args: &Args) -> Result<bool, String> {
    let mut results = Results::default();
    for file in &args.load {
        let name = file.display();
        let text = fs::read_to_string(file).map_err(|e| format!("{name}: {e}"))?;
        let loaded = serde_json::from_str(&text).map_err(|e| format!("{name}: {e}"))?;
        results.merge(loaded);
    }
    if !args.show {
        results.merge(match &args.report {
            None => measured(args)?,
            Some(counts) => held(counts)?,
        });
    }
    let value = || format!("{:#}\n", json::json(&results));
    match &args.json {
        Some(file) if file.as_os_str() == "-" => print!("{}", value()),
        file => {
            println!("{}", table::table(&results));
            println!("{}", results.machine.words());
            if let Some(file) = file {
                fs::write(file, value()).map_err(|e| format!("{}: {e}", file.display()))?;
            }
        }
    }
    if let Some(file) = &args.html {
        fs::write(file, html::page(&results)).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    Ok(results.failures().next().is_none())
}

fn held(counts: &[u32]) -> Result<Results, String> {
    let mut machine = machine::now();
    let standing = counts.iter().map(|n| {
        eprintln!("{n} connections...");
        standing::measure(*n)
    });
    let standing = standing.collect::<Result<_, _>>()?;
    machine.load.1 = machine::load_average();
    Ok(Results {
        machine,
        standing,
        ..Default::default()
    })
}

fn measured(args: &Args) -> Result<Results, String> {
    let or = |list: &[String], default: &str| match list {
        [] => default.split(',').map(String::from).collect(),
        list => list.to_vec(),
    };
    let (all_legs, all_workloads) = if args.full {
        (leg::FULL, "*")
    } else {
        (leg::DEMO, workload::DEMO)
    };
    let workloads = workload::named(&or(&args.workloads, all_workloads))?;
    let legs = or(&args.legs, all_legs);
    let legs = legs
        .iter()
        .map(|name| leg::by_key(name).ok_or(format!("no leg {name:?}; see --help")))
        .collect::<Result<Vec<Leg>, _>>()?;
    let (rounds, seconds) = if args.quick { (1, 1) } else { (4, 2) };
    let mut placements: Vec<_> = args.placement.iter().map(|p| p.available()).collect();
    placements.dedup();
    let plan = Plan {
        rounds: args.rounds.unwrap_or(rounds),
        seconds: args.seconds.unwrap_or(seconds),
        placements,
    };
    let mut machine = machine::now();
    let mut lab = if legs.iter().any(Leg::shimmed) {
        Lab::start()
    } else {
        Lab::without_daemon()
    };
    let rows = measure::run(&mut lab, &plan, &workloads, &legs, |line| {
        eprintln!("{line}");
    });
    machine.load.1 = machine::load_average();
    Ok(Results {
        machine,
        rows,
        ..Default::default()
    })
}
