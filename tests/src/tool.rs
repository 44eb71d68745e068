//! The tool as a person runs it against a laboratory's daemon, and a connection to look at.

use crate::{Lab, Run, Running, artefacts, ccase, net, stats::Socket};
use serde_json::Value;
use std::time::Duration;

/// Both ends take the daemon's answer within a call on the connection, so some must follow their claims.
const EXCHANGES: u32 = 20_000;

impl Lab {
    /// `smclo`, which asks this laboratory's daemon; `words` are its arguments.
    #[track_caller]
    pub fn smclo(&self, words: &str) -> Run {
        self.plain(artefacts::path("smclo"))
            .arg("--socket")
            .arg(self.socket())
            .env("SMCLO_LIB", artefacts::library())
            .words(words)
    }

    /// What `smclo --json` says; it has to succeed.
    #[track_caller]
    pub fn ask(&self, words: &str) -> Value {
        let said = self.smclo("--json").words(words).finish().ok();
        serde_json::from_str(&said).unwrap_or_else(|e| panic!("{words}: {e}: {said}"))
    }

    /// A connection on SMC-D that is at rest and stays until [`Held::end`].
    #[track_caller]
    pub fn hold(&self) -> Held {
        self.hold_with(|run| run)
    }

    /// As [`Lab::hold`], both programs changed.
    #[track_caller]
    pub fn hold_with(&self, change: impl Fn(Run) -> Run) -> Held {
        let program = ccase::compile("talk");
        let port = net::free_port();
        let run = |words: &str| change(self.eager(&program)).words(words).spawn();
        let server = run(&format!("serve {port} 1")).listening(port);
        let client = run(&format!("ask {port} {EXCHANGES} 60000"));
        // Both on a ring, and at rest: two looks see the same.
        let mut before = Vec::new();
        let both = net::wait_until(Duration::from_secs(20), || {
            let sockets = self.sockets();
            let mine = sockets.iter().filter(|s| s.has_port(port) && s.is_smcd());
            let bytes: Vec<u64> = mine.map(|s| s.number("smc_tx_bytes")).collect();
            let rest = bytes.len() == 2 && bytes.iter().all(|n| *n > 0) && bytes == before;
            before = bytes;
            rest
        });
        assert!(both, "{:?}", self.sockets());
        Held {
            server,
            client,
            port,
        }
    }
}

/// Two programs with a connection on SMC-D between them.
#[derive(Debug)]
pub struct Held {
    pub server: Running,
    pub client: Running,
    pub port: u16,
}

impl Held {
    /// Both ends, as `smclo ss` tells of them.
    #[track_caller]
    pub fn sockets(&self, lab: &Lab) -> Vec<Socket> {
        let mut all = lab.sockets();
        all.retain(|s| s.has_port(self.port) && s.is_smcd());
        all
    }

    /// Ends both.
    #[track_caller]
    pub fn end(self) {
        self.client.kill();
        self.server.finish();
    }

    /// As [`Held::end`]; nothing of them is left in the daemon.
    #[track_caller]
    pub fn end_cleanly(self, lab: &Lab) {
        self.end();
        lab.assert_clean();
    }
}
