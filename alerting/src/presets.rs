//! What well-known receivers expect, as data: each preset is a file of the same form as an endpoint's own settings.

use serde::{Deserialize, Serialize};

/// A receiver we know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// `{type, timestamp, data}`, the body of Standard Webhooks.
    #[default]
    Json,
    /// PagerDuty Events API v2; needs `secrets.routing_key`.
    PagerDuty,
    /// Prometheus Alertmanager, API v2: `url` is `https://alertmanager.example/api/v2/alerts`.
    Alertmanager,
    /// Opsgenie Alert API; needs `secrets.api_key`.
    Opsgenie,
    /// Jira Service Management's integration API; needs `secrets.api_key`.
    Jira,
    /// Slack, an incoming webhook: `https://hooks.slack.com/services/{{ secret("hook") }}`.
    Slack,
    /// Microsoft Teams, a workflow "when a webhook request is received".
    Teams,
    /// CloudEvents 1.0, structured mode.
    CloudEvents,
}
