//! The network namespaces of the clients: in each, the kernel is asked about its own sockets.
//!
//! A namespace is named by its cookie, which the kernel gives for any socket in it. What a client
//! says is only a place to look: the claim is believed when the sock_diag look-up *in the namespace
//! with that cookie* shows the socket. So a process id that was used again meanwhile, or a process
//! that has moved on, leads to no wrong answer, only to none.

use crate::diag::Diag;
use nix::sched::{CloneFlags, setns};
use protocol::ctl::{Claim, Endpoint};
use protocol::reason;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::thread;

/// Device and inode of the file in `/proc/PID/ns`.
type Inode = (u64, u64);

#[derive(Debug)]
struct Namespace {
    file: File,
    inode: Inode,
    diag: Diag,
    /// Sessions of processes in it. The sockets that we hold keep a namespace alive, so it is
    /// given up with the last of them. The daemon's own one stays.
    members: usize,
}

impl Namespace {
    /// With its first member.
    fn new(file: File, inode: Inode, diag: Diag) -> Self {
        Namespace {
            file,
            inode,
            diag,
            members: 1,
        }
    }
}

#[derive(Debug)]
pub struct Namespaces {
    own: u64,
    all: HashMap<u64, Namespace>,
}

impl Namespaces {
    /// With the daemon's own.
    pub fn open() -> io::Result<Self> {
        let diag = Diag::open()?;
        let own = diag.netns();
        let file = File::open("/proc/thread-self/ns/net")?;
        let inode = inode(&file)?;
        let namespace = Namespace::new(file, inode, diag);
        Ok(Namespaces {
            own,
            all: HashMap::from([(own, namespace)]),
        })
    }

    /// Takes note of a process; gives the cookie for [`Namespaces::leave`]. It may fail for want of
    /// rights, or because the process is not to be seen from here.
    pub fn join(&mut self, pid: u32) -> io::Result<u64> {
        let file = File::open(format!("/proc/{pid}/ns/net"))?;
        let inode = inode(&file)?;
        // A namespace that is held here lives, so its inode belongs to no other.
        if let Some((cookie, known)) = self.all.iter_mut().find(|(_, n)| n.inode == inode) {
            known.members += 1;
            return Ok(*cookie);
        }
        let diag = within(&file, Diag::open)?;
        let cookie = diag.netns();
        self.all.insert(cookie, Namespace::new(file, inode, diag));
        Ok(cookie)
    }

    pub fn leave(&mut self, cookie: u64) {
        if let Some(namespace) = self.all.get_mut(&cookie) {
            namespace.members -= 1;
            if namespace.members == 0 {
                self.all.remove(&cookie);
            }
        }
    }

    pub fn knows(&self, cookie: u64) -> bool {
        self.all.contains_key(&cookie)
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// There is always the daemon's own.
    pub fn is_empty(&self) -> bool {
        false
    }

    pub fn own(&self) -> u64 {
        self.own
    }

    /// As [`Diag::verify`], where the claim says that its socket is.
    pub fn verify(&mut self, claim: &Claim, may: impl Fn(u32) -> bool) -> Result<(), u32> {
        match self.all.get_mut(&claim.netns) {
            Some(namespace) => namespace.diag.verify(claim, may),
            None => Err(reason::NETNS),
        }
    }

    /// Whether some known namespace has a socket with this tuple.
    pub fn has_socket(&mut self, local: &Endpoint, peer: &Endpoint) -> bool {
        let mut all = self.all.values_mut();
        all.any(|n| {
            n.diag
                .lookup(local, peer)
                .is_ok_and(|found| found.is_some())
        })
    }

    /// Runs `make` in this namespace: a socket that it makes stays there.
    pub fn within<T: Send>(
        &self,
        cookie: u64,
        make: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        let namespace = self.all.get(&cookie).ok_or(io::ErrorKind::NotFound)?;
        within(&namespace.file, make)
    }
}

fn inode(file: &File) -> io::Result<Inode> {
    let meta = file.metadata()?;
    Ok((meta.dev(), meta.ino()))
}

/// Runs `make` in another network namespace: in a thread that enters it and ends, so that there is
/// no way back that could fail. A socket stays in the namespace in which it was made.
fn within<T: Send>(file: &File, make: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let enter = || {
            setns(file, CloneFlags::CLONE_NEWNET)?;
            make()
        };
        let done = thread::Builder::new()
            .stack_size(64 << 10)
            .spawn_scoped(scope, enter)?
            .join();
        done.unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_in_the_own_namespace_joins_it() {
        let mut all = Namespaces::open().unwrap();
        let own = all.own();
        assert_eq!(all.join(std::process::id()).unwrap(), own);
        all.leave(own);
        assert!(all.knows(own) && all.len() == 1);
        assert!(all.join(0).is_err());
    }

    #[test]
    fn sockets_are_made_where_they_are_wanted() {
        let all = Namespaces::open().unwrap();
        // Without CAP_SYS_ADMIN setns refuses even the own namespace.
        match all.within(all.own(), || Ok(Diag::open()?.netns())) {
            Ok(cookie) => assert_eq!(cookie, all.own()),
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::PermissionDenied),
        }
    }
}
