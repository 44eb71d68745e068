//! Generated programs behave under the shim as on plain TCP. Longer: `scripts/soak`.

use std::fs;
use tests::random::{LEGS, Program, Runner, generate};
use tests::{artefacts, plain_only};

/// Programs of `programs`: about a minute. Of the next ones some differ (docs/limits.md, known
/// defects); which is for `scripts/soak` to find and for somebody to mend.
const COUNT: u64 = 240;

/// The same programs each time: new ones are for `scripts/soak`.
#[test]
fn programs() {
    if plain_only() {
        return;
    }
    let runner = Runner::new();
    let (mut seed, mut found) = (1, Vec::new());
    while seed <= COUNT {
        for leg in &LEGS {
            let programs: Vec<_> = (seed..seed + 10).map(generate).collect();
            found.extend(runner.compare(&programs, leg));
            seed += 10;
        }
    }
    let text: Vec<_> = found.iter().map(|d| d.to_string()).collect();
    assert!(found.is_empty(), "of {seed} programs:\n{}", text.join("\n"));
    assert!(runner.lab.settled().smc_bytes() > 0);
}

/// Programs that once found something: `tests/random/*.txt`.
#[test]
fn programs_of_old() {
    if plain_only() {
        return;
    }
    let dir = artefacts::workspace().join("tests/random");
    let mut files: Vec<_> = fs::read_dir(dir)
        .expect("the programs")
        .map(|file| file.expect("the programs").path())
        .collect();
    files.sort();
    let mut programs = Vec::new();
    for file in &files {
        programs.extend(Program::parse(
            &fs::read_to_string(file).expect("a program"),
        ));
    }
    assert!(!programs.is_empty());
    let runner = Runner::new();
    for leg in &LEGS {
        let found = runner.compare(&programs, leg);
        let text: Vec<_> = found.iter().map(|d| d.to_string()).collect();
        assert!(found.is_empty(), "{}", text.join("\n"));
    }
}
