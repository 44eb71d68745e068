//! What to offer, what to answer, what to accept: decisions only, no I/O.
//!
//! The server's order of checks and its reason codes are those of Linux (`smc_listen_v2_check`,
//! `smc_clc_srv_v2x_features_validate`, `smc_listen_find_device` of net/smc). SMC-D v2 is the only
//! mode that libsmclo has, so an offer of any other mode ends in the code that a kernel without v1
//! ISM and without RoCE devices gives.
//!
//! Unlike the kernel, nothing here is fatal: libsmclo always goes back to TCP. Where the kernel ends
//! the connection (CHID not offered, Confirm with a foreign token, ...), the answer is a
//! [`Decline`], with [`reason::PROTOCOL`] where no CLC code says what is wrong. [`Error::decline`]
//! does the same for messages that cannot be read.
//!
//! [`Error::decline`]: super::Error::decline
#![forbid(unsafe_code)]

use super::{
    AcceptConfirm, ConfirmAck, Decline, Device, FEATURE_EMULATED_ISM, FirstContact, List, Mode,
    OS_LINUX, Proposal, RdmaPeer, SmcType, SmcdV1, SmcdV2Ext, V2Ext, VERSION_2,
};
use crate::ids::{DmbToken, Eid, Gid};
use crate::{reason, shm};

/// Fewest connections per link group that an SMC-R v2.1 client may ask for
/// (`SMC_CONN_PER_LGR_MIN`).
const RDMA_MIN_CONNS: u8 = 16;
/// Fewest links (`SMC_LINKS_ADD_LNK_MIN`).
const RDMA_MIN_LINKS: u8 = 2;

/// What this host's daemon says about itself; the same for both ends of a loopback connection.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    pub gid: Gid,
    /// [`crate::ids::LOOPBACK_CHID`]
    pub chid: u16,
    /// The SEID takes part in the match, before the UEIDs. An all-zero SEID never does.
    pub seid_on: bool,
    pub seid: Eid,
    /// In order of preference; a Proposal has room for the first 8.
    pub ueids: &'a [Eid],
    /// Newest release spoken, 4 bits: [`super::RELEASE`].
    pub release: u8,
    /// See [`hostname`].
    pub hostname: [u8; 32],
}

/// One end's receive buffer, and its view of the link group.
///
/// Sent by its owner in Accept or Confirm, and told to the other end by the daemon beforehand, so
/// that the two can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    pub token: DmbToken,
    pub index: u8,
    /// [`crate::shm::dmb_code`]
    pub size_code: u8,
    pub link_id: u32,
    /// This connection is the first of the link group.
    pub first_contact: bool,
}

/// What a good Accept settles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    pub eid: Eid,
    /// Known on first contact; later connections keep what their link group agreed on.
    pub release: Option<u8>,
    /// The server opens a new link group.
    pub first_contact: bool,
}

/// A host name as CLC carries it: cut or blank padded to 32 bytes.
pub fn hostname(name: &[u8]) -> [u8; 32] {
    let mut field = [b' '; 32];
    for (to, from) in field.iter_mut().zip(name) {
        *to = *from;
    }
    field
}

/// Client: the Proposal of a host that does SMC-D v2 only.
pub fn make_proposal(own: &Identity<'_>) -> Proposal {
    let device = Device {
        gid: own.gid,
        chid: own.chid,
    };
    Proposal {
        version: VERSION_2,
        typev1: SmcType::N,
        typev2: SmcType::D,
        rdma: RdmaPeer::default(),
        smcd: Some(SmcdV1::default()),
        prefix: None,
        v2: Some(V2Ext {
            eids: List::from_first(own.ueids.iter().copied()),
            release: own.release,
            seid_on: own.seid_on,
            roce_gid: [0; 16],
            max_conns: 0,
            max_links: 0,
            feature_mask: features(own.release),
            smcd: Some(SmcdV2Ext {
                seid: if own.seid_on { own.seid } else { [0; 32] },
                entries: List::from_first(device.entries().iter().copied()),
            }),
        }),
    }
}

fn features(release: u8) -> u16 {
    if release == 0 {
        0
    } else {
        FEATURE_EMULATED_ISM
    }
}

