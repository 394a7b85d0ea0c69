use axum::http::{Method, StatusCode};
use central::admin::{
    Role,
    data_plane::{OpenFailure, TriedOut},
};
use proto::trace::{Hop, Step};
use serde_json::{Value, json};

use crate::stage::{Reply, Stage, name, tried_out};

const PATH: &str = "/api/v1/destinations";

#[tokio::test]
async fn a_name_and_a_url_make_a_destination() {
    let stage = Stage::new();
    let made = add(&stage, json!({"name": "db", "url": "postgresql://db.example"})).await;
    assert_eq!(made.status, StatusCode::CREATED);
    assert_eq!(
        made.body,
        json!({
            "name": "db", "type": "postgresql", "url": "postgresql://db.example:5432", "direction": "to_site",
            "listen": "127.0.0.1:40000", "enabled": true, "limits": {"streams": 4096}, "tls": {},
            "acl": {"clients": []}, "last_test": null,
        })
    );
    assert_eq!(stage.get(PATH).await.body, json!([made.body]));
    assert_eq!(stage.get("/api/v1/destinations/db").await.body, made.body);
}

#[tokio::test]
async fn listeners_hear_of_every_change_through_the_store() {
    let stage = Stage::new();
    let mut changes = stage.state.store.changes();
    changes.mark_unchanged();
    add(&stage, json!({"name": "db", "url": "tcp://db:1"})).await;
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    let disabled = patch(&stage, json!({"enabled": false})).await;
    assert_eq!(disabled.body["enabled"], false);
    assert!(changes.has_changed().unwrap());
}

#[tokio::test]
async fn a_patch_leaves_what_it_does_not_name() {
    let stage = Stage::new();
    add(&stage, json!({"name": "db", "url": "tcp://db:1", "limits": {"streams": 9}})).await;
    let patched = patch(&stage, json!({"url": "tcp://db:2"})).await.body;
    assert_eq!((&patched["url"], &patched["limits"]["streams"]), (&json!("tcp://db:2"), &json!(9)));
}

#[tokio::test]
async fn nonsense_is_refused_with_the_field_and_changes_nothing() {
    let stage = Stage::new();
    add(&stage, json!({"name": "db", "url": "tcp://db:1"})).await;
    for (body, field) in [
        (json!({"url": "nonsense"}), "url"),
        (json!({"limits": {"streams": 0}}), "limits.streams"),
        (json!({"limits": {"streams": "many"}}), "limits.streams"),
        (json!({"listen": "db"}), "listen"),
        (json!({"enabled": "yes"}), "enabled"),
        (json!({"name": "other"}), "name"),
    ] {
        let reply = patch(&stage, body.clone()).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        assert_eq!(reply.body["errors"][0]["field"], field, "{body}");
    }
    let unknown = patch(&stage, json!({"limits": {"stream": 1}})).await;
    assert!(unknown.body["detail"].as_str().unwrap().contains("unknown field `stream`"), "{unknown:?}");
    assert_eq!(stage.get("/api/v1/destinations/db").await.body["url"], "tcp://db:1");
}

#[tokio::test]
async fn a_name_or_listener_is_given_once() {
    let stage = Stage::new();
    add(&stage, json!({"name": "db", "url": "tcp://db:1", "listen": "127.0.0.1:15432"})).await;
    assert_eq!(add(&stage, json!({"name": "db", "url": "tcp://db:1"})).await.code(), "destination_exists");
    let taken = add(&stage, json!({"name": "x", "url": "tcp://db:1", "listen": "127.0.0.1:15432"})).await;
    assert_eq!((taken.status, taken.code()), (StatusCode::CONFLICT, "listen_taken"));
}

#[tokio::test]
async fn what_was_removed_is_not_found() {
    let stage = Stage::new();
    add(&stage, json!({"name": "db", "url": "tcp://db:1"})).await;
    let remove =
        async || stage.ask(Role::Administrator, Method::DELETE, "/api/v1/destinations/db", Value::Null).await;
    assert_eq!(remove().await.status, StatusCode::NO_CONTENT);
    assert_eq!(remove().await.code(), "destination_not_found");
    assert_eq!(try_out(&stage).await.code(), "destination_not_found");
}

#[tokio::test]
async fn a_test_says_who_reached_it_how_fast_and_what_it_met() {
    let stage = stage_with_two().await;
    opens(&stage, Ok(tried_out("gw-a", 12)));
    let body = try_out(&stage).await.body;
    assert_eq!((&body["verdict"], &body["reached"], &body["ms"]), (&json!("pass"), &json!(true), &json!(12)));
    assert_eq!((&body["via"], &body["reason"]), (&json!("gw-a"), &Value::Null));
    let hops: Vec<_> = body["steps"].as_array().unwrap().iter().map(|step| &step["hop"]).collect();
    let wanted = ["enabled", "listener", "tunnel", "allow_list", "dns", "connect", "tls", "greeting"];
    assert_eq!(hops, wanted.each_ref());
    assert_eq!(body["candidates"][0]["active"], true);
}

