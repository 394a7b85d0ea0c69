//! Decides when an outage raises the internal event, and when people are told of it.
//!
//! ```text
//!         down, an endpoint is configured            hold_down is over, an endpoint is configured
//!   Up ─────────────────────────────────► Raised ─────────────────────────────► Told
//!   ▲ │                                    ▲  │ up: cleared                       │ up: cleared, alert Up
//!   │ └─► Unheard ── first endpoint ───────┘  │                                   │
//!   │ down   │ up                             │                                   │
//!   └────────┴────────────────────────────────┴───────────────────────────────────┘
//! ```
//!
//! Invariants: alerts alternate Down, Up, Down … and a pair has one incident; so do Raised and Cleared; Down is
//! told only while the event is raised.
//! Absent on purpose: sockets, stores, clocks (time arrives as `now`, and for a snapshot as `wall` beside it), and
//! who receives the alerts.

use std::{
    collections::VecDeque,
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::incident::{Incident, IncidentId, Transition};

#[cfg(test)]
mod tests;

/// The internal event's name, as users know it.
pub const EVENT_NAME: &str = "System_Secure_Gateway";

/// Whoever wants to hear of an outage only after a day does not want alerts; and it keeps the sums with time sound.
const HOLD_DOWN_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The policy of one gateway. After each verb that changes it, drain [`poll_event`](Self::poll_event) and
/// [`poll_transmit`](Self::poll_transmit): a verb adds two of each at most.
#[derive(Debug)]
pub struct Policy {
    /// How long an outage must last before anyone is told.
    hold_down: Duration,
    endpoints_configured: bool,
    state: State,
    events: VecDeque<Event>,
    alerts: VecDeque<Transition>,
}

/// What became of the internal event [`EVENT_NAME`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Raised(IncidentId),
    Cleared(IncidentId),
}

/// What survives a restart, so that the same outage is not told twice, and its end is not forgotten.
///
/// Store it in one transaction with the events and alerts drained before it was taken: then a crash loses or keeps
/// all of them together. Whether endpoints are configured is not in it; the caller says so again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Snapshot {
    Up,
    Unheard { incident: Incident, due: SystemTime },
    Raised { incident: Incident, due: SystemTime },
    Told { incident: Incident },
}

#[derive(Debug)]
enum State {
    Up,
    /// Down, and nobody has asked to be told since it began.
    Unheard {
        incident: Incident,
        due: Instant,
    },
    /// The event is raised; the alert waits until `due`, and for an endpoint.
    Raised {
        incident: Incident,
        due: Instant,
    },
    Told {
        incident: Incident,
    },
}

// What happened.
impl Policy {
    /// A policy that knows of no outage and no endpoint. A `hold_down` longer than a day counts as a day.
    pub fn new(hold_down: Duration) -> Self {
        Self {
            hold_down: hold_down.min(HOLD_DOWN_MAX),
            endpoints_configured: false,
            state: State::Up,
            events: VecDeque::new(),
            alerts: VecDeque::new(),
        }
    }

    /// From the next outage on. Longer than a day counts as a day.
    pub fn set_hold_down(&mut self, hold_down: Duration) {
        self.hold_down = hold_down.min(HOLD_DOWN_MAX);
    }

    /// Nothing is left to try. Said again during an outage, it belongs to that outage: of `latest` only the context
    /// is used, and replaces the earlier one unless that has been told already.
    pub fn handle_down(&mut self, now: Instant, latest: Incident) {
        match &mut self.state {
            State::Up => {
                let due = now + self.hold_down;
                self.state = State::Unheard { incident: latest, due };
                self.raise_if_heard();
            }
            State::Unheard { incident, .. } | State::Raised { incident, .. } => {
                incident.context = latest.context;
            }
            State::Told { .. } => {}
        }
        self.handle_timeout(now);
    }

