//! A mail server at the site: Postfix with STARTTLS and AUTH, given mail by swaks and Python's smtplib.

use std::time::Duration;

use postern_tests::servers::Postfix;
use postern_tests::{Route, needs, suite};
use tokio::process::Command;

const SUITE_WITHIN: Duration = Duration::from_secs(120);
const DELIVERED_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test]
async fn mail_is_submitted_directly() {
    let postfix = Postfix::start().await;
    let route = Route::direct(postfix.addr());
    swaks(&postfix, &route).await;
    large_attachment(&postfix, &route).await;
}

#[tokio::test]
async fn mail_is_submitted_through_the_gateway() {
    let postfix = Postfix::start().await;
    let route = Route::through_the_gateway("smtp", postfix.addr()).await;
    swaks(&postfix, &route).await;
    large_attachment(&postfix, &route).await;
}

/// swaks speaks SMTP itself, line by line, and fails at the first unexpected answer.
async fn swaks(postfix: &Postfix, route: &Route) {
    let (user, password) = postfix.credentials();
    let mut swaks = Command::new(needs::command("swaks", "swaks"));
    swaks.args(["--server", &route.addr().to_string(), "--tls", "--tls-verify"]);
    swaks.arg("--tls-ca-path").arg(postfix.ca());
    swaks.args(["--auth", "LOGIN", "--auth-user", user]).env("SWAKS_OPT_auth_password", password);
    swaks.args(["--from", "app@example.test", "--to", "inbox@example.test"]);
    swaks.args(["--header", "Subject: from swaks"]);

    let talk = suite::output("swaks", &mut swaks, SUITE_WITHIN).await;
    assert!(talk.contains("TLS started"), "{talk}");
    assert!(talk.contains("235 2.7.0 Authentication successful"), "{talk}");
    postfix.delivered("from swaks", DELIVERED_WITHIN).await;
}

/// 20 MiB of random bytes, and lines that a careless relay would stumble over, arrive as they were.
async fn large_attachment(postfix: &Postfix, route: &Route) {
    let seed = "20260701";
    let (user, password) = postfix.credentials();
    let mut send = mail_py();
    send.args(["send", &route.addr().to_string()]).arg(postfix.ca()).arg(seed);
    send.env("SMTP_USER", user).env("SMTP_PASSWORD", password);
    suite::steps("smtplib", &mut send, SUITE_WITHIN).await;

    let message = postfix.delivered(&format!("seed {seed}"), DELIVERED_WITHIN).await;
    let mut check = mail_py();
    check.arg("check").arg(message).arg(seed);
    let steps = suite::steps("delivered", &mut check, SUITE_WITHIN).await;
    assert_eq!(steps[0]["bytes"], 20 * 1024 * 1024);
}

fn mail_py() -> Command {
    let mut command = Command::new(needs::python());
    command.arg(needs::suites().join("smtp/mail.py"));
    command
}
