//! Central's records of agents, and which of them may become the Secure Gateway.
//!
//! Marking disturbs nothing: a marked Process Server waits, "restart required", until its process has
//! been restarted; only then may it found a group ([`group`]). Who is connected is not kept here: that
//! is the gateway room's live knowledge.

pub mod group;
pub mod records;

use std::net::IpAddr;

use proto::{AgentId, BootId, EnvironmentName, Fingerprint, Name, hello::SystemInformation};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::store::{Collection, Owner, Precondition, SharedStore, StoreError, Transaction};

/// The records, keyed by name.
pub const PROCESS_SERVERS: Collection<ProcessServer> = Collection::new("process_servers");

/// The longest text an agent may put into its record, in bytes.
const TEXT_BYTES_MAX: usize = 256;

/// Central's record of one agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProcessServer {
    pub name: Name,
    pub agent: AgentId,
    /// The key of the newest certificate.
    pub fingerprint: Fingerprint,
    /// The key before it, while its certificate is still valid: a renewal may be lost half-way.
    #[serde(default)]
    pub previous: Option<PreviousKey>,
    /// Its certificate expired while it was away, and it asks to come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returning: Option<Returning>,
    /// Whether an administrator allowed it to become the Secure Gateway.
    pub candidate: bool,
    /// The boot central had last heard of when it was marked.
    #[serde(default)]
    pub marked_at_boot: Option<BootId>,
    /// The newest boot central has heard of.
    #[serde(default)]
    pub last_boot: Option<BootId>,
    #[serde(with = "time::serde::rfc3339")]
    pub enrolled_at: OffsetDateTime,
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub last_seen: Option<OffsetDateTime>,
    /// The agent's software version, for people.
    #[serde(default)]
    pub software: String,
    #[serde(default)]
    pub system: SystemInformation,
}

/// A key that was renewed, and how long its certificate lives on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousKey {
    pub fingerprint: Fingerprint,
    #[serde(with = "time::serde::rfc3339")]
    pub valid_until: OffsetDateTime,
}

/// One that asks to come back with a certificate that has expired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Returning {
    #[serde(with = "time::serde::rfc3339")]
    pub expired_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub first_asked_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub last_asked_at: OffsetDateTime,
    /// Where it asked from last.
    #[schema(value_type = Option<String>)]
    pub from: Option<IpAddr>,
    /// An administrator lets it in until then.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub approved_until: Option<OffsetDateTime>,
}

/// How long an approval waits for its agent.
pub const APPROVED_FOR: time::Duration = time::Duration::hours(24);

impl ProcessServer {
    /// The record of a freshly enrolled agent: no candidate, never seen.
    pub fn enrolled(name: Name, agent: AgentId, fingerprint: Fingerprint, now: OffsetDateTime) -> Self {
        Self {
            name,
            agent,
            fingerprint,
            previous: None,
            returning: None,
            candidate: false,
            marked_at_boot: None,
            last_boot: None,
            enrolled_at: now,
            last_seen: None,
            software: String::new(),
            system: SystemInformation::default(),
        }
    }

    /// Whether this key may still speak for the Process Server.
    pub fn accepts(&self, fingerprint: &Fingerprint, now: OffsetDateTime) -> bool {
        self.fingerprint == *fingerprint
            || self
                .previous
                .is_some_and(|previous| previous.fingerprint == *fingerprint && now < previous.valid_until)
    }

    /// Whether the process has run in the same boot since it was marked. While a group exists nobody
    /// needs a restart, so the caller passes whether one does.
    pub fn restart_required(&self, group_exists: bool) -> bool {
        self.candidate && !group_exists && self.last_boot == self.marked_at_boot
    }
}

/// Why a record was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ProcessServerError {
    #[error("no Process Server is named {0}")]
    Unknown(Name),
    #[error(
        "{0} does not ask to come back: only an agent whose certificate has expired is approved, after it has \
         asked (start postern-agent on its host)"
    )]
    NotReturning(Name),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The Process Servers of one Environment. Cheap to clone.
#[derive(Clone)]
pub struct ProcessServers {
    store: SharedStore,
    owner: Owner,
}

impl ProcessServers {
    pub fn new(store: SharedStore, environment: &EnvironmentName) -> Self {
        Self { store, owner: environment.into() }
    }

