use axum::{
    Extension, Router,
    body::{Body, to_bytes},
    http::{Method, Request, StatusCode, header},
};
use central::{
    admin::{EnrolmentState, Role, enrolment_routes},
    enrolment::AgentIdentity,
};
use proto::hello::{ENROLL_PATH, Enrolled, RENEW_PATH, Refusal, RefusalCode};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tower::ServiceExt;

use crate::stage::{Stage, name};

const TOKENS: &str = "/api/v1/enrollment-tokens";

#[tokio::test]
async fn a_token_lets_its_agent_in_once() {
    let stage = Stage::new();
    let made = stage.ask(Role::CloudAdministrator, Method::POST, TOKENS, json!({"name": "gw-a"})).await;
    assert_eq!(made.status, StatusCode::CREATED);
    assert_eq!(
        (&made.body["name"], &made.body["central"]),
        (&json!("gw-a"), &json!("https://central.example:8444"))
    );
    let token = made.body["token"].as_str().unwrap();
    let enrolled: Enrolled = serde_json::from_value(enroll(&stage, token, "gw-a").await.1).unwrap();
    assert_eq!(enrolled.name, name("gw-a"));
    assert_eq!(enrolled.ca_pem, made.body["ca_pem"].as_str().unwrap());
    assert_eq!(stage.get("/api/v1/process-servers").await.body[0]["name"], "gw-a");
    assert_eq!(stage.orders.lock().unwrap().last().unwrap(), "reload");
    let (status, again) = enroll(&stage, token, "gw-a").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let refusal: Refusal = serde_json::from_value(again).unwrap();
    assert!(
        refusal.code == RefusalCode::Unknown && refusal.message.contains("was used already"),
        "{refusal}"
    );
}

#[tokio::test]
async fn a_certificate_renews_itself_and_nothing_else_does() {
    let stage = Stage::new();
    let made = stage.ask(Role::CloudAdministrator, Method::POST, TOKENS, Value::Null).await;
    let (_, enrolled) = enroll(&stage, made.body["token"].as_str().unwrap(), "gw-a").await;
    let certificate = enrolled["certificate_pem"].as_str().unwrap();
    let identity =
        AgentIdentity::read(&CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()).unwrap();
    let body = json!({ "csr_pem": csr() });
    let (status, renewed) = post(&stage, RENEW_PATH, Some(identity), body.clone()).await;
    assert_eq!((status, &renewed["name"]), (StatusCode::OK, &json!("gw-a")), "{renewed}");
    let (status, refused) = post(&stage, RENEW_PATH, None, body).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(refused["message"].as_str().unwrap().contains("present certificate"));
}

#[tokio::test]
async fn who_came_in_with_a_token_and_who_did_not_stands_in_the_audit_log() {
    let stage = Stage::new();
    let made = stage.ask(Role::CloudAdministrator, Method::POST, TOKENS, json!({"name": "gw-a"})).await;
    let token = made.body["token"].as_str().unwrap();
    assert_eq!(enroll(&stage, token, "gw-a").await.0, StatusCode::OK);
    assert_eq!(enroll(&stage, token, "gw-a").await.0, StatusCode::FORBIDDEN);

    let log = stage.ask(Role::Administrator, Method::GET, "/api/v1/audit", Value::Null).await.body;
    let of_agents: Vec<_> =
        log.as_array().unwrap().iter().filter(|one| one["action"] == "agents.enroll").collect();
    let [came, refused] = of_agents[..] else { panic!("two enrolments were tried: {log}") };
    assert_eq!(
        (&came["target"], &came["outcome"], &came["who"]["name"]),
        (&json!("gw-a"), &json!("done"), &json!("gw-a"))
    );
    assert_eq!((&refused["outcome"], &refused["who"]["kind"]), (&json!("refused"), &json!("nobody")));
    assert!(!log.to_string().contains(token), "the token's secret is in the log");
}

#[tokio::test]
async fn a_clock_that_is_off_is_said_before_anything_else() {
    let stage = Stage::new();
    let body = json!({"token": "x", "name": "gw-a", "csr_pem": csr(), "software": "1", "unix_ms": 0});
    let (status, refused) = post(&stage, ENROLL_PATH, None, body).await;
    assert_eq!((status, &refused["code"]), (StatusCode::BAD_REQUEST, &json!("clock")));
}

#[tokio::test]
async fn a_token_that_lives_too_long_is_refused_by_field() {
    let stage = Stage::new();
    let reply = stage.ask(Role::CloudAdministrator, Method::POST, TOKENS, json!({"ttl": "1h"})).await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(reply.body["errors"][0]["field"], "ttl");
}

#[tokio::test]
async fn a_browser_is_sent_away() {
    let stage = Stage::new();
    let request = Request::post(RENEW_PATH).header(header::ORIGIN, "https://evil.example");
    let request = request.header(header::CONTENT_TYPE, "application/json");
    let body = Body::from(json!({"csr_pem": ""}).to_string());
    let response = routes(&stage, None).oneshot(request.body(body).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
}

async fn enroll(stage: &Stage, token: &str, name: &str) -> (StatusCode, Value) {
    let unix_ms = OffsetDateTime::now_utc().unix_timestamp() * 1000;
    let body = json!({"token": token, "name": name, "csr_pem": csr(), "software": "1", "unix_ms": unix_ms});
    post(stage, ENROLL_PATH, None, body).await
}

async fn post(
    stage: &Stage,
    path: &str,
    identity: Option<AgentIdentity>,
    body: Value,
) -> (StatusCode, Value) {
    let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
    let request = request.body(Body::from(body.to_string())).unwrap();
    let response = routes(stage, identity).oneshot(request).await.unwrap();
    let status = response.status();
    let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap())
}

/// The routes as the tunnel listener mounts them for one connection.
fn routes(stage: &Stage, identity: Option<AgentIdentity>) -> Router {
    let state = EnrolmentState {
        enrolment: stage.state.enrolment.clone(),
        audit: stage.state.audit.clone(),
        gateways: stage.state.gateways.clone(),
    };
    enrolment_routes(state).layer(Extension(identity))
}

fn csr() -> String {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap()
}
