//! Closing what came from clients. A close can wait for as long as its owner likes: a TCP socket with
//! SO_LINGER, a file of a FUSE file system, or a UNIX socket with one of these in its queue. So it
//! happens in a thread, a *lane*, that serves this user (and few others), never in the event loop.

use nix::sys::socket::{Shutdown, shutdown};
use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};
use std::thread::Builder;

/// Users share a lane from this number on.
const LANES: u32 = 64;
const STACK: usize = 64 << 10;
/// Descriptors that gather before they are handed over.
const TOGETHER: usize = 64;

#[derive(Debug, Default)]
pub struct Reaper {
    lanes: HashMap<u32, Lane>,
}

#[derive(Debug)]
struct Lane {
    thread: Sender<Vec<OwnedFd>>,
    /// To be handed over together: to wake a thread costs more than to close a descriptor.
    next: Vec<OwnedFd>,
    /// Descriptors that are not closed yet.
    owed: Arc<AtomicU64>,
}

impl Lane {
    fn open() -> Option<Lane> {
        let (thread, work) = channel::<Vec<OwnedFd>>();
        let owed = Arc::new(AtomicU64::new(0));
        let left = owed.clone();
        let close = move || {
            for fd in work.into_iter().flatten() {
                drop(fd);
                left.fetch_sub(1, Relaxed);
            }
        };
        let spawned = Builder::new().name("reaper".into()).stack_size(STACK);
        spawned.spawn(close).ok()?;
        Some(Lane {
            thread,
            next: Vec::new(),
            owed,
        })
    }

    fn start(&mut self) {
        let _ = self.thread.send(std::mem::take(&mut self.next));
    }
}

impl Reaper {
    /// Closes descriptors of user `uid`, some time after the next [`Reaper::start`].
    pub fn close(&mut self, uid: u32, fds: impl IntoIterator<Item = OwnedFd>) {
        let number = uid % LANES;
        for fd in fds {
            if !self.lanes.contains_key(&number)
                && let Some(lane) = Lane::open()
            {
                self.lanes.insert(number, lane);
            }
            // Where there is no thread to be had, nothing is left but to close it here.
            if let Some(lane) = self.lanes.get_mut(&number) {
                lane.owed.fetch_add(1, Relaxed);
                lane.next.push(fd);
                if lane.next.len() >= TOGETHER {
                    lane.start();
                }
            }
        }
    }

    /// Hands over what has gathered.
    pub fn start(&mut self) {
        let lanes = self.lanes.values_mut();
        lanes.filter(|l| !l.next.is_empty()).for_each(Lane::start);
    }

    /// As [`Reaper::close`], for the socket of a session, whose other end learns of it now.
    pub fn hang_up(&mut self, uid: u32, socket: OwnedFd) {
        let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
        self.close(uid, [socket]);
    }

    /// Descriptors of this user (and of those in the same lane) that are not closed yet. They count
    /// towards the sessions of the user.
    pub fn owed(&self, uid: u32) -> u64 {
        let lane = self.lanes.get(&(uid % LANES));
        lane.map_or(0, |lane| lane.owed.load(Relaxed))
    }
}
