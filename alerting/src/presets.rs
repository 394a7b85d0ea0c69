//! What well-known receivers expect, as data: each preset is a file of nearly the form of an endpoint's own settings.
//!
//! An up that a preset does not write looks like its down, and so do the other kinds: the values in it differ.

use serde::{Deserialize, Serialize};

use crate::config::{Headers, MessageDocument};

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
    /// Opsgenie's alert API; needs `secrets.api_key`.
    Opsgenie,
    /// Jira Service Management's integration events; needs `secrets.api_key`.
    Jira,
    /// Slack, an incoming webhook: `https://hooks.slack.com/services/{{ secret("hook") | safe }}`.
    Slack,
    /// Microsoft Teams, a workflow "when a Teams webhook request is received".
    Teams,
    /// CloudEvents 1.0 in structured mode.
    CloudEvents,
    /// A mail. What an smtp address means without saying so.
    Mail,
}

/// A preset's file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    #[serde(default)]
    pub(crate) url: Option<String>,
    #[serde(default)]
    pub(crate) headers: Headers,
    pub(crate) down: Message,
    #[serde(default)]
    pub(crate) up: Option<Message>,
    #[serde(default)]
    pub(crate) other: Option<Message>,
}

#[derive(Deserialize)]
pub(crate) struct Message {
    /// A template that goes behind the endpoint's address, whichever that is.
    #[serde(default)]
    pub(crate) append_to_url: Option<String>,
    #[serde(flatten)]
    pub(crate) message: MessageDocument,
}

impl Preset {
    pub const ALL: [Self; 9] = [
        Self::Json,
        Self::PagerDuty,
        Self::Alertmanager,
        Self::Opsgenie,
        Self::Jira,
        Self::Slack,
        Self::Teams,
        Self::CloudEvents,
        Self::Mail,
    ];

    #[expect(clippy::expect_used, reason = "the files are compiled in, and a test reads every one")]
    pub(crate) fn settings(self) -> Settings {
        serde_json::from_str(self.file()).expect("a preset is well-formed")
    }

    fn file(self) -> &'static str {
        match self {
            Self::Json => include_str!("../presets/json.json"),
            Self::PagerDuty => include_str!("../presets/pagerduty.json"),
            Self::Alertmanager => include_str!("../presets/alertmanager.json"),
            Self::Opsgenie => include_str!("../presets/opsgenie.json"),
            Self::Jira => include_str!("../presets/jira.json"),
            Self::Slack => include_str!("../presets/slack.json"),
            Self::Teams => include_str!("../presets/teams.json"),
            Self::CloudEvents => include_str!("../presets/cloudevents.json"),
            Self::Mail => include_str!("../presets/mail.json"),
        }
    }
}
