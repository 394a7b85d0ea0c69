//! "Test connection" with real programs: a PostgreSQL at the site, one candidate whose host may reach it and
//! one whose own allow-list refuses it.

use std::time::Duration;

use postern_tests::servers::Postgres;
use postern_tests::{Attempt, Central, Host, wait_until};
use serde_json::{Value, json};

const START_WITHIN: Duration = Duration::from_secs(30);
const UP_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_test_shows_every_hop_and_which_candidate_could_not_take_over() {
    let postgres = Postgres::start().await;
    let central = Central::start().await;
    let (ip, port) = (postgres.addr().ip().to_string(), postgres.addr().port());
    let allowing = Host::enrolled("alpha", &[(&ip, port)], &central, central.tunnel()).await;
    let refusing = Host::enrolled("beta", &[("192.0.2.1", 1)], &central, central.tunnel()).await;
    let (mut alpha, _beta) = (allowing.start(), refusing.start());
    for name in ["alpha", "beta"] {
        central.until_connected(name, START_WITHIN).await;
        central.api().patch(&format!("/process-servers/{name}"), json!({"candidate": true})).await;
    }
    alpha.stop();
    let _alpha = allowing.start();
    until_active(&central, "alpha").await;
    central
        .api()
        .post("/destinations", json!({"name": "db", "url": format!("postgresql://{ip}:{port}")}))
        .await;

    let through_alpha = central.api().post("/destinations/db/test", json!({})).await;
    assert_eq!(through_alpha["verdict"], "pass", "{through_alpha:#}");
    assert_eq!(through_alpha["via"], "alpha");
    assert_eq!(
        verdicts(&through_alpha["steps"]),
        "enabled pass, listener pass, tunnel pass, allow_list pass, dns skip, connect pass, tls pass, greeting pass"
    );
    assert!(detail(&through_alpha["steps"], "connect").contains(&format!("{ip}:{port} accepted")));
    assert!(detail(&through_alpha["steps"], "tls").contains("TLS 1.3, certificate of"), "{through_alpha:#}");
    assert_eq!(detail(&through_alpha["steps"], "greeting"), "PostgreSQL, offers TLS");
    let beta = &through_alpha["candidates"][1];
    assert_eq!((&beta["name"], &beta["verdict"]), (&json!("beta"), &json!("fail")));
    assert!(detail(&beta["steps"], "allow_list").contains("is not in this agent's allow-list"), "{beta:#}");
    assert_eq!(central.api().get("/destinations/db").await["last_test"], through_alpha);

    central.api().post("/gateway/switch", json!({"to": "beta"})).await;
    until_active(&central, "beta").await;
    let through_beta = central.api().post("/destinations/db/test", json!({})).await;
    assert_eq!(through_beta["verdict"], "fail", "{through_beta:#}");
    assert_eq!(
        verdicts(&through_beta["steps"]),
        "enabled pass, listener pass, tunnel pass, allow_list fail, dns skip, connect skip, tls skip, greeting skip"
    );
    assert_eq!(through_beta["candidates"][0]["verdict"], "pass", "{through_beta:#}");

    let moves = central.api().get("/failovers").await;
    assert_eq!(
        (&moves[0]["planned"], &moves[0]["from"], &moves[0]["to"]),
        (&json!(true), &json!("alpha"), &json!("beta")),
        "{moves:#}"
    );
    let explained = Attempt::at(central.posternctl(&["explain"])).await;
    assert_eq!(explained.code, Some(0), "{explained:?}");
    assert!(explained.stdout.contains("a planned move of the tunnel of alpha"), "{explained:?}");

    let printed = Attempt::at(central.posternctl(&["destinations", "test", "db"])).await;
    assert_eq!(printed.code, Some(1), "{printed:?}");
    for words in ["FAIL", "allow-list", "agent.toml"] {
        assert!(format!("{printed:?}").contains(words), "{words} is missing in {printed:?}");
    }
}

async fn until_active(central: &Central, name: &str) {
    wait_until(&format!("{name} is active and both are configured"), UP_WITHIN, async || {
        let configured = central.api().process_servers().await.iter().filter(|one| one.configured).count();
        let active = central.api().gateway().await.active;
        (active.as_deref() == Some(name) && configured == 2).then_some(())
    })
    .await;
}

fn verdicts(steps: &Value) -> String {
    let word = |step: &Value, field: &str| step[field].as_str().unwrap_or_default().to_owned();
    let all = steps.as_array().into_iter().flatten();
    all.map(|step| format!("{} {}", word(step, "hop"), word(step, "verdict"))).collect::<Vec<_>>().join(", ")
}

fn detail<'a>(steps: &'a Value, hop: &str) -> &'a str {
    let step = steps.as_array().into_iter().flatten().find(|step| step["hop"] == hop);
    step.and_then(|step| step["detail"].as_str()).unwrap_or_else(|| panic!("no hop {hop} in {steps:#}"))
}
