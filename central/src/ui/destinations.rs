//! `/destinations`: named places, the strings to reach them with, and whether they answer.

use askama::Template;
use axum::{
    extract::Path,
    http::{HeaderMap, Method, StatusCode, header},
};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{
    answers::{Destination, TestOutcome},
    client::{self, Refused},
    connection_strings::{self, Connection},
    destination_form::{self, Difference, KINDS, KindGroup},
    form::{Filled, Form},
    frame::{Frame, Section},
    hops::TestShown,
    process_servers::name,
    query::{Query, one_of},
    reply,
    visitor::{Shown, Visitor},
    words::{Badge, Moment, Tone},
};
use crate::admin::Role::{Administrator, Operator};

const PAGE: usize = 100;

#[derive(Template)]
#[template(path = "destinations.html")]
struct DestinationsPage {
    frame: Frame,
    rows: Vec<Row>,
    filter: Filter,
    all: usize,
    found: usize,
    pages: usize,
    may_change: String,
}

/// One destination, as the list and its own page show it.
struct Row {
    name: String,
    kind: String,
    url: String,
    listener: Badge,
    /// Where applications connect, once something listens there.
    listen: Option<String>,
    problem: Option<String>,
    enabled: bool,
    answers: Badge,
    tested: Option<Moment>,
}

impl Row {
    fn new(destination: &Destination, now: OffsetDateTime) -> Self {
        let listener = match (&destination.problem, destination.enabled, &destination.listen) {
            (_, false, _) => Badge::new(Tone::Calm, "disabled"),
            (Some(_), true, _) => Badge::new(Tone::Bad, "not listening"),
            (None, true, Some(_)) => Badge::new(Tone::Good, "listening"),
            (None, true, None) => Badge::new(Tone::Busy, "opening"),
        };
        let answers = match destination.last_test.as_ref().map(TestOutcome::passed) {
            Some(true) => Badge::new(Tone::Good, "answered"),
            Some(false) => Badge::new(Tone::Bad, "did not answer"),
            None => Badge::new(Tone::Calm, "never tested"),
        };
        Self {
            name: destination.name.clone(),
            kind: destination.kind.clone(),
            url: destination.url.clone(),
            listener,
            listen: destination.listen.clone(),
            problem: destination.problem.clone(),
            enabled: destination.enabled,
            answers,
            tested: destination.last_test.as_ref().and_then(|test| test.at).map(|at| Moment::new(at, now)),
        }
    }
}

/// `?q=TEXT&show=failing&page=2`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Filter {
    q: String,
    #[serde(deserialize_with = "shown")]
    show: String,
    page: usize,
}

fn shown<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    one_of(deserializer, &["failing", "untested", "disabled"])
}

impl Filter {
    fn keeps(&self, destination: &Destination) -> bool {
        let text = self.q.trim().to_lowercase();
        let named =
            [&destination.name, &destination.url].iter().any(|field| field.to_lowercase().contains(&text));
        named
            && match self.show.as_str() {
                "failing" => {
                    destination.problem.is_some()
                        || destination.last_test.as_ref().is_some_and(|test| !test.passed())
                }
                "disabled" => !destination.enabled,
                "untested" => destination.last_test.is_none(),
                _ => true,
            }
    }
}

pub(super) async fn show(mut visitor: Visitor, Query(mut filter): Query<Filter>) -> Shown {
    let (frame, _) = Frame::new(&mut visitor, Section::Destinations, "Destinations").await?;
    let all: Vec<Destination> = visitor.api.all("/destinations").await?;
    let now = OffsetDateTime::now_utc();
    let found: Vec<_> = all.iter().filter(|destination| filter.keeps(destination)).collect();
    let pages = found.len().div_ceil(PAGE).max(1);
    filter.page = filter.page.clamp(1, pages);
    let shown = found.iter().skip((filter.page - 1) * PAGE).take(PAGE);
    Ok(reply::page(&DestinationsPage {
        rows: shown.map(|destination| Row::new(destination, now)).collect(),
        filter,
        all: all.len(),
        found: found.len(),
        pages,
        may_change: visitor.lacks(Administrator),
        frame,
    }))
}

