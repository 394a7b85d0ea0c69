//! How an agent comes back whose certificate expired while it was away: with an administrator's word.
//!
//! ```text
//!   expired certificate + request signed with its key ──► listed as waiting ──► approved ──► a fresh one
//!                        the record must still know the key        never by itself
//! ```
//!
//! The key is the agent's from its enrolment to its end, so the request's own signature proves that the one
//! who asks is the one that was enrolled. One that was removed, or replaced by a new enrolment, is refused and
//! not listed. Whoever copied the data directory could ask, too: hence the look of a person, who sees from
//! where it was asked.

use std::net::IpAddr;

use proto::{
    EnvironmentName, Name,
    hello::{Enrolled, Refusal, RefusalCode, ReturnRequest},
};
use time::{Duration, OffsetDateTime};

use super::{ATTEMPTS_MAX, AdmitError, Enrolment, RedeemError, check_clock, rfc3339, told};
use crate::{
    events::{Events, NewEvent, Severity},
    process_server::{PROCESS_SERVERS, ProcessServer, Returning},
    store::{Owner, StoreError},
};

/// Asking is written down at most this often: it may be asked much more often.
const NOTED_EVERY: Duration = Duration::minutes(1);
/// People are told again of one that still asks after this long.
const TOLD_EVERY: Duration = Duration::hours(24);

/// Why an agent may not come back, or not yet.
#[derive(Debug, thiserror::Error)]
pub enum ReturnError {
    #[error("this is no certificate that central made for an agent")]
    NotOurs,
    #[error("this certificate is valid until {0}: renew it")]
    StillValid(String),
    #[error("the request was signed with another key than the certificate's")]
    OtherKey,
    #[error(
        "this agent's certificate expired at {expired_at}; a Cloud Administrator has to let it in again: \
         posternctl process-servers approve {name}"
    )]
    Waiting { name: Name, expired_at: String },
    #[error(transparent)]
    Clock(RedeemError),
    #[error(transparent)]
    Refused(#[from] AdmitError),
}

impl ReturnError {
    /// What the agent is told.
    pub fn refusal(&self) -> Refusal {
        let code = match self {
            Self::NotOurs => RefusalCode::Unknown,
            Self::StillValid(_) | Self::OtherKey => RefusalCode::Malformed,
            Self::Waiting { .. } => RefusalCode::Waiting,
            Self::Clock(error) => return error.refusal(),
            Self::Refused(error) => return error.refusal(),
        };
        Refusal { code, message: told(self, code) }
    }
}

impl From<StoreError> for ReturnError {
    fn from(error: StoreError) -> Self {
        Self::Refused(error.into())
    }
}

impl Enrolment {
    /// A fresh certificate for one whose own has expired, if an administrator approved; else it is listed as
    /// waiting, with `from`, the address it asks from.
    ///
    /// The caller tells the gateway room afterwards ([`crate::gateway::Gateway::reload`]).
    pub async fn come_back(
        &self,
        request: &ReturnRequest,
        from: Option<IpAddr>,
        now: OffsetDateTime,
    ) -> Result<Enrolled, ReturnError> {
        check_clock(request.unix_ms, now).map_err(ReturnError::Clock)?;
        let (identity, expired_at) =
            self.ca.read_agent(&request.certificate_pem).ok_or(ReturnError::NotOurs)?;
        if now < expired_at {
            return Err(ReturnError::StillValid(rfc3339(expired_at)));
        }
        let made = self
            .ca
            .certify_agent(&request.csr_pem, &identity.environment, identity.agent, &identity.name, now)
            .map_err(AdmitError::from)?;
        if made.fingerprint != identity.fingerprint {
            return Err(ReturnError::OtherKey);
        }
        let owner = Owner::from(&identity.environment);
        let mut conflict = None;
        for _ in 0..ATTEMPTS_MAX {
            let before = self.record(&identity, now).await?;
            let asked = before.value.returning.clone();
            let approved =
                asked.as_ref().and_then(|asked| asked.approved_until).is_some_and(|until| now < until);
            let returning = match approved {
                true => None,
                false if asked.as_ref().is_some_and(|asked| now < asked.last_asked_at + NOTED_EVERY) => {
                    return Err(waiting(&before.value, expired_at));
                }
                false => Some(Returning {
                    expired_at,
                    first_asked_at: asked.as_ref().map_or(now, |asked| asked.first_asked_at),
                    last_asked_at: now,
                    from,
                    approved_until: None,
                }),
            };
            let server = ProcessServer { returning, ..before.value.clone() };
            let put = PROCESS_SERVERS.put(&owner, &before.key, before.unchanged(), &server)?;
            match self.store.commit(put.into()).await {
                Ok(_) if approved => {
                    self.tell_returned(&identity.environment, &server, from, now).await?;
                    return Ok(self.enrolled(&identity.environment, server.name, server.agent, made));
                }
                Ok(_) => {
                    if asked.is_none_or(|asked| asked.last_asked_at + TOLD_EVERY < now) {
                        self.tell_asked(&identity.environment, &server, expired_at, from, now).await?;
                    }
                    return Err(waiting(&server, expired_at));
                }
                Err(StoreError::Conflict(key)) => conflict = Some(key),
                Err(error) => return Err(error.into()),
            }
        }
        let key = conflict.unwrap_or_else(|| PROCESS_SERVERS.key(&owner, identity.name.as_str()));
        Err(StoreError::Conflict(key).into())
    }

