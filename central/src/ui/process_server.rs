//! `/process-servers/NAME`: one agent, with everything that is known of it and by whom.

use askama::Template;
use axum::extract::Path;
use time::OffsetDateTime;

use super::{
    answers::{Destination, ProcessServer, Raft, Returning},
    client::Refused,
    frame::{Frame, Section},
    hops::verdict,
    process_servers::{May, Row, name},
    reply,
    visitor::{Shown, Visitor},
    words::{Badge, Moment, validity},
};

#[derive(Template)]
#[template(path = "process_server.html")]
struct Detail {
    frame: Frame,
    row: Row,
    may: May,
    connected_since: Option<Moment>,
    remote: Option<String>,
    /// What the agent says it is.
    reported: Option<String>,
    last_error: Option<String>,
    arch: String,
    pid: u32,
    forwarder: Option<String>,
    enrolled: Option<Moment>,
    fingerprint: Option<String>,
    certificate: Option<CertificateShown>,
    returning: Option<ReturningShown>,
    seat: Option<Seat>,
    /// What it could reach when that was last tried.
    reached: Vec<Reached>,
}

/// An agent's certificate lives for a day and is renewed at two thirds of that.
const SOON: time::Duration = time::Duration::hours(4);

/// The certificate it is connected with.
struct CertificateShown {
    state: Badge,
    until: Moment,
}

/// It asks to come back with a certificate that has expired.
struct ReturningShown {
    expired: Moment,
    asked: Moment,
    from: String,
    /// Until when it was allowed to.
    approved: Option<Moment>,
}

impl ReturningShown {
    fn new(returning: Returning, now: OffsetDateTime) -> Self {
        Self {
            expired: Moment::new(returning.expired_at, now),
            asked: Moment::new(returning.last_asked_at, now),
            from: returning.from.unwrap_or_else(|| "an address that was not recorded".to_owned()),
            approved: returning
                .approved_until
                .filter(|until| *until > now)
                .map(|until| Moment::new(until, now)),
        }
    }
}

/// A destination as it was last seen from this host.
struct Reached {
    destination: String,
    verdict: Badge,
    summary: String,
    at: Option<Moment>,
}

/// Destinations asked about their last test. Whoever has more looks at the destination's own page.
const REACHED_MAX: usize = 50;
/// Destinations among which they are looked for.
const LOOKED_AT_MAX: usize = 200;

/// Its place in the group's Raft, as central's own member sees it.
struct Seat {
    node: u64,
    state: String,
    voter: bool,
    generation: u64,
    leader: String,
    applied: u64,
    round_trip: Option<String>,
}

pub(super) async fn show(mut visitor: Visitor, Path(text): Path<String>) -> Shown {
    let name = name(&text)?;
    let server: ProcessServer = visitor.api.get(&format!("/process-servers/{name}")).await?;
    let raft: Option<Raft> = visitor.api.get("/raft").await?;
    let (frame, gateway) = Frame::new(&mut visitor, Section::ProcessServers, name.to_string()).await?;
    let now = OffsetDateTime::now_utc();
    let node =
        gateway.candidates.iter().find(|candidate| candidate.name == server.name).and_then(|one| one.node);
    let link = server.link.clone();
    let reached = reached(&visitor, &server.name, now).await?;
    Ok(reply::page(&Detail {
        frame,
        row: Row::new(&server, &gateway, now),
        may: May::of(&visitor),
        connected_since: link.as_ref().map(|link| Moment::new(link.since, now)),
        remote: link.as_ref().map(|link| link.remote.clone()),
        reported: link.as_ref().and_then(|link| link.reported_role.clone()),
        certificate: link.as_ref().map(|link| CertificateShown {
            state: validity(link.certificate_expires_at, now, SOON),
            until: Moment::new(link.certificate_expires_at, now),
        }),
        last_error: link.and_then(|link| link.last_error),
        arch: server.system_information.arch,
        pid: server.system_information.pid,
        forwarder: server.system_information.ip_forwarder_url,
        enrolled: server.enrolled_at.map(|at| Moment::new(at, now)),
        fingerprint: server.fingerprint,
        returning: server.returning.map(|returning| ReturningShown::new(returning, now)),
        seat: raft.and_then(|raft| seat(&raft, node?)),
        reached,
    }))
}

/// Every candidate is asked whenever a destination is tested; here are this one's answers.
async fn reached(visitor: &Visitor, name: &str, now: OffsetDateTime) -> Result<Vec<Reached>, Refused> {
    let all: Vec<Destination> = visitor.api.get(&format!("/destinations?limit={LOOKED_AT_MAX}")).await?;
    let mut reached = Vec::new();
    for tested in all.iter().filter(|one| one.last_test.is_some()).take(REACHED_MAX) {
        let one: Destination = visitor.api.get(&format!("/destinations/{}", tested.name)).await?;
        let Some(test) = &one.last_test else { continue };
        if let Some(seen) = test.candidates.iter().find(|candidate| candidate.name == name) {
            reached.push(Reached {
                destination: one.name.clone(),
                verdict: verdict(&seen.verdict),
                summary: seen.summary.clone(),
                at: test.at.map(|at| Moment::new(at, now)),
            });
        }
    }
    Ok(reached)
}

fn seat(raft: &Raft, node: u64) -> Option<Seat> {
    let member = raft.members.iter().find(|member| member.node == node)?;
    let leader = raft.members.iter().find(|member| Some(member.node) == raft.leader);
    Some(Seat {
        node,
        state: member.state.clone(),
        voter: member.voter,
        generation: raft.generation,
        leader: leader
            .and_then(|leader| leader.name.clone())
            .unwrap_or_else(|| "nobody at the moment".to_owned()),
        applied: raft.last_applied,
        round_trip: raft.worst_round_trip_ms.map(|ms| format!("{ms:.1} ms")),
    })
}
