//! How an SMC-D connection ends: the states of net/smc/smc_close.c as a pure table.
//! RFC 7609 describes the same states for SMC-R.
//!
//! ```text
//!            close / shutdown(WR)                        peer done or closed
//! ACTIVE ───────────────────────▶ PEERCLOSEWAIT1   ACTIVE ─────────────────▶ APPCLOSEWAIT1
//!   PEERCLOSEWAIT1 ── peer done ──▶ PEERCLOSEWAIT2
//!   PEERCLOSEWAIT1/2 ── peer closed ──▶ CLOSED, or APPFINCLOSEWAIT when only shut for writing
//!   APPCLOSEWAIT1 ── shutdown(WR) ──▶ APPCLOSEWAIT2
//!   APPCLOSEWAIT1/2 ── close ──▶ CLOSED when the peer has closed, else PEERFINCLOSEWAIT
//!   APPFINCLOSEWAIT ── close ──▶ CLOSED ◀── peer closed ── PEERFINCLOSEWAIT
//!   any ── peer aborts ──▶ PROCESSABORT, or CLOSED when this end has closed too
//! ```
//!
//! The two ends tell each other by the connection state flags of the CDC; [`Flags`] holds what one
//! end has said so far. One hole is the kernel's: an end that aborts in PEERCLOSEWAIT2 hears nothing
//! more from its peer, so that the end of the TCP stream has to count as the peer's close.
//! The functions change nothing: the caller waits for data to leave before it
//! asks, sends what is answered, and adds it to the flags that it has sent.
#![forbid(unsafe_code)]

use std::ops::BitOr;

/// `enum smc_state` of net/smc/smc.h, numbered as the kernel and `smcss` number them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Data flows both ways.
    Active = 1,
    /// Neither connected nor listening yet.
    Init = 2,
    Closed = 7,
    Listen = 10,
    /// We closed or shut writing; nothing heard from the peer.
    PeerCloseWait1 = 20,
    /// Both ends are done writing; the peer has not closed.
    PeerCloseWait2 = 21,
    /// The peer is done writing or has closed; we have done neither.
    AppCloseWait1 = 22,
    /// As [`State::AppCloseWait1`], and we have shut writing.
    AppCloseWait2 = 23,
    /// The peer closed after our shutdown; the application has to close.
    AppFinCloseWait = 24,
    /// We closed after the peer's shutdown; the peer has to close.
    PeerFinCloseWait = 25,
    /// We aborted.
    PeerAbortWait = 26,
    /// The peer aborted; the application has to close.
    ProcessAbort = 27,
}

impl State {
    pub const ALL: [State; 12] = [
        State::Active,
        State::Init,
        State::Closed,
        State::Listen,
        State::PeerCloseWait1,
        State::PeerCloseWait2,
        State::AppCloseWait1,
        State::AppCloseWait2,
        State::AppFinCloseWait,
        State::PeerFinCloseWait,
        State::PeerAbortWait,
        State::ProcessAbort,
    ];

    /// The state with this kernel number.
    pub fn from_number(n: u8) -> Option<State> {
        Self::ALL.into_iter().find(|state| *state as u8 == n)
    }

    /// Name as `smcss` prints it (which says APPFINCLOSEWAIT1 for number 24).
    pub const fn name(self) -> &'static str {
        match self {
            State::Active => "ACTIVE",
            State::Init => "INIT",
            State::Closed => "CLOSED",
            State::Listen => "LISTEN",
            State::PeerCloseWait1 => "PEERCLOSEWAIT1",
            State::PeerCloseWait2 => "PEERCLOSEWAIT2",
            State::AppCloseWait1 => "APPCLOSEWAIT1",
            State::AppCloseWait2 => "APPCLOSEWAIT2",
            State::AppFinCloseWait => "APPFINCLOSEWAIT",
            State::PeerFinCloseWait => "PEERFINCLOSEWAIT",
            State::PeerAbortWait => "PEERABORTWAIT",
            State::ProcessAbort => "PROCESSABORT",
        }
    }
}

/// Connection state flags, bits as in the CDC. They only ever get more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    pub const NONE: Flags = Flags(0);
    /// `peer_done_writing`
    pub const DONE_WRITING: Flags = Flags(0x80);
    /// `peer_conn_closed`
    pub const CLOSED: Flags = Flags(0x40);
    /// `peer_conn_abort`
    pub const ABORT: Flags = Flags(0x20);

    /// Any of `other` is set.
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }

    /// Its sender reads and writes no more.
    pub const fn any_close(self) -> bool {
        self.has(Flags(Self::CLOSED.0 | Self::ABORT.0))
    }

    /// Only `shutdown(SHUT_WR)`, no close yet.
    const fn only_done_writing(self) -> bool {
        self.has(Self::DONE_WRITING) && !self.any_close()
    }
}

