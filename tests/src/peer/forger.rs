//! A daemon that is none: pairs every claim at once, with whatever GID and tokens the test wants. Two
//! programs with one of these each are as far apart as programs on two hosts.

use daemon::arena::{Arena, MIN_ARENA, SLOTS};
use daemon::memfd;
use daemon::packet::{Packet, receive};
use nix::fcntl::SealFlag;
use nix::sys::socket::{AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr};
use nix::sys::socket::{accept4, bind, listen, socket, socketpair};
use protocol::ctl::{self, Claim, DmbPlace, Hello, MAX_UEIDS, Message, Paired, Settings, Welcome};
use protocol::ids::{DEFAULT_UEID, Gid};
use protocol::shm::{SLOTS_AT, dmbs_at, wait};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;

/// What a forger says.
#[derive(Clone, Copy, Debug)]
pub struct Forgery {
    pub gid: Gid,
    /// Token of the program's own DMB, and of its peer's.
    pub own: u64,
    pub peer: u64,
}

/// Serves at `path` for as long as the process lives. How many pairs it has made.
pub fn start(path: &Path, forgery: Forgery) -> Arc<AtomicU32> {
    let listener = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    );
    let listener = listener.expect("a socket");
    let address = UnixAddr::new(path).expect("a path that fits");
    bind(listener.as_raw_fd(), &address).expect("a free path");
    listen(&listener, Backlog::new(16).expect("a backlog")).expect("a listener");
    let made = Arc::new(AtomicU32::new(0));
    let pairs = made.clone();
    thread::spawn(move || {
        while let Ok(raw) = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            // SAFETY: accept4 has just made it.
            let client = unsafe { OwnedFd::from_raw_fd(raw) };
            let pairs = pairs.clone();
            thread::spawn(move || serve(&client, forgery, &pairs));
        }
    });
    made
}

fn serve(client: &OwnedFd, forgery: Forgery, pairs: &AtomicU32) {
    // The other ends of what it is given, which nobody answers.
    let mut kept = Vec::new();
    while let Ok(Some(packet)) = receive(client.as_fd(), MsgFlags::empty()) {
        let kind = ctl::header(packet.bytes()).expect("a message").kind;
        let answer = if kind == Hello::KIND {
            let mut ueids = [[b' '; 32]; MAX_UEIDS];
            ueids[0] = DEFAULT_UEID;
            let welcome = Welcome {
                gid: forgery.gid,
                seid_on: 0,
                seid: [b' '; 32],
                ueid_count: 1,
                ueids,
                client: 1,
                settings: Settings::DEFAULT,
            };
            Packet::new(&welcome, vec![])
        } else if kind == Claim::KIND {
            let claim = Claim::decode(packet.bytes()).expect("a claim");
            let (paired, fds, other) = pair(&claim, forgery);
            kept.push(other);
            pairs.fetch_add(1, Relaxed);
            Packet::new(&paired, fds)
        } else {
            continue;
        };
        if answer.send(client.as_fd(), MsgFlags::empty()).is_err() {
            return;
        }
    }
}

fn pair(claim: &Claim, forgery: Forgery) -> (Paired, Vec<Arc<OwnedFd>>, OwnedFd) {
    let arena = Arena::new(MIN_ARENA).expect("an arena");
    let kind = SockType::SeqPacket;
    let channel = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC);
    let (mine, its) = channel.expect("a channel");
    let page = memfd::create(c"wait", wait::PAGE_LEN as u64).expect("a page");
    memfd::seal(&page, SealFlag::empty()).expect("a page");
    let place = |index: u32, token| DmbPlace {
        token,
        offset: dmbs_at(SLOTS) as u64 + u64::from(index) * (64 << 10),
        len: 64 << 10,
        index,
    };
    let index = claim.role as u32;
    let paired = Paired {
        claim: claim.claim,
        pair: claim.claim + 1,
        role: claim.role,
        fresh: 1,
        side: claim.role as u8,
        lgr: 0x100 * (claim.claim as u32 + 1),
        arena_len: arena.len(),
        slot: SLOTS_AT as u64,
        own: place(index, forgery.own),
        peer: place(1 - index, forgery.peer),
        program: [0; 16],
    };
    let fds = vec![arena.fd().clone(), Arc::new(its), Arc::new(page.into())];
    (paired, fds, mine)
}
