//! What each route says of itself. A test walks the table and asks for every line of it.

use axum::http::{Method, StatusCode};
use serde_json::Value;

use super::{
    about::{About, Shape, says},
    alerts, api_tokens, destinations, drills, enrollment_tokens, gateway, meta, process_servers,
    process_servers::NoFields,
    raft, settings, sign_in, traffic, users,
};
use crate::{
    alerts::Maintenance,
    destination::Spec,
    drill::Report,
    events::Event,
    failovers::Failover,
    gateway::DrainView,
    listener::ledger::{ClosedStream, OpenStream},
    trace::{TestReport, TestSummary},
};

/// Writes the table of descriptions, once for asking and once for counting.
macro_rules! descriptions {
    ($($method:ident $path:literal => $about:expr,)*) => {
        /// What is said of the route at `path`, which begins behind `/api/v1` where it is one of the API's.
        pub(super) fn about(method: &Method, path: &str) -> Option<About> {
            match (method.as_str(), path) {
                $((stringify!($method), $path) => Some($about),)*
                _ => None,
            }
        }

        /// Every route that is described.
        #[cfg(test)]
        pub(super) const ALL: &[(&str, &str)] = &[$((stringify!($method), $path)),*];
    };
}

type Destination = destinations::DestinationAnswer<TestReport>;
type ListedDestination = destinations::DestinationAnswer<TestSummary>;

