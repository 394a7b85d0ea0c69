//! The audit log, as requests write it.

use axum::{
    body::Body,
    http::{Method, Request, StatusCode},
};
use central::{
    admin::Role,
    audit::{Anchor, Chain, verify_export},
    people::{NewUser, Password},
};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::stage::{Reply, Stage, environment, name};

const PASSWORD: &str = "correct horse battery";

#[tokio::test]
async fn a_change_is_recorded_with_who_what_and_before_and_after() {
    let stage = Stage::new();
    let make = json!({"name": "anna", "role": "viewer", "password": PASSWORD});
    let made = ask(&stage, Role::Administrator, Method::POST, "/api/v1/users", make).await;
    let change = json!({"role": "operator", "password": "another good one"});
    ask(&stage, Role::Administrator, Method::PATCH, "/api/v1/users/anna", change).await;
    ask(&stage, Role::Administrator, Method::DELETE, "/api/v1/users/anna", Value::Null).await;

    let log = log(&stage).await;
    let actions: Vec<_> = log.iter().map(|record| record["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["users.create", "users.change", "users.remove"]);
    assert!(log.iter().all(|record| record["target"] == "anna" && record["outcome"] == "done"), "{log:?}");
    assert_eq!(log[0]["after"], json!({"name": "anna", "role": "viewer", "disabled": false}));
    assert_eq!(log[0]["who"]["kind"], "token");
    assert_eq!(log[0]["request_id"], made.headers["x-request-id"].to_str().unwrap());
    assert_eq!(log[1]["before"], json!({"role": "viewer"}));
    assert_eq!(log[1]["after"], json!({"role": "operator", "password": "changed"}));
    assert_eq!(log[2]["before"]["role"], "operator");
    let text = json!(log).to_string();
    assert!(!text.contains("argon2") && !text.contains(PASSWORD) && !text.contains("sha256"), "{text}");
}

#[tokio::test]
async fn each_kind_of_change_is_in_the_log_without_its_secret() {
    let stage = Stage::new();
    stage.connect("gw-a").await;
    let role = Role::CloudAdministrator;
    let mut secrets = Vec::new();
    for (method, path, body) in [
        (Method::PATCH, "/api/v1/process-servers/gw-a", json!({"candidate": true})),
        (Method::POST, "/api/v1/process-servers/gw-a/restart", Value::Null),
        (Method::POST, "/api/v1/destinations", json!({"name": "db", "url": "tcp://10.0.0.1:1"})),
        (Method::PATCH, "/api/v1/destinations/db", json!({"enabled": false})),
        (Method::POST, "/api/v1/api-tokens", json!({"role": "viewer", "name": "ci"})),
        (Method::POST, "/api/v1/enrollment-tokens", json!({"name": "gw-b"})),
    ] {
        let reply = ask(&stage, role, method, path, body).await;
        assert!(reply.status.is_success(), "{path}: {reply:?}");
        secrets.extend(reply.body["token"].as_str().map(str::to_owned));
    }
    let log = log(&stage).await;
    let said: Vec<_> = log
        .iter()
        .map(|record| {
            let [action, target] = ["action", "target"].map(|field| record[field].as_str().unwrap_or("-"));
            format!("{action} {target} {}", record["after"])
        })
        .collect();
    assert_eq!(said[0], r#"process-servers.change gw-a {"candidate":true}"#);
    assert_eq!(said[1], "process-servers.restart gw-a null");
    assert!(said[2].starts_with("destinations.create db {"), "{said:?}");
    assert_eq!(said[3], r#"destinations.change db {"enabled":false}"#);
    assert!(
        said[4].starts_with("api-tokens.create ci {") && said[4].contains(r#""role":"viewer""#),
        "{said:?}"
    );
    assert!(said[5].starts_with("enrollment-tokens.create gw-b {"), "{said:?}");
    assert_eq!(said.len(), 6);
    let text = json!(log).to_string();
    assert_eq!(secrets.len(), 2);
    for secret in secrets {
        // What is secret comes after two words; it may have an underscore of its own.
        let secret = secret.splitn(3, '_').last().unwrap();
        assert!(secret.len() > 20 && !text.contains(secret), "{text}");
    }
}

#[tokio::test]
async fn refusals_are_recorded_with_their_reason() {
    let stage = Stage::new();
    ask(&stage, Role::Viewer, Method::POST, "/api/v1/destinations", json!({})).await;
    ask(&stage, Role::Administrator, Method::POST, "/api/v1/destinations", json!({"name": "a b"})).await;
    ask(&stage, Role::Operator, Method::POST, "/api/v1/gateway/switch", Value::Null).await;
    let stranger = Request::delete("/api/v1/users/anna").body(Body::empty()).unwrap();
    stage.send(stranger).await;
    let log = log(&stage).await;
    let codes: Vec<_> =
        log.iter().map(|record| (record["status"].as_u64(), record["code"].as_str())).collect();
    assert_eq!(
        codes,
        [
            (Some(403), Some("forbidden")),
            (Some(422), Some("invalid_field")),
            (Some(409), Some("no_other_candidate")),
            (Some(401), Some("unauthenticated")),
        ]
    );
    assert!(log.iter().all(|record| record["outcome"] == "refused"));
    assert_eq!(log[3]["who"], json!({"kind": "nobody"}));
}

#[tokio::test]
async fn signing_in_is_recorded_and_what_was_typed_is_not() {
    let stage = Stage::new();
    let new = NewUser { name: name("anna"), role: Role::Viewer, password: Some(Password::new(PASSWORD)) };
    let now = OffsetDateTime::now_utc();
    stage.state.people.create_user(&environment(), new, Role::CloudAdministrator, now).await.unwrap();
    for (who, password) in [("anna", PASSWORD), ("anna", "a wrong password"), ("MyPassword1", "anna")] {
        let body = json!({"name": who, "password": password}).to_string();
        let request = Request::post("/api/v1/session").header("content-type", "application/json");
        stage.send(request.body(Body::from(body)).unwrap()).await;
    }
    let log = log(&stage).await;
    assert_eq!((&log[0]["who"]["kind"], &log[0]["who"]["name"]), (&json!("user"), &json!("anna")));
    assert_eq!((&log[0]["outcome"], &log[0]["action"]), (&json!("done"), &json!("session.create")));
    assert_eq!(log[1]["who"], json!({"kind": "nobody", "name": "anna"}));
    assert_eq!((&log[1]["status"], &log[1]["code"]), (&json!(401), &json!("wrong_credentials")));
    assert_eq!(log[2]["who"], json!({"kind": "nobody"}));
    assert!(!json!(log).to_string().contains("MyPassword1"));
}

#[tokio::test]
async fn a_flood_of_refusals_does_not_wash_the_log_away() {
    let stage = Stage::new();
    for _ in 0..50 {
        stage.send(Request::post("/api/v1/users").body(Body::empty()).unwrap()).await;
    }
    assert_eq!(log(&stage).await.len(), 10);
}

#[tokio::test]
async fn the_log_is_a_chain_in_pages_and_in_an_export() {
    let stage = Stage::new();
    for n in 0..5 {
        let body = json!({"name": format!("db-{n}"), "url": "tcp://10.0.0.1:1"});
        ask(&stage, Role::Administrator, Method::POST, "/api/v1/destinations", body).await;
    }
    let head = stage.ask(Role::Administrator, Method::GET, "/api/v1/audit/head", Value::Null).await.body;
    let mut chain = Chain::behind(Anchor::default());
    let mut next = Some("/api/v1/audit?after=0&limit=2".to_owned());
    while let Some(path) = next {
        let page = stage.ask(Role::Administrator, Method::GET, &path, Value::Null).await;
        for record in page.body.as_array().unwrap() {
            chain.take(record).unwrap();
        }
        let link = page.headers.get("link").map(|link| link.to_str().unwrap());
        next = link.map(|link| link[1..link.find('>').unwrap()].to_owned());
    }
    assert_eq!((chain.head().seq, json!(chain.head().hash)), (5, head["hash"].clone()));

    let export = stage.ask(Role::Administrator, Method::GET, "/api/v1/audit/export", Value::Null).await;
    assert_eq!(export.headers["content-type"], "application/x-ndjson");
    let text = export.body.as_str().unwrap();
    let kept = Anchor { seq: 5, hash: head["hash"].as_str().unwrap().to_owned() };
    assert_eq!(verify_export(text.as_bytes(), Some(kept.clone())).unwrap(), kept);
    let tampered = text.replacen("db-2", "db-X", 1);
    assert!(verify_export(tampered.as_bytes(), None).unwrap_err().to_string().contains("record 3"));
}

#[tokio::test]
async fn a_store_that_was_changed_behind_centrals_back_is_found() {
    let stage = Stage::new();
    for n in 0..3 {
        let body = json!({"name": format!("db-{n}"), "url": "tcp://10.0.0.1:1"});
        ask(&stage, Role::Administrator, Method::POST, "/api/v1/destinations", body).await;
    }
    stage
        .damage("audit", |record| {
            if record["seq"] == 2 {
                record["target"] = "something else".into();
            }
        })
        .await;
    let mut chain = Chain::behind(Anchor::default());
    let broken = log(&stage).await.iter().find_map(|record| chain.take(record).err());
    assert_eq!(broken.unwrap().seq, 2);
}

#[tokio::test]
async fn the_log_is_for_administrators() {
    let stage = Stage::new();
    for path in ["/api/v1/audit", "/api/v1/audit/head", "/api/v1/audit/export"] {
        assert_eq!(
            stage.ask(Role::Operator, Method::GET, path, Value::Null).await.status,
            StatusCode::FORBIDDEN
        );
    }
    let wrong = stage.ask(Role::Administrator, Method::GET, "/api/v1/audit?limit=0", Value::Null).await;
    assert_eq!(wrong.body["errors"][0]["field"], "limit");
}

async fn ask(stage: &Stage, role: Role, method: Method, path: &str, body: Value) -> Reply {
    stage.ask(role, method, path, body).await
}

async fn log(stage: &Stage) -> Vec<Value> {
    let log = stage.ask(Role::Administrator, Method::GET, "/api/v1/audit?after=0", Value::Null).await;
    log.body.as_array().unwrap().clone()
}
