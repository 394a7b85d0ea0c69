//! Decides whether this agent may be the active gateway.
//!
//! ```text
//!              leads, and central reports no live tunnel,
//!              or is ordered to take over                    claim committed
//!   Standby ─────────────────────────────────► Claiming ─────────────────────► Active { epoch }
//!      ▲                                           │ not committed                  │    │ refused
//!      │◄──────────────────────────────────────────┘                   newer claim │    │
//!      │◄── drained, or refused ── Draining { epoch } ◄─────────────────────────────┘    │
//!      └◄────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Leading is not being active: a leader that is not the active gives the leadership to the
//! active while its tunnel lives, and an active that stops leading stays active. Claims come only
//! from a leader, and only on fresh evidence: central's answer to a question asked after this
//! agent began to lead.
//!
//! Absent on purpose: sockets, openraft, wall clocks. What makes two actives impossible is
//! central's fence; this machine only avoids asking for what the fence would refuse.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use proto::{
    BootId, Epoch, NodeId,
    control::{GatewayReport, Order, RoleName},
    hello::{RefusalCode, Seat},
};

/// A question to central or a hand-over that came to nothing is tried again after this long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// One agent's role in its gateway group. A value: the model in `tests/model` copies and compares it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RoleMachine {
    boot: BootId,
    give_way_after: Duration,
    seat: Option<Seat>,
    role: Role,
    leadership: Leadership,
    /// The newest committed claim this agent has applied.
    newest_claim: Option<Claim>,
    report: Option<GatewayReport>,
    /// Since when central has been heard on neither control nor tunnel.
    central_silent_since: Option<Instant>,
    evidence: Evidence,
    next_try_at: Option<Instant>,
    /// Ordered to take over without leading: when to ask the leader for the lead.
    ask_for_lead_at: Option<Instant>,
    /// This process was asked to end: it claims nothing any more.
    leaving: bool,
    questions: u64,
    outbox: VecDeque<Action>,
}

/// What this agent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// No seat in a group.
    Unseated,
    Standby,
    /// A claim was proposed and is not committed yet.
    Claiming,
    /// The newest claim this agent knows names it, in this boot.
    Active {
        epoch: Epoch,
    },
    /// A successor was ordered and has claimed; old streams may finish.
    Draining {
        epoch: Epoch,
    },
}

/// What the group says of its leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Leadership {
    pub leader: Option<NodeId>,
    /// This agent leads, and a quorum acknowledged it a moment ago.
    pub leads: bool,
}

/// A committed claim: this node, in this boot, is active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Claim {
    pub epoch: Epoch,
    pub node: NodeId,
    pub boot: BootId,
}

/// What to do next; to be carried out in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Ask central whether a tunnel lives.
    Ask { id: u64 },
    /// Propose a claim for this node and boot.
    Claim,
    /// Give the leadership to this node.
    Transfer { to: NodeId },
    /// Give the leadership to any candidate that hears central.
    GiveWay,
    /// Ask this leader, which central's order does not seem to reach, for the leadership.
    AskForLead { leader: NodeId },
    /// Bring up the tunnel, and bring it up again whenever it is lost, until told otherwise.
    OpenTunnel { epoch: Epoch },
    /// No new tunnel under this epoch; the one there is may finish its streams.
    DrainTunnel { epoch: Epoch },
    /// End the tunnel and everything in it, at once.
    CloseTunnel,
}

/// How sure a leader is of what central says of the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Evidence {
    /// Nothing was asked since this agent began to lead.
    None,
    Asked {
        id: u64,
    },
    /// Central answered after this agent began to lead; its reports since then keep it fresh.
    Fresh,
}

impl RoleMachine {
    /// An agent that has just booted: without a seat, and without having heard central.
    pub fn new(boot: BootId, give_way_after: Duration, now: Instant) -> Self {
        Self {
            boot,
            give_way_after,
            seat: None,
            role: Role::Unseated,
            leadership: Leadership::default(),
            newest_claim: None,
            report: None,
            central_silent_since: Some(now),
            evidence: Evidence::None,
            next_try_at: None,
            ask_for_lead_at: None,
            leaving: false,
            questions: 0,
            outbox: VecDeque::new(),
        }
    }

    /// The seat whose Raft runs in this agent changed.
    pub fn handle_seat(&mut self, seat: Option<Seat>, now: Instant) {
        if self.seat == seat {
            return;
        }
        self.leave_tunnel();
        self.seat = seat;
        self.newest_claim = None;
        self.leadership = Leadership::default();
        self.evidence = Evidence::None;
        self.role = match seat {
            Some(_) => Role::Standby,
            None => Role::Unseated,
        };
        self.judge(now);
    }

    pub fn handle_leadership(&mut self, leadership: Leadership, now: Instant) {
        if leadership.leads != self.leadership.leads {
            self.evidence = Evidence::None;
            self.next_try_at = None;
        }
        self.leadership = leadership;
        self.judge(now);
    }

