//! The form of one alert endpoint: a few fields that depend on the preset, and JSON for all the rest.

use serde_json::{Map, Value, json};

use super::{client::Refused, form::Form};

/// Where alerts can go, and what is asked for it.
pub(super) struct Preset {
    pub(super) name: &'static str,
    pub(super) words: &'static str,
    /// What `url` looks like; empty where the preset has its own.
    pub(super) url: &'static str,
    /// The one secret that the preset needs, by its name in the document.
    secret: &'static str,
}

pub(super) const PRESETS: &[Preset] = &[
    Preset {
        name: "json",
        words: "Webhook (Standard Webhooks)",
        url: "https://ops.example/hook",
        secret: "",
    },
    Preset { name: "pagerduty", words: "PagerDuty", url: "", secret: "routing_key" },
    Preset { name: "opsgenie", words: "Opsgenie", url: "", secret: "api_key" },
    Preset { name: "jira", words: "Jira Service Management", url: "", secret: "api_key" },
    Preset {
        name: "slack",
        words: "Slack",
        url: "https://hooks.slack.com/services/{{ secret(\"hook\") | safe }}",
        secret: "hook",
    },
    Preset {
        name: "teams",
        words: "Microsoft Teams",
        url: "https://…/workflows/{{ secret(\"hook\") | safe }}",
        secret: "hook",
    },
    Preset {
        name: "alertmanager",
        words: "Prometheus Alertmanager",
        url: "https://alertmanager.example/api/v2/alerts",
        secret: "",
    },
    Preset { name: "cloudevents", words: "CloudEvents 1.0", url: "https://ops.example/events", secret: "" },
    Preset { name: "mail", words: "Mail", url: "smtp://mail.example:587", secret: "" },
];

/// What may be told beside down and up.
pub(super) const KINDS: &[(&str, &str)] = &[
    ("failover", "Another candidate carries the traffic"),
    ("tolerance_lost", "It works, and the next loss stops it from moving"),
    ("candidate_silent", "A candidate has been away for 5 minutes"),
    ("certificate_expiring", "A candidate's certificate is about to end and was not renewed"),
    ("destination_unreachable", "A test found a destination that no candidate reaches any more"),
    ("deliveries_failing", "Another endpoint cannot be reached"),
];

/// The fields that say themselves what is wrong with them.
pub(super) const FIELDS: &[&str] = &["name", "preset", "url", "secret_value", "from", "to", "secret", "json"];

/// A secret that is kept: shown like this, and given back like this.
const KEPT: &str = "***";

pub(super) fn preset_words(name: &str) -> &str {
    PRESETS.iter().find(|preset| preset.name == name).map_or(name, |preset| preset.words)
}

pub(super) fn kind_words(name: &str) -> &str {
    match name {
        "down" => "down",
        "up" => "up",
        "failover" => "failover",
        "tolerance_lost" => "tolerance lost",
        "candidate_silent" => "candidate silent",
        "certificate_expiring" => "certificate expiring",
        "destination_unreachable" => "destination unreachable",
        "deliveries_failing" => "deliveries failing",
        other => other,
    }
}

/// The form of a new endpoint.
pub(super) fn fresh() -> Form {
    let mut form = Form::default();
    form.set("preset", "json");
    form.set("enabled", "on");
    form
}

