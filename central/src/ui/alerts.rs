//! `/alerts`: who is told of an outage, whether that works, and what was told.

use askama::Template;
use axum::http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::{
    alert_form::{self, PRESETS, Preset},
    client::{self, Refused},
    form::{Filled, Form},
    frame::{Frame, Section},
    query::Query,
    reply,
    visitor::{Shown, Visitor},
    words::{Badge, Moment, Tone},
};
use crate::admin::Role::CloudAdministrator;

/// Deliveries shown.
const DELIVERIES: usize = 50;

/// How long nobody may be told, in hours, and in words.
const HOURS: [(&str, &str); 4] = [("0.5", "30 minutes"), ("2", "2 hours"), ("8", "8 hours"), ("24", "a day")];

#[derive(Template)]
#[template(path = "alerts.html")]
struct AlertsPage {
    frame: Frame,
    raised: bool,
    event: String,
    endpoints: Vec<EndpointRow>,
    hold_down: Filled,
    version: String,
    deliveries: Vec<DeliveryRow>,
    maintenance: Option<MaintenanceShown>,
    silence: Filled,
    results: Vec<TestResult>,
    preview: Option<Preview>,
    trouble: Vec<String>,
    may: String,
}

struct EndpointRow {
    name: String,
    preset: String,
    url: String,
    also: String,
    state: Badge,
    why: Option<String>,
    enabled: bool,
}

struct DeliveryRow {
    id: String,
    at: Moment,
    kind: String,
    endpoint: String,
    state: Badge,
    summary: String,
    answer: String,
    again: bool,
}

struct MaintenanceShown {
    until: Moment,
    reason: String,
}

struct TestResult {
    verdict: Badge,
    endpoint: String,
    kind: String,
    answer: String,
    took: String,
    request: String,
}

struct Preview {
    endpoint: String,
    kind: String,
    request: String,
}

#[derive(Deserialize)]
struct Delivery {
    id: String,
    endpoint: String,
    alert: AlertOf,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    state: Value,
    tries: u32,
    attempts: Vec<Attempt>,
}

#[derive(Deserialize)]
struct AlertOf {
    kind: String,
    summary: String,
}

#[derive(Deserialize)]
struct Attempt {
    took_ms: u64,
    request: String,
    outcome: Value,
}

#[derive(Deserialize)]
struct Tested {
    endpoint: String,
    kind: String,
    delivered: bool,
    attempt: Attempt,
}

#[derive(Deserialize)]
struct Maintenance {
    #[serde(with = "time::serde::rfc3339")]
    until: OffsetDateTime,
    reason: String,
}

