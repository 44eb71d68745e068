//! Generated programs for hours: `scripts/soak`.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tests::artefacts;
use tests::random::{LEGS, Program, Runner, generate, shrink};

const USAGE: &str =
    "usage: soak [--programs N] [--minutes M] [--seed S] [--jobs J] [--shrink SEC] [--file PROGRAMS]
  N programs (100000), or for M minutes; from seed S on (the clock's); J batches at a time (6 for
  each processor: most of a program's time is waiting)
  --shrink: so long a program that differs is made shorter (120), within the M minutes
  --file: the programs of a file, each on every leg
  --show N: prints the programs of N seeds";

/// Programs of one run of the executor. The leg of a seed is always the same.
const BATCH: u64 = 20;

struct Options {
    programs: u64,
    minutes: u64,
    seed: u64,
    jobs: u64,
    shrink: u64,
    file: Option<String>,
    show: u64,
}

fn options() -> Result<Options, String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let mut options = Options {
        programs: 100_000,
        minutes: 24 * 60,
        seed: now.map_or(1, |t| t.as_secs()) * 1_000_000,
        jobs: 6 * std::thread::available_parallelism().map_or(2, |n| n.get() as u64),
        shrink: 120,
        file: None,
        show: 0,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().ok_or(USAGE)?;
        let number = || value.parse().map_err(|_| USAGE.to_string());
        match arg.as_str() {
            "--programs" => options.programs = number()?,
            "--minutes" => options.minutes = number()?,
            "--seed" => options.seed = number()?,
            "--jobs" => options.jobs = number()?,
            "--shrink" => options.shrink = number()?,
            "--show" => options.show = number()?,
            "--file" => options.file = Some(value),
            _ => return Err(USAGE.into()),
        }
    }
    Ok(options)
}

fn main() {
    let options = options().unwrap_or_else(|text| {
        eprintln!("{text}");
        std::process::exit(2);
    });
    for seed in options.seed..options.seed + options.show {
        print!("{}", generate(seed).text(None));
    }
    if options.show > 0 {
        return;
    }
    let found = match &options.file {
        Some(file) => repeat(file),
        None => soak(&options),
    };
    std::process::exit(i32::from(found > 0));
}

/// The programs of a file.
fn repeat(file: &str) -> u64 {
    let text = fs::read_to_string(file).expect("a file of programs");
    let programs = Program::parse(&text);
    let runner = Runner::new();
    let mut found = 0;
    for leg in &LEGS {
        for difference in runner.compare(&programs, leg) {
            println!("{difference}");
            found += 1;
        }
    }
    println!(
        "{} programs on {} legs, {found} differences",
        programs.len(),
        LEGS.len()
    );
    found
}

fn soak(options: &Options) -> u64 {
    let end = Instant::now() + Duration::from_secs(options.minutes * 60);
    let (first, last) = (options.seed, options.seed + options.programs);
    let (next, done, found) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let printing = Mutex::new(Instant::now());
    let dir = artefacts::target().join("tests/random");
    fs::create_dir_all(&dir).expect("a directory in target");
    println!("seeds from {}", options.seed);
    std::thread::scope(|scope| {
        for _ in 0..options.jobs {
            scope.spawn(|| {
                let runner = Runner::new();
                while Instant::now() < end {
                    let batch = first / BATCH + next.fetch_add(1, Relaxed);
                    let seeds = (batch * BATCH).max(first)..((batch + 1) * BATCH).min(last);
                    if seeds.is_empty() {
                        break;
                    }
                    let count = seeds.end - seeds.start;
                    let programs: Vec<_> = seeds.map(generate).collect();
                    let leg = &LEGS[batch as usize % LEGS.len()];
                    for difference in runner.compare(&programs, leg) {
                        found.fetch_add(1, Relaxed);
                        let short = if difference.seen > 1 && options.shrink > 0 {
                            let enough = Instant::now() + Duration::from_secs(options.shrink);
                            shrink(&runner, difference, enough.min(end))
                        } else {
                            difference
                        };
                        let _ = fs::write(
                            dir.join(format!("{}-{}.txt", short.program.name, short.leg)),
                            short.to_string(),
                        );
                        println!("{short}");
                    }
                    let so_far = done.fetch_add(count, Relaxed) + count;
                    let mut last = printing.lock().unwrap_or_else(|e| e.into_inner());
                    if last.elapsed() > Duration::from_secs(60) {
                        *last = Instant::now();
                        println!("{so_far} programs, {} differences", found.load(Relaxed));
                    }
                }
            });
        }
    });
    let found = found.load(Relaxed);
    println!("{} programs, {found} differences", done.load(Relaxed));
    found
}
