//! Puts a failover together from what the keeper sees, in order. Owns no clock and no store.

use std::time::Duration;

use proto::{Epoch, Name};
use time::OffsetDateTime;

use super::{ATTEMPTS_MAX, AlertMoment, Attempt, AttemptOutcome, Failover, MOMENTS_MAX, Moment};

/// The incident under way, or the last one.
#[derive(Debug)]
pub struct Chronicle {
    newest: Option<Failover>,
    /// It has to be written.
    dirty: bool,
    /// One that was ended by the beginning of the next, and has to be written, too.
    before: Option<Failover>,
    connect_timeout: Duration,
}

impl Chronicle {
    /// Continues behind the newest that was written.
    pub fn new(newest: Option<Failover>, connect_timeout: Duration) -> Self {
        Self { newest, dirty: false, before: None, connect_timeout }
    }

    /// The number of the one under way, or of the last one.
    pub fn id(&self) -> Option<u64> {
        self.newest.as_ref().map(|newest| newest.id)
    }

    /// A tunnel was lost, or is ordered to move.
    pub fn began(&mut self, from: Option<Name>, reason: &str, planned: bool, now: OffsetDateTime) {
        if let Some(open) = self.open() {
            // A loss in the middle of one is the same one, and so is an order; but a move that was planned is
            // not any more once its tunnel is lost.
            if open.planned && !planned {
                open.planned = false;
                open.reason = reason.to_owned();
                self.dirty = true;
            }
            return;
        }
        let id = self.newest.as_ref().map_or(1, |newest| newest.id + 1);
        if self.dirty {
            self.before = self.newest.take();
        }
        self.newest = Some(Failover {
            id,
            started_at: now,
            ended_at: None,
            planned,
            from,
            to: None,
            reason: reason.to_owned(),
            gap_ms: None,
            epoch: None,
            streams_cut: 0,
            attempts: Vec::new(),
            alerts: Vec::new(),
            timeline: Vec::new(),
        });
        self.dirty = true;
    }

    /// This candidate is waited for now, or nobody.
    pub fn waits_for(&mut self, candidate: Option<&Name>, now: OffsetDateTime) {
        let limit_ms = ms(self.connect_timeout);
        let Some(open) = self.open() else { return };
        let under_way = open.attempts.last_mut().filter(|last| last.outcome == AttemptOutcome::UnderWay);
        if under_way.as_ref().map(|last| &last.candidate) == candidate {
            return;
        }
        if let Some(last) = under_way {
            last.finish(AttemptOutcome::Overtaken, now);
        }
        if let Some(candidate) = candidate.filter(|_| open.attempts.len() < ATTEMPTS_MAX) {
            open.attempts.push(Attempt {
                candidate: candidate.clone(),
                began_at: now,
                ms: None,
                limit_ms,
                outcome: AttemptOutcome::UnderWay,
            });
        }
        self.dirty = true;
    }

    /// This candidate was given up.
    pub fn gave_up(&mut self, candidate: &Name, outcome: AttemptOutcome, now: OffsetDateTime) {
        let Some(open) = self.open() else { return };
        let under_way =
            |one: &&mut Attempt| one.candidate == *candidate && one.outcome == AttemptOutcome::UnderWay;
        if let Some(attempt) = open.attempts.iter_mut().rev().find(under_way) {
            attempt.finish(outcome, now);
            self.dirty = true;
        }
    }

    /// Streams were reset because their active is gone.
    pub fn cut(&mut self, streams: usize) {
        // Also those of a session that expires after another one has taken over.
        if let Some(newest) = self.newest.as_mut().filter(|_| streams > 0) {
            newest.streams_cut = newest.streams_cut.saturating_add(streams as u64);
            self.dirty = true;
        }
    }

    /// An alert was decided.
    pub fn alerted(&mut self, kind: &str, now: OffsetDateTime) {
        if let Some(newest) = &mut self.newest {
            newest.alerts.push(AlertMoment { kind: kind.to_owned(), at: now });
            newest.alerts.truncate(MOMENTS_MAX);
            self.dirty = true;
        }
    }

    /// Something happened.
    pub fn happened(&mut self, code: &str, text: &str, now: OffsetDateTime) {
        if let Some(open) = self.open()
            && open.timeline.len() < MOMENTS_MAX
        {
            open.timeline.push(Moment { at: now, code: code.to_owned(), text: text.to_owned() });
            self.dirty = true;
        }
    }

    /// A tunnel carries.
    pub fn ended(&mut self, to: &Name, gap_ms: u64, epoch: Epoch, now: OffsetDateTime) {
        let limit_ms = ms(self.connect_timeout);
        let Some(open) = self.open() else { return };
        match open.attempts.last_mut().filter(|last| last.outcome == AttemptOutcome::UnderWay) {
            Some(last) if last.candidate == *to => last.finish(AttemptOutcome::TookOver, now),
            last => {
                // Whoever came first took over, though another one was waited for.
                if let Some(last) = last {
                    last.finish(AttemptOutcome::Overtaken, now);
                }
                if open.attempts.len() < ATTEMPTS_MAX {
                    let began_at = open.started_at;
                    let mut attempt = Attempt {
                        candidate: to.clone(),
                        began_at,
                        ms: None,
                        limit_ms,
                        outcome: AttemptOutcome::UnderWay,
                    };
                    attempt.finish(AttemptOutcome::TookOver, now);
                    open.attempts.push(attempt);
                }
            }
        }
        open.to = Some(to.clone());
        open.gap_ms = Some(gap_ms);
        open.epoch = Some(epoch.to_string());
        open.ended_at = Some(now);
        self.dirty = true;
    }

