//! How an agent becomes known to central, stays known, and is recognised.
//!
//! ```text
//!   one-time token + CSR ──redeem──► Process Server + certificate, 24 h ──renew──► the next certificate
//!                          one transaction                   │
//!   TLS handshake ──► AgentIdentity ──admit──► the record, if this key still counts
//! ```
//!
//! An agent whose certificate expired while it was away asks to come back, and waits for an administrator's
//! word ([`returning`]).
//!
//! An agent whose data was wiped enrols anew with a token *made for its name*: the Process Server keeps its
//! record (and its mark as candidate) but gets a new agent id and key, and the old certificate is dead at
//! once. A token for no name in particular never replaces anybody.

pub mod ca;
mod identity;
pub mod returning;
pub mod secret_file;
pub mod token;

use std::{sync::Arc, time::Duration};

use proto::{
    AgentId, EnvironmentName, Name,
    hello::{CLOCK_SKEW_MAX, EnrollRequest, Enrolled, Refusal, RefusalCode},
};
use time::OffsetDateTime;
use tracing::info;

pub use ca::Ca;
pub use identity::{AgentIdentity, IdentityError, Validity};
pub use token::{OneTimeToken, TokenError, TokenText};

use crate::{
    events::{Events, NewEvent, Severity},
    process_server::{PROCESS_SERVERS, PreviousKey, ProcessServer},
    store::{Owner, Precondition, SharedStore, StoreError, Transaction, Versioned},
};
use ca::{AgentCertificate, CsrError};
use token::{TOKENS, Used};

/// Whoever loses a compare-and-set looks again; a used token or taken name then answers at once.
const ATTEMPTS_MAX: usize = 16;

