//! What really went over the wire: a packet socket on `lo`, streams put together by sequence
//! number. Needs CAP_NET_RAW.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    pub from: u16,
    pub to: u16,
}

/// Payload per flow.
pub type Payloads = BTreeMap<Flow, Vec<u8>>;

/// A running capture of the IPv4 TCP packets that have `port` at one end.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Payloads>,
}

const ETH_P_IP: u16 = 0x0800;
const PACKET_OUTGOING: u8 = 4;

impl Capture {
    /// Starts to capture; what is sent after the return is seen. None without the right to.
    pub fn start(port: u16) -> Option<Capture> {
        let socket = open(port)?;
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let thread = thread::spawn(move || collect(&socket, port, &flag));
        Some(Capture { stop, thread })
    }

    /// Ends the capture once nothing has come for a while.
    pub fn finish(self) -> Payloads {
        thread::sleep(Duration::from_millis(100));
        self.stop.store(true, Relaxed);
        self.thread.join().expect("the capture thread")
    }
}

/// Lets the kernel pass on what comes from this TCP port or goes there: the traffic of others would fill
/// the queue.
fn only(fd: i32, port: u16) {
    let line = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let port = u32::from(port);
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let mut program = [
        line(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 9),
        line(equal, 0, 6, libc::IPPROTO_TCP as u32),
        line(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0, 0, 0),
        line(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, 0, 0, 0),
        line(equal, 2, 0, port),
        line(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, 0, 0, 2),
        line(equal, 0, 1, port),
        line(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        line(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the program lives through the call, which copies it.
    let set = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as u32,
        )
    };
    assert_eq!(set, 0, "a filter");
}

fn open(port: u16) -> Option<OwnedFd> {
    // SAFETY: plain system calls with valid, initialised arguments; the descriptor is ours.
    unsafe {
        let fd = libc::socket(
            libc::AF_PACKET,
            libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
            i32::from(ETH_P_IP.to_be()),
        );
        if fd < 0 {
            return None;
        }
        let socket = OwnedFd::from_raw_fd(fd);
        let size: i32 = 64 << 20;
        let len = size_of::<i32>() as u32;
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const size).cast(),
            len,
        );
        only(fd, port);
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = ETH_P_IP.to_be();
        address.sll_ifindex = libc::if_nametoindex(c"lo".as_ptr()) as i32;
        let len = size_of::<libc::sockaddr_ll>() as u32;
        let bound = libc::bind(fd, (&raw const address).cast(), len);
        assert_eq!(bound, 0, "bind to lo");
        Some(socket)
    }
}

fn collect(socket: &OwnedFd, port: u16, stop: &AtomicBool) -> Payloads {
    let mut first_seq = BTreeMap::new();
    let mut payloads = Payloads::new();
    let mut buffer = vec![0; 1 << 17];
    loop {
        let last_look = stop.load(Relaxed);
        while let Some(packet) = next(socket, &mut buffer) {
            if let Some(segment) = parse(packet, port) {
                add(&mut payloads, &mut first_seq, &segment);
            }
        }
        if last_look {
            return payloads;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// The next packet; None when there is none. Loopback shows each packet twice: going out, and
/// coming in; only the latter counts.
fn next<'a>(socket: &OwnedFd, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    loop {
        // SAFETY: the buffer and the address live through the call and have the given lengths.
        let (len, kind) = unsafe {
            let mut from: libc::sockaddr_ll = std::mem::zeroed();
            let mut from_len = size_of::<libc::sockaddr_ll>() as u32;
            let len = libc::recvfrom(
                socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_DONTWAIT,
                (&raw mut from).cast(),
                &raw mut from_len,
            );
            (len, from.sll_pkttype)
        };
        let len = usize::try_from(len).ok()?;
        if kind != PACKET_OUTGOING {
            return Some(&buffer[..len]);
        }
    }
}

struct Segment<'a> {
    flow: Flow,
    seq: u32,
    syn: bool,
    payload: &'a [u8],
}

fn parse(packet: &[u8], port: u16) -> Option<Segment<'_>> {
    const TCP: u8 = 6;
    let header = usize::from(packet.first()? & 15) * 4;
    if *packet.get(9)? != TCP {
        return None;
    }
    // A length of 0 stands for a packet above 64 KiB (BIG TCP).
    let total = match usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?)) {
        0 => packet.len(),
        n => n,
    };
    let tcp = packet.get(header..total)?;
    let word = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
    let flow = Flow {
        from: word(0)?,
        to: word(2)?,
    };
    if flow.from != port && flow.to != port {
        return None;
    }
    Some(Segment {
        flow,
        seq: u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?),
        syn: tcp.get(13)? & 2 != 0,
        payload: tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)?,
    })
}

fn add(payloads: &mut Payloads, first: &mut BTreeMap<Flow, u32>, segment: &Segment<'_>) {
    if segment.syn {
        first.insert(segment.flow, segment.seq.wrapping_add(1));
        payloads.entry(segment.flow).or_default();
        return;
    }
    let Some(start) = first.get(&segment.flow) else {
        return;
    };
    let stream = payloads.entry(segment.flow).or_default();
    let offset = segment.seq.wrapping_sub(*start) as usize;
    // A keep-alive probe lies one byte before the start and has no payload.
    if segment.payload.is_empty() || offset > stream.len() + (1 << 30) {
        return;
    }
    let end = offset + segment.payload.len();
    if stream.len() < end {
        stream.resize(end, 0);
    }
    stream[offset..end].copy_from_slice(segment.payload);
}
