//! How often a leader is heard, and how long silence is borne.
//!
//! All voters of a group, the witness too, use the same timings: a slower one would delay every
//! failover. Failover takes about `election_max` + U(`election_min`, `election_max`) + 3 round trips.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One set of Raft timings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// Also the deadline of every RPC: a round trip and the follower's fsync must fit into it.
    pub heartbeat: Duration,
    pub election_min: Duration,
    pub election_max: Duration,
}

impl Timings {
    /// The measured table, by the worst round trip of any voter's path (relayed ones count twice
    /// the agent's way to central).
    pub fn for_round_trip(worst: Duration) -> Self {
        match worst.as_millis() {
            0..=50 => Self::of_millis(100, 300, 600),
            51..=100 => Self::of_millis(200, 600, 900),
            101..=200 => Self::of_millis(400, 1200, 1800),
            // Beyond the table its rules: heartbeat 2 round trips, elections 3 heartbeats and up.
            slower => {
                let slower = u64::try_from(slower).unwrap_or(u64::MAX).min(10_000);
                Self::of_millis(2 * slower, 6 * slower, 9 * slower)
            }
        }
    }

    const fn of_millis(heartbeat: u64, min: u64, max: u64) -> Self {
        Self {
            heartbeat: Duration::from_millis(heartbeat),
            election_min: Duration::from_millis(min),
            election_max: Duration::from_millis(max),
        }
    }

    /// How long the witness bears a group without a leader before it elects itself. Longer than
    /// a usual failover, so that it steps in only where no candidate can.
    pub fn watchdog(&self) -> Duration {
        self.election_max * 5 / 2
    }
}

impl Default for Timings {
    fn default() -> Self {
        Self::for_round_trip(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_obeys_the_rules_it_was_measured_under() {
        for rtt in [0, 50, 51, 100, 101, 200, 201, 5_000, 1_000_000] {
            let rtt = Duration::from_millis(rtt);
            let timings = Timings::for_round_trip(rtt);
            assert!(timings.heartbeat * 3 <= timings.election_min, "{rtt:?}");
            assert!(timings.election_min < timings.election_max, "{rtt:?}");
            assert!(timings.heartbeat * 3 >= rtt.min(Duration::from_secs(10)) * 4, "{rtt:?}");
        }
    }
}
