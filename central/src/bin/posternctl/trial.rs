//! `posternctl destinations test NAME`: every hop on the way, and what each candidate sees.

use proto::Name;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    client::{Client, read},
    failure::Failure,
    screen::{Screen, or_dash, plain, yes},
};

/// A test, as far as tables show it.
#[derive(Debug, Deserialize)]
struct Test {
    verdict: String,
    summary: String,
    steps: Vec<Step>,
    candidates: Vec<Candidate>,
}

#[derive(Debug, Deserialize)]
struct Step {
    hop: String,
    verdict: String,
    ms: Option<u64>,
    detail: String,
    action: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Candidate {
    name: String,
    active: bool,
    verdict: String,
    ms: Option<u64>,
    summary: String,
    steps: Vec<Step>,
}

/// A destination that does not work is a failure: scripts ask by the exit code.
pub(crate) async fn run(
    name: &Name,
    wanted: Option<std::net::IpAddr>,
    client: &Client,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let mut body = Map::new();
    if let Some(wanted) = wanted {
        body.insert("client".into(), json!(wanted));
    }
    let answer = client.post(&format!("destinations/{name}/test"), Value::Object(body)).await?;
    let test: Test = read(&answer)?;
    if screen.is_json() {
        screen.json(&answer)?;
    } else {
        tables(&test, screen)?;
    }
    if test.verdict == "pass" {
        return Ok(());
    }
    Err(Failure::Failed(plain(&test.summary)))
}

fn tables(test: &Test, screen: &mut Screen) -> Result<(), Failure> {
    screen.rows(["RESULT", "HOP", "MS", "DETAILS"], test.steps.iter().map(row), "Nothing was tried.")?;
    if !test.candidates.is_empty() {
        screen.line("")?;
        let rows = test.candidates.iter().map(|one| {
            [
                one.verdict.to_uppercase(),
                one.name.clone(),
                yes(one.active),
                or_dash(one.ms),
                one.summary.clone(),
            ]
        });
        screen.rows(["RESULT", "CANDIDATE", "ACTIVE", "MS", "DETAILS"], rows, "")?;
    }
    let of_path = test.steps.iter().map(|step| (None, step));
    let of_candidates =
        test.candidates.iter().flat_map(|one| one.steps.iter().map(move |step| (Some(&one.name), step)));
    let mut told = Vec::new();
    for (candidate, step) in of_path.chain(of_candidates) {
        let Some(action) = step.action.as_ref().filter(|action| !told.contains(action)) else { continue };
        let whose = candidate.map(|name| format!("{name}, ")).unwrap_or_default();
        screen.talk(&format!("Next, {whose}{}: {action}", step.hop.replace('_', "-")));
        told.push(action);
    }
    if test.verdict == "pass" {
        screen.talk(&test.summary);
    }
    Ok(())
}

fn row(step: &Step) -> [String; 4] {
    [step.verdict.to_uppercase(), step.hop.replace('_', "-"), or_dash(step.ms), step.detail.clone()]
}
