//! Decides which timings a node runs with, and what a leader proposes.
//!
//! ```text
//!   paths slower than the log's set ──► the leader proposes a slower one ──► applied ──► taken
//!   all of them fast for a minute ────► the leader proposes a faster one ──► applied ──► taken
//!   slower, and no leader proves itself ──► taken as a stopgap, without the log
//! ```
//!
//! The stopgap is what makes the rest possible: with a set too fast for its paths a group elects
//! nobody or commits nothing, so no log could tell it to slow down. It ends with the next set that
//! the log brings, or when the paths are fast again.
//!
//! Sets differ between nodes for a moment. That is safe (votes and logs know no clock), and
//! harmless if leader and followers change in the right order: a leader is the last to slow down,
//! because the others' patience must grow before its heartbeats slow, and the first to speed up,
//! which it is anyway, because it applies first.

use std::time::Duration;

use tokio::time::Instant;

use crate::timings::Timings;

/// How long all paths must have been fast before the group speeds up.
const CALM_FOR: Duration = Duration::from_secs(60);

/// What this node sees of its group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight {
    pub(crate) in_force: Timings,
    /// What the log says, or the set that groups start with.
    pub(crate) committed: Timings,
    pub(crate) standing: Standing,
    /// The worst round trip of any member's path.
    pub(crate) worst: Option<Duration>,
    /// Whether the paths to all voters are known.
    pub(crate) all_known: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Leads, and a quorum has acknowledged it lately.
    Leading,
    /// Leads as far as it knows, without any quorum's word.
    LeadingAlone,
    /// Hears a leader.
    Following,
    /// Has heard none for longer than an election takes.
    Leaderless,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Stay,
    /// Restart with this set.
    Take(Timings),
    /// Put this set into the log.
    Propose(Timings),
}

/// The memory that the decisions need. See the module.
#[derive(Debug)]
pub(crate) struct Pace {
    committed: Timings,
    stopgap: Option<Timings>,
    calm_since: Option<Instant>,
    slowing_since: Option<Instant>,
}

impl Pace {
    pub(crate) fn new(committed: Timings) -> Self {
        Self { committed, stopgap: None, calm_since: None, slowing_since: None }
    }

    /// What to do now. Ask again after each change, and some times a second.
    pub(crate) fn next_step(&mut self, sight: &Sight, now: Instant) -> Step {
        if self.committed != sight.committed {
            self.committed = sight.committed;
            self.stopgap = None;
        }
        let needed = sight.worst.map(Timings::for_round_trip);
        let works = matches!(sight.standing, Standing::Leading | Standing::Following);
        let calm = self.calm(sight, now);
        match needed {
            Some(needed) if !works && needed > self.wanted() => self.stopgap = Some(needed),
            _ if calm.is_some() => self.stopgap = None,
            _ => {}
        }
        let wanted = self.wanted();
        if wanted != sight.in_force && !self.must_wait(wanted, sight, now) {
            self.slowing_since = None;
            return Step::Take(wanted);
        }
        if sight.standing != Standing::Leading {
            return Step::Stay;
        }
        match (needed.filter(|needed| *needed > self.committed), calm) {
            (Some(slower), _) => Step::Propose(slower),
            (None, Some(faster)) if faster < self.committed => Step::Propose(faster),
            (None, _) => Step::Stay,
        }
    }

    fn wanted(&self) -> Timings {
        self.stopgap.map_or(self.committed, |stopgap| stopgap.max(self.committed))
    }

    /// The faster set that all paths have allowed for long enough, if there is one.
    ///
    /// With a quarter to spare: a path at the edge of its class would make the group change back
    /// and forth. A voter that does not answer holds everything as it is: it may return by the path
    /// that made the group slow.
    fn calm(&mut self, sight: &Sight, now: Instant) -> Option<Timings> {
        let allowed =
            sight.worst.filter(|_| sight.all_known).map(|worst| Timings::for_round_trip(worst * 5 / 4));
        let faster = allowed.filter(|allowed| *allowed < self.wanted());
        if faster.is_none() {
            self.calm_since = None;
            return None;
        }
        let since = *self.calm_since.get_or_insert(now);
        faster.filter(|_| now.saturating_duration_since(since) >= CALM_FOR)
    }