    /// All of them, by name.
    pub async fn list(&self) -> Result<Vec<ProcessServer>, StoreError> {
        let records = PROCESS_SERVERS.all(&*self.store, &self.owner).await?;
        Ok(records.into_iter().map(|record| record.value).collect())
    }

    /// Up to `limit` of them behind `after`, by name.
    pub async fn page(&self, after: Option<&str>, limit: usize) -> Result<Vec<ProcessServer>, StoreError> {
        let records = PROCESS_SERVERS.page(&*self.store, &self.owner, after, limit).await?;
        Ok(records.into_iter().map(|record| record.value).collect())
    }

    pub async fn find(&self, name: &Name) -> Result<Option<ProcessServer>, StoreError> {
        let record = PROCESS_SERVERS.get(&*self.store, &self.owner, name.as_str()).await?;
        Ok(record.map(|record| record.value))
    }

    /// Allows it to become the Secure Gateway, or no longer. Marking twice changes nothing, so that a
    /// repeated click does not ask for another restart.
    ///
    /// The caller tells the gateway room ([`crate::gateway::Gateway::reload`]).
    pub async fn mark(&self, name: &Name, on: bool) -> Result<ProcessServer, ProcessServerError> {
        self.change(name, |server| {
            if server.candidate != on {
                server.candidate = on;
                server.marked_at_boot = if on { server.last_boot } else { None };
            }
        })
        .await
    }

    /// Lets an agent whose certificate has expired come back, once, within [`APPROVED_FOR`].
    pub async fn approve(
        &self,
        name: &Name,
        now: OffsetDateTime,
    ) -> Result<ProcessServer, ProcessServerError> {
        let unknown = || ProcessServerError::Unknown(name.clone());
        let changed = PROCESS_SERVERS.update(&*self.store, &self.owner, name.as_str(), |before| {
            let mut after = before.ok_or_else(unknown)?.clone();
            match &mut after.returning {
                Some(returning) => returning.approved_until = Some(now + APPROVED_FOR),
                None => return Err(ProcessServerError::NotReturning(name.clone())),
            }
            Ok(Some(after))
        });
        changed.await?.ok_or_else(unknown)
    }

    /// Notes what a connected agent said of itself.
    pub async fn seen(
        &self,
        name: &Name,
        boot: BootId,
        software: &str,
        system: &SystemInformation,
        now: OffsetDateTime,
    ) -> Result<ProcessServer, ProcessServerError> {
        self.change(name, |server| {
            server.last_boot = Some(boot);
            server.last_seen = Some(now);
            server.software = bounded(software);
            server.system = SystemInformation {
                os: bounded(&system.os),
                arch: bounded(&system.arch),
                hostname: bounded(&system.hostname),
                pid: system.pid,
            };
        })
        .await
    }

    /// Notes that the agent was heard until `now`, as when its connection ends.
    pub async fn last_seen(&self, name: &Name, now: OffsetDateTime) -> Result<(), ProcessServerError> {
        self.change(name, |server| server.last_seen = Some(now)).await.map(drop)
    }

    /// Forgets it. Its certificate is refused from now on; the caller closes what it still holds.
    pub async fn remove(&self, name: &Name) -> Result<(), ProcessServerError> {
        let Some(record) = PROCESS_SERVERS.get(&*self.store, &self.owner, name.as_str()).await? else {
            return Err(ProcessServerError::Unknown(name.clone()));
        };
        let delete = PROCESS_SERVERS.delete(&self.owner, &record.key, Precondition::Any);
        self.store.commit(Transaction::from(delete)).await?;
        Ok(())
    }

    async fn change(
        &self,
        name: &Name,
        change: impl Fn(&mut ProcessServer),
    ) -> Result<ProcessServer, ProcessServerError> {
        let unknown = || ProcessServerError::Unknown(name.clone());
        let changed = PROCESS_SERVERS.update(&*self.store, &self.owner, name.as_str(), |before| {
            let before = before.ok_or_else(unknown)?;
            let mut after = before.clone();
            change(&mut after);
            Ok::<_, ProcessServerError>((after != *before).then_some(after))
        });
        changed.await?.ok_or_else(unknown)
    }
}

