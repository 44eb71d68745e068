//! What happens to descriptors, connections and processes: their options, copies, ends.

use super::*;

impl Model {
    pub(super) fn shutdown(&mut self, actor: usize) {
        let slot = self.socket(actor);
        let mut how = self.pick(&[1, 1, 1, 0, 2]);
        if let Kind::End(conn, side) = self.kind(actor, slot) {
            let end = &mut self.ends[conn][side];
            if end.waiter && self.edges {
                // The acknowledgement of the FIN is an edge too. The peer's kernel delays it for as long as it
                // likes, and so may or may not make two of what a sleeper is told.
                how = 0;
            }
            end.deaf |= how != 1;
        }
        self.push(actor, "shutdown", &[slot, how]);
    }

    /// Whether somebody may wait for the readiness of what a slot holds: when its last descriptor
    /// goes, the kernel does not say what such a wait sees.
    pub(super) fn waited_for(&self, actor: usize, slot: i64) -> bool {
        match self.kind(actor, slot) {
            Kind::End(conn, side) => self.ends[conn][side].waiter,
            Kind::Set => self.ends.iter().flatten().any(|end| end.waiter),
            _ => false,
        }
    }

    pub(super) fn close(&mut self, actor: usize) {
        let slot = self.slot(actor, |kind| kind != Kind::Empty);
        if slot == 0 || self.waited_for(actor, slot) {
            return;
        }
        self.push(actor, "close", &[slot]);
        self.put(actor, slot, Kind::Empty);
    }

    pub(super) fn duplicate(&mut self, actor: usize) {
        let slot = self.slot(actor, |kind| matches!(kind, Kind::End(..) | Kind::Set));
        let over = self.once_in(3);
        let new = if over {
            self.slot(actor, |kind| kind != Kind::Empty)
        } else {
            match self.free(actor) {
                Some(new) => new,
                None => return,
            }
        };
        let how = if over {
            self.pick(&[3, 4])
        } else {
            self.pick(&[0, 1, 2, 5])
        };
        if over && (self.waited_for(actor, new) || new == 0) {
            return;
        }
        if self.kind(actor, slot) == Kind::Empty {
            return;
        }
        self.push(actor, "dup", &[slot, new, how]);
        if over && self.kind(actor, new) == Kind::Empty {
            return;
        }
        let kind = self.kind(actor, slot);
        self.put(actor, new, kind);
    }

    pub(super) fn flags(&mut self, actor: usize) {
        let slot = self.socket(actor);
        let (which, value) = (self.below(5) as i64, self.below(2) as i64);
        self.push(actor, "flags", &[slot, which, value]);
    }

    pub(super) fn options(&mut self, actor: usize) {
        let slot = self.socket(actor);
        let which = self.below(18) as i64;
        // Such options make the connection go back to TCP, for which the peer has to repeat what
        // lies unread; it may be asleep elsewhere.
        let (unread, sleeper) = match self.kind(actor, slot) {
            Kind::End(conn, side) => {
                let end = &self.ends[conn][side];
                (end.unread > 0, end.receiver || end.waiter)
            }
            _ => (false, false),
        };
        let stay = self.edges || unread;
        let value = match which {
            1 if stay => 1,
            1 => self.pick(&[1, 1, 10, 300]),
            2 | 11 => i64::from(!stay && self.once_in(4)),
            3 | 4 => self.pick(&[100_000, 200_000]),
            5 => 1,
            6 => 100,
            // Whether it holds for one who sleeps already depends on which thread a signal goes to.
            15 | 16 if sleeper => 0,
            15 | 16 => self.pick(&[0, 8]),
            17 => self.pick(&[0, 1, 2]),
            _ => self.below(2) as i64,
        };
        self.push(actor, "setopt", &[slot, which, value]);
        // TCP_QUICKACK the kernel changes by itself.
        if self.once_in(2) && which < 15 && which != 13 {
            self.push(actor, "getopt", &[slot, which]);
        }
    }

    pub(super) fn ask(&mut self, actor: usize) {
        let slot = self.socket(actor);
        match self.below(3) {
            0 => {
                let which = self.below(3) as i64;
                self.push(actor, "ioctl", &[slot, which]);
            }
            1 => {
                let which = self.pick(&[0, 1, 2, 3, 4, 5, 6, 8, 9]);
                self.push(actor, "odd", &[slot, which]);
            }
            _ => {
                let which = self.pick(&[0, 1, 2, 5, 7, 8, 9, 10, 12]);
                self.push(actor, "getopt", &[slot, which]);
            }
        }
    }

