//! What is to be told and the disk has not taken yet, in order.

use std::collections::VecDeque;

use alerting::Tried;

use super::outage::Step;

/// At most an up and the down after it: a down that nobody was told of ends with its up.
#[derive(Debug, Default)]
pub(super) struct Undone(VecDeque<(Step, Vec<Tried>)>);

impl Undone {
    pub(super) fn push(&mut self, step: Step, tried: Vec<Tried>) {
        match (self.0.back(), step) {
            (Some((Step::Down { .. }, _)), Step::Up) => drop(self.0.pop_back()),
            _ => self.0.push_back((step, tried)),
        }
    }

    /// The next one; it stays until it is [`done`](Self::done).
    pub(super) fn next(&self) -> Option<(Step, Vec<Tried>)> {
        self.0.front().cloned()
    }

    pub(super) fn done(&mut self) {
        self.0.pop_front();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn an_outage_that_ends_before_it_could_be_written_down_is_told_to_nobody() {
        let mut undone = Undone::default();
        undone.push(down(), Vec::new());
        undone.push(Step::Up, Vec::new());
        assert!(undone.is_empty());
    }

    #[test]
    fn the_end_of_one_that_was_told_goes_before_the_next_and_outlasts_it() {
        let mut undone = Undone::default();
        undone.push(Step::Up, Vec::new());
        undone.push(down(), Vec::new());
        undone.push(Step::Up, Vec::new());
        assert_eq!(undone.next().map(|(step, _)| step), Some(Step::Up));
        undone.done();
        assert!(undone.is_empty());
    }

    fn down() -> Step {
        Step::Down { since: Instant::now() }
    }
}
