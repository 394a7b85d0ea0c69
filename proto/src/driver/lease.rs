//! How long this end may trust that central still counts on it.

use std::collections::VecDeque;
use std::time::Duration;

/// Questions remembered; answers to newer ones settle the older.
const QUESTIONS_MAX: usize = 16;

/// Proof of life, dated by the moment the question was asked, on a clock that counts sleep.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lease {
    asked: VecDeque<(u64, Duration)>,
    proved_at: Option<Duration>,
    /// Somebody found it stale and waits.
    missed: bool,
}

impl Lease {
    /// A question with this number went out.
    pub fn asked(&mut self, nonce: u64, boot_now: Duration) {
        if self.asked.back().is_some_and(|(last, _)| *last >= nonce) {
            return; // the same ping serves again; the first moment counts
        }
        if self.asked.len() >= QUESTIONS_MAX {
            self.asked.pop_front();
        }
        self.asked.push_back((nonce, boot_now));
    }

    /// Takes an answer; true if somebody waited for it.
    pub fn answered(&mut self, nonce: u64) -> bool {
        while let Some((_, at)) = self.asked.front().copied().filter(|(asked, _)| *asked <= nonce) {
            self.asked.pop_front();
            self.proved_at = self.proved_at.max(Some(at));
        }
        std::mem::take(&mut self.missed)
    }

    /// Whether central answered a question that is at most `dead_after` old.
    pub fn is_fresh(&self, boot_now: Duration, dead_after: Duration) -> bool {
        self.proved_at.is_some_and(|at| boot_now.saturating_sub(at) <= dead_after)
    }

    /// Somebody waits until it is fresh again.
    pub fn miss(&mut self) {
        self.missed = true;
    }

    /// The websocket the questions went out on is gone.
    pub fn forget_questions(&mut self) {
        self.asked.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD_AFTER: Duration = Duration::from_secs(15);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_answer_that_waited_through_a_pause_proves_only_when_it_was_asked() {
        let mut lease = Lease::default();
        lease.asked(1, at(100));
        // …the process is stopped for 14 s with the answer in its socket…
        lease.answered(1);
        assert!(lease.is_fresh(at(114), DEAD_AFTER));
        assert!(!lease.is_fresh(at(116), DEAD_AFTER));
    }

    #[test]
    fn nothing_is_fresh_before_the_first_answer() {
        let mut lease = Lease::default();
        lease.asked(1, at(1));
        assert!(!lease.is_fresh(at(1), DEAD_AFTER));
    }

    #[test]
    fn a_newer_answer_settles_older_questions() {
        let mut lease = Lease::default();
        lease.asked(1, at(1));
        lease.asked(2, at(6));
        lease.answered(2);
        assert!(lease.is_fresh(at(20), DEAD_AFTER));
        lease.answered(1);
        assert!(lease.is_fresh(at(20), DEAD_AFTER), "a late answer takes nothing away");
    }
}
