//! Carries one delivery to its endpoint, once, whichever channel that is. The outbox decides when; this room only goes.

use time::OffsetDateTime;

use crate::{
    address::AddressRules,
    alert::{Alert, cut},
    endpoint::Endpoint,
    mail,
    outbox::{Attempt, DeliveryId, Outcome},
    request::{self, Purpose},
    secret,
    webhook::{self, Called},
};

/// Goes out with alerts. Cheap to clone; it holds no connection.
#[derive(Debug, Clone)]
pub struct Courier {
    rules: AddressRules,
}

/// A whole request is listed up to here.
const REQUEST_SHOWN_BYTES: usize = 2048;

impl Courier {
    pub fn new(rules: AddressRules) -> Self {
        Self { rules }
    }

    /// One attempt to bring `alert` to `endpoint`, under `id`; `now` is the wall clock's time. It ends within 15 s, a mail
    /// within 40 s, and always with an outcome to hand to [`Delivery::finish`](crate::Delivery::finish).
    ///
    /// Cancel-safe in that nothing here is left half done; but what was sent is sent, and the next attempt repeats it
    /// under the same id.
    pub async fn attempt(
        &self,
        endpoint: &Endpoint,
        id: &DeliveryId,
        alert: &Alert,
        now: OffsetDateTime,
    ) -> Attempt {
        let started = tokio::time::Instant::now();
        let mut shown = endpoint.shown(alert, id, now).unwrap_or_default();
        cut(&mut shown, REQUEST_SHOWN_BYTES);
        let called = self.call(endpoint, id, alert, now).await;
        let (remote, outcome) = match called {
            Ok(called) => (called.remote.map(|remote| remote.to_string()), called.outcome),
            Err(why) => (None, Outcome::Failed { why: secret::hide(&why, &endpoint.all_secrets()) }),
        };
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Attempt { at: now, took_ms, request: shown, remote, outcome }
    }

    async fn call(
        &self,
        endpoint: &Endpoint,
        id: &DeliveryId,
        alert: &Alert,
        now: OffsetDateTime,
    ) -> Result<Called, String> {
        let rules = &self.rules;
        match &endpoint.mailbox {
            None => {
                let request =
                    request::webhook(endpoint, alert, id, now, Purpose::Send).map_err(|e| e.to_string())?;
                webhook::send(endpoint, request, rules, now).await.map_err(|error| error.to_string())
            }
            Some(mailbox) => {
                let scope = request::scope(endpoint, alert, id, now, Purpose::Send);
                let letter = request::letter(endpoint, alert, &scope).map_err(|error| error.to_string())?;
                let heading = mail::Heading { id, alert, endpoint: endpoint.name(), at: now };
                mail::send(endpoint, mailbox, &letter, heading, rules)
                    .await
                    .map_err(|error| error.to_string())
            }
        }
    }
}