#[derive(Template)]
#[template(path = "destination.html")]
struct Detail {
    frame: Frame,
    row: Row,
    connections: Vec<Connection>,
    streams: u32,
    clients: Vec<String>,
    test: Option<TestShown>,
    may_change: String,
    may_test: String,
}

pub(super) async fn detail(mut visitor: Visitor, Path(text): Path<String>, headers: HeaderMap) -> Shown {
    let name = name(&text)?;
    let destination: Destination = visitor.api.get(&format!("/destinations/{name}")).await?;
    let (frame, _) = Frame::new(&mut visitor, Section::Destinations, name.to_string()).await?;
    Ok(reply::page(&Detail {
        row: Row::new(&destination, OffsetDateTime::now_utc()),
        connections: connections(&destination, &headers),
        streams: destination.limits.streams,
        test: destination.last_test.as_ref().map(TestShown::from),
        clients: destination.acl.clients,
        may_change: visitor.lacks(Administrator),
        may_test: visitor.lacks(Operator),
        frame,
    }))
}

/// The strings to copy, where anything listens. A listener on every address is reached by the name under
/// which the reader reached central.
fn connections(destination: &Destination, headers: &HeaderMap) -> Vec<Connection> {
    let Some(listen) =
        destination.listen.as_deref().and_then(|text| text.parse::<std::net::SocketAddr>().ok())
    else {
        return Vec::new();
    };
    if listen.port() == 0 {
        return Vec::new();
    }
    let host = if listen.ip().is_unspecified() {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("CENTRAL");
        host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']).to_owned()
    } else {
        listen.ip().to_string()
    };
    let (origin, path) = destination_form::host_and_path(&destination.url);
    connection_strings::of(&destination.kind, &host, listen.port(), &origin, &path)
}

#[derive(Template)]
#[template(path = "destination_form.html")]
struct FormPage {
    frame: Frame,
    /// The destination that is changed; none while one is added.
    changed: Option<String>,
    filled: Filled,
    kinds: &'static [KindGroup],
    trouble: Vec<String>,
    version: String,
    /// Somebody else was faster: what stands there now, and what was typed here.
    differences: Option<Vec<Difference>>,
    may_change: String,
}

pub(super) async fn add(mut visitor: Visitor) -> Shown {
    let mut form = Form::default();
    form.set("type", "postgresql");
    form.set("enabled", "on");
    form_page(&mut visitor, None, Filled::new(form), String::new(), None).await
}

pub(super) async fn create(mut visitor: Visitor, form: Form) -> Shown {
    let made = match destination_form::spec(&form) {
        Ok(spec) => visitor.api.send(Method::POST, "/destinations", spec).await,
        Err(refused) => Err(refused),
    };
    match made {
        Ok(made) => {
            let made: Destination = client::read(made.body)?;
            let tested = test_now(&visitor, &made.name).await;
            Ok(reply::done(
                &format!("/destinations/{}", made.name),
                format!("{} was added. {tested}", made.name),
            ))
        }
        Err(refused) => {
            let refused = destination_form::at_its_fields(refused, &form);
            form_page(&mut visitor, None, Filled::refused(form, refused), String::new(), None).await
        }
    }
}

/// Saving is followed by a test, for whoever may run one.
async fn test_now(visitor: &Visitor, name: &str) -> String {
    if !visitor.lacks(Operator).is_empty() {
        return String::new();
    }
    match run_test(visitor, name).await {
        Ok(test) if test.passed() => "It answers.".to_owned(),
        Ok(test) => {
            let why = test.reason.or(test.summary).unwrap_or_default();
            format!("Its test failed: {}.", reply::sentence(&why))
        }
        Err(refused) => format!("It could not be tested: {}.", reply::sentence(&refused.detail)),
    }
}

async fn run_test(visitor: &Visitor, name: &str) -> Result<TestOutcome, Refused> {
    let path = format!("/destinations/{name}/test");
    client::read(visitor.api.send(Method::POST, &path, json!({})).await?.body)
}

pub(super) async fn edit(mut visitor: Visitor, Path(text): Path<String>) -> Shown {
    let name = name(&text)?;
    let answered = visitor.api.versioned(&format!("/destinations/{name}")).await?;
    let destination: Destination = client::read(answered.body)?;
    let form = destination_form::filled_from(&destination);
    let version = answered.version.unwrap_or_default();
    form_page(&mut visitor, Some(destination.name), Filled::new(form), version, None).await
}

