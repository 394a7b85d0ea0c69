//! Which refusals are recorded: all of them at first, then some, and how many were left out.
//!
//! The log is bounded, so whoever could fill it with refusals could push the truth out at its other end. Changes that
//! were done are always recorded.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::budgets::Budgets;

/// One more refusal of the same caller.
const EVERY: Duration = Duration::from_secs(60);
/// How many callers' left-out refusals are counted apart.
const COUNTED_MAX: usize = 10_000;

#[derive(Default)]
pub(super) struct Refusals {
    budgets: Budgets<String>,
    left_out: BTreeMap<String, u64>,
}

impl Refusals {
    /// Whether a refusal of `whom` is recorded, and if so, how many before it were not.
    pub(super) fn record(&mut self, whom: &str, now: Instant) -> Option<u64> {
        if self.budgets.take(whom.to_owned(), EVERY, now).is_ok() {
            return Some(self.left_out.remove(whom).unwrap_or(0));
        }
        if self.left_out.len() < COUNTED_MAX || self.left_out.contains_key(whom) {
            *self.left_out.entry(whom.to_owned()).or_default() += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_leaves_a_few_records_and_their_number() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        let recorded = (0..1000).filter(|_| refusals.record("nobody", now).is_some()).count();
        assert_eq!(recorded, 10);
        assert_eq!(refusals.record("token 1", now), Some(0));
        assert_eq!(refusals.record("nobody", now + EVERY), Some(990));
        assert_eq!(refusals.record("nobody", now + 2 * EVERY), Some(0));
    }
}