impl BitOr for Flags {
    type Output = Flags;
    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// What besides the state decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// Flags sent so far.
    pub sent: Flags,
    /// Flags received so far, those of the event at hand included.
    pub received: Flags,
    /// Received bytes that the application has not read.
    pub unread: bool,
    /// The application has given the socket up (`close`, not just `shutdown`).
    pub dead: bool,
}

impl Ends {
    /// The last word: abort when received bytes are thrown away, else closed.
    fn last_word(&self) -> Flags {
        if self.unread {
            Flags::ABORT
        } else {
            Flags::CLOSED
        }
    }
}

/// `close` or `shutdown(SHUT_RDWR)` by the application (`smc_close_active`): the next state, and
/// the flags to send now ([`Flags::NONE`]: send nothing).
///
/// From ACTIVE, APPCLOSEWAIT1 and APPCLOSEWAIT2 the caller first waits for its data to leave, at
/// most for the `SO_LINGER` time or 2 s, and takes the state as it is after that.
pub fn active_close(state: State, ends: &Ends) -> (State, Flags) {
    use State::*;
    let after_shutdown = if ends.sent.only_done_writing() {
        ends.last_word()
    } else {
        Flags::NONE
    };
    match state {
        Init | Listen => (Closed, Flags::NONE),
        Active => (PeerCloseWait1, ends.last_word()),
        AppCloseWait1 | AppCloseWait2 if ends.received.any_close() => (Closed, ends.last_word()),
        AppCloseWait1 | AppCloseWait2 => (PeerFinCloseWait, ends.last_word()),
        AppFinCloseWait => (Closed, after_shutdown),
        PeerCloseWait1 | PeerCloseWait2 => (state, after_shutdown),
        PeerFinCloseWait => (state, Flags::NONE),
        ProcessAbort => (Closed, Flags::ABORT),
        PeerAbortWait | Closed => (Closed, Flags::NONE),
    }
}

/// `shutdown(SHUT_WR)` by the application (`smc_close_shutdown_write`): the next state, and the
/// flags to send now. Waiting for data as in [`active_close`]. (`SHUT_RD` is no event: the peer does
/// not learn of it.)
pub fn active_shutdown(state: State) -> (State, Flags) {
    match state {
        State::Active => (State::PeerCloseWait1, Flags::DONE_WRITING),
        State::AppCloseWait1 => (State::AppCloseWait2, Flags::DONE_WRITING),
        other => (other, Flags::NONE),
    }
}

/// A CDC with connection state flags came (`smc_close_passive_work`): the next state. Nothing is
/// ever sent in answer.
pub fn passive(state: State, ends: &Ends) -> State {
    use State::*;
    let received = ends.received;
    if received.has(Flags::ABORT) {
        return match state {
            Init | Active | AppCloseWait1 | AppFinCloseWait => ProcessAbort,
            PeerCloseWait1 | PeerCloseWait2 if ends.sent.only_done_writing() => ProcessAbort,
            PeerCloseWait1 | PeerCloseWait2 => Closed,
            AppCloseWait2 | PeerFinCloseWait | PeerAbortWait => Closed,
            ProcessAbort | Closed | Listen => state,
        };
    }
    if received == Flags::NONE {
        return state;
    }
    match state {
        Init | Active => AppCloseWait1,
        PeerCloseWait1 | PeerCloseWait2 if received.has(Flags::CLOSED) => {
            if ends.dead && ends.sent.any_close() {
                Closed
            } else {
                AppFinCloseWait
            }
        }
        PeerCloseWait1 if received.has(Flags::DONE_WRITING) => PeerCloseWait2,
        PeerFinCloseWait if received.has(Flags::CLOSED) => Closed,
        _ => state,
    }
}