    /// It came to nothing: the active stays, or the group is gone.
    pub fn given_up(&mut self, now: OffsetDateTime) {
        if let Some(open) = self.open() {
            open.ended_at = Some(now);
            self.dirty = true;
        }
    }

    /// What has to be written since the last call.
    pub fn changed(&mut self) -> Vec<Failover> {
        let newest = std::mem::take(&mut self.dirty).then(|| self.newest.clone()).flatten();
        self.before.take().into_iter().chain(newest).collect()
    }

    /// It could not be written: it has to be again.
    pub fn not_written(&mut self) {
        self.dirty = true;
    }

    fn open(&mut self) -> Option<&mut Failover> {
        self.newest.as_mut().filter(|newest| newest.ended_at.is_none())
    }
}

impl Attempt {
    fn finish(&mut self, outcome: AttemptOutcome, now: OffsetDateTime) {
        self.outcome = outcome;
        self.ms = Some(u64::try_from((now - self.began_at).whole_milliseconds()).unwrap_or_default());
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUR_MINUTES: Duration = Duration::from_secs(240);
    const EPOCH: Epoch = Epoch { group: 2, claim: 17 };

    #[test]
    fn a_loss_is_told_from_its_beginning_to_its_end() {
        let mut chronicle = Chronicle::new(None, FOUR_MINUTES);
        chronicle.began(Some(name("a")), "the tunnel of a was lost", false, at(0));
        chronicle.waits_for(Some(&name("a")), at(0));
        chronicle.happened("tunnel_lost", "the tunnel of a was lost", at(0));
        chronicle.gave_up(&name("a"), AttemptOutcome::NotConnected, at(100));
        chronicle.waits_for(Some(&name("b")), at(100));
        chronicle.cut(3);
        chronicle.ended(&name("b"), 412, EPOCH, at(412));
        chronicle.alerted("failover", at(413));

        let [told] = &chronicle.changed()[..] else { panic!("one was told") };
        assert_eq!((told.gap_ms, told.streams_cut, told.epoch.as_deref()), (Some(412), 3, Some("2.17")));
        let attempts: Vec<_> =
            told.attempts.iter().map(|one| (one.candidate.as_str(), one.ms, one.outcome)).collect();
        assert_eq!(
            attempts,
            [("a", Some(100), AttemptOutcome::NotConnected), ("b", Some(312), AttemptOutcome::TookOver)]
        );
        assert_eq!((told.timeline.len(), told.alerts.len(), told.attempts[1].limit_ms), (1, 1, 240_000));
        assert!(chronicle.changed().is_empty());
    }

    #[test]
    fn whoever_comes_first_took_over_whoever_was_waited_for() {
        let mut chronicle = Chronicle::new(None, FOUR_MINUTES);
        chronicle.began(Some(name("a")), "lost", false, at(0));
        chronicle.waits_for(Some(&name("a")), at(0));
        chronicle.ended(&name("b"), 500, EPOCH, at(500));
        let told = chronicle.changed().remove(0);
        let outcomes: Vec<_> = told.attempts.iter().map(|one| one.outcome).collect();
        assert_eq!(outcomes, [AttemptOutcome::Overtaken, AttemptOutcome::TookOver]);
    }

    #[test]
    fn a_planned_move_during_which_the_tunnel_is_lost_was_not_planned() {
        let mut chronicle = Chronicle::new(None, FOUR_MINUTES);
        chronicle.began(Some(name("a")), "ordered", true, at(0));
        chronicle.began(Some(name("a")), "lost", false, at(5));
        chronicle.began(Some(name("a")), "ordered", true, at(6));
        let all = chronicle.changed();
        assert_eq!((all.len(), all[0].planned, all[0].reason.as_str()), (1, false, "lost"));
    }

    #[test]
    fn the_next_one_has_the_next_number_also_after_a_restart() {
        let mut chronicle = Chronicle::new(None, FOUR_MINUTES);
        chronicle.began(None, "lost", false, at(0));
        chronicle.ended(&name("a"), 1, EPOCH, at(1));
        let written = chronicle.changed().remove(0);
        let mut chronicle = Chronicle::new(Some(written), FOUR_MINUTES);
        chronicle.began(None, "lost", false, at(9));
        assert_eq!(chronicle.changed()[0].id, 2);
    }

    #[test]
    fn one_that_was_not_written_yet_is_written_with_the_next() {
        let mut chronicle = Chronicle::new(None, FOUR_MINUTES);
        chronicle.began(None, "lost", false, at(0));
        chronicle.ended(&name("a"), 1, EPOCH, at(1));
        chronicle.began(None, "lost", false, at(2));
        assert_eq!(chronicle.changed().iter().map(|one| one.id).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn what_is_told_of_one_is_bounded() {
        let mut chronicle = Chronicle::new(None, FOUR_MINUTES);
        chronicle.began(None, "lost", false, at(0));
        for n in 0..1000 {
            chronicle.happened("x", "y", at(n));
            chronicle.waits_for(Some(&name(if n % 2 == 0 { "a" } else { "b" })), at(n));
            chronicle.alerted("down", at(n));
        }
        let told = chronicle.changed().remove(0);
        assert_eq!(
            (told.timeline.len(), told.attempts.len(), told.alerts.len()),
            (MOMENTS_MAX, ATTEMPTS_MAX, MOMENTS_MAX)
        );
    }

    fn at(ms: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + time::Duration::milliseconds(ms)
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }
}
