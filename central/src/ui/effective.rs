//! What stands on `/settings` for administrators: every setting in force, and how central's store and certificates
//! are.

use serde::Deserialize;
use time::OffsetDateTime;

use super::{
    client::Refused,
    visitor::Visitor,
    words::{Badge, Moment, Tone, bytes, validity},
};
use crate::admin::Role::Administrator;

/// `GET /settings`
#[derive(Deserialize)]
struct Answer {
    settings: Vec<Setting>,
    health: Health,
}

/// One setting: shown as it comes.
#[derive(Deserialize)]
pub(super) struct Setting {
    pub(super) name: String,
    pub(super) value: String,
    pub(super) default: String,
    source: String,
    pub(super) about: String,
}

impl Setting {
    pub(super) fn from(&self) -> Badge {
        match self.source.as_str() {
            "file" => Badge::new(Tone::Good, "file"),
            "command_line" => Badge::new(Tone::Good, "command line"),
            _ => Badge::new(Tone::Calm, "default"),
        }
    }
}

#[derive(Deserialize)]
struct Health {
    #[serde(with = "time::serde::rfc3339")]
    started_at: OffsetDateTime,
    storage: Storage,
    certificates: Vec<Certificate>,
}

#[derive(Deserialize)]
struct Storage {
    kind: String,
    path: String,
    bytes: Option<u64>,
    read_ms: Option<u64>,
    problem: Option<String>,
}

#[derive(Deserialize)]
struct Certificate {
    purpose: String,
    #[serde(with = "time::serde::rfc3339")]
    expires_at: OffsetDateTime,
}

/// What the page shows of it.
pub(super) struct Effective {
    pub(super) settings: Vec<Setting>,
    pub(super) started: Moment,
    pub(super) store: Badge,
    pub(super) store_words: String,
    pub(super) store_path: String,
    pub(super) certificates: Vec<CertificateShown>,
}

pub(super) struct CertificateShown {
    pub(super) purpose: String,
    pub(super) state: Badge,
    pub(super) expires: Moment,
}

/// The server's certificate lives for months and is renewed at two thirds of that.
const SOON: time::Duration = time::Duration::days(14);

/// All of it; nothing for a reader who may not see it.
pub(super) async fn look(visitor: &Visitor, now: OffsetDateTime) -> Result<Option<Effective>, Refused> {
    if !visitor.lacks(Administrator).is_empty() {
        return Ok(None);
    }
    let Answer { settings, health } = visitor.api.get("/settings").await?;
    let Health { started_at, storage, certificates } = health;
    let (store, store_words) = match storage.problem {
        Some(why) => (Badge::new(Tone::Bad, "does not answer"), why),
        None => {
            let size = storage.bytes.map_or_else(String::new, |count| format!(", {} on disk", bytes(count)));
            let read = storage.read_ms.map_or_else(String::new, |ms| format!(", a read took {ms} ms"));
            (Badge::new(Tone::Good, "answers"), format!("{}{size}{read}", storage.kind))
        }
    };
    Ok(Some(Effective {
        settings,
        started: Moment::new(started_at, now),
        store,
        store_words,
        store_path: storage.path,
        certificates: certificates.into_iter().map(|one| certificate(one, now)).collect(),
    }))
}

fn certificate(one: Certificate, now: OffsetDateTime) -> CertificateShown {
    let purpose = match one.purpose.as_str() {
        "authority" => "Its certificate authority".to_owned(),
        "server" => "Its own certificate".to_owned(),
        other => other.to_owned(),
    };
    CertificateShown {
        purpose,
        state: validity(one.expires_at, now, SOON),
        expires: Moment::new(one.expires_at, now),
    }
}