    pub(super) fn connect(&mut self, actor: usize) {
        let (Some(new), Some(accepted)) = (self.free(actor), self.free(0)) else {
            return;
        };
        if self.tables[0][0] != Kind::Listener || self.rests(actor) || self.rests(0) {
            // One who waits for a connection that is not made sleeps.
            return;
        }
        let conn = self.ends.len();
        self.ends.push(Default::default());
        self.push(actor, "socket", &[new]);
        self.put(actor, new, Kind::End(conn, 0));
        if self.once_in(3) {
            self.push(actor, "flags", &[new, 0, 1]);
        }
        self.push(actor, "connect", &[new]);
        let Some(accepted) = (if self.process(actor) == 0 {
            self.free(0)
        } else {
            Some(accepted)
        }) else {
            return;
        };
        let flags = self.pick(&[-1, 0, libc::SOCK_CLOEXEC as i64, libc::SOCK_NONBLOCK as i64]);
        self.push(0, "accept", &[accepted, 0, flags]);
        self.put(0, accepted, Kind::End(conn, 1));
        if self.process(actor) == 0 && self.once_in(2) {
            self.push(0, "flags", &[new, 0, 0]);
            self.push(0, "flags", &[accepted, 0, 0]);
            self.push(0, "warm", &[new, accepted]);
        }
    }

    pub(super) fn fork(&mut self, actor: usize) {
        let Some(new) = (3..ACTORS).find(|at| self.actors[*at].is_none()) else {
            return;
        };
        if self.rests(actor) {
            // There may be no child, and then nobody who reads what is sent to it.
            return;
        }
        let mut table = self.tables[self.process(actor)];
        let process = self.process(actor);
        let child = self.tables.len();
        let sets = (0..SLOTS).filter(|slot| table[*slot] == Kind::Set);
        let both = sets.flat_map(|slot| [process, child].map(|who| (who, slot as i64)));
        let edges = self.edges;
        self.inherited
            .extend(both.filter(|(who, _)| !edges || *who == child));
        if edges {
            // To use a set of the parent's is such a thing.
            table = table.map(|kind| if kind == Kind::Set { Kind::Empty } else { kind });
        }
        self.tables.push(table);
        self.actors[new] = Some(self.tables.len() - 1);
        self.push(actor, "fork", &[new as i64]);
    }

    pub(super) fn bad(&mut self, actor: usize) {
        let slot = self.socket(actor);
        let which = self.below(15) as i64;
        self.push(actor, "bad", &[slot, which]);
    }

    pub(super) fn signal(&mut self, actor: usize) {
        let (number, restart) = (1 + self.below(2) as i64, self.below(2) as i64);
        let slot = if self.once_in(3) {
            self.socket(actor)
        } else {
            -1
        };
        if let Some((conn, side)) = self.peer(actor, slot) {
            self.ends[conn][side].unread += 10;
        }
        if self.once_in(2) {
            self.push(actor, "action", &[number, restart, slot]);
        }
        let target = self.actor() as i64;
        self.push(actor, "kill", &[target, number]);
    }

    pub(super) fn pass(&mut self, actor: usize) {
        let slot = self.slot(actor, |kind| matches!(kind, Kind::End(..) | Kind::Set));
        let to = self.actor();
        let kind = self.kind(actor, slot);
        // Unread bytes on a ring need the peer's library, which may be asleep elsewhere.
        let unread = matches!(kind, Kind::End(conn, side) if self.ends[conn][side].unread > 0);
        if kind == Kind::Empty || self.edges || unread || self.waited_for(actor, slot) {
            return;
        }
        if self.rests(actor) || self.rests(to) {
            return;
        }
        if let Some(new) = self.free(to) {
            self.push(actor, "pass", &[slot]);
            self.push(to, "take", &[new]);
            self.put(to, new, kind);
        }
    }

    pub(super) fn spawn_or_exit(&mut self, actor: usize) {
        let process = self.process(actor);
        let waited = self.tables[process]
            .iter()
            .any(|kind| matches!(kind, Kind::End(c, s) if self.ends[*c][*s].waiter));
        if process != 0 && self.once_in(2) && !waited {
            self.push(actor, "exit", &[]);
            for at in 0..ACTORS {
                if self.actors[at] == Some(process) {
                    self.actors[at] = None;
                }
            }
        } else if !self.edges {
            let how = self.below(3) as i64;
            // posix_spawn blocks all signals, and the kernel then wakes another thread for a child that ends meanwhile: a
            // receive whose number was closed begins anew without it.
            let sleeper = self.ends.iter().flatten().any(|end| end.receiver);
            let how = if sleeper { how.max(1) } else { how };
            self.push(actor, "spawn", &[how]);
        }
    }
}
