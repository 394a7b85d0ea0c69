//! What is pressed seldom, and then matters: letting an expired agent back in, ending a stream and a drain, founding a
//! lost group anew, and telling somebody of outages. By real programs, in a real browser.

use std::time::Duration;

use postern_tests::browser::{Browser, pictures};
use postern_tests::servers::{Mirror, Receiver};
use postern_tests::{Hosts, wait_until};
use serde_json::json;
use tokio::io::AsyncReadExt;

use super::{CUT_OFF, PASSWORD, axe, look_at, serious, sign_in};

const SOON: Duration = Duration::from_secs(60);
/// Buttons of open questions that somebody who presses them in the middle would miss.
const COVERED: &str = "[...document.querySelectorAll('details[open] > .sure button')].filter(button => {
        button.scrollIntoView({block: 'center'});
        const at = button.getBoundingClientRect();
        return document.elementFromPoint(at.x + at.width / 2, at.y + at.height / 2) !== button;
    }).map(button => button.outerHTML)";

#[tokio::test]
async fn streams_and_drains_are_ended_and_a_lost_group_is_founded_anew() {
    let mirror = Mirror::start().await;
    let mut hosts = Hosts::up(&["alpha", "beta", "gamma"], "[gateway]\nconnect_timeout = \"5s\"\n").await;
    let listen = hosts.destination("mirror", mirror.addr()).await;
    let (mut browser, admin) = administrator(&hosts, "/streams").await;
    let mut wrong = Vec::new();

    browser.sees("Nobody is in the tunnel").await;
    let (mut client, _) = mirror.look_into(listen, SOON).await.expect("the mirror answers");
    browser.sees("via alpha").await;
    wrong.extend(look_at(&mut browser, &axe(), "streams-open", &format!("{admin}/streams")).await);
    browser.look(1280, false).await;
    browser.press_within("#live-streams table", "End").await;
    browser.press_within("#live-streams details[open] .sure", "End").await;
    browser.sees("The stream was ended; both of its ends were told with a reset.").await;
    assert!(until_reset(&mut client).await);
    browser.sees("an administrator ended it").await;
    wrong.extend(look_at(&mut browser, &axe(), "streams-ended", &format!("{admin}/streams")).await);

    browser.look(1280, false).await;
    let (mut held, _) = mirror.look_into(listen, SOON).await.expect("the mirror answers");
    browser.goto(&format!("{admin}/process-servers")).await;
    browser.press_within("#row-beta", "Make active").await;
    hosts.until_active("beta").await;
    browser.goto(&format!("{admin}/drills")).await;
    browser.sees("alpha finishes its streams").await;
    wrong.extend(look_at(&mut browser, &axe(), "drills-draining", &format!("{admin}/drills")).await);
    browser.look(1280, false).await;
    browser.press_within("#live-drills", "End them now").await;
    browser.press_within("#live-drills details[open] .sure", "End them now").await;
    browser.sees("What drained was ended").await;
    assert!(until_reset(&mut held).await);
    browser.sees("Every member of the group is connected: there is nothing to recover").await;

    hosts.kill("alpha");
    hosts.kill("beta");
    hosts.until("the gateway is down", |gateway| gateway.state == "down").await;
    browser.until("the page offers to recover, by itself", "!!document.querySelector('[name=on]')").await;
    wrong.extend(look_at(&mut browser, &axe(), "drills-recover", &format!("{admin}/drills")).await);
    browser.look(1280, false).await;
    browser.fill("on", "gamma").await;
    browser.fill("lost", "alpha").await;
    // Refused with what was typed: first because an election may still come, then because one is not named.
    let said = "document.body.innerText";
    wait_until("the page says that one is not named", SOON, async || {
        browser.press("Found the group anew").await;
        assert_eq!(browser.eval("document.querySelector('[name=lost]').value").await, "alpha");
        let text = browser.eval(said).await.as_str().unwrap_or_default().to_owned();
        text.contains("beta is away and must be confirmed").then_some(())
    })
    .await;
    let current = "refresh().then(() => document.getElementById('stale').hidden)";
    assert_eq!(browser.eval(current).await, true, "a page that refused a form stays current too");
    assert_eq!(browser.eval("document.querySelector('[name=lost]').value").await, "alpha");
    browser.picture(&pictures().join("drills-recover-refused-light.png")).await;
    wrong.extend(serious(&mut browser, &axe()).await);
    browser.fill("lost", "alpha, beta").await;
    browser.press("Found the group anew").await;
    browser.sees("The group was founded anew on gamma").await;
    hosts.until_active("gamma").await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn an_agent_whose_certificate_expired_is_let_back_in() {
    let mut hosts = Hosts::up(&["alpha", "beta"], "").await;
    hosts.stop("beta");
    hosts.expire_certificate("beta");
    hosts.start("beta");
    let (mut browser, admin) = administrator(&hosts, "/process-servers/beta").await;

    browser.sees("Let it come back").await;
    let page = format!("{admin}/process-servers/beta");
    let wrong = look_at(&mut browser, &axe(), "process-server-returning", &page).await;
    browser.look(1280, false).await;
    browser.press("Let it come back").await;
    browser.press_within("#approve .sure", "Let it come back").await;
    browser.sees("beta may come back").await;
    browser.until("it comes back before one's eyes", "!document.querySelector('#approve') && document.body.innerText.includes('connected') && !document.body.innerText.includes('disconnected')").await;
    hosts.until_connected("beta").await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn somebody_is_told_of_outages_and_each_kind_of_alert_can_be_chosen() {
    let receiver = Receiver::start().await;
    let hosts = Hosts::up(&["alpha"], "[alerts]\nallow_destinations = [\"127.0.0.0/8\"]\n").await;
    let (mut browser, admin) = administrator(&hosts, "/alerts").await;
    let mut wrong = Vec::new();

    browser.press("Add the first endpoint").await;
    let kinds = "[...document.querySelectorAll('fieldset input[type=checkbox]')].map(one => one.name)";
    let offered = browser.eval(kinds).await;
    let all = offered.as_array().map_or(0, Vec::len);
    // That they are all there are is a test of the form's own.
    assert!(all >= 6, "{offered}");
    // What a kind of receiver does not need is not shown.
    for (preset, shown, hidden) in
        [("slack", "secret_value", "secret"), ("mail", "from", "secret"), ("json", "secret", "from")]
    {
        browser.fill("preset", preset).await;
        let is = |field: &str| format!("!!document.querySelector('[name={field}]').getClientRects().length");
        assert_eq!(browser.eval(&is(shown)).await, true, "{preset} needs {shown}");
        assert_eq!(browser.eval(&is(hidden)).await, false, "{preset} needs no {hidden}");
        browser.picture(&pictures().join(format!("alert-endpoint-{preset}-light.png"))).await;
    }
    browser.fill("name", "a/b").await;
    browser.fill("url", &receiver.url()).await;
    browser
        .eval("document.querySelectorAll('fieldset input[type=checkbox]').forEach(one => one.click())")
        .await;
    browser.press("Save").await;
    browser.sees("name: a name has 1 to 64 letters").await;
    browser.picture(&pictures().join("alert-endpoint-refused-light.png")).await;
    wrong.extend(serious(&mut browser, &axe()).await);
    let ticked = "document.querySelectorAll('fieldset input[type=checkbox]:checked').length";
    assert_eq!(browser.eval(ticked).await, all, "what was ticked is kept");
    browser.fill("name", "ops").await;
    browser.press("Save").await;
    browser.sees("ops was saved").await;
    let also = &hosts.api().get("/alerts").await["endpoints"][0]["also"];
    assert_eq!(also.as_array().map(Vec::len), Some(all), "{also}");

    browser.press_within("#endpoint-ops", "Test down").await;
    browser.sees("What the receivers answered").await;
    assert_eq!(receiver.heard().len(), 1);
    browser.picture(&pictures().join("alerts-tested-light.png")).await;
    wrong.extend(serious(&mut browser, &axe()).await);
    browser.goto(&format!("{admin}/alerts")).await;
    browser.press_within("#endpoint-ops", "Preview").await;
    browser.sees("What ops would get: down").await;
    browser.goto(&format!("{admin}/alerts")).await;
    browser.press_within("#endpoint-ops", "Switch off").await;
    browser.sees("ops is told nothing until it is switched on").await;
    browser.press_within("#endpoint-ops", "Switch on").await;
    browser.sees("ops is told again").await;
    wrong.extend(look_at(&mut browser, &axe(), "alerts-one", &format!("{admin}/alerts")).await);
    browser.press_within("#endpoint-ops", "Remove").await;
    browser.picture(&pictures().join("alerts-remove-phone.png")).await;
    assert_eq!(browser.eval(CUT_OFF).await, json!([]), "what is asked back has room on a phone");
    assert_eq!(browser.eval(COVERED).await, json!([]), "what is asked back can be answered on a phone");
    browser.look(1280, false).await;
    browser.goto(&format!("{admin}/alerts")).await;
    browser.fill("reason", "night work").await;
    browser.press("Begin").await;
    browser.sees("night work").await;
    browser.press("End it now").await;
    browser.sees("Alerts are told again").await;
    browser.press_within("#endpoint-ops", "Remove").await;
    assert_eq!(browser.eval(COVERED).await, json!([]), "nor is the answer hidden on a wide screen");
    browser.press_within("#endpoint-ops details[open] .sure", "Remove").await;
    browser.sees("ops was removed").await;
    assert_eq!(hosts.api().get("/alerts").await["endpoints"], json!([]));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A browser at `path`, in which a Cloud Administrator is signed in; and where central's pages are.
async fn administrator(hosts: &Hosts, path: &str) -> (Browser, String) {
    let user = json!({"name": "anna", "role": "cloud_administrator", "password": PASSWORD});
    hosts.api().post("/users", user).await;
    let admin = hosts.api().base().trim_end_matches("/api/v1").to_owned();
    let mut browser = Browser::open().await;
    browser.look(1280, false).await;
    sign_in(&mut browser, &admin, path, "anna").await;
    (browser, admin)
}

/// Whether the connection is reset, and not ended as if all had been said.
async fn until_reset(client: &mut tokio::net::TcpStream) -> bool {
    let end = tokio::time::timeout(SOON, client.read(&mut [0; 1])).await;
    matches!(end, Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionReset)
}
