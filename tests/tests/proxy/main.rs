//! Agents in networks that let nothing out but through an HTTP proxy: real ones that ask for a password, and one that
//! breaks in every way proxies have.
#![expect(clippy::unwrap_used, reason = "panicking is how a test fails")]

mod stand_in;

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use postern_tests::servers::{Squid, Tinyproxy};
use postern_tests::{
    Attempt, Central, Conversation, Folder, Host, Partner, Process, port, program, wait_until,
};
use serde_json::{Value, json};

use self::stand_in::{Manner, StandIn};

/// Beyond the agent's own limit for a proxy (15 s), its longest wait (10 s) and an election, on a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// Only the proxies know it.
const NAME: &str = "central.postern.test";
/// Silence is noticed soon, and streams may wait long for their tunnel. Continues the `[tunnel]` section.
const SETTINGS: &str = "public_url = \"https://central.postern.test\"\nping_interval = \"1s\"\ndead_after = \"3s\"\n\
                        resume_window = \"60s\"\n";
/// What no log and no answer may hold.
const WRONG_PASSWORD: &str = "not-the-password";

#[tokio::test]
async fn an_agent_enrols_and_carries_streams_through_squid_which_alone_knows_centrals_name() {
    let squid = Squid::wanting_basic(NAME).await;
    let partner = Partner::start().await;
    let central = Central::start_with(&["default"], SETTINGS).await;
    let folder = Folder::new("proxy");
    let credentials = folder.write_private("proxy.credentials", Squid::credentials());
    let host = Host::new("alpha", &[("127.0.0.1", partner.addr().port())]);
    let token = central.enrolment_token(json!({"name": "alpha"})).await;
    let at = format!("{NAME}:{}", central.tunnel().port());
    let url = format!("http://{}", squid.addr());

    let without = Attempt::at(host.enroll(&at, &token, central.ca_cert())).await;
    without.failed(1, &[NAME, "cannot be resolved"]);
    let mut nameless = host.enroll(&at, &token, central.ca_cert());
    nameless.args(["--proxy", &url]);
    Attempt::at(nameless).await.failed(1, &["407", "Basic", "proxy_credentials_file"]);
    let mut enroll = host.enroll(&at, &token, central.ca_cert());
    enroll.args(["--proxy", &url]).arg("--proxy-credentials-file").arg(&credentials);
    let enrolled = Attempt::at(enroll).await;
    assert_eq!(enrolled.code, Some(0), "{enrolled:?}");
    assert!(enrolled.stdout.contains("The proxy is set in"), "{enrolled:?}");

    // What enrolment wrote is all that the agent is told.
    host.set(&fs::read_to_string(host.data_dir().join("agent.toml")).unwrap());
    let (agent, listen) = up(&central, &host, partner.addr()).await;
    let talk = Conversation { seed: 3, up_bytes: 2_000_000, down_bytes: 3_000_000, ..Default::default() };
    talk.hold(listen).await.unwrap();

    assert_eq!(status(&host).await.unwrap()["central"]["proxy"], url);
    let doctor = doctor(&host).await;
    assert_eq!(doctor.code, Some(0), "{doctor:?}");
    for line in [
        &format!("PASS  proxy            {url} opens the way to {at}"),
        "SKIP  central's name",
        "PASS  clock",
    ] {
        assert!(doctor.stdout.contains(line), "{line:?} is missing in:\n{}", doctor.stdout);
    }
    let credentials = Squid::credentials();
    let (_, password) = credentials.split_once(':').unwrap();
    for said in [enrolled.stdout, doctor.stdout, agent.log_tail()] {
        assert!(!said.contains(password), "{said}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_and_a_corrected_file_needs_no_restart() {
    let (squid, tinyproxy) = (Squid::wanting_basic("127.0.0.1").await, Tinyproxy::wanting_basic().await);
    // tinyproxy says 401 where it should say 407.
    let proxies = [
        ("squid", squid.addr(), "(407", Squid::credentials()),
        ("tinyproxy", tinyproxy.addr(), "(401", Tinyproxy::credentials()),
    ];
    let central = Central::start_with(&["default"], SETTINGS).await;
    for (name, proxy, code, right) in proxies {
        let host = Host::enrolled(name, &[], &central, central.tunnel()).await;
        let folder = Folder::new("proxy");
        let credentials = folder.write_private("proxy.credentials", format!("app:{WRONG_PASSWORD}"));
        let file = credentials.to_str().unwrap();
        host.set(&format!("[central]\nproxy = \"http://{proxy}\"\nproxy_credentials_file = \"{file}\"\n"));

        let agent = host.start();
        let told = until_told(&host, code).await;
        assert!(told.contains(file) && told.contains("does not accept the credentials"), "{told}");
        let log = agent.log_tail();
        assert!(log.contains(code) && log.contains(file), "{log}");
        let doctor = doctor(&host).await;
        assert!(
            doctor.stdout.contains("FAIL  proxy") && doctor.stdout.contains("SKIP  central "),
            "{doctor:?}"
        );
        for said in [told, log, doctor.stdout] {
            assert!(!said.contains(WRONG_PASSWORD), "{said}");
        }

        fs::write(&credentials, right).unwrap();
        central.until_connected(name, SOON).await;
    }
}

#[tokio::test]
async fn a_file_that_others_may_read_is_refused_with_its_place() {
    let host = Host::new("alpha", &[]);
    let folder = Folder::new("proxy");
    let credentials = folder.write("proxy.credentials", Squid::credentials());
    let place = fs::read_to_string(host.config()).unwrap().lines().count() + 4;
    host.set(&format!(
        "[central]\nproxy = \"http://127.0.0.1:1\"\nproxy_credentials_file = \"{}\"\n",
        credentials.display()
    ));
    let place = format!("{}:{place}:26: ", host.config().display());
    let chmod = format!("run 'chmod 600 {}'", credentials.display());
    Attempt::at(host.run_command()).await.failed(2, &[&place, "other users", &chmod]);
}

#[tokio::test]
async fn a_proxy_that_cannot_reach_central_is_told_and_tried_until_it_can() {
    let proxy = StandIn::start(Manner::Says("HTTP/1.1 502 Bad Gateway")).await;
    let central = Central::start_with(&["default"], SETTINGS).await;
    let host = behind(&central, proxy.addr(), "alpha", &[]).await;
    let agent = host.start();

    let told = until_told(&host, "502 Bad Gateway").await;
    assert!(told.contains(&proxy.addr().to_string()) && told.contains("cannot reach central"), "{told}");
    assert!(agent.log_tail().contains("502 Bad Gateway"), "{}", agent.log_tail());
    proxy.set(Manner::Carries);
    central.until_connected("alpha", SOON).await;
}

/// Of what real ones say whose central is not there.
#[tokio::test]
async fn squid_and_tinyproxy_that_find_nobody_are_understood() {
    let (squid, tinyproxy) = (Squid::wanting_basic(NAME).await, Tinyproxy::wanting_basic().await);
    let central = Central::start_with(&["default"], SETTINGS).await;
    let folder = Folder::new("proxy");
    let credentials = folder.write_private("proxy.credentials", Squid::credentials());
    let token = central.enrolment_token(json!({"name": "alpha"})).await;
    let host = Host::new("alpha", &[]);
    let nobody = port::free().port();
    for (proxy, at, said) in [
        (squid.addr(), format!("{NAME}:{nobody}"), "cannot reach central"),
        (tinyproxy.addr(), format!("127.0.0.1:{nobody}"), "cannot reach central"),
        (squid.addr(), format!("elsewhere.{NAME}:{nobody}"), "403 Forbidden"),
    ] {
        let mut enroll = host.enroll(&at, &token, central.ca_cert());
        enroll
            .args(["--proxy", &format!("http://{proxy}")])
            .arg("--proxy-credentials-file")
            .arg(&credentials);
        Attempt::at(enroll).await.failed(1, &[said, &at, &proxy.to_string()]);
    }
}

#[tokio::test]
async fn a_proxy_that_wants_ntlm_alone_is_told_with_the_helper_that_speaks_it() {
    let squid = Squid::wanting_ntlm().await;
    let central = Central::start_with(&["default"], SETTINGS).await;
    let host = behind(&central, squid.addr(), "alpha", &[]).await;
    let agent = host.start();

    let told = until_told(&host, "NTLM").await;
    for words in ["407", "offers NTLM", "Basic alone", "cntlm"] {
        assert!(told.contains(words), "{told}");
    }
    assert!(agent.log_tail().contains("cntlm"), "{}", agent.log_tail());
}

#[tokio::test]
async fn behind_a_proxy_that_hangs_the_next_candidate_takes_over_and_the_first_comes_back_later() {
    let proxy = StandIn::start(Manner::Carries).await;
    let partner = Partner::start().await;
    let central = Central::start_with(&["default"], SETTINGS).await;
    let allowed = [("127.0.0.1", partner.addr().port())];
    let alpha = behind(&central, proxy.addr(), "alpha", &allowed).await;
    let (_alpha, listen) = up(&central, &alpha, partner.addr()).await;
    let beta = Host::enrolled("beta", &allowed, &central, central.tunnel()).await;
    let _beta = beta.start();
    central.api().patch("/process-servers/beta", json!({"candidate": true})).await;
    wait_until("both are configured", SOON, async || {
        let all = central.api().process_servers().await;
        all.iter().all(|one| one.configured).then_some(())
    })
    .await;
    assert_eq!(central.api().gateway().await.active.as_deref(), Some("alpha"));

    proxy.set(Manner::Hangs);

    wait_until("beta is active", SOON, async || {
        let gateway = central.api().gateway().await;
        (gateway.state == "up" && gateway.active.as_deref() == Some("beta")).then_some(())
    })
    .await;
    Conversation { seed: 5, up_bytes: 1000, down_bytes: 1000, ..Default::default() }
        .hold(listen)
        .await
        .unwrap();
    let told = until_told(&alpha, "did not open the way").await;
    assert!(told.contains(&proxy.addr().to_string()) && told.contains("within 15s"), "{told}");
    proxy.set(Manner::Carries);
    central.until_connected("alpha", SOON).await;
}

#[tokio::test]
async fn streams_go_on_though_the_proxy_closes_each_connection_after_two_seconds() {
    let proxy = StandIn::start(Manner::Carries).await;
    let partner = Partner::start().await;
    let central = Central::start_with(&["default"], SETTINGS).await;
    let allowed = [("127.0.0.1", partner.addr().port())];
    let host = behind(&central, proxy.addr(), "alpha", &allowed).await;
    let (_agent, listen) = up(&central, &host, partner.addr()).await;
    let before = central.api().gateway().await;

    let carried = proxy.carried();
    proxy.set(Manner::CarriesFor(Duration::from_secs(2)));
    let pause = Duration::from_millis(25);
    // 16 KiB each 25 ms: many of the proxy's lives long.
    let bulk = Conversation { seed: 7, up_bytes: 8 << 20, down_bytes: 4 << 20, pause, turns: 0 };
    let asking = Conversation { seed: 8, up_bytes: 4 << 20, down_bytes: 2 << 20, pause, turns: 200 };
    let idle = Conversation { seed: 9, up_bytes: 40_000, down_bytes: 20_000, pause: pause * 200, turns: 0 };
    let (first, second, third) = tokio::join!(bulk.hold(listen), asking.hold(listen), idle.hold(listen));
    for held in [first, second, third] {
        held.unwrap();
    }

    let times = proxy.carried() - carried;
    assert!(times >= 6, "the proxy closed connections {times} times, of tunnel and control together");
    wait_until("the partner has seen all of it", SOON, async || (partner.held() == 3).then_some(())).await;
    assert!(partner.faults().is_empty(), "{:?}", partner.faults());
    let after = wait_until("the gateway is up", SOON, async || {
        let gateway = central.api().gateway().await;
        (gateway.state == "up").then_some(gateway)
    })
    .await;
    assert_eq!((after.active, after.epoch), (before.active, before.epoch), "nobody took anything over");
    println!("{times} connections of two seconds");
}

/// A host that was enrolled directly and is told to go through `proxy` from now on.
async fn behind(central: &Central, proxy: SocketAddr, name: &str, allowed: &[(&str, u16)]) -> Host {
    let host = Host::enrolled(name, allowed, central, central.tunnel()).await;
    host.set(&format!("[central]\nproxy = \"http://{proxy}\"\n"));
    host
}

/// Makes this host's agent the gateway, with `destination` behind it; answers with where that is reached.
async fn up(central: &Central, host: &Host, destination: SocketAddr) -> (Process, SocketAddr) {
    let mut agent = host.start();
    central.until_connected(host.name(), SOON).await;
    let path = format!("/process-servers/{}", host.name());
    central.api().patch(&path, json!({"candidate": true})).await;
    agent.stop();
    agent = host.start();
    let listen = port::free();
    let body = json!({"name": "target", "url": format!("tcp://{destination}"), "listen": listen.to_string()});
    central.api().post("/destinations", body).await;
    wait_until("the Secure Gateway is up", SOON, async || {
        (central.api().gateway().await.state == "up").then_some(())
    })
    .await;
    (agent, listen)
}

/// What `postern-agent status` shows as the last error, once it holds these words.
async fn until_told(host: &Host, words: &str) -> String {
    wait_until(&format!("the status tells of {words:?}"), SOON, async || {
        let shown = status(host).await?;
        let told = shown["central"]["last_error"].as_str()?;
        told.contains(words).then(|| told.to_owned())
    })
    .await
}

async fn status(host: &Host) -> Option<Value> {
    let mut command = Command::new(program("postern-agent"));
    command.args(["status", "-o", "json", "--data-dir"]).arg(host.data_dir());
    serde_json::from_str(&Attempt::at(command).await.stdout).ok()
}

async fn doctor(host: &Host) -> Attempt {
    let mut command = Command::new(program("postern-agent"));
    command.arg("doctor").arg("--data-dir").arg(host.data_dir()).arg("--config").arg(host.config());
    Attempt::at(command).await
}
