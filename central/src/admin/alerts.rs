//! `/alerts`: who is told of an outage and how; what was told; and tries before it matters.

use alerting::{
    Alert, Alerts, Delivery, DeliveryId, IncidentId, Kind, Problems,
    config::Document,
    outbox::{Attempt, Outcome, State as DeliveryState},
};
use axum::{
    Json as Answer,
    extract::{Path, State},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{
    AppState,
    input::{self, Json, Query},
    paging::{self, Order, Page, Range},
    problem::{FieldError, Problem},
    process_servers::NoFields,
    rights::Caller,
    version::{IfMatch, Version, Versioned},
};
use crate::alerts::{Book, Maintenance, SettingsError};

/// Silence that lasts longer is forgotten by whoever asked for it.
const MAINTENANCE_MAX: time::Duration = time::Duration::days(7);
const REASON_BYTES_MAX: usize = 512;

/// The settings, secrets hidden: what `PUT` takes.
pub(super) async fn show(
    State(state): State<AppState>,
    caller: Caller,
) -> Result<Versioned<Document>, Problem> {
    let settings = state.alert_book(&caller).settings().await?;
    let document = settings.document();
    Ok(Version::of(&document).on(document))
}

/// Replaces them all. A secret given as `***` stays what it was.
pub(super) async fn change(
    State(state): State<AppState>,
    caller: Caller,
    if_match: IfMatch,
    Json(given): Json<Map<String, Value>>,
) -> Result<Versioned<Document>, Problem> {
    let book = state.alert_book(&caller);
    let before = book.settings_for_replacing().await?;
    if_match.permits(&Version::of(&before.document()))?;
    let alerts = checked(&state, &book, &before.alerts, given)?;
    let settings = before.telling(alerts);
    book.set(&settings).await?;
    let told = settings.recipients().map(|recipient| recipient.endpoint).collect::<Vec<_>>().join(", ");
    let told = if told.is_empty() { "nobody".to_owned() } else { told };
    state.note(&caller, "alerts_changed", format!("Alerts were changed; told is {told}")).await;
    state.alerts_changed(&caller, &book).await?;
    let document = settings.document();
    Ok(Version::of(&document).on(document))
}

fn checked(
    state: &AppState,
    book: &Book,
    before: &Alerts,
    mut given: Map<String, Value>,
) -> Result<Alerts, Problem> {
    // Not given, it is what the operator's file says.
    given.entry("hold_down").or_insert_with(|| format!("{}ms", book.hold_down().as_millis()).into());
    let document: Document = input::from_value(Value::Object(given))?;
    Ok(Alerts::check(document, before, &state.alert_rules)?)
}

/// The body of `POST /alerts/preview`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = AlertPreviewRequest)]
#[serde(deny_unknown_fields)]
pub(super) struct PreviewRequest {
    /// The settings to try; without them, the stored ones.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    alerts: Option<Map<String, Value>>,
    endpoint: String,
    #[serde(default = "down")]
    #[schema(value_type = String)]
    kind: Kind,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AlertPreview)]
pub(super) struct Preview {
    /// What would be sent, secrets hidden.
    request: String,
}

fn down() -> Kind {
    Kind::Down
}

/// What an endpoint would be sent; sends and stores nothing.
pub(super) async fn preview(
    State(state): State<AppState>,
    caller: Caller,
    Json(wanted): Json<PreviewRequest>,
) -> Result<Answer<Preview>, Problem> {
    let book = state.alert_book(&caller);
    let stored = book.settings().await?.alerts;
    let alerts = match wanted.alerts {
        Some(given) => checked(&state, &book, &stored, given)?,
        None => stored,
    };
    let endpoint = alerts.endpoint(&wanted.endpoint).ok_or_else(|| no_endpoint(&wanted.endpoint))?;
    let shown = endpoint.preview(wanted.kind, caller.environment.as_str(), OffsetDateTime::now_utc());
    let request = shown.map_err(|error| Problem::field(error.part.clone(), error.to_string()))?;
    Ok(Answer(Preview { request }))
}

