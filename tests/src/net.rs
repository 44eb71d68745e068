//! Ports, and waiting for listeners without connecting to them.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Ports below the kernel's ephemeral range, so that no outgoing connection takes one meanwhile.
const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;

/// A port on which nothing listens; each call gives another one.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(7, Relaxed) % COUNT;
        let port = FIRST + (start + step) % COUNT;
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// True when a TCP socket of this network namespace listens on `port`.
pub fn listens(port: u16) -> bool {
    has_socket("self", port, "0A")
}

/// As [`listens`], in the network namespace of this process.
pub fn listens_at(pid: u32, port: u16) -> bool {
    has_socket(&pid.to_string(), port, "0A")
}

/// True when a connection to or from `port` is established.
pub fn established(port: u16) -> bool {
    has_socket("self", port, "01")
}

/// Ports of the clients that are connected to `port`.
pub fn peers(port: u16) -> Vec<u16> {
    let text = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let number = |end: &str| u16::from_str_radix(end.rsplit(':').next()?, 16).ok();
    let lines = text.lines().filter_map(|line| {
        let words: Vec<_> = line.split_whitespace().take(4).collect();
        let established = words.get(3) == Some(&"01");
        let (local, peer) = (number(words.get(1)?)?, number(words.get(2)?)?);
        (established && local == port).then_some(peer)
    });
    lines.collect()
}

/// Whether bytes lie unread at the connection from `port`.
pub fn unread(port: u16) -> bool {
    let text = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let wanted = format!(":{port:04X}");
    text.lines().any(|line| {
        let words: Vec<_> = line.split_whitespace().take(5).collect();
        let local = words.get(1).is_some_and(|local| local.ends_with(&wanted));
        let queued = words
            .get(4)
            .is_some_and(|both| !both.ends_with(":00000000"));
        local && words.get(3) == Some(&"01") && queued
    })
}

pub fn has_socket(process: &str, port: u16, state: &str) -> bool {
    let wanted = format!("{port:04X}");
    ["tcp", "tcp6"].iter().any(|table| {
        let text = fs::read_to_string(format!("/proc/{process}/net/{table}")).unwrap_or_default();
        text.lines().any(|line| {
            let mut words = line.split_whitespace().skip(1);
            let local = words.next().and_then(|a| a.rsplit(':').next());
            local == Some(&wanted) && words.nth(1) == Some(state)
        })
    })
}

/// Polls `done` until it is true; false after `limit`.
pub fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !done() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Configuration of an nginx with a prefix of its own, in the foreground; `locations` goes into
/// the server block.
pub fn nginx_config(dir: &Path, port: u16, workers: usize, locations: &str) -> String {
    // SAFETY: geteuid cannot fail.
    let user = if unsafe { libc::geteuid() } == 0 {
        "user root;"
    } else {
        ""
    };
    let dir = dir.display();
    format!(
        "{user} daemon off; worker_processes {workers}; pid {dir}/nginx.pid;
        error_log {dir}/nginx.err;
        events {{ worker_connections 4096; }}
        http {{
            access_log off; keepalive_requests 100000000; root {dir};
            client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;
            fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi;
            scgi_temp_path {dir}/scgi;
            server {{ listen 127.0.0.1:{port}; {locations} }}
        }}"
    )
}
