//! What became of each attempt to deliver an alert since central started, for `/metrics`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use alerting::outbox::State;

/// Endpoints that are counted by name. Their names are administrators', so there may be any number over time; what comes
/// after counts as `other`.
const ENDPOINTS_MAX: usize = 64;

/// The counts of one Environment. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<Mutex<BTreeMap<String, Attempts>>>);

/// Of one endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attempts {
    /// The receiver took it.
    pub delivered: u64,
    /// It did not, and is tried again.
    pub failed: u64,
    /// It is not tried again.
    pub given_up: u64,
}

impl Tally {
    /// An attempt ended, and its delivery is in this state now.
    pub(super) fn count(&self, endpoint: &str, state: &State) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.contains_key(endpoint) || all.len() < ENDPOINTS_MAX;
        let attempts = all.entry(if known { endpoint } else { "other" }.to_owned()).or_default();
        match state {
            State::Delivered { .. } => attempts.delivered += 1,
            State::GivenUp { .. } => attempts.given_up += 1,
            State::Waiting { .. } | State::Sending { .. } => attempts.failed += 1,
        }
    }

    /// By endpoint.
    pub fn counts(&self) -> BTreeMap<String, Attempts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    #[test]
    fn each_end_counts_at_its_endpoint_and_names_have_a_bound() {
        let tally = Tally::default();
        let at = OffsetDateTime::UNIX_EPOCH;
        tally.count("ops", &State::Delivered { at });
        tally.count("ops", &State::GivenUp { at, why: "gone".to_owned() });
        assert_eq!(tally.counts()["ops"], Attempts { delivered: 1, failed: 0, given_up: 1 });
        for number in 0..100 {
            tally.count(&number.to_string(), &State::Delivered { at });
        }
        assert!(tally.counts().len() <= ENDPOINTS_MAX + 1);
        assert_eq!(tally.counts()["other"].delivered, 37);
    }
}
