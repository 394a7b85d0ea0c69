//! A way shown hop by hop: what a test of a destination found, and how far a connection came.

use time::OffsetDateTime;

use super::{
    answers::{Step, TestOutcome},
    words::{Badge, Moment, Tone},
};

/// The last test: the way of a client, and what each candidate could do.
pub(super) struct TestShown {
    pub(super) verdict: Badge,
    pub(super) summary: String,
    pub(super) at: Option<Moment>,
    pub(super) by: Option<String>,
    pub(super) steps: Vec<StepShown>,
    pub(super) candidates: Vec<CandidateShown>,
}

/// One hop, as a test and an ended connection show it.
pub(super) struct StepShown {
    pub(super) verdict: Badge,
    pub(super) hop: String,
    pub(super) ms: String,
    pub(super) detail: String,
    pub(super) action: Option<String>,
}

pub(super) struct CandidateShown {
    pub(super) name: String,
    pub(super) active: bool,
    pub(super) verdict: Badge,
    pub(super) summary: String,
    pub(super) steps: Vec<StepShown>,
}

impl From<&TestOutcome> for TestShown {
    fn from(test: &TestOutcome) -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            verdict: verdict(if test.passed() { "pass" } else { "fail" }),
            summary: test
                .summary
                .clone()
                .or_else(|| test.reason.clone())
                .unwrap_or_else(|| "It answers.".to_owned()),
            at: test.at.map(|at| Moment::new(at, now)),
            by: test.by.clone(),
            steps: test.steps.iter().map(StepShown::from).collect(),
            candidates: test
                .candidates
                .iter()
                .map(|one| CandidateShown {
                    name: one.name.clone(),
                    active: one.active,
                    verdict: verdict(&one.verdict),
                    summary: one.summary.clone(),
                    steps: one.steps.iter().map(StepShown::from).collect(),
                })
                .collect(),
        }
    }
}

impl From<&Step> for StepShown {
    fn from(step: &Step) -> Self {
        Self {
            verdict: verdict(&step.verdict),
            hop: hop(&step.hop).to_owned(),
            ms: step.ms.map_or_else(String::new, |ms| format!("{ms} ms")),
            detail: step.detail.clone(),
            action: step.action.clone(),
        }
    }
}

pub(super) fn verdict(word: &str) -> Badge {
    match word {
        "pass" => Badge::new(Tone::Good, "PASS"),
        "fail" => Badge::new(Tone::Bad, "FAIL"),
        _ => Badge::new(Tone::Calm, "SKIP"),
    }
}

/// A hop in words, with the end that speaks.
fn hop(code: &str) -> &str {
    match code {
        "enabled" => "Enabled",
        "listener" => "Listener at central",
        "tunnel" => "Tunnel",
        "allow_list" => "The site's allow-list",
        "dns" => "Name, resolved on the agent",
        "connect" => "Connection from the agent",
        "tls" => "TLS",
        "greeting" => "Greeting",
        other => other,
    }
}
