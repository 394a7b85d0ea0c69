use axum::http::{Method, StatusCode};
use central::admin::Role;
use serde_json::{Value, json};

use crate::stage::Stage;

#[tokio::test]
async fn one_that_was_never_heard_has_no_version() {
    let stage = Stage::new();
    stage.enrol("gw-a").await;
    let body = stage.get("/api/v1/process-servers").await.body;
    assert_eq!(
        body,
        json!([{
            "name": "gw-a", "candidate": false, "configured": false, "restart_required": false,
            "connected": false, "active": false, "last_seen": null, "version": null, "os": null,
            "link": null, "enrolled_at": "2026-01-02T03:04:05Z", "fingerprint": "07".repeat(32),
            "system_information": {"os": "", "arch": "", "hostname": "", "pid": 0},
        }])
    );
}

#[tokio::test]
async fn only_the_active_shows_where_forwarding_begins() {
    let stage = Stage::new();
    stage.connect("gw-a").await;
    stage.connect("gw-b").await;
    stage.activate("gw-a").await;
    let active = stage.get("/api/v1/process-servers/gw-a").await.body;
    assert_eq!(
        active,
        json!({
            "name": "gw-a", "candidate": true, "configured": true, "restart_required": true,
            "connected": true, "active": true, "last_seen": "2026-01-02T03:04:05Z",
            "version": "9.9.9", "os": "linux",
            "link": {
                "remote": "192.0.2.1:4000", "since": "2026-01-02T03:04:05Z", "reported_role": null, "last_error": null,
                "certificate_expires_at": "2026-04-02T03:04:05Z",
            },
            "enrolled_at": "2026-01-02T03:04:05Z", "fingerprint": "07".repeat(32),
            "system_information": {
                "os": "linux", "arch": "x86_64", "hostname": "gw-a", "pid": 42,
                "IPForwarderURL": "socks5://central.example:1080",
            },
        })
    );
    let standby = stage.get("/api/v1/process-servers/gw-b").await.body;
    assert_eq!(standby["system_information"].get("IPForwarderURL"), None);
}

#[tokio::test]
async fn marking_asks_for_a_restart_and_tells_the_gateway() {
    let stage = Stage::new();
    stage.connect("gw-a").await;
    let mark = async |on: bool| {
        let path = "/api/v1/process-servers/gw-a";
        stage.ask(Role::CloudAdministrator, Method::PATCH, path, json!({"candidate": on})).await.body
    };
    let marked = mark(true).await;
    assert_eq!((&marked["candidate"], &marked["restart_required"]), (&json!(true), &json!(true)));
    assert_eq!(*stage.orders.lock().unwrap(), ["reload"]);
    let unmarked = mark(false).await;
    assert_eq!((&unmarked["candidate"], &unmarked["configured"]), (&json!(false), &json!(false)));
}

#[tokio::test]
async fn a_misspelt_or_wrong_field_changes_nothing_and_is_named() {
    let stage = Stage::new();
    stage.connect("gw-a").await;
    let patch = async |body| {
        stage.ask(Role::CloudAdministrator, Method::PATCH, "/api/v1/process-servers/gw-a", body).await
    };
    let misspelt = patch(json!({"candidat": true})).await;
    assert_eq!(misspelt.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(misspelt.body["detail"].as_str().unwrap().contains("`candidat`"), "{misspelt:?}");
    let wrong = patch(json!({"candidate": "yes"})).await;
    assert_eq!(wrong.body["errors"][0]["field"], "candidate");
    assert_eq!(stage.get("/api/v1/process-servers/gw-a").await.body["candidate"], false);
}

#[tokio::test]
async fn a_restart_reaches_the_connected_and_nobody_else() {
    let stage = Stage::new();
    stage.connect("gw-a").await;
    stage.enrol("gw-b").await;
    let restart = async |name: &str| {
        let path = format!("/api/v1/process-servers/{name}/restart");
        stage.ask(Role::Operator, Method::POST, &path, Value::Null).await
    };
    assert_eq!(restart("gw-a").await.status, StatusCode::ACCEPTED);
    assert_eq!(*stage.orders.lock().unwrap(), ["restart gw-a"]);
    assert_eq!(restart("gw-b").await.code(), "process_server_not_connected");
    assert_eq!(restart("gw-c").await.code(), "process_server_not_found");
    assert_eq!(restart("a%2Fb").await.code(), "invalid_name");
}

#[tokio::test]
async fn the_active_is_not_removed_and_the_others_are() {
    let stage = Stage::new();
    stage.connect("gw-a").await;
    stage.connect("gw-b").await;
    stage.activate("gw-a").await;
    let remove = async |name: &str| {
        let path = format!("/api/v1/process-servers/{name}");
        stage.ask(Role::CloudAdministrator, Method::DELETE, &path, Value::Null).await
    };
    let active = remove("gw-a").await;
    assert_eq!((active.status, active.code()), (StatusCode::CONFLICT, "active"));
    assert_eq!(remove("gw-b").await.status, StatusCode::NO_CONTENT);
    assert_eq!(remove("gw-b").await.status, StatusCode::NOT_FOUND);
    assert_eq!(stage.get("/api/v1/process-servers").await.body.as_array().unwrap().len(), 1);
}
