//! Every route of the table, with every role and without one.

use std::time::Duration;

use axum::{
    body::Body,
    http::{Method, Request, StatusCode},
};
use central::{
    admin::{
        Role,
        rights::Needs,
        routes::{Route, table},
    },
    people::{Browser, NewUser},
    store::Owner,
};
use proto::Name;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::stage::{Reply, Stage, environment, name};

#[tokio::test]
async fn each_route_opens_to_the_roles_of_the_table_and_to_no_other() {
    let stage = Stage::new();
    for route in table() {
        let Needs::Role(needed) = route.needs else { continue };
        for role in Role::ALL {
            let reply = stage.ask(role, route.method.clone(), &path_of(&route), Value::Null).await;
            let line = format!("{} {} as {role}: {reply:?}", route.method, route.path);
            assert_ne!(reply.status, StatusCode::UNAUTHORIZED, "{line}");
            assert_ne!(reply.code(), "no_such_route", "{line}");
            if role < needed {
                assert_eq!((reply.status, reply.code()), (StatusCode::FORBIDDEN, "forbidden"), "{line}");
            } else {
                assert_ne!(reply.status, StatusCode::FORBIDDEN, "{line}");
            }
        }
    }
}

#[tokio::test]
async fn without_a_valid_token_only_the_open_routes_answer() {
    let stage = Stage::new();
    for route in table() {
        for header in [None, Some("Bearer postern_api_0000000000000000_x"), Some("Basic YTpi")] {
            let mut request = Request::builder().method(route.method.clone()).uri(path_of(&route));
            if let Some(header) = header {
                request = request.header("authorization", header);
            }
            let reply = stage.send(request.body(Body::empty()).unwrap()).await;
            let line = format!("{} {} with {header:?}: {reply:?}", route.method, route.path);
            match route.needs {
                // What a sign-in without a name comes to is its own business; the route is open.
                Needs::Nothing => assert_ne!(reply.code(), "unauthenticated", "{line}"),
                Needs::Role(_) => {
                    assert_eq!((reply.status, reply.code()), (StatusCode::UNAUTHORIZED, "unauthenticated"));
                    assert_eq!(reply.headers["www-authenticate"], "Bearer", "{line}");
                }
            }
        }
    }
}

#[tokio::test]
async fn each_route_opens_to_a_session_of_the_roles_of_the_table_and_to_no_other() {
    let stage = Stage::new();
    for role in Role::ALL {
        let user = name(&format!("user-{}", role as u8));
        for route in table() {
            let Needs::Role(needed) = route.needs else { continue };
            // A new one each time: some routes end it.
            let session = stage.session(&user, role).await;
            let reply =
                with(&stage, &route, &[("cookie", &session), ("sec-fetch-site", "same-origin")]).await;
            let line = format!("{} {} as {role}: {reply:?}", route.method, route.path);
            assert_ne!(reply.status, StatusCode::UNAUTHORIZED, "{line}");
            assert_eq!(role < needed, reply.code() == "forbidden", "{line}");
        }
    }
}

#[tokio::test]
async fn what_is_expired_revoked_or_ended_opens_nothing() {
    let stage = Stage::new();
    let tokens = &stage.state.api_tokens;
    let role = Role::CloudAdministrator;
    let expired = tokens.create(&environment(), role, None, Some(Duration::ZERO), None).await.unwrap().0;
    let (revoked, record) = tokens.create(&environment(), role, None, None, None).await.unwrap();
    tokens.revoke(&record).await.unwrap();
    let ended = stage.session(&name("anna"), role).await;
    stage.state.people.end_sessions(&environment(), &name("anna"), |_| true).await.unwrap();
    let [expired, revoked] = [expired, revoked].map(|token| format!("Bearer {}", token.reveal()));
    for route in table() {
        let Needs::Role(_) = route.needs else { continue };
        for header in [("authorization", expired.as_str()), ("authorization", &revoked), ("cookie", &ended)] {
            let reply = with(&stage, &route, &[header, ("sec-fetch-site", "same-origin")]).await;
            let line = format!("{} {} with {header:?}: {reply:?}", route.method, route.path);
            assert_eq!((reply.status, reply.code()), (StatusCode::UNAUTHORIZED, "unauthenticated"), "{line}");
        }
    }
}

#[tokio::test]
async fn a_session_changes_nothing_for_another_site() {
    let stage = Stage::new();
    let session = stage.session(&name("anna"), Role::CloudAdministrator).await;
    for route in table() {
        let Needs::Role(_) = route.needs else { continue };
        let reply = with(&stage, &route, &[("cookie", &session), ("sec-fetch-site", "cross-site")]).await;
        let line = format!("{} {}: {reply:?}", route.method, route.path);
        // Reading is harmless: no other site can read the answer.
        assert_eq!(route.method != Method::GET, reply.code() == "cross_site", "{line}");
    }
}

#[tokio::test]
async fn another_environments_token_neither_sees_nor_changes_anything() {
    let stage = Stage::new();
    let (ours, mark) = (Role::CloudAdministrator, "marker-7");
    stage.connect(mark).await;
    stage.session(&name(mark), ours).await;
    let destination = json!({"name": mark, "url": "tcp://10.0.0.1:1"});
    let made = stage.ask(ours, Method::POST, "/api/v1/destinations", destination).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let before = stage.records().await;
    let theirs = stage.state.api_tokens.create(&name("other"), ours, None, None, None).await.unwrap().0;
    let theirs = format!("Bearer {}", theirs.reveal());
    for mut route in table() {
        route.path = route.path.replace("{name}", mark);
        let reply = with(&stage, &route, &[("authorization", &theirs)]).await;
        let line = format!("{} {}: {reply:?}", route.method, route.path);
        if route.method == Method::GET {
            let seen = reply.body.to_string().replace(&route.path, "");
            assert!(reply.status == StatusCode::NOT_FOUND || !seen.contains(mark), "{line}");
        } else if route.path.contains(mark) {
            assert!(!reply.status.is_success(), "{line}");
        }
    }
    assert_eq!(stage.records().await, before);
}

