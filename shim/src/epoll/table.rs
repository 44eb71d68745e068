//! Tables of registrations.
//!
//! A set that a child inherits is one object of the kernel's for all who have it, and a registration is told of
//! once, to whoever asks first. So what is known of a registration ([`Reg`]) lies in memory that a process shares
//! with the children that it forks; what concerns its own looks alone ([`Mine`]) does not. Each process enters
//! the registrations of the sets that it makes in a table of its own, so that relatives only meet where
//! they use the same set.

use super::mine::Mine;
use super::reg::{Reg, state};
use crate::conn::Conn;
use crate::lock::Lock;
use crate::os;
use protocol::stats::ROWS;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering::*};

/// Registrations of a table.
pub const MAX: usize = 1 << 17;
/// Tables that a process sees: its own, and those of sets that it has inherited.
const SLOTS: usize = 8;

/// All zeros at first.
#[repr(C)]
pub struct Table {
    /// Held while lists change. Never while anything is waited for.
    pub lists: Lock,
    /// Free entries, linked by `next`, index + 1; entries from `fresh` on were never used.
    free: AtomicU32,
    fresh: AtomicU32,
    /// First registration of connection N, index + 1.
    heads: [AtomicU32; ROWS],
    regs: [Reg; MAX],
}

static TABLES: [AtomicPtr<Table>; SLOTS] = [const { AtomicPtr::new(std::ptr::null_mut()) }; SLOTS];
static MINES: [AtomicPtr<Mine>; SLOTS] = [const { AtomicPtr::new(std::ptr::null_mut()) }; SLOTS];
/// One more than the highest slot in use.
static HIGH: AtomicU32 = AtomicU32::new(0);
/// The slot in which this process enters its sets, + 1.
static OWN: AtomicU32 = AtomicU32::new(0);
static MAKING: Lock = Lock::new();

const MINES_LEN: usize = MAX * size_of::<Mine>();

/// A table, and what this process has for itself of its entries.
#[derive(Clone, Copy)]
pub struct View {
    pub table: &'static Table,
    mines: &'static [Mine],
}

impl View {
    /// Entry `index`.
    #[inline]
    pub fn both(self, index: u32) -> Option<(&'static Reg, &'static Mine)> {
        Some((
            self.table.regs.get(index as usize)?,
            self.mines.get(index as usize)?,
        ))
    }

    /// The entries that are or were in use.
    pub fn used(self) -> impl Iterator<Item = (&'static Reg, &'static Mine)> {
        let fresh = self.table.fresh.load(Relaxed) as usize;
        self.table.regs.iter().zip(self.mines).take(fresh)
    }

    /// The registration in a place of an active list.
    #[inline]
    pub fn at(self, place: &AtomicU32) -> Option<(&'static Reg, &'static Mine)> {
        self.both(place.load(Acquire).wrapping_sub(1))
    }
}

/// What is in a slot.
#[inline]
pub fn view(slot: u32) -> Option<View> {
    let table = TABLES.get(slot as usize)?.load(Acquire);
    let mines = MINES.get(slot as usize)?.load(Acquire);
    if table.is_null() || mines.is_null() {
        return None;
    }
    // SAFETY: mapped by `map` with these lengths, and unmapped only in a new process in which nobody runs
    // who could hold them; zeros are valid, and everything is atomic.
    unsafe {
        Some(View {
            table: &*table,
            mines: std::slice::from_raw_parts(mines, MAX),
        })
    }
}

fn map_mines(slot: usize) -> Option<()> {
    let at = os::map_anonymous(MINES_LEN).ok()?;
    MINES.get(slot)?.store(at.cast(), Release);
    Some(())
}

fn map() -> Option<u32> {
    let slot = TABLES.iter().position(|at| at.load(Relaxed).is_null())?;
    // Not a static array: it takes more address space than all the rest, and most programs have no set.
    let at = os::map_anonymous_shared(size_of::<Table>()).ok()?;
    if map_mines(slot).is_none() {
        os::munmap(at, size_of::<Table>());
        return None;
    }
    TABLES.get(slot)?.store(at.cast(), Release);
    HIGH.fetch_max(slot as u32 + 1, AcqRel);
    Some(slot as u32)
}

