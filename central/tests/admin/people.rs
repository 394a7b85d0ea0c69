//! Users and sessions, as browsers and programs meet them.

use axum::{
    body::Body,
    extract::ConnectInfo,
    http::{HeaderMap, Method, Request, StatusCode},
};
use central::{
    admin::Role,
    people::{NewUser, Password},
};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::stage::{Reply, Stage, environment, name};

const SESSION: &str = "/api/v1/session";
const USERS: &str = "/api/v1/users";
const PASSWORD: &str = "correct horse battery";

#[tokio::test]
async fn who_signs_in_is_known_by_the_cookie_alone() {
    let stage = Stage::with_user("anna", Role::Operator).await;
    let signed_in = sign_in(&stage, "Anna", PASSWORD).await;
    assert_eq!(signed_in.status, StatusCode::CREATED, "{signed_in:?}");
    assert_eq!((&signed_in.body["user"], &signed_in.body["role"]), (&json!("anna"), &json!("operator")));
    let set = signed_in.headers["set-cookie"].to_str().unwrap().to_owned();
    for part in ["__Host-postern=", "; Path=/", "; Secure", "; HttpOnly", "; SameSite=Lax", "; Max-Age=43200"]
    {
        assert!(set.contains(part), "{set}");
    }
    assert!(!signed_in.body.to_string().contains(&cookie(&signed_in)["__Host-postern=".len()..]));
    let me = with_cookie(&stage, Method::GET, SESSION, &cookie(&signed_in), Value::Null).await;
    assert_eq!(
        (me.status, &me.body["user"], &me.body["kind"], &me.body["sign_in"]),
        (StatusCode::OK, &json!("anna"), &json!("user"), &json!("password"))
    );
    assert_eq!(me.headers["cache-control"], "no-store");
}