/// Server: accepts a Proposal with the own buffer, or says why not.
///
/// # Errors
/// The Decline to send, in the version of the Proposal: `PEERNOSMC`, `NOV2EXT`, `NOV2DEXT`,
/// `NOUEID`, `MAXCONNERR`, `MAXLINKERR`, `NOSMCD2DEV`, `NOSMCDDEV` or `NOSMCDEV`.
pub fn answer_proposal(
    proposal: &Proposal,
    own: &Identity<'_>,
    offer: Offer,
) -> Result<AcceptConfirm, Decline> {
    match choose(proposal, own) {
        Ok((eid, release)) => {
            let fce = offer.first_contact.then(|| introduce(own, release));
            Ok(announce(own, offer, eid, fce))
        }
        Err(reason) => Err(Decline::new(proposal.version, reason)),
    }
}

/// The EID and the release that both ends have, or the reason against SMC-D v2.
fn choose(proposal: &Proposal, own: &Identity<'_>) -> Result<(Eid, u8), u32> {
    let v1_offered = proposal.typev1 != SmcType::N;
    let mut d2 = proposal.version >= VERSION_2 && proposal.typev2.has_d();
    let mut r2 = proposal.version >= VERSION_2 && proposal.typev2.has_r();

    // Step 1: is any v2 mode usable? A flaw here counts only when v1 is not offered either.
    let mut flaw = reason::PEERNOSMC;
    let v2 = if d2 || r2 { proposal.v2.as_ref() } else { None };
    match v2 {
        None => {
            if d2 || r2 {
                flaw = reason::NOV2EXT;
            }
            d2 = false;
            r2 = false;
        }
        Some(v2) => {
            if d2 && v2.smcd.is_none() {
                d2 = false;
                flaw = reason::NOV2DEXT;
            } else if d2 && v2.eids.is_empty() && !v2.seid_on {
                d2 = false;
                flaw = reason::NOUEID;
            }
            if r2 && v2.eids.is_empty() {
                r2 = false;
                flaw = reason::NOUEID;
            }
        }
    }
    if !d2 && !r2 && !v1_offered {
        return Err(flaw);
    }

    let release = v2.map_or(0, |v2| v2.release.min(own.release));
    let mut first_reason = None;
    if let Some(v2) = v2 {
        // Step 2: limits, which only SMC-R has, but which are judged before the mode is chosen.
        if r2 && release >= 1 {
            if v2.max_conns < RDMA_MIN_CONNS {
                return Err(reason::MAXCONNERR);
            }
            if v2.max_links < RDMA_MIN_LINKS {
                return Err(reason::MAXLINKERR);
            }
        }
        // Step 3: a common device, then a common EID.
        if let (true, Some(smcd)) = (d2, &v2.smcd) {
            let ours = Device {
                gid: own.gid,
                chid: own.chid,
            };
            if smcd.devices().any(|device| device == ours) {
                if let Some(eid) = match_eid(v2, smcd, own) {
                    return Ok((eid, release));
                }
            } else {
                first_reason = Some(reason::NOSMCD2DEV);
            }
        }
    }

    // Step 4: the other modes, of which there are none here. The first reason found counts.
    let no_ism = proposal.typev1.has_d() || !(proposal.typev1.has_r() || r2);
    Err(first_reason.unwrap_or(if no_ism {
        reason::NOSMCDDEV
    } else {
        reason::NOSMCDEV
    }))
}

/// The SEID when both ends have it on and agree, else the first of the client's UEIDs that we have.
fn match_eid(v2: &V2Ext, smcd: &SmcdV2Ext, own: &Identity<'_>) -> Option<Eid> {
    let seid_matches =
        own.seid_on && v2.seid_on && own.seid == smcd.seid && own.seid.iter().any(|b| *b != 0);
    if seid_matches {
        return Some(own.seid);
    }
    v2.eids.iter().find(|eid| own.ueids.contains(eid)).copied()
}