/// An agent's word about itself, cut to what a record may hold, without control characters.
fn bounded(text: &str) -> String {
    let mut kept = String::new();
    for char in text.chars().filter(|char| !char.is_control()) {
        if kept.len() + char.len_utf8() > TEXT_BYTES_MAX {
            break;
        }
        kept.push(char);
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn marking_asks_for_a_restart_until_another_boot_is_heard() {
        let servers = servers_with("gw-a").await;
        let heard = |boot| servers.seen_in(boot);
        heard(1).await;
        assert!(servers.mark(&name("gw-a"), true).await.unwrap().restart_required(false));
        assert!(heard(1).await.restart_required(false));
        assert!(!heard(2).await.restart_required(false));
    }

    #[tokio::test]
    async fn nobody_needs_a_restart_while_a_group_exists() {
        let servers = servers_with("gw-a").await;
        servers.seen_in(1).await;
        assert!(!servers.mark(&name("gw-a"), true).await.unwrap().restart_required(true));
    }

    #[tokio::test]
    async fn marking_again_does_not_ask_for_another_restart() {
        let servers = servers_with("gw-a").await;
        servers.seen_in(1).await;
        servers.mark(&name("gw-a"), true).await.unwrap();
        servers.seen_in(2).await;
        assert!(!servers.mark(&name("gw-a"), true).await.unwrap().restart_required(false));
    }

    #[tokio::test]
    async fn unmarking_and_marking_anew_asks_again() {
        let servers = servers_with("gw-a").await;
        servers.seen_in(1).await;
        servers.mark(&name("gw-a"), true).await.unwrap();
        servers.seen_in(2).await;
        servers.mark(&name("gw-a"), false).await.unwrap();
        assert!(servers.mark(&name("gw-a"), true).await.unwrap().restart_required(false));
    }

    #[tokio::test]
    async fn one_marked_before_its_first_start_may_found_when_it_starts() {
        let servers = servers_with("gw-a").await;
        assert!(servers.mark(&name("gw-a"), true).await.unwrap().restart_required(false));
        assert!(!servers.seen_in(1).await.restart_required(false));
    }

    #[tokio::test]
    async fn the_removed_and_the_unknown_are_named_in_the_refusal() {
        let servers = servers_with("gw-a").await;
        servers.remove(&name("gw-a")).await.unwrap();
        let error = servers.mark(&name("gw-a"), true).await.unwrap_err();
        assert_eq!(error.to_string(), "no Process Server is named gw-a");
    }

    #[tokio::test]
    async fn what_an_agent_says_of_itself_is_cut_and_cleaned() {
        let servers = servers_with("gw-a").await;
        let long = format!("\u{1b}[31m{}", "ö".repeat(1000));
        let system = SystemInformation { os: long, ..SystemInformation::default() };
        let boot = BootId::from_bytes([1; 16]);
        let now = OffsetDateTime::UNIX_EPOCH;
        let server = servers.seen(&name("gw-a"), boot, "1.0\n", &system, now).await.unwrap();
        assert!(server.system.os.starts_with("[31mö") && server.system.os.len() <= 256);
        assert_eq!(server.software, "1.0");
    }

    #[test]
    fn the_key_before_a_renewal_is_accepted_until_its_certificate_ends() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let [old, new] = [Fingerprint::from_bytes([1; 32]), Fingerprint::from_bytes([2; 32])];
        let mut server = ProcessServer::enrolled(name("gw-a"), AgentId::random(), new, now);
        assert!(server.accepts(&new, now) && !server.accepts(&old, now));
        let valid_until = now + time::Duration::HOUR;
        server.previous = Some(PreviousKey { fingerprint: old, valid_until });
        assert!(server.accepts(&old, now) && !server.accepts(&old, valid_until));
    }

    impl ProcessServers {
        async fn seen_in(&self, boot: u8) -> ProcessServer {
            let boot = BootId::from_bytes([boot; 16]);
            let now = OffsetDateTime::UNIX_EPOCH;
            self.seen(&name("gw-a"), boot, "1.0", &SystemInformation::default(), now).await.unwrap()
        }
    }

    async fn servers_with(text: &str) -> ProcessServers {
        let servers = ProcessServers::new(Arc::new(MemoryStore::default()), &name("default"));
        let fingerprint = Fingerprint::from_bytes([7; 32]);
        let record =
            ProcessServer::enrolled(name(text), AgentId::random(), fingerprint, OffsetDateTime::UNIX_EPOCH);
        let put = PROCESS_SERVERS.put(&servers.owner, text, Precondition::Absent, &record).unwrap();
        servers.store.commit(put.into()).await.unwrap();
        servers
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }
}
