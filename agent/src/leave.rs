//! Decides when a process that was asked to end may go: make before break.
//!
//! ```text
//!              carries the tunnel         a successor is ordered      it has claimed
//!   asked to end ──► Asking ─────────────────► HandingOver ────────────► Draining ──► gone
//!        │              └ no successor, no answer ──┴ it never came ──┐     └ streams ended, or time is up
//!        └ carries nothing ───────────────────────────────────────────┴──► gone
//! ```
//!
//! Each wait has a bound. Without another candidate there is nothing to wait for: the streams end either way, and
//! whoever stops the only agent does not want to sit through a time-out.
//!
//! Absent on purpose: signals, sockets, the role's own rules.

use std::time::{Duration, Instant};

use crate::role::Role;

/// How long central has to answer. An older one does not know the question.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// How long the successor has to claim: an order takes a second, a stubborn leader five more.
const SUCCESSOR_LIMIT: Duration = Duration::from_secs(30);
/// Central ends a drain in its time; this much later it has forgotten.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);

/// One process on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leave {
    phase: Phase,
    drain_timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Asking {
        until: Instant,
    },
    HandingOver {
        until: Instant,
    },
    Draining {
        until: Instant,
    },
    /// Nothing holds it any more.
    Gone,
}

impl Leave {
    /// The process was asked to end while it had this role.
    pub fn begin(role: Role, hears_central: bool, drain_timeout: Duration, now: Instant) -> Self {
        let phase = match role {
            Role::Active { .. } if hears_central => Phase::Asking { until: now + ANSWER_LIMIT },
            Role::Draining { .. } => Phase::Draining { until: now + drain_timeout + DRAIN_MARGIN },
            Role::Active { .. } | Role::Unseated | Role::Standby | Role::Claiming => Phase::Gone,
        };
        Self { phase, drain_timeout }
    }

    /// Central said whether somebody was ordered to take over.
    pub fn handle_relief(&mut self, somebody: bool, now: Instant) {
        self.phase = match (self.phase, somebody) {
            (Phase::Asking { .. }, true) => Phase::HandingOver { until: now + SUCCESSOR_LIMIT },
            // Also while it drains: its successor has claimed, and was lost before it had a tunnel.
            (_, false) => Phase::Gone,
            (phase @ (Phase::HandingOver { .. } | Phase::Draining { .. } | Phase::Gone), true) => phase,
        };
    }

    /// The role, as often as it is looked at.
    pub fn handle_role(&mut self, role: Role, now: Instant) {
        self.phase = match (self.phase, role) {
            (Phase::Asking { .. } | Phase::HandingOver { .. }, Role::Draining { .. }) => {
                Phase::Draining { until: now + self.drain_timeout + DRAIN_MARGIN }
            }
            (_, Role::Unseated | Role::Standby | Role::Claiming) => Phase::Gone,
            (phase, Role::Active { .. } | Role::Draining { .. }) => phase,
        };
    }

    /// May the process go now?
    pub fn may_go(&self, now: Instant) -> bool {
        self.poll_timeout().is_none_or(|until| until <= now)
    }

    /// When to ask again at the latest; `None` once it may go.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Asking { until } | Phase::HandingOver { until } | Phase::Draining { until } => Some(until),
            Phase::Gone => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::Epoch;

    use super::*;

    #[test]
    fn an_active_goes_once_its_successor_has_claimed_and_its_streams_have_ended() {
        let now = Instant::now();
        let mut leave = begin(ACTIVE, now);
        leave.handle_relief(true, now);
        leave.handle_role(ACTIVE, now);
        assert!(!leave.may_go(now));
        leave.handle_role(DRAINING, now);
        assert!(!leave.may_go(now + DRAIN));
        leave.handle_role(Role::Standby, now);
        assert!(leave.may_go(now));
    }

    #[test]
    fn every_wait_has_an_end() {
        let now = Instant::now();
        let mut leave = begin(ACTIVE, now);
        assert!(!leave.may_go(now) && leave.may_go(now + ANSWER_LIMIT), "central does not answer");
        leave.handle_relief(true, now);
        assert!(!leave.may_go(now + ANSWER_LIMIT) && leave.may_go(now + SUCCESSOR_LIMIT), "nobody claims");
        leave.handle_role(DRAINING, now);
        let end = now + DRAIN + DRAIN_MARGIN;
        assert!(!leave.may_go(now + DRAIN) && leave.may_go(end), "a stream does not end");
    }

    #[test]
    fn without_a_successor_an_active_goes_at_once() {
        let now = Instant::now();
        let mut leave = begin(ACTIVE, now);
        leave.handle_relief(false, now);
        assert!(leave.may_go(now));
        let mut leave = begin(ACTIVE, now);
        leave.handle_relief(true, now);
        leave.handle_relief(false, now); // the successor was lost before it could
        assert!(leave.may_go(now));
        assert!(Leave::begin(ACTIVE, false, DRAIN, now).may_go(now), "central is not there to be asked");
    }

    #[test]
    fn whoever_carries_nothing_goes_at_once_and_whoever_drains_finishes_first() {
        let now = Instant::now();
        for role in [Role::Unseated, Role::Standby, Role::Claiming] {
            assert!(begin(role, now).may_go(now), "{role:?}");
        }
        let mut leave = begin(DRAINING, now);
        leave.handle_relief(true, now);
        assert!(!leave.may_go(now));
        leave.handle_relief(false, now);
        assert!(leave.may_go(now), "its successor never came");
    }

    const DRAIN: Duration = Duration::from_secs(300);
    const EPOCH: Epoch = Epoch { group: 1, claim: 5 };
    const ACTIVE: Role = Role::Active { epoch: EPOCH };
    const DRAINING: Role = Role::Draining { epoch: EPOCH };

    fn begin(role: Role, now: Instant) -> Leave {
        Leave::begin(role, true, DRAIN, now)
    }
}
