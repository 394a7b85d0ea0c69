//! What the pages read of the API's answers. Fields nobody shows are left out.

use serde::Deserialize;
use time::OffsetDateTime;

/// `GET /gateway`
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Gateway {
    pub(super) state: State,
    pub(super) active: Option<String>,
    pub(super) epoch: u64,
    pub(super) group_epoch: u64,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) since: OffsetDateTime,
    pub(super) candidates: Vec<Candidate>,
    pub(super) attempt: Option<Attempt>,
    pub(super) event: Raised,
    pub(super) last_switch: Option<Switch>,
    pub(super) can_lose: Option<usize>,
    pub(super) streams: usize,
    #[serde(default)]
    pub(super) lanes: usize,
    pub(super) draining: Vec<Draining>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    Idle,
    Connecting,
    Up,
    Down,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Candidate {
    pub(super) name: String,
    pub(super) node: Option<u64>,
    pub(super) connected: bool,
    pub(super) configured: bool,
    pub(super) active: bool,
    pub(super) restart_required: bool,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Attempt {
    pub(super) candidate: String,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) until: OffsetDateTime,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Raised {
    pub(super) name: String,
    pub(super) raised: bool,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Switch {
    pub(super) from: Option<String>,
    pub(super) to: String,
    pub(super) reason: String,
    pub(super) gap_ms: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Draining {
    pub(super) process_server: String,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) until: OffsetDateTime,
    pub(super) streams: usize,
}

/// One of `GET /process-servers`
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ProcessServer {
    pub(super) name: String,
    pub(super) candidate: bool,
    pub(super) configured: bool,
    pub(super) restart_required: bool,
    pub(super) connected: bool,
    pub(super) active: bool,
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub(super) last_seen: Option<OffsetDateTime>,
    pub(super) version: Option<String>,
    pub(super) os: Option<String>,
    pub(super) system_information: SystemInformation,
    /// What the agent says of itself, while it is connected.
    #[serde(default)]
    pub(super) link: Option<Link>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub(super) enrolled_at: Option<OffsetDateTime>,
    #[serde(default)]
    pub(super) fingerprint: Option<String>,
    #[serde(default)]
    pub(super) returning: Option<Returning>,
}

/// It asks to come back with a certificate that has expired.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Returning {
    #[serde(with = "time::serde::rfc3339")]
    pub(super) expired_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) last_asked_at: OffsetDateTime,
    pub(super) from: Option<String>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub(super) approved_until: Option<OffsetDateTime>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Link {
    #[serde(with = "time::serde::rfc3339")]
    pub(super) since: OffsetDateTime,
    pub(super) remote: String,
    /// The role it reports: `standby`, `active` …
    #[serde(default)]
    pub(super) reported_role: Option<String>,
    /// Why its last attempt at a tunnel failed.
    #[serde(default)]
    pub(super) last_error: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) certificate_expires_at: OffsetDateTime,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct SystemInformation {
    pub(super) arch: String,
    pub(super) hostname: String,
    pub(super) pid: u32,
    #[serde(rename = "IPForwarderURL", default)]
    pub(super) ip_forwarder_url: Option<String>,
}

/// One of `GET /events`
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Event {
    pub(super) seq: u64,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) at: OffsetDateTime,
    pub(super) code: String,
    pub(super) severity: Severity,
    pub(super) text: String,
    pub(super) sender: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Severity {
    Info,
    Warning,
    Error,
}

/// `GET /raft`
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Raft {
    pub(super) generation: u64,
    pub(super) leader: Option<u64>,
    pub(super) last_applied: u64,
    pub(super) worst_round_trip_ms: Option<f64>,
    pub(super) members: Vec<Member>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Member {
    pub(super) node: u64,
    pub(super) name: Option<String>,
    pub(super) state: String,
    pub(super) voter: bool,
    pub(super) witness: bool,
    #[serde(default)]
    pub(super) connected: bool,
}

/// One of `GET /destinations`
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Destination {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) url: String,
    pub(super) listen: Option<String>,
    pub(super) enabled: bool,
    pub(super) limits: Limits,
    pub(super) acl: Acl,
    /// Why its listener is not open though it should be.
    #[serde(default)]
    pub(super) problem: Option<String>,
    /// What was asked for, where `listen` tells what came of it.
    #[serde(default)]
    pub(super) asked_listen: Option<String>,
    #[serde(default)]
    pub(super) last_test: Option<TestOutcome>,
}

/// The answer of `POST /destinations/{name}/test`
#[derive(Debug, Clone, Deserialize)]
pub(super) struct TestOutcome {
    pub(super) reached: bool,
    #[serde(default)]
    pub(super) summary: Option<String>,
    pub(super) reason: Option<String>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub(super) at: Option<OffsetDateTime>,
    #[serde(default)]
    pub(super) by: Option<String>,
    #[serde(default)]
    pub(super) steps: Vec<Step>,
    #[serde(default)]
    pub(super) candidates: Vec<TestedCandidate>,
}

impl TestOutcome {
    /// Whether the way through the active leads there.
    pub(super) fn passed(&self) -> bool {
        self.reached
    }
}

/// One hop of a test.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Step {
    pub(super) hop: String,
    pub(super) verdict: String,
    pub(super) ms: Option<u64>,
    pub(super) detail: String,
    pub(super) action: Option<String>,
}

/// What one candidate could do.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct TestedCandidate {
    pub(super) name: String,
    pub(super) active: bool,
    pub(super) verdict: String,
    pub(super) summary: String,
    #[serde(default)]
    pub(super) steps: Vec<Step>,
}

/// One of `GET /enrollment-tokens`
#[derive(Debug, Clone, Deserialize)]
pub(super) struct EnrolmentToken {
    pub(super) id: String,
    pub(super) name: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) expires_at: OffsetDateTime,
    pub(super) used: Option<TokenUse>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct TokenUse {
    pub(super) by: String,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) at: OffsetDateTime,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Limits {
    pub(super) streams: u32,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Acl {
    pub(super) clients: Vec<String>,
}

/// Answers as tests want them.
#[cfg(test)]
mod samples {
    use serde_json::json;

    use super::*;

    impl Gateway {
        /// gw-a carries, gw-b stands by.
        pub(in crate::ui) fn sample() -> Self {
            let candidate = |name: &str, node: u64, active: bool| {
                json!({"name": name, "node": node, "connected": true, "configured": true, "active": active,
                    "restart_required": false})
            };
            let gateway = json!({
                "state": "up", "active": "gw-a", "epoch": 17, "group_epoch": 2, "since": "2026-11-21T14:02:00Z",
                "candidates": [candidate("gw-a", 1, true), candidate("gw-b", 2, false)], "attempt": null,
                "event": {"name": "System_Secure_Gateway", "raised": false}, "last_switch": null, "can_lose": 1,
                "streams": 4, "draining": [],
            });
            serde_json::from_value(gateway).unwrap()
        }
    }

    impl ProcessServer {
        /// A connected standby.
        pub(in crate::ui) fn sample(name: &str) -> Self {
            let server = json!({
                "name": name, "candidate": true, "configured": true, "restart_required": false, "connected": true,
                "active": false, "last_seen": "2026-11-21T14:02:00Z", "version": "0.1.0", "os": "linux",
                "system_information": {"os": "linux", "arch": "x86_64", "hostname": name, "pid": 7},
                "link": {"since": "2026-11-21T14:00:00Z", "remote": "192.0.2.7:5000", "certificate_expires_at": "2027-02-19T14:02:00Z", "reported_role": null},
            });
            serde_json::from_value(server).unwrap()
        }
    }
}
