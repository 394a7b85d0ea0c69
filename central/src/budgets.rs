//! How often something may happen: for each key a few times at once, then one at a time. Pure: time comes as `now`.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

/// How often at once, after a time without any.
pub const BURST: u32 = 10;
/// How many keys are told apart at a time; all others share one budget.
pub const KEYS_MAX: usize = 10_000;

/// A budget for each key: the moment at which it will be whole again (GCRA).
pub struct Budgets<K> {
    whole_at: BTreeMap<K, Instant>,
    others: Option<Instant>,
}

impl<K> Default for Budgets<K> {
    fn default() -> Self {
        Self { whole_at: BTreeMap::new(), others: None }
    }
}

impl<K: Ord> Budgets<K> {
    /// Takes one out of the budget of `key`, or says how long to wait for it.
    pub fn take(&mut self, key: K, every: Duration, now: Instant) -> Result<(), Duration> {
        if self.whole_at.len() >= KEYS_MAX && !self.whole_at.contains_key(&key) {
            self.whole_at.retain(|_, whole_at| *whole_at > now);
        }
        let room = self.whole_at.len() < KEYS_MAX || self.whole_at.contains_key(&key);
        let known = if room { self.whole_at.get(&key).copied() } else { self.others };
        let whole_at = known.map_or(now, |at| at.max(now)) + every;
        let latest = now + every * BURST;
        if whole_at > latest {
            return Err(whole_at - latest);
        }
        if room {
            self.whole_at.insert(key, whole_at);
        } else {
            self.others = Some(whole_at);
        }
        Ok(())
    }

    /// It was not to count.
    pub fn give_back(&mut self, key: &K, every: Duration) {
        if let Some(whole_at) = self.whole_at.get_mut(key) {
            *whole_at = whole_at.checked_sub(every).unwrap_or(*whole_at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(6);

    #[test]
    fn a_few_at_once_and_then_one_at_a_time() {
        let (mut budgets, now) = (Budgets::default(), Instant::now());
        assert!((0..BURST).all(|_| budgets.take("anna", EVERY, now).is_ok()));
        assert_eq!(budgets.take("anna", EVERY, now), Err(EVERY));
        assert_eq!(budgets.take("bert", EVERY, now), Ok(()));
        assert_eq!(budgets.take("anna", EVERY, now + EVERY), Ok(()));
        assert!(budgets.take("anna", EVERY, now + EVERY).is_err());
    }

    #[test]
    fn what_is_told_apart_is_bounded_and_recovers() {
        let (mut budgets, now) = (Budgets::default(), Instant::now());
        for key in 0..2 * KEYS_MAX {
            let _ = budgets.take(key, EVERY, now);
        }
        assert_eq!(budgets.whole_at.len(), KEYS_MAX);
        assert!(budgets.take(2 * KEYS_MAX, EVERY, now).is_err(), "all others share one budget");
        assert_eq!(budgets.take(2 * KEYS_MAX, EVERY, now + EVERY * BURST), Ok(()));
    }
}
