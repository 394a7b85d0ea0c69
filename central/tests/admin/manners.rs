//! What holds for every route alike: versions, repeats, pages, ids, metrics, the description.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use central::{
    admin::{Role, openapi},
    events::Events,
};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{
    events::happen,
    stage::{Reply, Stage, environment},
};

/// A limit on waiting for what must happen; not a measure.
const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn who_edits_what_somebody_else_has_changed_gets_a_conflict_and_not_a_lost_edit() {
    let stage = Stage::new();
    let admin = stage.token(Role::CloudAdministrator).await;
    let made =
        with(&stage, &admin, Method::POST, "/destinations", &[], json!({"name": "db", "url": "tcp://db:1"}))
            .await;
    let read = stage.get("/api/v1/destinations/db").await;
    let version = read.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(made.headers["etag"], version.as_str());

    let edit = async |version: &str, streams: u32| {
        let body = json!({"limits": {"streams": streams}});
        with(&stage, &admin, Method::PATCH, "/destinations/db", &[("if-match", version)], body).await
    };
    let first = edit(&version, 7).await;
    assert_eq!(first.status, StatusCode::OK, "{first:?}");
    let second = edit(&version, 9).await;
    assert_eq!((second.status, second.code()), (StatusCode::PRECONDITION_FAILED, "changed_meanwhile"));
    let now = first.headers["etag"].to_str().unwrap();
    assert!(second.body["detail"].as_str().unwrap().contains(now), "{second:?}");
    assert_eq!(stage.get("/api/v1/destinations/db").await.body["limits"]["streams"], 7);
    assert_eq!(edit(now, 9).await.status, StatusCode::OK);
    let gone =
        with(&stage, &admin, Method::DELETE, "/destinations/db", &[("if-match", now)], Value::Null).await;
    assert_eq!(gone.status, StatusCode::PRECONDITION_FAILED);
}

#[tokio::test]
async fn process_servers_and_alerts_have_versions_too() {
    let stage = Stage::new();
    stage.connect("gw-a").await;
    let admin = stage.token(Role::CloudAdministrator).await;
    for (path, method, body) in [
        ("/process-servers/gw-a", Method::PATCH, json!({"candidate": true})),
        ("/alerts", Method::PUT, json!({"endpoints": []})),
    ] {
        let version = stage.get(&format!("/api/v1{path}")).await.headers["etag"].to_str().unwrap().to_owned();
        let stale = with(&stage, &admin, method.clone(), path, &[("if-match", "\"0\"")], body.clone()).await;
        assert_eq!(stale.status, StatusCode::PRECONDITION_FAILED, "{path}: {stale:?}");
        let good = with(&stage, &admin, method, path, &[("if-match", &version)], body).await;
        assert_eq!(good.status, StatusCode::OK, "{path}: {good:?}");
    }
}

