//! The configuration of alerts, as people write it: the JSON of `PUT /alerts`.
//!
//! ```text
//!  JSON ──► Document ──check──► Alerts ──► Endpoint, ready to render and send
//!              ▲                  │ stored()      (secrets apart)
//!              └── from stored ───┘ document()    (secrets shown as "***")
//! ```
//!
//! A [`Document`] is what was written; [`Alerts`](crate::Alerts) is what passed every check, templates rendered
//! against samples included. Secrets are write-only: they are shown as `***`, and `***` given back means "as
//! before", as long as the endpoint still calls the same places.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    alert::Kind,
    presets::Preset,
    secret::{HIDDEN, Secret},
};

mod headers;

pub use headers::{HeaderText, Headers};

/// Everything about alerts that an administrator sets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Document {
    pub endpoints: Vec<EndpointDocument>,
    /// How long "down" must last before it is told.
    pub hold_down: HoldDown,
}

/// One receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointDocument {
    /// Unique among the endpoints; it names the receiver in lists and logs.
    pub name: String,
    /// `https://…`, a template with [`secret`](Self::secrets)s behind the host; `http://…` for receivers that the
    /// operator allowed; `smtp://host[:port][?tls=none]` or `smtps://host[:port]` for mail. A preset may know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What is not written here comes from the preset; without one, from [`Preset::Json`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// `POST` unless given: `PUT`, `PATCH`, `GET` or `DELETE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// For every alert; each value is a template. Names such as `Authorization` are write-only.
    #[serde(default, skip_serializing_if = "Headers::is_empty")]
    pub headers: Headers,
    /// The key, `whsec_…`, that signs each webhook; while it is changed two, the new one first.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_more",
        serialize_with = "one_or_list"
    )]
    pub secret: Vec<Secret>,
    /// What templates get by `secret("name")`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, Secret>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<MessageDocument>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<MessageDocument>,
    /// For every kind of alert in `also`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other: Option<MessageDocument>,
    /// Which kinds of alert it wants beside down and up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<Kind>,
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Written by us when the receiver said 410, Gone; what is given here is not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled_because: Option<String>,
    /// PEM. Given, only certificates from these authorities are trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// PEM, the leaf first; with `client_key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<String>,
    /// PEM, PKCS #8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key: Option<Secret>,
    /// `http://host:port`: the webhook goes out through it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// `user:password` for the proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_credentials: Option<Secret>,
    /// Mail: who it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Mail: who gets it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<String>,
    /// Mail: `user:password` for the mail server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smtp_credentials: Option<Secret>,
}

/// What differs for one transition. Everything is optional.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessageDocument {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Beside those of the endpoint; the same name replaces.
    #[serde(default, skip_serializing_if = "Headers::is_empty")]
    pub headers: Headers,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Body>,
    /// Mail only: a template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
}

/// The body of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Body {
    /// One template for the whole text.
    Text(String),
    /// JSON whose strings are templates. A string that is nothing but one `{{ … }}` becomes what stands in it: a
    /// number stays a number, a list a list.
    Json(serde_json::Value),
}

/// [`Document::hold_down`]: written `"10s"`, or as a number of seconds; a day at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldDown(Duration);

/// What the store keeps of [`Alerts`](crate::Alerts): the document as it is shown, and the secrets beside it, each
/// by its place, so that they can be kept elsewhere.
#[derive(Clone, Serialize, Deserialize)]
pub struct Stored {
    pub document: Document,
    /// In clear. Never to be shown.
    pub secrets: BTreeMap<String, String>,
}

impl HoldDown {
    const MAX: Duration = Duration::from_secs(24 * 60 * 60);

    /// `None` for more than a day: whoever wants to hear of an outage only then does not want alerts.
    pub fn new(duration: Duration) -> Option<Self> {
        (duration <= Self::MAX).then_some(Self(duration))
    }

    pub fn duration(self) -> Duration {
        self.0
    }
}

impl Default for HoldDown {
    fn default() -> Self {
        Self(Duration::from_secs(10))
    }
}

impl Document {
    /// Every secret in it, with its place: `pager/headers/Authorization`.
    fn secrets_mut(&mut self) -> Vec<(String, &mut Secret)> {
        self.endpoints
            .iter_mut()
            .flat_map(|endpoint| {
                let name = endpoint.name.clone();
                endpoint.secrets_mut().into_iter().map(move |(at, secret)| (format!("{name}/{at}"), secret))
            })
            .collect()
    }

    /// As the store keeps it.
    pub(crate) fn into_stored(mut self) -> Stored {
        let secrets = self.secrets_mut().into_iter().map(|(at, secret)| (at, secret.reveal().to_owned()));
        let secrets = secrets.collect();
        // Shown secrets are hidden ones: serialised, the document has none.
        Stored { document: self, secrets }
    }

    /// `None` when a secret is missing from what was stored.
    pub(crate) fn from_stored(stored: Stored) -> Option<Self> {
        let Stored { mut document, secrets } = stored;
        for (at, secret) in document.secrets_mut() {
            *secret = Secret::new(secrets.get(&at)?);
        }
        Some(document)
    }
}

