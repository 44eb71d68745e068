//! The active list of a set: the converted registrations that each wait looks at. Which these are: [`super::heat`].

use super::mine::Mine;
use super::reg::Reg;
use super::set::Set;
use super::table::View;
use crate::{lgr, os};
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering::*};

/// Hot registrations of a set.
pub const MAX: usize = 1 << 16;
const GROUP_WORDS: usize = lgr::MAX / 64;

pub struct Active {
    /// Registrations, index + 1, without gaps; mapped when first needed.
    list: AtomicPtr<AtomicU32>,
    len: AtomicU32,
    /// Counts those that were moved into the gap that another has left.
    moves: AtomicU32,
    /// Link groups in which a connection is or was cold: a bit for each.
    pub(super) groups: [AtomicU64; GROUP_WORDS],
}

impl Active {
    pub const fn new() -> Self {
        Active {
            list: AtomicPtr::new(std::ptr::null_mut()),
            len: AtomicU32::new(0),
            moves: AtomicU32::new(0),
            groups: [const { AtomicU64::new(0) }; GROUP_WORDS],
        }
    }

    /// Maps the list. The caller holds the lists of the set.
    pub fn prepare(&self) -> bool {
        if self.list.load(Acquire).is_null() {
            let Ok(at) = os::map_anonymous(MAX * size_of::<AtomicU32>()) else {
                return false;
            };
            self.list.store(at as *mut AtomicU32, Release);
        }
        true
    }

    fn all(&self) -> &'static [AtomicU32] {
        let at = self.list.load(Acquire);
        if at.is_null() {
            return &[];
        }
        // SAFETY: mapped by `prepare` with MAX zeroed words, never unmapped.
        unsafe { std::slice::from_raw_parts(at, MAX) }
    }

    /// The places in use. One may be found empty when another thread has just taken it off.
    pub fn places(&self) -> &'static [AtomicU32] {
        let len = self.len.load(Acquire) as usize;
        self.all().get(..len).unwrap_or(&[])
    }

    /// A walk through the list may miss what was moved meanwhile: one that has found nothing is
    /// repeated when this has changed since before.
    pub fn moves(&self) -> u32 {
        self.moves.load(Acquire)
    }

    /// The caller holds the lists of the set.
    pub(super) fn insert(&self, reg: &Reg, mine: &Mine) -> bool {
        let at = self.len.load(Relaxed);
        let Some(place) = self.all().get(at as usize) else {
            return false;
        };
        mine.place.store(at + 1, Relaxed);
        // SYNC: cold. Before the hint is taken off.
        place.store(reg.number() + 1, SeqCst);
        self.len.store(at + 1, SeqCst);
        true
    }

    /// The last takes the place of the one that goes, so that a walk costs what is hot. The caller
    /// holds the lists of the set.
    pub fn take_out(&self, view: View, mine: &Mine) {
        let Some(at) = mine.place.swap(0, Relaxed).checked_sub(1) else {
            return;
        };
        let all = self.all();
        let Some(end) = self.len.load(Relaxed).checked_sub(1) else {
            return;
        };
        let (Some(gap), Some(last)) = (all.get(at as usize), all.get(end as usize)) else {
            return;
        };
        if at != end
            && let Some((moved, its)) = view.at(last)
        {
            its.place.store(at + 1, Relaxed);
            gap.store(moved.number() + 1, Release);
            // Whoever finds the old place empty finds this changed, unless it has seen the new one.
            self.moves.fetch_add(1, AcqRel);
        }
        last.store(0, Release);
        self.len.store(end, Release);
    }

    /// In the child of a fork: the list is the parent's.
    pub fn forked(&self) {
        self.len.store(0, Relaxed);
    }
}

impl Set {
    /// The hot registrations.
    pub fn hot(&self) -> impl Iterator<Item = &'static Reg> {
        let places = self.view().map(|view| {
            let places = self.active.places().iter();
            places.filter_map(move |place| {
                let (reg, mine) = view.at(place)?;
                mine.is_of(reg).then_some(reg)
            })
        });
        places.into_iter().flatten()
    }

    /// Whether `f` holds for one of them.
    pub fn any_hot(&self, f: impl Fn(&'static Reg) -> bool) -> bool {
        loop {
            let moves = self.active.moves();
            if self.hot().any(&f) {
                return true;
            }
            if self.active.moves() == moves {
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::table;
    use super::*;

    /// The list never has gaps, and each registration knows its place.
    #[test]
    fn walks_cost_what_is_hot() {
        static ACTIVE: Active = Active::new();
        assert!(ACTIVE.prepare());
        let Some(view) = table::own().and_then(table::view) else {
            unreachable!()
        };
        // Entries that no set of another test comes to.
        let regs: Vec<(&Reg, &Mine)> = (0..100)
            .filter_map(|i| {
                let number = table::MAX as u32 - 1 - i;
                let both = view.both(number)?;
                both.0.number.store(number, Relaxed);
                Some(both)
            })
            .collect();
        let mut hot: Vec<&Mine> = Vec::new();
        let mut draw = 1u32;
        for _ in 0..10_000 {
            draw = draw.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let Some(&(reg, mine)) = regs.get((draw >> 8) as usize % regs.len()) else {
                unreachable!()
            };
            match hot.iter().position(|other| std::ptr::eq(*other, mine)) {
                Some(at) => {
                    ACTIVE.take_out(view, hot.swap_remove(at));
                    assert_eq!(mine.place.load(Relaxed), 0);
                }
                None => {
                    assert!(ACTIVE.insert(reg, mine));
                    hot.push(mine);
                }
            }
            let places = ACTIVE.places();
            assert_eq!(places.len(), hot.len());
            assert!((1..).zip(places).all(|(number, place)| {
                view.at(place)
                    .is_some_and(|(_, mine)| mine.place.load(Relaxed) == number)
            }));
        }
    }
}
