use std::{net::SocketAddr, sync::Arc};

use alerting::{Alert, IncidentId, Kind, Snapshot};
use axum::{
    Router,
    http::{Method, StatusCode},
};
use central::{
    admin::{AppState, Role},
    alerts::{ALERTS_AT_ONCE, Book, EVENTS_AT_ONCE},
    events::{NewEvent, Severity},
    store::Precondition,
};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::{net::TcpListener, sync::Mutex};

use crate::stage::{Reply, Stage, environment};

const PATH: &str = "/api/v1/alerts";

#[tokio::test]
async fn at_first_nobody_is_told_and_the_operators_hold_down_holds() {
    let stage = Stage::new();
    assert_eq!(stage.get(PATH).await.body, json!({"endpoints": [], "hold_down": "10s"}));
}

#[tokio::test]
async fn secrets_go_in_and_never_come_out_and_three_stars_keep_them() {
    let stage = Stage::new();
    let endpoint = json!({
        "name": "pager", "url": "https://pager.example/hook", "headers": {"Authorization": "Bearer canary"},
        "secrets": {"key": "canary-too"}, "down": {"body": {"key": "{{ secret('key') }}"}},
    });
    let set = set(&stage, json!({"endpoints": [endpoint], "hold_down": "30s"})).await;
    assert_eq!((set.status, &set.body["hold_down"]), (StatusCode::OK, &json!("30s")), "{:?}", set.body);
    let shown = stage.get(PATH).await.body;
    assert!(!shown.to_string().contains("canary"), "{shown}");
    assert_eq!(shown["endpoints"][0]["headers"]["Authorization"], "***");

    let again = self::set(&stage, shown).await;
    assert_eq!(again.status, StatusCode::OK, "{:?}", again.body);
    let stolen = again.body.to_string().replace("pager.example", "thief.example");
    let stolen = self::set(&stage, serde_json::from_str(&stolen).unwrap()).await;
    assert_eq!(stolen.status, StatusCode::UNPROCESSABLE_ENTITY, "a secret does not follow to another place");
}

#[tokio::test]
async fn everything_wrong_is_named_at_once() {
    let stage = Stage::new();
    let refused = set(
        &stage,
        json!({"endpoints": [
            {"name": "meta", "url": "https://169.254.169.254/latest"},
            {"name": "typo", "url": "https://a.example", "down": {"body": {"text": "{{ event.sumary }}"}}},
        ]}),
    )
    .await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    let fields: Vec<_> =
        refused.body["errors"].as_array().unwrap().iter().map(|e| e["field"].clone()).collect();
    assert!(fields.contains(&json!("endpoints[meta].url")), "{fields:?}");
    assert!(
        fields.iter().any(|field| field.as_str().unwrap().starts_with("endpoints[typo].down")),
        "{fields:?}"
    );
    assert_eq!(stage.get(PATH).await.body["endpoints"], json!([]), "and nothing was kept");
}

#[tokio::test]
async fn a_test_reaches_the_real_receiver_and_brings_its_answer() {
    let stage = Stage::new();
    let receiver = Receiver::start(StatusCode::IM_A_TEAPOT).await;
    set(&stage, json!({"endpoints": [{"name": "hook", "url": receiver.url()}]})).await;
    let path = format!("{PATH}/test");
    let tested = stage.ask(Role::CloudAdministrator, Method::POST, &path, json!({"kind": "up"})).await;
    assert_eq!(tested.status, StatusCode::OK, "{:?}", tested.body);
    let first = &tested.body[0];
    assert_eq!((&first["endpoint"], &first["delivered"]), (&json!("hook"), &json!(false)));
    assert_eq!(first["attempt"]["outcome"]["status"], 418);
    let heard = receiver.heard.lock().await;
    assert_eq!(heard.len(), 1, "once");
    assert!(heard[0].contains("test"), "{heard:?}");
    assert_eq!(stage.get(&format!("{PATH}/deliveries")).await.body, json!([]), "a test is no delivery");
}

#[tokio::test]
async fn a_test_without_an_endpoint_says_what_to_do() {
    let stage = Stage::new();
    let path = format!("{PATH}/test");
    let refused = stage.ask(Role::CloudAdministrator, Method::POST, &path, Value::Null).await;
    assert_eq!((refused.status, refused.code()), (StatusCode::CONFLICT, "no_alert_endpoint"));
}

#[tokio::test]
async fn what_was_told_is_listed_and_can_be_sent_again() {
    let stage = Stage::new();
    set(&stage, json!({"endpoints": [{"name": "hook", "url": "https://hook.example"}]})).await;
    outage(&stage).await;
    let listed = stage.get(&format!("{PATH}/deliveries")).await.body;
    assert_eq!((&listed[0]["endpoint"], &listed[0]["state"]["state"]), (&json!("hook"), &json!("waiting")));
    let path = format!("{PATH}/deliveries/{}/send-again", listed[0]["id"].as_str().unwrap());
    let again = stage.ask(Role::CloudAdministrator, Method::POST, &path, Value::Null).await;
    assert_eq!((again.status, &again.body["id"]), (StatusCode::OK, &listed[0]["id"]));
}

