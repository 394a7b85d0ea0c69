//! The tests that two drivers of PostgreSQL bring along, against one database: directly, and through a tunnel that is
//! cut again and again. Whatever passes directly passes so too.
//!
//! Some are named, which take seconds, cut twice a second; `RESUME_DRIVERS=1` takes all that there are, which takes
//! minutes, cut every five seconds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use postern_tests::needs;
use postern_tests::servers::Postgres;
use serde::Deserialize;
use tokio::process::Command;

use super::clients::{RARELY, under_cuts, until_as_it_was};
use super::{QUICK, setting, site};

const WITHIN: Duration = Duration::from_secs(600);

const TRIES_MORE: usize = 3;

/// It wants to be told of an error before it has sent 4 MiB. A gateway takes that much in before the database has read it.
const EXCEPT: [&str; 1] =
    ["tests/test_execute.py::TestExecuteMany::test_executemany_server_failure_during_writes"];

struct Driver {
    name: &'static str,
    all: &'static str,
    named: &'static [&'static str],
    /// So many pass on any machine.
    pass_at_least: usize,
}

const ASYNCPG: Driver = Driver {
    name: "asyncpg",
    all: "tests",
    named: &["tests/test_prepare.py", "tests/test_cursor.py"],
    pass_at_least: 30,
};

const PG8000: Driver = Driver {
    name: "pg8000",
    all: "test",
    named: &["test/native/test_query.py", "test/native/test_copy.py"],
    pass_at_least: 20,
};

#[tokio::test]
async fn asyncpg_s_own_tests_pass_as_they_do_directly() {
    passes_as_directly(ASYNCPG).await;
}

#[tokio::test]
async fn pg8000_s_own_tests_pass_as_they_do_directly() {
    passes_as_directly(PG8000).await;
}

async fn passes_as_directly(driver: Driver) {
    let postgres = Postgres::start().await;
    postgres.admit_drivers_tests().await;
    let site = site(&["alpha"], QUICK, postgres.addr()).await;
    let before = site.api().gateway().await;

    let every = if all() { RARELY } else { Duration::from_millis(500) };
    let started = Instant::now();
    let directly = outcomes(&driver, postgres.addr(), &[]).await;
    let took = started.elapsed();
    let (through, cuts) = under_cuts(&site, every, outcomes(&driver, site.listen(), &[])).await;

    let passed = |all: &BTreeMap<String, String>| all.values().filter(|outcome| *outcome == "passed").count();
    println!(
        "{}: {} tests, {} pass directly in {took:.1?}, {} under {cuts} cuts in {:.1?}",
        driver.name,
        directly.len(),
        passed(&directly),
        passed(&through),
        started.elapsed() - took,
    );
    assert!(passed(&directly) >= driver.pass_at_least, "the suite itself is not well: {directly:#?}");
    assert!(cuts >= 1, "no cut fell into it");
    let lacking = |through: &BTreeMap<String, String>| -> Vec<String> {
        let passed = |test: &str| through.get(test).is_some_and(|outcome| outcome == "passed");
        let wanted = directly.iter().filter(|(_, outcome)| *outcome == "passed").map(|(test, _)| test);
        wanted.filter(|test| !passed(test) && !EXCEPT.contains(&test.as_str())).cloned().collect()
    };
    let mut through = through;
    // Some ask for an answer within 50 ms, and a cut may fall just there. Not each time.
    for _ in 0..TRIES_MORE {
        let again = lacking(&through);
        if !again.is_empty() {
            println!("tried again: {again:?}");
            through.extend(under_cuts(&site, every, outcomes(&driver, site.listen(), &again)).await.0);
        }
    }
    let lacking = lacking(&through);
    assert!(lacking.is_empty(), "they pass directly, and not through the gateway: {lacking:#?}");
    until_as_it_was(&site, &before).await;
}

#[derive(Deserialize)]
struct Line {
    test: String,
    outcome: String,
}

/// How each test ended against the database that is reached through `at`; of all, or of these.
async fn outcomes(driver: &Driver, at: SocketAddr, only: &[String]) -> BTreeMap<String, String> {
    let mut command = Command::new(needs::python());
    command.arg(needs::suites().join("drivers/outcomes.py")).arg(tests_of(driver));
    if !only.is_empty() {
        command.args(only);
    } else if all() {
        command.arg(driver.all);
    } else {
        command.args(driver.named);
    }
    command.env("PGHOST", at.ip().to_string()).env("PGPORT", at.port().to_string());
    command.envs(Postgres::DRIVERS_TESTS).env("PYTHONDONTWRITEBYTECODE", "1");
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(WITHIN, command.output()).await;
    let output = output.expect("the suite comes to an end").expect("Python can be started");
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{} could not be tested ({}):\n{complained}",
        driver.name,
        output.status
    );
    // Why some failed, for whoever has to find out.
    println!("{complained}");
    let said = String::from_utf8_lossy(&output.stdout);
    // Tests print as well.
    let lines = said.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    lines.map(|line| (line.test, line.outcome)).collect()
}

fn all() -> bool {
    setting("RESUME_DRIVERS", 0) > 0
}

/// Where `tests/setup` laid what came with the driver.
fn tests_of(driver: &Driver) -> PathBuf {
    let folder = needs::suites().with_file_name(".venv").join("sdists").join(driver.name);
    assert!(
        folder.is_dir(),
        "this test needs {}, which is not there; tests/setup makes it",
        folder.display()
    );
    folder
}