    async fn tell_asked(
        &self,
        environment: &EnvironmentName,
        server: &ProcessServer,
        expired_at: OffsetDateTime,
        from: Option<IpAddr>,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let name = &server.name;
        let text = format!(
            "{name} asks to come back from {}: its certificate expired at {}. If that is its host, let it in: \
             posternctl process-servers approve {name}",
            place(from),
            rfc3339(expired_at),
        );
        self.tell_of(environment, "return_asked", Severity::Warning, text, now).await
    }

    async fn tell_returned(
        &self,
        environment: &EnvironmentName,
        server: &ProcessServer,
        from: Option<IpAddr>,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let text = format!("{} came back from {} with a fresh certificate", server.name, place(from));
        self.tell_of(environment, "process_server_returned", Severity::Info, text, now).await
    }

    async fn tell_of(
        &self,
        environment: &EnvironmentName,
        code: &'static str,
        severity: Severity,
        text: String,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let events = Events::new(self.store.clone(), environment);
        events.append(NewEvent { code, severity, text, sender: "enrolment".into() }, now).await.map(drop)
    }
}

fn waiting(server: &ProcessServer, expired_at: OffsetDateTime) -> ReturnError {
    ReturnError::Waiting { name: server.name.clone(), expired_at: rfc3339(expired_at) }
}

