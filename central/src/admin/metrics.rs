//! `/metrics`: OpenMetrics text. Read at the moment somebody asks, from the same snapshots as the API.
//!
//! Labels are Environments, candidates and states: few, and set by administrators. Never a stream, a client or a
//! person.

mod history;

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, text::encode},
    metrics::{MetricType, counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use proto::EnvironmentName;
use std::sync::atomic::AtomicU64;
use time::OffsetDateTime;

pub use self::history::History;
use super::{AppState, measure::Labels, problem::Problem, rights::Caller};
use crate::{
    alerts::{Book, Tally},
    failovers::Failovers,
    gateway::view::GatewayState,
    process_server::ProcessServers,
    spread::Spread,
};

const MEDIA: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Value = Gauge<f64, AtomicU64>;

/// Everybody's, where the operator opened it; otherwise those of the caller's Environment.
pub(super) async fn show(
    State(state): State<AppState>,
    caller: Option<axum::Extension<Caller>>,
) -> Result<Response, Problem> {
    let mut sheet = Sheet::default();
    for (name, _) in state.gateways.iter() {
        if caller.as_ref().is_none_or(|caller| caller.0.environment == *name) {
            sheet.environment(&state, name).await?;
        }
    }
    let mut registry = Registry::with_prefix("postern");
    sheet.register(&mut registry);
    state.measures.register(&mut registry);
    state.storage.register(&mut registry);
    if let Some(counts) = state.traces.counts() {
        let spans: Family<Labels, Counter> = Family::default();
        for (outcome, count) in
            [("exported", counts.exported), ("dropped", counts.dropped), ("failed", counts.failed)]
        {
            spans.get_or_create(&vec![("outcome", outcome.to_owned())]).inc_by(count);
        }
        registry.register("trace_spans", "Spans of connections, by what became of them", spans);
    }
    let expiries: Family<Labels, Value> = Family::default();
    for (purpose, at) in state.enrolment.ca().expiries() {
        expiries.get_or_create(&vec![("purpose", purpose.to_owned())]).set(seconds(at));
    }
    registry.register(
        "certificate_expiry_timestamp_seconds",
        "When a certificate of central's own ends",
        expiries,
    );
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => Ok(([(header::CONTENT_TYPE, MEDIA)], text).into_response()),
        Err(error) => {
            tracing::error!(%error, "The metrics could not be written");
            Err(Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "metrics_failed",
                "the metrics could not be written",
            ))
        }
    }
}

/// All values of one answer.
#[derive(Default)]
struct Sheet {
    up: Family<Labels, Value>,
    state: Family<Labels, Value>,
    active: Family<Labels, Value>,
    can_lose: Family<Labels, Value>,
    event_raised: Family<Labels, Value>,
    connected: Family<Labels, Value>,
    last_seen: Family<Labels, Value>,
    failovers: Family<Labels, Counter>,
    last_gap: Family<Labels, Value>,
    streams: Family<Labels, Value>,
    streams_total: Family<Labels, Counter>,
    parked: Family<Labels, Value>,
    bytes: Family<Labels, Counter>,
    round_trip: Family<Labels, Value>,
    lanes: Family<Labels, Value>,
    raft_leader: Family<Labels, Value>,
    raft_term: Family<Labels, Value>,
    raft_index: Family<Labels, Value>,
    raft_voters: Family<Labels, Value>,
    raft_quorum: Family<Labels, Value>,
    links: Family<Labels, Value>,
    webhooks: Family<Labels, Value>,
    oldest_webhook: Family<Labels, Value>,
    webhook_attempts: Family<Labels, Counter>,
    failover_gaps: Spreads,
    attempts: Family<Labels, Counter>,
    attempts_lasted: Spreads,
    openings: Spreads,
    streams_lasted: Spreads,
}

/// Spreads that were counted elsewhere, each with its labels.
#[derive(Debug, Default)]
struct Spreads(Vec<(Labels, Spread)>);

