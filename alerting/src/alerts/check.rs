//! One endpoint under examination: bounds first, then secrets, then everything that can be tried without a call.

use std::{collections::BTreeSet, fmt};

use time::OffsetDateTime;

use super::{Alerts, Problem};
use crate::{
    address::{AddressRules, read_url},
    alert::{Alert, Kind},
    config::{EndpointDocument, Headers, MessageDocument},
    endpoint::{self, Endpoint},
    incident::IncidentId,
    mail::Mailbox,
    outbox::DeliveryId,
    presets::Preset,
    request::{self, Purpose},
    secret::Secret,
    sign::SigningKey,
    template, tls, webhook,
};

pub(super) const NAME_MAX_BYTES: usize = 64;
const URL_MAX_BYTES: usize = 2048;
const HEADERS_MAX: usize = 32;
const HEADER_MAX_BYTES: usize = 4096;
const SECRETS_MAX: usize = 16;
const SECRET_MAX_BYTES: usize = 4096;
const PEM_MAX_BYTES: usize = 64 * 1024;

/// One endpoint under examination.
pub(super) struct Check<'a> {
    pub(super) endpoint: String,
    pub(super) problems: &'a mut Vec<Problem>,
}

impl Check<'_> {
    fn says(&mut self, field: impl Into<String>, why: impl fmt::Display) {
        let (endpoint, field) = (Some(self.endpoint.clone()), field.into());
        self.problems.push(Problem { endpoint, field, why: why.to_string() });
    }

    pub(super) fn is_clean(&self) -> bool {
        !self.problems.iter().any(|problem| problem.endpoint.as_ref() == Some(&self.endpoint))
    }

    pub(super) fn name(&mut self, name: &str, first: bool) {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ' ');
        if name.trim().is_empty() || name.len() > NAME_MAX_BYTES || !name.chars().all(fits) {
            self.says("name", "a name has 1 to 64 letters, digits, spaces, dots, dashes or underscores");
        } else if !first {
            self.says("name", "another endpoint has this name");
        }
    }

    pub(super) fn bounds(&mut self, given: &EndpointDocument) {
        let messages = [("down.", &given.down), ("up.", &given.up), ("other.", &given.other)];
        let messages = messages.into_iter().filter_map(|(at, message)| Some((at, message.as_ref()?)));
        self.url_bound("url", given.url.as_deref());
        self.method("method", given.method.as_deref());
        self.headers("", &given.headers);
        for (at, message) in messages {
            self.url_bound(&format!("{at}url"), message.url.as_deref());
            self.method(&format!("{at}method"), message.method.as_deref());
            self.headers(at, &message.headers);
            let body_bytes =
                message.body.as_ref().and_then(|body| serde_json::to_vec(body).ok()).map_or(0, |b| b.len());
            if body_bytes > template::SOURCE_MAX_BYTES {
                self.says(format!("{at}body"), format!("longer than {} bytes", template::SOURCE_MAX_BYTES));
            }
            if message.subject.as_ref().is_some_and(|subject| subject.len() > URL_MAX_BYTES) {
                self.says(format!("{at}subject"), format!("longer than {URL_MAX_BYTES} bytes"));
            }
        }
        if given.secret.len() > 2 {
            self.says("secret", "two keys at most: the new one, and the old one while it is changed");
        }
        if given.secrets.len() > SECRETS_MAX {
            self.says("secrets", format!("there are {}; {SECRETS_MAX} at most", given.secrets.len()));
        }
        for (name, secret) in &given.secrets {
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            if name.is_empty() || name.len() > NAME_MAX_BYTES || !name.chars().all(fits) {
                self.says("secrets", "a secret's name has 1 to 64 letters, digits, dashes or underscores");
            } else if secret.reveal().is_empty() || secret.reveal().len() > SECRET_MAX_BYTES {
                self.says(format!("secrets.{name}"), format!("a secret has 1 to {SECRET_MAX_BYTES} bytes"));
            }
        }
        let keys = [("client_key", &given.client_key), ("proxy_credentials", &given.proxy_credentials)];
        let keys = keys.into_iter().filter_map(|(at, key)| Some((at, key.as_ref()?.reveal())));
        let pem = [("ca", &given.ca), ("client_certificate", &given.client_certificate)];
        let pem = pem.into_iter().filter_map(|(at, text)| Some((at, text.as_deref()?)));
        for (at, text) in pem.chain(keys) {
            if text.len() > PEM_MAX_BYTES {
                self.says(at, format!("longer than {PEM_MAX_BYTES} bytes"));
            }
        }
    }

    fn url_bound(&mut self, field: &str, url: Option<&str>) {
        if url.is_some_and(|url| url.len() > URL_MAX_BYTES) {
            self.says(field, format!("longer than {URL_MAX_BYTES} bytes"));
        }
    }

    fn method(&mut self, field: &str, method: Option<&str>) {
        if method.is_some_and(|name| !["POST", "PUT", "PATCH", "GET", "DELETE"].contains(&name)) {
            self.says(field, "use POST, PUT, PATCH, GET or DELETE");
        }
    }

    fn headers(&mut self, at: &str, headers: &Headers) {
        if headers.iter().count() > HEADERS_MAX {
            self.says(format!("{at}headers"), format!("{HEADERS_MAX} headers at most"));
        }
        let mut seen = BTreeSet::new();
        for (name, text) in headers.iter() {
            let field = format!("{at}headers.{}", name.chars().take(NAME_MAX_BYTES).collect::<String>());
            let lower = name.to_ascii_lowercase();
            if name.len() > NAME_MAX_BYTES || name.parse::<http::HeaderName>().is_err() {
                self.says(field, "this is no header name");
            } else if webhook::is_ours(&lower) {
                self.says(field, "this header is set by the connection itself, or signs it");
            } else if text.template().len() > HEADER_MAX_BYTES {
                self.says(field, format!("longer than {HEADER_MAX_BYTES} bytes"));
            } else if !seen.insert(lower) {
                self.says(field, "this header is given twice");
            }
        }
    }

    pub(super) fn keep_secrets(&mut self, given: &mut EndpointDocument, before: &Alerts) {
        if given.secrets_mut().iter().all(|(_, secret)| !secret.is_hidden()) {
            return;
        }
        let mut earlier = before.endpoint(&given.name).map(|endpoint| endpoint.document.clone());
        let same_places = earlier.as_ref().is_some_and(|earlier| places(given).is_subset(&places(earlier)));
        let known: Vec<(String, Secret)> = earlier
            .iter_mut()
            .flat_map(EndpointDocument::secrets_mut)
            .map(|(at, secret)| (at, secret.clone()))
            .collect();
        let mut hidden_keys = 0;
        for (at, secret) in given.secrets_mut().into_iter().filter(|(_, secret)| secret.is_hidden()) {
            // Of the signing keys the first that is to stay is the newest there was: "new, ***" changes the key.
            let place = if at.starts_with("secret/") { format!("secret/{hidden_keys}") } else { at.clone() };
            hidden_keys += usize::from(at.starts_with("secret/"));
            let field = at.replace('/', ".");
            match known.iter().find(|(earlier, _)| *earlier == place) {
                Some(_) if !same_places => self.says(
                    field,
                    "*** keeps a secret only while the endpoint calls the same places: give it again",
                ),
                Some((_, earlier)) => *secret = earlier.clone(),
                None => self.says(field, "*** keeps a secret, but none is stored here: give one"),
            }
        }
    }

    /// What must be right for an endpoint to exist.
    pub(super) fn build(&mut self, given: &EndpointDocument) -> Option<Endpoint> {
        let before = self.problems.len();
        let mut keys = Vec::new();
        for secret in &given.secret {
            match SigningKey::parse(secret) {
                Ok(key) => keys.push(key),
                Err(error) => self.says("secret", error),
            }
        }
        let is_mail = given.url.as_deref().is_some_and(endpoint::is_mail);
        if is_mail && given.preset.is_some_and(|preset| preset != Preset::Mail) {
            self.says("preset", "an smtp address takes the preset mail, or none");
        } else if !is_mail && given.preset == Some(Preset::Mail) {
            self.says("url", "the preset mail takes an smtp:// or smtps:// address");
        }
        let mailbox = if is_mail {
            Mailbox::read(given).map_err(|(field, why)| self.says(field, why)).ok()
        } else {
            self.webhook_only(given);
            None
        };
        let also = given.also.iter().copied().filter(|kind| !kind.is_transition()).collect();
        (self.problems.len() == before).then(|| Endpoint { document: given.clone(), keys, also, mailbox })
    }

    fn webhook_only(&mut self, given: &EndpointDocument) {
        if given.from.is_some() || !given.to.is_empty() || given.smtp_credentials.is_some() {
            self.says("from", "from, to and smtp_credentials belong to smtp:// and smtps:// addresses");
        }
        if let Some(Err(error)) = given.proxy.as_ref().map(|proxy| read_url(proxy, &["http"])) {
            self.says("proxy", error);
        }
        if let Some(credentials) = &given.proxy_credentials
            && (given.proxy.is_none() || !is_user_and_password(credentials))
        {
            self.says("proxy_credentials", "write user:password, and the proxy it is for");
        }
        if given.url.is_none() && endpoint::message(given, Kind::Down).url.is_empty() {
            self.says("url", "give the receiver's address");
        }
    }

    /// Whether its certificates and keys are some.
    pub(super) fn tls(&mut self, given: &EndpointDocument) {
        let own = given.ca.is_some() || given.client_certificate.is_some() || given.client_key.is_some();
        if own && let Err(error) = tls::client(given) {
            self.says(error.field(), error);
        }
    }

    /// What can be said of addresses without asking for names. Each attempt judges again, and then all.
    pub(super) fn addresses(&mut self, endpoint: &Endpoint, rules: &AddressRules) {
        let mut judged = BTreeSet::new();
        if let Some(mailbox) = &endpoint.mailbox {
            if let Err(error) = rules.judge_literal(&mailbox.server, mailbox.encrypts()) {
                self.says("url", error);
            }
            return;
        }
        for (kind, at) in SAMPLED {
            let url = endpoint.message(kind).url;
            if let Ok(url) = read_url(request::literal_origin(&url), &["https", "http"])
                && judged.insert(url.clone())
                && let Err(error) = rules.judge_literal(&url, url.scheme() == "https")
            {
                self.says(field(&endpoint.document, kind, at, "url"), error);
            }
        }
    }

    /// Renders every message once.
    pub(super) fn samples(&mut self, endpoint: &Endpoint) {
        let at = OffsetDateTime::now_utc();
        let mut others: BTreeSet<Kind> = endpoint.also.clone();
        if endpoint.document.other.is_some() {
            others.insert(Kind::Failover); // one that is written is tried, even if nothing asks for it yet
        }
        let messages = [(Kind::Down, "down"), (Kind::Up, "up")];
        for (kind, message) in messages.into_iter().chain(others.into_iter().map(|kind| (kind, "other"))) {
            let alert = Alert::sample(kind, IncidentId::new("sample"), "sample", at);
            let id = DeliveryId::of(&alert.incident.id, kind, endpoint.name());
            let rendered = match &endpoint.mailbox {
                None => request::webhook(endpoint, &alert, &id, at, Purpose::Send).map(drop),
                Some(_) => endpoint.shown(&alert, &id, at).map(drop),
            };
            let Err(error) = rendered else { continue };
            let why = error.why.to_string();
            // A header or an address of the whole endpoint fails in each message alike: said once is enough.
            let said =
                |problem: &Problem| problem.endpoint.as_ref() == Some(&self.endpoint) && problem.why == why;
            if !self.problems.iter().any(said) {
                self.says(field(&endpoint.document, kind, message, &error.part), why);
            }
        }
    }
}

