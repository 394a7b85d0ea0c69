//! The running agent: one loop that hears everything and asks the role machine what to do.
//!
//! ```text
//!   control ──┐                                  ┌──► ask central, report
//!   cluster ──┼──► App ──► RoleMachine ──► App ──┼──► claim, transfer, give way
//!   tunnel  ──┘                                  └──► open, drain, close the tunnel
//! ```

mod assembly;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use proto::{
    BootId, Epoch,
    control::{AgentMessage, AgentReport, CentralMessage, SeatGrant},
    driver::Lanes,
    hello::LinkSettings,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    alerts::Reach,
    cluster::{self, Cluster, ClusterError, ClusterEvent},
    control::{Control, ControlEvent},
    leave::Leave,
    peer::PeerNet,
    role::{Action, Claim, Leadership, Role, RoleMachine},
    status,
    tunnel::{Claimed, KeptTunnel, Surroundings, TunnelEvent},
};

/// Before central has told its settings.
const SETTINGS: LinkSettings = LinkSettings {
    ping_interval_ms: 5_000,
    dead_after_ms: 15_000,
    resume_window_ms: 30_000,
    drain_timeout_ms: 300_000,
    give_way_after_ms: 10_000,
    lanes: 1,
};

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Stopped,
    /// Central asked for a restart of the process.
    Restart,
}

/// How a run is asked to end.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// As soon as another candidate carries what this one does.
    pub soon: CancellationToken,
    /// At once.
    pub now: CancellationToken,
}

