//! A database at the site: PostgreSQL 15, used as applications use it (JDBC) and under load (pgbench).
//! TLS and passwords go end to end; the gateway sees neither.

use std::time::Duration;

use postern_tests::servers::Postgres;
use postern_tests::{Folder, Route, needs, suite};
use tokio::process::Command;

const SUITE_WITHIN: Duration = Duration::from_secs(240);

#[tokio::test]
async fn an_application_works_over_jdbc_directly() {
    let postgres = Postgres::start().await;
    let route = Route::direct(postgres.addr());
    jdbc(&postgres, &route).await;
}

#[tokio::test]
async fn an_application_works_over_jdbc_through_the_gateway() {
    let postgres = Postgres::start().await;
    let route = Route::through_the_gateway("postgresql", postgres.addr()).await;
    jdbc(&postgres, &route).await;
}

#[tokio::test]
async fn sixteen_clients_load_the_database_directly() {
    let postgres = Postgres::start().await;
    let route = Route::direct(postgres.addr());
    pgbench(&postgres, &route).await;
}

#[tokio::test]
async fn sixteen_clients_load_the_database_through_the_gateway() {
    let postgres = Postgres::start().await;
    let route = Route::through_the_gateway("postgresql", postgres.addr()).await;
    pgbench(&postgres, &route).await;
}

/// Prepared statements, a batch, a cursor, a large object, cancel(): `tests/suites/jdbc/Traffic.java`.
async fn jdbc(postgres: &Postgres, route: &Route) {
    let driver = Postgres::jdbc_driver();
    let classes = Folder::new("jdbc");
    let mut compile = Command::new(needs::command("javac", "openjdk-17-jdk-headless"));
    compile.arg("-cp").arg(&driver).arg("-d").arg(classes.path());
    compile.arg(needs::suites().join("jdbc/Traffic.java"));
    suite::output("javac", &mut compile, SUITE_WITHIN).await;

    let mut java = Command::new(needs::command("java", "openjdk-17-jre-headless"));
    java.args(["-Xmx256m", "-cp", &format!("{}:{}", classes.path().display(), driver.display()), "Traffic"]);
    java.arg(format!("{}/postgres", route.addr())).arg(postgres.ca()).envs(postgres.credentials());
    let steps = suite::steps("jdbc", &mut java, SUITE_WITHIN).await;

    for step in ["tls", "prepared_statements", "batch", "cursor", "large_object", "cancel"] {
        assert!(suite::has(&steps, step), "the step {step} is missing in {steps:?}");
    }
}

async fn pgbench(postgres: &Postgres, route: &Route) {
    postgres.prepare_pgbench(route.addr(), 5).await;

    let report = suite::output("pgbench", &mut postgres.pgbench(route.addr(), 16, 20), SUITE_WITHIN).await;
    println!("{report}");

    assert!(report.contains("number of clients: 16"), "{report}");
    assert!(report.contains("number of failed transactions: 0 "), "{report}");
}
