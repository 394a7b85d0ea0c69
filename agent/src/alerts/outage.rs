//! Decides when this agent tells people that central is out of reach, and when that is over.
//!
//! ```text
//!              silent for `after`          nobody hears central, and it is ours to tell: Down
//!   Reached ───────────────────► Waiting ─────────────────────────────────────────────────► Told
//!      ▲ ▲                        │  ▲ │ somebody hears it, or tells: ask again                │
//!      │ └────── central heard ───┘  └─┘                                                      │
//!      └──────────────────────────── central heard, here or next door: Up ────────────────────┘
//! ```
//!
//! One agent that loses its way while another carries the traffic is central's to tell. So neighbours are asked
//! first, and of several that could tell one does: whoever has told already, else the smallest node.
//! Absent on purpose: sockets, files, clocks (time arrives as `now`), and what an alert looks like.

use std::time::{Duration, Instant};

/// How soon the neighbours are asked again.
const ASK_AGAIN: Duration = Duration::from_secs(15);

/// Whether an agent would tell of an outage, as its neighbours hear it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stance {
    /// It has no one to tell, or nothing to tell.
    Silent,
    /// It has waited long enough itself.
    Ready,
    /// It has told, and it is not over.
    Told,
}

/// What the neighbours say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Neighbours {
    /// At least one hears central.
    pub(super) hear_central: bool,
    /// Another one tells, or will.
    pub(super) tell: bool,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask the neighbours and hand in their answer.
    Ask,
    /// Tell that central has been out of reach since then.
    Down { since: Instant },
    /// Tell that it is back.
    Up,
}

/// One agent's view of central's absence.
#[derive(Debug)]
pub(super) struct Outage {
    after: Duration,
    state: State,
    step: Option<Step>,
}

#[derive(Debug)]
enum State {
    Reached,
    Waiting { since: Instant, ask: Ask },
    Told { ask: Ask },
}

#[derive(Debug, Clone, Copy)]
enum Ask {
    At(Instant),
    UnderWay,
}

impl Outage {
    /// Central has not been heard yet; `told` when an earlier run of this agent told of an outage that nobody saw end.
    pub(super) fn new(after: Duration, told: bool, now: Instant) -> Self {
        let state = if told {
            State::Told { ask: Ask::At(now + ASK_AGAIN) }
        } else {
            State::Waiting { since: now, ask: Ask::At(now + after) }
        };
        Self { after, state, step: None }
    }

    /// Whether central is heard, said at each change.
    pub(super) fn handle_heard(&mut self, heard: bool, now: Instant) {
        match (&self.state, heard) {
            (State::Reached, false) => {
                self.state = State::Waiting { since: now, ask: Ask::At(now + self.after) };
            }
            (State::Waiting { .. }, true) => self.state = State::Reached,
            (State::Told { .. }, true) => self.over(),
            (State::Reached, true) | (State::Waiting { .. } | State::Told { .. }, false) => {}
        }
    }

    /// The answer to [`Step::Ask`]. `None` when this agent has no seat: then the gateway is not its business.
    pub(super) fn handle_neighbours(&mut self, answer: Option<Neighbours>, now: Instant) {
        let again = Ask::At(now + ASK_AGAIN);
        match &mut self.state {
            State::Waiting { since, ask: ask @ Ask::UnderWay } => match answer {
                Some(Neighbours { hear_central: false, tell: false }) => {
                    self.step = Some(Step::Down { since: *since });
                    self.state = State::Told { ask: again };
                }
                Some(_) | None => *ask = again,
            },
            State::Told { ask: ask @ Ask::UnderWay } => match answer {
                Some(Neighbours { hear_central: true, .. }) => {
                    self.over();
                    // Here it is still silent, which may be an outage of its own later.
                    self.state = State::Waiting { since: now, ask: Ask::At(now + self.after) };
                }
                Some(_) | None => *ask = again,
            },
            // Central was heard while they were asked.
            State::Reached | State::Waiting { .. } | State::Told { .. } => {}
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|due| due <= now) {
            let (State::Waiting { ask, .. } | State::Told { ask }) = &mut self.state else { return };
            *ask = Ask::UnderWay;
            self.step = Some(Step::Ask);
        }
    }

