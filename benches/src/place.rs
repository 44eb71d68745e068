//! Which cores the programs run on.

use serde::{Deserialize, Serialize};

/// Where the programs run, the same for all legs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// Servers on core 0, clients on core 1
    TwoCores,
    /// Both on core 0
    SameCore,
    /// Where the kernel puts them
    Free,
}

const SERVER_CORE: usize = 0;
const CLIENT_CORE: usize = 1;

impl Placement {
    pub const ALL: [Placement; 3] = [Placement::TwoCores, Placement::SameCore, Placement::Free];

    /// What is possible here.
    pub fn available(self) -> Placement {
        match std::thread::available_parallelism() {
            Ok(n) if n.get() > 1 => self,
            _ => Placement::SameCore,
        }
    }

    pub fn server_core(self) -> Option<usize> {
        (self != Placement::Free).then_some(SERVER_CORE)
    }

    pub fn client_core(self) -> Option<usize> {
        match self {
            Placement::TwoCores => Some(CLIENT_CORE),
            Placement::SameCore => Some(SERVER_CORE),
            Placement::Free => None,
        }
    }

    pub fn words(self) -> &'static str {
        match self {
            Placement::TwoCores => "servers on core 0, clients on core 1",
            Placement::SameCore => "servers and clients on core 0",
            Placement::Free => "servers and clients where the kernel puts them",
        }
    }

    pub fn short(self) -> &'static str {
        match self {
            Placement::TwoCores => "two cores",
            Placement::SameCore => "same core",
            Placement::Free => "free",
        }
    }
}