#[tokio::test]
async fn an_unknown_name_a_wrong_password_and_a_disabled_user_look_alike() {
    let stage = Stage::with_user("anna", Role::Viewer).await;
    stage.user("bert", Role::Viewer).await;
    stage.ask(Role::CloudAdministrator, Method::PATCH, "/api/v1/users/bert", json!({"disabled": true})).await;
    let mut answers = Vec::new();
    for (who, password) in
        [("nobody", PASSWORD), ("anna", "another password"), ("bert", PASSWORD), ("a b", "")]
    {
        let mut refused = sign_in(&stage, who, password).await;
        assert_eq!(
            (refused.status, refused.code()),
            (StatusCode::UNAUTHORIZED, "wrong_credentials"),
            "{who}"
        );
        assert!(!refused.headers.contains_key("set-cookie"));
        refused.body["request_id"].take();
        answers.push(refused.body);
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
}

#[tokio::test]
async fn signing_out_ends_the_session_and_takes_the_cookie() {
    let stage = Stage::with_user("anna", Role::Viewer).await;
    let cookie = cookie(&sign_in(&stage, "anna", PASSWORD).await);
    let out = with_cookie(&stage, Method::DELETE, SESSION, &cookie, Value::Null).await;
    assert_eq!(out.status, StatusCode::NO_CONTENT);
    assert!(out.headers["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    let after = with_cookie(&stage, Method::GET, SESSION, &cookie, Value::Null).await;
    assert_eq!(after.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn each_sign_in_is_a_new_session_and_ends_the_one_the_browser_brought() {
    let stage = Stage::with_user("anna", Role::Viewer).await;
    let first = cookie(&sign_in(&stage, "anna", PASSWORD).await);
    let again = json!({"name": "anna", "password": PASSWORD});
    let second = cookie(&with_cookie(&stage, Method::POST, SESSION, &first, again).await);
    assert_ne!(first, second);
    assert_eq!(status(&stage, &first).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(&stage, &second).await, StatusCode::OK);
}

#[tokio::test]
async fn another_site_cannot_act_with_the_cookie() {
    let stage = Stage::with_user("anna", Role::Operator).await;
    let cookie = cookie(&sign_in(&stage, "anna", PASSWORD).await);
    let switch = |headers: &[(&str, &str)]| {
        let mut request =
            Request::post("/api/v1/gateway/switch").header("cookie", &cookie).header("host", "c:7443");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        stage.send(request.body(Body::empty()).unwrap())
    };
    for theirs in [
        &[("sec-fetch-site", "cross-site")][..],
        &[("sec-fetch-site", "same-site"), ("origin", "https://c:7443")],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[],
    ] {
        let refused = switch(theirs).await;
        assert_eq!((refused.status, refused.code()), (StatusCode::FORBIDDEN, "cross_site"), "{theirs:?}");
    }
    for ours in [[("sec-fetch-site", "same-origin")], [("origin", "https://c:7443")]] {
        assert_ne!(switch(&ours).await.status, StatusCode::FORBIDDEN, "{ours:?}");
    }
}

#[tokio::test]
async fn another_site_cannot_sign_somebody_in() {
    let stage = Stage::with_user("anna", Role::Viewer).await;
    let request = Request::post(SESSION)
        .header("content-type", "application/json")
        .header("sec-fetch-site", "cross-site")
        .body(Body::from(json!({"name": "anna", "password": PASSWORD}).to_string()));
    let refused = stage.send(request.unwrap()).await;
    assert_eq!((refused.status, refused.code()), (StatusCode::FORBIDDEN, "cross_site"));
}

#[tokio::test]
async fn a_role_that_is_taken_away_counts_from_the_next_request_on() {
    let stage = Stage::with_user("anna", Role::Administrator).await;
    let anna = cookie(&sign_in(&stage, "anna", PASSWORD).await);
    for change in [json!({"role": "viewer"}), json!({"disabled": true})] {
        let changed = stage.ask(Role::CloudAdministrator, Method::PATCH, "/api/v1/users/anna", change).await;
        assert_eq!(changed.status, StatusCode::OK, "{changed:?}");
        assert_eq!(status(&stage, &anna).await, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn a_new_password_ends_all_other_sessions() {
    let stage = Stage::with_user("anna", Role::Viewer).await;
    let (here, there) =
        (cookie(&sign_in(&stage, "anna", PASSWORD).await), cookie(&sign_in(&stage, "anna", PASSWORD).await));
    let path = "/api/v1/session/password";
    let change = |current: &str, new: &str| {
        let body = json!({"current": current, "new": new});
        let (stage, here) = (&stage, &here);
        async move { with_cookie(stage, Method::PUT, path, here, body).await }
    };
    let wrong = change("not my password", "another good one").await;
    assert_eq!(wrong.body["errors"][0]["field"], "current", "{wrong:?}");
    let weak = change(PASSWORD, "short").await;
    assert_eq!(weak.body["errors"][0]["field"], "new", "{weak:?}");
    let changed = change(PASSWORD, "another good one").await;
    assert_eq!(changed.status, StatusCode::NO_CONTENT, "{changed:?}");
    for old in [&here, &there] {
        assert_eq!(status(&stage, old).await, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(status(&stage, &cookie(&changed)).await, StatusCode::OK);
    assert_eq!(sign_in(&stage, "anna", PASSWORD).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(sign_in(&stage, "anna", "another good one").await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn sessions_are_listed_and_ended_one_by_one() {
    let stage = Stage::with_user("anna", Role::Viewer).await;
    let (here, there) =
        (cookie(&sign_in(&stage, "anna", PASSWORD).await), cookie(&sign_in(&stage, "anna", PASSWORD).await));
    let list = with_cookie(&stage, Method::GET, "/api/v1/sessions", &here, Value::Null).await;
    let sessions = list.body.as_array().unwrap();
    assert_eq!(sessions.len(), 2, "{list:?}");
    let other = sessions.iter().find(|session| session["current"] == false).unwrap();
    let path = format!("/api/v1/sessions/{}", other["id"].as_str().unwrap());
    let ended = with_cookie(&stage, Method::DELETE, &path, &here, Value::Null).await;
    assert_eq!(ended.status, StatusCode::NO_CONTENT);
    assert_eq!(status(&stage, &there).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(&stage, &here).await, StatusCode::OK);
    let by_admin =
        stage.ask(Role::Administrator, Method::GET, "/api/v1/users/anna/sessions", Value::Null).await;
    assert_eq!(by_admin.body.as_array().unwrap().len(), 1);
    stage.ask(Role::Administrator, Method::DELETE, "/api/v1/users/anna/sessions", Value::Null).await;
    assert_eq!(status(&stage, &here).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_removed_user_is_not_signed_in_by_a_namesake() {
    let stage = Stage::with_user("anna", Role::Viewer).await;
    let old = cookie(&sign_in(&stage, "anna", PASSWORD).await);
    let removed = stage.ask(Role::Administrator, Method::DELETE, "/api/v1/users/anna", Value::Null).await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT);
    stage.user("anna", Role::CloudAdministrator).await;
    assert_eq!(status(&stage, &old).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn nobody_raises_anybody_above_themselves() {
    let stage = Stage::with_user("boss", Role::CloudAdministrator).await;
    let by = |method, path: &'static str, body| stage.ask(Role::Administrator, method, path, body);
    let above = json!({"name": "anna", "role": "cloud_administrator", "password": PASSWORD});
    for refused in [
        by(Method::POST, USERS, above).await,
        by(Method::PATCH, "/api/v1/users/boss", json!({"password": PASSWORD})).await,
        by(Method::DELETE, "/api/v1/users/boss", Value::Null).await,
        by(Method::DELETE, "/api/v1/users/boss/sessions", Value::Null).await,
    ] {
        assert_eq!((refused.status, refused.code()), (StatusCode::FORBIDDEN, "forbidden"), "{refused:?}");
    }
    let fine = json!({"name": "anna", "role": "administrator", "password": PASSWORD});
    assert_eq!(by(Method::POST, USERS, fine).await.status, StatusCode::CREATED);
    let raised = by(Method::PATCH, "/api/v1/users/anna", json!({"role": "cloud_administrator"})).await;
    assert_eq!(raised.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn one_cloud_administrator_remains() {
    let stage = Stage::with_user("boss", Role::CloudAdministrator).await;
    let by = |method, path: &'static str, body| stage.ask(Role::CloudAdministrator, method, path, body);
    for change in [json!({"role": "administrator"}), json!({"disabled": true})] {
        let refused = by(Method::PATCH, "/api/v1/users/boss", change).await;
        assert_eq!((refused.status, refused.code()), (StatusCode::CONFLICT, "last_cloud_administrator"));
    }
    assert_eq!(
        by(Method::DELETE, "/api/v1/users/boss", Value::Null).await.code(),
        "last_cloud_administrator"
    );
    stage.user("second", Role::CloudAdministrator).await;
    // Two at once, each of whom would leave the other.
    let (first, second) = tokio::join!(
        by(Method::DELETE, "/api/v1/users/boss", Value::Null),
        by(Method::DELETE, "/api/v1/users/second", Value::Null)
    );
    let mut both = [first.status.as_u16(), second.status.as_u16()];
    both.sort_unstable();
    assert_eq!(both, [204, 409]);
}

#[tokio::test]
async fn a_user_to_be_is_judged_field_by_field() {
    let stage = Stage::new();
    for (body, field) in [
        (json!({"name": "a b", "role": "viewer", "password": PASSWORD}), "name"),
        (json!({"name": "anna", "role": "king", "password": PASSWORD}), "role"),
        (json!({"name": "anna", "role": "viewer", "password": "short"}), "password"),
        (json!({"name": "annaannaanna", "role": "viewer", "password": "AnnaAnnaAnna"}), "password"),
    ] {
        let refused = stage.ask(Role::Administrator, Method::POST, USERS, body).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{refused:?}");
        assert_eq!(refused.body["errors"][0]["field"], field, "{refused:?}");
    }
    stage.user("anna", Role::Viewer).await;
    let body = json!({"name": "Anna", "role": "viewer", "password": PASSWORD});
    assert_eq!(stage.ask(Role::Administrator, Method::POST, USERS, body).await.code(), "user_exists");
    let list = stage.ask(Role::Administrator, Method::GET, USERS, Value::Null).await.body.to_string();
    assert!(list.contains("anna") && !list.contains("argon2"), "{list}");
}

#[tokio::test]
async fn guessing_is_slowed_down_and_the_owner_still_gets_in() {
    let stage = Stage::with_user("anna", Role::Viewer).await;
    assert_eq!(sign_in_from(&stage, [192, 0, 2, 1], PASSWORD).await.status, StatusCode::CREATED);
    let mut last = None;
    for guess in 0..12 {
        last = Some(sign_in_from(&stage, [198, 51, 100, guess], "guess guess guess").await);
    }
    let last = last.unwrap();
    assert_eq!((last.status, last.code()), (StatusCode::TOO_MANY_REQUESTS, "too_many_attempts"), "{last:?}");
    assert!(last.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 0);
    assert_eq!(
        sign_in_from(&stage, [198, 51, 100, 99], PASSWORD).await.status,
        StatusCode::TOO_MANY_REQUESTS
    );
    assert_eq!(sign_in_from(&stage, [192, 0, 2, 1], PASSWORD).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn the_set_up_link_makes_one_administrator_once() {
    let stage = Stage::new();
    let needed = async || stage.get("/api/v1/setup").await.body["needed"].clone();
    assert_eq!(needed().await, true);
    let now = OffsetDateTime::now_utc();
    let old = stage.state.people.first_run([&environment()], now).await.unwrap().remove(0).1;
    let link = stage.state.people.first_run([&environment()], now).await.unwrap().remove(0).1;
    let set_up = async |secret: &str, who: &str, password: &str| {
        let body = json!({"secret": secret, "name": who, "password": password}).to_string();
        let request = Request::post("/api/v1/setup").header("content-type", "application/json");
        stage.send(request.body(Body::from(body)).unwrap()).await
    };
    assert_eq!(set_up(old.reveal(), "eve", PASSWORD).await.status, StatusCode::GONE, "renewed at a restart");
    assert_eq!(set_up("guess", "eve", PASSWORD).await.status, StatusCode::GONE);
    let weak = set_up(link.reveal(), "anna", "short").await;
    assert_eq!(weak.body["errors"][0]["field"], "password");
    let (first, second) =
        tokio::join!(set_up(link.reveal(), "anna", PASSWORD), set_up(link.reveal(), "eve", PASSWORD));
    let mut both = [first.status.as_u16(), second.status.as_u16()];
    both.sort_unstable();
    assert_eq!(both, [201, 410]);
    let winner = if first.status == StatusCode::CREATED { first } else { second };
    assert_eq!(winner.body["role"], "cloud_administrator");
    assert_eq!(status(&stage, &cookie(&winner)).await, StatusCode::OK);
    assert_eq!(needed().await, false);
    assert!(stage.state.people.first_run([&environment()], now).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_set_up_link_is_worth_nothing_once_there_is_a_user() {
    let stage = Stage::new();
    let link =
        stage.state.people.first_run([&environment()], OffsetDateTime::now_utc()).await.unwrap().remove(0).1;
    stage.user("boss", Role::CloudAdministrator).await;
    let body = json!({"secret": link.reveal(), "name": "eve", "password": PASSWORD}).to_string();
    let request = Request::post("/api/v1/setup").header("content-type", "application/json");
    assert_eq!(stage.send(request.body(Body::from(body)).unwrap()).await.status, StatusCode::GONE);
}

#[tokio::test]
async fn devs_link_signs_in_once_without_a_password() {
    let stage = Stage::new();
    let link = stage
        .state
        .people
        .sign_in_link(&environment(), &name("dev"), OffsetDateTime::now_utc())
        .await
        .unwrap();
    let path = format!("/sign-in/once/{}", link.reveal());
    let open = async || stage.send(Request::get(&path).body(Body::empty()).unwrap()).await;
    let opened = open().await;
    assert_eq!((opened.status, &opened.headers["location"]), (StatusCode::SEE_OTHER, &"/".parse().unwrap()));
    assert_eq!(status(&stage, &cookie(&opened)).await, StatusCode::OK);
    assert_eq!(open().await.status, StatusCode::GONE);
    assert_eq!(sign_in(&stage, "dev", "").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_token_knows_itself_and_is_no_session() {
    let stage = Stage::new();
    let me = stage.ask(Role::Operator, Method::GET, SESSION, Value::Null).await;
    assert_eq!((&me.body["kind"], &me.body["role"]), (&json!("token"), &json!("operator")));
    for (method, path) in [(Method::DELETE, SESSION), (Method::PUT, "/api/v1/session/password")] {
        let body = json!({"current": PASSWORD, "new": PASSWORD});
        let body = if method == Method::PUT { body } else { Value::Null };
        assert_eq!(stage.ask(Role::Viewer, method, path, body).await.code(), "not_a_session");
    }
}

#[tokio::test]
async fn answers_carry_the_headers_that_keep_a_browser_safe() {
    let stage = Stage::new();
    let headers: HeaderMap = stage.get("/api/v1/gateway").await.headers;
    let policy = headers["content-security-policy"].to_str().unwrap();
    for part in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    for (name, value) in [
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(headers[name], value);
    }
    assert!(!headers.contains_key("access-control-allow-origin"));
}

impl Stage {
    async fn with_user(who: &str, role: Role) -> Self {
        let stage = Self::new();
        stage.user(who, role).await;
        stage
    }

    async fn user(&self, who: &str, role: Role) {
        let new = NewUser { name: name(who), role, password: Some(Password::new(PASSWORD)) };
        let now = OffsetDateTime::now_utc();
        self.state.people.create_user(&environment(), new, Role::CloudAdministrator, now).await.unwrap();
    }
}

async fn sign_in(stage: &Stage, who: &str, password: &str) -> Reply {
    let body = json!({"name": who, "password": password}).to_string();
    let request = Request::post(SESSION).header("content-type", "application/json");
    stage.send(request.body(Body::from(body)).unwrap()).await
}

async fn sign_in_from(stage: &Stage, from: [u8; 4], password: &str) -> Reply {
    let body = json!({"name": "anna", "password": password}).to_string();
    let request = Request::post(SESSION)
        .header("content-type", "application/json")
        .extension(ConnectInfo(std::net::SocketAddr::from((from, 50_000))));
    stage.send(request.body(Body::from(body)).unwrap()).await
}

/// What a browser would send back.
fn cookie(reply: &Reply) -> String {
    reply.headers["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned()
}

async fn with_cookie(stage: &Stage, method: Method, path: &str, cookie: &str, body: Value) -> Reply {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("cookie", cookie)
        .header("sec-fetch-site", "same-origin")
        .header("content-type", "application/json");
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    stage.send(request.body(body).unwrap()).await
}

async fn status(stage: &Stage, cookie: &str) -> StatusCode {
    with_cookie(stage, Method::GET, SESSION, cookie, Value::Null).await.status
}
