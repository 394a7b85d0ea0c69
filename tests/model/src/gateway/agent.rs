//! One agent: its real role machine, and what `agent::app` and `agent::tunnel` do around it.

use std::{
    collections::VecDeque,
    sync::LazyLock,
    time::{Duration, Instant},
};

use agent::role::{Action, Claim, Leadership, Role, RoleMachine};
use proto::{
    AgentId, BootId, Epoch, NodeId, SessionId,
    control::GatewayReport,
    hello::{Refusal, Resume, Seat, TunnelHello, Versions},
};

const GIVE_WAY_AFTER: Duration = Duration::from_secs(10);
/// Every machine's clock begins here and goes on only by its own timeouts: clocks that know nothing of each
/// other may run as far apart as they like.
pub(super) static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Agent {
    index: u8,
    pub(super) life: Life,
    boot: u8,
    /// The seat whose Raft runs here.
    pub(super) seat: Seat,
    pub(super) role: RoleMachine,
    clock: Duration,
    /// The newest claim its own Raft has applied.
    newest_claim: Option<Claim>,
    pub(super) proposal: Proposal,
    pub(super) kept: Option<Kept>,
    pub(super) draining: Option<Kept>,
    pub(super) control: Control,
    /// Questions on their way to central.
    pub(super) questions: VecDeque<u64>,
    /// Reports on their way from central.
    pub(super) reports: VecDeque<GatewayReport>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Life {
    Running,
    /// Stopped while its clocks and everybody else go on.
    Paused,
    Dead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Proposal {
    None,
    Waiting,
    /// Given up by its proposer; it may be committed all the same.
    Lingering,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Control {
    Up,
    /// Closed by central; what it had said is still to be read.
    Ending,
    Down,
}

/// A tunnel being kept up under one claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Kept {
    pub(super) epoch: Epoch,
    pub(super) session: SessionId,
    /// Central has admitted this session before: its streams may resume.
    pub(super) begun: bool,
    pub(super) lane: Lane,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    Down,
    /// The hello is on its way, or being judged.
    Asking,
    Up(u8),
}

/// What the role machine wants of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Transfer(NodeId),
    GiveWay,
    AskForLead { leader: NodeId },
}

impl Agent {
    /// Has just booted, and holds the state of its seat.
    pub(super) fn booted(index: usize, boot: u8, seat: Seat) -> Self {
        let index = u8::try_from(index).unwrap_or(u8::MAX);
        let mut role = RoleMachine::new(boot_id(index, boot), GIVE_WAY_AFTER, *BEGIN);
        role.handle_seat(Some(seat), *BEGIN);
        Self {
            index,
            life: Life::Running,
            boot,
            seat,
            role,
            clock: Duration::ZERO,
            newest_claim: None,
            proposal: Proposal::None,
            kept: None,
            draining: None,
            control: Control::Down,
            questions: VecDeque::new(),
            reports: VecDeque::new(),
        }
    }

    pub(super) fn id(&self) -> AgentId {
        AgentId::from_bytes([self.index; 16])
    }

    pub(super) fn boot(&self) -> BootId {
        boot_id(self.index, self.boot)
    }

    pub(super) fn newest_claim(&self) -> Option<Claim> {
        self.newest_claim
    }

    pub(super) fn runs(&self) -> bool {
        self.life == Life::Running
    }

    fn now(&self) -> Instant {
        *BEGIN + self.clock
    }

    /// For histories, in which all clocks are one.
    pub(super) fn set_clock(&mut self, now: Duration) {
        self.clock = now;
    }

    // ---- what happens to it; each ends with what the machine wants ----

    pub(super) fn welcomed(&mut self) -> Vec<Wish> {
        self.control = Control::Up;
        self.role.handle_central(true, self.now());
        self.carry_out()
    }

    pub(super) fn lost_control(&mut self) -> Vec<Wish> {
        self.control = Control::Down;
        self.role.handle_control_lost();
        if !self.tunnel_up() {
            self.role.handle_central_silent(self.now(), self.now());
        }
        self.carry_out()
    }

    pub(super) fn reported(&mut self, report: GatewayReport) -> Vec<Wish> {
        self.role.handle_report(report, self.now());
        self.carry_out()
    }

    pub(super) fn learned(&mut self, leadership: Leadership) -> Vec<Wish> {
        self.role.handle_leadership(leadership, self.now());
        self.carry_out()
    }

    pub(super) fn applied(&mut self, claim: Claim) -> Vec<Wish> {
        self.newest_claim = Some(claim);
        self.role.handle_claim(claim, self.now());
        self.carry_out()
    }

    pub(super) fn claim_failed(&mut self) -> Vec<Wish> {
        self.role.handle_claim_failed(self.now());
        self.carry_out()
    }

    pub(super) fn took_seat(&mut self, seat: Seat) -> Vec<Wish> {
        self.seat = seat;
        self.newest_claim = None;
        self.proposal = Proposal::None;
        self.role.handle_seat(Some(seat), self.now());
        self.carry_out()
    }

    /// Its next timer rings; `None` when there is none.
    pub(super) fn timed_out(&mut self) -> Option<Vec<Wish>> {
        let due = self.role.poll_timeout()?.saturating_duration_since(*BEGIN);
        self.clock = self.clock.max(due);
        self.role.handle_timeout(self.now());
        Some(self.carry_out())
    }

    /// Central answered a hello of this session with a websocket.
    pub(super) fn admitted(&mut self, session: SessionId, lane: u8) -> Vec<Wish> {
        let Some(kept) = self.kept_by(session) else { return Vec::new() };
        (kept.lane, kept.begun) = (Lane::Up(lane), true);
        if self.is_current(session) {
            self.role.handle_central(true, self.now());
        }
        self.carry_out()
    }

    pub(super) fn refused(&mut self, hello: &TunnelHello, refusal: &Refusal) -> Vec<Wish> {
        let Some(kept) = self.kept_by(hello.session) else { return Vec::new() };
        kept.lane = Lane::Down;
        if self.is_current(hello.session) {
            self.role.handle_refused(hello.epoch, refusal.code, self.now());
        }
        self.carry_out()
    }

    /// A websocket, or the attempt at one, is gone.
    pub(super) fn lost_lane(&mut self, session: SessionId) -> Vec<Wish> {
        let heard = self.control == Control::Up;
        let Some(kept) = self.kept_by(session) else { return Vec::new() };
        kept.lane = Lane::Down;
        if self.is_current(session) {
            self.role.handle_central(heard, self.now());
        }
        self.carry_out()
    }

    /// A draining tunnel without streams ends when its websocket does.
    pub(super) fn drained(&mut self) -> Option<Vec<Wish>> {
        let gone = self.draining.take_if(|kept| kept.lane == Lane::Down)?;
        if matches!(self.role.role(), Role::Draining { epoch } if epoch == gone.epoch) {
            self.role.handle_central(self.control == Control::Up, self.now());
            self.role.handle_drained(self.now());
        }
        Some(self.carry_out())
    }

    // ---- what it says ----

    /// The hello of this session's next websocket.
    pub(super) fn hello(&self, kept: &Kept) -> TunnelHello {
        TunnelHello {
            versions: Versions::OURS,
            node: self.seat.node,
            epoch: kept.epoch,
            boot: self.boot(),
            session: kept.session,
            resume: kept.begun.then_some(Resume { received_through: 0 }),
        }
    }

    pub(super) fn tunnels(&self) -> impl Iterator<Item = &Kept> {
        self.kept.iter().chain(&self.draining)
    }

    pub(super) fn kept_by(&mut self, session: SessionId) -> Option<&mut Kept> {
        self.kept.iter_mut().chain(&mut self.draining).find(|kept| kept.session == session)
    }

    pub(super) fn restarted(&self) -> Self {
        Self::booted(self.index.into(), self.boot + 1, self.seat)
    }

    pub(super) fn hears_central(&self) -> bool {
        self.control == Control::Up || self.tunnel_up()
    }

    fn tunnel_up(&self) -> bool {
        self.tunnels().any(|kept| self.is_current(kept.session) && matches!(kept.lane, Lane::Up(_)))
    }

    /// Whether it is the tunnel the role is about; `App` passes over what others tell.
    fn is_current(&self, session: SessionId) -> bool {
        let (Role::Active { epoch } | Role::Draining { epoch }) = self.role.role() else { return false };
        self.tunnels().any(|kept| kept.session == session && kept.epoch == epoch)
    }

    fn carry_out(&mut self) -> Vec<Wish> {
        let mut wishes = Vec::new();
        while let Some(action) = self.role.poll_action() {
            match action {
                Action::Ask { id } if self.control == Control::Up => self.questions.push_back(id),
                Action::Ask { .. } => {}
                Action::Claim => self.proposal = Proposal::Waiting,
                Action::Transfer { to } => wishes.push(Wish::Transfer(to)),
                Action::GiveWay => wishes.push(Wish::GiveWay),
                Action::AskForLead { leader } => wishes.push(Wish::AskForLead { leader }),
                Action::OpenTunnel { epoch } => {
                    let session = session_id(self.index, self.boot, epoch);
                    self.kept = Some(Kept { epoch, session, begun: false, lane: Lane::Down });
                }
                Action::DrainTunnel { .. } => {
                    if let Some(kept) = self.kept.take() {
                        self.draining = Some(kept);
                    }
                }
                Action::CloseTunnel => (self.kept, self.draining) = (None, None),
            }
        }
        wishes
    }
}

fn boot_id(index: u8, boot: u8) -> BootId {
    let mut bytes = [index; 16];
    bytes[1] = boot;
    BootId::from_bytes(bytes)
}

/// Chosen at random by the product, once per claim; here by what makes it one.
fn session_id(index: u8, boot: u8, epoch: Epoch) -> SessionId {
    let mut bytes = [index; 16];
    (bytes[1], bytes[2], bytes[3]) = (boot, epoch.group.to_le_bytes()[0], epoch.claim.to_le_bytes()[0]);
    SessionId::from_bytes(bytes)
}
