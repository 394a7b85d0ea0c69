//! Silence: until when an agent that central no longer reaches may write to a destination.
//!
//! ```text
//!   ask ──► central answers ──► the answer waits in a socket, as long as it likes ──► read
//!                                      write, if the lease is fresh
//! ```
//!
//! The lease is the product's own ([`proto::driver::Lease`]); time goes in steps of a third of
//! `tunnel.dead_after`, so that every order of steps and events is met.

use std::{collections::VecDeque, time::Duration};

use proto::driver::Lease;
use stateright::{Model, Property};

use crate::mutant::Mutant;

const STEP: Duration = Duration::from_secs(5);
const DEAD_AFTER: Duration = Duration::from_secs(15);

/// The model and its bounds.
#[derive(Debug, Clone)]
pub struct Silence {
    pub mutant: Option<Mutant>,
    pub steps: u32,
    pub questions: u64,
    pub cuts: u8,
    pub pauses: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// Steps since the beginning, those asleep included.
    now: u32,
    asleep: Option<Sleep>,
    slept: u32,
    lease: Lease,
    asked: u64,
    cuts: u8,
    pauses: u8,
    /// Questions on their way to central.
    questions: VecDeque<u64>,
    /// Answers on their way back, with the moment central gave them.
    answers: VecDeque<(u64, u32)>,
    /// When central gave the newest answer that was read.
    heard: Option<u32>,
    /// The longest silence in which something was written, in steps.
    wrote_after: Option<u32>,
}

/// A process that is stopped, or a machine that sleeps: the clock that counts sleep goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Sleep;

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Step,
    Ask,
    Answer,
    Read,
    Write,
    Cut,
    Pause,
    Wake,
}

impl Silence {
    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// The agent's clock.
    fn clock(&self, state: &State) -> Duration {
        let slept = if self.is(Mutant::ClockStopsWhilePaused) { state.slept } else { 0 };
        STEP * (state.now - slept)
    }

    fn may_write(&self, state: &State) -> bool {
        state.lease.is_fresh(self.clock(state), DEAD_AFTER)
            || (self.is(Mutant::NoSelfFence) && state.heard.is_some())
    }

    fn read(&self, state: &mut State) -> Option<()> {
        let (nonce, given) = state.answers.pop_front()?;
        if self.is(Mutant::AnswerDatedByArrival) {
            state.lease.forget_questions();
            state.lease.asked(nonce, self.clock(state));
        }
        state.lease.answered(nonce);
        state.heard = state.heard.max(Some(given));
        Some(())
    }
}

impl Model for Silence {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            now: 0,
            asleep: None,
            slept: 0,
            lease: Lease::default(),
            asked: 0,
            cuts: 0,
            pauses: 0,
            questions: VecDeque::new(),
            answers: VecDeque::new(),
            heard: None,
            wrote_after: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.now < self.steps {
            actions.push(Action::Step);
        }
        actions.push(Action::Answer);
        if state.asleep.is_some() {
            return actions.push(Action::Wake);
        }
        actions.extend([Action::Read, Action::Write]);
        if state.asked < self.questions {
            actions.push(Action::Ask);
        }
        if state.cuts < self.cuts {
            actions.push(Action::Cut);
        }
        if state.pauses < self.pauses {
            actions.push(Action::Pause);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Step => {
                state.now += 1;
                state.slept += u32::from(state.asleep.is_some());
            }
            Action::Ask => {
                state.asked += 1;
                state.lease.asked(state.asked, self.clock(&state));
                state.questions.push_back(state.asked);
            }
            Action::Answer => {
                let nonce = state.questions.pop_front()?;
                state.answers.push_back((nonce, state.now));
            }
            Action::Read => self.read(&mut state)?,
            Action::Write => {
                if !self.may_write(&state) {
                    return None;
                }
                let silence = state.now - state.heard?;
                state.wrote_after = state.wrote_after.max(Some(silence));
            }
            Action::Cut => {
                state.cuts += 1;
                state.questions.clear();
                state.answers.clear();
                state.lease.forget_questions();
            }
            Action::Pause => {
                state.pauses += 1;
                state.asleep = Some(Sleep);
            }
            Action::Wake => state.asleep = None,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NOTHING_LATE, |_, state: &State| {
                state.wrote_after.is_none_or(|silence| STEP * silence <= DEAD_AFTER)
            }),
            Property::always(WRITES_AGAIN, |model: &Silence, state: &State| {
                let mut state = state.clone();
                state.asked += 1;
                state.lease.asked(state.asked, model.clock(&state));
                state.answers.push_back((state.asked, state.now));
                while model.read(&mut state).is_some() {}
                model.may_write(&state)
            }),
            Property::sometimes("something is written at the very end of the lease", |_, state: &State| {
                state.wrote_after.is_some_and(|silence| STEP * silence == DEAD_AFTER)
            }),
            Property::sometimes("an agent wakes and may not write", |model: &Silence, state: &State| {
                state.slept > 0 && state.asleep.is_none() && state.heard.is_some() && !model.may_write(state)
            }),
        ]
    }
}

pub const NOTHING_LATE: &str =
    "nothing is written to a destination later than tunnel.dead_after after central was heard";
pub const WRITES_AGAIN: &str = "one answered question, and an agent writes again";
