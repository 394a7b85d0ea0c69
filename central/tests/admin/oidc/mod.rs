//! Signing in through an identity provider, as a browser goes: to the provider, back, and in, or not in and told why.

mod provider;

use axum::{
    body::Body,
    http::{Method, Request, StatusCode, header},
};
use central::{
    admin::Role,
    people::{NewUser, Password},
};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use url::Url;

use crate::stage::{Reply, Stage, environment, name};
use provider::{FakeProvider, believed};

const ME: &str = "/api/v1/session";

#[tokio::test]
async fn who_the_provider_vouches_for_is_in_with_the_role_of_the_claim() {
    let (stage, provider) = scene().await;
    let (browser, asked) = begin(&stage, "/streams?q=1").await;
    let (code, state) = provider.authorize(&asked);
    let entered = call_back(&stage, &browser, &format!("code={code}&state={state}")).await;
    assert_eq!((entered.status, location(&entered)), (StatusCode::SEE_OTHER, "/streams?q=1"), "{entered:?}");
    assert!(set_cookies(&entered).iter().any(|cookie| cookie.starts_with("__Host-postern_oidc=; Max-Age=0")));
    let me = me(&stage, &session(&entered).unwrap()).await;
    assert_eq!((&me["user"], &me["role"], &me["kind"]), (&json!("anna"), &json!("operator"), &json!("user")));
    let users = stage.ask(Role::Administrator, Method::GET, "/api/v1/users/anna", Value::Null).await;
    assert_eq!((&users.body["has_password"], &users.body["role"]), (&json!(false), &json!("operator")));
    let account = json!({"issuer": provider.issuer, "subject": "1234"});
    assert_eq!((&users.body["sign_in"], &users.body["account"]), (&json!("provider"), &account));
    let events = stage.get("/api/v1/events").await;
    assert!(
        events.body.to_string().contains("User anna was made by the identity provider, Operator"),
        "{events:?}"
    );
    let audit = stage.ask(Role::Administrator, Method::GET, "/api/v1/audit", Value::Null).await;
    let record =
        audit.body.as_array().unwrap().iter().find(|record| record["action"] == "sign-in.oidc").unwrap();
    assert_eq!((&record["outcome"], &record["who"]["name"]), (&json!("done"), &json!("anna")), "{record}");
    assert_eq!((&record["who"]["subject"], &record["after"]["role"]), (&json!("1234"), &json!("operator")));
    assert!(!audit.body.to_string().contains(&code) && !audit.body.to_string().contains(&state));
}

