use axum::http::{Method, StatusCode};
use central::{
    admin::Role,
    events::{Events, NewEvent, Severity},
};
use serde_json::json;

use crate::stage::{Stage, THEN, environment};

#[tokio::test]
async fn an_event_is_shown_with_its_number_and_words() {
    let stage = Stage::new();
    happen(&stage, 1).await;
    assert_eq!(
        stage.get("/api/v1/events").await.body,
        json!([{
            "seq": 1, "at": "2026-01-02T03:04:05Z", "code": "gateway_up", "severity": "info",
            "text": "event 0", "sender": "gateway",
        }])
    );
}

#[tokio::test]
async fn one_follows_by_the_number_seen_last() {
    let stage = Stage::new();
    happen(&stage, 5).await;
    assert_eq!(seqs(&stage, "?after=3").await, [4, 5]);
    assert_eq!(seqs(&stage, "?after=1&limit=2").await, [2, 3]);
    assert_eq!(seqs(&stage, "?limit=2").await, [4, 5]);
    assert_eq!(seqs(&stage, "?after=5").await, [0_u64; 0]);
}

#[tokio::test]
async fn a_query_that_makes_no_sense_is_refused_by_name() {
    let stage = Stage::new();
    for (query, word) in
        [("?limit=0", "limit"), ("?limit=5000", "limit"), ("?after=x", "after"), ("?since=1", "since")]
    {
        let reply = stage.get(&format!("/api/v1/events{query}")).await;
        assert!(reply.status == StatusCode::BAD_REQUEST || reply.status == StatusCode::UNPROCESSABLE_ENTITY);
        assert!(reply.body["detail"].as_str().unwrap().contains(word), "{reply:?}");
    }
}

#[tokio::test]
async fn what_an_administrator_does_is_an_event() {
    let stage = Stage::new();
    stage.connect("gw-a").await;
    let path = "/api/v1/process-servers/gw-a";
    stage.ask(Role::CloudAdministrator, Method::PATCH, path, json!({"candidate": true})).await;
    let body = stage.get("/api/v1/events").await.body;
    assert_eq!(body[0]["text"], "gw-a was marked as Secure Gateway Candidate");
    assert_eq!(body[0]["sender"], "administration");
}

/// Appends this many events.
pub(crate) async fn happen(stage: &Stage, count: u64) {
    let events = Events::new(stage.state.store.clone(), &environment());
    for n in 0..count {
        let (text, sender) = (format!("event {n}"), "gateway".into());
        let new = NewEvent { code: "gateway_up", severity: Severity::Info, text, sender };
        events.append(new, THEN).await.unwrap();
    }
}

async fn seqs(stage: &Stage, query: &str) -> Vec<u64> {
    let body = stage.get(&format!("/api/v1/events{query}")).await.body;
    body.as_array().unwrap().iter().map(|event| event["seq"].as_u64().unwrap()).collect()
}
