//! PostgreSQL's own clients, over a tunnel that is cut again and again: they notice nothing.

use std::time::Duration;

use postern_tests::servers::Postgres;
use postern_tests::{Folder, Site, needs, suite, wait_until};
use tokio::process::Command;

use super::{QUICK, SOON, site, tunnel, until_another_tunnel};

const SUITE_WITHIN: Duration = Duration::from_secs(240);
const BETWEEN_CUTS: Duration = Duration::from_millis(700);

#[tokio::test]
async fn pgbench_and_a_jdbc_cursor_notice_nothing_of_cut_after_cut() {
    let postgres = Postgres::start().await;
    let site = site(&["alpha"], QUICK, postgres.addr()).await;
    let before = site.api().gateway().await;
    postgres.prepare_pgbench(postgres.addr(), 5).await;

    let driver = Postgres::jdbc_driver();
    let classes = Folder::new("jdbc");
    let mut compile = Command::new(needs::command("javac", "openjdk-17-jdk-headless"));
    compile.arg("-cp").arg(&driver).arg("-d").arg(classes.path());
    compile.arg(needs::suites().join("jdbc/Traffic.java"));
    suite::output("javac", &mut compile, SUITE_WITHIN).await;
    let mut java = Command::new(needs::command("java", "openjdk-17-jre-headless"));
    java.args(["-Xmx256m", "-cp", &format!("{}:{}", classes.path().display(), driver.display()), "Traffic"]);
    java.arg(format!("{}/postgres", site.listen())).arg(postgres.ca()).envs(postgres.credentials());
    java.args(["tls", "batch", "cursor"]);

    let traffic = async {
        let mut pgbench = postgres.pgbench(site.listen(), 16, 10);
        tokio::join!(
            suite::output("pgbench", &mut pgbench, SUITE_WITHIN),
            suite::steps("jdbc", &mut java, SUITE_WITHIN),
        )
    };
    let (report, steps, cuts) = {
        let (mut cuts, mut traffic) = (0, std::pin::pin!(traffic));
        loop {
            tokio::select! {
                (report, steps) = &mut traffic => break (report, steps, cuts),
                () = cut(&site) => cuts += 1,
            }
        }
    };

    println!("{cuts} cuts\n{report}");
    assert!(cuts > 5, "only {cuts} cuts fell into the traffic");
    assert!(report.contains("number of failed transactions: 0 "), "{report}");
    for step in ["tls", "batch", "cursor"] {
        assert!(suite::has(&steps, step), "the step {step} is missing in {steps:?}");
    }
    // The last cut may have fallen a moment ago.
    wait_until("the gateway is as it was", SOON, async || {
        (site.api().gateway().await == before).then_some(())
    })
    .await;
}

/// Lets the tunnel work a while, cuts it and waits until there is another.
async fn cut(site: &Site) {
    tokio::time::sleep(BETWEEN_CUTS).await;
    let lost = tunnel(site, "alpha");
    lost.cut();
    tokio::time::timeout(SOON, until_another_tunnel(site, "alpha", &lost)).await.expect("it comes back");
}