#[tokio::test]
async fn the_sign_in_page_leads_to_the_provider_where_there_is_one() {
    let (stage, _provider) = scene().await;
    let page = get(&stage, "/sign-in?next=/streams", "").await;
    let page = page.body.as_str().unwrap();
    assert!(
        page.contains("href=\"/sign-in/oidc?next=%2Fstreams\"") && page.contains("through 127.0.0.1"),
        "{page}"
    );
    let plain = Stage::new();
    assert!(!get(&plain, "/sign-in", "").await.body.as_str().unwrap().contains("/sign-in/oidc"));
    for path in ["/sign-in/oidc", "/sign-in/oidc/callback?code=a&state=b"] {
        assert_eq!(get(&plain, path, "").await.status, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn each_sign_in_is_a_new_session_with_the_role_of_now_and_ends_the_one_the_browser_brought() {
    let (stage, provider) = scene().await;
    let first = session(&come(&stage, &provider, "").await).unwrap();
    provider.script().claims = json!({"groups": "owners"});
    let second = session(&come(&stage, &provider, &first).await).unwrap();
    assert_ne!(first, second);
    assert_eq!(get(&stage, ME, &first).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(me(&stage, &second).await["role"], "cloud_administrator");
    let events = stage.get("/api/v1/events").await.body.to_string();
    assert!(
        events.contains("User anna was changed by the identity provider: Cloud Administrator, was Operator")
    );
    provider.script().claims = json!({"groups": ["staff"]});
    let third = session(&come(&stage, &provider, &second).await).unwrap();
    assert_eq!(me(&stage, &third).await["role"], "viewer");
    assert_eq!(get(&stage, ME, &second).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn who_has_no_role_is_told_which_claim_and_what_stood_in_it() {
    let (stage, provider) = scene().await;
    provider.script().claims = json!({"groups": ["<b>guests</b>", "STAFF"]});
    let refused = come(&stage, &provider, "").await;
    refused_with(&refused, StatusCode::FORBIDDEN, "the claim groups holds ");
    let page = refused.body.as_str().unwrap();
    assert!(page.contains("guests") && page.contains("STAFF") && !page.contains("<b>"), "{page}");
    assert_eq!(stage.state.people.users(&environment()).await.unwrap(), []);
    provider.script().claims = json!({"preferred_username": "@"});
    let nameless = come(&stage, &provider, "").await;
    refused_with(&nameless, StatusCode::FORBIDDEN, "the claim preferred_username holds ");
}

#[tokio::test]
async fn a_token_that_proves_nothing_lets_nobody_in() {
    let (stage, provider) = scene().await;
    let now = OffsetDateTime::now_utc().unix_timestamp();
    for (header, claims, why) in [
        (json!({}), json!({"iss": "https://evil.example"}), "its issuer is "),
        (json!({}), json!({"aud": "other"}), "it is meant for "),
        (json!({}), json!({"aud": ["postern", "other"]}), "its claim azp is missing"),
        (json!({}), json!({"nonce": "another"}), "it answers another sign-in"),
        (json!({}), json!({"nonce": null}), "it answers another sign-in"),
        (json!({}), json!({"exp": now - 120}), "it has expired"),
        (json!({}), json!({"iat": now - 3600}), "it is older than this sign-in"),
        (json!({}), json!({"sub": null}), "its claim sub is missing"),
        (json!({"alg": "none"}), json!({}), "it is signed with none"),
        (json!({"alg": "HS256", "kid": "first"}), json!({}), "it is signed with HS256"),
    ] {
        {
            let mut script = provider.script();
            script.claims = claims.clone();
            script.header =
                if header == json!({}) { json!({"alg": "ES256", "kid": "first"}) } else { header };
        }
        let refused = come(&stage, &provider, "").await;
        refused_with(&refused, StatusCode::FORBIDDEN, why);
    }
    assert_eq!(stage.state.people.users(&environment()).await.unwrap(), []);
}

#[tokio::test]
async fn a_key_that_is_not_published_is_looked_for_once_and_found_once_it_is() {
    let (stage, provider) = scene().await;
    assert!(session(&come(&stage, &provider, "").await).is_some());
    let public = provider.change_key("second");
    let refused = come(&stage, &provider, "").await;
    refused_with(&refused, StatusCode::FORBIDDEN, "a key that the provider does not publish");
    assert_eq!(provider.script().keys_asked, 2, "once at the beginning, once for the unknown key");
    provider.script().published["keys"].as_array_mut().unwrap().push(public);
    assert!(session(&come(&stage, &provider, "").await).is_some());
    assert_eq!(provider.script().keys_asked, 3);
    assert!(session(&come(&stage, &provider, "").await).is_some());
    assert_eq!(provider.script().keys_asked, 3, "it is known now");
}

#[tokio::test]
async fn what_was_begun_is_finished_once_and_by_the_browser_that_began_it() {
    let (stage, provider) = scene().await;
    let (browser, asked) = begin(&stage, "/").await;
    let (code, state) = provider.authorize(&asked);
    let answer = format!("code={code}&state={state}");
    assert!(session(&call_back(&stage, &browser, &answer).await).is_some());
    let again = call_back(&stage, &browser, &answer).await;
    refused_with(&again, StatusCode::BAD_REQUEST, "this sign-in was finished already");
    for odd in ["", "state=x", "state=&code=", &format!("code={code}&state={}", "x".repeat(43))] {
        let refused = call_back(&stage, &browser, odd).await;
        refused_with(&refused, StatusCode::BAD_REQUEST, "this sign-in was finished already");
    }

    let stranger = begin(&stage, "/").await.0;
    for other in ["", &stranger] {
        let (browser, asked) = begin(&stage, "/").await;
        let (code, state) = provider.authorize(&asked);
        let answer = format!("code={code}&state={state}");
        let refused = call_back(&stage, other, &answer).await;
        refused_with(&refused, StatusCode::BAD_REQUEST, "begun in another browser");
        let late = call_back(&stage, &browser, &answer).await;
        refused_with(&late, StatusCode::BAD_REQUEST, "this sign-in was finished already");
    }
}

#[tokio::test]
async fn two_tabs_of_one_browser_both_finish() {
    let (stage, provider) = scene().await;
    let (browser, first) = begin(&stage, "/a").await;
    let (same, second) = begin_as(&stage, "/b", &browser).await;
    assert_eq!(browser, same);
    for (asked, next) in [(first, "/a"), (second, "/b")] {
        let (code, state) = provider.authorize(&asked);
        let entered = call_back(&stage, &browser, &format!("code={code}&state={state}")).await;
        assert_eq!(location(&entered), next);
    }
}

#[tokio::test]
async fn a_user_with_a_password_and_another_accounts_name_are_not_taken_over() {
    let (stage, provider) = scene().await;
    let password = Some(Password::new("a password of many letters"));
    let boss = NewUser { name: name("boss"), role: Role::Viewer, password };
    let now = OffsetDateTime::now_utc();
    stage.state.people.create_user(&environment(), boss, Role::CloudAdministrator, now).await.unwrap();
    provider.script().claims = json!({"preferred_username": "Boss", "groups": "owners"});
    let refused = come(&stage, &provider, "").await;
    refused_with(&refused, StatusCode::CONFLICT, "a user named boss is here already, with a password");
    assert_eq!(role_of(&stage, "boss").await, Role::Viewer);
    provider.script().claims = json!({});
    assert!(session(&come(&stage, &provider, "").await).is_some());
    provider.script().claims = json!({"sub": "5678", "groups": "owners"});
    let refused = come(&stage, &provider, "").await;
    refused_with(&refused, StatusCode::CONFLICT, "anna belongs to another account");
    assert_eq!(role_of(&stage, "anna").await, Role::Operator);
}

#[tokio::test]
async fn who_came_by_the_provider_has_no_password_and_gets_none() {
    let (stage, provider) = scene().await;
    assert!(session(&come(&stage, &provider, "").await).is_some());
    let typed = json!({"name": "anna", "password": ""}).to_string();
    let request = Request::post(ME).header("content-type", "application/json").body(Body::from(typed));
    assert_eq!(stage.send(request.unwrap()).await.code(), "wrong_credentials");
    let given = json!({"password": "a password of many letters"});
    let given = stage.ask(Role::CloudAdministrator, Method::PATCH, "/api/v1/users/anna", given).await;
    assert_eq!(given.body["errors"][0]["field"], "password", "{given:?}");
    let session = session(&come(&stage, &provider, "").await).unwrap();
    assert_eq!(me(&stage, &session).await["sign_in"], "provider");
    let settings = get(&stage, "/settings", &session).await;
    let settings = settings.body.as_str().unwrap();
    assert!(
        settings.contains("your password is kept there") && !settings.contains("name=\"current\""),
        "{settings}"
    );
    let own_password = json!({"current": "", "new": "a password of many letters"}).to_string();
    let own = Request::put(format!("{ME}/password"))
        .header("content-type", "application/json")
        .header("sec-fetch-site", "same-origin")
        .header("cookie", session);
    let own = stage.send(own.body(Body::from(own_password)).unwrap()).await;
    assert!(own.body.to_string().contains("anna signs in through the identity provider"), "{own:?}");
    let off = json!({"disabled": true});
    stage.ask(Role::CloudAdministrator, Method::PATCH, "/api/v1/users/anna", off).await;
    refused_with(&come(&stage, &provider, "").await, StatusCode::FORBIDDEN, "the user anna is disabled");
}

#[tokio::test]
async fn what_the_provider_refuses_is_said_in_its_word_and_in_no_others() {
    let (stage, provider) = scene().await;
    for (error, said) in [
        ("access_denied", "the identity provider refused: access_denied"),
        ("call%20555%20now", "the identity provider refused: an error that it does not name"),
    ] {
        let (browser, asked) = begin(&stage, "/").await;
        let state = provider.authorize(&asked).1;
        let answer = format!("error={error}&error_description=%3Cb%3E&state={state}");
        let refused = call_back(&stage, &browser, &answer).await;
        refused_with(&refused, StatusCode::FORBIDDEN, said);
    }
    provider.script().refuses = Some("invalid_grant");
    refused_with(&come(&stage, &provider, "").await, StatusCode::FORBIDDEN, "refused: invalid_grant");
    provider.script().refuses = None;
    let (browser, asked) = begin(&stage, "/").await;
    let (code, state) = provider.authorize(&asked);
    let mixed_up = format!("code={code}&state={state}&iss=https%3A%2F%2Fevil.example");
    let refused = call_back(&stage, &browser, &mixed_up).await;
    refused_with(&refused, StatusCode::FORBIDDEN, "somebody else&#39;s name, or none");
}

#[tokio::test]
async fn a_provider_that_is_away_leaves_the_password_form() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let stage = Stage::new().believing(believed(&format!("http://{gone}")));
    let away = get(&stage, "/sign-in/oidc?next=/streams", "").await;
    refused_with(
        &away,
        StatusCode::SERVICE_UNAVAILABLE,
        "the identity provider could not be asked: no connection",
    );
    let page = away.body.as_str().unwrap();
    assert!(page.contains("name=\"password\"") && page.contains("value=\"/streams\""), "{page}");
}

#[tokio::test]
async fn who_begins_again_and_again_has_to_wait() {
    let (stage, provider) = scene().await;
    for _ in 0..30 {
        assert!(session(&come(&stage, &provider, "").await).is_some(), "who gets in costs nothing");
    }
    for _ in 0..central::budgets::BURST {
        assert_eq!(get(&stage, "/sign-in/oidc", "").await.status, StatusCode::SEE_OTHER);
    }
    let refused = get(&stage, "/sign-in/oidc", "").await;
    refused_with(&refused, StatusCode::TOO_MANY_REQUESTS, "too many attempts: try again in ");
    assert!(refused.headers.contains_key(header::RETRY_AFTER));
}

#[tokio::test]
async fn nobody_is_led_elsewhere_afterwards() {
    let (stage, provider) = scene().await;
    for elsewhere in
        ["//evil.example", "https://evil.example", "/\\evil.example", "", &format!("/{}", "x".repeat(600))]
    {
        let (browser, asked) = begin(&stage, elsewhere).await;
        let (code, state) = provider.authorize(&asked);
        let entered = call_back(&stage, &browser, &format!("code={code}&state={state}")).await;
        assert_eq!(location(&entered), "/", "{elsewhere}");
    }
}

async fn scene() -> (Stage, FakeProvider) {
    let provider = FakeProvider::start().await;
    (Stage::new().believing(believed(&provider.issuer)), provider)
}

/// All the way, with this cookie beside those of the way.
async fn come(stage: &Stage, provider: &FakeProvider, cookie: &str) -> Reply {
    let (browser, asked) = begin(stage, "/").await;
    let (code, state) = provider.authorize(&asked);
    call_back(stage, &format!("{browser}; {cookie}"), &format!("code={code}&state={state}")).await
}

/// What the browser keeps, and where it is sent.
async fn begin(stage: &Stage, next: &str) -> (String, Url) {
    begin_as(stage, next, "").await
}

async fn begin_as(stage: &Stage, next: &str, cookie: &str) -> (String, Url) {
    let next: String = url::form_urlencoded::byte_serialize(next.as_bytes()).collect();
    let begun = get(stage, &format!("/sign-in/oidc?next={next}"), cookie).await;
    assert_eq!(begun.status, StatusCode::SEE_OTHER, "{begun:?}");
    let set = set_cookies(&begun);
    let [ours] = &set[..] else { panic!("{set:?}") };
    for part in ["__Host-postern_oidc=", "; Max-Age=600; Path=/; Secure; HttpOnly; SameSite=Lax"] {
        assert!(ours.contains(part), "{ours}");
    }
    (ours.split(';').next().unwrap().to_owned(), location(&begun).parse().unwrap())
}

/// As a browser comes from another site: with the cookies that are `Lax`.
async fn call_back(stage: &Stage, cookie: &str, answer: &str) -> Reply {
    get(stage, &format!("/sign-in/oidc/callback?{answer}"), cookie).await
}

async fn get(stage: &Stage, path: &str, cookie: &str) -> Reply {
    let request = Request::get(path).header("cookie", cookie).header("sec-fetch-site", "cross-site");
    stage.send(request.body(Body::empty()).unwrap()).await
}

async fn me(stage: &Stage, session: &str) -> Value {
    let reply = get(stage, ME, session).await;
    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    reply.body
}

async fn role_of(stage: &Stage, who: &str) -> Role {
    stage.state.people.user(&environment(), &name(who)).await.unwrap().unwrap().value.role
}

/// The sign-in page with this status says why, and nobody is signed in.
fn refused_with(reply: &Reply, status: StatusCode, why: &str) {
    let page = reply.body.as_str().unwrap_or_default();
    assert_eq!(reply.status, status, "{why}: {page}");
    assert!(page.contains("role=\"alert\"") && page.contains(why), "{why}: {page}");
    assert_eq!(session(reply), None);
}

/// The session's cookie as the browser sends it back.
fn session(reply: &Reply) -> Option<String> {
    let set = set_cookies(reply);
    let ours = set.iter().find(|cookie| cookie.starts_with("__Host-postern="))?;
    Some(ours.split(';').next()?.to_owned())
}

fn set_cookies(reply: &Reply) -> Vec<String> {
    reply.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

fn location(reply: &Reply) -> &str {
    reply.headers["location"].to_str().unwrap()
}