/// The link group is lost on this side (`smc_close_active_abort`): nothing can be sent any more, and
/// the socket gets `ECONNABORTED`. The kernel passes through PEERABORTWAIT without stopping.
pub fn killed(state: State) -> State {
    match state {
        State::Init | State::Listen => state,
        _ => State::Closed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use State::*;

    const NONE: Flags = Flags::NONE;
    const DONE: Flags = Flags::DONE_WRITING;
    const CLOSED: Flags = Flags::CLOSED;
    const ABORT: Flags = Flags::ABORT;

    fn ends(sent: Flags, received: Flags) -> Ends {
        Ends {
            sent,
            received,
            ..Ends::default()
        }
    }

    #[test]
    fn numbers_are_the_kernels() {
        let numbers = State::ALL.map(|s| s as u8);
        assert_eq!(numbers, [1, 2, 7, 10, 20, 21, 22, 23, 24, 25, 26, 27]);
        for state in State::ALL {
            assert_eq!(State::from_number(state as u8), Some(state));
        }
        assert_eq!(State::from_number(0), None);
        assert_eq!(State::from_number(28), None);
    }

    #[test]
    fn close_rows() {
        for (state, sent, received, wanted) in [
            (Init, NONE, NONE, (Closed, NONE)),
            (Listen, NONE, NONE, (Closed, NONE)),
            (Active, NONE, NONE, (PeerCloseWait1, CLOSED)),
            (AppCloseWait1, NONE, DONE, (PeerFinCloseWait, CLOSED)),
            (AppCloseWait1, NONE, CLOSED, (Closed, CLOSED)),
            (AppCloseWait1, NONE, DONE | CLOSED, (Closed, CLOSED)),
            (AppCloseWait2, DONE, DONE, (PeerFinCloseWait, CLOSED)),
            (AppCloseWait2, DONE, CLOSED, (Closed, CLOSED)),
            (AppFinCloseWait, DONE, CLOSED, (Closed, CLOSED)),
            (AppFinCloseWait, CLOSED, CLOSED, (Closed, NONE)),
            (AppFinCloseWait, DONE | CLOSED, CLOSED, (Closed, NONE)),
            (PeerCloseWait1, DONE, NONE, (PeerCloseWait1, CLOSED)),
            (PeerCloseWait1, CLOSED, NONE, (PeerCloseWait1, NONE)),
            (PeerCloseWait2, DONE, DONE, (PeerCloseWait2, CLOSED)),
            (PeerCloseWait2, DONE | CLOSED, DONE, (PeerCloseWait2, NONE)),
            (PeerFinCloseWait, CLOSED, DONE, (PeerFinCloseWait, NONE)),
            (ProcessAbort, NONE, ABORT, (Closed, ABORT)),
            (PeerAbortWait, ABORT, NONE, (Closed, NONE)),
            (Closed, CLOSED, CLOSED, (Closed, NONE)),
        ] {
            let got = active_close(state, &ends(sent, received));
            assert_eq!(got, wanted, "{state:?} {sent:?} {received:?}");
        }
    }

    #[test]
    fn unread_bytes_make_the_last_word_abort() {
        for (state, sent, next) in [
            (Active, NONE, PeerCloseWait1),
            (AppCloseWait1, NONE, PeerFinCloseWait),
            (AppCloseWait2, DONE, PeerFinCloseWait),
            (AppFinCloseWait, DONE, Closed),
            (PeerCloseWait1, DONE, PeerCloseWait1),
            (PeerCloseWait2, DONE, PeerCloseWait2),
        ] {
            let ends = Ends {
                unread: true,
                ..ends(sent, NONE)
            };
            assert_eq!(active_close(state, &ends), (next, ABORT), "{state:?}");
        }
    }

    #[test]
    fn shutdown_rows() {
        for state in State::ALL {
            let wanted = match state {
                Active => (PeerCloseWait1, DONE),
                AppCloseWait1 => (AppCloseWait2, DONE),
                other => (other, NONE),
            };
            assert_eq!(active_shutdown(state), wanted);
        }
    }

    #[test]
    fn abort_rows() {
        for (state, sent, wanted) in [
            (Init, NONE, ProcessAbort),
            (Active, NONE, ProcessAbort),
            (AppCloseWait1, NONE, ProcessAbort),
            (AppFinCloseWait, DONE, ProcessAbort),
            (PeerCloseWait1, DONE, ProcessAbort),
            (PeerCloseWait1, CLOSED, Closed),
            (PeerCloseWait1, DONE | CLOSED, Closed),
            (PeerCloseWait1, DONE | ABORT, Closed),
            (PeerCloseWait2, DONE, ProcessAbort),
            (PeerCloseWait2, DONE | CLOSED, Closed),
            (AppCloseWait2, DONE, Closed),
            (PeerFinCloseWait, CLOSED, Closed),
            (PeerAbortWait, ABORT, Closed),
            (ProcessAbort, NONE, ProcessAbort),
            (Closed, CLOSED, Closed),
            (Listen, NONE, Listen),
        ] {
            for received in [ABORT, ABORT | DONE, ABORT | CLOSED] {
                let got = passive(state, &ends(sent, received));
                assert_eq!(got, wanted, "{state:?} {sent:?}");
            }
        }
    }

    #[test]
    fn passive_rows() {
        for (state, sent, received, dead, wanted) in [
            (Init, NONE, DONE, false, AppCloseWait1),
            (Init, NONE, CLOSED, false, AppCloseWait1),
            (Active, NONE, DONE, false, AppCloseWait1),
            (Active, NONE, CLOSED, false, AppCloseWait1),
            (PeerCloseWait1, DONE, DONE, false, PeerCloseWait2),
            (PeerCloseWait1, CLOSED, DONE, true, PeerCloseWait2),
            (PeerCloseWait1, DONE, CLOSED, false, AppFinCloseWait),
            (PeerCloseWait1, DONE, DONE | CLOSED, false, AppFinCloseWait),
            (PeerCloseWait1, CLOSED, CLOSED, true, Closed),
            // shutdown(RDWR): closed is sent, but the application still has the socket.
            (PeerCloseWait1, CLOSED, CLOSED, false, AppFinCloseWait),
            (PeerCloseWait2, DONE, DONE, false, PeerCloseWait2),
            (PeerCloseWait2, DONE, DONE | CLOSED, false, AppFinCloseWait),
            (PeerCloseWait2, DONE | CLOSED, CLOSED, true, Closed),
            (PeerFinCloseWait, CLOSED, DONE, true, PeerFinCloseWait),
            (PeerFinCloseWait, CLOSED, DONE | CLOSED, true, Closed),
            (AppCloseWait1, NONE, DONE | CLOSED, false, AppCloseWait1),
            (AppCloseWait2, DONE, CLOSED, false, AppCloseWait2),
            (AppFinCloseWait, DONE, CLOSED, false, AppFinCloseWait),
            (PeerAbortWait, ABORT, CLOSED, false, PeerAbortWait),
            (ProcessAbort, NONE, CLOSED, false, ProcessAbort),
            (Closed, CLOSED, CLOSED, true, Closed),
            (Listen, NONE, CLOSED, false, Listen),
        ] {
            let ends = Ends {
                dead,
                ..ends(sent, received)
            };
            assert_eq!(passive(state, &ends), wanted, "{state:?} {ends:?}");
        }
        for state in State::ALL {
            assert_eq!(passive(state, &Ends::default()), state);
        }
    }

    #[test]
    fn killed_rows() {
        for state in State::ALL {
            let wanted = match state {
                Init => Init,
                Listen => Listen,
                _ => Closed,
            };
            assert_eq!(killed(state), wanted);
        }
    }

    /// Two ends that see each other's flags at once: when both have closed, both are closed.
    #[test]
    fn both_ends_reach_closed() {
        #[derive(Clone, Copy)]
        struct End {
            state: State,
            ends: Ends,
        }
        #[derive(Clone, Copy, Debug, PartialEq)]
        enum Call {
            Shutdown,
            Close,
        }
        fn call(pair: &mut [End; 2], who: usize, what: Call) {
            let me = &mut pair[who];
            let (state, send) = match what {
                Call::Shutdown => active_shutdown(me.state),
                Call::Close => {
                    me.ends.dead = true;
                    active_close(me.state, &me.ends)
                }
            };
            me.state = state;
            me.ends.sent = me.ends.sent | send;
            let sent = me.ends.sent;
            let peer = &mut pair[1 - who];
            if send != NONE {
                peer.ends.received = sent;
                peer.state = passive(peer.state, &peer.ends);
            }
        }
        use Call::*;
        let orders: &[&[(usize, Call)]] = &[
            &[(0, Close), (1, Close)],
            &[(0, Shutdown), (0, Close), (1, Close)],
            &[(0, Shutdown), (1, Close), (0, Close)],
            &[(0, Shutdown), (1, Shutdown), (0, Close), (1, Close)],
            &[(0, Shutdown), (1, Shutdown), (1, Close), (0, Close)],
            &[(0, Close), (1, Shutdown), (1, Close)],
        ];
        for order in orders {
            for unread in [false, true] {
                let end = End {
                    state: Active,
                    ends: Ends {
                        unread,
                        ..Ends::default()
                    },
                };
                let mut pair = [end; 2];
                for (who, what) in *order {
                    call(&mut pair, *who, *what);
                }
                // The kernel's hole: an abort makes APPCLOSEWAIT2 closed, which has nothing to
                // say any more when the application closes. TCP has to tell the aborting end.
                let both_shut = [(0, Shutdown), (1, Shutdown), (0, Close)];
                let hole = unread && order.starts_with(&both_shut);
                for (who, end) in pair.iter().enumerate() {
                    let wanted = if hole && who == 0 {
                        PeerCloseWait2
                    } else {
                        Closed
                    };
                    assert_eq!(end.state, wanted, "{order:?} unread {unread} end {who}");
                }
            }
        }
    }
}
