//! What the tool asks and orders.

use super::DecodeError;

/// Bits of the argument of [`Verb::Ss`].
pub mod ss {
    /// Sockets too that are neither connected nor listening.
    pub const INIT: u64 = 1;
    /// Cursors and flags.
    pub const CURSORS: u64 = 2;
}

/// What the tool can ask ([`super::Request::verb`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Verb {
    Ss = 1,
    Stats = 2,
    StatsReset = 3,
    UeidAdd = 4,
    UeidDel = 5,
    UeidList = 6,
    SeidEnable = 7,
    SeidDisable = 8,
    Seid = 9,
    Device = 10,
    LinkGroups = 11,
    Info = 12,
    /// Argument: a port, or 0.
    Trace = 13,
    UeidFlush = 14,
    /// Argument: the name of a run, whose programs are counted while this session lasts.
    Watch = 20,
    /// What the watched run has come to.
    Run = 21,
}

impl TryFrom<u16> for Verb {
    type Error = DecodeError;
    fn try_from(n: u16) -> Result<Self, DecodeError> {
        use Verb::*;
        [
            Ss,
            Stats,
            StatsReset,
            UeidAdd,
            UeidDel,
            UeidList,
            SeidEnable,
            SeidDisable,
            Seid,
            Device,
            LinkGroups,
            Info,
            Trace,
            UeidFlush,
            Watch,
            Run,
        ]
        .into_iter()
        .find(|v| *v as u16 == n)
        .ok_or(DecodeError::Field)
    }
}