/// What the page shows beside what is always there.
#[derive(Default)]
struct Extra {
    results: Vec<TestResult>,
    preview: Option<Preview>,
    refused: Option<(&'static str, Form, Refused)>,
}

pub(super) async fn show(mut visitor: Visitor) -> Shown {
    page(&mut visitor, Extra::default()).await
}

async fn page(visitor: &mut Visitor, extra: Extra) -> Shown {
    let (frame, gateway) = Frame::new(visitor, Section::Alerts, "Alerts").await?;
    let answered = visitor.api.versioned("/alerts").await?;
    let deliveries: Vec<Delivery> =
        visitor.api.get(&format!("/alerts/deliveries?limit={DELIVERIES}")).await?;
    let maintenance: Option<Maintenance> = visitor.api.get("/alerts/maintenance").await?;
    let now = OffsetDateTime::now_utc();
    let mut hold_down = Form::default();
    hold_down.set("hold_down", text(&answered.body, "hold_down"));
    let (mut hold_down, mut silence) = (Filled::new(hold_down), Filled::default());
    let status = extra.refused.as_ref().map_or(StatusCode::OK, |(_, _, refused)| refused.status);
    let mut trouble = Vec::new();
    if let Some((which, form, refused)) = extra.refused {
        let filled = Filled::refused(form, refused);
        trouble = filled.trouble(&["hold_down", "hours", "reason"]);
        match which {
            "hold_down" => hold_down = filled,
            _ => silence = filled,
        }
    }
    let page = AlertsPage {
        raised: gateway.event.raised,
        event: gateway.event.name,
        endpoints: endpoints(&answered.body).map(endpoint_row).collect(),
        version: answered.version.unwrap_or_default(),
        deliveries: deliveries.into_iter().map(|delivery| delivery_row(delivery, now)).collect(),
        maintenance: maintenance
            .map(|one| MaintenanceShown { until: Moment::new(one.until, now), reason: one.reason }),
        may: visitor.lacks(CloudAdministrator),
        results: extra.results,
        preview: extra.preview,
        hold_down,
        silence,
        trouble,
        frame,
    };
    Ok(reply::page_with(status, &page))
}

fn endpoints(document: &Value) -> impl Iterator<Item = &Value> {
    document.get("endpoints").and_then(Value::as_array).into_iter().flatten()
}

fn text(value: &Value, field: &str) -> String {
    value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn endpoint_row(endpoint: &Value) -> EndpointRow {
    let enabled = endpoint.get("enabled").and_then(Value::as_bool).unwrap_or(true);
    let why = endpoint.get("disabled_because").and_then(Value::as_str).map(str::to_owned);
    let also: Vec<&str> = endpoint
        .get("also")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let preset = text(endpoint, "preset");
    EndpointRow {
        name: text(endpoint, "name"),
        url: match text(endpoint, "url") {
            url if url.is_empty() => "the preset's own address".to_owned(),
            url => url,
        },
        also: also.iter().map(|kind| alert_form::kind_words(kind)).collect::<Vec<_>>().join(", "),
        state: if enabled { Badge::new(Tone::Good, "on") } else { Badge::new(Tone::Calm, "off") },
        preset: alert_form::preset_words(if preset.is_empty() { "json" } else { &preset }).to_owned(),
        why,
        enabled,
    }
}

fn delivery_row(delivery: Delivery, now: OffsetDateTime) -> DeliveryRow {
    let state = match delivery.state.get("state").and_then(Value::as_str) {
        Some("delivered") => Badge::new(Tone::Good, "delivered"),
        Some("given_up") => Badge::new(Tone::Bad, "given up"),
        Some("sending") => Badge::new(Tone::Busy, "being sent"),
        _ => Badge::new(Tone::Busy, "waiting"),
    };
    let last = delivery.attempts.last();
    let tries = match delivery.tries {
        0 => String::new(),
        1 => ", 1 attempt".to_owned(),
        tries => format!(", {tries} attempts"),
    };
    DeliveryRow {
        again: state.word != "being sent",
        state,
        at: Moment::new(delivery.created_at, now),
        kind: alert_form::kind_words(&delivery.alert.kind).to_owned(),
        endpoint: delivery.endpoint,
        summary: delivery.alert.summary,
        answer: last.map_or_else(
            || "not tried yet".to_owned(),
            |attempt| format!("{}{tries}", answer(&attempt.outcome)),
        ),
        id: delivery.id,
    }
}

/// What a receiver said, or why it said nothing.
fn answer(outcome: &Value) -> String {
    match outcome.get("status").and_then(Value::as_u64) {
        Some(status) => {
            let excerpt = text(outcome, "excerpt");
            let excerpt = excerpt.trim();
            if excerpt.is_empty() {
                format!("answered {status}")
            } else {
                format!("answered {status}: {excerpt}")
            }
        }
        None => match text(outcome, "why") {
            why if why.is_empty() => "no answer".to_owned(),
            why => why,
        },
    }
}

pub(super) async fn test(mut visitor: Visitor, form: Form) -> Shown {
    // Always one of them: without a name the API would tell all.
    let asked = json!({"endpoint": form.text("endpoint"), "kind": form.text("kind")});
    match visitor.api.send(Method::POST, "/alerts/test", asked).await {
        Ok(answered) => {
            let tested: Vec<Tested> = client::read(answered.body)?;
            let results = tested.into_iter().map(|one| TestResult {
                verdict: if one.delivered {
                    Badge::new(Tone::Good, "delivered")
                } else {
                    Badge::new(Tone::Bad, "not delivered")
                },
                endpoint: one.endpoint,
                kind: alert_form::kind_words(&one.kind).to_owned(),
                answer: answer(&one.attempt.outcome),
                took: format!("{} ms", one.attempt.took_ms),
                request: one.attempt.request,
            });
            page(&mut visitor, Extra { results: results.collect(), ..Extra::default() }).await
        }
        Err(refused) => Ok(reply::not_done("/alerts", &refused)),
    }
}

pub(super) async fn preview(mut visitor: Visitor, form: Form) -> Shown {
    let (endpoint, kind) = (form.text("endpoint").to_owned(), form.text("kind").to_owned());
    let asked = json!({"endpoint": endpoint, "kind": kind});
    match visitor.api.send(Method::POST, "/alerts/preview", asked).await {
        Ok(answered) => {
            let shown = Preview { endpoint, kind, request: text(&answered.body, "request") };
            page(&mut visitor, Extra { preview: Some(shown), ..Extra::default() }).await
        }
        Err(refused) => Ok(reply::not_done("/alerts", &refused)),
    }
}

/// Changes the settings as they are now, unless somebody else did since the page was made.
async fn rewrite(
    visitor: &Visitor,
    version: &str,
    change: impl FnOnce(&mut Map<String, Value>) -> Result<(), Refused>,
) -> Result<(), Refused> {
    let answered = visitor.api.versioned("/alerts").await?;
    let Value::Object(mut document) = answered.body else {
        return Err(Refused::ours("the alerts' settings are no object".to_owned()));
    };
    change(&mut document)?;
    visitor.api.change(Method::PUT, "/alerts", Value::Object(document), version).await.map(drop)
}

/// Where the endpoint stands that a form is about.
fn place_of(list: &[Value], name: &str) -> Result<usize, Refused> {
    let place = list.iter().position(|endpoint| text(endpoint, "name") == name);
    place.ok_or_else(|| Refused::field("endpoint", format!("no alert endpoint is named {name:?}")))
}

fn list_of(document: &mut Map<String, Value>) -> &mut Vec<Value> {
    let list = document.entry("endpoints").or_insert_with(|| json!([]));
    if !list.is_array() {
        *list = json!([]);
    }
    match list {
        Value::Array(list) => list,
        // Made one just above.
        _ => unreachable!("a list was put here"),
    }
}

pub(super) async fn hold_down(mut visitor: Visitor, form: Form) -> Shown {
    let wanted = form.text("hold_down").trim().to_owned();
    let done = rewrite(&visitor, form.text("version"), |document| {
        document.insert("hold_down".to_owned(), json!(wanted));
        Ok(())
    });
    match done.await {
        Ok(()) => Ok(reply::done("/alerts", format!("An outage is told once it has lasted {wanted}."))),
        Err(refused) => page(&mut visitor, refusing("hold_down", form, refused)).await,
    }
}

fn refusing(which: &'static str, form: Form, refused: Refused) -> Extra {
    Extra { refused: Some((which, form, refused)), ..Extra::default() }
}

pub(super) async fn switch(visitor: Visitor, form: Form) -> Shown {
    let name = form.text("endpoint").to_owned();
    let on = match form.either("enabled", "on", "off") {
        Ok(on) => on,
        Err(refused) => return Ok(reply::not_done("/alerts", &refused)),
    };
    let done = rewrite(&visitor, form.text("version"), |document| {
        let list = list_of(document);
        let place = place_of(list, &name)?;
        list[place]["enabled"] = json!(on);
        Ok(())
    });
    let said = if on {
        format!("{name} is told again.")
    } else {
        format!("{name} is told nothing until it is switched on.")
    };
    Ok(match done.await {
        Ok(()) => reply::done("/alerts", said),
        Err(refused) => reply::not_done("/alerts", &refused),
    })
}

pub(super) async fn remove(visitor: Visitor, form: Form) -> Shown {
    let name = form.text("endpoint").to_owned();
    let done = rewrite(&visitor, form.text("version"), |document| {
        let list = list_of(document);
        list.remove(place_of(list, &name)?);
        Ok(())
    });
    Ok(match done.await {
        Ok(()) => reply::done("/alerts", format!("{name} was removed.")),
        Err(refused) => reply::not_done("/alerts", &refused),
    })
}

pub(super) async fn send_again(visitor: Visitor, form: Form) -> Shown {
    if form.filled("id").is_none() {
        return Ok(reply::not_done("/alerts", &Refused::field("id", "says which message is sent again")));
    }
    let id: String = url::form_urlencoded::byte_serialize(form.text("id").as_bytes()).collect();
    let path = format!("/alerts/deliveries/{}/send-again", id.replace('+', "%20"));
    Ok(match visitor.api.send(Method::POST, &path, json!({})).await {
        Ok(_) => reply::done("/alerts", "It is sent again, under the id its receiver knows."),
        Err(refused) => reply::not_done("/alerts", &refused),
    })
}

/// How long nobody is told, in seconds. What is too long is the API's to say.
fn hours_of(form: &Form) -> Result<f64, Refused> {
    let hours = form.text("hours").trim();
    let number = hours.parse::<f64>().ok().filter(|hours| hours.is_finite() && *hours > 0.0);
    let number = number.ok_or_else(|| Refused::field("hours", format!("{hours:?} is no number of hours")))?;
    Ok((number * 3600.0).min(1e9))
}

pub(super) async fn begin_maintenance(mut visitor: Visitor, form: Form) -> Shown {
    let done = match hours_of(&form) {
        Ok(seconds) => {
            let until = OffsetDateTime::now_utc() + time::Duration::seconds_f64(seconds);
            let until = until.format(&time::format_description::well_known::Rfc3339).unwrap_or_default();
            let asked = json!({"until": until, "reason": form.text("reason").trim()});
            visitor.api.send(Method::PUT, "/alerts/maintenance", asked).await
        }
        Err(refused) => Err(refused),
    };
    match done {
        Ok(_) => {
            Ok(reply::done("/alerts", "Nobody is told until then; what still lasts is told afterwards."))
        }
        // The page asks how long, where the API takes until when.
        Err(refused) => {
            page(&mut visitor, refusing("maintenance", form, refused.called("until", "hours"))).await
        }
    }
}

pub(super) async fn end_maintenance(visitor: Visitor) -> Shown {
    Ok(match visitor.api.send(Method::DELETE, "/alerts/maintenance", json!({})).await {
        Ok(_) => reply::done("/alerts", "Alerts are told again."),
        Err(refused) => reply::not_done("/alerts", &refused),
    })
}

#[derive(Template)]
#[template(path = "alert_form.html")]
struct EndpointPage {
    frame: Frame,
    filled: Filled,
    presets: &'static [Preset],
    kinds: Vec<KindBox>,
    /// The endpoint that is changed; empty while one is added.
    changed: String,
    version: String,
    trouble: Vec<String>,
    /// The whole endpoint as JSON, for what has no field of its own.
    json: String,
    may: String,
}

/// A box to be ticked: a kind of alert that is told beside down and up.
struct KindBox {
    field: String,
    words: &'static str,
    ticked: bool,
}

/// `?endpoint=NAME`
#[derive(Deserialize)]
pub(super) struct Which {
    #[serde(default)]
    endpoint: String,
}

pub(super) async fn edit(mut visitor: Visitor, Query(which): Query<Which>) -> Shown {
    let answered = visitor.api.versioned("/alerts").await?;
    let known = endpoints(&answered.body).find(|endpoint| text(endpoint, "name") == which.endpoint).cloned();
    let form = known.as_ref().map_or_else(alert_form::fresh, alert_form::filled_from);
    let version = answered.version.unwrap_or_default();
    let changed = if known.is_some() { which.endpoint } else { String::new() };
    endpoint_page(&mut visitor, Filled::new(form), changed, version, known).await
}

async fn endpoint_page(
    visitor: &mut Visitor,
    filled: Filled,
    changed: String,
    version: String,
    known: Option<Value>,
) -> Shown {
    let title =
        if changed.is_empty() { "Add an alert endpoint".to_owned() } else { format!("Change {changed}") };
    let (frame, _) = Frame::new(visitor, Section::Alerts, title).await?;
    let typed = filled.value("json").to_owned();
    let json = match known {
        _ if !typed.is_empty() => typed,
        Some(known) => serde_json::to_string_pretty(&known).unwrap_or_default(),
        None => String::new(),
    };
    let status = filled.refusal().map_or(StatusCode::OK, |refused| refused.status);
    let trouble = match filled.refusal() {
        Some(refused) if refused.is_lost_update() => {
            vec!["Somebody else changed the alerts meanwhile. What you typed stands below: saving now adds it to what they wrote.".to_owned()]
        }
        _ => filled.trouble(alert_form::FIELDS),
    };
    let page = EndpointPage {
        presets: PRESETS,
        kinds: alert_form::KINDS
            .iter()
            .map(|(kind, words)| {
                let field = format!("also.{kind}");
                KindBox { ticked: filled.ticked(&field), field, words }
            })
            .collect(),
        may: visitor.lacks(CloudAdministrator),
        trouble,
        filled,
        changed,
        version,
        json,
        frame,
    };
    Ok(reply::page_with(status, &page))
}

pub(super) async fn save(mut visitor: Visitor, form: Form) -> Shown {
    let changed = form.text("changed").to_owned();
    let answered = visitor.api.versioned("/alerts").await?;
    let known = endpoints(&answered.body).find(|endpoint| text(endpoint, "name") == changed).cloned();
    let saved = match alert_form::endpoint(&form, known.as_ref()) {
        Ok(endpoint) => {
            let name = text(&endpoint, "name");
            let done = rewrite(&visitor, form.text("version"), |document| {
                let list = list_of(document);
                match list
                    .iter_mut()
                    .find(|endpoint| !changed.is_empty() && text(endpoint, "name") == changed)
                {
                    Some(place) => *place = endpoint,
                    None => list.push(endpoint),
                }
                Ok(())
            });
            done.await.map(|()| name)
        }
        Err(why) => Err(Refused::field("json", why)),
    }
    .map_err(|refused| alert_form::at_its_fields(refused, &form));
    match saved {
        Ok(name) => Ok(reply::done(
            "/alerts",
            format!("{name} was saved. Send it a test, so that you know it arrives."),
        )),
        Err(refused) => {
            // The newest version: saving once more is then a decision made with open eyes.
            let version = answered.version.unwrap_or_default();
            endpoint_page(&mut visitor, Filled::refused(form, refused), changed, version, known).await
        }
    }
}
