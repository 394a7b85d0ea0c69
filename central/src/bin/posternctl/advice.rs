//! Decides what to tell someone who looks at `status` at night: what is wrong, and the next step.

use crate::{gateway::Gateway, process_servers::ProcessServer};

/// One sentence per finding, the most pressing first; empty when all is well.
pub(crate) fn advice(gateway: &Gateway, servers: &[ProcessServer]) -> Vec<String> {
    let mut steps = Vec::new();
    let candidates = servers.iter().filter(|server| server.candidate);
    if !servers.is_empty() && candidates.clone().next().is_none() {
        steps.push(
            "No Process Server is a Secure Gateway Candidate. Mark one: posternctl process-servers candidate NAME on"
                .to_owned(),
        );
    }
    for server in candidates.clone().filter(|server| !server.connected) {
        steps.push(format!("{} is not connected: start postern-agent on that host.", server.name));
    }
    for server in candidates.filter(|server| server.connected && server.restart_required) {
        steps.push(format!(
            "{} was marked but not restarted: posternctl process-servers restart {}",
            server.name, server.name
        ));
    }
    if gateway.active.is_some() && gateway.can_lose == Some(0) {
        steps.push(
            "The group can bear no further loss: connect another candidate, so that the active can change."
                .to_owned(),
        );
    }
    steps
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_healthy_pair_needs_no_advice() {
        assert_eq!(advice(&gateway("up", Some("a"), 1), &[server("a"), server("b")]), Vec::<String>::new());
    }

    #[test]
    fn a_candidate_that_is_gone_is_named() {
        let gone = ProcessServer { connected: false, ..server("b") };
        let steps = advice(&gateway("up", Some("a"), 1), &[server("a"), gone]);
        assert_eq!(steps, ["b is not connected: start postern-agent on that host."]);
    }

    #[test]
    fn a_marked_but_not_restarted_one_is_told_how() {
        let waiting = ProcessServer { restart_required: true, ..server("a") };
        let steps = advice(&gateway("idle", None, 0), &[waiting]);
        assert_eq!(steps, ["a was marked but not restarted: posternctl process-servers restart a"]);
    }

    #[test]
    fn without_a_candidate_marking_comes_first() {
        let plain = ProcessServer { candidate: false, ..server("a") };
        assert!(advice(&gateway("idle", None, 0), &[plain])[0].contains("candidate NAME on"));
    }

    fn gateway(state: &str, active: Option<&str>, can_lose: u64) -> Gateway {
        serde_json::from_value(json!({
            "state": state, "active": active, "since": "2026-01-01T00:00:00Z", "can_lose": can_lose,
            "epoch": 0, "group_epoch": 0,
            "event": {"name": "System_Secure_Gateway", "raised": false},
        }))
        .unwrap()
    }

    fn server(name: &str) -> ProcessServer {
        serde_json::from_value(json!({
            "name": name, "candidate": true, "configured": true, "restart_required": false,
            "connected": true, "active": false,
        }))
        .unwrap()
    }
}