/// The body of `POST /alerts/test`.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = AlertTestRequest)]
#[serde(deny_unknown_fields)]
pub(super) struct TestRequest {
    /// Without one, every endpoint that is switched on.
    #[serde(default)]
    endpoint: Option<String>,
    #[serde(default = "down")]
    #[schema(value_type = String)]
    kind: Kind,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AlertTested)]
pub(super) struct Tested {
    endpoint: String,
    #[schema(value_type = String)]
    kind: Kind,
    /// Whether the receiver took it.
    delivered: bool,
    #[schema(value_type = Object)]
    attempt: Attempt,
}

/// Sends a rehearsal to real receivers, once, and answers with what they answered.
pub(super) async fn test(
    State(state): State<AppState>,
    caller: Caller,
    Json(wanted): Json<TestRequest>,
) -> Result<Answer<Vec<Tested>>, Problem> {
    let alerts = state.alert_book(&caller).settings().await?.alerts;
    let endpoints: Vec<_> = match &wanted.endpoint {
        Some(name) => vec![alerts.endpoint(name).ok_or_else(|| no_endpoint(name))?],
        None => alerts.endpoints().iter().filter(|endpoint| endpoint.is_enabled()).collect(),
    };
    if endpoints.is_empty() {
        return Err(Problem::conflict(
            "no_alert_endpoint",
            "no alert endpoint is switched on: add one first (PUT /alerts, posternctl alerts set)",
        ));
    }
    let id = IncidentId::new(format!("test-{}", proto::SessionId::random()));
    let now = OffsetDateTime::now_utc();
    let alert = Alert::sample(wanted.kind, id, caller.environment.as_str(), now);
    let tries = endpoints.into_iter().map(|endpoint| {
        let (endpoint, alert, courier) = (endpoint.clone(), alert.clone(), state.alert_courier.clone());
        let id = DeliveryId::of(&alert.incident.id, alert.kind, endpoint.name());
        tokio::spawn(async move {
            let attempt = courier.attempt(&endpoint, &id, &alert, now).await;
            (endpoint.name().to_owned(), attempt)
        })
    });
    let mut answers = Vec::new();
    for tried in tries.collect::<Vec<_>>() {
        // A panic in it was logged; the others' answers still count.
        let Ok((endpoint, attempt)) = tried.await else { continue };
        let delivered = matches!(attempt.outcome, Outcome::Answered { status: 200..=299, .. });
        answers.push(Tested { endpoint, kind: wanted.kind, delivered, attempt });
    }
    Ok(Answer(answers))
}

/// What was told and what still waits, newest first.
pub(super) async fn deliveries(
    State(state): State<AppState>,
    caller: Caller,
    Query(range): Query<Range>,
) -> Result<Page<Delivery>, Problem> {
    let stored = state.alert_book(&caller).deliveries().await?;
    let cursor = |delivery: &Delivery| {
        let order = format!("{}-{}", delivery.alert.kind as u8, delivery.id.as_str());
        paging::at(delivery.created_at, &order)
    };
    let mut deliveries: Vec<Delivery> = stored.into_iter().map(|stored| stored.value).collect();
    deliveries.sort_by_cached_key(|delivery| std::cmp::Reverse(cursor(delivery)));
    range.page("/alerts/deliveries", deliveries, Order::Falling, cursor, |text| Some(text.to_owned()))
}

/// Sends a delivery again, whatever became of it, under the id its receiver knows.
pub(super) async fn send_again(
    State(state): State<AppState>,
    caller: Caller,
    Path(id): Path<String>,
    Json(NoFields {}): Json<NoFields>,
) -> Result<Answer<Delivery>, Problem> {
    let book = state.alert_book(&caller);
    let known = book.deliveries().await?.into_iter().find(|stored| stored.value.id.as_str() == id);
    let known =
        known.ok_or_else(|| Problem::not_found("delivery_not_found", "no delivery has this id").at("id"))?;
    if matches!(known.value.state, DeliveryState::Sending { .. }) {
        return Err(Problem::conflict("being_sent", "this delivery is being sent at this moment"));
    }
    let again = known.value.send_again(OffsetDateTime::now_utc());
    book.replace(&known, &again).await?;
    state.ring(&caller);
    Ok(Answer(again))
}

