//! `profile`: one workload with perf or callgrind on one of its ends.

use benches::leg::{self, Leg};
use benches::measure::{self, End, Tool};
use benches::place::Placement;
use benches::workload::{self, Workload};
use clap::{Parser, ValueEnum};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use tests::Lab;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Samples of the processor clock, user and kernel
    Perf,
    /// All instructions in user space, some fifty times slower
    Callgrind,
}

/// Runs a workload once and shows where one of its ends spends its time.
#[derive(Parser, Debug)]
#[command(version)]
struct Args {
    /// As for `compare`; an unknown name lists all
    workload: String,
    #[arg(long, value_enum, default_value = "server")]
    end: End,
    #[arg(long, value_enum, default_value = "perf")]
    tool: Kind,
    /// What carries the bytes: tcp, unix, copy, nocopy, copy-nospin, nocopy-nospin, ...
    #[arg(long, default_value = leg::NO_COPY)]
    leg: String,
    #[arg(long, value_enum, default_value_t = Placement::TwoCores)]
    placement: Placement,
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// File for the profile
    #[arg(long, default_value = "smclo.profile")]
    out: PathBuf,
    /// Lines of the report
    #[arg(long, default_value_t = 60)]
    lines: usize,
}

fn main() -> ExitCode {
    match profile(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("profile: {why}");
            ExitCode::FAILURE
        }
    }
}

fn profile(args: &Args) -> Result<(), String> {
    let workload = workload::named(std::slice::from_ref(&args.workload))?.swap_remove(0);
    let leg = leg::by_key(&args.leg).ok_or(format!("no leg {:?}", args.leg))?;
    // The programs run in a directory of their own.
    let out = std::path::absolute(&args.out).map_err(|e| e.to_string())?;
    // A server that refuses root writes its profile as somebody else, who may not write where we are.
    let scratch = std::env::temp_dir().join(format!("smclo-profile-{}", std::process::id()));
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::create_dir(&scratch)
        .and_then(|()| fs::set_permissions(&scratch, open))
        .map_err(|e| format!("{}: {e}", scratch.display()))?;
    let done = run(args, &workload, &leg, &scratch.join("profile"), &out);
    let _ = fs::remove_dir_all(&scratch);
    done
}

fn run(
    args: &Args,
    workload: &Workload,
    leg: &Leg,
    written: &Path,
    out: &Path,
) -> Result<(), String> {
    let name = written.display();
    let prefix = match args.tool {
        Kind::Perf => format!("perf record -q -e cpu-clock -F 1999 -g -o {name} --"),
        Kind::Callgrind => format!("valgrind -q --tool=callgrind --callgrind-out-file={name}"),
    };
    let tool = Tool {
        end: args.end,
        prefix: prefix.split(' ').map(String::from).collect(),
    };
    let mut lab = Lab::start();
    let sample = measure::with_tool(
        &mut lab,
        args.seconds,
        args.placement.available(),
        workload,
        leg,
        Some(&tool),
    )?;
    fs::copy(written, out).map_err(|e| format!("{}: {e}", out.display()))?;
    let (title, unit) = (&workload.title, workload.unit);
    println!(
        "{title}, {}: {:.2} {unit} under the tool",
        leg.title, sample.value
    );
    let mut report = match args.tool {
        Kind::Perf => {
            let mut report = Command::new("perf");
            report.args(["report", "--stdio", "--no-children", "-g", "none", "-i"]);
            report
        }
        Kind::Callgrind => Command::new("callgrind_annotate"),
    };
    let text = report.arg(out).output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    let useful = text
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'));
    useful.take(args.lines).for_each(|line| println!("{line}"));
    println!("\nprofile in {}", out.display());
    Ok(())
}
