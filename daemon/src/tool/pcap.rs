//! The CLC messages of a trace as a capture file: each in a TCP segment between the two ends, as
//! Wireshark and tshark read them. Nothing was captured, so sequence numbers count from the first
//! message, and what the programs sent in between is not there.

use crate::report::Trace;
use etherparse::PacketBuilder;
use pcap_file::DataLink;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

/// Window that each segment announces.
const WINDOW: u16 = 0xffff;
const HOPS: u8 = 64;

type AnyError = Box<dyn std::error::Error>;

/// Writes all messages of all traces; gives their number.
pub fn write(out: impl Write, traces: &[Trace]) -> Result<usize, AnyError> {
    let header = PcapHeader {
        datalink: DataLink::RAW,
        ..PcapHeader::default()
    };
    let mut file = PcapWriter::with_header(out, header)?;
    let packets = segments(traces)?;
    for (time, packet) in &packets {
        let len = u32::try_from(packet.len())?;
        let time = Duration::from_nanos(*time);
        file.write_packet(&PcapPacket::new(time, len, packet))?;
    }
    Ok(packets.len())
}

struct Message {
    time: u64,
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
    /// Told by the end that sent it.
    sent: bool,
}

fn messages(trace: &Trace) -> Result<Vec<Message>, AnyError> {
    let local: SocketAddr = trace.local.parse()?;
    let peer: SocketAddr = trace.peer.parse()?;
    let all = trace.messages.iter().map(|m| {
        let (from, to) = if m.sent { (local, peer) } else { (peer, local) };
        Ok(Message {
            time: m.time_ns,
            from,
            to,
            bytes: unhex(&m.hex).ok_or("the daemon's answer is not understood")?,
            sent: m.sent,
        })
    });
    all.collect()
}

/// Each message once, also where both ends tell of it, with its time.
fn segments(traces: &[Trace]) -> Result<Vec<(u64, Vec<u8>)>, AnyError> {
    let mut all = Vec::new();
    for trace in traces {
        all.extend(messages(trace)?);
    }
    // The sender's word comes first.
    all.sort_by_key(|m| !m.sent);
    let mut told = HashSet::new();
    all.retain(|m| told.insert((m.from, m.to, m.bytes.clone())));
    all.sort_by_key(|m| m.time);
    let mut next: HashMap<(SocketAddr, SocketAddr), u32> = HashMap::new();
    let mut packets = Vec::new();
    for m in &all {
        let ack = next.get(&(m.to, m.from)).copied().unwrap_or(1);
        let sequence = next.entry((m.from, m.to)).or_insert(1);
        packets.push((m.time, segment(m.from, m.to, *sequence, ack, &m.bytes)?));
        *sequence = sequence.wrapping_add(u32::try_from(m.bytes.len())?);
    }
    Ok(packets)
}

fn segment(
    from: SocketAddr,
    to: SocketAddr,
    sequence: u32,
    ack: u32,
    payload: &[u8],
) -> Result<Vec<u8>, AnyError> {
    let ip = match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            PacketBuilder::ipv4(from.ip().octets(), to.ip().octets(), HOPS)
        }
        (from, to) => {
            let v6 = |end: SocketAddr| match end {
                SocketAddr::V4(end) => end.ip().to_ipv6_mapped().octets(),
                SocketAddr::V6(end) => end.ip().octets(),
            };
            PacketBuilder::ipv6(v6(from), v6(to), HOPS)
        }
    };
    let builder = ip
        .tcp(from.port(), to.port(), sequence, WINDOW)
        .psh()
        .ack(ack);
    let mut packet = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut packet, payload)?;
    Ok(packet)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let pairs = digits.chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok().filter(|p| p.len() == 2)?;
        u8::from_str_radix(pair, 16).ok()
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::TraceMessage;
    use etherparse::{SlicedPacket, TransportSlice};

    #[test]
    fn messages_become_segments_in_sequence() {
        let message = |time_ns, sent, hex: &str| TraceMessage {
            time_ns,
            sent,
            hex: hex.into(),
        };
        let trace = Trace {
            local: "127.0.0.1:4000".into(),
            peer: "127.0.0.1:80".into(),
            messages: vec![
                message(1, true, "e2d4"),
                message(2, false, "aabbcc"),
                message(3, true, "00"),
            ],
            ..Trace::default()
        };
        let mut numbers = Vec::new();
        let other = Trace {
            local: trace.peer.clone(),
            peer: trace.local.clone(),
            messages: vec![message(2, false, "e2d4"), message(2, true, "aabbcc")],
            ..Trace::default()
        };
        let both = [trace, other];
        for (_, packet) in segments(&both).unwrap() {
            let sliced = SlicedPacket::from_ip(&packet).unwrap();
            let Some(TransportSlice::Tcp(tcp)) = sliced.transport else {
                panic!("no TCP");
            };
            let ports = (tcp.source_port(), tcp.destination_port());
            numbers.push((ports, tcp.sequence_number(), tcp.acknowledgment_number()));
        }
        let (out, back) = ((4000, 80), (80, 4000));
        assert_eq!(numbers, [(out, 1, 1), (back, 1, 3), (out, 3, 4)]);
        let mut file = Vec::new();
        assert_eq!(write(&mut file, &both).unwrap(), 3);
        assert_eq!(file[..4], 0xa1b2_c3d4_u32.to_be_bytes());
    }

    #[test]
    fn both_families() {
        for ends in [("[::1]:1", "[::1]:2"), ("127.0.0.1:1", "127.0.0.1:2")] {
            let (from, to) = (ends.0.parse().unwrap(), ends.1.parse().unwrap());
            assert!(segment(from, to, 1, 1, b"x").unwrap().len() > 40);
        }
        assert_eq!(unhex("0"), None);
        assert_eq!(unhex("zz"), None);
    }
}
