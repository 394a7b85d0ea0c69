//! `postern-agent` as somebody at a shell meets it: what it says and how it ends.

#![expect(clippy::unwrap_used, reason = "tests may panic: that is how they fail")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

#[test]
fn a_mistake_in_the_settings_is_told_with_file_line_and_column() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("agent.toml");
    fs::write(&config, "[dial]\ntimeout = \"a while\"\n").unwrap();

    let checked = agent(&["config", "check", "--config", text(&config), "--data-dir", text(folder.path())]);

    assert_eq!(checked.status.code(), Some(2), "{checked:?}");
    assert!(complaint(&checked).contains(&format!("{}:2:11: ", config.display())), "{checked:?}");
    assert!(complaint(&checked).contains("\"a while\" is no duration"), "{checked:?}");
}

#[test]
fn good_settings_are_called_good() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("agent.toml");
    fs::write(&config, "[dial]\ntimeout = \"5s\"\n").unwrap();

    let checked = agent(&["config", "check", "--config", text(&config)]);

    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
}

#[test]
fn a_host_without_a_running_agent_answers_no_status() {
    let folder = tempfile::tempdir().unwrap();

    let asked = agent(&["status", "--data-dir", text(folder.path())]);

    assert_eq!(asked.status.code(), Some(3), "{asked:?}");
    assert!(asked.stdout.is_empty() && !asked.stderr.is_empty(), "{asked:?}");
}

#[test]
fn an_agent_that_was_never_enrolled_says_how_to_enrol_it() {
    let folder = tempfile::tempdir().unwrap();

    let run = agent(&["run", "--data-dir", text(&folder.path().join("data"))]);

    assert_eq!(run.status.code(), Some(1), "{run:?}");
    assert!(complaint(&run).contains("postern-agent enroll --central URL --token-file FILE"), "{run:?}");
}

#[test]
fn an_unknown_option_is_wrong_usage() {
    let asked = agent(&["status", "--colour", "green"]);

    assert_eq!(asked.status.code(), Some(2), "{asked:?}");
    assert!(complaint(&asked).contains("--colour"), "{asked:?}");
}

#[test]
fn a_token_is_no_argument() {
    for option in ["--token", "--password", "--key"] {
        let asked = agent(&["enroll", option, "a-secret", "--central", "https://127.0.0.1:1"]);
        assert_eq!(asked.status.code(), Some(2), "{asked:?}");
        assert!(complaint(&asked).contains(&format!("unexpected argument '{option}'")), "{asked:?}");
        assert!(!complaint(&asked).contains("a-secret"), "{asked:?}");
    }
}

#[test]
fn a_password_in_a_proxys_address_is_refused_and_not_repeated() {
    let enroll = ["enroll", "--central", "https://127.0.0.1:1", "--token-file", "-", "--ca-cert", "ca.pem"];
    let asked = agent(&[&enroll[..], &["--proxy", "http://user:hunter2@proxy.corp:3128"]].concat());

    assert_eq!(asked.status.code(), Some(2), "{asked:?}");
    assert!(complaint(&asked).contains("--proxy") && complaint(&asked).contains("credentials"), "{asked:?}");
    assert!(!complaint(&asked).contains("hunter2"), "{asked:?}");
}

fn agent(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_postern-agent")).args(arguments).output().unwrap()
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