/// Why a token was not exchanged for a certificate. A refusal never uses the token up.
#[derive(Debug, thiserror::Error)]
pub enum RedeemError {
    #[error("this enrolment token is not known here: it was never made by this central, or long ago")]
    UnknownToken,
    #[error("this enrolment token expired at {0}: make a new one (posternctl enrollment create)")]
    Expired(String),
    #[error(
        "this enrolment token was used already, by {by} at {at}: make a new one; if {by} is not yours, \
         remove that Process Server"
    )]
    UsedAlready { by: Name, at: String },
    #[error("this enrolment token was made for the name {meant}, not for {given}: enrol with --name {meant}")]
    WrongName { meant: Name, given: Name },
    #[error(
        "a Process Server named {0} exists already: choose another --name or, to replace it, make a token \
         for that name (posternctl enrollment create --name {0})"
    )]
    NameTaken(Name),
    #[error("this host's clock is {0} central's: set it right (NTP) and try again")]
    Clock(String),
    #[error("the certificate request is refused")]
    Csr(#[from] CsrError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a certificate no longer counts, or was not renewed.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    #[error("no Process Server named {0} is known any more: it was removed; enrol again")]
    Removed(Name),
    #[error("the Process Server {0} was enrolled anew since, or its certificate was revoked; enrol again")]
    Replaced(Name),
    #[error("the certificate request is refused")]
    Csr(#[from] CsrError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RedeemError {
    /// What the agent is told.
    pub fn refusal(&self) -> Refusal {
        let code = match self {
            Self::UnknownToken
            | Self::Expired(_)
            | Self::UsedAlready { .. }
            | Self::WrongName { .. }
            | Self::NameTaken(_) => RefusalCode::Unknown,
            Self::Clock(_) => RefusalCode::Clock,
            Self::Csr(_) => RefusalCode::Malformed,
            Self::Store(_) => RefusalCode::Internal,
        };
        Refusal { code, message: told(self, code) }
    }
}

impl AdmitError {
    /// What the agent is told.
    pub fn refusal(&self) -> Refusal {
        let code = match self {
            Self::Removed(_) | Self::Replaced(_) => RefusalCode::Unknown,
            Self::Csr(_) => RefusalCode::Malformed,
            Self::Store(_) => RefusalCode::Internal,
        };
        Refusal { code, message: told(self, code) }
    }
}

/// The whole chain of an error, except what is central's own affair.
fn told(error: &(dyn std::error::Error + 'static), code: RefusalCode) -> String {
    if code == RefusalCode::Internal {
        return "central could not read or write its store; its log says why".into();
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

/// Enrolment for all Environments. Cheap to clone.
#[derive(Clone)]
pub struct Enrolment {
    store: SharedStore,
    ca: Arc<Ca>,
}

impl Enrolment {
    pub fn new(store: SharedStore, ca: Arc<Ca>) -> Self {
        Self { store, ca }
    }

    /// The same, its changes by way of `store`.
    #[must_use]
    pub fn through(&self, store: SharedStore) -> Self {
        Self { store, ..self.clone() }
    }

    pub fn ca(&self) -> &Arc<Ca> {
        &self.ca
    }

    /// Makes a one-time token, for one name or for any that is free. `ttl` is at most [`token::TTL_MAX`].
    pub async fn create_token(
        &self,
        environment: &EnvironmentName,
        name: Option<Name>,
        ttl: Duration,
        now: OffsetDateTime,
    ) -> Result<(TokenText, OneTimeToken), TokenError> {
        token::create(&self.store, environment, name, ttl, now).await
    }

    /// The Environment's one-time tokens of the last day, oldest first; never their secrets.
    pub async fn tokens(&self, environment: &EnvironmentName) -> Result<Vec<OneTimeToken>, StoreError> {
        token::list(&self.store, environment).await
    }

    /// Exchanges a token for a certificate. The token's end and the Process Server's beginning are one
    /// transaction: of any number who come with one token, one gets in.
    ///
    /// The caller tells the gateway room afterwards ([`crate::gateway::Gateway::reload`]).
    pub async fn redeem(
        &self,
        request: &EnrollRequest,
        now: OffsetDateTime,
    ) -> Result<Enrolled, RedeemError> {
        check_clock(request.unix_ms, now)?;
        let key = token::lookup_key(&request.token).ok_or(RedeemError::UnknownToken)?;
        let mut conflict = None;
        for _ in 0..ATTEMPTS_MAX {
            let token = TOKENS.get(&*self.store, &Owner::Central, &key).await?;
            let token = token.ok_or(RedeemError::UnknownToken)?;
            self.check_token(&token.value, &request.name, now).await?;
            let owner = Owner::from(&token.value.environment);
            let before = PROCESS_SERVERS.get(&*self.store, &owner, request.name.as_str()).await?;
            // Whoever made the token for this name meant to replace what bears it.
            if before.is_some() && token.value.name.is_none() {
                return Err(RedeemError::NameTaken(request.name.clone()));
            }
            let agent = AgentId::random();
            let made = self.ca.certify_agent(
                &request.csr_pem,
                &token.value.environment,
                agent,
                &request.name,
                now,
            )?;
            let server = ProcessServer {
                candidate: before.as_ref().is_some_and(|before| before.value.candidate),
                ..ProcessServer::enrolled(request.name.clone(), agent, made.fingerprint, now)
            };
            let used = OneTimeToken {
                used: Some(Used { by: request.name.clone(), at: now }),
                ..token.value.clone()
            };
            let unchanged = before.as_ref().map_or(Precondition::Absent, Versioned::unchanged);
            let transaction = Transaction::new()
                .with(TOKENS.put(&Owner::Central, &key, token.unchanged(), &used)?)
                .with(PROCESS_SERVERS.put(&owner, request.name.as_str(), unchanged, &server)?);
            match self.store.commit(transaction).await {
                Ok(_) => {
                    let anew = before.is_some();
                    info!(environment = %used.environment, name = %server.name, %agent, anew, token = used.id, "Enrolled an agent");
                    self.tell_enrolled(&used, anew, now).await?;
                    return Ok(self.enrolled(&used.environment, server.name, agent, made));
                }
                Err(StoreError::Conflict(key)) => conflict = Some(key),
                Err(error) => return Err(error.into()),
            }
        }
        let key = conflict.unwrap_or_else(|| TOKENS.key(&Owner::Central, &key));
        Err(StoreError::Conflict(key).into())
    }

    /// The record of the agent with this certificate, if its key still counts. To be asked before anything is
    /// believed that comes over a connection with it.
    pub async fn admit(
        &self,
        identity: &AgentIdentity,
        now: OffsetDateTime,
    ) -> Result<ProcessServer, AdmitError> {
        Ok(self.record(identity, now).await?.value)
    }

    /// A younger certificate for a known agent, for the key in `csr_pem`. The key it came with counts beside
    /// the new one while its certificate lives, since the answer may be lost on the way.
    pub async fn renew(
        &self,
        identity: &AgentIdentity,
        csr_pem: &str,
        now: OffsetDateTime,
    ) -> Result<Enrolled, AdmitError> {
        let owner = Owner::from(&identity.environment);
        let mut conflict = None;
        for _ in 0..ATTEMPTS_MAX {
            let before = self.record(identity, now).await?;
            let made =
                self.ca.certify_agent(csr_pem, &identity.environment, identity.agent, &identity.name, now)?;
            let mut server = before.value.clone();
            server.returning = None;
            server.fingerprint = made.fingerprint;
            // The newest certificate for the presented key ends no later than this.
            let valid_until = now + ca::AGENT_LIFE;
            let fingerprint = identity.fingerprint;
            server.previous = match before.value.previous {
                _ if made.fingerprint == fingerprint => None,
                Some(previous) if previous.fingerprint == fingerprint => Some(previous),
                _ => Some(PreviousKey { fingerprint, valid_until }),
            };
            let put = PROCESS_SERVERS.put(&owner, &before.key, before.unchanged(), &server)?;
            match self.store.commit(put.into()).await {
                Ok(_) => {
                    return Ok(self.enrolled(&identity.environment, server.name, server.agent, made));
                }
                Err(StoreError::Conflict(key)) => conflict = Some(key),
                Err(error) => return Err(error.into()),
            }
        }
        let key = conflict.unwrap_or_else(|| PROCESS_SERVERS.key(&owner, identity.name.as_str()));
        Err(StoreError::Conflict(key).into())
    }

    /// The record of whoever holds this key, if it still counts.
    async fn record(
        &self,
        identity: &AgentIdentity,
        now: OffsetDateTime,
    ) -> Result<Versioned<ProcessServer>, AdmitError> {
        let owner = Owner::from(&identity.environment);
        let record = PROCESS_SERVERS.get(&*self.store, &owner, identity.name.as_str()).await?;
        let record = record.ok_or_else(|| AdmitError::Removed(identity.name.clone()))?;
        if record.value.agent != identity.agent || !record.value.accepts(&identity.fingerprint, now) {
            return Err(AdmitError::Replaced(identity.name.clone()));
        }
        Ok(record)
    }

    async fn check_token(
        &self,
        token: &OneTimeToken,
        name: &Name,
        now: OffsetDateTime,
    ) -> Result<(), RedeemError> {
        if let Some(Used { by, at }) = &token.used {
            self.tell_reused(token, name, now).await?;
            return Err(RedeemError::UsedAlready { by: by.clone(), at: rfc3339(*at) });
        }
        if token.expires_at <= now {
            return Err(RedeemError::Expired(rfc3339(token.expires_at)));
        }
        match &token.name {
            Some(meant) if meant != name => {
                Err(RedeemError::WrongName { meant: meant.clone(), given: name.clone() })
            }
            Some(_) | None => Ok(()),
        }
    }

    async fn tell_enrolled(
        &self,
        token: &OneTimeToken,
        anew: bool,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let name = token.used.as_ref().map(|used| used.by.to_string()).unwrap_or_default();
        let how = if anew { "was enrolled anew; its old certificate is refused" } else { "was enrolled" };
        let text = format!("Process Server {name} {how} (token {})", token.id);
        self.tell(token, "process_server_enrolled", Severity::Info, text, now).await
    }

    /// The second to come may be the rightful one: somebody should look.
    async fn tell_reused(
        &self,
        token: &OneTimeToken,
        name: &Name,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let by = token.used.as_ref().map(|used| used.by.to_string()).unwrap_or_default();
        let text = format!(
            "the enrolment token {} that {by} had used came again, for the name {name}: if {by} is not yours, remove it",
            token.id
        );
        self.tell(token, "enrollment_token_reused", Severity::Warning, text, now).await
    }

    async fn tell(
        &self,
        token: &OneTimeToken,
        code: &'static str,
        severity: Severity,
        text: String,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let events = Events::new(self.store.clone(), &token.environment);
        events.append(NewEvent { code, severity, text, sender: "enrolment".into() }, now).await.map(drop)
    }

    fn enrolled(
        &self,
        environment: &EnvironmentName,
        name: Name,
        agent: AgentId,
        made: AgentCertificate,
    ) -> Enrolled {
        Enrolled {
            certificate_pem: made.pem,
            ca_pem: self.ca.trusted_pem(),
            environment: environment.clone(),
            name,
            agent,
        }
    }
}

/// Certificates live for hours: with a clock that far off the agent would not even believe its own.
fn check_clock(unix_ms: u64, now: OffsetDateTime) -> Result<(), RedeemError> {
    let now_ms = u64::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
    let off = Duration::from_millis(unix_ms.abs_diff(now_ms));
    if off <= CLOCK_SKEW_MAX {
        return Ok(());
    }
    let off = humantime::format_duration(Duration::from_secs(off.as_secs()));
    let side = if unix_ms > now_ms { "ahead of" } else { "behind" };
    Err(RedeemError::Clock(format!("{off} {side}")))
}

fn rfc3339(at: OffsetDateTime) -> String {
    at.format(&time::format_description::well_known::Rfc3339).unwrap_or_else(|_| at.to_string())
}

#[cfg(test)]
mod tests;
