//! Testing a destination: from its switch in central to its first words, and from every candidate's host.
//!
//! ```text
//!   records, listener, view ──┐
//!   a stream in the tunnel ───┼──► Evidence ──► TestReport ──► kept as the destination's newest
//!   each candidate's probe ───┘
//! ```

mod record;
mod report;

use std::{net::IpAddr, sync::Arc, time::Duration};

use proto::{
    EnvironmentName,
    trace::{Ask, Hop, Step},
};
use time::OffsetDateTime;
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

pub use record::TestRecords;
pub(crate) use report::StepShape;
pub use report::{CandidateReport, TestReport, TestSummary, title};

use crate::{
    admin::data_plane::{DataPlane, Listening, OpenFailure},
    destination::{Destination, Direction, Transport},
    gateway::{GatewayView, probing::NotAsked, view::GatewayState},
};
use report::{Evidence, Heard};

/// How long a test lasts at most. Longer than an agent's own dial, so that the reason is the agent's.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(20);
/// How long an agent is given for its own probe, a little less than its answer is waited for.
const PROBE_LIMIT: Duration = Duration::from_secs(16);

/// Who asks, and for whom.
#[derive(Debug, Clone)]
pub struct Asker {
    pub by: String,
    /// The client whose way is tested, where central's access list is to be judged.
    pub client: Option<IpAddr>,
}

/// Tries everything at once and tells it in order. Within [`TEST_TIMEOUT`], whatever happens. Cancel-safe.
pub async fn test(
    data_plane: &Arc<dyn DataPlane>,
    environment: &EnvironmentName,
    destination: &Destination,
    view: &GatewayView,
    asker: Asker,
) -> TestReport {
    let at = OffsetDateTime::now_utc();
    let central = [
        enabled(destination),
        listener(destination, &data_plane.listening(environment, &destination.name), asker.client),
        tunnel(view),
    ];
    let asking = ask_candidates(data_plane, environment, destination, view);
    let began = Instant::now();
    let trying = async {
        let silent = OpenFailure::Central(format!("nobody answered within {TEST_TIMEOUT:?}"));
        let tried = timeout(TEST_TIMEOUT, data_plane.try_out(environment, destination)).await;
        (tried.unwrap_or(Err(silent)), began.elapsed())
    };
    let (candidates, (through, took)) = tokio::join!(asking, trying);
    let gave_up = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let ms = through.as_ref().map_or(gave_up, |tried| tried.ms);
    let destination = destination.name.clone();
    TestReport::of(Evidence { destination, at, by: asker.by, central, through, ms, candidates })
}

async fn ask_candidates(
    data_plane: &Arc<dyn DataPlane>,
    environment: &EnvironmentName,
    destination: &Destination,
    view: &GatewayView,
) -> Vec<Heard> {
    let mut asking = JoinSet::new();
    for (place, candidate) in view.candidates.iter().enumerate() {
        let (data_plane, environment) = (data_plane.clone(), environment.clone());
        let ask = question(destination);
        let (name, agent, connected) = (candidate.name.clone(), candidate.agent, candidate.connected);
        let active = view.active.as_ref() == Some(&name);
        asking.spawn(async move {
            let said = match connected {
                false => Err(NotAsked::NotConnected),
                true => timeout(TEST_TIMEOUT, data_plane.ask(&environment, agent, ask))
                    .await
                    .unwrap_or(Err(NotAsked::NoAnswer)),
            };
            (place, Heard { name, active, said })
        });
    }
    let mut heard = asking.join_all().await;
    heard.sort_by_key(|(place, _)| *place);
    heard.into_iter().map(|(_, heard)| heard).collect()
}

fn question(destination: &Destination) -> Ask {
    let url = &destination.url;
    Ask {
        id: 0,
        destination: destination.name.to_string(),
        host: url.host().to_owned(),
        port: url.port(),
        kind: destination.kind.as_str().to_owned(),
        path: url.path().to_owned(),
        limit_ms: u64::try_from(PROBE_LIMIT.as_millis()).unwrap_or(u64::MAX),
    }
}

fn enabled(destination: &Destination) -> Step {
    let name = &destination.name;
    match destination.enabled {
        true => Step::pass(Hop::Enabled, None, format!("{name} is enabled")),
        false => Step::fail(
            Hop::Enabled,
            None,
            format!("{name} is disabled"),
            format!("posternctl destinations enable {name}"),
        ),
    }
}

