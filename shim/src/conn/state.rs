//! Where a connection stands, its handshake, and the bits that are noted of it.

/// Where a socket stands. Order matters: from [`CLAIMED`] to [`PAIRED`] calls are careful.
pub mod phase {
    pub const INIT: u32 = 0;
    pub const LISTEN: u32 = 1;
    /// Connected (or connecting), plain TCP, may become a candidate.
    pub const PLAIN: u32 = 2;
    /// TCP for good; the row says why.
    pub const BARRED: u32 = 3;
    /// The daemon knows of it.
    pub const CLAIMED: u32 = 4;
    /// Both ends are known; handshake or established, see [`super::step`].
    pub const PAIRED: u32 = 5;
}

/// Where the CLC handshake stands.
pub mod step {
    /// Client: Proposal to be sent. Server: Proposal awaited.
    pub const START: u32 = 0;
    /// Client: Accept awaited.
    pub const PROPOSED: u32 = 1;
    /// Server: Accept to be sent.
    pub const ACCEPT: u32 = 2;
    /// Server: Confirm awaited.
    pub const ACCEPTED: u32 = 3;
    /// Client: Confirm to be sent.
    pub const CONFIRM: u32 = 4;
    /// Client: ConfirmAck awaited.
    pub const CONFIRMED: u32 = 5;
    /// Server: ConfirmAck to be sent.
    pub const ACK: u32 = 6;
    pub const ESTABLISHED: u32 = 7;
    /// Decline to be sent.
    pub const DECLINE: u32 = 8;
    /// Over without SMC: no message is sent or awaited.
    pub const OVER: u32 = 9;
    /// Likewise, before it began: the other end has not taken the pair. It may be asked for anew.
    pub const VOID: u32 = 10;
}

/// Bits of [`crate::conn::Conn::flags`].
pub mod flag {
    /// O_NONBLOCK of the open file description.
    pub const NONBLOCK: u32 = 1;
    /// This end called connect.
    pub const CLIENT: u32 = 2;
    /// RDHUP, HUP or ERR was seen on the TCP socket.
    pub const FIN_SEEN: u32 = 4;
    /// ECONNRESET is owed to the program.
    pub const RESET: u32 = 0x10;
    /// The reset, or another end of the kernel's socket, was reported; sends give EPIPE, receives 0.
    pub const DEAD: u32 = 0x20;
    /// Back to TCP at the next call, for good.
    pub const LEAVE: u32 = 0x40;
    /// Was on a ring at some time.
    pub const ACCELERATED: u32 = 0x80;
    /// The program called shutdown for writing.
    pub const SHUT_WR: u32 = 0x100;
    /// The program called shutdown for reading.
    pub const SHUT_RD: u32 = 0x200;
    /// The ring was full for the program: an EPOLLOUT edge is owed when space comes.
    pub const NOSPACE: u32 = 0x400;
    /// This side has opened its gate at least once.
    pub const GATED: u32 = 0x800;
    /// The kernel's reset is the end of the stream to the program, see [`crate::conn::died`].
    pub const ENDED: u32 = 0x1000;
    /// TCP_INQ: the program wants to be told how much is left.
    pub const INQ: u32 = 0x2000;
    /// Another process has passed it to this one.
    pub const RECEIVED: u32 = 0x4000;
    /// It was passed on.
    pub const PASSED: u32 = 0x8000;
    /// If so, to one receiver only, and nobody else has got hold of it.
    pub const PASSED_ONCE: u32 = 0x1_0000;
    /// Nagle's rule would hold the program's next send back behind a handshake message.
    pub const BEHIND_MESSAGE: u32 = 0x2_0000;
    /// The daemon was asked to give the claim back, and has not answered yet.
    pub const ASKED_BACK: u32 = 0x4_0000;
    /// Urgent data was seen on the TCP socket.
    pub const URGENT: u32 = 0x8_0000;
    /// The kernel would have closed it before what lies unread came, see [`crate::conn::kept`].
    pub const LATE: u32 = 0x10_0000;
    /// It was passed to somebody, who may have it still.
    pub const GIVEN: u32 = 0x20_0000;
    /// SO_RCVTIMEO, SO_SNDTIMEO is below 0, which the kernel reads back as 0: receives, sends do not wait.
    pub const RCV_AT_ONCE: u32 = 0x40_0000;
    pub const SND_AT_ONCE: u32 = 0x80_0000;
    pub const AT_ONCE: u32 = RCV_AT_ONCE | SND_AT_ONCE;
    /// SO_RCVTIMEO, SO_SNDTIMEO is known to be 0: calls wait for ever.
    pub const RCV_FOR_EVER: u32 = 0x100_0000;
    pub const SND_FOR_EVER: u32 = 0x200_0000;
}
