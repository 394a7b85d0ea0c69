//! Sign-ins that have begun: each is finished once, within ten minutes, by the browser that began it. Pure.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use time::{Duration, OffsetDateTime};

use super::Refusal;
use crate::people::Secret;

/// How long somebody may stand before the provider's page.
pub(super) const WITHIN: Duration = Duration::minutes(10);
/// About a kilobyte each. Beyond it the oldest goes: whoever begins thousands keeps nobody else from beginning.
const PENDING_MAX: usize = 4096;

/// A sign-in that has begun.
#[derive(Debug)]
pub struct Pending {
    /// Where to go afterwards; judged by whoever began.
    pub(super) next: String,
    pub(super) nonce: Secret,
    /// Proves to the provider that whoever brings the code is who began (PKCE).
    pub(super) verifier: Secret,
    pub(super) begun_at: OffsetDateTime,
    browser: [u8; 32],
}

impl Pending {
    pub(super) fn new(next: &str, browser: &Secret, begun_at: OffsetDateTime) -> Self {
        let (nonce, verifier) = (Secret::random(), Secret::random());
        Self { next: next.to_owned(), nonce, verifier, begun_at, browser: digest(browser) }
    }

    /// Where to go afterwards.
    pub fn next(&self) -> &str {
        &self.next
    }
}

/// All of them, by the digest of their state: looking one up compares no secret byte by byte.
#[derive(Debug, Default)]
pub(super) struct PendingSignIns(BTreeMap<[u8; 32], Pending>);

impl PendingSignIns {
    pub(super) fn begin(&mut self, state: &Secret, pending: Pending) {
        let now = pending.begun_at;
        if self.0.len() >= PENDING_MAX {
            self.0.retain(|_, pending| lives(pending, now));
        }
        while self.0.len() >= PENDING_MAX {
            let oldest = self.0.iter().min_by_key(|(_, pending)| pending.begun_at).map(|(state, _)| *state);
            let Some(oldest) = oldest else { break };
            self.0.remove(&oldest);
        }
        self.0.insert(digest(state), pending);
    }

    /// Takes out the one with this state, whether or not `browser` may have it: a state is shown once.
    pub(super) fn take(
        &mut self,
        state: &str,
        browser: Option<&Secret>,
        now: OffsetDateTime,
    ) -> Result<Pending, Refusal> {
        let state = Secret::read(state).ok_or(Refusal::Unknown)?;
        let pending = self.0.remove(&digest(&state)).filter(|pending| lives(pending, now));
        let pending = pending.ok_or(Refusal::Unknown)?;
        match browser {
            Some(browser) if bool::from(digest(browser).ct_eq(&pending.browser)) => Ok(pending),
            Some(_) | None => Err(Refusal::OtherBrowser),
        }
    }
}

fn lives(pending: &Pending, now: OffsetDateTime) -> bool {
    now - pending.begun_at < WITHIN
}

fn digest(secret: &Secret) -> [u8; 32] {
    Sha256::digest(secret.reveal()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    #[test]
    fn who_began_finishes_once() {
        let (mut all, browser) = (PendingSignIns::default(), Secret::random());
        let state = begin(&mut all, &browser, THEN);
        let taken = all.take(state.reveal(), Some(&browser), THEN).unwrap();
        assert_eq!(taken.next(), "/next");
        assert_eq!(all.take(state.reveal(), Some(&browser), THEN).unwrap_err(), Refusal::Unknown);
    }

    #[test]
    fn another_browser_does_not_finish_and_nobody_does_after_it() {
        let (mut all, browser) = (PendingSignIns::default(), Secret::random());
        for other in [None, Some(Secret::random())] {
            let state = begin(&mut all, &browser, THEN);
            let taken = all.take(state.reveal(), other.as_ref(), THEN);
            assert_eq!(taken.unwrap_err(), Refusal::OtherBrowser);
            let late = all.take(state.reveal(), Some(&browser), THEN);
            assert_eq!(late.unwrap_err(), Refusal::Unknown);
        }
    }

    #[test]
    fn ten_minutes_are_enough() {
        let (mut all, browser) = (PendingSignIns::default(), Secret::random());
        let moment = Duration::milliseconds(1);
        for (after, fine) in [(WITHIN - moment, true), (WITHIN, false)] {
            let state = begin(&mut all, &browser, THEN);
            assert_eq!(all.take(state.reveal(), Some(&browser), THEN + after).is_ok(), fine);
        }
        for odd in ["", "x", &"y".repeat(43)] {
            assert_eq!(all.take(odd, Some(&browser), THEN).unwrap_err(), Refusal::Unknown);
        }
    }

    #[test]
    fn whoever_begins_thousands_pushes_out_the_oldest_alone() {
        let (mut all, browser) = (PendingSignIns::default(), Secret::random());
        let first = begin(&mut all, &browser, THEN);
        let second = begin(&mut all, &browser, THEN + Duration::SECOND);
        for _ in 1..PENDING_MAX {
            begin(&mut all, &Secret::random(), THEN + Duration::MINUTE);
        }
        assert_eq!(all.0.len(), PENDING_MAX);
        let now = THEN + Duration::MINUTE;
        assert_eq!(all.take(first.reveal(), Some(&browser), now).unwrap_err(), Refusal::Unknown);
        assert!(all.take(second.reveal(), Some(&browser), now).is_ok());
    }

    fn begin(all: &mut PendingSignIns, browser: &Secret, now: OffsetDateTime) -> Secret {
        let state = Secret::random();
        all.begin(&state, Pending::new("/next", browser, now));
        state
    }
}
