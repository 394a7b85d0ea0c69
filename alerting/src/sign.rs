//! Signs webhooks as Standard Webhooks 1.0.0 says, so that a receiver can tell ours from anybody's.
//!
//! `webhook-signature` is `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`, one for each key, the newest
//! first: while a key is changed the receiver accepts the old one or the new one.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::hmac;
use time::OffsetDateTime;

use crate::{outbox::DeliveryId, secret::Secret};

/// A checked signing key.
#[derive(Clone)]
pub(crate) struct SigningKey(hmac::Key);

/// Why a secret is no signing key. It never quotes the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("a signing key begins with whsec_ and goes on in base64")]
    Syntax,
    #[error(
        "a signing key has 24 to 64 bytes (this one has {0}): openssl rand -base64 32 makes one, put whsec_ before it"
    )]
    Length(usize),
}

impl SigningKey {
    /// Reads `whsec_<base64>`.
    pub(crate) fn parse(secret: &Secret) -> Result<Self, KeyError> {
        let encoded = secret.reveal().strip_prefix("whsec_").ok_or(KeyError::Syntax)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| KeyError::Syntax)?;
        match bytes.len() {
            24..=64 => Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes))),
            length => Err(KeyError::Length(length)),
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

/// The header that proves the others.
pub(crate) const SIGNATURE: &str = "webhook-signature";

/// The headers of one attempt, `at` being its own time: receivers refuse old timestamps, and retries keep the id.
pub(crate) fn headers(
    keys: &[SigningKey],
    id: &DeliveryId,
    at: OffsetDateTime,
    body: &[u8],
) -> Vec<(&'static str, String)> {
    let timestamp = at.unix_timestamp().to_string();
    let mut headers = vec![("webhook-id", id.as_str().to_owned()), ("webhook-timestamp", timestamp.clone())];
    let signatures: Vec<String> = keys
        .iter()
        .map(|key| {
            let mut context = hmac::Context::with_key(&key.0);
            for part in [id.as_str().as_bytes(), b".", timestamp.as_bytes(), b".", body] {
                context.update(part);
            }
            format!("v1,{}", STANDARD.encode(context.sign()))
        })
        .collect();
    if !signatures.is_empty() {
        headers.push((SIGNATURE, signatures.join(" ")));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Signed by the reference library, `standardwebhooks` for Python.
    #[test]
    fn a_signature_is_the_one_that_the_reference_library_makes() {
        let key = SigningKey::parse(&Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")).unwrap();
        let id = serde_json::from_str::<DeliveryId>("\"msg_p5jXN8AQM9LWM0D4loKWxJek\"").unwrap();
        let at = OffsetDateTime::from_unix_timestamp(1_614_265_330).unwrap();
        let headers = headers(&[key], &id, at, br#"{"test": 2432232314}"#);
        assert_eq!(
            headers,
            [
                ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek".to_owned()),
                ("webhook-timestamp", "1614265330".to_owned()),
                ("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=".to_owned()),
            ]
        );
    }

    #[test]
    fn while_a_key_is_changed_both_sign_the_newest_first() {
        let keys = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"]
            .map(|key| SigningKey::parse(&Secret::new(key)).unwrap());
        let id = serde_json::from_str::<DeliveryId>("\"msg_1\"").unwrap();
        let sign = |keys: &[SigningKey]| headers(keys, &id, OffsetDateTime::UNIX_EPOCH, b"{}")[2].1.clone();
        assert_eq!(sign(&keys), format!("{} {}", sign(&keys[..1]), sign(&keys[1..])));
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_quoted() {
        for (wrong, why) in [
            ("canary", KeyError::Syntax),
            ("whsec_canary!", KeyError::Syntax),
            ("whsec_Y2FuYXJ5", KeyError::Length(6)),
        ] {
            let error = SigningKey::parse(&Secret::new(wrong)).unwrap_err();
            assert_eq!(error, why);
            assert!(!error.to_string().contains("canary"));
        }
    }
}
