//! Clients of PostgreSQL, over a tunnel that is cut again and again: they notice nothing.

use std::time::Duration;

use postern_tests::servers::Postgres;
use postern_tests::{Folder, Gateway, Site, needs, suite, wait_until};
use tokio::process::Command;

use super::{QUICK, SOON, setting, site, tunnel, until_another_tunnel};

const SUITE_WITHIN: Duration = Duration::from_secs(240);
const BETWEEN_CUTS: Duration = Duration::from_millis(700);
pub(super) const RARELY: Duration = Duration::from_secs(5);

#[tokio::test]
async fn pgbench_and_a_jdbc_cursor_notice_nothing_of_cut_after_cut() {
    let postgres = Postgres::start().await;
    let site = site(&["alpha"], QUICK, postgres.addr()).await;
    let before = site.api().gateway().await;
    postgres.prepare_pgbench(postgres.addr(), 5).await;

    let classes = Folder::new("jdbc");
    let mut java = traffic(&classes, &postgres, &site, &[]).await;
    java.args(["tls", "batch", "cursor"]);

    let traffic = async {
        let mut pgbench = postgres.pgbench(site.listen(), 16, 10);
        tokio::join!(
            suite::output("pgbench", &mut pgbench, SUITE_WITHIN),
            suite::steps("jdbc", &mut java, SUITE_WITHIN),
        )
    };
    let ((report, steps), cuts) = under_cuts(&site, BETWEEN_CUTS, traffic).await;

    println!("{cuts} cuts\n{report}");
    assert!(cuts > 5, "only {cuts} cuts fell into the traffic");
    assert!(report.contains("number of failed transactions: 0 "), "{report}");
    for step in ["tls", "batch", "cursor"] {
        assert!(suite::has(&steps, step), "the step {step} is missing in {steps:?}");
    }
    until_as_it_was(&site, &before).await;
}

#[tokio::test]
async fn a_pool_of_jdbc_connections_outlives_a_tunnel_that_is_cut_every_five_seconds() {
    let seconds = setting("RESUME_SOAK_SECONDS", 15);
    let postgres = Postgres::start().await;
    let site = site(&["alpha"], QUICK, postgres.addr()).await;
    let before = site.api().gateway().await;
    let classes = Folder::new("jdbc");
    let mut java = traffic(&classes, &postgres, &site, &[&format!("-Dsoak.seconds={seconds}")]).await;
    java.arg("soak");

    let limit = Duration::from_secs(seconds) + SUITE_WITHIN;
    let (steps, cuts) = under_cuts(&site, RARELY, suite::steps("jdbc", &mut java, limit)).await;

    println!("{cuts} cuts in {seconds} s");
    assert!(cuts >= seconds / 10, "only {cuts} cuts in {seconds} s");
    assert!(suite::has(&steps, "soak"), "{steps:?}");
    until_as_it_was(&site, &before).await;
}

/// `tests/suites/jdbc/Traffic.java` through the gateway, compiled; its steps are still to be named.
async fn traffic(classes: &Folder, postgres: &Postgres, site: &Site, options: &[&str]) -> Command {
    let driver = Postgres::jdbc_driver();
    let mut compile = Command::new(needs::command("javac", "openjdk-17-jdk-headless"));
    compile.arg("-cp").arg(&driver).arg("-d").arg(classes.path());
    compile.arg(needs::suites().join("jdbc/Traffic.java"));
    suite::output("javac", &mut compile, SUITE_WITHIN).await;
    let mut java = Command::new(needs::command("java", "openjdk-17-jre-headless"));
    java.args(options).args(["-Xmx256m", "-cp"]);
    java.arg(format!("{}:{}", classes.path().display(), driver.display())).arg("Traffic");
    java.arg(format!("{}/postgres", site.listen())).arg(postgres.ca()).envs(postgres.credentials());
    java
}

/// Runs it to its end while the tunnel of `alpha` is cut again and again; says how often.
pub(super) async fn under_cuts<T>(
    site: &Site,
    every: Duration,
    traffic: impl Future<Output = T>,
) -> (T, u64) {
    let (mut cuts, mut traffic) = (0, std::pin::pin!(traffic));
    loop {
        tokio::select! {
            done = &mut traffic => return (done, cuts),
            () = cut(site, every) => cuts += 1,
        }
    }
}

/// Lets the tunnel work a while, cuts it and waits until there is another.
async fn cut(site: &Site, after: Duration) {
    tokio::time::sleep(after).await;
    let lost = tunnel(site, "alpha");
    lost.cut();
    tokio::time::timeout(SOON, until_another_tunnel(site, "alpha", &lost)).await.expect("it comes back");
}

/// The last cut may have fallen a moment ago.
pub(super) async fn until_as_it_was(site: &Site, before: &Gateway) {
    wait_until("the gateway is as it was", SOON, async || {
        (site.api().gateway().await == *before).then_some(())
    })
    .await;
}