/// Client: checks the server's Accept against what was offered and what the daemon said of the
/// server's buffer. `first_contact`: this process does not have the link group yet.
///
/// # Errors
/// The Decline to send: `MODEUNSUPP` (not SMC-D v2), `RELEASEERR` (newer than offered), `PROTOCOL`
/// (CHID or EID not offered), `SYNCERR` (reuses a link group that we do not have), `MEM` (GID,
/// token, index or size are not those of the server's buffer: there is nothing to attach to).
pub fn check_accept(
    accept: &AcceptConfirm,
    proposal: &Proposal,
    own: &Identity<'_>,
    server: &Offer,
    first_contact: bool,
) -> Result<Agreed, Decline> {
    let decline = |reason| Err(Decline::new(accept.version(), reason));
    let Mode::V2 {
        chid,
        eid,
        first_contact: fce,
    } = &accept.mode
    else {
        return decline(reason::MODEUNSUPP);
    };
    let Some(v2) = proposal.v2.as_ref().filter(|_| proposal.typev2.has_d()) else {
        return decline(reason::MODEUNSUPP);
    };
    if fce.is_some_and(|fce| fce.release > v2.release) {
        return decline(reason::RELEASEERR);
    }
    let Some(smcd) = &v2.smcd else {
        return decline(reason::MODEUNSUPP);
    };
    if !smcd.devices().any(|device| device.chid == *chid) {
        return decline(reason::PROTOCOL);
    }
    if !(v2.eids.contains(eid) || v2.seid_on && smcd.seid == *eid) {
        return decline(reason::PROTOCOL);
    }
    if first_contact && fce.is_none() {
        return decline(reason::SYNCERR);
    }
    if !is_buffer(accept, own, server) {
        return decline(reason::MEM);
    }
    Ok(Agreed {
        eid: *eid,
        release: fce.map(|fce| fce.release),
        first_contact: fce.is_some(),
    })
}

/// The message names a buffer that a DMB can have, and the one that the daemon told of. Both ends
/// hang on one loopback device, so the peer's GID is the own one.
fn is_buffer(message: &AcceptConfirm, own: &Identity<'_>, peer: &Offer) -> bool {
    message.gid == own.gid
        && shm::dmb_len(message.size_code).is_some()
        && message.size_code == peer.size_code
        && message.token == peer.token
        && message.index == peer.index
}

/// Client: the Confirm that answers an Accept which [`check_accept`] found good. It introduces the
/// client when the Accept introduces the server.
pub fn answer_accept(agreed: &Agreed, own: &Identity<'_>, offer: Offer) -> AcceptConfirm {
    let fce = agreed.release.map(|release| introduce(own, release));
    announce(own, offer, agreed.eid, fce)
}

/// Server: checks the client's Confirm against the Accept that it answers and what the daemon said
/// of the client's buffer.
///
/// # Errors
/// The Decline to send: `MODEUNSUPP` (not SMC-D v2), `RELEASEERR` (another release than accepted),
/// `PROTOCOL` (another CHID or EID than accepted), `MEM` (not the client's buffer).
pub fn check_confirm(
    confirm: &AcceptConfirm,
    accept: &AcceptConfirm,
    own: &Identity<'_>,
    client: &Offer,
) -> Result<ConfirmAck, Decline> {
    let decline = |reason| Err(Decline::new(accept.version(), reason));
    let (
        Mode::V2 {
            chid,
            eid,
            first_contact,
        },
        Mode::V2 {
            chid: our_chid,
            eid: our_eid,
            first_contact: ours,
        },
    ) = (&confirm.mode, &accept.mode)
    else {
        return decline(reason::MODEUNSUPP);
    };
    if let (Some(theirs), Some(ours)) = (first_contact, ours)
        && theirs.release != ours.release
    {
        return decline(reason::RELEASEERR);
    }
    if chid != our_chid || eid != our_eid {
        return decline(reason::PROTOCOL);
    }
    if !is_buffer(confirm, own, client) {
        return decline(reason::MEM);
    }
    Ok(ConfirmAck {
        token: confirm.token,
    })
}

/// Client: checks that the ConfirmAck answers the Confirm that was sent.
///
/// # Errors
/// The Decline to send (`PROTOCOL`) when it carries another token.
pub fn check_confirm_ack(ack: &ConfirmAck, confirm: &AcceptConfirm) -> Result<(), Decline> {
    if ack.token == confirm.token {
        Ok(())
    } else {
        Err(Decline::new(VERSION_2, reason::PROTOCOL))
    }
}

fn introduce(own: &Identity<'_>, release: u8) -> FirstContact {
    FirstContact {
        os: OS_LINUX,
        release,
        hostname: own.hostname,
        feature_mask: features(release),
    }
}

fn announce(
    own: &Identity<'_>,
    offer: Offer,
    eid: Eid,
    first_contact: Option<FirstContact>,
) -> AcceptConfirm {
    AcceptConfirm {
        gid: own.gid,
        token: offer.token,
        index: offer.index,
        size_code: offer.size_code,
        link_id: offer.link_id,
        mode: Mode::V2 {
            chid: own.chid,
            eid,
            first_contact,
        },
    }
}
