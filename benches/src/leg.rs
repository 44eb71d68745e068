//! What carries the bytes in a run.

use tests::{Lab, Mode, Policy, Run};

/// What the programs are told to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP on the loopback address, plain or under the library.
    Tcp,
    /// UNIX domain sockets, without the library.
    Unix,
    /// No sockets at all: a bare ring in shared memory with the same messages.
    Limit,
}

/// How an end is put under the library.
#[derive(Clone, Copy, Debug)]
struct Shim {
    mode: Mode,
    policy: Policy,
    /// `SMCLO_SPIN_US`, when not the default.
    spin_us: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
pub struct Leg {
    pub key: &'static str,
    pub title: &'static str,
    pub transport: Transport,
    server: Option<Shim>,
    client: Option<Shim>,
}

const NOCOPY: Shim = Shim {
    mode: Mode::NoCopy,
    policy: Policy::Default,
    spin_us: None,
};
const COPY: Shim = Shim {
    mode: Mode::Copy,
    ..NOCOPY
};
const NOSPIN: Shim = Shim {
    spin_us: Some(0),
    ..NOCOPY
};
const COPY_NOSPIN: Shim = Shim {
    spin_us: Some(0),
    ..COPY
};
const OFF: Shim = Shim {
    policy: Policy::Off,
    ..NOCOPY
};

const fn plain(key: &'static str, title: &'static str, transport: Transport) -> Leg {
    Leg {
        key,
        title,
        transport,
        server: None,
        client: None,
    }
}

const fn both(key: &'static str, title: &'static str, shim: Shim) -> Leg {
    Leg {
        key,
        title,
        transport: Transport::Tcp,
        server: Some(shim),
        client: Some(shim),
    }
}

/// The base of all ratios.
pub const TCP: &str = "tcp";
pub const UNIX: &str = "unix";
pub const NO_COPY: &str = "nocopy";
pub const LIMIT: &str = "limit";

pub const ALL: [Leg; 9] = [
    plain(TCP, "TCP", Transport::Tcp),
    plain(UNIX, "UNIX domain", Transport::Unix),
    both("copy", "SMC copy", COPY),
    both(NO_COPY, "SMC no-copy", NOCOPY),
    both("copy-nospin", "copy, no spin", COPY_NOSPIN),
    both("nocopy-nospin", "no-copy, no spin", NOSPIN),
    plain(LIMIT, "limit", Transport::Limit),
    Leg {
        key: "server-only",
        title: "only server",
        transport: Transport::Tcp,
        server: Some(NOCOPY),
        client: None,
    },
    both("off", "loaded, off", OFF),
];

/// Legs of the demo.
pub const DEMO: &str = "tcp,nocopy,copy";
/// Legs of the whole comparison.
pub const FULL: &str = "tcp,unix,copy,nocopy,nocopy-nospin,limit";

pub fn by_key(key: &str) -> Option<Leg> {
    ALL.into_iter().find(|l| l.key == key)
}

/// How a leg is called in reports; its key when a newer version has written the results.
pub fn title(key: &str) -> &str {
    ALL.iter().find(|l| l.key == key).map_or(key, |l| l.title)
}

impl Leg {
    /// Is anything under the library?
    pub fn shimmed(&self) -> bool {
        self.server.is_some() || self.client.is_some()
    }

    /// The program of the server, plain or under the library.
    pub fn server(&self, lab: &Lab, program: &str) -> Run {
        start(lab, program, self.server)
    }

    pub fn client(&self, lab: &Lab, program: &str) -> Run {
        start(lab, program, self.client)
    }
}

fn start(lab: &Lab, program: &str, shim: Option<Shim>) -> Run {
    let Some(shim) = shim else {
        return lab.plain(program);
    };
    let run = lab.shim(program).mode(shim.mode).policy(shim.policy);
    match shim.spin_us {
        None => run,
        Some(us) => run.env("SMCLO_SPIN_US", us.to_string()),
    }
}