/// The body of `PUT /alerts/maintenance`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MaintenanceRequest {
    #[serde(with = "time::serde::rfc3339")]
    until: OffsetDateTime,
    #[serde(default)]
    reason: String,
}

pub(super) async fn maintenance(
    State(state): State<AppState>,
    caller: Caller,
) -> Result<Answer<Option<Maintenance>>, Problem> {
    let settings = state.alert_book(&caller).settings().await?;
    Ok(Answer(settings.maintenance.filter(|maintenance| OffsetDateTime::now_utc() < maintenance.until)))
}

/// Nobody is told until then; what still lasts is told afterwards.
pub(super) async fn begin_maintenance(
    State(state): State<AppState>,
    caller: Caller,
    Json(wanted): Json<MaintenanceRequest>,
) -> Result<Answer<Option<Maintenance>>, Problem> {
    let now = OffsetDateTime::now_utc();
    if wanted.until <= now || wanted.until > now + MAINTENANCE_MAX {
        return Err(Problem::field("until", "must be in the future, and within 7 days"));
    }
    if wanted.reason.len() > REASON_BYTES_MAX {
        return Err(Problem::field("reason", format!("must have at most {REASON_BYTES_MAX} bytes")));
    }
    let text = format!("Alerts are silent until {}: {}", wanted.until, wanted.reason);
    let maintenance = Maintenance { until: wanted.until, reason: wanted.reason };
    set_maintenance(&state, &caller, Some(maintenance), "maintenance_began", text).await
}

pub(super) async fn end_maintenance(
    State(state): State<AppState>,
    caller: Caller,
) -> Result<Answer<Option<Maintenance>>, Problem> {
    set_maintenance(&state, &caller, None, "maintenance_ended", "Alerts are told again".to_owned()).await
}

async fn set_maintenance(
    state: &AppState,
    caller: &Caller,
    maintenance: Option<Maintenance>,
    code: &'static str,
    text: String,
) -> Result<Answer<Option<Maintenance>>, Problem> {
    let book = state.alert_book(caller);
    let mut settings = book.settings().await?;
    settings.maintenance.clone_from(&maintenance);
    book.set(&settings).await?;
    state.note(caller, code, text).await;
    state.alerts_changed(caller, &book).await?;
    Ok(Answer(maintenance))
}

impl AppState {
    fn alert_book(&self, caller: &Caller) -> Book {
        Book::new(self.store_for(caller), &caller.environment, self.alert_hold_down, self.vault.clone())
    }

    /// Everybody who goes by the settings reads them again.
    async fn alerts_changed(&self, caller: &Caller, book: &Book) -> Result<(), Problem> {
        book.hasten(OffsetDateTime::now_utc()).await?;
        self.ring(caller);
        Ok(self.gateway(caller)?.reload().await?)
    }

    fn ring(&self, caller: &Caller) {
        if let Some(nudge) = self.alert_nudges.get(&caller.environment) {
            nudge.ring();
        }
    }
}

fn no_endpoint(name: &str) -> Problem {
    Problem::not_found("alert_endpoint_not_found", format!("no alert endpoint is named {name:?}"))
        .at("endpoint")
}

impl From<Problems> for Problem {
    fn from(Problems(problems): Problems) -> Self {
        let errors = problems.into_iter().map(|problem| {
            let field = match problem.endpoint {
                Some(endpoint) => format!("endpoints[{endpoint}].{}", problem.field),
                None => problem.field,
            };
            FieldError { field, reason: problem.why }
        });
        Self::fields(errors.collect())
    }
}

impl From<SettingsError> for Problem {
    fn from(error: SettingsError) -> Self {
        let text = error.to_string();
        match error {
            SettingsError::Damaged(_) => Self::conflict("alerts_damaged", text),
            SettingsError::Changed => Self::conflict("conflict", text),
            SettingsError::Store(error) => error.into(),
        }
    }
}
