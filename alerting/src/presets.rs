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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, path::PathBuf};

    use serde_json::json;
    use time::macros::datetime;

    use super::*;
    use crate::{
        AddressRules, Alert, Alerts, Context, DeliveryId, Incident, IncidentId, Kind, Transition, Tried,
    };

    /// What receivers get, byte for byte but for the layout of JSON. Written anew with `BLESS=1`, and then read by a
    /// person: a receiver's rules changed around one day.
    #[test]
    fn each_preset_sends_what_its_golden_files_say() {
        for preset in Preset::ALL {
            let endpoint = endpoint(preset);
            for (kind, alert) in alerts() {
                let id = DeliveryId::of(&alert.incident.id, kind, "golden");
                let shown = endpoint.shown(&alert, &id, alert.at).unwrap();
                let (head, body) = shown.split_once("\n\n").unwrap();
                let body = serde_json::from_str::<serde_json::Value>(body)
                    .map_or_else(|_| body.to_owned(), |json| format!("{json:#}\n"));
                let name = serde_json::to_value(preset).unwrap();
                let file = format!("testdata/presets/{}.{}.txt", name.as_str().unwrap(), kind.name());
                check(&file, &format!("{head}\n\n{body}"));
            }
        }
    }

    #[test]
    fn where_a_receiver_pairs_alerts_the_up_carries_the_key_of_the_down() {
        for preset in Preset::ALL {
            let endpoint = endpoint(preset);
            for (kind, alert) in alerts().into_iter().take(2) {
                let id = DeliveryId::of(&alert.incident.id, kind, "golden");
                let shown = endpoint.shown(&alert, &id, alert.at).unwrap();
                assert!(shown.contains("postern-acme-0192"), "{preset:?} {kind:?}: {shown}");
            }
        }
    }

    fn endpoint(preset: Preset) -> crate::Endpoint {
        let mut given = json!({
            "name": "golden",
            "preset": preset,
            "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "secrets": {"routing_key": "canary", "api_key": "canary", "hook": "T0/B0/canary"},
            "also": ["failover", "tolerance_lost", "certificate_expiring"]
        });
        match preset {
            Preset::Json | Preset::Teams | Preset::CloudEvents => {
                given["url"] = json!("https://example.com/hook")
            }
            Preset::Alertmanager => given["url"] = json!("https://example.com/api/v2/alerts"),
            Preset::Slack => {
                given["url"] = json!("https://hooks.slack.com/services/{{ secret('hook') | safe }}")
            }
            Preset::Mail => {
                given["url"] = json!("smtps://mail.example.com");
                given["from"] = json!("postern@example.com");
                given["to"] = json!(["night@example.com"]);
                given["secret"] = json!([]);
            }
            Preset::PagerDuty | Preset::Opsgenie | Preset::Jira => {}
        }
        let document = serde_json::from_value(json!({"endpoints": [given]})).unwrap();
        let alerts = Alerts::check(document, &Alerts::default(), &AddressRules::new(|_| false));
        alerts.unwrap_or_else(|problems| panic!("{preset:?}: {problems}")).endpoints()[0].clone()
    }

    fn alerts() -> [(Kind, Alert); 3] {
        let context = Context {
            environment: "acme".into(),
            summary: "No configured candidate has a secure connection".into(),
            tried: ["gw-01", "gw-02"]
                .map(|name| Tried { name: name.into(), outcome: "no \"hello\" within <4m>".into() })
                .into(),
            link: Some("https://central.example/gateway".into()),
        };
        let opened_at = datetime!(2026-11-21 03:00:00 UTC);
        let incident = |id: &str| Incident {
            key: format!("postern-acme-{id}"),
            ..Incident::new(IncidentId::new(id), opened_at, context.clone())
        };
        let down = Alert::of(Transition::Down(incident("0192")), opened_at + time::Duration::seconds(10));
        let up = Alert::of(Transition::Up(incident("0192")), opened_at + time::Duration::minutes(5));
        let context =
            Context { summary: "gw-02 carries the tunnel now".into(), tried: Vec::new(), ..context };
        let mut other = Alert::about(Kind::Failover, IncidentId::new("0193"), context, opened_at);
        other.details = BTreeMap::from([("from".into(), "gw-01".into()), ("to".into(), "gw-02".into())]);
        [(Kind::Down, down), (Kind::Up, up), (Kind::Failover, other)]
    }

    fn check(file: &str, text: &str) {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file);
        if std::env::var_os("BLESS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
        }
        let golden = fs::read_to_string(&path).unwrap_or_default().replace("\r\n", "\n");
        assert_eq!(text, golden, "{file}");
    }
}
