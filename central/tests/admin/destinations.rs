use std::time::Duration;

use axum::http::{Method, StatusCode};
use central::admin::{
    Role,
    data_plane::{OpenFailure, Opened},
};
use serde_json::{Value, json};

use crate::stage::{Reply, Stage, name};

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
            "acl": {"clients": []},
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
async fn a_test_says_who_reached_it_and_how_fast() {
    let stage = Stage::new();
    add(&stage, json!({"name": "db", "url": "tcp://db:1"})).await;
    *stage.data_plane.opening.lock().unwrap() =
        Some(Ok(Opened { via: name("gw-a"), took: Duration::from_millis(12) }));
    let reached = json!({"reached": true, "ms": 12, "via": "gw-a", "reason": null});
    assert_eq!(try_out(&stage).await.body, reached);
}

#[tokio::test]
async fn a_test_that_fails_repeats_the_agents_own_reason() {
    let stage = Stage::new();
    add(&stage, json!({"name": "db", "url": "tcp://db:1"})).await;
    let refused = OpenFailure::Refused { via: name("gw-a"), reason: "connection refused".into() };
    *stage.data_plane.opening.lock().unwrap() = Some(Err(refused));
    let body = try_out(&stage).await.body;
    assert_eq!(
        (&body["reached"], &body["via"], &body["reason"]),
        (&json!(false), &json!("gw-a"), &json!("connection refused"))
    );
    *stage.data_plane.opening.lock().unwrap() = Some(Err(OpenFailure::NoTunnel));
    assert!(try_out(&stage).await.body["reason"].as_str().unwrap().contains("no tunnel"));
}

#[tokio::test(start_paused = true)]
async fn a_test_of_a_silent_destination_ends_within_its_time() {
    let stage = Stage::in_memory();
    add(&stage, json!({"name": "db", "url": "tcp://db:1"})).await;
    let body = try_out(&stage).await.body;
    assert_eq!((&body["reached"], &body["ms"]), (&json!(false), &json!(20_000)));
    assert_eq!(body["reason"], "nobody answered within 20s");
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
