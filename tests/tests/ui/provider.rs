//! Signing in through an identity provider that others wrote: there, back over its TLS and ours, in with the role it
//! gives, and not in and told why. To the browser it is another site, so the cookies' rules are those of real life.

use postern_tests::browser::Browser;
use postern_tests::servers::IdentityProvider;
use postern_tests::{Attempt, Central, Folder, port};
use serde_json::json;

use super::{PASSWORD, axe, look_at, look_here};

const ROLES: &str = "{ operator = [\"night-shift\"], administrator = [\"network\"] }";
const THROUGH: &str = "Sign in through localhost";

#[tokio::test]
async fn people_come_through_their_provider_with_the_role_it_gives_them() {
    let (central, provider) = scene().await;
    let admin = format!("https://{}", central.admin());
    provider.knows("4711", &json!({"preferred_username": "anna", "groups": ["night-shift", "all"]})).await;
    let mut browser = Browser::open().await;
    let mut wrong =
        look_at(&mut browser, &axe(), "sign-in-oidc", &format!("{admin}/sign-in?next=/streams")).await;

    browser.look(1280, false).await;
    enter(&mut browser, &admin, "/streams?sort=name", "4711").await;
    assert_eq!(browser.eval("location.pathname + location.search").await, "/streams?sort=name");
    assert_eq!(role(&mut browser).await, "Operator in default");

    provider.knows("4711", &json!({"preferred_username": "anna", "groups": ["network"]})).await;
    leave(&mut browser).await;
    enter(&mut browser, &admin, "/people", "4711").await;
    assert_eq!(role(&mut browser).await, "Administrator in default");
    let row = browser.eval("document.querySelector('#u-anna').innerText").await;
    let row = row.as_str().unwrap_or_default();
    assert!(row.contains("through localhost") && row.contains("Administrator"), "{row}");
    let boss = browser.eval("document.querySelector('#u-boss').innerText").await;
    assert!(!boss.as_str().unwrap_or_default().contains("through"), "{boss}");
    wrong.extend(look_at(&mut browser, &axe(), "people-oidc", &format!("{admin}/people")).await);
    browser.look(1280, false).await;
    leave(&mut browser).await;
    let shown = Attempt::at(central.posternctl(&["users", "show", "anna"])).await;
    let account = format!("4711 at {}", provider.issuer());
    assert!(shown.stdout.contains("provider") && shown.stdout.contains(&account), "{shown:?}");

    let complaints = browser.complaints();
    // The provider's page has no icon, and asks for a style that is kept away from it.
    let theirs =
        |one: &&String| one.contains(&provider.issuer()) || one.contains("style-src 'unsafe-inline'");
    let ours: Vec<_> = complaints.iter().filter(|one| !theirs(one)).collect();
    assert!(ours.is_empty(), "{ours:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn who_gets_no_role_is_told_for_what() {
    let (central, provider) = scene().await;
    let admin = format!("https://{}", central.admin());
    provider.knows("4712", &json!({"preferred_username": "gus", "groups": ["guests", "all"]})).await;
    let mut browser = Browser::open().await;
    let mut wrong = Vec::new();

    enter(&mut browser, &admin, "/streams", "4712").await;
    browser.sees("gives you no role here: the claim groups holds \"guests\", \"all\" (").await;
    wrong.extend(look_around(&mut browser, "sign-in-oidc-no-role").await);
    let users = central.api().get("/users").await;
    assert_eq!(users.as_array().map(Vec::len), Some(1), "nobody was made: {users}");
    assert_eq!(users[0]["sign_in"], "password");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_provider_that_is_away_leaves_the_password_form() {
    let (central, mut provider) = scene().await;
    let admin = format!("https://{}", central.admin());
    provider.stop();
    let mut browser = Browser::open().await;

    browser.goto(&format!("{admin}/streams")).await;
    browser.press(THROUGH).await;
    browser.sees("the identity provider could not be asked: no connection").await;
    let wrong = look_around(&mut browser, "sign-in-oidc-away").await;
    browser.fill("name", "boss").await;
    browser.fill("password", PASSWORD).await;
    browser.press("Sign in").await;
    assert_eq!(browser.eval("location.pathname").await, "/streams", "the page that was wanted");
    assert_eq!(role(&mut browser).await, "Cloud Administrator in default");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A central that believes the provider, and has one user of its own.
async fn scene() -> (Central, IdentityProvider) {
    let admin = port::free();
    let provider = IdentityProvider::start(&format!("https://{admin}/sign-in/oidc/callback")).await;
    let settings = provider.settings(ROLES);
    let central = Central::start_at(admin, Folder::new("central"), &["default"], &settings).await;
    let boss = json!({"name": "boss", "role": "cloud_administrator", "password": PASSWORD});
    central.api().post("/users", boss).await;
    (central, provider)
}

/// Wants a page, and goes through the provider, which is told `subject`.
async fn enter(browser: &mut Browser, admin: &str, path: &str, subject: &str) {
    browser.goto(&format!("{admin}{path}")).await;
    browser.press(THROUGH).await;
    browser.sees("Authorize Client").await;
    browser.fill("sub", subject).await;
    browser.press("Authorize").await;
    let back = format!("location.origin === {admin:?} && document.readyState === 'complete'");
    browser.until("the provider led back", &back).await;
}

async fn leave(browser: &mut Browser) {
    browser.eval("document.querySelector('#who').open = true").await;
    browser.press("Sign out").await;
    browser.sees(THROUGH).await;
}

/// With which role the browser is signed in, and where.
async fn role(browser: &mut Browser) -> String {
    let sheet = browser.eval("document.querySelector('#who .quiet-text').textContent").await;
    sheet.as_str().unwrap_or_default().to_owned()
}

/// A page that can be shown only once, in each look.
async fn look_around(browser: &mut Browser, page: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (look, width, dark) in [("dark", 1280, true), ("phone", 390, false), ("light", 1280, false)] {
        browser.look(width, dark).await;
        // Colours change slowly where somebody watches.
        browser.eval("Promise.all(document.getAnimations().map(one => one.finished)).then(() => true)").await;
        wrong.extend(look_here(browser, &axe(), &format!("{page}-{look}"), width).await);
    }
    wrong
}
