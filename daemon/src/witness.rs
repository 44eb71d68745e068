//! Proof that two ends in different network namespaces are the ends of one connection.
//!
//! Addresses prove nothing there: two pairs of containers may have the same ones, and the same
//! ports. A handshake message that goes to the wrong end would be read by a program, so the proof
//! comes before it, from what cannot be the same by chance: the packets. Each namespace has a packet
//! socket for the tuple of its end. One that leaves its sender and is delivered to its receiver with
//! the same sequence number, acknowledgement, and IP identification (IPv4) or flow label (IPv6), in
//! each direction, is one packet of one connection: the kernel draws initial sequence numbers from
//! a clock of 64 ns, and the other number for each socket anew.
//!
//! What a namespace only hands on, as a bridge or a router, counts for nothing: a packet must be
//! *sent* there by its source address or *delivered* there to its destination. Address translation
//! between the two changes none of the numbers. A proxy in between makes two connections, whose
//! numbers never agree.

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use protocol::ctl::Endpoint;
use protocol::ids::Role;
use std::collections::HashSet;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Packets that one end looks at before it gives up.
const MAX_PACKETS: usize = 4096;
/// IP header with options, and TCP header.
const SNAP: usize = 80;
const IPV4: u8 = 4;
const IPV6: u8 = 6;
const ETH_P_ALL: u16 = 3;
const PACKET_HOST: u8 = 0;
const PACKET_OUTGOING: u8 = 4;

/// What makes a packet recognisable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Mark {
    sender: Role,
    seq: u32,
    ack: u32,
    /// IPv4: identification; IPv6: flow label.
    label: u32,
}

/// One end's view.
#[derive(Debug)]
pub struct Tap {
    socket: OwnedFd,
    role: Role,
    local: Endpoint,
    peer: Endpoint,
    seen: HashSet<Mark>,
    packets: usize,
}

impl Tap {
    /// Looks at the packets of an end; to be called in its namespace.
    pub fn open(role: Role, local: Endpoint, peer: Endpoint) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // Protocol 0: nothing arrives before the filter is in place.
        let socket = socket(AddressFamily::Packet, SockType::Datagram, flags, None)?;
        attach(&socket, &filter(&local, &peer))?;
        bind_all(&socket)?;
        Ok(Tap {
            socket,
            role,
            local,
            peer,
            seen: HashSet::new(),
            packets: 0,
        })
    }

    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    fn receive(&mut self) -> io::Result<Option<Mark>> {
        let mut packet = [0; SNAP];
        let (len, kind) = receive(&self.socket, &mut packet)?;
        self.packets += 1;
        Ok(self.mark(packet.get(..len).unwrap_or(&[]), kind))
    }

    /// The mark of a packet that this end has sent or was delivered.
    fn mark(&self, packet: &[u8], kind: u8) -> Option<Mark> {
        let seen = Header::parse(packet)?;
        let ours = |a: &([u8; 16], u16), b: &Endpoint| *a == (b.addr, b.port);
        let sender = if ours(&seen.source, &self.local) && ours(&seen.destination, &self.peer) {
            self.role
        } else if ours(&seen.source, &self.peer) && ours(&seen.destination, &self.local) {
            self.role.peer()
        } else {
            return None;
        };
        let wanted = if sender == self.role {
            PACKET_OUTGOING
        } else {
            PACKET_HOST
        };
        (kind == wanted).then_some(Mark {
            sender,
            seq: seen.seq,
            ack: seen.ack,
            label: seen.label,
        })
    }
}

/// What the packets have shown so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Unknown,
    OneConnection,
    /// Many packets, and none that both ends saw.
    Different,
}

/// The two ends under observation.
#[derive(Debug)]
pub struct Witness {
    taps: [Tap; 2],
    /// Packets of the client, of the server, that both have seen.
    proven: [bool; 2],
}

impl Witness {
    pub fn new(client: Tap, server: Tap) -> Self {
        Witness {
            taps: [client, server],
            proven: [false; 2],
        }
    }

    pub fn taps(&self) -> &[Tap; 2] {
        &self.taps
    }

