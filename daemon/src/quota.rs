//! How many claims a user may make in a second. Each costs the daemon a question to the kernel, so one
//! user who never stops would keep the others waiting.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// More users than this, and those who have their full share are forgotten.
const MANY: usize = 1024;

/// A bucket of tokens for each user: it holds what a second allows, and fills up evenly.
#[derive(Debug)]
pub struct Rate {
    per_second: u32,
    buckets: HashMap<u32, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: u32,
    /// Up to when the tokens were counted in.
    at: Instant,
}

impl Rate {
    /// 0: no limit.
    pub fn new(per_second: u32) -> Self {
        Rate {
            per_second,
            buckets: HashMap::new(),
        }
    }

    /// Whether user `uid` may make one more at `now`.
    pub fn allows(&mut self, uid: u32, now: Instant) -> bool {
        if self.per_second == 0 {
            return true;
        }
        let most = self.per_second;
        if self.buckets.len() >= MANY && !self.buckets.contains_key(&uid) {
            self.buckets.retain(|_, b| b.fill(most, now) < most);
        }
        let bucket = self.buckets.entry(uid).or_insert(Bucket {
            tokens: most,
            at: now,
        });
        let left = bucket.fill(most, now).checked_sub(1);
        bucket.tokens = left.unwrap_or(0);
        left.is_some()
    }
}

impl Bucket {
    fn fill(&mut self, most: u32, now: Instant) -> u32 {
        let each = Duration::from_secs(1) / most;
        let passed = now.saturating_duration_since(self.at);
        let new = passed.as_nanos() / each.as_nanos().max(1);
        let new = u32::try_from(new).unwrap_or(most).min(most);
        if new > 0 {
            self.tokens = self.tokens.saturating_add(new).min(most);
            self.at = if self.tokens == most {
                now
            } else {
                self.at + each * new
            };
        }
        self.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_allows_so_many() {
        let start = Instant::now();
        let mut rate = Rate::new(10);
        let mut allowed = |uid, ms: u64| rate.allows(uid, start + Duration::from_millis(ms));
        assert_eq!((0..50).filter(|_| allowed(1, 0)).count(), 10);
        assert!(allowed(2, 0), "another user has a share of its own");
        assert!(!allowed(1, 99));
        assert!(allowed(1, 100));
        assert!(!allowed(1, 199));
        assert_eq!((0..50).filter(|_| allowed(1, 10_000)).count(), 10);
        // However often one asks: no more than the share.
        let all = (0..10_000).filter(|i| allowed(1, 20_000 + i)).count();
        assert!((105..=115).contains(&all), "{all}");
    }

    #[test]
    fn zero_is_no_limit() {
        let mut rate = Rate::new(0);
        assert!((0..1000).all(|_| rate.allows(1, Instant::now())));
    }

    #[test]
    fn users_at_rest_are_forgotten() {
        let start = Instant::now();
        let mut rate = Rate::new(10);
        for uid in 0..5000 {
            let at = start + Duration::from_secs(u64::from(uid));
            assert!(rate.allows(uid, at));
        }
        assert!(rate.buckets.len() <= MANY);
    }
}
