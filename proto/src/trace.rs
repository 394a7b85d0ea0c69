//! What a test of a destination finds, hop by hop, in the order in which a client's bytes pass them.
//!
//! An agent answers [`Ask`] with the steps of its site; central puts its own before them.

use serde::{Deserialize, Serialize};

/// Said in an agent's hello: it answers [`Ask`].
pub const FEATURE_PROBE: &str = "probe";
/// The longest text of a step, in bytes.
pub const TEXT_BYTES_MAX: usize = 512;
/// The most steps in one answer; there are fewer hops.
pub const STEPS_MAX: usize = 16;

/// One place on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hop {
    /// Central: is the destination switched on?
    Enabled,
    /// Central: is its listener open, and whom does its access list let in?
    Listener,
    /// Central: is there an active with an admitted tunnel?
    Tunnel,
    /// The site: does its allow-list name it?
    AllowList,
    /// The site: which addresses has its name?
    Dns,
    /// The site: does one of them accept a connection?
    Connect,
    /// The destination: does it speak TLS, with which certificate?
    Tls,
    /// The destination: are its first words those of its type? Nobody logs in.
    Greeting,
    /// A hop newer than this build.
    #[serde(other)]
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Pass,
    Fail,
    /// Not tried, or not to be judged; the detail says why.
    Skip,
}

/// What one hop came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub hop: Hop,
    pub verdict: Verdict,
    /// How long it took, milliseconds; nothing where nothing was measured.
    pub ms: Option<u64>,
    /// What was found; on a failure the reason, on a skip why.
    pub detail: String,
    /// What to do about a failure.
    pub action: Option<String>,
}

/// Central asks an agent to try a destination, as it would for a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Pairs the answer with the question; chosen by central.
    pub id: u64,
    pub destination: String,
    pub host: String,
    pub port: u16,
    /// The destination's type: whose first words to expect.
    pub kind: String,
    /// For `http` and `https`: what to ask for. Empty means `/`.
    pub path: String,
    /// How long all of it may take, milliseconds.
    pub limit_ms: u64,
}

/// The answer to the [`Ask`] with the same id on the same websocket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub id: u64,
    /// `Err` when nothing was tried; says why.
    pub result: Result<Vec<Step>, String>,
}

impl Step {
    pub fn pass(hop: Hop, ms: Option<u64>, detail: impl Into<String>) -> Self {
        Self { hop, verdict: Verdict::Pass, ms, detail: bounded(detail.into()), action: None }
    }

    pub fn fail(hop: Hop, ms: Option<u64>, reason: impl Into<String>, action: impl Into<String>) -> Self {
        let action = Some(bounded(action.into()));
        Self { hop, verdict: Verdict::Fail, ms, detail: bounded(reason.into()), action }
    }

    pub fn skip(hop: Hop, why: impl Into<String>) -> Self {
        Self { hop, verdict: Verdict::Skip, ms: None, detail: bounded(why.into()), action: None }
    }

    pub fn failed(&self) -> bool {
        self.verdict == Verdict::Fail
    }

    /// The same, held to this build's bounds: what another end said may be anything.
    #[must_use]
    pub fn checked(self) -> Self {
        Self { detail: bounded(self.detail), action: self.action.map(bounded), ..self }
    }
}

/// Shortens to [`TEXT_BYTES_MAX`] and turns control characters into blanks.
fn bounded(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    if text.contains(char::is_control) {
        text = text.replace(char::is_control, " ");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stranger_said_is_bounded_and_harmless() {
        let step = Step { detail: format!("\u{1b}[2J{}", "ä".repeat(999)), ..Step::skip(Hop::Dns, "") };
        let detail = step.checked().detail;
        assert!(detail.starts_with(" [2J") && detail.len() <= TEXT_BYTES_MAX, "{detail}");
    }

    #[test]
    fn a_hop_of_a_newer_agent_is_one_nevertheless() {
        let step = r#"{"hop":"teleport","verdict":"pass","ms":null,"detail":"","action":null}"#;
        assert_eq!(serde_json::from_str::<Step>(step).unwrap().hop, Hop::Other);
    }
}
