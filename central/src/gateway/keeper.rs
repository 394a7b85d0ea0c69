//! Keeps one Environment's gateway: the one task in which its decisions are made, in order.
//!
//! ```text
//!   handshakes, links, lanes ──┐                     ┌──► agents (seat, roster, report, orders)
//!   witness (claims, members) ─┼──► Keeper ──────────┼──► fence and group record (store)
//!   administrator's commands ──┘    │  │  │          ├──► parked listeners (watch)
//!                                   │  │  └ Policy   └──► view (watch)
//!                                   │  └─ ProxyProcessor
//!                                   └──── seating::next_step
//! ```
//!
//! Invariant: a tunnel takes streams only between its admission by the durable fence and the
//! admission of a higher epoch (or its own end). Everything that takes long (a ping, a drain, a
//! Raft RPC) happens elsewhere and comes back as an [`Event`].

mod act;
mod admit;
mod alerts;
mod command;
mod drain;
mod history;
mod lanes;
mod members;
mod own_member;
mod recover;
mod show;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use alerting::Policy;
use proto::{
    AgentId, BootId, Epoch, Name, NodeId,
    control::{AgentReport, CentralMessage, GatewayReport},
    driver::{LaneEnd, Tunnel},
    hello::{LaneHello, Seat, TunnelHello},
};
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Command,
    environment::Environment,
    fence::{Fence, Fences},
    proxy_processor::ProxyProcessor,
    registry::AgentLink,
    session::{Lane, Session},
    view::{GatewayView, SwitchView},
};
use crate::{
    alerts::{Book, Nudge, Pages},
    enrolment::AgentIdentity,
    events::NewEvent,
    failovers::{Chronicle, Failovers},
    process_server::{ProcessServer, ProcessServers, group::GroupRecord, group::Groups, records::Records},
    store::StoreError,
};

pub use admit::Admitted;

/// How often a drain is looked at; nobody waits for its end.
const DRAIN_LOOK: Duration = Duration::from_millis(250);
/// How long a tunnel has to show that it lives.
const PING_LIMIT: Duration = Duration::from_secs(1);
/// How often a tunnel is looked at that was admitted and has not begun.
const ATTACH_LOOK: Duration = Duration::from_millis(10);
/// Something the keeper must know.
pub enum Event {
    /// An agent's control websocket was admitted.
    Connected(Arc<AgentLink>),
    Disconnected(Arc<AgentLink>),
    /// An agent asks whether a tunnel lives.
    Asked {
        link: Arc<AgentLink>,
        id: u64,
    },
    /// The tunnel was pinged for that question.
    Pinged {
        link: Arc<AgentLink>,
        id: u64,
        lane: u64,
        alive: bool,
    },
    Reported {
        link: Arc<AgentLink>,
        report: AgentReport,
    },
    SeatLeft {
        agent: AgentId,
        seat: Seat,
    },
    /// An agent was asked to end.
    Leaving {
        link: Arc<AgentLink>,
    },
    /// A tunnel wants to be admitted; its claim was seen by the witness.
    Knock {
        peer: AgentIdentity,
        hello: TunnelHello,
        reply: oneshot::Sender<admit::Answer>,
    },
    /// A tunnel that is up wants a further lane.
    LaneKnock {
        peer: AgentIdentity,
        hello: LaneHello,
        reply: oneshot::Sender<admit::Answer>,
    },
    /// A websocket of a tunnel has ended.
    LaneEnded {
        lane: u64,
        end: LaneEnd,
    },
    /// The witness applied or learned something.
    GroupChanged,
    /// The agent a group is to be founded on anew was asked whether it lives.
    Recovering(recover::Asked),
    Command(Command),
    /// Central stops: say so and let go.
    Stop,
}

/// The keeper's own knobs, from central's configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    pub connect_timeout: Duration,
    pub drain_timeout: Duration,
    pub resume_window: Duration,
    pub dead_after: Duration,
    /// Until an administrator sets another.
    pub hold_down: Duration,
    pub timings: group::Timings,
    /// Where the witness keeps its guard file, one per Environment.
    pub guards: PathBuf,
    /// Where people look on who were told.
    pub pages: Pages,
}

