//! `counted`: one process with both ends of a connection, whose calls are counted by callgrind.
//!
//! Nothing ever waits here, so that the number of instructions does not depend on time. Only what
//! `measured_section` runs is counted: `--toggle-collect=measured_section`.

use benches::instructions::Case;
use clap::Parser;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    self, AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, SockaddrIn, sockopt,
};
use nix::unistd::{pipe, read, write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
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
            batches(&a, &b, SIZE, case)
        }
        Case::ShortClient | Case::ShortServer => short(case),
        _ => {
            let (a, b) = connection()?;
            match case {
                Case::RingSend | Case::RingRecv | Case::OffSend | Case::OffRecv => {
                    batches(&a, &b, SIZE, case)
                }
                Case::RingSend4k | Case::RingRecv4k => batches(&a, &b, LARGE, case),
                _ => epoll(&a, &b, case),
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

fn batches(a: &OwnedFd, b: &OwnedFd, size: usize, case: Case) -> std::io::Result<()> {
    let count_sends = matches!(
        case,
        Case::RingSend | Case::RingSend4k | Case::OtherSend | Case::OffSend
    );
    let out = vec![1; size];
    let mut into = vec![0; size];
    for _ in 0..case.times() / BATCH {
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
fn epoll(a: &OwnedFd, b: &OwnedFd, case: Case) -> std::io::Result<()> {
    let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    set.add(b, EpollEvent::new(EpollFlags::EPOLLIN, 7))?;
    let mut events = [EpollEvent::empty(); 8];
    for _ in 0..case.times() {
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
    for _ in 0..case.times() {
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

/// Connections that are over after one exchange, as a client and a server with an epoll set make them.
fn short(case: Case) -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let std::net::SocketAddr::V4(to) = listener.local_addr()? else {
        unreachable!("bound to 127.0.0.1")
    };
    let to = SockaddrIn::from(to);
    let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let counts = |n: usize| n >= WARM;
    let run = |n: usize, end: Case, work: &mut dyn FnMut()| match end == case && counts(n) {
        true => measured_section(work),
        false => work(),
    };
    let tcp = (AddressFamily::Inet, SockType::Stream);
    let mut bytes = [0; SIZE];
    for n in 0..WARM + case.times() {
        if !counts(n) && n % 10 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let (mut client, mut server) = (None, None);
        run(n, Case::ShortClient, &mut || {
            let fd = socket::socket(tcp.0, tcp.1, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
            socket::connect(fd.as_raw_fd(), &to).expect("a listener");
            socket::setsockopt(&fd, sockopt::TcpNoDelay, &true).expect("an option");
            send(&fd, &[1; SIZE]);
            client = Some(fd);
        });
        run(n, Case::ShortServer, &mut || {
            let fd = socket::accept4(listener.as_raw_fd(), SockFlag::SOCK_NONBLOCK);
            // SAFETY: accept4 has just given it.
            let fd = unsafe { OwnedFd::from_raw_fd(fd.expect("a connection")) };
            let asked = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
            set.add(&fd, EpollEvent::new(asked, 7)).expect("room");
            recv(&fd, &mut [0; SIZE]);
            send(&fd, &[1; SIZE]);
            socket::shutdown(fd.as_raw_fd(), Shutdown::Write).expect("a connection");
            server = Some(fd);
        });
        let client = client.expect("made above");
        run(n, Case::ShortClient, &mut || {
            recv(&client, &mut bytes);
            assert_eq!(read(client.as_raw_fd(), &mut bytes), Ok(0));
        });
        let (mut client, mut server) = (Some(client), server);
        run(n, Case::ShortClient, &mut || drop(client.take()));
        run(n, Case::ShortServer, &mut || drop(server.take()));
    }
    Ok(())
}
