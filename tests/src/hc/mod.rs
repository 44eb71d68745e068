//! The hard cases: what has broken libraries of this kind, and which test shows that it does not
//! break this one. `tests/tests/compatibility.rs` holds the table against the tests that exist, and
//! against `docs/compatibility.md`, which is made from it.

mod closing;
mod multiplexing;
mod processes;
mod runtime;
mod setup;
mod transfer;

use std::fmt::Write;

/// How much a case matters: 0 for "nothing works without it".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    P0,
    P1,
    P2,
}

/// What a program meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// As on TCP, also where the connection is accelerated.
    Same,
    /// As on TCP, because such a connection stays on TCP or goes back to it.
    Tcp,
    /// Not in every respect; the note says what differs.
    Limit,
    /// Not shown by a test; the note says why.
    Untested,
}

/// One hard case.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub number: u32,
    pub priority: Priority,
    pub case: &'static str,
    pub status: Status,
    /// Tests as `file::name`.
    pub tests: &'static [&'static str],
    pub note: &'static str,
}

/// A group of rows, with its heading.
pub struct Group {
    pub title: &'static str,
    pub rows: &'static [Row],
}

/// Writes rows down one after the other:
/// `NUMBER PRIORITY STATUS "case" [tests] "note"`.
macro_rules! rows {
    ($($number:literal $priority:ident $status:ident $case:literal
       [$($test:literal)*] $note:literal;)*) => {
        pub const ROWS: &[super::Row] = &[$(super::Row {
            number: $number,
            priority: super::Priority::$priority,
            case: $case,
            status: super::Status::$status,
            tests: &[$($test),*],
            note: $note,
        }),*];
    };
}
use rows;

pub const GROUPS: [Group; 6] = [
    Group {
        title: "Setting up",
        rows: setup::ROWS,
    },
    Group {
        title: "Moving data",
        rows: transfer::ROWS,
    },
    Group {
        title: "Ends and errors",
        rows: closing::ROWS,
    },
    Group {
        title: "Multiplexing",
        rows: multiplexing::ROWS,
    },
    Group {
        title: "Processes and descriptors",
        rows: processes::ROWS,
    },
    Group {
        title: "Threads, signals, surroundings",
        rows: runtime::ROWS,
    },
];

/// `docs/compatibility.md`.
pub fn page() -> String {
    let mut page = String::from(
        "# Compatibility

Cases that have broken libraries of this kind, and the test that shows what a program meets under
libsmclo. Most tests run a program on plain TCP and under the library, and compare what it sees.

* **same**: as on TCP, also on accelerated connections
* **TCP**: as on TCP, because such a connection stays on TCP or goes back to it; `smclo ss` says so
* **limit**: differs in what the note says
* **untested**: not shown by a test, for the reason given

Beside these, `random` runs generated programs on both and compares them (`scripts/soak` for hours).
A test is run by its name: `cargo test -p tests NAME`. The page is made from `tests/src/hc`.
",
    );
    for group in &GROUPS {
        let _ = write!(
            page,
            "\n## {}\n\n| | P | case | status | tests and notes |\n| --- | --- | --- | --- | --- |\n",
            group.title
        );
        for row in group.rows {
            let status = match row.status {
                Status::Same => "same",
                Status::Tcp => "TCP",
                Status::Limit => "limit",
                Status::Untested => "untested",
            };
            let mut last: Vec<String> = row.tests.iter().map(|t| format!("`{t}`")).collect();
            if !row.note.is_empty() {
                last.push(row.note.to_string());
            }
            let _ = writeln!(
                page,
                "| HC-{:02} | {} | {} | {status} | {} |",
                row.number,
                row.priority as u32,
                row.case,
                last.join("<br>")
            );
        }
    }
    page
}
