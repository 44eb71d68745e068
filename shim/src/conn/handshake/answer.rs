//! What to answer to a message, and what our own say.

use super::super::{Conn, Sock, flag, step};
use super::{contacted, set_contacted};
use crate::{daemon, os};
use protocol::clc::negotiate::{self, Identity, Offer};
use protocol::clc::{self, AcceptConfirm, Decline, Message, Received};
use protocol::ids::{DmbToken, LOOPBACK_CHID};
use protocol::reason;
use protocol::shm::dmb_code;
use protocol::shm::ring::RING_AT;
use std::sync::atomic::Ordering::*;

pub(super) fn with_identity<T>(f: impl FnOnce(&Identity<'_>) -> T) -> T {
    let device = &daemon::DEVICE;
    let (ueids, count) = device.ueids();
    let seid = device.seid();
    let mut name = [0u8; 65];
    let name = os::host_name(&mut name);
    f(&Identity {
        gid: device.gid(),
        chid: LOOPBACK_CHID,
        seid_on: seid.is_some(),
        seid: seid.unwrap_or([0; 32]),
        ueids: ueids.get(..count).unwrap_or(&[]),
        release: clc::RELEASE,
        hostname: negotiate::hostname(name),
    })
}

fn link_id(conn: &Conn) -> u32 {
    conn.row().lgr.load(Relaxed)
}

fn own_offer(conn: &Conn) -> Offer {
    Offer {
        token: DmbToken(conn.own_token.load(Relaxed)),
        index: conn.own_index.load(Relaxed) as u8,
        size_code: dmb_code(conn.rx.size.load(Relaxed) + RING_AT),
        link_id: link_id(conn),
        first_contact: !contacted(conn),
    }
}

fn peer_offer(conn: &Conn) -> Offer {
    Offer {
        token: DmbToken(conn.peer_token.load(Relaxed)),
        index: conn.peer_index.load(Relaxed) as u8,
        size_code: dmb_code(conn.tx.size.load(Relaxed) + RING_AT),
        link_id: link_id(conn),
        first_contact: !contacted(conn),
    }
}

/// Acts on a message.
pub(super) fn digest(sock: Sock, message: Message) {
    let result = match sock.step.load(Acquire) {
        step::START if !sock.has(flag::CLIENT) => proposal(sock, message),
        step::PROPOSED => accept(sock, message),
        step::ACCEPTED => confirm(sock, message),
        step::CONFIRMED => confirm_ack(sock, message),
        _ => match message {
            Message::Decline(d) => Err(Ended::Peer(d.reason)),
            _ => Err(Ended::Own(reason::PROTOCOL)),
        },
    };
    match result {
        Ok(()) => {}
        Err(Ended::Own(code)) => decline(sock, code),
        Err(Ended::Peer(code)) => {
            sock.row().peer_diagnosis.store(code, Relaxed);
            sock.reason(reason::PEERDECL);
            sock.step.store(step::OVER, Release);
        }
    }
}

/// Why a handshake ended on TCP.
enum Ended {
    Own(u32),
    Peer(u32),
}

impl From<Decline> for Ended {
    fn from(d: Decline) -> Self {
        Ended::Own(d.reason)
    }
}

impl From<clc::Error> for Ended {
    fn from(e: clc::Error) -> Self {
        Ended::Own(e.decline().reason)
    }
}

fn expect<T>(received: Result<Received<T>, clc::Error>) -> Result<T, Ended> {
    match received? {
        Received::Message(m) => Ok(m),
        Received::Declined(d) => Err(Ended::Peer(d.reason)),
    }
}

pub(super) fn decline(sock: Sock, code: u32) {
    sock.reason(code);
    sock.reason_to_send.store(code, Relaxed);
    sock.step.store(step::DECLINE, Release);
}

fn proposal(sock: Sock, message: Message) -> Result<(), Ended> {
    let proposal = expect(message.into_proposal())?;
    let accept = with_identity(|own| negotiate::answer_proposal(&proposal, own, own_offer(&sock)))?;
    sock.outbox.put(&Message::Accept(accept));
    sock.step.store(step::ACCEPT, Release);
    Ok(())
}

fn accept(sock: Sock, message: Message) -> Result<(), Ended> {
    let accept = expect(message.into_accept())?;
    let confirm = with_identity(|own| {
        let proposal = negotiate::make_proposal(own);
        let first = !contacted(&sock);
        let agreed = negotiate::check_accept(&accept, &proposal, own, &peer_offer(&sock), first)?;
        Ok::<AcceptConfirm, Decline>(negotiate::answer_accept(&agreed, own, own_offer(&sock)))
    })?;
    set_contacted(&sock);
    sock.outbox.put(&Message::Confirm(confirm));
    sock.step.store(step::CONFIRM, Release);
    Ok(())
}

fn confirm(sock: Sock, message: Message) -> Result<(), Ended> {
    let confirm = expect(message.into_confirm())?;
    let Some(Message::Accept(accept)) = sock.outbox.message() else {
        return Err(Ended::Own(reason::INTERR));
    };
    let ack =
        with_identity(|own| negotiate::check_confirm(&confirm, &accept, own, &peer_offer(&sock)))?;
    sock.outbox.put(&Message::ConfirmAck(ack));
    sock.step.store(step::ACK, Release);
    Ok(())
}

fn confirm_ack(sock: Sock, message: Message) -> Result<(), Ended> {
    let ack = expect(message.into_confirm_ack())?;
    let Some(Message::Confirm(confirm)) = sock.outbox.message() else {
        return Err(Ended::Own(reason::INTERR));
    };
    negotiate::check_confirm_ack(&ack, &confirm)?;
    sock.tx.retry.store(0, Relaxed);
    sock.step.store(step::ESTABLISHED, Release);
    Ok(())
}
