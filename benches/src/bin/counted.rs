//! `counted`: one process with both ends of a connection, whose calls are counted by callgrind.
//!
//! Nothing ever waits here, so that the number of instructions does not depend on time. Only what
//! `measured_section` runs is counted: `--toggle-collect=measured_section`.

use benches::instructions::{Case, MESSAGES};
use clap::Parser;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType, sockopt};
use nix::unistd::{pipe, read, write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

#[derive(Parser, Debug)]
#[command(version, about)]
struct Args {
    case: Case,
}

/// Under this name callgrind starts and stops to count.
#[unsafe(no_mangle)]
#[inline(never)]
pub fn measured_section(work: &mut dyn FnMut()) {
    work();
}

const SIZE: usize = 8;
const LARGE: usize = 4096;
/// Messages that are sent before they are received: they fit into a ring.
const BATCH: usize = 16;
/// Exchanges before anything is counted, with pauses in which the daemon can do its part.
const WARM: usize = 200;

fn main() -> std::io::Result<()> {
    let case = Args::parse().case;
    match case {
        Case::OtherWrite | Case::OtherRead => pipes(case),
        Case::OtherSend | Case::OtherRecv => {
            let (a, b) = socket::socketpair(
                AddressFamily::Unix,
                SockType::Stream,
                None,
                SockFlag::SOCK_CLOEXEC,
            )?;
            batches(&a, &b, SIZE, case == Case::OtherSend)
        }
        _ => {
            let (a, b) = connection()?;
            match case {
                Case::RingSend => batches(&a, &b, SIZE, true),
                Case::RingRecv => batches(&a, &b, SIZE, false),
                Case::RingSend4k => batches(&a, &b, LARGE, true),
                Case::RingRecv4k => batches(&a, &b, LARGE, false),
                _ => epoll(&a, &b),
            }
        }
    }
}

/// Both ends of a TCP connection that has had the chance to be accelerated.
fn connection() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    let (a, b): (OwnedFd, OwnedFd) = (client.into(), server.into());
    for fd in [&a, &b] {
        socket::setsockopt(fd, sockopt::TcpNoDelay, &true)?;
    }
    for i in 0..WARM {
        exchange(&a, &b)?;
        exchange(&b, &a)?;
        if i % 10 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok((a, b))
}

fn exchange(from: &OwnedFd, to: &OwnedFd) -> std::io::Result<()> {
    send(from, &[1; SIZE]);
    recv(to, &mut [0; SIZE]);
    Ok(())
}

fn send(fd: &OwnedFd, bytes: &[u8]) {
    let n = socket::send(fd.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL);
    assert_eq!(n, Ok(bytes.len()));
}

fn recv(fd: &OwnedFd, bytes: &mut [u8]) {
    let n = socket::recv(fd.as_raw_fd(), bytes, MsgFlags::empty());
    assert_eq!(n, Ok(bytes.len()));
}

fn batches(a: &OwnedFd, b: &OwnedFd, size: usize, count_sends: bool) -> std::io::Result<()> {
    let out = vec![1; size];
    let mut into = vec![0; size];
    for _ in 0..MESSAGES / BATCH {
        let mut sends = || (0..BATCH).for_each(|_| send(a, &out));
        let mut recvs = || (0..BATCH).for_each(|_| recv(b, &mut into));
        if count_sends {
            measured_section(&mut sends);
            recvs();
        } else {
            sends();
            measured_section(&mut recvs);
        }
    }
    Ok(())
}

/// epoll_wait that finds one connection ready, in a set with it alone.
fn epoll(a: &OwnedFd, b: &OwnedFd) -> std::io::Result<()> {
    let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    set.add(b, EpollEvent::new(EpollFlags::EPOLLIN, 7))?;
    let mut events = [EpollEvent::empty(); 8];
    for _ in 0..MESSAGES {
        // Asks the kernel, whose turn comes again after some time: not in what is counted.
        assert_eq!(set.wait(&mut events, EpollTimeout::ZERO), Ok(0));
        send(a, &[1; SIZE]);
        measured_section(&mut || {
            let n = set.wait(&mut events, EpollTimeout::NONE);
            assert_eq!((n, events[0].data()), (Ok(1), 7));
        });
        recv(b, &mut [0; SIZE]);
    }
    Ok(())
}

fn pipes(case: Case) -> std::io::Result<()> {
    let (out, into) = pipe()?;
    let mut bytes = [0; SIZE];
    for _ in 0..MESSAGES {
        let mut writes = || assert_eq!(write(&into, &[1; SIZE]), Ok(SIZE));
        let mut reads = || assert_eq!(read(out.as_raw_fd(), &mut bytes), Ok(SIZE));
        if case == Case::OtherWrite {
            measured_section(&mut writes);
            reads();
        } else {
            writes();
            measured_section(&mut reads);
        }
    }
    Ok(())
}
