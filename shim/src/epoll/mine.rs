//! What each process has for itself of a registration.
//!
//! A relative may remove a registration, and use its entry again for another, without this process. So what is
//! here names the use of the entry that it is about; what is left of an earlier one is cleared when it is come upon.

use super::reg::Reg;
use super::set::{self, Set};
use super::table::View;
use crate::conn::Conn;
use crate::{family, wait};
use std::sync::atomic::{AtomicU32, Ordering::*};

#[derive(Debug)]
pub struct Mine {
    /// [`Reg::generation`] of that use.
    of: AtomicU32,
    /// Its set, and its connection with the generation.
    set: AtomicU32,
    conn: AtomicU32,
    conn_generation: AtomicU32,
    /// Among those that the set counts as converted.
    pub counted: AtomicU32,
    /// The wait that put it last.
    pub round: AtomicU32,
    /// Place on the set's active list + 1; 0: cold.
    pub place: AtomicU32,
    /// Looks in vain since something became of it.
    pub vain: AtomicU32,
    /// The set's context is in the list of the connection's watchers.
    pub watched: AtomicU32,
}

impl Mine {
    /// Whether it is about the registration that the entry holds now.
    #[inline]
    pub fn is_of(&self, reg: &Reg) -> bool {
        self.of.load(Relaxed) == reg.generation.load(Relaxed)
    }

    fn conn(&self) -> Option<&'static Conn> {
        let conn = family::conn(self.conn.load(Relaxed))?;
        (conn.generation.load(Relaxed) == self.conn_generation.load(Relaxed)).then_some(conn)
    }
}

impl Set {
    /// What this process has of a registration, if anything.
    #[inline]
    pub fn mine(&self, reg: &Reg) -> Option<&'static Mine> {
        let mine = self.view()?.both(reg.number())?.1;
        mine.is_of(reg).then_some(mine)
    }

    /// As [`Set::mine`], of which there is something from here on. The caller holds the lists.
    pub fn enter(&self, reg: &Reg) -> Option<&'static Mine> {
        let view = self.view()?;
        let mine = view.both(reg.number())?.1;
        if !mine.is_of(reg) {
            clear(view, mine);
            mine.round.store(0, Relaxed);
            mine.vain.store(0, Relaxed);
            mine.set.store(self.index(), Relaxed);
            mine.conn.store(reg.conn.load(Relaxed), Relaxed);
            let generation = reg.conn_generation.load(Relaxed);
            mine.conn_generation.store(generation, Relaxed);
            mine.of.store(reg.generation.load(Relaxed), Relaxed);
        }
        Some(mine)
    }

    /// The registration is not looked at any more. The caller holds the lists of the set.
    pub fn unlist(&self, view: View, mine: &Mine) {
        let hot = mine.place.load(Relaxed) != 0;
        self.active.take_out(view, mine);
        if mine.watched.swap(0, Relaxed) != 0
            && let (Some(ctx), Some(conn)) = (self.ctx(), mine.conn())
        {
            match hot {
                true => wait::unwatch(conn, ctx),
                false => wait::unwatch_cold(conn, ctx),
            }
        }
    }

    /// It is not ours any more. The caller holds the lists.
    pub fn disown(&self, view: View, mine: &Mine) {
        self.unlist(view, mine);
        if mine.counted.swap(0, Relaxed) != 0 {
            self.handed.fetch_add(1, AcqRel);
            if self.count.fetch_sub(1, AcqRel) == 1
                && self.foreign()
                && let Some(ctx) = self.ctx()
                && !ctx.word().sleepers()
            {
                // The kernel knows all of it now, and whoever watches the set hears the doorbell as well.
                ctx.drain();
            }
        }
    }

    /// Nothing is looked at any more: the set goes. The caller holds the lists.
    pub fn clear_list(&self, view: View) {
        while let Some((_, mine)) = self.active.places().first().and_then(|at| view.at(at)) {
            self.disown(view, mine);
        }
    }
}

/// Ends what is left of an earlier use of the entry. The caller holds the lists.
fn clear(view: View, mine: &Mine) {
    let left = |word: &AtomicU32| word.load(Relaxed) != 0;
    if (left(&mine.counted) || left(&mine.place) || left(&mine.watched))
        && let Some(set) = set::get(mine.set.load(Relaxed))
    {
        set.disown(view, mine);
    }
}

#[cfg(test)]
mod tests {
    use super::super::reg::{self, state};
    use crate::conn::Sock;
    use crate::epoll::set;
    use crate::family;
    use std::sync::atomic::Ordering::*;

    /// A relative removes a registration that is on our list, and its entry is used again, in another set.
    #[test]
    fn an_entry_used_again() {
        let made = || -> Option<()> {
            let new_set = || {
                let epfd = crate::calls::epoll::create1(libc::EPOLL_CLOEXEC);
                set::live().find(|set| set.epfd() == epfd)
            };
            let (first, second) = (new_set()?, new_set()?);
            assert!(family::ready());
            let conn = family::allocate()?;
            let sock = Sock { fd: -1, conn };
            let event = libc::epoll_event {
                events: libc::EPOLLIN as u32,
                u64: 1,
            };
            let (table, view) = (first.table()?, first.view()?);
            second.table()?;
            let held = table.lists.lock();
            let old = reg::add(first, sock, &event)?;
            assert!(first.active.prepare() && first.heat(old, conn));
            first.mine(old)?.counted.store(1, Relaxed);
            first.count.fetch_add(1, Relaxed);
            assert_eq!(first.hot().count(), 1);
            table.unlink(conn, old);
            old.state.store(state::FREE, Release);
            table.give_back(old);
            let new = reg::add(second, sock, &event)?;
            assert_eq!(new.number(), old.number());
            assert!(first.mine(new).is_none() && first.hot().count() == 0);
            assert_eq!(
                (first.count.load(Relaxed), first.active.places().len()),
                (1, 1)
            );
            assert!(second.active.prepare() && second.heat(new, conn));
            assert_eq!(
                (first.count.load(Relaxed), first.active.places().len()),
                (0, 0)
            );
            assert_eq!(second.hot().count(), 1);
            second.clear_list(view);
            assert_eq!(second.hot().count(), 0);
            reg::remove(table, conn, new);
            table.lists.unlock(held);
            Some(())
        };
        assert_eq!(made(), Some(()));
    }
}
