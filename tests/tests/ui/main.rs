//! The web UI in a real browser, by the real programs: from the set-up link to a gateway that carries, a failover
//! that shows by itself, and what a Viewer may not do. Each page is looked at in light, in dark and at phone width:
//! pictures are kept in `target/ui-pictures`, axe-core finds nothing serious, and nothing is wider than the screen.

mod presses;
#[cfg(feature = "oidc")]
mod provider;

use std::path::Path;
use std::time::Duration;

use postern_tests::browser::{Browser, pictures};
use postern_tests::servers::Postgres;
use postern_tests::{Attempt, Central, Dev, Folder, Host, Process, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

const SOON: Duration = Duration::from_secs(30);
/// Made up here, for a server that lives as long as its test.
const PASSWORD: &str = "a password of many letters";

#[tokio::test]
async fn the_first_administrator_comes_from_the_link_to_a_gateway_that_carries() {
    let postgres = Postgres::start().await;
    let central = Central::start().await;
    let link = wait_until("central has written its set-up link", SOON, async || {
        std::fs::read_to_string(central.data_dir().join("setup.url")).ok().filter(|link| link.ends_with('\n'))
    })
    .await;
    let admin = link.trim().split("/setup/").next().unwrap().to_owned();
    let mut browser = Browser::open().await;

    let wrong = look_at(&mut browser, &axe(), "set-up", link.trim()).await;
    assert!(wrong.is_empty(), "{wrong:?}");
    browser.look(1280, false).await;
    browser.goto(link.trim()).await;
    browser.fill("name", "anna").await;
    browser.fill("password", "short").await;
    browser.eval("document.querySelector('[name=password]').removeAttribute('minlength')").await;
    browser.press("Begin").await;
    browser.sees("password: ").await;
    assert_eq!(
        browser.eval("document.querySelector('[name=name]').value").await,
        "anna",
        "kept what was typed"
    );
    browser.fill("password", PASSWORD).await;
    browser.press("Begin").await;
    browser.sees("You are the first Cloud Administrator").await;
    browser.sees("0 of 6 done").await;

    let allowed = [("127.0.0.1", postgres.addr().port())];
    let (alpha, beta) = (Host::new("alpha", &allowed), Host::new("beta", &allowed));
    let mut agents = Vec::new();
    for host in [&alpha, &beta] {
        browser.goto(&format!("{admin}/enrol")).await;
        browser.fill("name", host.name()).await;
        browser.press("Make a token").await;
        let commands = browser.eval("document.querySelector('details.command pre').textContent").await;
        let token =
            commands.as_str().unwrap().lines().find(|line| line.starts_with("postern_enroll_")).unwrap();
        let folder = Folder::new("token");
        let file = folder.write_private("token", token);
        let enrolled = Attempt::at(host.enroll(central.tunnel(), &file, central.ca_cert())).await;
        assert_eq!(enrolled.code, Some(0), "{enrolled:?}");
        browser.sees(&format!("by {}", host.name())).await;
        agents.push(host.start());
        browser.sees("it is heard").await;
        browser.press("Mark as candidate").await;
        browser.sees("is marked as Secure Gateway Candidate").await;
    }

    browser.goto(&format!("{admin}/process-servers")).await;
    browser.sees("restart required").await;
    browser.press_within("#row-alpha", "Restart").await;
    browser.sees("alpha was told to restart").await;
    // From here on nobody reloads the page.
    browser.eval("window.samePage = 1").await;
    let active = |name: &str| {
        format!(
            "document.querySelector('#row-{name}')?.innerText.includes('active') && window.samePage === 1"
        )
    };
    browser.until("alpha becomes active before one's eyes", &active("alpha")).await;
    browser
        .until("beta stands by", "document.querySelector('#row-beta')?.innerText.includes('standby') || null")
        .await;

    browser.goto(&format!("{admin}/destinations/new")).await;
    browser.fill("name", "orders").await;
    browser.fill("type", "postgresql").await;
    browser.fill("host", "127.0.0.1").await;
    browser.fill("port", "nonsense").await;
    browser.press("Save and test").await;
    browser.sees("port: ").await;
    assert_eq!(browser.eval("document.querySelector('[name=name]').value").await, "orders");
    browser.fill("port", &postgres.addr().port().to_string()).await;
    browser.press("Save and test").await;
    browser.sees("orders was added. It answers.").await;
    browser.sees("jdbc:postgresql://127.0.0.1:").await;

    browser.goto(&format!("{admin}/process-servers")).await;
    browser.eval("window.samePage = 1").await;
    browser.press_within("#row-beta", "Make active").await;
    browser.eval("window.samePage = 1").await;
    browser.until("beta becomes active before one's eyes", &active("beta")).await;
    kill(&agents[1]);
    browser.until("alpha takes over before one's eyes", &active("alpha")).await;
    browser
        .until(
            "beta is seen to be away",
            "document.querySelector('#row-beta')?.innerText.includes('disconnected')",
        )
        .await;
    let complaints = browser.complaints();
    // What was refused on purpose is a 422, and the browser says so.
    let unexpected: Vec<_> = complaints.iter().filter(|one| !one.contains("status of 422")).collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
}

#[tokio::test]
async fn a_viewer_sees_why_something_is_not_for_them_and_is_refused_all_the_same() {
    let dev = Dev::start(&[]).await;
    dev.until_all_configured().await;
    let user = json!({"name": "vera", "role": "viewer", "password": PASSWORD});
    dev.api().post("/users", user).await;
    let mut browser = Browser::open().await;
    sign_in(&mut browser, dev.admin_url(), "/process-servers", "vera").await;

    let disabled = "[...document.querySelectorAll('td.actions button')].every(one => one.disabled && one.title.includes('This needs the role Operator; you have Viewer'))";
    browser.until("the buttons say why they are disabled", disabled).await;
    let name = dev.first_active();
    let posted =
        format!("fetch('/process-servers/{name}/restart', {{method: 'POST'}}).then(answer => answer.text())");
    let answer = browser.eval(&posted).await;
    let answer = answer.as_str().unwrap();
    assert!(
        answer.contains("this needs the role Operator") || answer.contains("This needs the role Operator"),
        "{answer}"
    );
    let cross = format!("fetch('/process-servers/{name}', {{method: 'POST'}}).then(answer => answer.status)");
    assert_eq!(browser.eval(&cross).await, 405);
}

#[tokio::test]
async fn each_page_is_fit_to_be_looked_at() {
    let dev = Dev::start(&[("orders-db", "postgresql://127.0.0.1:5"), ("mail", "smtp://127.0.0.1:9")]).await;
    dev.until_all_configured().await;
    dev.api()
        .post("/users", json!({"name": "anna", "role": "cloud_administrator", "password": PASSWORD}))
        .await;
    let page = dev.api().get("/destinations").await;
    assert_eq!(page.as_array().map(Vec::len), Some(2));
    let first = dev.first_active().to_owned();
    let mut browser = Browser::open().await;
    let axe = axe();
    let folder = pictures();
    let mut wrong = look_at(&mut browser, &axe, "sign-in", &format!("{}/sign-in", dev.admin_url())).await;
    sign_in(&mut browser, dev.admin_url(), "/", "anna").await;
    let paths = [
        ("overview", "/".to_owned()),
        ("process-servers", "/process-servers".to_owned()),
        ("process-server", format!("/process-servers/{first}")),
        ("enrol", "/enrol".to_owned()),
        ("destinations", "/destinations".to_owned()),
        ("destination", "/destinations/orders-db".to_owned()),
        ("destination-new", "/destinations/new".to_owned()),
        ("destination-edit", "/destinations/orders-db/edit".to_owned()),
        ("streams", "/streams".to_owned()),
        ("failovers", "/failovers".to_owned()),
        ("drills", "/drills".to_owned()),
        ("events", "/events".to_owned()),
        ("alerts", "/alerts".to_owned()),
        ("alert-endpoint", "/alerts/endpoint".to_owned()),
        ("audit", "/audit".to_owned()),
        ("people", "/people".to_owned()),
        ("settings", "/settings".to_owned()),
        ("not-there", "/process-servers/nobody".to_owned()),
    ];
    for (page, path) in &paths {
        wrong.extend(look_at(&mut browser, &axe, page, &format!("{}{path}", dev.admin_url())).await);
        let complaints = browser.complaints();
        // A page about something that is not there is a 404, and the browser says so.
        if *page != "not-there" {
            wrong.extend(complaints.into_iter().map(|one| format!("{page}: {one}")));
        }
    }
    // What a form leaves behind is a page of its own: the secret that is shown once, and the stages of an enrolment.
    browser.look(390, false).await;
    browser.goto(&format!("{}/people", dev.admin_url())).await;
    browser.press("Make a token").await;
    browser.sees("The new token, shown this once").await;
    browser.picture(&folder.join("token-phone.png")).await;
    wrong.extend(serious(&mut browser, &axe).await.into_iter().map(|one| format!("token: {one}")));
    browser.goto(&format!("{}/enrol", dev.admin_url())).await;
    browser.fill("name", "gamma").await;
    browser.press("Make a token").await;
    browser.sees("gamma").await;
    browser.picture(&folder.join("enrol-token-phone.png")).await;
    wrong.extend(serious(&mut browser, &axe).await.into_iter().map(|one| format!("enrol token: {one}")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_failover_is_rehearsed_and_a_lost_edit_is_a_conflict_from_the_page() {
    let dev = Dev::start(&[]).await;
    dev.until_all_configured().await;
    for (name, role) in [("anna", "cloud_administrator"), ("vera", "viewer")] {
        dev.api().post("/users", json!({"name": name, "role": role, "password": PASSWORD})).await;
    }
    let mut browser = Browser::open().await;
    sign_in(&mut browser, dev.admin_url(), "/drills", "anna").await;
    browser.sees("None yet").await;
    browser.press("Begin the drill").await;
    browser.sees("The drill has begun").await;
    browser
        .until(
            "the drill passes before one's eyes",
            "document.querySelector('#dr-1')?.innerText.includes('passed')",
        )
        .await;

    browser.goto(&format!("{}/people", dev.admin_url())).await;
    browser.eval("document.querySelector('#role-vera').open = true").await;
    // Somebody else is faster.
    dev.api().patch("/users/vera", json!({"role": "operator"})).await;
    browser.eval("document.querySelector('#role-of-vera').value = 'administrator'").await;
    browser.press_within("#role-vera", "Change").await;
    browser.sees("Somebody else changed this user meanwhile").await;
    assert_eq!(browser.eval("document.querySelector('#role-of-vera').value").await, "administrator");
    assert_eq!(dev.api().get("/users/vera").await["role"], "operator");
    browser.press_within("#role-vera", "Change").await;
    browser.sees("vera was changed").await;

    browser.goto(&format!("{}/settings", dev.admin_url())).await;
    browser.sees("gateway.connect_timeout").await;
    browser.sees("command line").await;
}

/// Light, dark and at phone width: pictures, and what is wrong with it.
async fn look_at(browser: &mut Browser, axe: &str, page: &str, url: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (look, width, dark) in [("light", 1280, false), ("dark", 1280, true), ("phone", 390, false)] {
        browser.look(width, dark).await;
        browser.goto(url).await;
        wrong.extend(look_here(browser, axe, &format!("{page}-{look}"), width).await);
    }
    wrong
}

/// The page that is shown, as it is shown: a picture, and what is wrong with it.
async fn look_here(browser: &mut Browser, axe: &str, page: &str, width: u32) -> Vec<String> {
    browser.picture(&pictures().join(format!("{page}.png"))).await;
    let mut wrong = Vec::new();
    let wide = browser.eval("document.documentElement.scrollWidth").await;
    if wide.as_u64() > Some(u64::from(width)) {
        wrong.push(format!("{page} is {wide} wide on a screen of {width}"));
    }
    let cut = browser.eval(CUT_OFF).await;
    if cut.as_array().is_none_or(|cut| !cut.is_empty()) {
        wrong.push(format!("{page} is cut off at {cut}"));
    }
    wrong.extend(serious(browser, axe).await.into_iter().map(|one| format!("{page}: {one}")));
    wrong
}

/// What reaches beyond its card, which hides the rest: the first few. What can be scrolled may, and what is folded away
/// has no place.
const CUT_OFF: &str = "[...document.querySelectorAll('.card *')]
    .filter(one => one.getClientRects().length && !one.closest('pre, svg, thead, .unseen, details:not([open]) > :not(summary)'))
    .filter(one => one.getBoundingClientRect().right > one.closest('.card').getBoundingClientRect().right + 1)
    .slice(0, 3).map(one => one.outerHTML.slice(0, 160))";

/// `kill -9`.
fn kill(process: &Process) {
    let pid = i32::try_from(process.pid()).ok().and_then(Pid::from_raw);
    let killed = pid.is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok());
    assert!(killed, "process {} could not be killed", process.pid());
}

async fn sign_in(browser: &mut Browser, admin: &str, path: &str, name: &str) {
    browser.goto(&format!("{admin}{path}")).await;
    browser.fill("name", name).await;
    browser.fill("password", PASSWORD).await;
    browser.press("Sign in").await;
    let there = format!("location.pathname === {path:?} || null");
    browser.until("the page that was wanted is there", &there).await;
}

/// axe-core's own script, from the tests' environment.
fn axe() -> String {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/lib");
    let script = std::fs::read_dir(&venv)
        .ok()
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|python| python.path().join("site-packages/axe_playwright_python/axe.min.js"))
        .find_map(|script| std::fs::read_to_string(script).ok());
    script.unwrap_or_else(|| panic!("axe-core is not in {}: run tests/setup", venv.display()))
}

/// What axe-core finds serious or critical on the page: rule, and where.
async fn serious(browser: &mut Browser, axe: &str) -> Vec<String> {
    browser.eval(axe).await;
    let found = browser
        .eval(
            "axe.run(document, {resultTypes: ['violations']}).then(result => result.violations
               .filter(one => ['serious', 'critical'].includes(one.impact))
               .map(one => one.id + ': ' + one.nodes.map(node => node.html.slice(0, 160)).slice(0, 3).join(' | ')))",
        )
        .await;
    let found = found.as_array().cloned().unwrap_or_else(|| vec!["axe-core did not run".into()]);
    found.into_iter().map(|one| one.as_str().unwrap_or_default().to_owned()).collect()
}