/// What the keeper works with.
pub struct Rooms {
    pub servers: ProcessServers,
    pub groups: Groups,
    pub fences: Fences,
    pub alerts: Book,
    pub failovers: Failovers,
    pub records: Records,
    /// Wakes whoever sends alerts.
    pub nudge: Nudge,
    pub disk: Arc<durable::Durable>,
}

/// The one who decides. See the module.
pub struct Keeper {
    environment: Arc<Environment>,
    settings: Settings,
    rooms: Rooms,
    view: watch::Sender<Arc<GatewayView>>,

    servers: BTreeMap<AgentId, ProcessServer>,
    record: GroupRecord,
    /// The seat each agent holds, by its own word or by a grant since.
    holds: BTreeMap<AgentId, Option<Seat>>,
    leaving: Vec<Leaving>,
    dissolve_at: Option<Instant>,
    /// The newest claim the witness was seen to have applied.
    claim_seen: Option<Epoch>,
    /// When a witness that does not run is started again.
    witness_at: Option<Instant>,
    /// A witness under a new node id that the group has not taken in yet.
    joining: Option<own_member::Joining>,
    /// Nodes whose agents have forgotten what they acknowledged, as leaders told. Their seats go to nobody.
    forgetful: BTreeSet<NodeId>,
    /// Connected agents that were asked to end.
    departing: BTreeSet<AgentId>,
    /// Where peers last said they can be reached; an agent that is away keeps its addresses.
    addrs: BTreeMap<AgentId, Vec<String>>,

    /// The fence as last read or written; only this task writes it.
    fence: Option<Fence>,
    processor: ProxyProcessor,
    policy: Policy,
    telling: alerts::Telling,
    session: Option<Session>,
    draining: Option<(Session, Instant)>,
    /// Since when nobody has been known to lead the group.
    leaderless_since: Option<Instant>,
    /// Since when no admitted tunnel has lived.
    lost_at: Option<Instant>,
    lost_why: Option<String>,
    state_since: OffsetDateTime,
    last_active: Option<Name>,
    last_switch: Option<SwitchView>,
    told: Option<GatewayReport>,
    pending_events: VecDeque<NewEvent>,
    chronicle: Chronicle,
}

/// An agent whose seat was taken, until the membership has followed.
struct Leaving {
    agent: AgentId,
    seat: Seat,
}