#[tokio::test]
async fn in_maintenance_nobody_is_told() {
    let stage = Stage::new();
    set(&stage, json!({"endpoints": [{"name": "hook", "url": "https://hook.example"}]})).await;
    let path = format!("{PATH}/maintenance");
    let long_ago = json!({"until": "2020-01-01T00:00:00Z"});
    let refused = stage.ask(Role::CloudAdministrator, Method::PUT, &path, long_ago).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    let until = OffsetDateTime::now_utc() + time::Duration::hours(1);
    let until = until.format(&time::format_description::well_known::Rfc3339).unwrap();
    let begun = json!({"until": until, "reason": "new switches"});
    assert_eq!(stage.ask(Role::CloudAdministrator, Method::PUT, &path, begun).await.status, StatusCode::OK);
    assert_eq!(stage.get(&path).await.body["reason"], "new switches");

    outage(&stage).await;
    assert_eq!(stage.get(&format!("{PATH}/deliveries")).await.body, json!([]));
    stage.ask(Role::CloudAdministrator, Method::DELETE, &path, Value::Null).await;
    assert_eq!(stage.get(&path).await.body, Value::Null);
}

#[tokio::test]
async fn a_preview_shows_what_would_be_sent_and_sends_nothing() {
    let stage = Stage::new();
    let alerts =
        json!({"endpoints": [{"name": "chat", "preset": "slack", "url": "https://hooks.slack.example/x"}]});
    let body = json!({"alerts": alerts, "endpoint": "chat", "kind": "down"});
    let shown = stage.ask(Role::CloudAdministrator, Method::POST, &format!("{PATH}/preview"), body).await;
    assert_eq!(shown.status, StatusCode::OK, "{:?}", shown.body);
    assert!(shown.body["request"].as_str().unwrap().contains("hooks.slack.example"));
    assert_eq!(stage.get(PATH).await.body["endpoints"], json!([]));
}

#[tokio::test]
async fn as_much_as_is_told_at_once_fits_into_one_transaction() {
    let stage = &Stage::new();
    let endpoints: Vec<_> = (0..16)
        .map(|n| json!({"name": format!("hook-{n}"), "url": "https://hook.example", "also": ["candidate_silent"]}))
        .collect();
    set(stage, json!({"endpoints": endpoints})).await;
    let book = book(stage);
    let now = OffsetDateTime::now_utc();
    let silent =
        |n: usize| Alert::sample(Kind::CandidateSilent, IncidentId::new(n.to_string()), "default", now);
    let alerts: Vec<_> = (0..ALERTS_AT_ONCE).map(silent).collect();
    let event = |n: usize| NewEvent {
        code: "test",
        severity: Severity::Info,
        text: n.to_string(),
        sender: "gateway".into(),
    };
    let events = (0..EVENTS_AT_ONCE).map(event).collect();
    book.tell(events, (&Snapshot::Up, Precondition::Any), &alerts, now).await.unwrap();
    let told = stage.get(&format!("{PATH}/deliveries?limit=1000")).await.body;
    assert_eq!(told.as_array().unwrap().len(), ALERTS_AT_ONCE * 16);
}

#[tokio::test]
async fn settings_that_cannot_be_used_any_more_are_told_and_can_be_set_again() {
    let stage = Stage::new();
    set(&stage, json!({"endpoints": [{"name": "hook", "url": "https://hook.example", "secret": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}]})).await;
    stage.damage("alert_settings", |record| record["alerts"]["sealed"] = json!({})).await;
    let refused = stage.get(PATH).await;
    assert_eq!((refused.status, refused.code()), (StatusCode::CONFLICT, "alerts_damaged"));
    assert!(refused.body["detail"].as_str().unwrap().contains("set them again"), "{:?}", refused.body);
    let again = set(&stage, json!({"endpoints": []})).await;
    assert_eq!(again.status, StatusCode::OK, "{:?}", again.body);
    assert_eq!(stage.get(PATH).await.status, StatusCode::OK);
}

fn book(stage: &Stage) -> Book {
    let AppState { store, alert_hold_down, vault, .. } = stage.state.clone();
    Book::new(store, &environment(), alert_hold_down, vault)
}

async fn set(stage: &Stage, alerts: Value) -> Reply {
    stage.ask(Role::CloudAdministrator, Method::PUT, PATH, alerts).await
}

/// As the gateway's room writes it.
async fn outage(stage: &Stage) {
    let book = book(stage);
    let now = OffsetDateTime::now_utc();
    let alert = Alert::sample(Kind::Down, IncidentId::new("outage"), "default", now);
    book.tell(Vec::new(), (&Snapshot::Up, Precondition::Any), &[alert], now).await.unwrap();
}

/// An HTTP server that remembers bodies and always gives the same answer.
struct Receiver {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Receiver {
    async fn start(answer: StatusCode) -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let remember = heard.clone();
        let router = Router::new().fallback(move |body: String| async move {
            remember.lock().await.push(body);
            answer
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, heard }
    }

    fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }
}