impl EncodeMetric for Spreads {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), std::fmt::Error> {
        for (labels, spread) in &self.0 {
            encoder.encode_family(labels)?.encode_histogram::<Labels>(
                spread.sum().as_secs_f64(),
                spread.count(),
                &spread.buckets(),
                None,
            )?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

impl Sheet {
    async fn environment(&mut self, state: &AppState, name: &EnvironmentName) -> Result<(), Problem> {
        let Some(gateway) = state.gateways.of(name) else { return Ok(()) };
        let view = gateway.view();
        let of = || vec![("environment", name.to_string())];
        let with = |label: &'static str, value: String| {
            let mut labels = of();
            labels.push((label, value));
            labels
        };
        self.up.get_or_create(&of()).set(number(view.state == GatewayState::Up));
        for (word, is) in [
            ("idle", GatewayState::Idle),
            ("connecting", GatewayState::Connecting),
            ("up", GatewayState::Up),
            ("down", GatewayState::Down),
        ] {
            self.state.get_or_create(&with("state", word.to_owned())).set(number(view.state == is));
        }
        if let Some(active) = &view.active {
            self.active.get_or_create(&with("candidate", active.to_string())).set(1.0);
        }
        if let Some(losses) = view.can_lose {
            self.can_lose.get_or_create(&of()).set(losses as f64);
        }
        self.event_raised.get_or_create(&of()).set(number(view.event_raised));
        let servers = ProcessServers::new(state.store.clone(), name).list().await?;
        for server in servers.iter().filter(|server| server.candidate) {
            let labels = with("candidate", server.name.to_string());
            let connected = view.connected.get(&server.agent);
            self.connected.get_or_create(&labels).set(number(connected.is_some()));
            if let Some(seen) = connected.map(|there| there.last_heard).or(server.last_seen) {
                self.last_seen.get_or_create(&labels).set(seconds(seen));
            }
        }
        let failovers = Failovers::new(state.store.clone(), name).all().await?;
        if let Some(gap) = failovers.first().and_then(|newest| newest.gap_ms) {
            self.last_gap.get_or_create(&of()).set(gap as f64 / 1_000.0);
        }
        let history = state.history.count(name, &failovers);
        for (reason, count) in [("planned", history.planned), ("lost", history.lost)] {
            self.failovers.get_or_create(&with("reason", reason.to_owned())).inc_by(count);
        }
        for (outcome, count) in history.attempts {
            self.attempts.get_or_create(&with("outcome", outcome.to_owned())).inc_by(count);
        }
        self.failover_gaps.0.push((of(), history.gaps));
        self.attempts_lasted.0.push((of(), history.attempts_lasted));
        let traffic = state.data_plane.traffic(name);
        let times = traffic.times;
        let stages = [("parked", times.parked), ("dialled", times.dialled), ("first_byte", times.first_byte)];
        for (stage, spread) in stages {
            self.openings.0.push((with("stage", stage.to_owned()), spread));
        }
        self.streams_lasted.0.push((of(), times.lasted));
        for (protocol, carried) in state.data_plane.carried(name) {
            let with = |label: Option<(&'static str, &str)>| {
                let mut labels = with("protocol", protocol.to_owned());
                labels.extend(label.map(|(label, value)| (label, value.to_owned())));
                labels
            };
            self.streams.get_or_create(&with(None)).set(carried.open as f64);
            for (outcome, count) in [("opened", carried.opened), ("refused", carried.refused)] {
                self.streams_total.get_or_create(&with(Some(("outcome", outcome)))).inc_by(count);
            }
            for (direction, count) in
                [("to_site", carried.bytes_to_site), ("to_cloud", carried.bytes_to_cloud)]
            {
                self.bytes.get_or_create(&with(Some(("direction", direction)))).inc_by(count);
            }
        }
        let tunnels = usize::from(view.active.is_some()) + view.draining.len();
        for (kind, count) in [("control", view.connected.len()), ("tunnel", tunnels)] {
            self.links.get_or_create(&with("kind", kind.to_owned())).set(count as f64);
        }
        self.parked.get_or_create(&of()).set(traffic.parked as f64);
        self.lanes.get_or_create(&of()).set(traffic.lanes as f64);
        if let Some(round_trip) = traffic.round_trip {
            self.round_trip.get_or_create(&of()).set(round_trip.as_secs_f64());
        }
        if let Some(raft) = &view.raft {
            self.raft_leader.get_or_create(&of()).set(number(raft.leader == Some(raft.witness)));
            self.raft_term.get_or_create(&of()).set(raft.term as f64);
            self.raft_index.get_or_create(&of()).set(raft.last_applied as f64);
            self.raft_voters.get_or_create(&of()).set(raft.voters.len() as f64);
            self.raft_quorum.get_or_create(&of()).set(number(raft.leader.is_some()));
        }
        for (endpoint, attempts) in state.alert_tallies.get(name).map(Tally::counts).unwrap_or_default() {
            let outcomes = [
                ("delivered", attempts.delivered),
                ("failed", attempts.failed),
                ("given_up", attempts.given_up),
            ];
            for (outcome, count) in outcomes {
                let mut labels = with("endpoint", endpoint.clone());
                labels.push(("outcome", outcome.to_owned()));
                self.webhook_attempts.get_or_create(&labels).inc_by(count);
            }
        }
        let book = Book::new(state.store.clone(), name, state.alert_hold_down, state.vault.clone());
        let deliveries = book.deliveries().await?;
        let pending = deliveries.iter().map(|stored| &stored.value).filter(|delivery| delivery.is_open());
        self.webhooks.get_or_create(&of()).set(pending.clone().count() as f64);
        if let Some(oldest) = pending.map(|delivery| delivery.created_at).min() {
            self.oldest_webhook.get_or_create(&of()).set(seconds(oldest));
        }
        Ok(())
    }

    fn register(self, registry: &mut Registry) {
        let build: Family<Labels, Value> = Family::default();
        build.get_or_create(&vec![("version", env!("CARGO_PKG_VERSION").to_owned())]).set(1.0);
        registry.register("build_info", "Which central this is", build);
        registry.register("gateway_up", "An admitted tunnel lives", self.up);
        registry.register("gateway_state", "1 for the state the Secure Gateway is in", self.state);
        registry.register("gateway_active_info", "Who carries the tunnel", self.active);
        registry.register("gateway_can_lose", "Losses of a voter the group can still bear", self.can_lose);
        registry.register("gateway_event_raised", "System_Secure_Gateway is raised", self.event_raised);
        registry.register("candidate_connected", "The candidate has a control connection", self.connected);
        registry.register("candidate_last_seen_timestamp_seconds", "When it was last heard", self.last_seen);
        registry.register("failovers", "Losses and moves of the tunnel that have ended", self.failovers);
        registry.register("failover_duration_seconds", "How long each left no tunnel", self.failover_gaps);
        registry.register("connect_attempts", "Candidates' turns to bring up a tunnel", self.attempts);
        registry.register("connect_attempt_duration_seconds", "How long a turn lasted", self.attempts_lasted);
        registry.register("central_links", "Connections of agents to this central", self.links);
        registry.register(
            "stream_open_duration_seconds",
            "Until a client had its stream, by stage, of those that ended",
            self.openings,
        );
        registry.register("stream_duration_seconds", "From arrival to end", self.streams_lasted);
        registry.register(
            "raft_quorum",
            "The group has a leader, as central's member sees it",
            self.raft_quorum,
        );
        registry.register(
            "webhook_deliveries",
            "Attempts to deliver alerts since central started",
            self.webhook_attempts,
        );
        registry.register("failover_last_gap_seconds", "How long the last one left no tunnel", self.last_gap);
        registry.register("tunnel_streams_active", "Streams that are open", self.streams);
        registry.register("tunnel_streams", "Clients since central started, by outcome", self.streams_total);
        registry.register("tunnel_streams_parked", "Clients that wait for a tunnel", self.parked);
        registry.register("tunnel_bytes", "Of streams, since central started", self.bytes);
        registry.register("tunnel_rtt_seconds", "The tunnel's last measured round trip", self.round_trip);
        registry.register("tunnel_lanes", "Websockets of the tunnel that are up", self.lanes);
        registry.register("raft_is_leader", "Central's own member leads", self.raft_leader);
        registry.register("raft_term", "Of central's own member", self.raft_term);
        registry.register("raft_log_index", "Applied by central's own member", self.raft_index);
        registry.register("raft_voters", "Voters of the group", self.raft_voters);
        registry.register("webhook_pending", "Alerts that are not delivered yet", self.webhooks);
        registry.register(
            "webhook_oldest_pending_timestamp_seconds",
            "When the oldest alert was decided that is not delivered yet",
            self.oldest_webhook,
        );
    }
}

fn number(is: bool) -> f64 {
    if is { 1.0 } else { 0.0 }
}

fn seconds(at: OffsetDateTime) -> f64 {
    at.unix_timestamp_nanos() as f64 / 1e9
}
