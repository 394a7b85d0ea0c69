//! Checks what people wrote about alerts, and keeps it checked.
//!
//! Everything that can be found out without calling anyone is found out when it is saved: names, bounds, addresses,
//! keys and certificates, and every template, rendered against a sample of each kind of alert. What passes can be
//! rendered again whenever an alert comes.

use std::{collections::BTreeSet, fmt, time::Duration};

use serde::Serialize;

use crate::{
    address::AddressRules,
    config::{Document, Stored},
    endpoint::Endpoint,
    outbox::Recipient,
};

mod check;
#[cfg(test)]
mod tests;

pub(crate) use check::is_user_and_password;
use check::{Check, NAME_MAX_BYTES};

/// The checked configuration of alerts. Its `document` can be shown to anybody: secrets are hidden in it.
#[derive(Debug, Clone, Default)]
pub struct Alerts {
    document: Document,
    endpoints: Vec<Endpoint>,
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The endpoint's name, or its number where it has none that can be used.
    pub endpoint: Option<String>,
    /// `url`, `down.body`, `headers.X-Team` …
    pub field: String,
    /// What is wrong and what would be right, in a sentence.
    pub why: String,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

/// The most receivers one can set.
pub const ENDPOINTS_MAX: usize = 16;

impl Alerts {
    /// Checks `document`. Where it says `***`, the secret of `before` stays, if the endpoint of that name still calls
    /// the same places: otherwise whoever may edit alerts could have a secret sent to himself.
    ///
    /// # Errors
    /// Everything that is wrong, each with its endpoint and field.
    pub fn check(mut document: Document, before: &Self, rules: &AddressRules) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        if document.endpoints.len() > ENDPOINTS_MAX {
            problems.push(Problem {
                endpoint: None,
                field: "endpoints".into(),
                why: format!("there are {}; {ENDPOINTS_MAX} at most", document.endpoints.len()),
            });
            return Err(Problems(problems));
        }
        let mut names = BTreeSet::new();
        let mut endpoints = Vec::new();
        for (index, given) in document.endpoints.iter_mut().enumerate() {
            let mut check = Check { endpoint: shown_name(&given.name, index), problems: &mut problems };
            let switched_off = before.endpoint(&given.name).filter(|_| !given.enabled);
            given.disabled_because = switched_off.and_then(|before| before.document.disabled_because.clone());
            check.name(&given.name, names.insert(given.name.clone()));
            check.bounds(given);
            if check.is_clean() {
                check.keep_secrets(given, before);
            }
            if check.is_clean()
                && let Some(endpoint) = check.build(given)
            {
                check.tls(given);
                check.addresses(&endpoint, rules);
                check.samples(&endpoint);
                endpoints.push(endpoint);
            }
        }
        if problems.is_empty() { Ok(Self { document, endpoints }) } else { Err(Problems(problems)) }
    }

    /// What [`stored`](Self::stored) gave. Addresses, certificates and templates are not tried again, because each
    /// attempt tries its own: an operator's stricter file must not silence every endpoint, and reading this is cheap.
    ///
    /// # Errors
    /// When it was damaged, or a newer program wrote it.
    pub fn from_stored(stored: Stored) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let Some(document) = Document::from_stored(stored) else {
            let why = "a secret is missing from what was stored: save the endpoints again".to_owned();
            return Err(Problems(vec![Problem { endpoint: None, field: "secrets".into(), why }]));
        };
        let endpoints = document
            .endpoints
            .iter()
            .filter_map(|given| Check { endpoint: given.name.clone(), problems: &mut problems }.build(given))
            .collect();
        if problems.is_empty() { Ok(Self { document, endpoints }) } else { Err(Problems(problems)) }
    }

    /// What the store keeps. Its secrets are in clear.
    pub fn stored(&self) -> Stored {
        self.document.clone().into_stored()
    }

    /// What is shown, secrets hidden.
    pub fn document(&self) -> &Document {
        &self.document
    }

    pub fn hold_down(&self) -> Duration {
        self.document.hold_down.duration()
    }

    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    pub fn endpoint(&self, name: &str) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.name() == name)
    }

    /// Those that are told, for [`plan`](crate::outbox::plan). None: then nobody is told of an outage at all.
    pub fn recipients(&self) -> impl Iterator<Item = Recipient<'_>> {
        self.endpoints.iter().filter(|endpoint| endpoint.is_enabled()).map(Endpoint::recipient)
    }

    /// The same with one endpoint switched off, because its receiver said so.
    #[must_use]
    pub fn disable(&self, endpoint: &str, why: &str) -> Self {
        let mut next = self.clone();
        let documents = next.document.endpoints.iter_mut();
        for document in documents.chain(next.endpoints.iter_mut().map(|endpoint| &mut endpoint.document)) {
            if document.name == endpoint {
                document.enabled = false;
                document.disabled_because = Some(why.to_owned());
            }
        }
        next
    }
}

fn shown_name(name: &str, index: usize) -> String {
    let fits = !name.is_empty() && name.len() <= NAME_MAX_BYTES && !name.chars().any(char::is_control);
    if fits { name.to_owned() } else { format!("number {}", index + 1) }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(endpoint) = &self.endpoint {
            write!(f, "endpoint {endpoint}: ")?;
        }
        write!(f, "{}: {}", self.field, self.why)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            let between = if i == 0 { "" } else { "; " };
            write!(f, "{between}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
