//! Messages between library and daemon: any packet, read by either side.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::ctl::{self, Claim, Eids, Hello, MAX_MESSAGE, Message, Paired, PeerGone, Refused};
use protocol::ctl::{Passed, Release, Reply, Request, Welcome, Withdraw};

fn both_ways<M: Message + PartialEq + std::fmt::Debug>(packet: &[u8]) {
    let Ok(message) = M::decode(packet) else {
        return;
    };
    let mut again = [0; MAX_MESSAGE];
    let len = message.encode(&mut again);
    assert_eq!(len, packet.len());
    assert_eq!(M::decode(&again[..len]).as_ref(), Ok(&message));
}

fuzz_target!(|packet: &[u8]| {
    let packet = packet.get(..MAX_MESSAGE).unwrap_or(packet);
    let Ok(header) = ctl::header(packet) else {
        return;
    };
    match header.kind {
        Hello::KIND => both_ways::<Hello>(packet),
        Welcome::KIND => both_ways::<Welcome>(packet),
        Claim::KIND => both_ways::<Claim>(packet),
        Passed::KIND => both_ways::<Passed>(packet),
        Withdraw::KIND => both_ways::<Withdraw>(packet),
        Paired::KIND => both_ways::<Paired>(packet),
        Refused::KIND => both_ways::<Refused>(packet),
        Release::KIND => both_ways::<Release>(packet),
        PeerGone::KIND => both_ways::<PeerGone>(packet),
        Eids::KIND => both_ways::<Eids>(packet),
        Request::KIND => both_ways::<Request>(packet),
        Reply::KIND => both_ways::<Reply>(packet),
        _ => {}
    }
});
