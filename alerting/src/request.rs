//! Makes an alert into what is sent to one endpoint: an HTTP request or a mail, and the same as it may be shown.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use minijinja::Value;
use reqwest::Url;
use serde::Serialize;
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    address::{self, UrlError},
    alert::{Alert, Kind},
    config::Body,
    endpoint::{Endpoint, Message},
    incident::Tried,
    outbox::DeliveryId,
    policy::EVENT_NAME,
    secret::{HIDDEN, Secret},
    sign,
    template::{self, Form, Scope, TemplateError},
};

/// A webhook, ready to go.
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// A mail's words.
pub(crate) struct Letter {
    pub(crate) subject: String,
    pub(crate) text: String,
}

/// Which part of a message could not be made, and why.
#[derive(Debug, thiserror::Error)]
#[error("{part}: {why}")]
pub struct RenderError {
    /// `url`, `body`, `subject` or `headers.NAME`.
    pub part: String,
    pub why: RenderReason,
}

#[derive(Debug, thiserror::Error)]
pub enum RenderReason {
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(transparent)]
    Url(#[from] UrlError),
    #[error("rendered, it calls {rendered} instead of {written}: the host must not depend on values")]
    OtherHost { rendered: String, written: String },
    #[error("rendered, it contains a line end or another control character")]
    ControlCharacter,
}

/// When an alert that nobody has ended is taken to be over, by receivers that must know in advance.
const EXPIRES_AFTER: Duration = Duration::days(7);

/// A reader of a mail list sees no more of a subject.
const SUBJECT_MAX_CHARS: usize = 200;

/// Whether secrets are in it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Send,
    Show,
}

pub(crate) fn scope(
    endpoint: &Endpoint,
    alert: &Alert,
    id: &DeliveryId,
    now: OffsetDateTime,
    to: Purpose,
) -> Scope {
    let secrets = match to {
        Purpose::Send => endpoint.secrets().clone(),
        Purpose::Show => endpoint.secrets().keys().map(|name| (name.clone(), Secret::new(HIDDEN))).collect(),
    };
    Scope {
        values: Value::from(minijinja::value::Serde(View::new(alert, id, now))),
        secrets: Arc::new(secrets),
    }
}

/// Renders the webhook for `alert`.
pub(crate) fn webhook(
    endpoint: &Endpoint,
    alert: &Alert,
    id: &DeliveryId,
    now: OffsetDateTime,
    to: Purpose,
) -> Result<Request, RenderError> {
    let scope = scope(endpoint, alert, id, now, to);
    let message = endpoint.message(alert.kind);
    let url = render_url(&message.url, &scope).map_err(in_part("url"))?;
    let body = body(&message, &scope)?;
    let mut headers = HeaderMap::new();
    if let Some(body) = &message.body {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(body)));
    }
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    for (name, text) in &message.headers {
        let part = || format!("headers.{name}");
        let text = match (to, text) {
            (Purpose::Show, crate::config::HeaderText::Credential(_)) => HIDDEN.to_owned(),
            _ => template::render(text.template(), Form::Text, &scope).map_err(in_part(part()))?,
        };
        headers.insert(name.clone(), header_value(&text).map_err(in_part(part()))?);
    }
    for (name, value) in sign::headers(endpoint.keys(), id, now, &body) {
        // What is shown has another body; a signature of that one would be good for it.
        let value = if to == Purpose::Show && name == sign::SIGNATURE { HIDDEN.to_owned() } else { value };
        let value = HeaderValue::try_from(value).map_err(|_| RenderReason::ControlCharacter);
        headers.insert(HeaderName::from_static(name), value.map_err(in_part(name))?);
    }
    Ok(Request { method: message.method, url, headers, body })
}

/// Renders the mail for `alert`.
pub(crate) fn letter(endpoint: &Endpoint, alert: &Alert, scope: &Scope) -> Result<Letter, RenderError> {
    let message = endpoint.message(alert.kind);
    let subject = message.subject.as_deref().unwrap_or("{{ event.title }}");
    let subject = template::render(subject, Form::Text, scope).map_err(in_part("subject"))?;
    // A value with a line end in it is no mistake of the template's; the reader wants one line.
    let subject = subject.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = String::from_utf8_lossy(&body(&message, scope)?).into_owned();
    Ok(Letter { subject: subject.chars().take(SUBJECT_MAX_CHARS).collect(), text })
}

fn body(message: &Message, scope: &Scope) -> Result<Vec<u8>, RenderError> {
    let text = match &message.body {
        None => Ok(String::new()),
        Some(Body::Json(json)) => template::render_json(json, scope),
        Some(Body::Text(text)) if message.body_is_json() => template::render(text, Form::Json, scope),
        Some(Body::Text(text)) => template::render(text, Form::Text, scope),
    };
    text.map(String::into_bytes).map_err(RenderReason::from).map_err(in_part("body"))
}