    /// It works again.
    pub fn handle_up(&mut self, now: Instant) {
        // A timer that fires late must not turn an outage that was long enough into one nobody hears of.
        self.handle_timeout(now);
        match std::mem::replace(&mut self.state, State::Up) {
            State::Up | State::Unheard { .. } => {}
            State::Raised { incident, .. } => self.events.push_back(Event::Cleared(incident.id)),
            State::Told { incident } => {
                self.events.push_back(Event::Cleared(incident.id.clone()));
                self.alerts.push_back(Transition::Up(incident));
            }
        }
    }

    /// Whether anyone is to be told at all. The first endpoint raises the event of an outage that is under way;
    /// taking the last one away clears nothing, because nothing works again, and leaves an untold outage untold.
    pub fn set_endpoints_configured(&mut self, configured: bool) {
        self.endpoints_configured = configured;
        self.raise_if_heard();
    }

    /// Call it when [`poll_timeout`](Self::poll_timeout) is due; at any other time it does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|due| now < due) {
            return;
        }
        self.state = match std::mem::replace(&mut self.state, State::Up) {
            State::Raised { incident, .. } => {
                self.alerts.push_back(Transition::Down(incident.clone()));
                State::Told { incident }
            }
            other @ (State::Up | State::Unheard { .. } | State::Told { .. }) => other,
        };
    }

    fn raise_if_heard(&mut self) {
        if !self.endpoints_configured {
            return;
        }
        self.state = match std::mem::replace(&mut self.state, State::Up) {
            State::Unheard { incident, due } => {
                self.events.push_back(Event::Raised(incident.id.clone()));
                State::Raised { incident, due }
            }
            other @ (State::Up | State::Raised { .. } | State::Told { .. }) => other,
        };
    }
}

// What to do next.
impl Policy {
    /// When [`handle_timeout`](Self::handle_timeout) is due; may be in the past.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Raised { due, .. } if self.endpoints_configured => Some(*due),
            State::Up | State::Unheard { .. } | State::Raised { .. } | State::Told { .. } => None,
        }
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What has to reach every endpoint, in this order.
    pub fn poll_transmit(&mut self) -> Option<Transition> {
        self.alerts.pop_front()
    }

    /// The outage under way.
    pub fn incident(&self) -> Option<&Incident> {
        match &self.state {
            State::Up => None,
            State::Unheard { incident, .. } | State::Raised { incident, .. } | State::Told { incident } => {
                Some(incident)
            }
        }
    }

    /// Whether the event [`EVENT_NAME`] is raised.
    pub fn is_raised(&self) -> bool {
        match &self.state {
            State::Up | State::Unheard { .. } => false,
            State::Raised { .. } | State::Told { .. } => true,
        }
    }
}

// Across a restart.
impl Policy {
    /// What to store now; `wall` is the same moment as `now`. Take it with everything drained: what waits to be
    /// polled is not in it.
    pub fn snapshot(&self, now: Instant, wall: SystemTime) -> Snapshot {
        // A `due` in the past is stored as this moment: it is overdue then and later.
        let wall_at = |due: Instant| wall + due.saturating_duration_since(now);
        match &self.state {
            State::Up => Snapshot::Up,
            State::Unheard { incident, due } => {
                Snapshot::Unheard { incident: incident.clone(), due: wall_at(*due) }
            }
            State::Raised { incident, due } => {
                Snapshot::Raised { incident: incident.clone(), due: wall_at(*due) }
            }
            State::Told { incident } => Snapshot::Told { incident: incident.clone() },
        }
    }

    /// Continues where the snapshot stopped. The time between counts as part of the outage: nobody saw it end.
    pub fn restore(snapshot: Snapshot, hold_down: Duration, now: Instant, wall: SystemTime) -> Self {
        let mut policy = Self::new(hold_down);
        // A wall clock set back meanwhile must not postpone the alert beyond a whole hold_down.
        let longest = policy.hold_down;
        let instant_at = |due: SystemTime| now + due.duration_since(wall).unwrap_or_default().min(longest);
        policy.state = match snapshot {
            Snapshot::Up => State::Up,
            Snapshot::Unheard { incident, due } => State::Unheard { incident, due: instant_at(due) },
            Snapshot::Raised { incident, due } => State::Raised { incident, due: instant_at(due) },
            Snapshot::Told { incident } => State::Told { incident },
        };
        policy
    }
}
