//! One message there and one back, as ipc-bench's socket programs do it: blocking, one connection,
//! the next message only after the answer.

use super::{Conn, Latencies, Listener, Report};
use std::io::{ErrorKind, Result};
use std::time::{Duration, Instant};

pub fn serve(at: &str, size: usize) -> Result<()> {
    let conn = Listener::on(at)?.accept()?;
    let mut message = vec![0; size];
    while conn.recv_all(&mut message)? {
        conn.send_all(&message)?;
    }
    Ok(())
}

/// Up to `count` exchanges, as far as the time reaches.
pub fn talk(at: &str, size: usize, count: u64, limit: Duration) -> Result<Report> {
    let conn = Conn::to(at)?;
    let mut message = vec![b'*'; size];
    let mut latencies = Latencies::default();
    let start = Instant::now();
    let mut last = start;
    for _ in 0..count {
        conn.send_all(&message)?;
        if !conn.recv_all(&mut message)? {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let now = Instant::now();
        latencies.record(now - last);
        last = now;
        if now - start > limit {
            break;
        }
    }
    let done = latencies.count() as f64;
    Ok(Report {
        operations: done,
        seconds: (last - start).as_secs_f64(),
        bytes: done * size as f64 * 2.0,
        percentiles: latencies.percentiles(),
        ..Default::default()
    })
}
