//! The metrics port: HTTP/1.1 on a loopback address, in the event loop. One answer for each
//! connection; a few connections at one time, of which the oldest gives way.

use crate::prometheus;
use crate::server::{ASKER, Server};
use nix::sys::epoll::{EpollEvent, EpollFlags};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

/// Connections at one time.
const MAX_ASKERS: usize = 16;
/// Longest request with its headers.
const MAX_REQUEST: usize = 8 << 10;
const MAX_HEADERS: usize = 64;

/// A connection on which somebody asks.
#[derive(Debug)]
struct Asker {
    id: u32,
    stream: TcpStream,
    request: Vec<u8>,
    /// Once the request is complete.
    answer: Option<Vec<u8>>,
    sent: usize,
}

#[derive(Debug)]
pub struct Metrics {
    pub listener: TcpListener,
    askers: VecDeque<Asker>,
    last: u32,
}

/// Where a request stands.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    More,
    Metrics,
    /// Status and reason of the refusal.
    No(&'static str),
}

fn understand(request: &[u8]) -> Asked {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(request) {
        Ok(httparse::Status::Partial) if request.len() >= MAX_REQUEST => {
            Asked::No("431 Request Header Fields Too Large")
        }
        Ok(httparse::Status::Partial) => Asked::More,
        Ok(httparse::Status::Complete(_)) => {
            let path = parsed.path.unwrap_or_default();
            let path = path.split('?').next().unwrap_or_default();
            match (parsed.method, path) {
                (Some("GET"), "/metrics") => Asked::Metrics,
                (Some("GET"), _) => Asked::No("404 Not Found"),
                _ => Asked::No("405 Method Not Allowed"),
            }
        }
        Err(_) => Asked::No("400 Bad Request"),
    }
}

fn answer(status: &str, kind: &str, body: &str) -> Vec<u8> {
    let len = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\n\
         Connection: close\r\n\r\n"
    );
    (head + body).into_bytes()
}

impl Asker {
    /// True: there is nothing more to do.
    fn step(&mut self, metrics: impl FnOnce() -> String) -> io::Result<bool> {
        if self.answer.is_none() {
            let mut piece = [0; 2048];
            let n = self.stream.read(&mut piece)?;
            self.request.extend_from_slice(&piece[..n]);
            let text = "text/plain; charset=utf-8";
            self.answer = match understand(&self.request) {
                Asked::More if n == 0 => return Ok(true),
                Asked::More => return Ok(false),
                Asked::Metrics => {
                    let kind = "text/plain; version=0.0.4; charset=utf-8";
                    Some(answer("200 OK", kind, &metrics()))
                }
                Asked::No(status) => Some(answer(status, text, &format!("{status}\n"))),
            };
        }
        let all = self.answer.as_deref().unwrap_or_default();
        while self.sent < all.len() {
            self.sent += self.stream.write(&all[self.sent..])?;
        }
        Ok(true)
    }
}

impl Metrics {
    pub fn bind(at: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        Ok(Metrics {
            listener,
            askers: VecDeque::new(),
            last: 0,
        })
    }

    /// Takes one connection; `watch` enters it in the event loop, for both directions and
    /// edge-triggered.
    pub fn accept(&mut self, watch: impl FnOnce(u32, &dyn AsFd) -> bool) -> io::Result<()> {
        let (stream, _) = self.listener.accept()?;
        self.last = self.last.wrapping_add(1);
        if stream.set_nonblocking(true).is_err() || !watch(self.last, &stream) {
            return Ok(());
        }
        if self.askers.len() == MAX_ASKERS {
            self.askers.pop_front();
        }
        self.askers.push_back(Asker {
            id: self.last,
            stream,
            request: Vec::new(),
            answer: None,
            sent: 0,
        });
        Ok(())
    }

    /// Something happened on a connection. Closing takes it out of the event loop.
    pub fn serve(&mut self, id: u32, metrics: impl Fn() -> String) {
        let Some(at) = self.askers.iter().position(|a| a.id == id) else {
            return;
        };
        let over = loop {
            match self.askers[at].step(&metrics) {
                Ok(false) => {}
                Ok(true) => break true,
                Err(e) => break e.kind() != io::ErrorKind::WouldBlock,
            }
        };
        if over {
            self.askers.remove(at);
        }
    }
}

impl Server {
    /// Where metrics are served.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref()?.listener.local_addr().ok()
    }

    pub(crate) fn accept_asker(&mut self) {
        let epoll = &self.epoll;
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        let Some(metrics) = &mut self.metrics else {
            return;
        };
        let accepted = metrics.accept(|id, stream| {
            let event = EpollEvent::new(flags, ASKER | u64::from(id));
            epoll.add(stream.as_fd(), event).is_ok()
        });
        let gone = [io::ErrorKind::WouldBlock, io::ErrorKind::ConnectionAborted];
        if accepted.is_err_and(|e| !gone.contains(&e.kind())) {
            self.listen(false);
        }
    }

    /// Everybody on the host can ask there, so only the sums of the host are told.
    pub(crate) fn serve_asker(&mut self, id: u32) {
        if let Some(mut metrics) = self.metrics.take() {
            metrics.serve(id, || prometheus::text(&self.host_stats()));
            self.metrics = Some(metrics);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_understood() {
        let get = |line: &str| understand(format!("{line}\r\nHost: x\r\n\r\n").as_bytes());
        assert_eq!(get("GET /metrics HTTP/1.1"), Asked::Metrics);
        assert_eq!(get("GET /metrics?x=1 HTTP/1.0"), Asked::Metrics);
        assert_eq!(get("GET / HTTP/1.1"), Asked::No("404 Not Found"));
        assert_eq!(
            get("POST /metrics HTTP/1.1"),
            Asked::No("405 Method Not Allowed")
        );
        assert_eq!(get("\u{1}"), Asked::No("400 Bad Request"));
        assert_eq!(understand(b"GET /metr"), Asked::More);
        let mut long = b"GET /metrics HTTP/1.1\r\nA: ".to_vec();
        long.resize(MAX_REQUEST, b'a');
        assert!(matches!(understand(&long), Asked::No(_)));
    }
}
