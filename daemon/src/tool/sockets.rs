//! Addresses of connections that are too young or too quiet for their program to have entered them:
//! found as `ss` finds them, by the descriptor's inode in the tables under `/proc`.

use crate::report::Connection;
use procfs::net::TcpNetEntry;
use procfs::process::{FDTarget, Process};
use std::collections::HashMap;
use std::net::SocketAddr;

/// The TCP sockets of a process's network namespace by inode.
type Ends = HashMap<u64, (SocketAddr, SocketAddr)>;

/// Fills in what is missing, as far as this user may look. Of others nothing is known but what the
/// daemon has said.
pub fn look_up(connections: &mut [Connection]) {
    let mut of_process: HashMap<u32, Option<(Process, Ends)>> = HashMap::new();
    let missing = connections
        .iter_mut()
        .filter(|c| c.inode == 0 && c.mode == "TCP");
    for connection in missing {
        let pid = connection.pid;
        let known = of_process.entry(pid).or_insert_with(|| open(pid));
        let Some((process, ends)) = known else {
            continue;
        };
        if let Some(inode) = inode(process, connection.fd)
            && let Some((local, peer)) = ends.get(&inode)
        {
            connection.inode = inode;
            connection.local = local.to_string();
            connection.peer = peer.to_string();
        }
    }
}

fn open(pid: u32) -> Option<(Process, Ends)> {
    let process = Process::new(pid.try_into().ok()?).ok()?;
    let both = [process.tcp(), process.tcp6()];
    let entries = both.into_iter().flatten().flatten();
    let ends = entries.map(|e| (e.inode, ends(&e))).collect();
    Some((process, ends))
}

fn ends(entry: &TcpNetEntry) -> (SocketAddr, SocketAddr) {
    (entry.local_address, entry.remote_address)
}

fn inode(process: &Process, fd: u32) -> Option<u64> {
    match process.fd_from_fd(fd.try_into().ok()?).ok()?.target {
        FDTarget::Socket(inode) => Some(inode),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    #[test]
    fn a_descriptor_tells_the_addresses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let row = |fd: i32| Connection {
            pid: std::process::id(),
            mode: "TCP".into(),
            fd: fd as u32,
            ..Connection::default()
        };
        let mut rows = [row(client.as_raw_fd()), row(1 << 20)];
        look_up(&mut rows);
        let [found, lost] = rows;
        assert_eq!(found.local, client.local_addr().unwrap().to_string());
        assert_eq!(found.peer, listener.local_addr().unwrap().to_string());
        assert_ne!(found.inode, 0);
        assert_eq!((lost.inode, lost.local.as_str()), (0, ""));
    }
}
