use std::time::Duration;

use axum::http::{Method, StatusCode};
use central::{
    admin::Role,
    gateway::view::{AttemptView, DrainingView, GatewayState, RaftView, SeatView, SwitchView},
};
use proto::{NodeId, hello::Seat};
use serde_json::{Value, json};

use crate::stage::{Stage, THEN, name};

#[tokio::test]
async fn an_idle_gateway_says_so() {
    let stage = Stage::new();
    let reply = stage.get("/api/v1/gateway").await;
    assert_eq!(
        reply.body,
        json!({
            "state": "idle", "active": null, "epoch": 0, "group_epoch": 0,
            "since": "2026-01-02T03:04:05Z", "candidates": [], "attempt": null,
            "event": {"name": "System_Secure_Gateway", "raised": false},
            "last_switch": null, "can_lose": null, "streams": 0, "lanes": 0, "draining": [],
        })
    );
}

#[tokio::test]
async fn a_gateway_that_is_up_names_its_active_and_epoch() {
    let stage = Stage::new();
    stage.connect("gw-a").await;
    stage.activate("gw-a").await;
    stage.look(|view| {
        view.last_switch = Some(SwitchView {
            from: Some(name("gw-b")),
            to: name("gw-a"),
            reason: "its tunnel was lost".into(),
            gap_ms: 480,
        });
    });
    let body = stage.get("/api/v1/gateway").await.body;
    assert_eq!((&body["state"], &body["active"]), (&json!("up"), &json!("gw-a")));
    assert_eq!((&body["group_epoch"], &body["epoch"]), (&json!(2), &json!(17)));
    assert_eq!(
        body["last_switch"],
        json!({"from": "gw-b", "to": "gw-a", "reason": "its tunnel was lost", "gap_ms": 480})
    );
    assert_eq!(body["candidates"][0]["name"], "gw-a");
    assert_eq!(body["candidates"][0]["configured"], true);
}

#[tokio::test]
async fn who_still_holds_an_old_active_open_is_listed_and_can_be_ended() {
    let stage = Stage::new();
    let end = || stage.ask(Role::Operator, Method::POST, "/api/v1/gateway/drain/end", json!({}));
    assert_eq!(stage.get("/api/v1/gateway/drain").await.body, json!([]));
    assert_eq!(end().await.code(), "nothing_drains");
    stage.look(|view| {
        view.draining = vec![DrainingView { process_server: name("gw-a"), until: THEN, streams: 1 }];
    });

    let draining = &stage.get("/api/v1/gateway").await.body["draining"];
    assert_eq!(*draining, json!([{"process_server": "gw-a", "until": "2026-01-02T03:04:05Z", "streams": 1}]));
    assert_eq!(
        stage.get("/api/v1/gateway/drain").await.body,
        json!([{
            "process_server": "gw-a", "until": "2026-01-02T03:04:05Z",
            "streams": [{
                "destination": "db", "client": "192.0.2.7:5000", "since": "2026-01-02T03:04:05Z", "bytes": 42,
            }],
        }])
    );
    assert_eq!(end().await.status, StatusCode::NO_CONTENT);
    assert_eq!(*stage.orders.lock().unwrap(), ["end the drain"]);
}

#[tokio::test]
async fn a_connecting_gateway_says_for_whom_and_until_when() {
    let stage = Stage::new();
    stage.look(|view| {
        view.state = GatewayState::Connecting;
        view.attempt = Some(AttemptView { candidate: name("gw-a"), until: THEN });
        view.event_raised = true;
    });
    let body = stage.get("/api/v1/gateway").await.body;
    assert_eq!(body["attempt"], json!({"candidate": "gw-a", "until": "2026-01-02T03:04:05Z"}));
    assert_eq!(body["event"]["raised"], true);
}

#[tokio::test]
async fn a_planned_switch_reaches_the_gateway_and_is_accepted() {
    let stage = Stage::new();
    stage.connect("gw-a").await;
    stage.connect("gw-b").await;
    stage.activate("gw-a").await;
    let reply =
        stage.ask(Role::Operator, Method::POST, "/api/v1/gateway/switch", json!({"to": "gw-b"})).await;
    assert_eq!(reply.status, StatusCode::ACCEPTED);
    assert_eq!(reply.body["active"], "gw-a");
    assert_eq!(stage.orders.lock().unwrap().last().unwrap(), "switch to gw-b");
}

#[tokio::test]
async fn a_switch_that_cannot_be_is_refused_with_the_reason() {
    let stage = Stage::new();
    stage.connect("gw-a").await;
    stage.activate("gw-a").await;
    let switch = async |body| stage.ask(Role::Operator, Method::POST, "/api/v1/gateway/switch", body).await;
    let nobody = switch(Value::Null).await;
    assert_eq!((nobody.status, nobody.code()), (StatusCode::CONFLICT, "no_other_candidate"));
    let unknown = switch(json!({"to": "moon"})).await;
    assert_eq!((unknown.status, unknown.code()), (StatusCode::NOT_FOUND, "process_server_not_found"));
    let already = switch(json!({"to": "gw-a"})).await;
    assert_eq!((already.status, already.code()), (StatusCode::CONFLICT, "already_active"));
}

#[tokio::test]
async fn raft_is_null_without_a_group_and_lists_its_members_with_one() {
    let stage = Stage::new();
    assert_eq!(stage.get("/api/v1/raft").await.body, Value::Null);
    let seat = |text, node| SeatView { name: name(text), seat: Seat { group: 2, node: NodeId(node) } };
    stage.look(|view| {
        view.can_lose = Some(1);
        view.raft = Some(RaftView {
            generation: 2,
            witness: NodeId(1),
            leader: Some(NodeId(2)),
            voters: vec![NodeId(1), NodeId(2), NodeId(3)],
            learners: vec![],
            term: 5,
            last_applied: 40,
            last_claim: None,
            timings: group::Timings::default(),
            worst_round_trip: Some(Duration::from_micros(12_340)),
            seats: vec![seat("gw-a", 2), seat("gw-b", 3), seat("gw-c", 4)],
        });
    });
    let metrics = stage.get("/metrics").await.body;
    let metrics = metrics.as_str().unwrap();
    assert!(metrics.contains("postern_raft_term{environment=\"default\"} 5"), "{metrics}");
    let body = stage.get("/api/v1/raft").await.body;
    let members: Vec<_> =
        body["members"].as_array().unwrap().iter().map(|m| (&m["name"], &m["state"])).collect();
    assert_eq!(
        members,
        [
            (&json!("central (witness)"), &json!("follower")),
            (&json!("gw-a"), &json!("leader")),
            (&json!("gw-b"), &json!("follower")),
            (&json!("gw-c"), &json!("joining")),
        ]
    );
    assert_eq!((&body["can_lose"], &body["generation"]), (&json!(1), &json!(2)));
    let timings = json!({ "heartbeat_ms": 100, "election_min_ms": 300, "election_max_ms": 600 });
    assert_eq!((&body["timings"], &body["worst_round_trip_ms"]), (&timings, &json!(12.34)));
}
