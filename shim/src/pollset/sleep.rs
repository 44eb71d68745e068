//! The sleep of a poll: on the TCP sockets and the doorbell of a context.

use super::held::Held;
use super::{Call, Polled};
use crate::conn::{ready, tx};
use crate::ctx::{self, Ctx};
use crate::{daemon, family, fds, lgr, wait};
use libc::pollfd;
use std::ffi::c_void;
use std::sync::atomic::Ordering::*;

/// What a sleeper has entered in places that others look at.
struct Asleep {
    ctx: Option<Ctx>,
    list: *const pollfd,
    count: usize,
    held: *const Held,
    names: usize,
    rung: bool,
}

/// Ends a sleep, see [`wait::undone`].
unsafe extern "C" fn wake_up(asleep: *mut c_void) {
    // SAFETY: `sleep` has registered its own value, and list and names are those of its caller.
    let (asleep, list, held) = unsafe {
        let asleep = &*asleep.cast::<Asleep>();
        (
            asleep,
            std::slice::from_raw_parts(asleep.list, asleep.count),
            std::slice::from_raw_parts(asleep.held, asleep.names),
        )
    };
    let Some(ctx) = asleep.ctx else { return };
    ctx.word().leave();
    if asleep.rung {
        ctx.drain();
    }
    for (i, one) in list.iter().enumerate() {
        // It may have left the ring for good while we slept.
        let conn = held.get(i).and_then(Held::named);
        let by_number = || fds::sock(one.fd).map(|sock| sock.conn);
        if let Some(conn) = conn.or_else(by_number) {
            wait::unwatch(conn, ctx);
        }
    }
    ctx.give_back();
}

impl Polled<'_> {
    pub(super) fn sleep(
        &mut self,
        limit: Option<u64>,
        mask: Option<*const libc::sigset_t>,
    ) -> Result<(), i32> {
        if let Some(table) = family::table() {
            table.totals.sleeps.fetch_add(1, Relaxed);
        }
        let mut limit = limit;
        let ctx = ctx::take();
        let mut blind = ctx.is_none();
        for (i, (one, sock)) in self.entries().enumerate() {
            let Some(sock) = sock else {
                continue;
            };
            blind |= self.held.get(i).is_some_and(|held| held.blind(one, sock));
            if let Some(ctx) = ctx {
                // Once, however often the connection is in the list.
                blind |= !wait::watches(sock.conn, ctx) && !wait::watch(sock.conn, ctx);
            }
            if sock.tx_ring() && one.events & ready::OUT != 0 {
                tx::want_room(sock);
                tx::give_up_if_stalled(sock);
                let patience = tx::patience(&sock);
                limit = Some(limit.map_or(patience, |ns| ns.min(patience)));
            }
        }
        if blind {
            limit = Some(limit.map_or(1_000_000, |ns| ns.min(1_000_000)));
        }
        if let Some(often) = lgr::wake_again() {
            limit = Some(limit.map_or(often, |ns| ns.min(often)));
        }
        if let Some(ctx) = ctx {
            ctx.word().enter();
        }
        let mut asleep = Asleep {
            ctx,
            list: self.list.as_ptr(),
            count: self.list.len(),
            held: self.held.as_ptr(),
            names: self.held.len(),
            rung: false,
        };
        let at = &raw mut asleep;
        let rest = || {
            let found = self.look();
            let count = self.list.len();
            if let Some(bell) = self.scratch.get_mut(count) {
                let fd = ctx.map_or(-1, |ctx| ctx.bell);
                *bell = pollfd {
                    fd,
                    events: libc::POLLIN,
                    revents: 0,
                };
            }
            let asked = self.scratch.get_mut(..=count).unwrap_or(&mut []);
            let limit = if found { Some(0) } else { limit };
            let result = match self.call {
                Call::Poll => wait::doze(asked, limit, mask),
                Call::Select => wait::by_poll_or_select(asked, limit, mask),
            };
            // SAFETY: lives in this frame.
            unsafe { (*at).rung = asked.last().is_some_and(|bell| bell.revents != 0) };
            result
        };
        // SAFETY: `asleep` and the list live longer than the sleep, and nothing is undone elsewhere.
        if unsafe { wait::undone(wake_up, at.cast(), rest) }? != 0 {
            daemon::keep_in_touch();
        }
        Ok(())
    }
}
