//! The table of hard cases is complete, names tests that exist, and its page is up to date.

use std::collections::BTreeSet;
use std::fs;
use tests::artefacts::workspace;
use tests::hc::{GROUPS, Priority, Row, Status, page};

fn rows() -> impl Iterator<Item = &'static Row> {
    GROUPS.iter().flat_map(|group| group.rows)
}

/// Names of all tests in a source file: functions under `#[test]`, and the lists of `cases!`.
fn tests_of(stem: &str, text: &str, names: &mut BTreeSet<String>) {
    let mut module = None;
    let mut test = false;
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("cases! {") {
            module = rest.trim().strip_suffix(':');
        } else if line == "}" {
            module = None;
        } else if let Some(module) = module {
            let case = line.split_whitespace().next().unwrap_or("");
            names.insert(format!("{stem}::{module}::{case}"));
        } else if line == "#[test]" {
            test = true;
        } else if test && let Some(rest) = line.strip_prefix("fn ") {
            let name = rest.split('(').next().unwrap_or("");
            names.insert(format!("{stem}::{name}"));
            test = false;
        }
    }
}

fn all_tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for folder in ["tests/tests", "daemon/tests", "protocol/tests"] {
        for file in fs::read_dir(workspace().join(folder)).expect("a folder of tests") {
            let path = file.expect("a folder of tests").path();
            if path.extension().is_some_and(|e| e == "rs") {
                let stem = path.file_stem().expect("a name").to_string_lossy();
                let text = fs::read_to_string(&path).expect("a source file");
                tests_of(&stem, &text, &mut names);
            }
        }
    }
    names
}

#[test]
fn every_case_has_its_row() {
    let numbers: Vec<u32> = rows().map(|row| row.number).collect();
    assert_eq!(numbers, (1..=125).collect::<Vec<_>>());
}

#[test]
fn what_is_named_exists() {
    let tests = all_tests();
    let named = rows().flat_map(|row| row.tests.iter().map(move |test| (row.number, *test)));
    let missing: Vec<_> = named.filter(|(_, test)| !tests.contains(*test)).collect();
    assert!(missing.is_empty(), "no such tests: {missing:?}");
}

/// So do the tests that the page about programs names.
#[test]
fn programs_have_their_tests() {
    let tests = all_tests();
    let page = fs::read_to_string(workspace().join("docs/programs.md")).expect("the page");
    let named = page.split('`').skip(1).step_by(2);
    let missing: Vec<_> = named
        .filter(|word| word.contains("::") && !tests.contains(*word))
        .collect();
    assert!(missing.is_empty(), "no such tests: {missing:?}");
}

/// What matters has a test, or says why it has none.
#[test]
fn what_matters_is_shown() {
    for row in rows() {
        let shown = !row.tests.is_empty();
        assert!(
            shown || !row.note.is_empty(),
            "HC-{} says nothing",
            row.number
        );
        assert!(
            shown || row.priority != Priority::P0,
            "HC-{} has no test",
            row.number
        );
        assert!(
            row.status != Status::Limit || !row.note.is_empty(),
            "HC-{} does not say what differs",
            row.number
        );
        assert!(
            !(shown && row.status == Status::Untested),
            "HC-{}",
            row.number
        );
    }
}

/// `SMCLO_TEST_WRITE=1` writes the page instead.
#[test]
fn the_page_is_up_to_date() {
    let path = workspace().join("docs/compatibility.md");
    if std::env::var_os("SMCLO_TEST_WRITE").is_some() {
        fs::write(&path, page()).expect("the page");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == page(),
        "docs/compatibility.md is old: SMCLO_TEST_WRITE=1 cargo test -p tests --test compatibility"
    );
}
