//! How long the paths to the other members take, from small calls that nothing else depends on.
//!
//! Raft's own calls are no measure: they end with the heartbeat, so on a path slower than that
//! they would tell nothing at all, just when it matters.
//!
//! A path's figure is the eighth largest of its last 80 probes, one each half second: about the
//! 90th percentile of 40 s. A path that becomes slow shows after 4 s, one that is slow for a moment
//! never does, and one that becomes fast again is believed after most of a minute.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use proto::NodeId;
use tokio::time::Instant;

/// Pause between two probes of one path.
pub(crate) const PROBE_EVERY: Duration = Duration::from_millis(500);

/// How long a probe may take. Slower paths than this bear no group; they count as broken.
pub(crate) const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// Round trips kept of a path.
const KEPT: usize = 80;

/// So many of them must be at least as long as the path's figure.
const AGREEING: usize = 8;

/// After this long without an answer the path is broken, and its figures are of another one.
const BROKEN_AFTER: Duration = Duration::from_secs(10);

/// The paths of one node, and what the others say of theirs.
#[derive(Debug, Default)]
pub(crate) struct Paths {
    to: BTreeMap<NodeId, Path>,
}

#[derive(Debug)]
struct Path {
    round_trips: VecDeque<Duration>,
    answered_at: Instant,
    /// The worst path of that node's own.
    reported: Option<Duration>,
}

impl Paths {
    /// A probe was answered. What the other end reports is bounded: it measures with our limit too.
    pub(crate) fn handle_answer(
        &mut self,
        from: NodeId,
        round_trip: Duration,
        reported: Option<Duration>,
        now: Instant,
    ) {
        let path = self.to.entry(from).or_insert_with(|| Path {
            round_trips: VecDeque::with_capacity(KEPT),
            answered_at: now,
            reported: None,
        });
        if now.saturating_duration_since(path.answered_at) > BROKEN_AFTER {
            path.round_trips.clear();
        }
        if path.round_trips.len() == KEPT {
            path.round_trips.pop_front();
        }
        path.round_trips.push_back(round_trip);
        path.answered_at = now;
        path.reported = reported.map(|worst| worst.min(PROBE_LIMIT));
    }

    /// Forgets who is no member any more.
    pub(crate) fn keep(&mut self, members: &BTreeSet<NodeId>) {
        self.to.retain(|node, _| members.contains(node));
    }

    /// The slowest of this node's own paths. None while none is known well enough.
    pub(crate) fn worst_own(&self, now: Instant) -> Option<Duration> {
        self.to.values().filter_map(|path| path.figure(now)).max()
    }

    /// The slowest path of any member, as far as they answer.
    pub(crate) fn worst(&self, now: Instant) -> Option<Duration> {
        let reported = self.to.values().filter(|path| path.stands(now)).filter_map(|path| path.reported);
        reported.chain(self.worst_own(now)).max()
    }

    /// Whether the paths to all of these are known.
    pub(crate) fn knows<'a>(&self, mut nodes: impl Iterator<Item = &'a NodeId>, now: Instant) -> bool {
        nodes.all(|node| self.to.get(node).is_some_and(|path| path.figure(now).is_some()))
    }
}

impl Path {
    fn stands(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.answered_at) <= BROKEN_AFTER
    }

    fn figure(&self, now: Instant) -> Option<Duration> {
        if !self.stands(now) {
            return None;
        }
        let mut sorted: Vec<Duration> = self.round_trips.iter().copied().collect();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        sorted.get(AGREEING - 1).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: NodeId = NodeId(2);
    const W: NodeId = NodeId(100);

    #[test]
    fn a_path_is_as_slow_as_its_slow_probes_once_there_are_enough_of_them() {
        let mut paths = Probed::new();
        paths.answers(B, 70, 1);
        assert_eq!(paths.worst(), Some(1));
        paths.answers(B, 7, 150);
        assert_eq!(paths.worst(), Some(1), "for 3.5 s it may be a moment's trouble");
        paths.answers(B, 1, 150);
        assert_eq!(paths.worst(), Some(150));
    }

    #[test]
    fn a_path_that_is_fast_again_is_believed_only_when_its_slow_probes_are_old() {
        let mut paths = Probed::new();
        paths.answers(B, 80, 150);
        paths.answers(B, 72, 1);
        assert_eq!(paths.worst(), Some(150));
        paths.answers(B, 1, 1);
        assert_eq!(paths.worst(), Some(1));
    }

    #[test]
    fn a_path_hardly_probed_says_nothing() {
        let mut paths = Probed::new();
        paths.answers(B, 7, 900);
        assert_eq!(paths.worst(), None);
        assert!(!paths.paths.knows([B].iter(), paths.now));
    }

    #[test]
    fn a_broken_path_says_nothing_and_begins_anew() {
        let mut paths = Probed::new();
        paths.answers(B, 80, 150);
        paths.pass(Duration::from_secs(11));
        assert_eq!(paths.worst(), None);
        paths.answers(B, 8, 1);
        assert_eq!(paths.worst(), Some(1));
    }

    #[test]
    fn the_worst_path_may_be_one_that_only_others_have() {
        let mut paths = Probed::new();
        paths.answers(B, 8, 1);
        paths.answers(W, 8, 30);
        paths.reports(B, 170);
        assert_eq!(paths.worst(), Some(170));
        assert_eq!(paths.paths.worst_own(paths.now), Some(ms(30)));
        paths.reports(B, u64::MAX);
        assert_eq!(paths.paths.worst(paths.now), Some(PROBE_LIMIT));
        paths.paths.keep(&[W].into());
        assert_eq!(paths.worst(), Some(30));
    }

    struct Probed {
        paths: Paths,
        now: Instant,
    }

    impl Probed {
        fn new() -> Self {
            Self { paths: Paths::default(), now: Instant::now() }
        }

        fn answers(&mut self, node: NodeId, times: usize, took_ms: u64) {
            for _ in 0..times {
                self.paths.handle_answer(node, ms(took_ms), None, self.now);
                self.pass(PROBE_EVERY / 2);
            }
        }

        fn reports(&mut self, node: NodeId, worst_ms: u64) {
            self.paths.handle_answer(node, ms(1), Some(ms(worst_ms)), self.now);
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
        }

        fn worst(&self) -> Option<u64> {
            self.paths.worst(self.now).map(|worst| worst.as_millis() as u64)
        }
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }
}