/// The form with what stands in the settings.
pub(super) fn filled_from(endpoint: &Value) -> Form {
    let text = |field: &str| endpoint.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let list = |field: &str| {
        let list = endpoint.get(field).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    let preset = match text("preset") {
        preset if preset.is_empty() => {
            if text("url").starts_with("smtp") { "mail" } else { "json" }.to_owned()
        }
        preset => preset,
    };
    let mut form = Form::default();
    for field in ["name", "url", "from"] {
        form.set(field, text(field));
    }
    form.set("to", list("to").join(", "));
    if let Some(known) = PRESETS.iter().find(|known| known.name == preset && !known.secret.is_empty())
        && endpoint.get("secrets").and_then(|secrets| secrets.get(known.secret)).is_some()
    {
        form.set("secret_value", KEPT);
    }
    form.set("preset", preset);
    if endpoint.get("secret").is_some_and(|secret| !secret.is_null()) {
        form.set("secret", KEPT);
    }
    for kind in list("also") {
        form.set(&format!("also.{kind}"), "on");
    }
    if endpoint.get("enabled").and_then(Value::as_bool).unwrap_or(true) {
        form.set("enabled", "on");
    }
    form
}

/// The endpoint that the form describes. What has no field stays as it was `known`; with JSON given, that is
/// the endpoint.
///
/// # Errors
/// What is wrong with the JSON; everything else is the API's to judge.
pub(super) fn endpoint(form: &Form, known: Option<&Value>) -> Result<Value, String> {
    if form.ticked("as_json") {
        let document: Value =
            serde_json::from_str(form.text("json")).map_err(|error| format!("this is no JSON: {error}"))?;
        return if document.is_object() {
            Ok(document)
        } else {
            Err("write one endpoint, { … }".to_owned())
        };
    }
    let mut endpoint = known.and_then(Value::as_object).cloned().unwrap_or_default();
    let preset = form.text("preset");
    let mut set = |field: &str, value: Option<Value>| match value {
        Some(value) => drop(endpoint.insert(field.to_owned(), value)),
        None => drop(endpoint.remove(field)),
    };
    set("name", Some(json!(form.text("name").trim())));
    set("preset", Some(json!(preset)));
    set("url", form.filled("url").map(|url| json!(url)));
    let mail = preset == "mail";
    set("from", form.filled("from").filter(|_| mail).map(|from| json!(from)));
    let to: Vec<&str> =
        form.text("to").split([',', '\n']).map(str::trim).filter(|to| !to.is_empty()).collect();
    set("to", (mail && !to.is_empty()).then(|| json!(to)));
    // One that is kept as it is keeps its second key too, while keys are changed.
    if form.text("secret").trim() != KEPT {
        set("secret", form.filled("secret").map(|secret| json!(secret)));
    }
    let also: Vec<&str> =
        KINDS.iter().map(|(kind, _)| *kind).filter(|kind| form.ticked(&format!("also.{kind}"))).collect();
    set("also", (!also.is_empty()).then(|| json!(also)));
    set("enabled", Some(json!(form.ticked("enabled"))));
    if form.ticked("enabled") {
        set("disabled_because", None);
    }
    let secret = PRESETS.iter().find(|known| known.name == preset).map_or("", |known| known.secret);
    if let (false, Some(value)) = (secret.is_empty(), form.filled("secret_value")) {
        let secrets = endpoint.entry("secrets").or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(secrets) = secrets {
            secrets.insert(secret.to_owned(), json!(value));
        }
    }
    Ok(Value::Object(endpoint))
}

/// The refusal with the form's fields in the place of the document's: `endpoints[on-call].secrets.hook` is
/// `secret_value` here.
pub(super) fn at_its_fields(mut refused: Refused, form: &Form) -> Refused {
    let ours = |place: &str| {
        // By its name; by its number in the list where the name is what is wrong, or cannot be read at all.
        place == form.text("name").trim() || place.starts_with("number ") || place.parse::<usize>().is_ok()
    };
    for error in &mut refused.errors {
        let whole = error.field.strip_prefix("endpoints[").and_then(|rest| rest.split_once(']'));
        let Some((place, within)) = whole else { continue };
        if form.ticked("as_json") {
            error.reason = format!("{}: {}", within.trim_start_matches('.'), error.reason);
            "json".clone_into(&mut error.field);
        } else if ours(place) {
            let within = within.trim_start_matches('.');
            let first = within.split(['.', '[']).next().unwrap_or_default();
            let field = match first {
                "secrets" => "secret_value",
                "name" | "preset" | "url" | "secret" | "from" | "to" => first,
                // Without a field of its own here.
                _ => continue,
            };
            error.field = field.to_owned();
        }
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_becomes_an_endpoint_with_the_secret_its_preset_needs() {
        let form = Form::parse(
            b"name=on-call&preset=pagerduty&url=&secret_value=k&also.failover=on&enabled=on&secret=",
        );
        let endpoint = endpoint(&form, None).unwrap();
        let wanted = json!({"name": "on-call", "preset": "pagerduty", "secrets": {"routing_key": "k"},
            "also": ["failover"], "enabled": true});
        assert_eq!(endpoint, wanted);
    }

    #[test]
    fn what_has_no_field_of_its_own_stays() {
        let known = json!({"name": "a", "url": "https://x", "headers": {"X-Team": "night"}, "secret": "***"});
        let mut form = filled_from(&known);
        form.set("url", "https://y");
        let endpoint = endpoint(&form, Some(&known)).unwrap();
        assert_eq!(endpoint["headers"], json!({"X-Team": "night"}));
        assert_eq!((&endpoint["url"], &endpoint["secret"]), (&json!("https://y"), &json!("***")));
    }

    #[test]
    fn every_kind_that_is_told_beside_down_and_up_can_be_ticked() {
        let mut offered: Vec<_> = KINDS.iter().map(|(kind, _)| *kind).chain(["down", "up"]).collect();
        let mut told: Vec<_> = alerting::Kind::ALL.iter().map(|kind| kind.name()).collect();
        offered.sort_unstable();
        told.sort_unstable();
        assert_eq!(offered, told);
    }

    #[test]
    fn what_is_wrong_with_the_document_is_said_at_the_forms_field() {
        let form = Form::parse(b"name=on-call&preset=slack&url=x&secret_value=");
        let said = |field: &str| at_its_fields(Refused::field(field, "no"), &form).errors[0].field.clone();
        assert_eq!(said("endpoints[on-call].secrets.hook"), "secret_value");
        assert_eq!(said("endpoints[number 1].name"), "name");
        assert_eq!(said("endpoints[0].preset"), "preset");
        assert_eq!(said("endpoints[another].url"), "endpoints[another].url");
        assert_eq!(said("endpoints[on-call].down.body"), "endpoints[on-call].down.body");
    }

    #[test]
    fn json_that_is_none_is_told_and_not_sent() {
        let form = Form::parse(b"as_json=on&json=%7B");
        assert!(endpoint(&form, None).unwrap_err().contains("no JSON"));
    }
}
