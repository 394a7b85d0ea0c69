//! Decides whom an Environment's Secure Gateway waits for, and when it is down.
//!
//! ```text
//!            founded                        tunnel up
//!   Idle ─────────────► Connecting ───────────────────────► Up
//!    ▲                   │  ▲   ▲  tunnel lost: its candidate first │
//!    │                   │  │   └───────────────────────────────────┘
//!    │ dissolved         │  └─ time is up, or no longer configured: order the next one
//!    │                   ▼
//!    └───────────────── Down: nobody left to try; round after round ──► Up
//! ```
//!
//! The 4-minute rule (`gateway.connect_timeout`) is the outer bound, not the usual way: a new
//! active comes by Raft in about half a second, and whoever's tunnel is admitted first ends the
//! waiting. Each candidate has its time once per round, also when it comes and goes; a claim
//! does not restart it.
//!
//! Absent on purpose: sockets, Raft, the fence. Candidates are known by their node.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use proto::{NodeId, control::Order};

use super::view::GatewayState;

/// Without a new claim for this long after an order, the lead is taken from whoever has it: by the
/// witness, which hands it to the ordered candidate, or by that candidate where the witness has no vote.
const NUDGE_AFTER: Duration = Duration::from_secs(5);

/// The proxy-processor of one Environment. A value: the model in `tests/model` copies and compares it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProxyProcessor {
    connect_timeout: Duration,
    state: State,
    configured: BTreeSet<NodeId>,
    /// Until then a candidate that is not configured is waited for all the same: central has
    /// just started, and agents need a moment to find it again.
    settled_at: Option<Instant>,
    orders_given: u64,
    switch: Option<Switch>,
    outbox: VecDeque<Verdict>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum State {
    Idle,
    Seeking(Seeking),
    Up { node: NodeId },
}

/// Nobody carries the tunnel; somebody is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Seeking {
    /// Every configured candidate has failed once: the state is `down`, and told.
    down: bool,
    round: Round,
    waiting: Option<Waiting>,
}

/// How much of its time each candidate has used up in this round.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Round {
    used: BTreeMap<NodeId, Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Waiting {
    node: NodeId,
    since: Instant,
    until: Instant,
    order: Option<Order>,
    nudge_at: Option<Instant>,
}

/// A planned switch under way while a tunnel lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Switch {
    order: Order,
    until: Instant,
    nudge_at: Option<Instant>,
}

/// What the proxy-processor decided; to be carried out in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Tell every agent that this order stands.
    Order(Order),
    /// No order stands any longer.
    OrderDone,
    /// No claim followed the order: let the lead be taken for this candidate.
    Nudge { node: NodeId },
    /// The time of this candidate is over without a secure connection.
    GaveUp { node: NodeId, after: Duration, reason: GaveUp },
    /// The last configured candidate has failed.
    Down,
    /// A secure connection is operational.
    Up { node: NodeId },
    /// A planned switch did not come about in time; the active stays.
    SwitchFailed { node: NodeId },
}

/// Why a candidate was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GaveUp {
    TimeIsUp,
    NotConfigured,
}

impl ProxyProcessor {
    /// Nothing is founded yet.
    pub fn new(connect_timeout: Duration) -> Self {
        Self {
            connect_timeout,
            state: State::Idle,
            configured: BTreeSet::new(),
            settled_at: None,
            orders_given: 0,
            switch: None,
            outbox: VecDeque::new(),
        }
    }

    /// A group was founded by `node`, which is now waited for.
    pub fn handle_founded(&mut self, node: NodeId, now: Instant) {
        self.configured.insert(node);
        self.seek(node, now);
    }

    /// Central has started and finds a group whose last active was `node`. Nobody is given up
    /// for being away before `settle` has passed.
    pub fn handle_restored(&mut self, node: NodeId, settle: Duration, now: Instant) {
        self.settled_at = Some(now + settle);
        self.seek(node, now);
    }

    /// The last candidate was unmarked.
    pub fn handle_dissolved(&mut self) {
        self.finish_order();
        self.switch = None;
        self.configured.clear();
        self.state = State::Idle;
    }

    /// The candidates connected to central and admitted to the group, all of them.
    pub fn handle_configured(&mut self, configured: BTreeSet<NodeId>, now: Instant) {
        self.configured = configured;
        if let Some(switch) = &self.switch
            && !self.configured.contains(&switch.order.node)
        {
            self.end_switch(false);
        }
        self.judge(now);
    }

