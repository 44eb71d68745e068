//! Rules by which system calls fail, for `tests/c/inject.c`.

use crate::{Mode, Run, artefacts, ccase};
use std::path::PathBuf;

/// A call, as a condition on one of its arguments, and errors that it may give.
pub struct Rule {
    pub name: &'static str,
    pub number: i64,
    pub argument: u32,
    pub mask: u32,
    pub value: u32,
    pub errors: &'static [i32],
    /// Also in the middle of a connection.
    pub late: bool,
    /// The server of `talk`.
    pub server: &'static str,
    pub mode: Mode,
    /// Instead of `talk`, which does not come to this call: a program with a case of its own.
    pub case: Option<(&'static str, &'static str)>,
    /// No error of the kernel's: the connection may be reset for it.
    pub resets: bool,
}

pub const fn rule(name: &'static str, number: i64, errors: &'static [i32]) -> Rule {
    Rule {
        name,
        number,
        argument: 0,
        mask: 0,
        value: 0,
        errors,
        late: true,
        server: "serve",
        mode: Mode::NoCopy,
        case: None,
        resets: false,
    }
}

impl Rule {
    /// From the start only. A process that may not receive descriptors any more once its connections
    /// are on a ring cannot learn whom to wake; and what it sends on TCP on the way there is the program's.
    pub const fn early(self) -> Rule {
        Rule {
            late: false,
            ..self
        }
    }

    /// Of a server with an epoll set: `set` does not change its registrations itself.
    pub const fn of(self, server: &'static str) -> Rule {
        Rule { server, ..self }
    }

    pub const fn copying(self) -> Rule {
        Rule {
            mode: Mode::Copy,
            ..self
        }
    }

    pub const fn in_case(self, program: &'static str, case: &'static str) -> Rule {
        Rule {
            case: Some((program, case)),
            ..self
        }
    }

    pub const fn resetting(self) -> Rule {
        Rule {
            resets: true,
            ..self
        }
    }

    /// Only calls whose argument has this value in these bits.
    pub const fn when(self, argument: u32, mask: u32, value: u32) -> Rule {
        Rule {
            argument,
            mask,
            value,
            ..self
        }
    }

    /// As `inject.c` reads it.
    pub fn words(&self, error: i32, delay: i32) -> String {
        let Rule {
            number,
            argument,
            mask,
            value,
            ..
        } = self;
        format!("{number} {argument} {mask:x} {value:x} {error} {delay}")
    }
}

/// What puts a fault into a program, preloaded.
#[track_caller]
pub fn injector() -> PathBuf {
    ccase::build("inject", &[], "-O1 -shared -fPIC")
}

/// Puts the fault into a program under the library.
#[track_caller]
pub fn faulty(run: Run, rule: &Rule, error: i32, delay: u32) -> Run {
    let (library, injector) = (artefacts::library(), injector());
    let libraries = format!("{}:{}", library.display(), injector.display());
    run.env("LD_PRELOAD", libraries)
        .env("INJECT", rule.words(error, delay as i32))
}