    /// Looks at what has arrived at one end.
    pub fn look(&mut self, end: usize) -> Verdict {
        let [client, server] = &mut self.taps;
        let (tap, other) = if end == 0 {
            (client, server)
        } else {
            (server, client)
        };
        while tap.packets < MAX_PACKETS {
            match tap.receive() {
                Ok(None) => {}
                Ok(Some(mark)) => {
                    tap.seen.insert(mark);
                    self.proven[mark.sender as usize] |= other.seen.contains(&mark);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return self.verdict(),
                // Its interface went down; others may carry on.
                Err(e) if e.raw_os_error() == Some(libc::ENETDOWN) => {}
                Err(_) => return Verdict::Different,
            }
            if self.proven == [true; 2] {
                return Verdict::OneConnection;
            }
        }
        Verdict::Different
    }

    fn verdict(&self) -> Verdict {
        if self.proven == [true; 2] {
            Verdict::OneConnection
        } else {
            Verdict::Unknown
        }
    }
}

/// The parts of an IP and a TCP header that count here.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    source: ([u8; 16], u16),
    destination: ([u8; 16], u16),
    seq: u32,
    ack: u32,
    label: u32,
}

impl Header {
    fn parse(packet: &[u8]) -> Option<Header> {
        let v4 = |at: usize| -> Option<[u8; 16]> {
            let raw: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
            Some(std::net::Ipv4Addr::from(raw).to_ipv6_mapped().octets())
        };
        let v6 = |at: usize| -> Option<[u8; 16]> { packet.get(at..at + 16)?.try_into().ok() };
        let (source, destination, label, tcp) = match packet.first()? >> 4 {
            IPV4 => {
                let label = u32::from(u16_at(packet, 4)?);
                (v4(12)?, v4(16)?, label, usize::from(packet[0] & 0xf) * 4)
            }
            IPV6 => (v6(8)?, v6(24)?, u32_at(packet, 0)? & 0xf_ffff, 40),
            _ => return None,
        };
        Some(Header {
            source: (source, u16_at(packet, tcp)?),
            destination: (destination, u16_at(packet, tcp + 2)?),
            seq: u32_at(packet, tcp + 4)?,
            ack: u32_at(packet, tcp + 8)?,
            label,
        })
    }
}

fn u16_at(raw: &[u8], at: usize) -> Option<u16> {
    let raw = raw.get(at..at + 2)?;
    Some(u16::from_be_bytes(raw.try_into().ok()?))
}

fn u32_at(raw: &[u8], at: usize) -> Option<u32> {
    let raw = raw.get(at..at + 4)?;
    Some(u32::from_be_bytes(raw.try_into().ok()?))
}

/// Lets only TCP packets with these two ports through: all that is cheap to tell. The addresses are
/// compared by [`Tap::mark`].
fn filter(local: &Endpoint, peer: &Endpoint) -> Vec<libc::sock_filter> {
    use libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_H, BPF_IND, BPF_JEQ, BPF_JMP, BPF_JSET};
    use libc::{BPF_K, BPF_LD, BPF_LDX, BPF_MSH, BPF_RET, BPF_W};
    let ports = |a: u16, b: u16| u32::from(a) << 16 | u32::from(b);
    let (out, back) = (ports(local.port, peer.port), ports(peer.port, local.port));
    let tcp = libc::IPPROTO_TCP as u32;
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    // Jumps count from the next instruction; the last two are "drop" and "take".
    let version = |number: u8, drop: u8| {
        [
            op(BPF_LD | BPF_B | BPF_ABS, 0, 0, 0),
            op(BPF_ALU | BPF_AND | BPF_K, 0, 0, 0xf0),
            op(BPF_JMP | BPF_JEQ | BPF_K, 0, drop, u32::from(number) << 4),
        ]
    };
    let end = [
        op(BPF_JMP | BPF_JEQ | BPF_K, 2, 0, out),
        op(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, back),
        op(BPF_RET | BPF_K, 0, 0, 0),
        op(BPF_RET | BPF_K, 0, 0, SNAP as u32),
    ];
    let mut code = Vec::new();
    if local.as_v4().is_some() {
        code.extend(version(IPV4, 8));
        code.extend([
            op(BPF_LD | BPF_B | BPF_ABS, 0, 0, 9),
            op(BPF_JMP | BPF_JEQ | BPF_K, 0, 6, tcp),
            // Only the first fragment has ports.
            op(BPF_LD | BPF_H | BPF_ABS, 0, 0, 6),
            op(BPF_JMP | BPF_JSET | BPF_K, 4, 0, 0x1fff),
            op(BPF_LDX | BPF_B | BPF_MSH, 0, 0, 0),
            op(BPF_LD | BPF_W | BPF_IND, 0, 0, 0),
        ]);
    } else {
        code.extend(version(IPV6, 5));
        code.extend([
            op(BPF_LD | BPF_B | BPF_ABS, 0, 0, 6),
            op(BPF_JMP | BPF_JEQ | BPF_K, 0, 3, tcp),
            op(BPF_LD | BPF_W | BPF_ABS, 0, 0, 40),
        ]);
    }
    code.extend(end);
    code
}

