//! The CLC parser: any bytes; what it takes, it writes again so that it reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::clc::negotiate::{self, Identity, Offer};
use protocol::clc::{self, Message};
use protocol::ids::{DEFAULT_UEID, DmbToken, Gid, LOOPBACK_CHID};

fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = clc::decode(bytes) else {
        return;
    };
    let head = bytes.first_chunk().expect("a message has a header");
    assert_eq!(clc::message_len(head), Ok(bytes.len()));
    let mut again = [0; clc::MAX_LEN];
    let len = message.encode(&mut again);
    assert_eq!(clc::decode(&again[..len]), Ok(message));

    // Whatever it says, there is an answer to it.
    let own = Identity {
        gid: Gid { gid: 1, ext: 2 },
        chid: LOOPBACK_CHID,
        seid_on: false,
        seid: [0; 32],
        ueids: &[DEFAULT_UEID],
        release: clc::RELEASE,
        hostname: negotiate::hostname(b"host"),
    };
    let offer = Offer {
        token: DmbToken(3),
        index: 0,
        size_code: 4,
        link_id: 0x100,
        first_contact: true,
    };
    match message {
        Message::Proposal(proposal) => {
            let _ = negotiate::answer_proposal(&proposal, &own, offer);
        }
        Message::Accept(accept) => {
            let proposal = negotiate::make_proposal(&own);
            let _ = negotiate::check_accept(&accept, &proposal, &own, &offer, true);
            let _ = negotiate::check_confirm(&accept, &accept, &own, &offer);
        }
        Message::Confirm(confirm) => {
            let _ = negotiate::check_confirm(&confirm, &confirm, &own, &offer);
        }
        Message::Decline(_) | Message::ConfirmAck(_) => {}
    }
});
