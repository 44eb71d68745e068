//! Messages in one direction: one send and one receive for each of them.

use super::{Conn, Listener, Report};
use std::io::Result;
use std::time::{Duration, Instant};

/// Receives until the end of the stream and answers with the number of messages.
pub fn serve(at: &str, size: usize) -> Result<()> {
    let conn = Listener::on(at)?.accept()?;
    let mut message = vec![0; size];
    let mut count = 0u64;
    while conn.recv_all(&mut message)? {
        count += 1;
    }
    conn.send_all(&count.to_le_bytes())
}

/// Looks at the clock only every so many bytes: a look costs as much as a small message.
const BYTES_PER_LOOK: usize = 16 << 10;

pub fn talk(at: &str, size: usize, limit: Duration) -> Result<Report> {
    let conn = Conn::to(at)?;
    let message = vec![b'*'; size];
    let batch = (BYTES_PER_LOOK / size).max(1);
    let start = Instant::now();
    while start.elapsed() < limit {
        for _ in 0..batch {
            conn.send_all(&message)?;
        }
    }
    conn.end_of_sending()?;
    let mut answer = [0; 8];
    conn.recv_all(&mut answer)?;
    let received = u64::from_le_bytes(answer) as f64;
    Ok(Report {
        operations: received,
        seconds: start.elapsed().as_secs_f64(),
        bytes: received * size as f64,
        ..Default::default()
    })
}