fn attach(socket: &OwnedFd, code: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: code.len() as u16,
        filter: code.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies the program, which lives in `code`, and writes nothing to it.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    nix::errno::Errno::result(done)?;
    Ok(())
}

/// All interfaces, and outgoing packets too.
fn bind_all(socket: &OwnedFd) -> io::Result<()> {
    // SAFETY: zeros are a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = ETH_P_ALL.to_be();
    // SAFETY: `address` lives in this frame, and its size is given.
    let done = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    nix::errno::Errno::result(done)?;
    Ok(())
}

/// A packet from its IP header on, and its type.
fn receive(socket: &OwnedFd, packet: &mut [u8]) -> io::Result<(usize, u8)> {
    // SAFETY: zeros are a valid sockaddr_ll.
    let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut len = size_of_val(&from) as libc::socklen_t;
    // SAFETY: `packet`, `from` and `len` live longer than the call, and their sizes are given.
    let got = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            packet.as_mut_ptr().cast(),
            packet.len(),
            libc::MSG_DONTWAIT,
            (&raw mut from).cast(),
            &raw mut len,
        )
    };
    let got = nix::errno::Errno::result(got)?;
    Ok((got as usize, from.sll_pkttype))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

    fn endpoint(a: SocketAddr) -> Endpoint {
        match a {
            SocketAddr::V4(a) => Endpoint::v4(a.ip().octets(), a.port()),
            SocketAddr::V6(a) => Endpoint {
                addr: a.ip().octets(),
                port: a.port(),
                zero: 0,
                scope: 0,
            },
        }
    }

    fn ends(listen: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(listen).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn tap(role: Role, end: &TcpStream) -> Option<Tap> {
        let (local, peer) = (end.local_addr().unwrap(), end.peer_addr().unwrap());
        match Tap::open(role, endpoint(local), endpoint(peer)) {
            Ok(tap) => Some(tap),
            Err(e) => {
                eprintln!("no right to look at packets: {e}");
                None
            }
        }
    }

    fn exchange(client: &mut TcpStream, server: &mut TcpStream) {
        client.write_all(b"question").unwrap();
        server.read_exact(&mut [0; 8]).unwrap();
        server.write_all(b"answer").unwrap();
        client.read_exact(&mut [0; 6]).unwrap();
    }

    /// Loopback shows the same packets to both ends, and the filter lets no others through.
    fn check(listen: &str) {
        let (mut client, mut server) = ends(listen);
        let (mut other, mut other_server) = ends(listen);
        let Some(c) = tap(Role::Client, &client) else {
            return;
        };
        let Some(s) = tap(Role::Server, &server) else {
            return;
        };
        let mut witness = Witness::new(c, s);
        exchange(&mut other, &mut other_server);
        assert_eq!(witness.look(0), Verdict::Unknown);
        assert_eq!(witness.taps[0].packets, 0);
        exchange(&mut client, &mut server);
        assert_eq!(
            witness.look(0),
            Verdict::Unknown,
            "one end alone is no proof"
        );
        assert_eq!(witness.look(1), Verdict::OneConnection);

        let (Some(c), Some(s)) = (tap(Role::Client, &client), tap(Role::Server, &other_server))
        else {
            return;
        };
        let mut wrong = Witness::new(c, s);
        exchange(&mut client, &mut server);
        exchange(&mut other, &mut other_server);
        for end in [0, 1, 0] {
            assert_eq!(wrong.look(end), Verdict::Unknown);
        }
        assert!(wrong.taps.iter().all(|t| t.packets > 0));
    }

    #[test]
    fn v4() {
        check("127.0.0.1:0");
    }

    #[test]
    fn v6() {
        check("[::1]:0");
    }

    #[test]
    fn headers() {
        let mut packet = [0; 44];
        packet[0] = 0x46;
        packet[4..6].copy_from_slice(&[0x12, 0x34]);
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        packet[24..36].copy_from_slice(&[0, 80, 1, 0, 0, 0, 0, 7, 0, 0, 0, 9]);
        let address = |last| Ipv4Addr::new(10, 0, 0, last).to_ipv6_mapped().octets();
        let want = Header {
            source: (address(1), 80),
            destination: (address(2), 256),
            seq: 7,
            ack: 9,
            label: 0x1234,
        };
        assert_eq!(Header::parse(&packet), Some(want));
        for cut in 0..36 {
            assert_eq!(Header::parse(&packet[..cut]), None);
        }
        assert_eq!(Header::parse(&[0x56; 80]), None);
    }
}
