//! Why a connection is on TCP: the CLC decline codes of SMC and, from `0x0A00_0000` on, our own.

macro_rules! reasons {
    ($( $name:ident = $code:literal, $words:literal; )*) => {
        $( #[doc = $words] pub const $name: u32 = $code; )*

        /// Short name of a code, as `smclo ss` prints it.
        pub fn name(code: u32) -> &'static str {
            match code { $( $code => stringify!($name), )* _ => "UNKNOWN" }
        }

        /// What a code means, in words.
        pub fn words(code: u32) -> &'static str {
            match code { $( $code => $words, )* _ => "unknown reason" }
        }

        /// All codes with a name.
        pub const ALL: &[u32] = &[$($code),*];
    };
}

reasons! {
    MEM = 0x0101_0000, "out of memory";
    TIMEOUT_CL = 0x0201_0000, "no confirm-link message (SMC-R)";
    TIMEOUT_AL = 0x0202_0000, "no add-link message (SMC-R)";
    CNFERR = 0x0300_0000, "configuration error";
    PEERNOSMC = 0x0301_0000, "the peer does not speak SMC";
    IPSEC = 0x0302_0000, "the connection is under IPsec";
    NOSMCDEV = 0x0303_0000, "no SMC device of any kind";
    NOSMCDDEV = 0x0303_0001, "no common SMC-D device or EID";
    NOSMCRDEV = 0x0303_0002, "no SMC-R device";
    NOISM2SUPP = 0x0303_0003, "no ISM v2 support here";
    NOV2EXT = 0x0303_0004, "the Proposal lacks the v2 extension";
    NOV2DEXT = 0x0303_0005, "the Proposal lacks the SMC-D v2 extension";
    NOSEID = 0x0303_0006, "the Proposal lacks a SEID";
    NOSMCD2DEV = 0x0303_0007, "no common SMC-D v2 device: another host or another daemon";
    NOUEID = 0x0303_0008, "the Proposal lacks a UEID";
    RELEASEERR = 0x0303_0009, "release negotiation failed";
    MAXCONNERR = 0x0303_000a, "negotiation of the maximum number of connections failed";
    MAXLINKERR = 0x0303_000b, "negotiation of the maximum number of links failed";
    MODEUNSUPP = 0x0304_0000, "the peer chose a mode that was not offered";
    RMBE_EC = 0x0305_0000, "the peer uses eyecatchers in its RMBE";
    OPTUNSUPP = 0x0306_0000, "a socket option that SMC cannot carry";
    DIFFPREFIX = 0x0307_0000, "IP prefix or subnet differs";
    GETVLANERR = 0x0308_0000, "VLAN of the device not readable";
    ISMVLANERR = 0x0309_0000, "VLAN registration failed";
    NOACTLINK = 0x030a_0000, "no active link (SMC-R)";
    NOSRVLINK = 0x030b_0000, "server link not found (SMC-R)";
    VERSMISMAT = 0x030c_0000, "SMC version mismatch";
    MAX_DMB = 0x030d_0000, "limit of DMBs reached";
    NOROUTE = 0x030e_0000, "no route (SMC-R v2)";
    NOINDIRECT = 0x030f_0000, "indirect mismatch (SMC-R v2)";
    SYNCERR = 0x0400_0000, "link groups out of sync";
    PEERDECL = 0x0500_0000, "the peer declined";
    INTERR = 0x0999_0000, "internal error";
    ERR_RTOK = 0x0999_0001, "no rtoken (SMC-R)";
    ERR_RDYLNK = 0x0999_0002, "link not ready (SMC-R)";
    ERR_REGBUF = 0x0999_0003, "buffer registration failed (SMC-R)";

    NOT_YET = 0x0a00_0001, "not enough traffic yet to be worth it";
    NO_PEER_YET = 0x0a00_0002, "waiting for the other end: not under libsmclo, or not claimed yet";
    HANDSHAKE = 0x0a00_0003, "handshake in progress";
    NOT_LOCAL = 0x0a00_0004, "the peer is on another host, or in no network namespace that smclod knows";
    NO_DAEMON = 0x0a00_0005, "no smclod answers";
    DAEMON_VERSION = 0x0a00_0006, "smclod speaks another protocol version";
    POLICY_OFF = 0x0a00_0007, "turned off by policy";
    OTHER_UID = 0x0a00_0008, "the other end belongs to another user";
    NOT_VERIFIED = 0x0a00_0009, "the kernel does not confirm the claim (sock_diag)";
    COUNTS = 0x0a00_000a, "bytes went past the library: raw system calls or another process";
    STD_FD = 0x0a00_000b, "the socket is descriptor 0, 1 or 2";
    STDIO = 0x0a00_000c, "the socket is used through stdio (fdopen, dprintf)";
    OOB = 0x0a00_000d, "urgent data (MSG_OOB)";
    LOWAT = 0x0a00_000e, "SO_RCVLOWAT above 1";
    SOCKOPT = 0x0a00_000f, "a socket option that only TCP can carry";
    ASYNC_IO = 0x0a00_0010, "O_ASYNC or io_uring";
    EPOLL = 0x0a00_0011, "EPOLLEXCLUSIVE, a nested or an inherited epoll set";
    SHARED = 0x0a00_0012, "shared by several processes";
    ESCAPED = 0x0a00_0013, "the descriptor was passed to a program that the library cannot follow";
    SELF_CONNECT = 0x0a00_0014, "one socket at both ends";
    LIMITS = 0x0a00_0015, "resource limits of the process are too low";
    REVERTED = 0x0a00_0016, "went back to TCP; may be accelerated again";
    READER_STALLED = 0x0a00_0017, "ring full and the reader did not move; TCP buffers more";
    PEER_CLOSING = 0x0a00_0018, "one end is closing";
    DAEMON_BUSY = 0x0a00_0019, "smclod refused: too many claims";
    BUSY_STREAM = 0x0a00_001a, "the stream never paused for the handshake";
    PROTOCOL = 0x0a00_001b, "the peer broke the protocol";
    SPLICED = 0x0a00_001d, "the program splices: TCP passes such bytes on without a copy";
    SANDBOX = 0x0a00_0020, "the process has entered a seccomp sandbox, or one of the two is in one and they cannot wake each other";
    NO_ROOM = 0x0a00_001c, "more connections, or threads asleep on them, than the library's tables hold";
    POLICY_LIMIT = 0x0a00_0022, "as many accelerated connections as the policy allows this process";
    NETNS = 0x0a00_0030, "in a network namespace that smclod may not look into (it needs to be root, or CAP_SYS_ADMIN, CAP_SYS_PTRACE and CAP_NET_RAW)";
    UNPROVEN = 0x0a00_0031, "ends in different network namespaces, and no packets showed that they are one connection";
}
