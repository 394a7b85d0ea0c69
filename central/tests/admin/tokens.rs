use axum::{
    body::Body,
    http::{Method, Request, StatusCode},
};
use central::admin::Role;
use serde_json::{Value, json};

use crate::stage::{Reply, Stage};

const PATH: &str = "/api/v1/api-tokens";

#[tokio::test]
async fn a_new_token_works_at_once_and_not_after_it_is_revoked() {
    let stage = Stage::new();
    let made =
        stage.ask(Role::Administrator, Method::POST, PATH, json!({"role": "viewer", "name": "ci"})).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let token = made.body["token"].as_str().unwrap();
    assert_eq!(gateway_with(&stage, token).await.status, StatusCode::OK);
    let path = format!("{PATH}/{}", made.body["id"].as_str().unwrap());
    let revoked = stage.ask(Role::Administrator, Method::DELETE, &path, Value::Null).await;
    assert_eq!(revoked.status, StatusCode::NO_CONTENT);
    assert_eq!(gateway_with(&stage, token).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn the_list_holds_no_secret() {
    let stage = Stage::new();
    let made =
        stage.ask(Role::Administrator, Method::POST, PATH, json!({"role": "viewer", "ttl": "90d"})).await;
    let (id, secret) = (made.body["id"].as_str().unwrap(), made.body["token"].as_str().unwrap());
    let list = stage.ask(Role::Administrator, Method::GET, PATH, Value::Null).await.body.to_string();
    assert!(list.contains(id) && !list.contains(secret));
    assert!(!list.contains("sha256"));
}

#[tokio::test]
async fn nobody_makes_or_revokes_a_token_above_their_own_role() {
    let stage = Stage::new();
    let above =
        stage.ask(Role::Administrator, Method::POST, PATH, json!({"role": "cloud_administrator"})).await;
    assert_eq!(above.status, StatusCode::FORBIDDEN);
    let theirs =
        stage.ask(Role::CloudAdministrator, Method::POST, PATH, json!({"role": "cloud_administrator"})).await;
    let path = format!("{PATH}/{}", theirs.body["id"].as_str().unwrap());
    let refused = stage.ask(Role::Administrator, Method::DELETE, &path, Value::Null).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_duration_needs_its_unit() {
    let stage = Stage::new();
    let reply =
        stage.ask(Role::Administrator, Method::POST, PATH, json!({"role": "viewer", "ttl": "15"})).await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(reply.body["errors"][0]["field"], "ttl");
    let role = stage.ask(Role::Administrator, Method::POST, PATH, json!({"role": "king"})).await;
    assert_eq!(role.body["errors"][0]["field"], "role");
}

async fn gateway_with(stage: &Stage, token: &str) -> Reply {
    let request = Request::get("/api/v1/gateway").header("authorization", format!("Bearer {token}"));
    stage.send(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn every_list_of_people_and_tokens_comes_page_by_page() {
    let stage = Stage::new();
    for n in 0..3 {
        let user =
            json!({"name": format!("user-{n}"), "role": "viewer", "password": "a password of many letters"});
        stage.ask(Role::Administrator, Method::POST, "/api/v1/users", user).await;
        stage.ask(Role::CloudAdministrator, Method::POST, "/api/v1/enrollment-tokens", json!({})).await;
    }
    for list in ["/api/v1/users", "/api/v1/api-tokens", "/api/v1/enrollment-tokens"] {
        let whole = stage.ask(Role::CloudAdministrator, Method::GET, list, Value::Null).await.body;
        let (mut seen, mut next) = (Vec::new(), Some(format!("{list}?limit=2")));
        while let Some(path) = next.take() {
            let page = stage.ask(Role::CloudAdministrator, Method::GET, &path, Value::Null).await;
            let items = page.body.as_array().unwrap_or_else(|| panic!("{path}: {page:?}"));
            assert!(items.len() <= 2, "{path}: {items:?}");
            seen.extend(items.iter().map(|one| one.get("id").unwrap_or(&one["name"]).clone()));
            let link = page.headers.get("link").map(|link| link.to_str().unwrap());
            next = link.map(|link| link[1..link.find('>').unwrap()].to_owned());
        }
        // Every question made a token of its own, which stands at the end.
        let first: Vec<_> = whole
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one.get("id").unwrap_or(&one["name"]).clone())
            .collect();
        assert_eq!(seen[..first.len()], first, "{list}");
    }
}

#[tokio::test]
async fn what_is_in_force_is_told_with_its_source_and_how_the_store_is() {
    let stage = Stage::new();
    let told = stage.ask(Role::Administrator, Method::GET, "/api/v1/settings", Value::Null).await.body;
    let settings = told["settings"].as_array().unwrap();
    let limit = settings.iter().find(|one| one["name"] == "gateway.connect_timeout").unwrap();
    assert_eq!(
        (&limit["value"], &limit["default"], &limit["source"]),
        (&json!("4m"), &json!("4m"), &json!("default"))
    );
    assert_eq!(told["health"]["storage"]["problem"], Value::Null);
    let purposes: Vec<_> =
        told["health"]["certificates"].as_array().unwrap().iter().map(|one| &one["purpose"]).collect();
    assert_eq!(purposes, ["authority", "server"]);
}