fn place(from: Option<IpAddr>) -> String {
    from.map_or_else(|| "an unknown address".to_owned(), |ip| ip.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{CertificateParams, KeyPair};
    use tempfile::TempDir;

    use super::*;
    use crate::{
        enrolment::{Ca, ca::AGENT_LIFE},
        process_server::{ProcessServerError, ProcessServers},
        store::{SharedStore, memory::MemoryStore},
    };

    #[tokio::test]
    async fn an_agent_whose_certificate_expired_comes_back_once_a_person_said_so_and_not_before() {
        let mut world = World::new().await;
        let back = world.now + AGENT_LIFE + Duration::days(30);
        world.now = back;
        for minutes in 0..5 {
            world.now = back + Duration::minutes(minutes);
            let error = world.come_back().await.unwrap_err();
            assert!(error.to_string().contains("posternctl process-servers approve gw-a"), "{error}");
            assert_eq!(error.refusal().code, RefusalCode::Waiting);
        }
        let asked = world.record().await.returning.unwrap();
        assert_eq!((asked.first_asked_at, asked.last_asked_at), (back, back + Duration::minutes(4)));
        assert_eq!(world.events("return_asked").await, 1, "asking again is not news");

        world.servers().approve(&name("gw-a"), world.now).await.unwrap();
        let enrolled = world.come_back().await.unwrap();
        assert_eq!(enrolled.agent, world.agent, "the same agent, with the same key");
        assert_eq!(world.record().await.returning, None);
        assert_eq!(world.events("process_server_returned").await, 1);
        let (identity, until) = world.enrolment.ca().read_agent(&enrolled.certificate_pem).unwrap();
        assert_eq!(until, world.now + AGENT_LIFE);
        world.enrolment.admit(&identity, world.now).await.unwrap();

        world.now = until;
        assert!(world.come_back().await.is_err(), "an approval counts once");
    }

    #[tokio::test]
    async fn an_approval_that_nobody_used_expires() {
        let mut world = World::new().await;
        world.now += AGENT_LIFE;
        world.come_back().await.unwrap_err();
        world.servers().approve(&name("gw-a"), world.now).await.unwrap();
        world.now += crate::process_server::APPROVED_FOR;
        assert_eq!(world.come_back().await.unwrap_err().refusal().code, RefusalCode::Waiting);
    }

    #[tokio::test]
    async fn nobody_is_approved_who_did_not_ask() {
        let world = World::new().await;
        let error = world.servers().approve(&name("gw-a"), world.now).await.unwrap_err();
        assert!(matches!(error, ProcessServerError::NotReturning(_)), "{error}");
    }

    #[tokio::test]
    async fn one_that_was_removed_or_enrolled_anew_is_refused_and_not_listed() {
        let mut world = World::new().await;
        world.now += AGENT_LIFE;
        let old = world.request();
        let anew = world.enrolled_again().await;
        let error = anew.enrolment.come_back(&old, None, anew.now).await.unwrap_err();
        assert_eq!(error.refusal().code, RefusalCode::Unknown);
        anew.servers().remove(&name("gw-a")).await.unwrap();
        let error = anew.enrolment.come_back(&old, None, anew.now).await.unwrap_err();
        assert!(error.to_string().contains("was removed"), "{error}");
        assert_eq!(anew.events("return_asked").await, 0);
    }

    #[tokio::test]
    async fn a_certificate_without_its_key_or_from_elsewhere_is_worth_nothing() {
        let mut world = World::new().await;
        let valid = world.come_back().await.unwrap_err();
        assert!(valid.to_string().contains("renew it"), "{valid}");
        world.now += AGENT_LIFE;
        let copied = ReturnRequest { csr_pem: csr(&KeyPair::generate().unwrap()), ..world.request() };
        let error = world.enrolment.come_back(&copied, None, world.now).await.unwrap_err();
        assert!(matches!(error, ReturnError::OtherKey), "{error}");
        let elsewhere = World::new().await.request();
        let elsewhere = ReturnRequest { unix_ms: world.request().unix_ms, ..elsewhere };
        let error = world.enrolment.come_back(&elsewhere, None, world.now).await.unwrap_err();
        assert!(matches!(error, ReturnError::NotOurs), "{error}");
        for junk in ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(world.enrolment.ca().read_agent(junk).is_none(), "{junk:?}");
        }
        assert_eq!(world.record().await.returning, None);
    }

    struct World {
        enrolment: Enrolment,
        store: SharedStore,
        _folder: TempDir,
        key: KeyPair,
        certificate_pem: String,
        agent: proto::AgentId,
        now: OffsetDateTime,
    }

    impl World {
        async fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
            let store: SharedStore = Arc::new(MemoryStore::default());
            let ca = Arc::new(Ca::open(folder.path(), &[], now).unwrap());
            Self::enrol(Enrolment::new(store.clone(), ca), store, folder, now).await
        }

        /// Another agent under the same name.
        async fn enrolled_again(&self) -> Self {
            let folder = tempfile::tempdir().unwrap();
            Self::enrol(self.enrolment.clone(), self.store.clone(), folder, self.now).await
        }

        async fn enrol(
            enrolment: Enrolment,
            store: SharedStore,
            folder: TempDir,
            now: OffsetDateTime,
        ) -> Self {
            let environment = "default".parse().unwrap();
            let ttl = std::time::Duration::from_secs(60);
            let (token, _) =
                enrolment.create_token(&environment, Some(name("gw-a")), ttl, now).await.unwrap();
            let key = KeyPair::generate().unwrap();
            let request = proto::hello::EnrollRequest {
                token: token.reveal().to_owned(),
                name: name("gw-a"),
                csr_pem: csr(&key),
                software: "1".into(),
                unix_ms: unix_ms(now),
            };
            let enrolled = enrolment.redeem(&request, now).await.unwrap();
            let certificate_pem = enrolled.certificate_pem;
            Self { enrolment, store, _folder: folder, key, certificate_pem, agent: enrolled.agent, now }
        }

        fn request(&self) -> ReturnRequest {
            let certificate_pem = self.certificate_pem.clone();
            ReturnRequest { certificate_pem, csr_pem: csr(&self.key), unix_ms: unix_ms(self.now) }
        }

        async fn come_back(&self) -> Result<Enrolled, ReturnError> {
            self.enrolment.come_back(&self.request(), Some([192, 0, 2, 7].into()), self.now).await
        }

        fn servers(&self) -> ProcessServers {
            ProcessServers::new(self.store.clone(), &"default".parse().unwrap())
        }

        async fn record(&self) -> ProcessServer {
            self.servers().find(&name("gw-a")).await.unwrap().unwrap()
        }

        async fn events(&self, code: &str) -> usize {
            let events = Events::new(self.store.clone(), &"default".parse().unwrap());
            events.newest(100).await.unwrap().iter().filter(|event| event.code == code).count()
        }
    }

    fn csr(key: &KeyPair) -> String {
        CertificateParams::default().serialize_request(key).unwrap().pem().unwrap()
    }

    fn unix_ms(at: OffsetDateTime) -> u64 {
        u64::try_from(at.unix_timestamp()).unwrap() * 1_000
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }
}
