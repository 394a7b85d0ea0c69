//! The API against its own description: schemathesis makes requests from `docs/openapi.json`, good and bad, with a
//! Cloud Administrator's token, with a Viewer's and with none. No answer is a 5xx, none has another shape than the
//! document says, and nothing is open that should not be.
//!
//! `POSTERN_TESTS_SEED=N` repeats a run.

use std::env;
use std::path::Path;
use std::time::Duration;

use postern_tests::{Central, needs, suite};
use serde_json::json;
use tokio::process::Command;

/// Of each role's run; schemathesis tries until it is over.
const TIME: Duration = Duration::from_secs(30);
/// What it may take beside that: starting, coverage of each operation, reports.
const SPARE: Duration = Duration::from_secs(90);

#[tokio::test]
async fn whoever_asks_for_whatever_is_answered_as_the_document_says_and_as_their_role_allows() {
    let central = Central::start().await;
    let viewer = central.api().post("/api-tokens", json!({"role": "viewer"})).await;
    let viewer = viewer["token"].as_str().unwrap_or_else(|| panic!("a token was made: {viewer}")).to_owned();
    let first = std::fs::read_to_string(central.token_file());
    let first = first.unwrap_or_else(|error| panic!("central wrote its first token: {error}"));
    let seed = env::var("POSTERN_TESTS_SEED").unwrap_or_else(|_| rand::random::<u32>().to_string());
    println!("seed {seed}");

    let roles =
        [("none", None), ("viewer", Some(viewer.as_str())), ("cloud_administrator", Some(first.trim()))];
    for (role, token) in roles {
        let said = suite::output(
            &format!("schemathesis as {role} with the seed {seed}"),
            &mut schemathesis(&central, role, token, &seed),
            TIME + SPARE,
        )
        .await;
        println!("{said}");
        assert!(said.contains(&format!("Seed: {seed}")), "schemathesis did not try it:\n{said}");
    }
    // It still works, and the token was not lost on the way.
    assert_eq!(central.api().get("/gateway").await["state"], "idle");
}

fn schemathesis(central: &Central, role: &str, token: Option<&str>, seed: &str) -> Command {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let suite = needs::suites().join("api");
    let mut command = Command::new(needs::python());
    command.args(["-m", "schemathesis.cli"]);
    command.arg("--config-file").arg(suite.join("schemathesis.toml")).arg("run").arg(document);
    command.args(["--url", &format!("https://{}", central.admin())]);
    command.arg("--tls-verify").arg(central.ca_cert());
    command.args([
        "--phases",
        "coverage,fuzzing",
        "--seed",
        seed,
        "--continue-on-failure",
        "--request-retries",
        "2",
    ]);
    command.args(["--max-time", &TIME.as_secs().to_string(), "--warnings", "off"]);
    let checks = "not_a_server_error,content_type_conformance,response_schema_conformance,rights";
    command.args(["--checks", checks]);
    command.env("SCHEMATHESIS_HOOKS", suite.join("rights.py")).env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("POSTERN_TEST_ROLE", role).env_remove("POSTERN_TEST_TOKEN").current_dir(central.data_dir());
    if let Some(token) = token {
        command.env("POSTERN_TEST_TOKEN", token);
    }
    command
}