    fn over(&mut self) {
        self.state = State::Reached;
        self.step = Some(Step::Up);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { ask: Ask::At(at), .. } | State::Told { ask: Ask::At(at) } => Some(at),
            State::Waiting { ask: Ask::UnderWay, .. }
            | State::Told { ask: Ask::UnderWay }
            | State::Reached => None,
        }
    }

    pub(super) fn poll_step(&mut self) -> Option<Step> {
        self.step.take()
    }

    /// What a neighbour is told that asks.
    pub(super) fn stance(&self, now: Instant) -> Stance {
        match self.state {
            State::Told { .. } => Stance::Told,
            State::Waiting { since, .. } if now.saturating_duration_since(since) >= self.after => {
                Stance::Ready
            }
            State::Waiting { .. } | State::Reached => Stance::Silent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(300);
    const NOBODY: Option<Neighbours> = Some(Neighbours { hear_central: false, tell: false });
    const HEARS: Option<Neighbours> = Some(Neighbours { hear_central: true, tell: false });
    const TELLS: Option<Neighbours> = Some(Neighbours { hear_central: false, tell: true });

    #[test]
    fn a_silence_is_told_once_after_its_time_and_its_end_once() {
        let (mut outage, start) = silent();
        assert_eq!(outage.poll_timeout(), Some(start + AFTER));
        assert_eq!(outage.stance(start), Stance::Silent);
        assert_eq!(answered(&mut outage, NOBODY, start + AFTER), Some(Step::Down { since: start }));
        assert_eq!(outage.stance(start + AFTER), Stance::Told);
        assert_eq!(answered(&mut outage, NOBODY, start + AFTER + ASK_AGAIN), None);
        outage.handle_heard(true, start + AFTER * 2);
        assert_eq!(outage.poll_step(), Some(Step::Up));
        outage.handle_heard(true, start + AFTER * 2);
        assert_eq!((outage.poll_step(), outage.poll_timeout()), (None, None));
    }

    #[test]
    fn a_silence_that_ends_in_time_is_told_to_nobody() {
        let (mut outage, start) = silent();
        outage.handle_heard(true, start + AFTER / 2);
        outage.handle_timeout(start + AFTER);
        assert_eq!(outage.poll_step(), None);
    }

    #[test]
    fn nothing_is_told_while_a_neighbour_hears_central_or_tells() {
        let (mut outage, start) = silent();
        let mut now = start + AFTER;
        for answer in [HEARS, TELLS, None] {
            assert_eq!(answered(&mut outage, answer, now), None);
            assert_eq!(outage.stance(now), Stance::Ready);
            now += ASK_AGAIN;
        }
        assert_eq!(answered(&mut outage, NOBODY, now), Some(Step::Down { since: start }));
    }

    #[test]
    fn it_is_over_when_a_neighbour_hears_central_again() {
        let (mut outage, start) = silent();
        answered(&mut outage, NOBODY, start + AFTER);
        let back = start + AFTER + ASK_AGAIN;
        assert_eq!(answered(&mut outage, HEARS, back), Some(Step::Up));
        assert_eq!(outage.poll_timeout(), Some(back + AFTER));
    }

    #[test]
    fn an_answer_that_comes_after_central_does_changes_nothing() {
        let (mut outage, start) = silent();
        outage.handle_timeout(start + AFTER);
        assert_eq!(outage.poll_step(), Some(Step::Ask));
        outage.handle_heard(true, start + AFTER);
        outage.handle_neighbours(NOBODY, start + AFTER);
        assert_eq!(outage.poll_step(), None);
    }

    #[test]
    fn a_restarted_agent_still_tells_the_end_of_what_it_told() {
        let start = Instant::now();
        let mut outage = Outage::new(AFTER, true, start);
        assert_eq!(outage.stance(start), Stance::Told);
        outage.handle_heard(true, start);
        assert_eq!(outage.poll_step(), Some(Step::Up));
    }

    fn silent() -> (Outage, Instant) {
        let start = Instant::now();
        let mut outage = Outage::new(AFTER, false, start);
        outage.handle_heard(true, start);
        outage.handle_heard(false, start);
        (outage, start)
    }

    /// Lets it ask at `now`, answers, and returns what follows.
    fn answered(outage: &mut Outage, answer: Option<Neighbours>, now: Instant) -> Option<Step> {
        outage.handle_timeout(now);
        assert_eq!(outage.poll_step(), Some(Step::Ask));
        outage.handle_neighbours(answer, now);
        outage.poll_step()
    }
}