fn listener(destination: &Destination, listening: &Listening, client: Option<IpAddr>) -> Step {
    let hop = Hop::Listener;
    if destination.direction != Direction::ToSite || destination.url.scheme().transport() != Transport::Tcp {
        return Step::skip(hop, "this version opens no listener for it");
    }
    if let Some(client) = client.filter(|client| !destination.acl.permits(*client)) {
        let reason = format!("the access list of {} does not name the client {client}", destination.name);
        return Step::fail(hop, None, reason, "add the client's network to acl.clients");
    }
    let networks = &destination.acl.clients;
    let permitted = match (client, networks.is_empty()) {
        (Some(client), _) => format!("{client} may come in"),
        (None, true) => "everybody may come in".to_owned(),
        (None, false) => {
            let list = networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            format!("only {list} may come in")
        }
    };
    match listening {
        Listening::At(address) => Step::pass(hop, None, format!("listens at {address}; {permitted}")),
        Listening::Failed(why) => {
            Step::fail(hop, None, why.clone(), "free the address, or give the destination another one")
        }
        Listening::Closed if destination.enabled => Step::fail(
            hop,
            None,
            "its listener is not open yet",
            "try again; if it stays so, see central's log",
        ),
        Listening::Closed => Step::skip(hop, "closed while the destination is disabled"),
    }
}

fn tunnel(view: &GatewayView) -> Step {
    let hop = Hop::Tunnel;
    if let Some(active) = &view.active {
        let epoch = view.fence.map(|epoch| format!(", epoch {epoch}")).unwrap_or_default();
        let others = view.streams.count();
        return Step::pass(
            hop,
            None,
            format!("{active} carries the tunnel{epoch}, with {others} streams in it"),
        );
    }
    let (reason, action) = match view.state {
        GatewayState::Idle => (
            "no Secure Gateway Candidate is at work".to_owned(),
            "mark Process Servers as candidates and restart one of them",
        ),
        GatewayState::Connecting | GatewayState::Up => {
            let awaited =
                view.attempt.as_ref().map(|attempt| format!(": {} is waited for", attempt.candidate));
            let reason = format!("no tunnel is up at this moment{}", awaited.unwrap_or_default());
            (reason, "wait for the failover to end: posternctl status")
        }
        GatewayState::Down => (
            "the Secure Gateway is down: no candidate has a secure connection".to_owned(),
            "see why on the candidates' hosts: postern-agent doctor",
        ),
    };
    Step::fail(hop, None, reason, action)
}

#[cfg(test)]
mod tests {
    use proto::trace::Verdict;
    use serde_json::json;

    use super::*;
    use crate::destination::Spec;

    #[test]
    fn the_access_list_is_judged_for_the_client_that_is_asked_about() {
        let destination = destination(json!({"acl": {"clients": ["10.0.0.0/8"]}}));
        let open = Listening::At(([127, 0, 0, 1], 4000).into());
        let judged = |client: Option<&str>| {
            listener(&destination, &open, client.map(|client| client.parse().unwrap()))
        };
        assert_eq!(judged(Some("203.0.113.1")).verdict, Verdict::Fail);
        assert_eq!(judged(Some("10.1.2.3")).detail, "listens at 127.0.0.1:4000; 10.1.2.3 may come in");
        assert_eq!(judged(None).detail, "listens at 127.0.0.1:4000; only 10.0.0.0/8 may come in");
    }

    #[test]
    fn a_disabled_destination_fails_at_its_switch_and_not_at_its_listener() {
        let destination = destination(json!({"enabled": false}));
        assert!(enabled(&destination).failed());
        assert_eq!(listener(&destination, &Listening::Closed, None).verdict, Verdict::Skip);
    }

    #[test]
    fn without_a_tunnel_the_reason_is_the_gateways_state() {
        let idle = tunnel(&GatewayView::idle());
        assert!(idle.failed() && idle.action.unwrap().contains("restart one"));
        let down = GatewayView { state: GatewayState::Down, ..GatewayView::idle() };
        assert!(tunnel(&down).detail.contains("is down"));
    }

    fn destination(more: serde_json::Value) -> Destination {
        let mut spec = json!({"name": "db", "url": "tcp://db:1"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value::<Spec>(spec).unwrap().check().unwrap()
    }
}