    /// A tunnel of this candidate was admitted.
    pub fn handle_tunnel_up(&mut self, node: NodeId) {
        let ordered_another = self.switch.as_ref().is_some_and(|switch| switch.order.node != node);
        if self.switch.is_some() && !ordered_another {
            self.end_switch(true);
        }
        self.finish_order();
        self.settled_at = None;
        self.state = State::Up { node };
        self.outbox.push_back(Verdict::Up { node });
    }

    /// The admitted tunnel is gone. Its own candidate is waited for first.
    pub fn handle_tunnel_lost(&mut self, now: Instant) {
        let State::Up { node } = self.state else { return };
        // A switch under way becomes an order: its candidate is already on the way.
        match self.switch.take() {
            Some(switch) => {
                let mut seeking = Seeking::new();
                seeking.waiting = Some(Waiting {
                    node: switch.order.node,
                    since: now,
                    until: now + self.connect_timeout,
                    order: Some(switch.order),
                    nudge_at: switch.nudge_at,
                });
                self.state = State::Seeking(seeking);
                self.judge(now);
            }
            None => self.seek(node, now),
        }
    }

    /// A claim was committed: an order is being followed, no nudge is needed.
    pub fn handle_claim(&mut self, by: NodeId) {
        if let State::Seeking(Seeking { waiting: Some(waiting), .. }) = &mut self.state
            && waiting.node == by
        {
            waiting.nudge_at = None;
        }
        if let Some(switch) = &mut self.switch
            && switch.order.node == by
        {
            switch.nudge_at = None;
        }
    }

