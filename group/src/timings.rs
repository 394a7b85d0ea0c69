//! How often a leader is heard, and how long silence is borne.
//!
//! All voters of a group, the witness too, use the same timings: a slower one would delay every
//! failover. Failover takes about `election_max` + U(`election_min`, `election_max`) + 3 round trips.
//! Which set a group uses stands in its log; see [`pace`](crate::pace).

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// One set of Raft timings. Ordered by its heartbeat: the faster set is the smaller one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "Millis", into = "Millis")]
pub struct Timings {
    /// Also the deadline of every RPC: a round trip and the follower's fsync must fit into it.
    pub heartbeat: Duration,
    pub election_min: Duration,
    pub election_max: Duration,
}

/// The measured table, and two classes beyond it by its rules: heartbeat 2 round trips, elections
/// 6 to 9. Few and wide, so that a path that wavers seldom changes its class.
const CLASSES: [(Duration, Timings); 5] = [
    (Duration::from_millis(50), Timings::of_millis(100, 300, 600)),
    (Duration::from_millis(100), Timings::of_millis(200, 600, 900)),
    (Duration::from_millis(200), Timings::of_millis(400, 1200, 1800)),
    (Duration::from_millis(400), Timings::of_millis(800, 2400, 3600)),
    SLOWEST,
];

/// Bears round trips of up to 1.2 s; what is slower is no path for a group.
const SLOWEST: (Duration, Timings) = (Duration::from_millis(800), Timings::of_millis(1600, 4800, 7200));

/// What a log may ask for, whichever version wrote it. Part of what the log means: a change here
/// would make nodes of different versions disagree about it.
const HEARTBEAT_MIN: Duration = Duration::from_millis(10);
const ELECTION_MAX: Duration = Duration::from_secs(60);

impl Timings {
    /// The set for the worst round trip of any member's path (relayed ones count twice the
    /// agent's way to central).
    pub fn for_round_trip(worst: Duration) -> Self {
        CLASSES.into_iter().find(|(bound, _)| worst <= *bound).unwrap_or(SLOWEST).1
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

    /// Whether Raft can work with this set at all.
    pub(crate) fn is_sound(&self) -> bool {
        self.heartbeat >= HEARTBEAT_MIN
            && self.heartbeat * 3 <= self.election_min
            && self.election_min < self.election_max
            && self.election_max <= ELECTION_MAX
    }
}

impl Default for Timings {
    fn default() -> Self {
        Self::for_round_trip(Duration::ZERO)
    }
}

impl fmt::Display for Timings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Millis { heartbeat_ms, election_min_ms, election_max_ms } = (*self).into();
        write!(f, "heartbeat {heartbeat_ms} ms, election {election_min_ms}-{election_max_ms} ms")
    }
}

/// As it stands in logs, snapshots and answers.
#[derive(Serialize, Deserialize)]
struct Millis {
    heartbeat_ms: u64,
    election_min_ms: u64,
    election_max_ms: u64,
}

impl From<Millis> for Timings {
    fn from(millis: Millis) -> Self {
        Self::of_millis(millis.heartbeat_ms, millis.election_min_ms, millis.election_max_ms)
    }
}

impl From<Timings> for Millis {
    fn from(timings: Timings) -> Self {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            heartbeat_ms: millis(timings.heartbeat),
            election_min_ms: millis(timings.election_min),
            election_max_ms: millis(timings.election_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_obeys_the_rules_it_was_measured_under() {
        for rtt in [0, 50, 51, 100, 101, 200, 201, 400, 401, 800] {
            let rtt = Duration::from_millis(rtt);
            let timings = Timings::for_round_trip(rtt);
            assert!(timings.is_sound(), "{rtt:?}");
            assert!(timings.heartbeat >= rtt * 2, "{rtt:?}");
        }
    }

    #[test]
    fn a_slower_path_never_gets_a_faster_set() {
        let sets: Vec<Timings> =
            (0..2000).map(|ms| Timings::for_round_trip(Duration::from_millis(ms))).collect();
        assert!(sets.is_sorted());
        assert_eq!(sets.first(), Some(&Timings::default()));
    }

    #[test]
    fn a_set_that_raft_could_not_work_with_is_not_sound() {
        for (heartbeat, min, max) in [(0, 300, 600), (100, 299, 600), (100, 300, 300), (100, 300, u64::MAX)] {
            assert!(!Timings::of_millis(heartbeat, min, max).is_sound(), "{heartbeat} {min} {max}");
        }
    }
}
