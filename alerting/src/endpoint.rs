//! One receiver, checked: its own settings laid over its preset's.

use std::collections::{BTreeMap, BTreeSet};

use http::{HeaderMap, HeaderName, Method, header};
use time::OffsetDateTime;

use crate::{
    alert::{Alert, Kind},
    config::{Body, EndpointDocument, HeaderText, MessageDocument},
    incident::IncidentId,
    mail,
    outbox::{DeliveryId, Recipient},
    presets::{Preset, Settings},
    request::{self, Purpose, RenderError},
    secret::Secret,
    sign::SigningKey,
};

/// A receiver of alerts. Made by [`Alerts::check`](crate::Alerts::check) only.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub(crate) document: EndpointDocument,
    pub(crate) keys: Vec<SigningKey>,
    pub(crate) also: BTreeSet<Kind>,
    /// Present when it is a mailbox and not a webhook.
    pub(crate) mailbox: Option<mail::Mailbox>,
}

/// What is sent for one kind of alert: templates, all of them.
pub(crate) struct Message {
    pub(crate) url: String,
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap<HeaderText>,
    pub(crate) body: Option<Body>,
    pub(crate) subject: Option<String>,
}

impl Endpoint {
    pub fn name(&self) -> &str {
        &self.document.name
    }

    pub fn is_enabled(&self) -> bool {
        self.document.enabled
    }

    /// For [`plan`](crate::outbox::plan).
    pub fn recipient(&self) -> Recipient<'_> {
        Recipient { endpoint: self.name(), also: &self.also }
    }

    /// What a test of `kind` would send at `now`, secrets hidden.
    ///
    /// # Errors
    /// When a template that passed its check meets values that it cannot do with.
    pub fn preview(&self, kind: Kind, environment: &str, now: OffsetDateTime) -> Result<String, RenderError> {
        let alert = Alert::sample(kind, IncidentId::new("preview"), environment, now);
        let id = DeliveryId::of(&alert.incident.id, kind, self.name());
        self.shown(&alert, &id, now)
    }

    /// What an attempt sends, secrets hidden.
    pub(crate) fn shown(
        &self,
        alert: &Alert,
        id: &DeliveryId,
        now: OffsetDateTime,
    ) -> Result<String, RenderError> {
        match &self.mailbox {
            None => {
                request::webhook(self, alert, id, now, Purpose::Show).map(|webhook| request::shown(&webhook))
            }
            Some(mailbox) => {
                let scope = request::scope(self, alert, id, now, Purpose::Show);
                let letter = request::letter(self, alert, &scope)?;
                let (from, to) = (&mailbox.from, mailbox.to.join(", "));
                Ok(format!("From: {from}\nTo: {to}\nSubject: {}\n\n{}", letter.subject, letter.text))
            }
        }
    }

    pub(crate) fn secrets(&self) -> &BTreeMap<String, Secret> {
        &self.document.secrets
    }

    /// Every secret of it, to hide where a receiver repeats one.
    pub(crate) fn all_secrets(&self) -> Vec<Secret> {
        let mut document = self.document.clone();
        document.secrets_mut().into_iter().map(|(_, secret)| secret.clone()).collect()
    }

    pub(crate) fn keys(&self) -> &[SigningKey] {
        &self.keys
    }

    pub(crate) fn message(&self, kind: Kind) -> Message {
        message(&self.document, kind)
    }
}

/// What `document` and its preset say about `kind`. Names that are no header names are left out; the check refused them.
pub(crate) fn message(document: &EndpointDocument, kind: Kind) -> Message {
    let preset: Settings = preset_of(document).settings();
    let (own, preset_message) = match kind {
        Kind::Down => (&document.down, Some(&preset.down)),
        Kind::Up => (&document.up, preset.up.as_ref().or(Some(&preset.down))),
        _ => (&document.other, preset.other.as_ref().or(Some(&preset.down))),
    };
    let nothing = MessageDocument::default();
    let own = own.as_ref().unwrap_or(&nothing);
    let base = document.url.as_deref().or(preset.url.as_deref()).unwrap_or_default();
    let append = preset_message.and_then(|message| message.append_to_url.as_deref()).unwrap_or_default();
    let method = own.method.as_deref().or(document.method.as_deref());
    let mut message = Message {
        url: own.url.clone().unwrap_or_else(|| format!("{base}{append}")),
        method: method.and_then(|name| name.parse().ok()).unwrap_or(Method::POST),
        headers: HeaderMap::default(),
        body: own.body.clone(),
        subject: own.subject.clone().or_else(|| preset_message.and_then(|m| m.message.subject.clone())),
    };
    // What reads nothing is given nothing, unless somebody wrote it.
    if message.body.is_none() && ![Method::GET, Method::DELETE].contains(&message.method) {
        message.body = preset_message.and_then(|m| m.message.body.clone());
        message.add_headers(&preset.headers);
    } else {
        message.add_headers_but_type(&preset.headers);
    }
    message.add_headers(&document.headers);
    message.add_headers(&own.headers);
    message
}

fn preset_of(document: &EndpointDocument) -> Preset {
    let mail = document.url.as_deref().is_some_and(is_mail);
    document.preset.unwrap_or(if mail { Preset::Mail } else { Preset::Json })
}

/// Whether an address is a mail server's.
pub(crate) fn is_mail(url: &str) -> bool {
    let url = url.trim_start().to_ascii_lowercase();
    url.starts_with("smtp:") || url.starts_with("smtps:")
}

impl Message {
    /// Whether what is sent must be JSON.
    pub(crate) fn body_is_json(&self) -> bool {
        let given = self.headers.get(&header::CONTENT_TYPE).map(|text| text.template().to_ascii_lowercase());
        let kind = match (&given, &self.body) {
            (Some(given), _) => given.as_str(),
            (None, Some(body)) => request::content_type(body),
            (None, None) => return false,
        };
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind == "application/json" || kind.ends_with("+json")
    }

    fn add_headers(&mut self, headers: &crate::config::Headers) {
        for (name, text) in headers.iter() {
            if let Ok(name) = name.parse::<HeaderName>() {
                self.headers.insert(name, text.clone());
            }
        }
    }

    /// A preset's content type belongs to the preset's body.
    fn add_headers_but_type(&mut self, headers: &crate::config::Headers) {
        self.add_headers(headers);
        self.headers.remove(&header::CONTENT_TYPE);
    }
}