    /// An administrator wants `to` to be active. Only while another tunnel is up, else the usual
    /// search is already under way and only its direction changes.
    pub fn handle_switch(&mut self, to: NodeId, now: Instant) {
        match &self.state {
            State::Idle => {}
            State::Up { .. } => {
                let order = self.next_order(to, true);
                self.switch = Some(Switch {
                    order,
                    until: now + self.connect_timeout,
                    nudge_at: Some(now + NUDGE_AFTER),
                });
                self.outbox.push_back(Verdict::Order(order));
            }
            State::Seeking(_) => {
                self.stop_waiting(now, None);
                // Whom an administrator names gets its whole time, whatever it used before.
                if let State::Seeking(seeking) = &mut self.state {
                    seeking.round.used.remove(&to);
                }
                self.wait_for(to, now, true);
            }
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(switch) = &mut self.switch {
            if switch.nudge_at.is_some_and(|at| at <= now) {
                switch.nudge_at = Some(now + NUDGE_AFTER);
                self.outbox.push_back(Verdict::Nudge { node: switch.order.node });
            }
            if switch.until <= now {
                self.end_switch(false);
            }
        }
        if let State::Seeking(Seeking { waiting: Some(waiting), .. }) = &mut self.state
            && waiting.nudge_at.is_some_and(|at| at <= now)
            && waiting.until > now
        {
            waiting.nudge_at = Some(now + NUDGE_AFTER);
            self.outbox.push_back(Verdict::Nudge { node: waiting.node });
        }
        self.judge(now);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let waiting = match &self.state {
            State::Seeking(seeking) => seeking.waiting.as_ref(),
            State::Idle | State::Up { .. } => None,
        };
        [
            waiting.map(|w| w.until),
            waiting.and_then(|w| w.nudge_at),
            waiting.and(self.settled_at),
            self.switch.as_ref().map(|s| s.until),
            self.switch.as_ref().and_then(|s| s.nudge_at),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub fn poll_verdict(&mut self) -> Option<Verdict> {
        self.outbox.pop_front()
    }

    pub fn state(&self) -> GatewayState {
        match &self.state {
            State::Idle => GatewayState::Idle,
            State::Up { .. } => GatewayState::Up,
            State::Seeking(Seeking { down: true, .. }) => GatewayState::Down,
            State::Seeking(Seeking { down: false, .. }) => GatewayState::Connecting,
        }
    }

    /// The order that stands, if one does.
    pub fn order(&self) -> Option<Order> {
        match (&self.state, &self.switch) {
            (_, Some(switch)) => Some(switch.order),
            (State::Seeking(Seeking { waiting: Some(waiting), .. }), None) => waiting.order,
            (State::Idle | State::Seeking(_) | State::Up { .. }, None) => None,
        }
    }

    /// Whom the processor waits for, and until when.
    pub fn attempt(&self) -> Option<(NodeId, Instant)> {
        match &self.state {
            State::Seeking(Seeking { waiting: Some(waiting), .. }) => Some((waiting.node, waiting.until)),
            State::Idle | State::Seeking(_) | State::Up { .. } => None,
        }
    }

    /// Begins an outage: `first` has its time without an order, since Raft may already bring it.
    fn seek(&mut self, first: NodeId, now: Instant) {
        self.switch = None;
        self.state = State::Seeking(Seeking::new());
        self.wait_for(first, now, false);
        self.judge(now);
    }

    /// Gives up whoever's time is over or who left, and turns to the next, until somebody is
    /// waited for or nobody is left.
    fn judge(&mut self, now: Instant) {
        if self.settled_at.is_some_and(|at| at <= now) {
            self.settled_at = None;
        }
        loop {
            let State::Seeking(seeking) = &self.state else { return };
            match &seeking.waiting {
                Some(waiting) if waiting.until <= now => self.stop_waiting(now, Some(GaveUp::TimeIsUp)),
                Some(waiting) if self.settled_at.is_none() && !self.configured.contains(&waiting.node) => {
                    self.stop_waiting(now, Some(GaveUp::NotConfigured));
                }
                Some(_) => return,
                None => match self.next_candidate() {
                    Some(next) => return self.wait_for(next, now, true),
                    None if !self.begin_next_round() => return,
                    None => {}
                },
            }
        }
    }

    /// The next configured candidate that still has time in this round, in the order of nodes,
    /// those with most time left first: who just failed comes last.
    fn next_candidate(&self) -> Option<NodeId> {
        let State::Seeking(seeking) = &self.state else { return None };
        self.configured
            .iter()
            .copied()
            .filter(|node| seeking.round.left(*node, self.connect_timeout) > Duration::ZERO)
            .max_by_key(|node| (seeking.round.left(*node, self.connect_timeout), std::cmp::Reverse(*node)))
    }

    /// Nobody is left: the gateway is down. `true` when another round has somebody to try.
    fn begin_next_round(&mut self) -> bool {
        let State::Seeking(seeking) = &mut self.state else { return false };
        if !seeking.down {
            seeking.down = true;
            self.outbox.push_back(Verdict::Down);
        }
        seeking.round = Round::default();
        !self.configured.is_empty()
    }

    fn wait_for(&mut self, node: NodeId, now: Instant, ordered: bool) {
        let order = ordered.then(|| self.next_order(node, false));
        let connect_timeout = self.connect_timeout;
        let State::Seeking(seeking) = &mut self.state else { return };
        seeking.waiting = Some(Waiting {
            node,
            since: now,
            until: now + seeking.round.left(node, connect_timeout),
            order,
            nudge_at: order.map(|_| now + NUDGE_AFTER),
        });
        self.outbox.extend(order.map(Verdict::Order));
    }

    fn stop_waiting(&mut self, now: Instant, reason: Option<GaveUp>) {
        self.finish_order();
        let State::Seeking(seeking) = &mut self.state else { return };
        let Some(waiting) = seeking.waiting.take() else { return };
        let after = now.saturating_duration_since(waiting.since);
        *seeking.round.used.entry(waiting.node).or_default() += after;
        if let Some(reason) = reason {
            self.outbox.push_back(Verdict::GaveUp { node: waiting.node, after, reason });
        }
    }

    fn finish_order(&mut self) {
        if let State::Seeking(Seeking { waiting: Some(waiting), .. }) = &mut self.state
            && waiting.order.take().is_some()
        {
            self.outbox.push_back(Verdict::OrderDone);
        }
    }

    fn end_switch(&mut self, done: bool) {
        let Some(switch) = self.switch.take() else { return };
        self.outbox.push_back(Verdict::OrderDone);
        if !done {
            self.outbox.push_back(Verdict::SwitchFailed { node: switch.order.node });
        }
    }

    fn next_order(&mut self, node: NodeId, planned: bool) -> Order {
        self.orders_given += 1;
        Order { id: self.orders_given, node, planned }
    }
}

impl Seeking {
    fn new() -> Self {
        Self { down: false, round: Round::default(), waiting: None }
    }
}

impl Round {
    fn left(&self, node: NodeId, connect_timeout: Duration) -> Duration {
        connect_timeout.saturating_sub(self.used.get(&node).copied().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests;