impl Keeper {
    /// Reads what is recorded and takes up where it was left.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(
        environment: Arc<Environment>,
        settings: Settings,
        rooms: Rooms,
    ) -> Result<(Self, watch::Receiver<Arc<GatewayView>>), StoreError> {
        let view = watch::Sender::new(Arc::new(GatewayView::idle()));
        let reader = view.subscribe();
        let mut chronicle = Chronicle::new(rooms.failovers.newest().await?, settings.connect_timeout);
        // Central ended in the middle of it: what followed is told from here on.
        chronicle.given_up(OffsetDateTime::now_utc());
        let mut keeper = Self {
            processor: ProxyProcessor::new(settings.connect_timeout),
            policy: Policy::new(settings.hold_down),
            telling: alerts::Telling::default(),
            environment,
            settings,
            rooms,
            view,
            servers: BTreeMap::new(),
            record: GroupRecord::default(),
            holds: BTreeMap::new(),
            leaving: Vec::new(),
            dissolve_at: None,
            claim_seen: None,
            witness_at: None,
            joining: None,
            forgetful: BTreeSet::new(),
            departing: BTreeSet::new(),
            addrs: BTreeMap::new(),
            fence: None,
            session: None,
            draining: None,
            leaderless_since: Some(Instant::now()),
            lost_at: None,
            lost_why: None,
            state_since: OffsetDateTime::now_utc(),
            last_active: None,
            last_switch: None,
            told: None,
            pending_events: VecDeque::new(),
            chronicle,
        };
        keeper.record = keeper.rooms.groups.record().await?;
        keeper.fence = keeper.rooms.fences.current().await?;
        keeper.read_servers().await?;
        keeper.seats_changed();
        if keeper.record.group.is_some() {
            keeper.start_witness().await;
            let now = Instant::now();
            keeper.lost_at = Some(now);
            // The fence knows who was active last; without one, the founder is waited for.
            let last =
                keeper.fence.map(|fence| fence.node).filter(|node| keeper.record.agent_on(*node).is_some());
            let first = last.or_else(|| keeper.record.group.as_ref()?.seats.first().map(|s| s.node));
            if let Some(node) = first {
                keeper.last_active = keeper.name_of(node);
                keeper.chronicle_begins("central was started", false);
                keeper.processor.handle_restored(node, keeper.settings.dead_after, now);
            }
        }
        keeper.restore_alerts(Instant::now()).await?;
        keeper.show();
        Ok((keeper, reader))
    }

    /// Runs until [`Event::Stop`]. Not cancel-safe: a dropped
    /// keeper leaves its Environment without decisions, so its parent treats that as fatal.
    pub async fn run(mut self, mut inbox: mpsc::Receiver<Event>, mut commands: mpsc::Receiver<Command>) {
        loop {
            let timer = self.next_timeout();
            let event = tokio::select! {
                Some(event) = inbox.recv() => Some(event),
                Some(command) = commands.recv() => Some(Event::Command(command)),
                () = sleep_until(timer) => None,
            };
            let now = Instant::now();
            match event {
                Some(Event::Stop) => return self.stop().await,
                Some(event) => self.handle(event, now).await,
                None => {}
            }
            self.handle_timeout(now).await;
            self.settle(now).await;
        }
    }

    async fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::Connected(link) => self.connected(link).await,
            Event::Disconnected(link) => self.disconnected(&link).await,
            Event::Asked { link, id } => self.asked(link, id),
            Event::Pinged { link, id, lane, alive } => {
                if !alive && self.lane_is(lane) {
                    tracing::warn!(environment = %self.environment.name, "The tunnel did not answer a ping and counts as lost");
                    self.lane_lost(now, "it did not answer a ping within 1 s");
                }
                let answer = GatewayReport { answers: Some(id), ..self.report() };
                link.tell(CentralMessage::Gateway(answer));
            }
            Event::Reported { link, report } => {
                if let (Some(seat), Some(written)) = (report.seat, report.written) {
                    self.rooms.records.told(link.agent, seat, written, &self.record);
                }
                self.hear_of_forgetful(&link, &report);
                link.set_report(report);
            }
            Event::SeatLeft { agent, seat } => {
                self.leaving.retain(|leaving| (leaving.agent, leaving.seat) != (agent, seat));
                // Its records are gone, ordered or not: if it still sits there, it needs another node.
                if self.holds.get(&agent) == Some(&Some(seat)) {
                    self.holds.insert(agent, None);
                }
            }
            Event::Leaving { link } => self.leaving(&link, now),
            Event::Knock { peer, hello, reply } => {
                let answer = self.admit(&peer, &hello, now).await;
                self.answer(reply, answer, now);
            }
            Event::LaneKnock { peer, hello, reply } => {
                let answer = self.admit_lane(&peer, &hello).await;
                self.answer(reply, answer, now);
            }
            Event::LaneEnded { lane, end } => self.lane_gone(lane, &end, now).await,
            Event::GroupChanged => self.group_changed(),
            Event::Recovering(asked) => self.recover(asked, now).await,
            Event::Command(command) => self.command(command, now).await,
            // Ends the loop before it comes here.
            Event::Stop => {}
        }
    }

    fn answer(&mut self, reply: oneshot::Sender<admit::Answer>, answer: admit::Answer, now: Instant) {
        // A handshake that gave up meanwhile drops the admitted lane, which reads as lost.
        if let Err(Ok(unheard)) = reply.send(answer) {
            self.lane_ended(unheard.lane.id, "its handshake was given up", now);
        }
    }

    async fn connected(&mut self, link: Arc<AgentLink>) {
        self.holds.insert(link.agent, link.hello.seat);
        // One that still means to end says so again.
        self.departing.remove(&link.agent);
        if !link.hello.peer_addrs.is_empty() {
            self.addrs.insert(link.agent, link.hello.peer_addrs.clone());
        }
        let seen = self
            .rooms
            .servers
            .seen(&link.name, link.boot, &link.hello.software, &link.hello.system, OffsetDateTime::now_utc())
            .await;
        match seen {
            Ok(server) => drop(self.servers.insert(server.agent, server)),
            Err(error) => {
                tracing::warn!(agent = %link.name, %error, "Could not note that an agent connected")
            }
        }
        if let Some(old) = self.environment.registry.insert(link.clone()) {
            old.closed.cancel();
        }
        if let (Some(witness), Some(seat)) = (self.environment.witness(), self.record.seat_of(link.agent)) {
            witness.group.peer_back(seat.node);
        }
        if let Some(held) = link.hello.seat
            && !self.environment.registry.sits(link.agent, held)
        {
            self.holds.insert(link.agent, None);
            if self.is_member(held) {
                self.leaving.push(Leaving { agent: link.agent, seat: held });
                self.seats_changed();
            } else {
                link.tell(CentralMessage::Seat(proto::control::SeatGrant::Leave { seat: held }));
            }
        }
        self.note("agent_connected", format!("{} connected to central from {}", link.name, link.remote));
        self.look_at_records(&link);
        self.grant(&link);
        link.tell(CentralMessage::Gateway(self.report()));
        link.tell(self.incident_key());
        self.tell_roster();
    }

    /// Whoever comes back with records from an earlier day may have forgotten a vote: it must not sit there again.
    fn look_at_records(&mut self, link: &AgentLink) {
        let Some(seat) = link.hello.seat else { return };
        let told = link.hello.written.and_then(|written| {
            let told = self.rooms.records.lost(link.agent, seat, written)?;
            Some(format!("are from an earlier time ({written} changes, and it had told of {told})"))
        });
        let acknowledged = || "lack what it had acknowledged to its leader".to_owned();
        if let Some(how) = told.or_else(|| self.forgetful.contains(&seat.node).then(acknowledged)) {
            self.put_back(link.agent, &link.name, &how);
        }
    }

    /// The same, noticed by the leader, which knows what its followers acknowledged. Only the leader is believed, as the
    /// witness knows it.
    fn hear_of_forgetful(&mut self, link: &AgentLink, report: &AgentReport) {
        let leader =
            self.environment.witness().and_then(|witness| witness.group.leadership().borrow().leader);
        let leads = self.record.seat_of(link.agent).is_some_and(|seat| leader == Some(seat.node));
        // A node that nobody sits on any more is given out to nobody.
        self.forgetful.retain(|node| self.record.agent_on(*node).is_some());
        for node in report.forgetful.iter().filter(|_| leads) {
            let Some(agent) = self.record.agent_on(*node) else { continue };
            let (held, seat) = (self.holds.get(&agent).copied().flatten(), self.record.seat_of(agent));
            // One that is away is looked at when it is back.
            if self.forgetful.insert(*node)
                && held == seat
                && let Some(name) = self.servers.get(&agent).map(|server| server.name.clone())
            {
                self.put_back(agent, &name, &format!("lack what it had acknowledged to {}", link.name));
            }
        }
    }

    fn put_back(&mut self, agent: AgentId, name: &Name, how: &str) {
        self.holds.insert(agent, None);
        let text = format!(
            "{name}'s Raft records {how}: a backup or a snapshot of its machine was put back. It gets another node"
        );
        self.note_of(name, "agent_put_back", text);
    }

    async fn disconnected(&mut self, link: &AgentLink) {
        if !self.environment.registry.remove(link) {
            return; // its successor is already here
        }
        self.holds.remove(&link.agent);
        self.departing.remove(&link.agent);
        if let Err(error) = self.rooms.servers.last_seen(&link.name, link.last_heard()).await {
            tracing::debug!(agent = %link.name, %error, "Could not note when an agent was last seen");
        }
        self.note("agent_disconnected", format!("{} is no longer connected to central", link.name));
        // A closed socket is a hint: its peers, and the witness, need not wait for their timeouts.
        if let Some(seat) = self.record.seat_of(link.agent) {
            self.peer_gone(seat.node);
        }
    }

    fn peer_gone(&self, node: NodeId) {
        for link in self.environment.registry.links() {
            link.tell(CentralMessage::PeerGone { node });
        }
        if let Some(witness) = self.environment.witness()
            && witness.group.leadership().borrow().leader == Some(node)
        {
            witness.group.leader_gone();
        }
    }

    fn asked(&mut self, link: Arc<AgentLink>, id: u64) {
        let Some(Session { lane: Lane::Up(lane), tunnel, .. }) = &self.session else {
            let answer = GatewayReport { answers: Some(id), ..self.report() };
            return link.tell(CentralMessage::Gateway(answer));
        };
        let (tunnel, lane, keeper) = (tunnel.first().clone(), lane.id, self.environment.keeper.clone());
        // Ends within a second whatever happens; nobody needs to wait for it.
        tokio::spawn(async move {
            let alive = answers(&tunnel, PING_LIMIT).await;
            let _ = keeper.send(Event::Pinged { link, id, lane, alive }).await;
        });
    }

    fn group_changed(&mut self) {
        let Some(witness) = self.environment.witness() else { return };
        let claim = *witness.group.claims().borrow();
        // Other changes come this way too; an order is followed only by a claim that is new.
        if let Some(claim) = claim
            && self.claim_seen != Some(claim.epoch)
        {
            self.claim_seen = Some(claim.epoch);
            self.processor.handle_claim(claim.node);
        }
        self.witness_changed(&witness);
    }

    async fn read_servers(&mut self) -> Result<(), StoreError> {
        let servers = self.rooms.servers.list().await?;
        self.servers = servers.into_iter().map(|server| (server.agent, server)).collect();
        for link in self.environment.registry.links() {
            if !self.servers.contains_key(&link.agent) {
                link.closed.cancel(); // removed, or enrolled anew under another id
            }
        }
        self.end_removed().await;
        Ok(())
    }

    async fn handle_timeout(&mut self, now: Instant) {
        self.processor.handle_timeout(now);
        self.policy.handle_timeout(now);
        if let Some(Session { lane: Lane::Lost { until }, .. }) = &self.session
            && *until <= now
        {
            self.end_session("its active did not come back within tunnel.resume_window");
        }
        self.expire_further(now);
        self.look_at_drain(now).await;
        self.finish_leaving();
        self.look_after_witness(now).await;
        self.look_after_telling(now).await;
    }

    fn next_timeout(&self) -> Option<Instant> {
        let resume = match self.session.as_ref().map(|session| &session.lane) {
            Some(Lane::Lost { until }) => Some(*until),
            Some(Lane::Up(_)) | None => None,
        };
        let waiting = self.draining.is_some() || self.dissolve_at.is_some() || !self.leaving.is_empty();
        let look = waiting.then(|| Instant::now() + DRAIN_LOOK);
        let witness = [self.witness_at, self.joining.as_ref().and_then(own_member::Joining::tell_at)];
        [self.processor.poll_timeout(), self.policy.poll_timeout(), resume, look]
            .into_iter()
            .chain(witness)
            .chain([self.telling_timeout(), self.further_expiry()])
            .flatten()
            .min()
    }

    fn server(&self, name: &Name) -> Option<&ProcessServer> {
        self.servers.values().find(|server| server.name == *name)
    }

    fn name_of(&self, node: NodeId) -> Option<Name> {
        let agent = self.record.agent_on(node)?;
        self.servers.get(&agent).map(|server| server.name.clone())
    }

    fn restarted(&self, server: &ProcessServer, boot: Option<BootId>) -> bool {
        boot.is_some() && boot != server.marked_at_boot
    }

    async fn stop(mut self) {
        self.say_goodbye().await;
        self.write_down(Instant::now()).await;
        self.renew_incident_key().await;
        self.write_chronicle().await;
        if let Some(witness) = self.environment.set_witness(None) {
            witness.group.clone().shutdown().await;
        }
    }
}

/// Whether the tunnel gives a sign of life within `limit`. Under a bulk transfer a pong may queue
/// behind megabytes, and acknowledgements arrive all the same; one that was just admitted has yet to
/// attach its websocket.
async fn answers(tunnel: &Tunnel, limit: Duration) -> bool {
    let attached = async {
        while !tunnel.stats().attached {
            tokio::time::sleep(ATTACH_LOOK).await;
        }
        tunnel.ping(limit).await.is_some()
    };
    let ponged = tokio::time::timeout(limit, attached).await.unwrap_or(false);
    ponged || tunnel.stats().silent_for.is_some_and(|silence| silence < limit)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
