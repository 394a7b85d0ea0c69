//! Failovers, counted for `/metrics`: from those that are stored, each once, when somebody asks. The store keeps the last
//! few hundred, so the counts begin with those when central starts.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use proto::EnvironmentName;

use crate::{
    failovers::{AttemptOutcome, Failover},
    spread::Spread,
};

/// From a takeover within a blink to an outage of an hour, milliseconds.
const LASTED_MS: &[u64] = &[50, 250, 500, 1_000, 2_500, 5_000, 15_000, 60_000, 240_000, 3_600_000];

/// What was counted so far. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct History(Arc<Mutex<BTreeMap<EnvironmentName, Counts>>>);

/// One Environment's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Counts {
    /// The last one that is counted.
    upto: u64,
    pub(super) planned: u64,
    pub(super) lost: u64,
    /// How long each left no tunnel.
    pub(super) gaps: Spread,
    /// By what became of them.
    pub(super) attempts: BTreeMap<&'static str, u64>,
    pub(super) attempts_lasted: Spread,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            upto: 0,
            planned: 0,
            lost: 0,
            gaps: Spread::between(LASTED_MS),
            attempts: BTreeMap::new(),
            attempts_lasted: Spread::between(LASTED_MS),
        }
    }
}

impl History {
    /// Counts what has ended and was not counted yet; `failovers` are those that are stored, in any order.
    pub(super) fn count(&self, environment: &EnvironmentName, failovers: &[Failover]) -> Counts {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = all.entry(environment.clone()).or_default();
        let mut new: Vec<&Failover> =
            failovers.iter().filter(|one| one.id > counts.upto && one.ended_at.is_some()).collect();
        new.sort_unstable_by_key(|one| one.id);
        for failover in new {
            counts.add(failover);
        }
        counts.clone()
    }
}

impl Counts {
    fn add(&mut self, failover: &Failover) {
        self.upto = failover.id;
        if failover.planned {
            self.planned += 1;
        } else {
            self.lost += 1;
        }
        if let Some(gap) = failover.gap_ms {
            self.gaps.observe(Duration::from_millis(gap));
        }
        for attempt in &failover.attempts {
            let outcome = match attempt.outcome {
                AttemptOutcome::TookOver => "took_over",
                AttemptOutcome::Overtaken => "overtaken",
                AttemptOutcome::TimeIsUp => "time_is_up",
                AttemptOutcome::NotConnected => "not_connected",
                // The failover has ended: so has this, whoever forgot to say how.
                AttemptOutcome::UnderWay => continue,
            };
            *self.attempts.entry(outcome).or_default() += 1;
            if let Some(ms) = attempt.ms {
                self.attempts_lasted.observe(Duration::from_millis(ms));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    #[test]
    fn each_failover_counts_once_and_only_when_it_has_ended() {
        let history = History::default();
        let environment: EnvironmentName = "default".parse().unwrap();
        let mut all = vec![failover(2, None), failover(1, Some(400))];
        let counts = history.count(&environment, &all);
        assert_eq!((counts.lost, counts.planned, counts.gaps.count()), (1, 0, 1));
        assert_eq!(history.count(&environment, &all), counts);
        all[0] = Failover { planned: true, ..failover(2, Some(0)) };
        let counts = history.count(&environment, &all);
        assert_eq!((counts.lost, counts.planned, counts.gaps.count()), (1, 1, 2));
    }

    fn failover(id: u64, gap_ms: Option<u64>) -> Failover {
        let at = OffsetDateTime::UNIX_EPOCH;
        Failover {
            id,
            started_at: at,
            ended_at: gap_ms.map(|_| at),
            planned: false,
            from: None,
            to: None,
            reason: "the tunnel was lost".to_owned(),
            gap_ms,
            epoch: None,
            streams_cut: 0,
            attempts: Vec::new(),
            alerts: Vec::new(),
            timeline: Vec::new(),
        }
    }
}
