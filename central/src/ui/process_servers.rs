//! `/process-servers`: every agent, with the two columns people look for, and what may be done with each.

use askama::Template;
use axum::{extract::Path, http::Method, response::Response};
use proto::Name;
use serde::{Deserialize, Deserializer};
use serde_json::json;
use time::OffsetDateTime;

use super::{
    answers::{Gateway, ProcessServer, State},
    form::Form,
    frame::{Frame, Section},
    problems::disagreement,
    query::{Query, one_of},
    reply::{self, Failure},
    visitor::{Shown, Visitor},
    words::{Badge, Moment, Tone},
};
use crate::admin::Role::{CloudAdministrator, Operator};

/// Rows on one page.
const PAGE: usize = 100;

#[derive(Template)]
#[template(path = "process_servers.html")]
struct ProcessServersPage {
    frame: Frame,
    rows: Vec<Row>,
    filter: Filter,
    /// How many there are without the filter.
    all: usize,
    found: usize,
    pages: usize,
    may: May,
}

/// Why the reader may not do something; empty where they may.
pub(super) struct May {
    pub(super) mark: String,
    pub(super) operate: String,
}

impl May {
    pub(super) fn of(visitor: &Visitor) -> Self {
        Self { mark: visitor.lacks(CloudAdministrator), operate: visitor.lacks(Operator) }
    }
}

/// One Process Server, as the list and its own page show it.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) link: Badge,
    /// When it was last heard of, where it ever was.
    pub(super) heard: Option<Moment>,
    pub(super) candidate: bool,
    pub(super) gateway: Badge,
    pub(super) active: bool,
    pub(super) version: String,
    pub(super) os: String,
    pub(super) hostname: String,
    /// Why it cannot become active now; empty where it can.
    pub(super) not_active: String,
    /// Why it cannot be removed now; empty where it can.
    pub(super) not_removed: String,
    /// Where both ends disagree.
    pub(super) disagreement: Option<String>,
}

impl Row {
    pub(super) fn new(server: &ProcessServer, gateway: &Gateway, now: OffsetDateTime) -> Self {
        let link = match (server.connected, server.last_seen) {
            (true, _) => Badge::new(Tone::Good, "connected"),
            (false, Some(_)) => Badge::new(Tone::Bad, "disconnected"),
            (false, None) => Badge::new(Tone::Calm, "never connected"),
        };
        let not_active = if server.active {
            "It is active already"
        } else if !server.configured {
            "Only a configured candidate can become active: marked, restarted and connected"
        } else {
            ""
        };
        Self {
            name: server.name.clone(),
            heard: server.last_seen.map(|seen| Moment::new(seen, now)),
            link,
            candidate: server.candidate,
            gateway: gateway_badge(server, gateway),
            active: server.active,
            version: server.version.clone().unwrap_or_else(|| "not heard yet".to_owned()),
            os: server.os.clone().unwrap_or_else(|| "not heard yet".to_owned()),
            hostname: server.system_information.hostname.clone(),
            not_active: not_active.to_owned(),
            not_removed: if server.active { "It is active: switch to another one first" } else { "" }
                .to_owned(),
            disagreement: disagreement(server),
        }
    }
}

/// The column *Secure Gateway*.
fn gateway_badge(server: &ProcessServer, gateway: &Gateway) -> Badge {
    let awaited = gateway.state != State::Up
        && gateway.attempt.as_ref().is_some_and(|attempt| attempt.candidate == server.name);
    let drains = gateway.draining.iter().any(|old| old.process_server == server.name);
    match server {
        ProcessServer { active: true, .. } => Badge::new(Tone::Good, "active"),
        _ if drains => Badge::new(Tone::Busy, "finishing streams"),
        ProcessServer { candidate: false, .. } => Badge::new(Tone::Calm, "not a candidate"),
        _ if awaited => Badge::new(Tone::Busy, "connecting"),
        ProcessServer { restart_required: true, .. } => Badge::new(Tone::Busy, "restart required"),
        ProcessServer { configured: true, .. } => Badge::new(Tone::Good, "standby"),
        ProcessServer { connected: false, .. } => Badge::new(Tone::Bad, "out of reach"),
        _ => Badge::new(Tone::Busy, "joining"),
    }
}

/// `?q=TEXT&show=candidates&page=2`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Filter {
    q: String,
    #[serde(deserialize_with = "shown")]
    show: String,
    page: usize,
}

fn shown<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    one_of(deserializer, &["candidates", "disconnected", "attention"])
}

impl Filter {
    fn keeps(&self, server: &ProcessServer) -> bool {
        let text = self.q.trim().to_lowercase();
        let named = text.is_empty()
            || [&server.name, &server.system_information.hostname]
                .iter()
                .any(|field| field.to_lowercase().contains(&text));
        named
            && match self.show.as_str() {
                "candidates" => server.candidate,
                "disconnected" => !server.connected,
                "attention" => {
                    server.restart_required
                        || server.returning.is_some()
                        || (server.candidate && !server.configured)
                        || disagreement(server).is_some()
                }
                _ => true,
            }
    }
}

