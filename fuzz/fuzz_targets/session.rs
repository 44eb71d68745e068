//! A living daemon, and a client that sends it any packets with any descriptors. It answers the next
//! one all the same.
#![no_main]

use daemon::client::Connection;
use daemon::config::Config;
use daemon::memfd;
use daemon::packet::{Packet, receive};
use daemon::server::Server;
use libfuzzer_sys::fuzz_target;
use nix::fcntl::SealFlag;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, socket};
use protocol::ctl::{HEADER_LEN, Hello, MAGIC, MAX_MESSAGE, VERSION, Verb};
use protocol::{shm::wait, stats};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

struct Target {
    path: PathBuf,
    files: [Arc<OwnedFd>; 4],
}

fn sealed(len: usize) -> Arc<OwnedFd> {
    let file = memfd::create(c"fuzz", len as u64).expect("a memfd");
    memfd::seal(&file, SealFlag::empty()).expect("a memfd");
    Arc::new(file.into())
}

fn target() -> &'static Target {
    static TARGET: OnceLock<Target> = OnceLock::new();
    TARGET.get_or_init(|| {
        let name = format!("smclod-fuzz-{}.sock", std::process::id());
        let path = std::env::temp_dir().join(name);
        let config = Config {
            socket: Some(path.clone()),
            ..Config::default()
        };
        let mut server = Server::bind(&config, 256).expect("a daemon");
        std::thread::spawn(move || {
            server.run().expect("a daemon that goes on");
        });
        let null = File::open("/dev/null").expect("a device");
        let unsealed = memfd::create(c"fuzz", 4096).expect("a memfd");
        Target {
            path,
            files: [
                sealed(stats::TABLE_LEN),
                sealed(wait::PAGE_LEN),
                Arc::new(null.into()),
                Arc::new(unsealed.into()),
            ],
        }
    })
}

fuzz_target!(|input: &[u8]| {
    let target = target();
    let kind = SockType::SeqPacket;
    let client = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    let address = UnixAddr::new(&target.path).expect("a path that fits");
    if connect(client.as_raw_fd(), &address).is_err() {
        return;
    }
    let mut rest = input;
    // By the first byte: a decent Hello comes before, so that more kinds are allowed.
    if rest.split_off_first().is_some_and(|b| b & 1 != 0) {
        let hello = Hello {
            run: 0,
            pid: 1,
            flags: 0,
            family: 1,
            program: [0; 16],
        };
        let files = target.files[..2].to_vec();
        let _ = Packet::new(&hello, files).send(client.as_fd(), MsgFlags::MSG_DONTWAIT);
    }
    for _ in 0..8 {
        let Some(([kind, how, fds, len], after)) = rest.split_first_chunk() else {
            break;
        };
        let body = after.get(..usize::from(*len) * 2).unwrap_or(after);
        rest = &after[body.len()..];
        let mut bytes = Vec::new();
        if how & 1 == 0 {
            // A header that lets it in.
            bytes.extend(MAGIC.to_ne_bytes());
            bytes.extend(VERSION.to_ne_bytes());
            bytes.extend(u16::from(kind % 24).to_ne_bytes());
            bytes.extend(((HEADER_LEN + body.len()) as u16).to_ne_bytes());
        }
        bytes.extend(body);
        bytes.truncate(2 * MAX_MESSAGE);
        let files = target.files.iter().cycle().skip(usize::from(fds >> 4));
        let files = files.take(usize::from(fds & 7)).cloned().collect();
        let packet = Packet { bytes, fds: files };
        let _ = packet.send(client.as_fd(), MsgFlags::MSG_DONTWAIT);
    }
    while let Ok(Some(_)) = receive(client.as_fd(), MsgFlags::MSG_DONTWAIT) {}
    drop(client);
    let tool = Connection::open(&target.path).expect("a daemon that listens");
    tool.ask(Verb::Info, [b' '; 32]).expect("an answer");
});
