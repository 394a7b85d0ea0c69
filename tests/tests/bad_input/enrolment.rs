//! Enrolments that central, or the agent itself, refuses. The token still serves whoever it was for.

use std::process::Command;
use std::time::Duration;

use postern_tests::{Attempt, Central, Certificates, Folder, Host, needs, wait_until};
use serde_json::json;

/// A token of one second, on a busy machine.
const EXPIRED_WITHIN: Duration = Duration::from_secs(10);
/// Between an agent's start and its first word with central.
const HEARD_WITHIN: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_token_for_another_name_is_refused_and_not_used_up() {
    let central = Central::start().await;
    let token = central.enrolment_token(json!({"name": "alpha"})).await;
    let host = Host::new("alpha", &[]);

    let other = host.enroll_as("beta", central.tunnel(), &token, central.ca_cert());
    Attempt::at(other).await.failed(1, &["made for the name alpha, not for beta", "--name alpha"]);

    let right = Attempt::at(host.enroll(central.tunnel(), &token, central.ca_cert())).await;
    assert_eq!(right.code, Some(0), "{right:?}");
}

#[tokio::test]
async fn a_used_token_is_refused_and_says_who_used_it() {
    let central = Central::start().await;
    let token = central.enrolment_token(json!({})).await;
    let (first, second) = (Host::new("alpha", &[]), Host::new("beta", &[]));
    let done = Attempt::at(first.enroll(central.tunnel(), &token, central.ca_cert())).await;
    assert_eq!(done.code, Some(0), "{done:?}");

    let again = second.enroll(central.tunnel(), &token, central.ca_cert());
    Attempt::at(again).await.failed(1, &["was used already, by alpha at", "make a new one"]);
    assert_eq!(central.api().process_servers().await.len(), 1);
}

#[tokio::test]
async fn an_expired_token_is_refused_with_the_time_it_expired() {
    let central = Central::start().await;
    let token = central.enrolment_token(json!({"name": "alpha", "ttl": "1s"})).await;
    let host = Host::new("alpha", &[]);

    // Asked under another name, so that the token is not used by a machine that is quick.
    let other = || host.enroll_as("beta", central.tunnel(), &token, central.ca_cert());
    wait_until("the token has expired", EXPIRED_WITHIN, async || {
        Attempt::at(other()).await.stderr.contains("expired at").then_some(())
    })
    .await;
    let late = host.enroll(central.tunnel(), &token, central.ca_cert());
    Attempt::at(late).await.failed(1, &["this enrolment token expired at", "posternctl enrollment create"]);
    assert!(central.api().process_servers().await.is_empty());
}

#[tokio::test]
async fn whoever_shows_a_certificate_of_another_ca_never_sees_the_token() {
    let central = Central::start().await;
    let folder = Folder::new("other-ca");
    let stranger = Certificates::make(&folder);
    let token = central.enrolment_token(json!({"name": "alpha"})).await;
    let host = Host::new("alpha", &[]);

    let pinned_to_another = host.enroll(central.tunnel(), &token, &stranger.ca);
    Attempt::at(pinned_to_another).await.failed(1, &["the stage's CA", "is trusted here", "the CA file"]);

    let right = Attempt::at(host.enroll(central.tunnel(), &token, central.ca_cert())).await;
    assert_eq!(right.code, Some(0), "{right:?}");
}

#[tokio::test]
async fn a_host_whose_clock_is_ten_minutes_off_is_told_so() {
    let central = Central::start().await;
    let token = central.enrolment_token(json!({"name": "alpha"})).await;
    let host = Host::new("alpha", &[]);

    let enroll = || host.enroll(central.tunnel(), &token, central.ca_cert());
    Attempt::at(on_a_clock("+10m", &enroll())).await.failed(1, &["clock", "ahead", "NTP"]);
    Attempt::at(on_a_clock("-10m", &enroll())).await.failed(1, &["clock", "behind"]);
    let right = Attempt::at(enroll()).await;
    assert_eq!(right.code, Some(0), "{right:?}");

    // The same for an agent whose clock went wrong later.
    let running = host.start_as(on_a_clock("+10m", &host.run_command()));
    wait_until("the agent's log tells of its clock", HEARD_WITHIN, async || {
        running.log_tail().contains("set the host's clock (NTP)").then_some(())
    })
    .await;
    assert!(!central.api().process_server("alpha").await.connected);
}

/// The same command on a host whose clock is off by so much.
fn on_a_clock(off_by: &str, command: &Command) -> Command {
    let mut faked = Command::new(needs::command("faketime", "faketime"));
    // Only the wall clock: the monotonic one has no wrong time.
    faked.args(["--exclude-monotonic", "-f", off_by]).arg(command.get_program()).args(command.get_args());
    faked
}