descriptions! {
    GET "/livez" => says("The process runs and answers.").writes("text/plain"),
    GET "/readyz" => says("Central can do its work; ?verbose tells each check.")
        .asks("verbose", "string", "Tells each check on a line of its own.")
        .writes("text/plain"),
    GET "/metrics" => says("What central counts and measures, for Prometheus.")
        .writes("application/openmetrics-text"),
    GET "/meta" => says("What a client must know before it may ask anything else.").answers::<meta::Meta>(),
    GET "/openapi.json" => says("This document.").answers::<Value>(),
    GET "/setup" => says("Whether nobody can sign in yet.").answers::<sign_in::SetUpAnswer>(),
    POST "/setup" => says("Makes the first administrator, by the one-time link that central printed.")
        .takes::<sign_in::SetUp>()
        .creates::<sign_in::SessionAnswer>(),
    POST "/session" => says("Signs in; the answer sets a cookie.")
        .takes::<sign_in::Credentials>()
        .creates::<sign_in::SessionAnswer>(),
    GET "/session" => says("Who asks, with which role.").answers::<sign_in::SessionAnswer>(),
    DELETE "/session" => says("Signs out.").answering(StatusCode::NO_CONTENT, None),
    PUT "/session/password" => says("Changes the caller's own password and ends the other sessions.")
        .takes::<sign_in::NewPassword>()
        .answering(StatusCode::NO_CONTENT, None),
    GET "/sessions" => says("Where the caller is signed in.").lists::<users::SessionAnswer>(),
    DELETE "/sessions/{id}" => says("Ends one of the caller's own sessions.").answering(StatusCode::NO_CONTENT, None),
    GET "/audit" => says("Who did what: records above ?after, oldest first; without it, the newest.")
        .asks("after", "integer", "Only records with a larger number.")
        .asks("limit", "integer", "At most so many, 1 to 1000.")
        .lists::<Value>(),
    GET "/audit/head" => says("Where the audit log begins and ends; keep it to notice a cut.").answers::<Value>(),
    GET "/audit/export" => says("The whole audit log, a JSON record a line.").writes("application/x-ndjson"),
    GET "/users" => says("The Environment's users, by name.").pages().lists::<users::UserAnswer>(),
    POST "/users" => says("Makes a user.").takes::<users::NewUserRequest>().creates::<users::UserAnswer>(),
    GET "/users/{name}" => says("One user.").versioned().answers::<users::UserAnswer>(),
    PATCH "/users/{name}" => says("Changes a user's role or password, or locks them out.")
        .versioned()
        .takes::<users::Change>()
        .answers::<users::UserAnswer>(),
    DELETE "/users/{name}" => says("Removes a user and ends their sessions.").answering(StatusCode::NO_CONTENT, None),
    GET "/users/{name}/sessions" => says("Where a user is signed in.").lists::<users::SessionAnswer>(),
    DELETE "/users/{name}/sessions" => says("Ends all of a user's sessions.").answering(StatusCode::NO_CONTENT, None),
    DELETE "/users/{name}/sessions/{id}" => says("Ends one of a user's sessions.")
        .answering(StatusCode::NO_CONTENT, None),
    POST "/gateway/drill" => says("Orders a failover drill: there, test everything, and back.")
        .takes::<drills::DrillRequest>()
        .answering(StatusCode::ACCEPTED, Some(Shape::one::<drills::Begun>())),
    GET "/gateway/drills" => says("Failover drills and what came of them, newest first.").lists::<Report>(),
    POST "/process-servers/{name}/approve" => says(
        "Lets an agent come back whose certificate has expired, within 24 hours.",
    )
        .takes::<NoFields>()
        .answers::<process_servers::ProcessServerAnswer>(),
    POST "/raft/recover" => says("Founds a group that lost its quorum anew on a surviving candidate.")
        .takes::<raft::RecoverRequest>()
        .answers::<raft::RecoverAnswer>(),
    GET "/gateway" => says("The Secure Gateway's state, its candidates and its last switch.")
        .answers::<gateway::GatewayAnswer>(),
    POST "/gateway/switch" => says("Orders a planned switch; the old active drains.")
        .takes::<gateway::SwitchRequest>()
        .answering(StatusCode::ACCEPTED, Some(Shape::one::<gateway::GatewayAnswer>())),
    GET "/gateway/drain" => says("Old actives that finish their streams, and who holds them open.").lists::<DrainView>(),
    POST "/gateway/drain/end" => says("Ends what still drains, its streams with it.")
        .takes::<NoFields>()
        .answering(StatusCode::NO_CONTENT, None),
    GET "/process-servers" => says("Every Process Server, by name.")
        .pages()
        .lists::<process_servers::ProcessServerAnswer>(),
    GET "/process-servers/{name}" => says("One Process Server with its System Information.")
        .versioned()
        .answers::<process_servers::ProcessServerAnswer>(),
    PATCH "/process-servers/{name}" => says("Marks or unmarks a Secure Gateway Candidate.")
        .versioned()
        .takes::<process_servers::Change>()
        .answers::<process_servers::ProcessServerAnswer>(),
    DELETE "/process-servers/{name}" => says("Removes a Process Server; its agent is refused from then on.")
        .versioned()
        .answering(StatusCode::NO_CONTENT, None),
    POST "/process-servers/{name}/restart" => says("Tells its agent to restart.")
        .takes::<NoFields>()
        .answering(StatusCode::ACCEPTED, None),
    GET "/destinations" => says("Every destination, by name, with the outcome of its newest test.")
        .pages()
        .lists::<ListedDestination>(),
    POST "/destinations" => says("Adds a destination and opens its listener.")
        .versioned()
        .takes::<Spec>()
        .creates::<Destination>(),
    GET "/destinations/{name}" => says("One destination with its newest test.").versioned().answers::<Destination>(),
    PATCH "/destinations/{name}" => says("Changes a destination by a JSON merge patch (RFC 7396).")
        .versioned()
        .takes::<Value>()
        .answers::<Destination>(),
    DELETE "/destinations/{name}" => says("Closes a destination's listener and forgets it.")
        .versioned()
        .answering(StatusCode::NO_CONTENT, None),
    POST "/destinations/{name}/test" => says("Tries every hop to a destination, through the active and from every candidate.")
        .takes::<destinations::TestRequest>()
        .answers::<TestReport>(),
    GET "/enrollment-tokens" => says("Enrolment tokens of the last day, without their secrets, oldest first.")
        .pages()
        .lists::<Value>(),
    POST "/enrollment-tokens" => says("Makes a one-time token that lets a new agent in.")
        .takes::<enrollment_tokens::NewToken>()
        .creates::<enrollment_tokens::Created>(),
    GET "/alerts" => says("Who is told of an outage and how, secrets hidden.").versioned().answers::<Value>(),
    PUT "/alerts" => says("Replaces the alerts' settings; a secret given as *** stays what it was.")
        .versioned()
        .takes::<Value>()
        .answers::<Value>(),
    POST "/alerts/preview" => says("Shows what an endpoint would be sent; sends nothing.")
        .takes::<alerts::PreviewRequest>()
        .answers::<alerts::Preview>(),
    POST "/alerts/test" => says("Sends a rehearsal to the real receivers and shows their answers.")
        .takes::<alerts::TestRequest>()
        .lists::<alerts::Tested>(),
    GET "/alerts/deliveries" => says("What was told and what still waits, newest first.").pages().lists::<Value>(),
    POST "/alerts/deliveries/{id}/send-again" => says("Sends a delivery again, under the id its receiver knows.")
        .takes::<NoFields>()
        .answers::<Value>(),
    GET "/alerts/maintenance" => says("Whether alerts are silent on purpose.").may_answer::<Maintenance>(),
    PUT "/alerts/maintenance" => says("Tells nobody until a given time.")
        .takes::<alerts::MaintenanceRequest>()
        .may_answer::<Maintenance>(),
    DELETE "/alerts/maintenance" => says("Alerts are told again.").may_answer::<Maintenance>(),
    GET "/events" => says("What happened, oldest first; with Accept: text/event-stream, as it happens.")
        .asks("after", "integer", "Only events with a larger number; without it, the newest.")
        .asks("limit", "integer", "At most so many, 1 to 1000.")
        .lists::<Event>(),
    GET "/traffic" => says("What was carried in the last hour, step by step.").answers::<traffic::Traffic>(),
    GET "/settings" => says("Every setting in force with its default and its source, and how central itself is.")
        .answers::<settings::SettingsAnswer>(),
    GET "/streams" => says("Who uses the gateway now: the open streams.").pages().lists::<OpenStream>(),
    GET "/streams/closed" => says("The last streams that ended, newest first, and where their time went.")
        .pages()
        .lists::<ClosedStream>(),
    POST "/streams/{id}/end" => says("Resets both ends of a stream.")
        .takes::<NoFields>()
        .answering(StatusCode::NO_CONTENT, None),
    GET "/failovers" => says("Each loss and each move of the tunnel, newest first.").pages().lists::<Failover>(),
    GET "/failovers/{id}" => says("One loss or move of the tunnel, from its beginning to its end.").answers::<Failover>(),
    GET "/raft" => says("The gateway group's membership, as central's own member sees it.")
        .may_answer::<raft::RaftAnswer>(),
    GET "/api-tokens" => says("API tokens without their secrets, newest last.").pages().lists::<api_tokens::TokenAnswer>(),
    POST "/api-tokens" => says("Makes an API token; the only answer that holds its secret.")
        .takes::<api_tokens::NewToken>()
        .creates::<api_tokens::Created>(),
    DELETE "/api-tokens/{id}" => says("Makes an API token invalid at once.").answering(StatusCode::NO_CONTENT, None),
}
