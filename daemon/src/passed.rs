//! Sockets that programs have passed on over Unix sockets. Who receives one knows its own descriptors
//! only; whether others hold it too is known from those who had it before.

use std::collections::{HashMap, VecDeque};

/// Sockets that are remembered for one user; of older ones the connections stay on TCP.
const MOST: usize = 1 << 14;

/// By user: what is known of a socket, by its cookie, which no other socket ever gets.
#[derive(Debug, Default)]
pub struct Passed {
    of: HashMap<u32, OfUser>,
}

#[derive(Debug, Default)]
struct OfUser {
    free: HashMap<u64, bool>,
    oldest_first: VecDeque<u64>,
}

impl Passed {
    /// A process of `uid` says that the receiver has the socket for itself, or that it has not. The
    /// latter counts, whatever came before or comes afterwards.
    pub fn note(&mut self, uid: u32, cookie: u64, free: bool) {
        let mine = self.of.entry(uid).or_default();
        if let Some(known) = mine.free.get_mut(&cookie) {
            *known &= free;
            return;
        }
        if mine.oldest_first.len() >= MOST
            && let Some(oldest) = mine.oldest_first.pop_front()
        {
            mine.free.remove(&oldest);
        }
        mine.free.insert(cookie, free);
        mine.oldest_first.push_back(cookie);
    }

    /// Whether a process of `uid` that has received the socket is its only holder.
    pub fn is_free(&self, uid: u32, cookie: u64) -> bool {
        let mine = self.of.get(&uid);
        mine.and_then(|mine| mine.free.get(&cookie)) == Some(&true)
    }

    /// No process of the user is left.
    pub fn forget(&mut self, uid: u32) {
        self.of.remove(&uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_until_somebody_keeps_it() {
        let mut passed = Passed::default();
        assert!(!passed.is_free(1, 7));
        passed.note(1, 7, true);
        assert!(passed.is_free(1, 7) && !passed.is_free(2, 7) && !passed.is_free(1, 8));
        passed.note(1, 7, false);
        passed.note(1, 7, true);
        assert!(!passed.is_free(1, 7));
        passed.forget(1);
        assert!(passed.of.is_empty());
    }

    #[test]
    fn a_user_fills_what_is_its_own() {
        let mut passed = Passed::default();
        passed.note(2, 0, true);
        for cookie in 0..MOST as u64 + 10 {
            passed.note(1, cookie, true);
        }
        assert!(!passed.is_free(1, 9) && passed.is_free(1, 10) && passed.is_free(2, 0));
        let mine = &passed.of[&1];
        assert_eq!((mine.free.len(), mine.oldest_first.len()), (MOST, MOST));
    }
}
