//! Runs a helper program that drives third-party traffic and reports a JSON line a step.

use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

/// Runs a suite to its end and answers with its steps; each is printed, for whoever wants the times.
///
/// # Panics
/// When the program fails, says that a step failed, prints something else, or takes longer than
/// `limit` (then it is killed).
pub async fn steps(name: &str, command: &mut Command, limit: Duration) -> Vec<Value> {
    let said = output(name, command, limit).await;
    let steps: Vec<Value> = said.lines().map(|line| step(name, line)).collect();
    assert!(!steps.is_empty(), "{name} reported no step at all");
    steps
}

/// Runs a program to its end and answers with what it printed on stdout and stderr.
///
/// # Panics
/// As [`steps`].
pub async fn output(name: &str, command: &mut Command, limit: Duration) -> String {
    let running = command.kill_on_drop(true).output();
    let output = tokio::time::timeout(limit, running)
        .await
        .unwrap_or_else(|_| panic!("{name} did not end within {limit:?}"))
        .unwrap_or_else(|error| panic!("{name} could not be started: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} failed ({}):\n{said}{complained}", output.status);
    said
}

/// Does a step named `name` stand among `steps`, done?
pub fn has(steps: &[Value], name: &str) -> bool {
    steps.iter().any(|step| step["step"] == name && step["ok"] == true)
}

fn step(name: &str, line: &str) -> Value {
    let step: Value = serde_json::from_str(line)
        .unwrap_or_else(|error| panic!("{name} printed something that is no step ({error}): {line}"));
    assert_eq!(step["ok"], true, "{name}: {line}");
    println!("{name}: {line}");
    step
}