/// The slot of this process's own table, which is made when first needed.
pub fn own() -> Option<u32> {
    if let Some(slot) = OWN.load(Acquire).checked_sub(1) {
        return Some(slot);
    }
    let held = MAKING.lock();
    let slot = OWN.load(Acquire).checked_sub(1).or_else(map);
    if let Some(slot) = slot {
        OWN.store(slot + 1, Release);
    }
    MAKING.unlock(held);
    slot
}

/// Tables in which the connection has registrations.
pub fn knowing(conn: &Conn) -> impl Iterator<Item = &'static Table> {
    let index = conn.index();
    (0..HIGH.load(Acquire))
        .filter_map(view)
        .map(|view| view.table)
        .filter(move |table| table.head(index).load(Acquire) != 0)
}

/// In the child of a fork: the registrations are the parent's, and those of sets that it makes itself go elsewhere.
/// `inherited`: a bit for each slot that a set of its needs.
pub fn forked(inherited: u32) {
    MAKING.reset();
    OWN.store(0, Relaxed);
    for (slot, (table, mines)) in TABLES.iter().zip(&MINES).enumerate() {
        let (at, mine) = (table.load(Relaxed), mines.load(Relaxed));
        if at.is_null() {
            continue;
        }
        let needed = inherited & 1 << slot != 0;
        if !(needed && os::forget_contents(mine.cast(), MINES_LEN).is_ok()) {
            table.store(std::ptr::null_mut(), Relaxed);
            os::munmap(at.cast(), size_of::<Table>());
            os::munmap(mine.cast(), MINES_LEN);
        }
    }
}

impl Table {
    fn head(&self, index: u32) -> &AtomicU32 {
        static NONE: AtomicU32 = AtomicU32::new(0);
        self.heads.get(index as usize).unwrap_or(&NONE)
    }

    fn get(&self, index: u32) -> Option<&Reg> {
        self.regs.get(index as usize)
    }

    /// Registrations of a connection. The caller holds the lists.
    pub fn of(&'static self, conn: &Conn) -> impl Iterator<Item = &'static Reg> + use<> {
        let generation = conn.generation.load(Relaxed);
        let mut at = self.head(conn.index()).load(Acquire);
        std::iter::from_fn(move || {
            let reg = self.get(at.checked_sub(1)?)?;
            at = reg.next.load(Relaxed);
            Some(reg)
        })
        // A relative that has died did not take its own away.
        .filter(move |reg| reg.conn_generation.load(Relaxed) == generation)
    }

    /// A new entry, in no list. The caller holds the lists.
    pub fn take(&'static self) -> Option<&'static Reg> {
        let free = self.free.load(Relaxed);
        if let Some(reg) = free.checked_sub(1).and_then(|at| self.get(at)) {
            self.free.store(reg.next.load(Relaxed), Relaxed);
            return Some(reg);
        }
        let fresh = self.fresh.load(Relaxed);
        let reg = self.get(fresh)?;
        self.fresh.store(fresh + 1, Relaxed);
        reg.number.store(fresh, Relaxed);
        Some(reg)
    }

    /// Enters a registration in the list of its connection. The caller holds the lists.
    pub fn link(&'static self, conn: &Conn, reg: &'static Reg) {
        let head = self.head(conn.index());
        let generation = conn.generation.load(Relaxed);
        // Of an earlier connection in that place, see `of`.
        while let Some(first) = self.get(head.load(Relaxed).wrapping_sub(1))
            && first.conn_generation.load(Relaxed) != generation
        {
            head.store(first.next.load(Relaxed), Release);
            first.state.store(state::FREE, Release);
            self.give_back(first);
        }
        reg.next.store(head.load(Relaxed), Relaxed);
        head.store(reg.number() + 1, Release);
    }

    /// Takes it out again. The caller holds the lists.
    pub fn unlink(&self, conn: &Conn, reg: &Reg) {
        let mut link = self.head(conn.index());
        while let Some(at) = self.get(link.load(Relaxed).wrapping_sub(1)) {
            if std::ptr::eq(at, reg) {
                link.store(reg.next.load(Relaxed), Release);
                return;
            }
            link = &at.next;
        }
    }

    /// Gives an entry back that is in no list. The caller holds the lists.
    pub fn give_back(&self, reg: &Reg) {
        reg.next.store(self.free.load(Relaxed), Relaxed);
        self.free.store(reg.number() + 1, Relaxed);
    }
}
