use axum::http::{Method, StatusCode};
use central::{
    admin::Role,
    failovers::{Chronicle, Failovers},
    listener::ledger::OpenStream,
};
use proto::{Epoch, TraceId};
use serde_json::{Value, json};

use crate::stage::{Stage, THEN, environment, name};

#[tokio::test]
async fn open_streams_are_listed_page_by_page_and_can_be_ended() {
    let stage = Stage::new();
    for number in [1, 3, 5] {
        stage.data_plane.streams.lock().unwrap().push(stream(number));
    }
    let first = stage.get("/api/v1/streams?limit=2").await;
    assert_eq!(ids(&first.body), ["2.17.1", "2.17.3"]);
    assert_eq!(first.headers["link"], "</api/v1/streams?after=2.17.3&limit=2>; rel=\"next\"");
    let second = stage.get("/api/v1/streams?after=2.17.3&limit=2").await;
    assert_eq!(ids(&second.body), ["2.17.5"]);
    assert!(!second.headers.contains_key("link"));
    assert_eq!(first.body[0]["client"], "192.0.2.7:5000");

    let end = async |id: &str| {
        stage.ask(Role::Operator, Method::POST, &format!("/api/v1/streams/{id}/end"), Value::Null).await
    };
    assert_eq!(end("2.17.3").await.status, StatusCode::NO_CONTENT);
    assert_eq!(end("2.17.3").await.code(), "stream_not_found");
    assert_eq!(end("moon").await.code(), "stream_not_found");
    assert_eq!(stage.get("/api/v1/events").await.body[0]["text"], "Stream 2.17.3 was ended");
}

#[tokio::test]
async fn failovers_are_told_newest_first_and_one_by_one() {
    let stage = Stage::new();
    assert_eq!(stage.get("/api/v1/failovers").await.body, json!([]));
    let failovers = Failovers::new(stage.state.store.clone(), &environment());
    let mut chronicle = Chronicle::new(None, std::time::Duration::from_secs(240));
    for (from, to) in [("gw-a", "gw-b"), ("gw-b", "gw-a")] {
        chronicle.began(Some(name(from)), "the tunnel was lost", false, THEN);
        chronicle.ended(&name(to), 412, Epoch { group: 2, claim: 18 }, THEN);
        for changed in chronicle.changed() {
            failovers.put(&changed).await.unwrap();
        }
    }
    let all = stage.get("/api/v1/failovers").await.body;
    assert_eq!((&all[0]["id"], &all[1]["id"]), (&json!(2), &json!(1)));
    let one = stage.get("/api/v1/failovers/1").await.body;
    assert_eq!((&one["from"], &one["to"], &one["gap_ms"]), (&json!("gw-a"), &json!("gw-b"), &json!(412)));
    assert_eq!(one["attempts"][0]["outcome"], "took_over");
    assert_eq!(stage.get("/api/v1/failovers/9").await.code(), "failover_not_found");
    assert_eq!(stage.get("/api/v1/failovers/moon").await.code(), "failover_not_found");
}

fn ids(body: &Value) -> Vec<&str> {
    body.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect()
}

fn stream(number: u32) -> OpenStream {
    OpenStream {
        id: format!("2.17.{number}").parse().unwrap(),
        trace_id: TraceId::from_bytes([7; 16]),
        destination: name("db"),
        client: ([192, 0, 2, 7], 5000).into(),
        via: name("gw-a"),
        since: THEN,
        age_ms: 1,
        bytes_to_site: 2,
        bytes_to_client: 3,
        idle_ms: 4,
        draining: false,
    }
}

#[tokio::test]
async fn what_ended_is_told_page_by_page_and_its_traffic_step_by_step() {
    let stage = Stage::new();
    assert_eq!(stage.get("/api/v1/traffic").await.body, json!({"step_s": 10, "points": []}));
    assert_eq!(stage.get("/api/v1/streams/closed?limit=0").await.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(stage.get("/api/v1/streams/closed?after=moon").await.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(stage.get("/api/v1/streams/closed?limit=1").await.body, json!([]));
}