#[tokio::test]
async fn a_request_that_is_repeated_with_its_key_is_carried_out_once() {
    let stage = Stage::new();
    let (one, other) = (stage.token(Role::Administrator).await, stage.token(Role::Administrator).await);
    let make = async |token: &str, key: &str, name: &str| {
        let body = json!({"name": name, "url": "tcp://db:1"});
        with(&stage, token, Method::POST, "/destinations", &[("idempotency-key", key)], body).await
    };
    let first = make(&one, "k1", "db").await;
    let again = make(&one, "k1", "db").await;
    assert_eq!((first.status, again.status), (StatusCode::CREATED, StatusCode::CREATED));
    assert_eq!((&first.body, &first.headers["etag"]), (&again.body, &again.headers["etag"]));
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_ne!(first.headers["x-request-id"], again.headers["x-request-id"]);

    assert_eq!(make(&one, "k1", "moon").await.code(), "idempotency_key_reused");
    assert_eq!(make(&other, "k1", "db").await.code(), "destination_exists");
    let refused = make(&one, "k2", "db").await;
    assert_eq!(
        (refused.code(), make(&one, "k2", "db").await.code()),
        ("destination_exists", "destination_exists")
    );
    assert_eq!(stage.get("/api/v1/destinations").await.body.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn every_list_of_names_comes_in_pages() {
    let stage = Stage::new();
    for n in 0..5 {
        stage.enrol(&format!("gw-{n}")).await;
    }
    let first = stage.get("/api/v1/process-servers?limit=3").await;
    assert_eq!(first.body.as_array().unwrap().len(), 3);
    let link = first.headers["link"].to_str().unwrap();
    let next = link.split(['<', '>']).nth(1).unwrap();
    let second = stage.get(next).await;
    assert_eq!((&second.body[0]["name"], &second.body[1]["name"]), (&json!("gw-3"), &json!("gw-4")));
    assert!(!second.headers.contains_key("link"));
    assert_eq!(stage.get("/api/v1/process-servers?limit=0").await.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(stage.get("/api/v1/process-servers?page=2").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn whoever_follows_hears_what_happens_from_where_it_stopped_until_central_stops() {
    let stage = Stage::new();
    happen(&stage, 3).await;
    let token = stage.token(Role::Viewer).await;
    let request = Request::get("/api/v1/events")
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::ACCEPT, "text/event-stream")
        .header("last-event-id", "1");
    let response = stage.router().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut body = response.into_body().into_data_stream();
    let mut heard = String::new();
    let mut until = async |word: &str| {
        while !heard.contains(word) {
            let chunk = tokio::time::timeout(SOON, body.next()).await.unwrap();
            let Some(chunk) = chunk else { return false };
            heard.push_str(&String::from_utf8_lossy(&chunk.unwrap()));
        }
        true
    };
    assert!(until("id: 3\n").await);
    let events = Events::new(stage.state.store.clone(), &environment());
    let new = central::events::NewEvent {
        code: "gateway_up",
        severity: central::events::Severity::Info,
        text: "it is up".into(),
        sender: "gateway".into(),
    };
    events.append(new, crate::stage::THEN).await.unwrap();
    assert!(until("id: 4\n").await);
    stage.stop.cancel();
    assert!(!until("never said").await);
    assert!(!heard.contains("id: 1\n") && heard.contains("id: 2\n"), "{heard}");
    assert!(heard.contains("event: gateway_up") && heard.contains("\"text\":\"it is up\""), "{heard}");
}

#[tokio::test]
async fn metrics_are_told_to_whoever_has_a_token_without_naming_anybody() {
    let stage = Stage::new();
    stage.connect("gw-a").await;
    stage.activate("gw-a").await;
    assert_eq!(stage.send(Request::get("/metrics").body(Body::empty()).unwrap()).await.status, 401);
    let told = stage.get("/metrics").await;
    assert_eq!(told.status, StatusCode::OK);
    assert!(told.headers["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    let text = told.body.as_str().unwrap();
    for line in [
        "postern_gateway_up{environment=\"default\"} 1",
        "postern_gateway_active_info{environment=\"default\",candidate=\"gw-a\"} 1",
        "postern_candidate_connected{environment=\"default\",candidate=\"gw-a\"} 1",
        "postern_tunnel_streams_active{environment=\"default\",protocol=\"postgresql\"} 2",
        "postern_tunnel_streams_total{environment=\"default\",protocol=\"postgresql\",outcome=\"opened\"} 7",
        "postern_tunnel_bytes_total{environment=\"default\",protocol=\"postgresql\",direction=\"to_cloud\"} 13",
        "postern_http_requests_total{route=\"/metrics\",method=\"GET\",code=\"401\"} 1",
        "postern_auth_failures_total 1",
        "postern_central_links{environment=\"default\",kind=\"control\"} 1",
        "postern_central_links{environment=\"default\",kind=\"tunnel\"} 1",
        "postern_failovers_total{environment=\"default\",reason=\"lost\"} 0",
        "postern_failover_duration_seconds_bucket{le=\"0.25\",environment=\"default\"} 0",
        "postern_connect_attempt_duration_seconds_count{environment=\"default\"} 0",
        "postern_stream_open_duration_seconds_count{environment=\"default\",stage=\"parked\"} 0",
        "postern_stream_duration_seconds_sum{environment=\"default\"} 0.0",
    ] {
        assert!(text.contains(line), "{line} is missing in:\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[tokio::test]
async fn the_description_is_open_to_everybody() {
    let stage = Stage::new();
    let served = stage.send(Request::get("/api/v1/openapi.json").body(Body::empty()).unwrap()).await;
    assert_eq!((served.status, served.body), (StatusCode::OK, openapi::document()));
}

#[tokio::test]
async fn an_id_that_the_caller_chose_comes_back_if_it_is_one() {
    let stage = Stage::new();
    let ask = async |id: &str| {
        let request = Request::get("/api/v1/meta").header("x-request-id", id).body(Body::empty()).unwrap();
        stage.send(request).await.headers["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(ask("trace-42.a_b").await, "trace-42.a_b");
    for odd in ["two words", "<script>", &"x".repeat(100), ""] {
        assert_ne!(ask(odd).await, odd);
    }
}

#[tokio::test]
async fn readiness_tells_its_checks_when_asked() {
    let stage = Stage::new();
    let ask = async |path: &str| stage.send(Request::get(path).body(Body::empty()).unwrap()).await.body;
    assert_eq!(ask("/readyz").await, "ready\n");
    let told = ask("/readyz?verbose").await;
    assert!(told.as_str().unwrap().starts_with("[+] store answers\n"), "{told}");
}

async fn with(
    stage: &Stage,
    token: &str,
    method: Method,
    path: &str,
    headers: &[(&'static str, &str)],
    body: Value,
) -> Reply {
    let mut request = Request::builder().method(method).uri(format!("/api/v1{path}"));
    let given: &mut HeaderMap = request.headers_mut().unwrap();
    given.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    given.insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
    for (name, value) in headers {
        given.insert(*name, value.parse().unwrap());
    }
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    stage.send(request.body(body).unwrap()).await
}