    /// A claim was applied; also how an own claim becomes known.
    pub fn handle_claim(&mut self, claim: Claim, now: Instant) {
        if self.newest_claim.is_some_and(|newest| newest.epoch >= claim.epoch) {
            return;
        }
        self.newest_claim = Some(claim);
        let mine = self.is_mine(&claim);
        match self.role {
            Role::Unseated => {}
            Role::Standby | Role::Claiming | Role::Draining { .. } if mine => self.become_active(claim.epoch),
            Role::Active { epoch } if mine && epoch != claim.epoch => self.become_active(claim.epoch),
            Role::Active { epoch } if !mine => self.step_aside(epoch),
            Role::Claiming => self.role = Role::Standby,
            Role::Standby | Role::Draining { .. } | Role::Active { .. } => {}
        }
        self.judge(now);
    }

    /// The proposed claim was not committed; it may still be, and then arrives by
    /// [`handle_claim`](Self::handle_claim).
    pub fn handle_claim_failed(&mut self, now: Instant) {
        if self.role == Role::Claiming {
            self.role = Role::Standby;
        }
        self.next_try_at = Some(now + RETRY_AFTER);
    }

    /// Central reported which tunnel lives and which order stands.
    pub fn handle_report(&mut self, report: GatewayReport, now: Instant) {
        if let Evidence::Asked { id } = self.evidence
            && report.answers == Some(id)
        {
            self.evidence = Evidence::Fresh;
            self.next_try_at = None;
        }
        // Only what is known for sure may hurry: an unanswered question keeps its timer.
        let order_changed = self.report.as_ref().map(|r| r.order) != Some(report.order);
        if order_changed && self.evidence == Evidence::Fresh {
            self.next_try_at = None;
        }
        // The leader has the order, too, and a moment to follow it.
        let ordered_me = report.order.filter(|order| self.seat.is_some_and(|seat| seat.node == order.node));
        self.ask_for_lead_at = ordered_me.map(|_| match self.ask_for_lead_at {
            Some(at) if !order_changed => at,
            _ => now + RETRY_AFTER,
        });
        self.report = Some(report);
        self.judge(now);
    }

    /// Central told its `agent.give_way_after`.
    pub fn set_give_way_after(&mut self, give_way_after: Duration) {
        self.give_way_after = give_way_after;
    }

    /// This process was asked to end. What it carries it goes on carrying, until a successor has claimed.
    pub fn handle_leaving(&mut self, now: Instant) {
        self.leaving = true;
        self.judge(now);
    }

    /// The control websocket ended: what central last said over it grows stale, though the tunnel
    /// may still be heard.
    pub fn handle_control_lost(&mut self) {
        self.report = None;
        self.evidence = Evidence::None;
        self.ask_for_lead_at = None;
    }

    /// Whether central is heard, on the control websocket or in the tunnel.
    pub fn handle_central(&mut self, heard: bool, now: Instant) {
        match heard {
            true => {
                if self.central_silent_since.take().is_some() {
                    self.judge(now);
                }
            }
            false => self.handle_central_silent(now, now),
        }
    }

    /// Central was last heard at `since`. Repeating it does not restart the silence.
    pub fn handle_central_silent(&mut self, since: Instant, now: Instant) {
        if self.central_silent_since.is_none() {
            self.central_silent_since = Some(since);
            self.judge(now);
        }
    }

    /// Central refused the tunnel of this epoch.
    pub fn handle_refused(&mut self, refused: Epoch, code: RefusalCode, now: Instant) {
        let current = match self.role {
            Role::Active { epoch } | Role::Draining { epoch } => epoch,
            Role::Unseated | Role::Standby | Role::Claiming => return,
        };
        if refused != current {
            return;
        }
        match code {
            RefusalCode::StaleEpoch | RefusalCode::OtherSession | RefusalCode::NotSeated => {
                self.leave_tunnel();
                self.role = Role::Standby;
                // A leader refused under its own claim needs a new one, on new evidence.
                self.newest_claim = None;
                self.evidence = Evidence::None;
                self.next_try_at = Some(now + RETRY_AFTER);
                self.judge(now);
            }
            // These pass, or a person must act: the same epoch tries again. A committed claim that the
            // witness has not applied yet will be.
            RefusalCode::UnknownClaim
            | RefusalCode::Version
            | RefusalCode::Clock
            | RefusalCode::Unknown
            | RefusalCode::Cloned
            | RefusalCode::CannotResume
            | RefusalCode::Busy
            | RefusalCode::Malformed
            | RefusalCode::Stopping
            | RefusalCode::Internal
            | RefusalCode::Waiting
            | RefusalCode::Other => {}
        }
    }