/// Why the agent could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    Identity(#[from] crate::identity::IdentityError),
    #[error("the allow-list cannot be used")]
    AllowList(#[from] crate::dialer::DialerError),
    #[error("peers cannot be listened for")]
    Peers(#[from] crate::peer::ListenError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("what this agent keeps of its own alerts in {path} cannot be used")]
    Alerts { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Traces(#[from] traces::OpenError),
    #[error("the status socket cannot be served")]
    Status(#[from] status::ServeError),
    #[error(
        "this agent's Raft records in {path} could not be kept ({why}); it must not vote without them. \
         Check that disk's space and health, then start the agent again: nothing acknowledged is lost"
    )]
    Records { path: PathBuf, why: String },
    #[error("the part of the agent that {0} ended unexpectedly")]
    Ended(&'static str),
}

/// Everything of a running agent.
pub struct App {
    boot: BootId,
    role: RoleMachine,
    control: Control,
    cluster: Cluster,
    peers: PeerNet,
    shared: Arc<cluster::Shared>,
    surroundings: Surroundings,
    settings: LinkSettings,
    control_up: bool,
    /// When central was last heard on a way that is gone by now.
    central_heard_at: Instant,
    tunnel_up: bool,
    tunnel: Option<KeptTunnel>,
    draining: Option<KeptTunnel>,
    /// How this run is to end, once it may.
    leaving: Option<(Outcome, Leave)>,
    reported: Option<AgentReport>,
    last_error: Option<String>,
    shown: watch::Sender<status::Snapshot>,
    /// For those inside the network who are told when central is away.
    reach: watch::Sender<Reach>,
    inputs: Inputs,
    claimed: (mpsc::Sender<bool>, mpsc::Receiver<bool>),
    /// What the next hello says of this agent's seat.
    hello_seat: watch::Sender<Option<group::Kept>>,
    /// Long-lived parts: if one ends, the agent says so and leaves.
    parts: JoinSet<&'static str>,
    /// Ends last, when nothing is left to be told.
    exporter: JoinSet<()>,
    close_exporter: CancellationToken,
    /// Giving the lead away: one offer at a time, two would fight each other.
    hand_overs: JoinSet<()>,
    /// Short errands; each bounded by its own limits.
    errands: JoinSet<()>,
}

struct Inputs {
    control: mpsc::Receiver<ControlEvent>,
    cluster: mpsc::Receiver<ClusterEvent>,
    tunnel: mpsc::Receiver<TunnelEvent>,
}

impl App {
    /// Runs until it is asked to end, or until central asks for a restart; an active then leaves as
    /// [`Leave`] says, unless it is asked again.
    ///
    /// # Errors
    /// When a part that may never end has ended, or the group's records failed.
    pub async fn run(mut self, stop: Stop) -> Result<Outcome, AppError> {
        let outcome = loop {
            self.carry_out();
            self.show();
            if let Some((outcome, leave)) = &mut self.leaving {
                leave.handle_role(self.role.role(), Instant::now());
                if leave.may_go(Instant::now()) {
                    break *outcome;
                }
            }
            let leaves_at = self.leaving.as_ref().and_then(|(_, leave)| leave.poll_timeout());
            let timer = self.role.poll_timeout().into_iter().chain(leaves_at).min();
            tokio::select! {
                Some(event) = self.inputs.control.recv() => self.heard_control(event).await?,
                Some(event) = self.inputs.cluster.recv() => self.heard_cluster(event)?,
                Some(event) = self.inputs.tunnel.recv() => self.heard_tunnel(event),
                Some(claimed) = self.claimed.1.recv() => if !claimed {
                    self.role.handle_claim_failed(Instant::now());
                },
                Some(ended) = self.parts.join_next() => return Err(AppError::Ended(ended.unwrap_or("panicked"))),
                Some(_done) = self.errands.join_next() => {}
                Some(_done) = self.hand_overs.join_next() => {}
                () = sleep_until(timer) => self.role.handle_timeout(Instant::now()),
                // Also while it is on its way to a restart: then it stays away.
                () = stop.soon.cancelled(), if !self.is_stopping() => self.leave(Outcome::Stopped),
                () = stop.now.cancelled() => break Outcome::Stopped,
            }
        };
        self.stop().await;
        Ok(outcome)
    }

    fn is_stopping(&self) -> bool {
        matches!(self.leaving, Some((Outcome::Stopped, _)))
    }

    /// Begins to leave; the loop looks when it may.
    fn leave(&mut self, outcome: Outcome) {
        let now = Instant::now();
        let role = self.role.role();
        let leave = Leave::begin(role, self.control_up, self.settings.drain_timeout(), now);
        if !leave.may_go(now) {
            tracing::info!(
                ?role,
                "Asked to end: another candidate takes over first. Asked once more, it ends at once"
            );
            self.control.tell(AgentMessage::Leaving {});
        }
        self.role.handle_leaving(now);
        self.leaving = Some((outcome, leave));
    }

    async fn heard_control(&mut self, event: ControlEvent) -> Result<(), AppError> {
        let now = Instant::now();
        match event {
            ControlEvent::Up(welcome) => {
                self.settings = welcome.settings;
                self.role.set_give_way_after(welcome.settings.give_way_after());
                self.control_up = true;
                self.last_error = None;
                self.reported = None;
                self.role.handle_central(true, now);
                if let Some(tunnel) = &self.tunnel {
                    tunnel.try_now();
                }
                if self.leaving.is_some() {
                    self.control.tell(AgentMessage::Leaving {});
                }
                if let Some(group) = self.cluster.group() {
                    // The witness can be reached again.
                    group.members().borrow().voters.iter().for_each(|node| group.peer_back(*node));
                }
            }
            ControlEvent::Down { why, silent_for } => {
                self.control_up = false;
                self.last_error = Some(why);
                self.role.handle_control_lost();
                self.central_gone(silent_for, now);
            }
            ControlEvent::Message(message) => match message {
                CentralMessage::Seat(grant) => self.seat(grant).await?,
                CentralMessage::Roster(roster) => self.cluster.set_roster(roster),
                CentralMessage::Gateway(report) => self.role.handle_report(report, now),
                CentralMessage::IncidentKey { key } => {
                    self.reach.send_modify(|reach| reach.key = Some(key));
                }
                CentralMessage::PeerGone { node } => self.cluster.peer_gone(node),
                CentralMessage::TakeLead { seat } if self.cluster.seat() == Some(seat) => {
                    if let Some(group) = self.cluster.group() {
                        group.take_lead();
                    }
                }
                CentralMessage::TakeLead { .. } => {} // sent before the seat changed
                CentralMessage::Restart { .. } => {
                    tracing::info!("Central asked this process to restart");
                    self.leave(Outcome::Restart);
                }
                CentralMessage::Relief { successor } => {
                    if let Some((_, leave)) = &mut self.leaving {
                        tracing::info!(?successor, "Central said who takes over");
                        leave.handle_relief(successor.is_some(), now);
                    }
                }
                // Answered where the link is driven; calls and probes are served before they come here.
                CentralMessage::RaftCall(_)
                | CentralMessage::ProbeDestination(_)
                | CentralMessage::RaftReply(_)
                | CentralMessage::Probe { .. }
                | CentralMessage::Stopping {} => {}
            },
        }
        Ok(())
    }

    /// One of the two ways to central is gone, and nothing had been heard on it for `silent_for`, or ever. Silence
    /// counts from the last word heard on either, not from when it was noticed.
    fn central_gone(&mut self, silent_for: Option<Duration>, now: Instant) {
        if let Some(silent_for) = silent_for {
            let heard_at = now.checked_sub(silent_for).unwrap_or(now);
            self.central_heard_at = self.central_heard_at.max(heard_at);
        }
        match self.control_up || self.tunnel_up {
            true => self.role.handle_central(true, now),
            false => self.role.handle_central_silent(self.central_heard_at, now),
        }
    }

    async fn seat(&mut self, grant: SeatGrant) -> Result<(), AppError> {
        match grant {
            SeatGrant::None { restart_required } => {
                if restart_required {
                    tracing::info!("Marked as a candidate; a restart of this process is required");
                }
            }
            SeatGrant::Found { seat } => self.cluster.take(seat, true).await?,
            SeatGrant::Join { seat } => self.cluster.take(seat, false).await?,
            SeatGrant::Leave { seat } if self.cluster.kept().is_some_and(|kept| kept.seat == seat) => {
                self.role.handle_seat(None, Instant::now());
                self.carry_out();
                self.cluster.leave().await?;
            }
            SeatGrant::Leave { .. } => {}
        }
        Ok(())
    }

    fn heard_cluster(&mut self, event: ClusterEvent) -> Result<(), AppError> {
        let now = Instant::now();
        match event {
            ClusterEvent::Seat(seat) => {
                let kept = self.cluster.kept().filter(|kept| Some(kept.seat) == seat);
                let before = self.hello_seat.send_replace(kept).map(|kept| kept.seat);
                if let (Some(lost), None) = (before, seat) {
                    // Left as told, or moved aside as damaged: central learns either way.
                    self.control.tell(AgentMessage::SeatLeft { seat: lost });
                }
                self.role.handle_seat(seat, now);
            }
            ClusterEvent::Leadership(group::Leadership { running: false, .. }) => {
                // A storage error: this voter is none any more, and must not pretend.
                let stopped = self.cluster.group().and_then(|group| group.status().stopped);
                return Err(AppError::Records {
                    path: self.cluster.folder().to_owned(),
                    why: stopped.unwrap_or_else(|| "no reason is known".into()),
                });
            }
            ClusterEvent::Leadership(group::Leadership { leader, leads, running: true }) => {
                self.role.handle_leadership(Leadership { leader, leads }, now);
            }
            // Shown and reported after every event.
            ClusterEvent::Pacing | ClusterEvent::Forgetful => {}
            ClusterEvent::Claim(group::Claim { epoch, node, boot }) => {
                self.role.handle_claim(Claim { epoch, node, boot }, now);
            }
        }
        Ok(())
    }

    fn heard_tunnel(&mut self, event: TunnelEvent) {
        let now = Instant::now();
        // What an older tunnel still had to say is no news of the present one.
        let (TunnelEvent::Up { epoch }
        | TunnelEvent::Lost { epoch, .. }
        | TunnelEvent::Refused { epoch, .. }
        | TunnelEvent::Drained { epoch }) = &event;
        let current = match self.role.role() {
            Role::Active { epoch } | Role::Draining { epoch } => Some(epoch),
            Role::Unseated | Role::Standby | Role::Claiming => None,
        };
        if current != Some(*epoch) && !matches!(event, TunnelEvent::Drained { .. }) {
            return;
        }
        match event {
            TunnelEvent::Up { epoch } => {
                tracing::info!(%epoch, "The tunnel is up");
                self.tunnel_up = true;
                self.last_error = None;
                self.role.handle_central(true, now);
            }
            TunnelEvent::Lost { why, silent_for, .. } => {
                self.tunnel_up = false;
                self.last_error = Some(why);
                self.central_gone(silent_for, now);
            }
            TunnelEvent::Refused { epoch, refusal } => {
                self.last_error = Some(refusal.to_string());
                self.role.handle_refused(epoch, refusal.code, now);
            }
            TunnelEvent::Drained { epoch } => {
                tracing::info!(%epoch, "The tunnel has drained");
                self.draining = None;
                if current == Some(epoch) {
                    self.tunnel_up = false;
                    self.last_error = None;
                    self.role.handle_central(self.control_up, now);
                    self.role.handle_drained(now);
                }
            }
        }
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.role.poll_action() {
            tracing::debug!(?action, role = ?self.role.role(), "The role asks");
            match action {
                Action::Ask { id } => drop(self.control.tell(AgentMessage::AskGateway { id })),
                Action::Claim => self.claim(),
                Action::Transfer { to } => {
                    if let Some(group) = self.cluster.group()
                        && self.hand_overs.is_empty()
                    {
                        self.hand_overs.spawn(cluster::transfer(group.clone(), to));
                    }
                }
                Action::GiveWay => {
                    if let Some(group) = self.cluster.group()
                        && self.hand_overs.is_empty()
                    {
                        self.hand_overs.spawn(cluster::give_way(
                            group.clone(),
                            self.peers.clone(),
                            self.shared.clone(),
                        ));
                    }
                }
                Action::AskForLead { leader } => {
                    if let Some(group) = self.cluster.group()
                        && self.hand_overs.is_empty()
                    {
                        self.hand_overs.spawn(cluster::ask_for_lead(
                            group.clone(),
                            self.peers.clone(),
                            self.shared.clone(),
                            leader,
                        ));
                    }
                }
                Action::OpenTunnel { epoch } => self.open_tunnel(epoch),
                Action::DrainTunnel { .. } => {
                    if let Some(tunnel) = self.tunnel.take() {
                        tunnel.drain();
                        self.draining = Some(tunnel);
                    }
                }
                Action::CloseTunnel => {
                    self.tunnel_up = false;
                    for tunnel in self.tunnel.take().into_iter().chain(self.draining.take()) {
                        self.errands.spawn(tunnel.close());
                    }
                }
            }
        }
    }

    fn claim(&mut self) {
        let Some(group) = self.cluster.group().cloned() else { return };
        let (boot, claimed) = (self.boot, self.claimed.0.clone());
        self.errands.spawn(async move {
            let result = group.claim(boot).await;
            if let Err(error) = &result {
                tracing::warn!(%error, "The claim was not committed");
            }
            // A committed claim arrives as an applied one; this only ends the waiting.
            let _ = claimed.send(result.is_ok()).await;
        });
    }

    fn open_tunnel(&mut self, epoch: Epoch) {
        let Some(seat) = self.cluster.seat() else { return };
        tracing::info!(%epoch, "Took over as active");
        let claimed = Claimed { node: seat.node, epoch, boot: self.boot };
        self.tunnel = Some(KeptTunnel::start(claimed, self.surroundings.clone(), self.settings));
    }

    /// Reports what changed to central and to the status socket.
    fn show(&mut self) {
        let report = AgentReport {
            role: self.role.role().name(),
            seat: self.cluster.seat(),
            written: self.cluster.group().map(group::Group::written),
            forgetful: self.cluster.group().map(group::Group::forgetful).unwrap_or_default(),
            leader: self.role.leadership().leader,
            leads: Some(self.role.leadership().leads),
            last_error: self.last_error.clone(),
        };
        if self.reported.as_ref() != Some(&report) && self.control.tell(AgentMessage::Report(report.clone()))
        {
            self.reported = Some(report.clone());
        }
        let kept = self.cluster.kept();
        self.hello_seat.send_if_modified(|known| {
            let same_seat = known.map(|known| known.seat) == kept.map(|kept| kept.seat);
            same_seat && std::mem::replace(known, kept) != kept
        });
        let active = match self.role.role() {
            Role::Active { epoch } | Role::Draining { epoch } => Some(epoch),
            Role::Unseated | Role::Standby | Role::Claiming => None,
        };
        let tunnel = self.tunnel.as_ref().and_then(KeptTunnel::tunnel);
        let lanes = tunnel.as_ref().map_or(0, Lanes::attached);
        let tunnel = tunnel.map(|tunnel| tunnel.stats());
        let (control_up, tunnel_up) = (self.control_up, self.tunnel_up);
        self.shared.set_hears_central(control_up || tunnel_up);
        let (heard, why) = (control_up || tunnel_up, &self.last_error);
        self.reach.send_if_modified(|reach| {
            let changed = reach.heard != heard;
            reach.heard = heard;
            reach.why.clone_from(why);
            changed
        });
        let identity = self.surroundings.identity.borrow().clone();
        let dialer = &self.surroundings.dialer;
        let raft = self.cluster.group().map(|group| group.status().into());
        self.shown.send_modify(|snapshot| {
            snapshot.update(&report, active, control_up, tunnel_up, tunnel.as_ref(), lanes);
            snapshot.raft = raft;
            snapshot.refresh(&identity, dialer);
        });
    }

    /// Leaves in order: the streams reset, the lead to another, the records closed.
    async fn stop(mut self) {
        // The tunnel first: while it lives, a new leader gives the lead straight back.
        for tunnel in self.tunnel.take().into_iter().chain(self.draining.take()) {
            tunnel.close().await;
        }
        if let Some(group) = self.cluster.group()
            && group.leadership().borrow().leads
        {
            cluster::give_way(group.clone(), self.peers.clone(), self.shared.clone()).await;
        }
        self.errands.shutdown().await;
        self.hand_overs.shutdown().await;
        self.cluster.close().await;
        self.parts.shutdown().await;
        self.close_exporter.cancel();
        // Bounded by itself: seconds.
        while self.exporter.join_next().await.is_some() {}
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