impl EndpointDocument {
    /// Every secret in it, with its place within the endpoint.
    pub(crate) fn secrets_mut(&mut self) -> Vec<(String, &mut Secret)> {
        let mut all = Vec::new();
        all.extend(self.secret.iter_mut().enumerate().map(|(i, secret)| (format!("secret/{i}"), secret)));
        all.extend(self.secrets.iter_mut().map(|(name, secret)| (format!("secrets/{name}"), secret)));
        let messages = [("down/", &mut self.down), ("up/", &mut self.up), ("other/", &mut self.other)];
        let headers =
            messages.into_iter().filter_map(|(at, message)| Some((at, &mut message.as_mut()?.headers)));
        for (at, headers) in headers.chain([("", &mut self.headers)]) {
            all.extend(headers.secrets_mut().map(|(name, secret)| (format!("{at}headers/{name}"), secret)));
        }
        let single = [
            ("client_key", &mut self.client_key),
            ("proxy_credentials", &mut self.proxy_credentials),
            ("smtp_credentials", &mut self.smtp_credentials),
        ];
        all.extend(single.into_iter().filter_map(|(at, secret)| Some((at.to_owned(), secret.as_mut()?))));
        all
    }
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(Secret),
    More(Vec<Secret>),
}

fn one_or_more<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Secret>, D::Error> {
    match Option::<OneOrMore>::deserialize(from) {
        Ok(None) => Ok(Vec::new()),
        Ok(Some(OneOrMore::One(secret))) => Ok(vec![secret]),
        Ok(Some(OneOrMore::More(secrets))) => Ok(secrets),
        // Serde's own message would quote what was given, which is a secret.
        Err(_) => Err(D::Error::custom("give one secret as a string, or a list of them")),
    }
}

fn one_or_list<S: Serializer>(secrets: &[Secret], to: S) -> Result<S::Ok, S::Error> {
    match secrets {
        [one] => one.serialize(to),
        several => several.serialize(to),
    }
}

impl Serialize for HoldDown {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(self.0))
    }
}

impl<'de> Deserialize<'de> for HoldDown {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Given {
            Seconds(f64),
            Text(String),
        }
        let duration = match Given::deserialize(from) {
            Ok(Given::Seconds(seconds)) => Duration::try_from_secs_f64(seconds).ok(),
            Ok(Given::Text(text)) => humantime::parse_duration(&text).ok(),
            Err(_) => None,
        };
        let duration =
            duration.ok_or_else(|| D::Error::custom("hold_down: give a duration such as \"10s\""))?;
        Self::new(duration).ok_or_else(|| D::Error::custom("hold_down: a day (\"24h\") at most"))
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secrets: BTreeMap<_, _> = self.secrets.keys().map(|at| (at, HIDDEN)).collect();
        f.debug_struct("Stored").field("document", &self.document).field("secrets", &secrets).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = r#"{
        "endpoints": [{
            "name": "pager", "url": "https://example.com/{{ secret(\"path\") }}",
            "headers": {"Authorization": "Bearer canary-1", "X-Team": "night"},
            "secret": ["whsec_canary2", "whsec_canary3"], "secrets": {"path": "canary-4"},
            "down": {"body": {"text": "{{ event.summary }}"}, "headers": {"X-Api-Key": "canary-5"}},
            "client_key": "canary-6", "proxy_credentials": "canary-7", "smtp_credentials": "canary-8"
        }],
        "hold_down": "1m"
    }"#;

    #[test]
    fn no_secret_is_shown_and_none_is_lost_between_two_runs() {
        let document: Document = serde_json::from_str(GIVEN).unwrap();
        let shown = format!("{document:?}{}", serde_json::to_string(&document).unwrap());
        assert!(!shown.contains("canary"), "{shown}");
        assert!(shown.contains("night"), "{shown}");

        let stored = serde_json::to_string(&document.clone().into_stored()).unwrap();
        let again = Document::from_stored(serde_json::from_str(&stored).unwrap()).unwrap();
        assert_eq!(again, document);
        assert_eq!(stored.matches("canary").count(), 8);
    }

    #[test]
    fn what_is_shown_can_be_given_back() {
        let document: Document = serde_json::from_str(GIVEN).unwrap();
        let shown = serde_json::to_string(&document).unwrap();
        let mut again: Document = serde_json::from_str(&shown).unwrap();
        assert!(again.secrets_mut().iter().all(|(_, secret)| secret.is_hidden()));
        assert_eq!(again.hold_down.duration(), Duration::from_secs(60));
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        for (json, named) in [
            (r#"{"endpoint": []}"#, "endpoint"),
            (r#"{"endpoints": [{"name": "a", "ulr": ""}]}"#, "ulr"),
            (r#"{"endpoints": [{"name": "a", "down": {"bdy": ""}}]}"#, "bdy"),
            (r#"{"endpoints": [{"name": "a", "also": ["dwn"]}]}"#, "dwn"),
        ] {
            let error = serde_json::from_str::<Document>(json).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn hold_down_has_a_unit_or_is_in_seconds_and_lasts_a_day_at_most() {
        let read = |json: &str| serde_json::from_str::<HoldDown>(json).map(HoldDown::duration);
        assert_eq!(read("\"90s\"").unwrap(), Duration::from_secs(90));
        assert_eq!(read("0.5").unwrap(), Duration::from_millis(500));
        for wrong in ["\"25h\"", "-1", "\"soon\"", "{}"] {
            assert!(read(wrong).unwrap_err().to_string().contains("hold_down"), "{wrong}");
        }
    }
}