    /// The draining tunnel has ended.
    pub fn handle_drained(&mut self, now: Instant) {
        if matches!(self.role, Role::Draining { .. }) {
            self.role = Role::Standby;
            self.judge(now);
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_try_at.is_some_and(|at| at <= now) {
            self.next_try_at = None;
            if let Evidence::Asked { .. } = self.evidence {
                self.evidence = Evidence::None;
            }
        }
        self.judge(now);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.seat?;
        if !self.leadership.leads {
            return self.ask_for_lead_at.filter(|_| self.leadership.leader.is_some());
        }
        let give_way_at = self.central_silent_since.map(|since| since + self.give_way_after);
        match (self.next_try_at, give_way_at) {
            // Having given way, the next attempt waits its turn.
            (Some(next), Some(give_way)) => Some(next.max(give_way)),
            (next, give_way) => next.or(give_way),
        }
    }

    pub fn poll_action(&mut self) -> Option<Action> {
        self.outbox.pop_front()
    }

    pub fn role(&self) -> Role {
        self.role
    }

    pub fn leadership(&self) -> Leadership {
        self.leadership
    }

    /// What this agent does about what it knows. Every input ends here.
    fn judge(&mut self, now: Instant) {
        let Some(seat) = self.seat else { return };
        if !self.leadership.leads {
            return self.judge_following(now);
        }
        if self.next_try_at.is_some_and(|at| at > now) {
            return;
        }
        if let Some(since) = self.central_silent_since {
            if now.saturating_duration_since(since) >= self.give_way_after {
                self.act(Action::GiveWay, now);
            }
            return;
        }
        if self.evidence != Evidence::Fresh {
            if self.evidence == Evidence::None {
                self.ask(now);
            }
            return;
        }
        let Some(report) = self.report.clone() else { return };
        match (report.order, report.tunnel) {
            (Some(order), _) => self.follow(order, seat, now),
            (None, Some(tunnel)) if tunnel.node != seat.node => {
                self.act(Action::Transfer { to: tunnel.node }, now);
            }
            (None, Some(_)) => {}
            (None, None) => self.claim_unless_mine(now),
        }
    }

    /// Ordered, and another leads for longer than following the order takes: perhaps central does not reach it, and
    /// this agent does.
    fn judge_following(&mut self, now: Instant) {
        if self.ask_for_lead_at.is_some_and(|at| at <= now)
            && let Some(leader) = self.leadership.leader
        {
            self.ask_for_lead_at = Some(now + RETRY_AFTER);
            self.outbox.push_back(Action::AskForLead { leader });
        }
    }

    fn follow(&mut self, order: Order, seat: Seat, now: Instant) {
        if order.node == seat.node {
            self.claim_unless_mine(now);
        } else {
            self.act(Action::Transfer { to: order.node }, now);
        }
    }

    /// An active re-elected in the same boot keeps its epoch: its tunnel is being brought up
    /// already, and its streams may resume.
    fn claim_unless_mine(&mut self, now: Instant) {
        match self.role {
            Role::Standby | Role::Draining { .. } if self.leaving => self.act(Action::GiveWay, now),
            Role::Standby | Role::Draining { .. } => {
                self.role = Role::Claiming;
                self.act(Action::Claim, now);
            }
            Role::Unseated | Role::Claiming | Role::Active { .. } => {}
        }
    }

    fn ask(&mut self, now: Instant) {
        self.questions += 1;
        self.evidence = Evidence::Asked { id: self.questions };
        self.act(Action::Ask { id: self.questions }, now);
    }

    fn act(&mut self, action: Action, now: Instant) {
        self.next_try_at = Some(now + RETRY_AFTER);
        self.outbox.push_back(action);
    }

    fn become_active(&mut self, epoch: Epoch) {
        self.next_try_at = None;
        // A tunnel that drains goes on draining beside the new one.
        if matches!(self.role, Role::Active { .. }) {
            self.outbox.push_back(Action::CloseTunnel);
        }
        self.role = Role::Active { epoch };
        self.outbox.push_back(Action::OpenTunnel { epoch });
    }

    /// Another node's claim is newer. What becomes of this tunnel is central's to decide: after a
    /// planned order it drains, else the fence refuses it the moment the successor is admitted. Until
    /// then it serves, and `tunnel.dead_after` of silence still stops its writes.
    fn step_aside(&mut self, epoch: Epoch) {
        self.role = Role::Draining { epoch };
        self.outbox.push_back(Action::DrainTunnel { epoch });
    }

    fn leave_tunnel(&mut self) {
        if matches!(self.role, Role::Active { .. } | Role::Draining { .. }) {
            self.outbox.push_back(Action::CloseTunnel);
        }
    }

    fn is_mine(&self, claim: &Claim) -> bool {
        self.seat.is_some_and(|seat| seat.node == claim.node) && claim.boot == self.boot
    }
}

impl Role {
    /// The state by name, as reports and status show it.
    pub fn name(&self) -> RoleName {
        match self {
            Self::Unseated => RoleName::Unseated,
            Self::Standby => RoleName::Standby,
            Self::Claiming => RoleName::Claiming,
            Self::Active { .. } => RoleName::Active,
            Self::Draining { .. } => RoleName::Draining,
        }
    }
}

#[cfg(test)]
mod tests;
