//! Keeps the certificate young: a new one at two thirds of its life, again and again.
//!
//! A renewed certificate is on disk before anybody uses it; the old one stays valid beside it, so
//! no connection is cut. Nothing gives up: an agent that was away for longer than its certificate lived asks
//! to come back with the expired one, and keeps asking until an administrator lets it in.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use proto::{
    Backoff,
    hello::{Enrolled, RENEW_PATH, RETURN_PATH, Refusal, RefusalCode, RenewRequest, ReturnRequest},
};
use tokio::{sync::watch, time::sleep};
use tracing::{error, info, warn};

use super::{
    Identity, IdentityError,
    enroll::{signing_request, unix_ms},
    exchange::{ExchangeError, post},
    tls,
};
use program::explain;

use crate::data_dir::DataDir;

/// The wall clock is read at least this often: a laptop's sleep or a corrected clock must not
/// make a renewal come hours late, as one long timer would.
const CLOCK_LOOK: Duration = Duration::from_secs(60);
/// Renewals of agents enrolled together are spread over this share of the certificate's life.
const JITTER_SHARE: f64 = 0.05;
/// How often one that waits for an administrator asks, on average: people look on.
const ASK_EVERY: Duration = Duration::from_secs(20);

/// Why a renewal failed. The certificate in use is untouched.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    #[error("cannot make a signing request")]
    Request(#[source] rcgen::Error),
    #[error("this agent's own CA certificates cannot be used")]
    Trust(#[source] rustls::Error),
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    #[error("central's answer cannot be used: {problem}")]
    Answer { problem: String },
    #[error("the renewed certificate could not be kept")]
    Persist(#[source] IdentityError),
}

/// Renews for as long as it is polled. Dropping it is safe at any point: files are replaced
/// whole, and an identity is announced only after it is on disk.
pub async fn keep_renewed(data_dir: Arc<DataDir>, identity: watch::Sender<Arc<Identity>>) {
    let mut backoff = Backoff::new(Duration::from_secs(30), Duration::from_secs(15 * 60));
    loop {
        let current = identity.borrow().clone();
        sleep_until(renewal_at(&current, rand::random())).await;
        let expired = current.not_after <= SystemTime::now();
        let renewed = match expired {
            true => come_back(&data_dir, &current).await,
            false => renew(&data_dir, &current).await,
        };
        match renewed {
            Ok(renewed) => {
                backoff.reset();
                info!(expires = %when(renewed.not_after), "Certificate renewed");
                identity.send_replace(Arc::new(renewed));
            }
            Err(RenewError::Exchange(ExchangeError::Refused(Refusal {
                code: RefusalCode::Waiting,
                message,
            }))) => {
                let wait = ASK_EVERY.mul_f64(0.5 + rand::random::<f64>());
                error!(retry_in = ?wait, central = message, "Certificate expired; waiting for an administrator to let this agent in again");
                sleep(wait).await;
            }
            Err(problem) => {
                let wait = backoff.next(rand::random());
                let problem = explain(&problem);
                let expires = when(current.not_after);
                if !expired {
                    warn!(%expires, retry_in = ?wait, problem, "Certificate not renewed");
                } else {
                    error!(
                        expired = %expires, retry_in = ?wait, problem,
                        "Certificate expired and not renewed; if central keeps refusing, enrol again with 'postern-agent enroll --replace'"
                    );
                }
                sleep(wait).await;
            }
        }
    }
}

/// Fetches a younger certificate for the same key and writes it to disk.
pub async fn renew(data_dir: &DataDir, current: &Identity) -> Result<Identity, RenewError> {
    let request = RenewRequest { csr_pem: signing_request(&current.key).map_err(RenewError::Request)? };
    let line = current.segments.line();
    let (url, proxy) = (&current.central, current.proxy.as_ref());
    let answer: Enrolled = post(url, proxy, current.tls.clone(), &line, RENEW_PATH, &request).await?;
    keep(data_dir, current, answer)
}

/// Asks with the expired certificate for a fresh one. It is shown in the request and not to TLS, which
/// would end the handshake; that the key is still this agent's is proved by the request's signature.
pub async fn come_back(data_dir: &DataDir, current: &Identity) -> Result<Identity, RenewError> {
    let request = ReturnRequest {
        certificate_pem: current.certificate_pem.clone(),
        csr_pem: signing_request(&current.key).map_err(RenewError::Request)?,
        unix_ms: unix_ms(),
    };
    let nobody = tls::anonymous_client(&current.ca).map_err(RenewError::Trust)?;
    let line = current.segments.line();
    let (url, proxy) = (&current.central, current.proxy.as_ref());
    let answer: Enrolled = post(url, proxy, nobody.into(), &line, RETURN_PATH, &request).await?;
    keep(data_dir, current, answer)
}

/// Checks what central answered and writes it to disk.
fn keep(data_dir: &DataDir, current: &Identity, answer: Enrolled) -> Result<Identity, RenewError> {
    let unfit = |problem: String| RenewError::Answer { problem };
    let renewed =
        current.with_certificate(answer.certificate_pem, answer.ca_pem).map_err(|e| unfit(explain(&e)))?;
    // Central may bring in a new CA, but not swap all trust at once: whoever broke into it for a minute could
    // otherwise keep this agent for good.
    if !tls::vouched_for(&renewed.chain, &current.ca) {
        return Err(unfit("no CA known here vouches for its certificate".to_owned()));
    }
    if !tls::vouched_for(&renewed.chain, &renewed.ca) {
        return Err(unfit("none of its own CAs vouches for its certificate".to_owned()));
    }
    if (renewed.agent, &renewed.environment) != (current.agent, &current.environment) {
        return Err(unfit("its certificate names another agent".to_owned()));
    }
    renewed.persist_renewed(data_dir).map_err(RenewError::Persist)?;
    Ok(renewed)
}

/// Two thirds into the certificate's life, and up to [`JITTER_SHARE`] of it earlier. `dice` is 0.0 to 1.0.
fn renewal_at(identity: &Identity, dice: f64) -> SystemTime {
    let life = identity.not_after.duration_since(identity.not_before).unwrap_or_default();
    identity.not_before + life.mul_f64(2.0 / 3.0 - JITTER_SHARE * dice.clamp(0.0, 1.0))
}

async fn sleep_until(at: SystemTime) {
    while let Ok(wait) = at.duration_since(SystemTime::now()) {
        sleep(wait.min(CLOCK_LOOK)).await;
    }
}

/// A point in time, as people and logs write it.
pub(crate) fn when(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}

#[cfg(test)]
mod tests {
    use proto::AgentId;

    use super::*;
    use crate::identity::test_ca::TestCa;

    #[test]
    fn renewal_is_due_at_two_thirds_of_the_life_or_a_little_earlier() {
        let identity = TestCa::new("acme").identity(AgentId::random());
        let life = identity.not_after.duration_since(identity.not_before).unwrap();
        let share = |dice| {
            let after = renewal_at(&identity, dice).duration_since(identity.not_before).unwrap();
            after.as_secs_f64() / life.as_secs_f64()
        };
        assert!((share(0.0) - 2.0 / 3.0).abs() < 1e-6);
        assert!((share(1.0) - (2.0 / 3.0 - JITTER_SHARE)).abs() < 1e-6);
    }
}