    /// A leader lets the others slow down first, for as long as it takes them to hear of it.
    fn must_wait(&mut self, wanted: Timings, sight: &Sight, now: Instant) -> bool {
        if sight.standing != Standing::Leading || wanted < sight.in_force {
            self.slowing_since = None;
            return false;
        }
        let since = *self.slowing_since.get_or_insert(now);
        now.saturating_duration_since(since) < sight.in_force.election_max * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_proposes_a_slower_set_at_once() {
        let mut pace = Paced::new(0);
        assert_eq!(pace.sees(Standing::Leading, 50), Step::Stay);
        assert_eq!(pace.sees(Standing::Leading, 51), Step::Propose(set(100)));
        assert_eq!(pace.sees(Standing::Following, 51), Step::Stay, "followers leave it to the leader");
    }

    #[test]
    fn a_leader_proposes_a_faster_set_only_after_a_calm_minute() {
        let mut pace = Paced::new(200);
        assert_eq!(pace.sees(Standing::Leading, 70), Step::Stay);
        pace.pass(59);
        assert_eq!(pace.sees(Standing::Leading, 170), Step::Stay, "not calm after all");
        pace.pass(1);
        assert_eq!(pace.sees(Standing::Leading, 70), Step::Stay);
        pace.pass(60);
        assert_eq!(pace.sees(Standing::Leading, 70), Step::Propose(set(100)));
    }

    #[test]
    fn a_path_at_the_edge_of_its_class_changes_nothing() {
        let mut pace = Paced::new(100);
        for _ in 0..10 {
            assert_eq!(pace.sees(Standing::Leading, 49), Step::Stay);
            pace.pass(60);
        }
    }

    #[test]
    fn a_voter_that_does_not_answer_holds_the_slow_set() {
        let mut pace = Paced::new(200);
        pace.all_known = false;
        assert_eq!(pace.sees(Standing::Leading, 1), Step::Stay);
        pace.pass(600);
        assert_eq!(pace.sees(Standing::Leading, 1), Step::Stay);
    }

    #[test]
    fn an_applied_set_is_taken_by_followers_at_once_and_by_a_leader_last_if_it_is_slower() {
        let mut follower = Paced::new(0);
        follower.committed = set(200);
        assert_eq!(follower.sees(Standing::Following, 150), Step::Take(set(200)));

        let mut leader = Paced::new(0);
        leader.committed = set(200);
        assert_eq!(leader.sees(Standing::Leading, 150), Step::Stay);
        leader.pass(1);
        assert_eq!(leader.sees(Standing::Leading, 150), Step::Stay);
        leader.pass(1);
        assert_eq!(leader.sees(Standing::Leading, 150), Step::Take(set(200)));

        let mut unproved = Paced::new(0);
        unproved.committed = set(200);
        assert_eq!(unproved.sees(Standing::LeadingAlone, 150), Step::Take(set(200)), "nobody follows it");

        let mut faster = Paced::new(200);
        faster.committed = set(0);
        assert_eq!(faster.sees(Standing::Leading, 1), Step::Take(set(0)));
    }

    #[test]
    fn where_no_leader_proves_itself_a_slower_set_is_taken_without_the_log_until_the_log_has_one() {
        for standing in [Standing::LeadingAlone, Standing::Leaderless] {
            let mut pace = Paced::new(0);
            assert_eq!(pace.sees(standing, 40), Step::Stay);
            assert_eq!(pace.sees(standing, 150), Step::Take(set(200)));
            pace.in_force = set(200);
            assert_eq!(pace.sees(standing, 150), Step::Stay);
            assert_eq!(pace.sees(Standing::Leading, 150), Step::Propose(set(200)));
            pace.committed = set(100); // somebody measured less
            assert_eq!(pace.sees(Standing::Following, 90), Step::Take(set(100)));
        }
    }

    #[test]
    fn a_stopgap_that_the_log_never_needed_ends_after_a_calm_minute() {
        let mut pace = Paced::new(0);
        assert_eq!(pace.sees(Standing::Leaderless, 150), Step::Take(set(200)));
        pace.in_force = set(200);
        assert_eq!(pace.sees(Standing::Following, 1), Step::Stay);
        pace.pass(60);
        assert_eq!(pace.sees(Standing::Following, 1), Step::Take(set(0)));
    }

    struct Paced {
        pace: Pace,
        in_force: Timings,
        committed: Timings,
        all_known: bool,
        now: Instant,
    }

    impl Paced {
        /// A group whose log holds the set for this round trip, and which runs with it.
        fn new(rtt_ms: u64) -> Self {
            let set = set(rtt_ms);
            Self { pace: Pace::new(set), in_force: set, committed: set, all_known: true, now: Instant::now() }
        }

        fn sees(&mut self, standing: Standing, worst_ms: u64) -> Step {
            let sight = Sight {
                in_force: self.in_force,
                committed: self.committed,
                standing,
                worst: Some(Duration::from_millis(worst_ms)),
                all_known: self.all_known,
            };
            self.pace.next_step(&sight, self.now)
        }

        fn pass(&mut self, seconds: u64) {
            self.now += Duration::from_secs(seconds);
        }
    }

    fn set(rtt_ms: u64) -> Timings {
        Timings::for_round_trip(Duration::from_millis(rtt_ms))
    }
}