pub(super) async fn change(mut visitor: Visitor, Path(text): Path<String>, form: Form) -> Shown {
    let name = name(&text)?;
    let path = format!("/destinations/{name}");
    let changed = match destination_form::spec(&form) {
        Ok(mut spec) => {
            if let Value::Object(fields) = &mut spec {
                fields.remove("name");
            }
            visitor.api.change(Method::PATCH, &path, spec, form.text("version")).await
        }
        Err(refused) => Err(refused),
    };
    match changed {
        Ok(_) => {
            let tested = test_now(&visitor, name.as_str()).await;
            Ok(reply::done(&path, format!("{name} was changed. {tested}")))
        }
        Err(refused) if refused.is_lost_update() => {
            let now = visitor.api.versioned(&path).await?;
            let version = now.version.unwrap_or_default();
            let differences = destination_form::differences(&client::read(now.body)?, &form);
            let filled = Filled::new(form);
            form_page(&mut visitor, Some(name.to_string()), filled, version, Some(differences)).await
        }
        Err(refused) => {
            let version = form.text("version").to_owned();
            let refused = destination_form::at_its_fields(refused, &form);
            let filled = Filled::refused(form, refused);
            form_page(&mut visitor, Some(name.to_string()), filled, version, None).await
        }
    }
}

async fn form_page(
    visitor: &mut Visitor,
    changed: Option<String>,
    filled: Filled,
    version: String,
    differences: Option<Vec<Difference>>,
) -> Shown {
    let title =
        changed.as_ref().map_or_else(|| "Add a destination".to_owned(), |name| format!("Change {name}"));
    let (frame, _) = Frame::new(visitor, Section::Destinations, title).await?;
    let status = match (&differences, filled.refusal()) {
        (Some(_), _) => StatusCode::CONFLICT,
        (None, Some(refused)) => refused.status,
        (None, None) => StatusCode::OK,
    };
    let shown = ["name", "type", "host", "port", "path", "listen", "limits.streams", "acl.clients"];
    let page = FormPage {
        trouble: filled.trouble(&shown),
        may_change: visitor.lacks(Administrator),
        changed,
        filled,
        kinds: KINDS,
        version,
        differences,
        frame,
    };
    Ok(reply::page_with(status, &page))
}

pub(super) async fn enable(visitor: Visitor, Path(text): Path<String>, form: Form) -> Shown {
    let name = name(&text)?;
    let path = format!("/destinations/{name}");
    let to = if form.text("from") == "list" { "/destinations" } else { &path };
    let on = match form.either("enabled", "on", "off") {
        Ok(on) => on,
        Err(refused) => return Ok(reply::not_done(to, &refused)),
    };
    match visitor.api.send(Method::PATCH, &path, json!({"enabled": on})).await {
        Ok(_) if on => Ok(reply::done(to, format!("{name} is enabled: its listener is open."))),
        Ok(_) => Ok(reply::done(to, format!("{name} is disabled: nobody can connect to it now."))),
        Err(refused) => Ok(reply::not_done(to, &refused)),
    }
}

pub(super) async fn remove(visitor: Visitor, Path(text): Path<String>) -> Shown {
    let name = name(&text)?;
    let path = format!("/destinations/{name}");
    match visitor.api.send(Method::DELETE, &path, json!({})).await {
        Ok(_) => Ok(reply::done("/destinations", format!("{name} was removed."))),
        Err(refused) => Ok(reply::not_done(&path, &refused)),
    }
}

pub(super) async fn test(visitor: Visitor, Path(text): Path<String>) -> Shown {
    let name = name(&text)?;
    let path = format!("/destinations/{name}");
    match run_test(&visitor, name.as_str()).await {
        Ok(test) if test.passed() => {
            let summary = test.summary.unwrap_or_else(|| format!("{name} answers"));
            Ok(reply::done(&path, format!("{}.", reply::sentence(&summary))))
        }
        Ok(test) => {
            let detail = test.summary.or(test.reason).unwrap_or_else(|| format!("{name} did not answer"));
            Ok(reply::not_done(&path, &Refused { detail, ..Refused::quiet() }))
        }
        Err(refused) => Ok(reply::not_done(&path, &refused)),
    }
}