/// What a body is when no header says it.
pub(crate) fn content_type(body: &Body) -> &'static str {
    let is_json = match body {
        Body::Json(_) => true,
        Body::Text(text) => {
            let text = text.trim_start();
            let begins_with_tag = ["{{", "{%", "{#"].iter().any(|tag| text.starts_with(tag));
            text.starts_with(['{', '[']) && !begins_with_tag
        }
    };
    if is_json { "application/json" } else { "text/plain; charset=utf-8" }
}

fn render_url(template: &str, scope: &Scope) -> Result<Url, RenderReason> {
    let written = address::read_url(literal_origin(template), &["https", "http"])?;
    let rendered = address::read_url(&template::render(template, Form::Url, scope)?, &["https", "http"])?;
    if rendered.origin() == written.origin() {
        Ok(rendered)
    } else {
        let (rendered, written) = (rendered.origin(), written.origin());
        let [rendered, written] = [rendered, written].map(|origin| origin.ascii_serialization());
        Err(RenderReason::OtherHost { rendered, written })
    }
}

/// The part of an address up to its path, where no template may stand.
pub(crate) fn literal_origin(template: &str) -> &str {
    let authority = template.find("://").map_or(0, |at| at + 3);
    let end = template[authority..].find(['/', '?', '#', '{']).map_or(template.len(), |at| authority + at);
    &template[..end]
}

fn header_value(text: &str) -> Result<HeaderValue, RenderReason> {
    if text.chars().any(|c| c.is_control() && c != '\t') {
        return Err(RenderReason::ControlCharacter);
    }
    HeaderValue::from_bytes(text.trim().as_bytes()).map_err(|_| RenderReason::ControlCharacter)
}

fn in_part<E: Into<RenderReason>>(part: impl Into<String>) -> impl FnOnce(E) -> RenderError {
    let part = part.into();
    move |why| RenderError { part, why: why.into() }
}

const USER_AGENT: &str = concat!("Postern-Alerts/", env!("CARGO_PKG_VERSION"));

/// What a person may see of a request.
pub(crate) fn shown(request: &Request) -> String {
    let mut text = format!("{} {}\n", request.method, request.url);
    for (name, value) in &request.headers {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name}: {}", String::from_utf8_lossy(value.as_bytes()));
    }
    text.push('\n');
    text.push_str(&String::from_utf8_lossy(&request.body));
    text
}

/// The names that templates know. A promise to whoever wrote one.
#[derive(Serialize)]
struct View<'a> {
    event: EventView<'a>,
    incident: IncidentView<'a>,
    delivery: DeliveryView<'a>,
    environment: &'a str,
    tried: &'a [Tried],
    details: &'a BTreeMap<String, String>,
    links: LinksView<'a>,
    test: bool,
}

#[derive(Serialize)]
struct LinksView<'a> {
    /// Nothing where central does not know its own address.
    ui: Option<&'a str>,
}

#[derive(Serialize)]
struct EventView<'a> {
    name: &'a str,
    kind: &'a str,
    #[serde(rename = "type")]
    event_type: &'a str,
    state: &'a str,
    severity: &'a str,
    title: &'a str,
    summary: &'a str,
    occurred_at: String,
}

#[derive(Serialize)]
struct IncidentView<'a> {
    id: &'a str,
    dedup_key: &'a str,
    summary: &'a str,
    opened_at: String,
    expires_at: String,
    duration_s: u64,
}

#[derive(Serialize)]
struct DeliveryView<'a> {
    id: &'a str,
    delayed_by_s: i64,
}

impl<'a> View<'a> {
    fn new(alert: &'a Alert, id: &'a DeliveryId, now: OffsetDateTime) -> Self {
        let context = &alert.incident.context;
        let kind = alert.kind;
        Self {
            event: EventView {
                name: EVENT_NAME,
                kind: kind.name(),
                event_type: kind.event_type(),
                state: if kind == Kind::Up { "resolved" } else { "firing" },
                severity: kind.severity(),
                title: kind.title(),
                summary: &alert.summary,
                occurred_at: instant(alert.at),
            },
            incident: IncidentView {
                id: alert.incident.id.as_str(),
                dedup_key: &alert.incident.key,
                summary: &context.summary,
                opened_at: instant(alert.incident.opened_at),
                expires_at: instant(alert.incident.opened_at.saturating_add(EXPIRES_AFTER)),
                duration_s: alert.duration().as_secs(),
            },
            delivery: DeliveryView { id: id.as_str(), delayed_by_s: (now - alert.at).whole_seconds().max(0) },
            environment: &context.environment,
            tried: &context.tried,
            details: &alert.details,
            links: LinksView { ui: context.link.as_deref() },
            test: alert.test,
        }
    }
}

/// RFC 3339 in UTC, to the second: some receivers choke on nine decimals.
fn instant(at: OffsetDateTime) -> String {
    let utc = at.to_offset(time::UtcOffset::UTC);
    let whole = utc.replace_nanosecond(0).unwrap_or(utc);
    // Only years beyond 9999 cannot be written, and those no wall clock shows.
    whole.format(&Rfc3339).unwrap_or_default()
}