pub(super) async fn show(mut visitor: Visitor, Query(mut filter): Query<Filter>) -> Shown {
    let (frame, gateway) = Frame::new(&mut visitor, Section::ProcessServers, "Process Servers").await?;
    let servers: Vec<ProcessServer> = visitor.api.all("/process-servers").await?;
    let now = OffsetDateTime::now_utc();
    let found: Vec<_> = servers.iter().filter(|server| filter.keeps(server)).collect();
    let pages = found.len().div_ceil(PAGE).max(1);
    filter.page = filter.page.clamp(1, pages);
    let rows = found.iter().skip((filter.page - 1) * PAGE).take(PAGE);
    let rows = rows.map(|server| Row::new(server, &gateway, now)).collect();
    let page = ProcessServersPage {
        rows,
        all: servers.len(),
        found: found.len(),
        pages,
        filter,
        may: May::of(&visitor),
        frame,
    };
    Ok(reply::page(&page))
}

/// A name from a path, or the page that says that nothing is called so.
pub(super) fn name(text: &str) -> Result<Name, Failure> {
    text.parse().map_err(|_| Failure::NotFound("Nothing here can have this name.".to_owned()))
}

/// Where an action came from: the list or the one Process Server.
fn back(form: &Form, name: &Name) -> String {
    if form.text("from") == "detail" {
        format!("/process-servers/{name}")
    } else {
        "/process-servers".to_owned()
    }
}

/// A form of one button: does it, and says on the next page what came of it.
async fn act(
    visitor: &Visitor,
    (method, path, body): (Method, &str, serde_json::Value),
    (to, said): (&str, String),
) -> Shown {
    match visitor.api.send(method, path, body).await {
        Ok(_) => Ok(reply::done(to, said)),
        Err(refused) => Ok(reply::not_done(to, &refused)),
    }
}

pub(super) async fn mark(visitor: Visitor, Path(text): Path<String>, form: Form) -> Shown {
    let name = name(&text)?;
    let to = back(&form, &name);
    let on = match form.either("candidate", "on", "off") {
        Ok(on) => on,
        Err(refused) => return Ok(reply::not_done(&to, &refused)),
    };
    let said = if on {
        format!("{name} is marked as Secure Gateway Candidate.")
    } else {
        format!("{name} is no longer a Secure Gateway Candidate.")
    };
    let path = format!("/process-servers/{name}");
    act(&visitor, (Method::PATCH, &path, json!({"candidate": on})), (&to, said)).await
}

pub(super) async fn restart(visitor: Visitor, Path(text): Path<String>, form: Form) -> Shown {
    let name = name(&text)?;
    let path = format!("/process-servers/{name}/restart");
    let said = format!("{name} was told to restart. It is away for a moment.");
    act(&visitor, (Method::POST, &path, json!({})), (&back(&form, &name), said)).await
}

pub(super) async fn approve(visitor: Visitor, Path(text): Path<String>, form: Form) -> Shown {
    let name = name(&text)?;
    let path = format!("/process-servers/{name}/approve");
    let said = format!("{name} may come back: its agent gets a new certificate when it asks again.");
    act(&visitor, (Method::POST, &path, json!({})), (&back(&form, &name), said)).await
}

pub(super) async fn switch(visitor: Visitor, form: Form) -> Shown {
    let to = form.text("to");
    let said = format!("{to} was ordered to take over. What flows stays until it has.");
    // What can be no name has no page to go back to, and is the API's to refuse.
    let back = to.parse().map_or_else(|_| "/process-servers".to_owned(), |name| back(&form, &name));
    act(&visitor, (Method::POST, "/gateway/switch", json!({"to": to})), (&back, said)).await
}

pub(super) async fn remove(
    visitor: Visitor,
    Path(text): Path<String>,
    form: Form,
) -> Result<Response, Failure> {
    let name = name(&text)?;
    let path = format!("/process-servers/{name}");
    match visitor.api.send(Method::DELETE, &path, json!({})).await {
        Ok(_) => Ok(reply::done(
            "/process-servers",
            format!("{name} was removed. Its certificate is refused from now on."),
        )),
        Err(refused) => Ok(reply::not_done(&back(&form, &name), &refused)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_column_says_a_word_for_every_state() {
        let gateway = Gateway::sample();
        let word = |change: fn(&mut ProcessServer)| {
            let mut server = ProcessServer::sample("gw-x");
            change(&mut server);
            gateway_badge(&server, &gateway).word
        };
        assert_eq!(word(|server| server.active = true), "active");
        assert_eq!(word(|_| ()), "standby");
        assert_eq!(word(|server| server.candidate = false), "not a candidate");
        assert_eq!(word(|server| server.restart_required = true), "restart required");
        assert_eq!(word(|server| server.configured = false), "joining");
        assert_eq!(
            word(|server| {
                server.configured = false;
                server.connected = false;
            }),
            "out of reach"
        );
    }

    #[test]
    fn a_filter_finds_names_and_hosts_in_any_case() {
        let server = ProcessServer::sample("GW-Berlin");
        let filter = |q: &str, show: &str| Filter { q: q.to_owned(), show: show.to_owned(), page: 1 };
        assert!(filter(" berlin ", "").keeps(&server));
        assert!(!filter("paris", "").keeps(&server));
        assert!(!filter("", "disconnected").keeps(&server));
    }
}