#[tokio::test]
async fn only_the_known_routes_are_open() {
    let mut open: Vec<_> =
        table().into_iter().filter(|route| route.needs == Needs::Nothing).map(|route| route.path).collect();
    open.sort();
    assert_eq!(
        open,
        [
            "/api/v1/meta",
            "/api/v1/openapi.json",
            "/api/v1/session",
            "/api/v1/setup",
            "/api/v1/setup",
            "/livez",
            "/readyz",
            "/sign-in/once/{secret}"
        ]
    );
}

#[tokio::test]
async fn only_a_cloud_administrator_marks_removes_lets_in_and_decides_who_is_told() {
    let mut reserved: Vec<_> = table()
        .into_iter()
        .filter(|route| route.needs == Needs::Role(Role::CloudAdministrator))
        .map(|route| format!("{} {}", route.method, route.path))
        .collect();
    reserved.sort();
    assert_eq!(
        reserved,
        [
            "DELETE /api/v1/alerts/maintenance",
            "DELETE /api/v1/process-servers/{name}",
            "GET /api/v1/enrollment-tokens",
            "PATCH /api/v1/process-servers/{name}",
            "POST /api/v1/alerts/deliveries/{id}/send-again",
            "POST /api/v1/alerts/preview",
            "POST /api/v1/alerts/test",
            "POST /api/v1/enrollment-tokens",
            "POST /api/v1/process-servers/{name}/approve",
            "POST /api/v1/raft/recover",
            "PUT /api/v1/alerts",
            "PUT /api/v1/alerts/maintenance",
        ]
    );
}

#[tokio::test]
async fn what_is_not_there_is_said_in_the_same_words_as_any_problem() {
    let stage = Stage::new();
    let missing = stage.get("/api/v1/moons").await;
    assert_eq!((missing.status, missing.code()), (StatusCode::NOT_FOUND, "no_such_route"));
    let wrong = stage.ask(Role::CloudAdministrator, Method::DELETE, "/api/v1/gateway", Value::Null).await;
    assert_eq!((wrong.status, wrong.code()), (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"));
    for reply in [missing, wrong] {
        assert_eq!(reply.headers["content-type"], "application/problem+json");
        assert_eq!(reply.headers["x-request-id"].to_str().unwrap(), reply.body["request_id"]);
        assert_eq!(reply.headers["x-frame-options"], "DENY");
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_or_no_json_is_refused() {
    let stage = Stage::new();
    let switch = |body: String, kind: &'static str| {
        let stage = &stage;
        async move {
            let token = stage.token(Role::Operator).await;
            let request = Request::post("/api/v1/gateway/switch")
                .header("authorization", format!("Bearer {token}"))
                .header("content-type", kind);
            stage.send(request.body(Body::from(body)).unwrap()).await
        }
    };
    let json = "application/json";
    let huge = json!({ "to": "x".repeat(300_000) }).to_string();
    assert_eq!(switch(huge, json).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(switch("{".into(), json).await.code(), "invalid_json");
    assert_eq!(switch("{} {}".into(), json).await.code(), "invalid_json");
    assert_eq!(switch("{}".into(), "text/plain").await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let unknown = switch(r#"{"too":"gw-a"}"#.into(), json).await;
    assert_eq!(unknown.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        unknown.body["detail"].as_str().unwrap().contains("unknown field `too`, expected `to`"),
        "{unknown:?}"
    );
    let bad = switch(r#"{"to":"no name"}"#.into(), json).await;
    assert_eq!(bad.body["errors"][0]["field"], "to");
}

/// Calls a route with these headers.
async fn with(stage: &Stage, route: &Route, headers: &[(&str, &str)]) -> Reply {
    let mut request = Request::builder().method(route.method.clone()).uri(path_of(route));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    stage.send(request.body(Body::empty()).unwrap()).await
}

impl Stage {
    /// The cookie of somebody who has just signed in, as this role.
    pub(crate) async fn session(&self, user: &Name, role: Role) -> String {
        let people = &self.state.people;
        if people.user(&environment(), user).await.unwrap().is_none() {
            let new = NewUser { name: user.clone(), role, password: None };
            let now = OffsetDateTime::now_utc();
            people.create_user(&environment(), new, Role::CloudAdministrator, now).await.unwrap();
        }
        let now = OffsetDateTime::now_utc();
        let link = people.sign_in_link(&environment(), user, now).await.unwrap();
        let signed_in = people.sign_in_once(&link, &Browser::default(), now).await.unwrap();
        format!("__Host-postern={}", signed_in.secret.reveal())
    }

    /// What this Environment has, without what merely notes that somebody asked.
    async fn records(&self) -> Vec<String> {
        let mut all = Vec::new();
        for collection in ["destinations", "process_servers", "users", "alert_settings", "gateway_group"] {
            for record in
                self.state.store.scan(&Owner::from(&environment()), collection, None, 100).await.unwrap()
            {
                all.push(format!("{collection} {record:?}"));
            }
        }
        all
    }
}

/// The route's path with its parameter filled in.
fn path_of(route: &Route) -> String {
    route.path.replace("{name}", "nobody").replace("{id}", "0123456789abcdef").replace("{secret}", "x")
}