#[tokio::test]
async fn the_newest_test_is_kept_with_its_time_until_the_destination_moves() {
    let stage = stage_with_two().await;
    opens(&stage, Ok(tried_out("gw-a", 12)));
    let tested = try_out(&stage).await.body;
    assert!(tested["at"].as_str().unwrap().ends_with('Z') && !tested["by"].as_str().unwrap().is_empty());
    assert_eq!(stage.get("/api/v1/destinations/db").await.body["last_test"], tested);
    let listed = &stage.get(PATH).await.body[0]["last_test"];
    assert_eq!((&listed["summary"], &listed["steps"]), (&tested["summary"], &Value::Null));
    patch(&stage, json!({"limits": {"streams": 3}})).await;
    assert_eq!(stage.get("/api/v1/destinations/db").await.body["last_test"], tested);
    assert_eq!(patch(&stage, json!({"url": "tcp://elsewhere:1"})).await.body["last_test"], Value::Null);
}

#[tokio::test]
async fn a_test_that_fails_repeats_the_agents_own_reason() {
    let stage = stage_with_two().await;
    let refused =
        OpenFailure::Refused { via: name("gw-a"), at: Hop::Connect, reason: "connection refused".into() };
    opens(&stage, Err(refused));
    let body = try_out(&stage).await.body;
    assert_eq!(
        (&body["reached"], &body["via"], &body["reason"]),
        (&json!(false), &json!("gw-a"), &json!("connection refused"))
    );
    opens(&stage, Err(OpenFailure::NoTunnel));
    assert!(try_out(&stage).await.body["reason"].as_str().unwrap().contains("no tunnel"));
}

#[tokio::test]
async fn each_candidate_tells_what_its_own_host_sees() {
    let stage = stage_with_two().await;
    opens(&stage, Ok(tried_out("gw-a", 12)));
    says(
        &stage,
        "gw-b",
        Step::fail(Hop::AllowList, None, "db:1 is not in this agent's allow-list", "add it"),
    );
    let body = try_out(&stage).await.body;
    assert_eq!(body["verdict"], "pass", "{body:#}");
    let other = &body["candidates"][1];
    assert_eq!((&other["name"], &other["verdict"]), (&json!("gw-b"), &json!("fail")));
    assert!(body["summary"].as_str().unwrap().contains("gw-b could not take its place"), "{body:#}");
}

#[tokio::test]
async fn what_nobody_reaches_any_more_is_told_once() {
    let stage = stage_with_two().await;
    let refused = OpenFailure::Refused { via: name("gw-a"), at: Hop::Connect, reason: "no route".into() };
    opens(&stage, Err(refused));
    for agent in ["gw-a", "gw-b"] {
        says(&stage, agent, Step::fail(Hop::Connect, None, "no route", "check it"));
    }
    let told = || stage.orders.lock().unwrap().iter().filter(|order| order.starts_with("tell")).count();
    try_out(&stage).await;
    try_out(&stage).await;
    assert_eq!(told(), 1);
    opens(&stage, Ok(tried_out("gw-a", 12)));
    try_out(&stage).await;
    opens(&stage, Err(OpenFailure::NoTunnel));
    try_out(&stage).await;
    assert_eq!(told(), 2);
}

#[tokio::test]
async fn a_client_that_may_not_come_in_is_told_where_it_stops() {
    let stage = stage_with_two().await;
    opens(&stage, Ok(tried_out("gw-a", 12)));
    patch(&stage, json!({"acl": {"clients": ["10.0.0.0/8"]}})).await;
    let body = json!({"client": "203.0.113.9"});
    let body = stage.ask(Role::Operator, Method::POST, "/api/v1/destinations/db/test", body).await.body;
    assert_eq!(
        (&body["verdict"], &body["steps"][1]["verdict"]),
        (&json!("fail"), &json!("fail")),
        "{body:#}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_test_of_a_silent_destination_ends_within_its_time() {
    let stage = Stage::in_memory();
    add(&stage, json!({"name": "db", "url": "tcp://db:1"})).await;
    let body = try_out(&stage).await.body;
    assert_eq!((&body["reached"], &body["ms"]), (&json!(false), &json!(20_000)));
    assert_eq!(body["reason"], "nobody answered within 20s");
}

/// Two candidates, one of them active, and a destination.
async fn stage_with_two() -> Stage {
    let stage = Stage::new();
    for agent in ["gw-a", "gw-b"] {
        stage.connect(agent).await;
        stage.activate(agent).await;
    }
    stage.activate("gw-a").await;
    add(&stage, json!({"name": "db", "url": "tcp://db:1"})).await;
    stage
}

fn opens(stage: &Stage, opening: Result<TriedOut, OpenFailure>) {
    *stage.data_plane.opening.lock().unwrap() = Some(opening);
}

fn says(stage: &Stage, agent: &str, step: Step) {
    let agent = stage.candidate(agent);
    stage.data_plane.answers.lock().unwrap().insert(agent, vec![step]);
}

async fn add(stage: &Stage, body: Value) -> Reply {
    stage.ask(Role::Administrator, Method::POST, PATH, body).await
}

async fn patch(stage: &Stage, body: Value) -> Reply {
    stage.ask(Role::Administrator, Method::PATCH, "/api/v1/destinations/db", body).await
}

async fn try_out(stage: &Stage) -> Reply {
    stage.ask(Role::Operator, Method::POST, "/api/v1/destinations/db/test", Value::Null).await
}
