//! Properties of the daemon messages: every body that can be read is written back byte for byte, and
//! no packet makes the reader panic.

use std::fmt::Debug;

use proptest::collection::vec;
use proptest::prelude::*;
use protocol::ctl::*;

/// A packet with a good header for `M` around `body`, which is repeated to the right size.
fn packet<M: Message>(body: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(MAGIC.to_ne_bytes());
    packet.extend(VERSION.to_ne_bytes());
    packet.extend(M::KIND.to_ne_bytes());
    packet.extend(((HEADER_LEN + M::SIZE) as u16).to_ne_bytes());
    packet.extend(body.iter().cycle().take(M::SIZE));
    packet
}

/// Gives whether the body could be read: a field may have values that its type has not.
fn check<M: Message + PartialEq + Debug>(body: &[u8]) -> bool {
    let whole = packet::<M>(body);
    assert!(whole.len() <= MAX_MESSAGE);
    let head = header(&whole).unwrap();
    assert_eq!(head.kind, M::KIND);
    assert_eq!(usize::from(head.len), whole.len());

    let mut longer = whole.clone();
    longer.push(0);
    for wrong in [&whole[..whole.len() - 1], &longer] {
        assert_eq!(header(wrong), Err(DecodeError::Length));
        assert_eq!(M::decode(wrong), Err(DecodeError::Length));
    }

    match M::decode(&whole) {
        Ok(message) => {
            let mut out = [0xa5; MAX_MESSAGE];
            let len = message.encode(&mut out);
            assert_eq!(out[..len], whole);
            assert!(out[len..].iter().all(|b| *b == 0xa5));
            assert_eq!(M::decode(&out[..len]), Ok(message));
            true
        }
        Err(e) => {
            assert_eq!(e, DecodeError::Field);
            false
        }
    }
}

/// Applies `$f::<M>($args)` for every message M and gives the results.
macro_rules! for_every_message {
    ($f:ident($($arg:expr),*)) => {
        [
            $f::<Hello>($($arg),*),
            $f::<Welcome>($($arg),*),
            $f::<Claim>($($arg),*),
            $f::<Withdraw>($($arg),*),
            $f::<Paired>($($arg),*),
            $f::<Refused>($($arg),*),
            $f::<Release>($($arg),*),
            $f::<PeerGone>($($arg),*),
            $f::<Eids>($($arg),*),
            $f::<Request>($($arg),*),
            $f::<Reply>($($arg),*),
        ]
    };
}

fn never_panics<M: Message>(bytes: &[u8]) {
    let _ = M::decode(bytes);
    let _ = M::get(bytes);
}

fn kind<M: Message>() -> u16 {
    M::KIND
}

#[test]
fn kinds_differ() {
    let mut kinds = for_every_message!(kind()).to_vec();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds.len(), for_every_message!(kind()).len());
}

#[test]
fn zeros_and_ones_are_good_bodies() {
    assert!(for_every_message!(check(&[0])).iter().all(|good| *good));
    assert!(for_every_message!(check(&[1])).iter().all(|good| *good));
}

#[test]
fn bad_headers() {
    let good = packet::<Withdraw>(&[1]);
    assert!(header(&good).is_ok());
    for end in 0..good.len() {
        assert_eq!(header(&good[..end]), Err(DecodeError::Length), "[..{end}]");
    }
    let mut magic = good.clone();
    magic[0] ^= 1;
    assert_eq!(header(&magic), Err(DecodeError::Magic));
    let mut version = good.clone();
    let other = VERSION + 1;
    version[2..4].copy_from_slice(&other.to_ne_bytes());
    assert_eq!(header(&version), Err(DecodeError::Version(other)));
}

#[test]
fn verbs() {
    let good: Vec<u16> = (0..=u16::MAX)
        .filter(|n| match Verb::try_from(*n) {
            Ok(verb) => verb as u16 == *n,
            Err(e) => {
                assert_eq!(e, DecodeError::Field);
                false
            }
        })
        .collect();
    assert!(!good.is_empty());
    assert!(!good.contains(&0));
}

proptest! {
    #[test]
    fn bodies_come_back(body in vec(any::<u8>(), 1..256)) {
        for_every_message!(check(&body));
    }

    /// Small numbers, so that the fields with few values are good more often.
    #[test]
    fn small_bodies_come_back(body in vec(0u8..3, 1..256)) {
        for_every_message!(check(&body));
    }

    #[test]
    fn any_packet(bytes in vec(any::<u8>(), 0..MAX_MESSAGE + 8)) {
        let _ = header(&bytes);
        for_every_message!(never_panics(&bytes));
    }
}
