//! Keeps the certificate young: a new one at two thirds of its life, again and again.
//!
//! A renewed certificate is on disk before anybody uses it; the old one stays valid beside it, so
//! no connection is cut. Nothing gives up: with central away the attempts go on past expiry, since
//! central may grant a grace period.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use proto::{
    Backoff,
    hello::{Enrolled, RENEW_PATH, RenewRequest},
};
use tokio::{sync::watch, time::sleep};
use tracing::{error, info, warn};

use super::{
    Identity, IdentityError, certificates,
    enroll::signing_request,
    exchange::{ExchangeError, post},
};
use program::explain;

use crate::data_dir::DataDir;

/// The wall clock is read at least this often: a laptop's sleep or a corrected clock must not
/// make a renewal come hours late, as one long timer would.
const CLOCK_LOOK: Duration = Duration::from_secs(60);
/// Renewals of agents enrolled together are spread over this share of the certificate's life.
const JITTER_SHARE: f64 = 0.05;

/// Why a renewal failed. The certificate in use is untouched.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    #[error("cannot make a signing request")]
    Request(#[source] rcgen::Error),
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
        match renew(&data_dir, &current).await {
            Ok(renewed) => {
                backoff.reset();
                info!(expires = %when(renewed.not_after), "Certificate renewed");
                identity.send_replace(Arc::new(renewed));
            }
            Err(problem) => {
                let wait = backoff.next(rand::random());
                let problem = explain(&problem);
                let expires = when(current.not_after);
                if SystemTime::now() < current.not_after {
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
    let answer: Enrolled = post(&current.central, current.tls.clone(), RENEW_PATH, &request).await?;
    let unfit = |problem: String| RenewError::Answer { problem };
    // Central may bring in a new CA beside the one known here, but not swap all trust at once:
    // whoever broke into it for a minute could otherwise keep this agent for good.
    let trusted = certificates(&answer.ca_pem, "CA in the answer").map_err(|e| unfit(explain(&e)))?;
    if !trusted.iter().any(|ca| current.ca.contains(ca)) {
        return Err(unfit("none of its CAs is known here".to_owned()));
    }
    let renewed =
        current.with_certificate(answer.certificate_pem, answer.ca_pem).map_err(|e| unfit(explain(&e)))?;
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