/// Where a part of a message was written: with the message, or once for the whole endpoint.
fn field(document: &EndpointDocument, kind: Kind, message: &str, part: &str) -> String {
    let own = message_of(document, kind);
    let with_message = match part.strip_prefix("headers.") {
        Some(name) => {
            own.is_some_and(|own| own.headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name)))
        }
        None => part != "url" || own.is_some_and(|own| own.url.is_some()),
    };
    if with_message { format!("{message}.{part}") } else { part.to_owned() }
}

/// The kinds that stand for the three messages one can write.
const SAMPLED: [(Kind, &str); 3] = [(Kind::Down, "down"), (Kind::Up, "up"), (Kind::Failover, "other")];

fn message_of(document: &EndpointDocument, kind: Kind) -> Option<&MessageDocument> {
    match kind {
        Kind::Down => document.down.as_ref(),
        Kind::Up => document.up.as_ref(),
        _ => document.other.as_ref(),
    }
}

/// Everyone who gets to see a secret of it.
fn places(document: &EndpointDocument) -> BTreeSet<String> {
    let urls = SAMPLED
        .map(|(kind, _)| request::literal_origin(&endpoint::message(document, kind).url).to_lowercase());
    urls.into_iter().chain(document.proxy.iter().map(|proxy| format!("proxy {proxy}"))).collect()
}

pub(crate) fn is_user_and_password(credentials: &Secret) -> bool {
    let text = credentials.reveal();
    text.split_once(':').is_some_and(|(user, _)| !user.is_empty()) && !text.chars().any(char::is_control)
}
