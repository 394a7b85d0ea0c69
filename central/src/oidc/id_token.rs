//! Whether an ID token is the provider's, for us, of now, and the answer to what we asked. Pure.
//!
//! The order matters: nothing that stands in a token is believed before its signature, except which key to look for.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};
use subtle::ConstantTimeEq;
use time::{Duration, OffsetDateTime};

use super::{
    keys::{Algorithm, Keys, Unproved},
    refusal::{Found, Word},
};

/// How far the provider's clock and ours may be apart.
const LEEWAY: Duration = Duration::seconds(60);
/// Groups of a large company included.
const TOKEN_BYTES_MAX: usize = 128 * 1024;
const SUBJECT_BYTES_MAX: usize = 255;

/// What the token must say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected<'a> {
    pub(super) issuer: &'a str,
    pub(super) client_id: &'a str,
    pub(super) nonce: &'a str,
    /// When the sign-in began that it answers.
    pub(super) begun_at: OffsetDateTime,
    pub(super) now: OffsetDateTime,
}

/// Why it proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Invalid {
    #[error("it is no signed token")]
    Malformed,
    #[error("it is signed with {0}, and only RS256 and ES256 are taken")]
    Algorithm(Word),
    #[error("it asks for an extension that is not known here")]
    Critical,
    #[error("it is signed with a key that the provider does not publish")]
    UnknownKey,
    #[error("its signature is wrong")]
    Signature,
    #[error("its issuer is {0}")]
    Issuer(Found),
    #[error("it is meant for {0}")]
    Audience(Found),
    #[error("it was made for another client, {0}")]
    Party(Found),
    #[error("it has expired; if that is odd, compare the clocks")]
    Expired,
    #[error("it is of the future; if that is odd, compare the clocks")]
    Early,
    #[error("it is older than this sign-in; if that is odd, compare the clocks")]
    Old,
    #[error("it answers another sign-in")]
    Nonce,
    #[error("its claim {0} is missing or none")]
    Claim(&'static str),
}

/// Who it is about, and all that is claimed.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) subject: String,
    pub(super) claims: Map<String, Value>,
}

pub(super) fn verify(token: &str, keys: &Keys, expected: &Expected<'_>) -> Result<Verified, Invalid> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Invalid::Malformed);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(Invalid::Malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(Invalid::Malformed)?;
    let header = object(header)?;
    let algorithm = header.get("alg").and_then(Value::as_str).unwrap_or_default();
    let algorithm = Algorithm::read(algorithm).ok_or_else(|| Invalid::Algorithm(Word::of(algorithm)))?;
    if header.contains_key("crit") {
        return Err(Invalid::Critical);
    }
    let key_id = match header.get("kid") {
        None => None,
        Some(Value::String(id)) => Some(id.as_str()),
        Some(_) => return Err(Invalid::UnknownKey),
    };
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Invalid::Malformed)?;
    keys.verify(algorithm, key_id, signed.as_bytes(), &signature).map_err(|unproved| match unproved {
        Unproved::UnknownKey => Invalid::UnknownKey,
        Unproved::Signature => Invalid::Signature,
    })?;
    let claims = object(payload)?;
    let subject = meant_for_us(&claims, expected)?;
    Ok(Verified { subject, claims })
}

fn meant_for_us(claims: &Map<String, Value>, expected: &Expected<'_>) -> Result<String, Invalid> {
    let text = |claim: &str| claims.get(claim).and_then(Value::as_str);
    let found = |claim: &str| Found::of(claims.get(claim));
    if text("iss") != Some(expected.issuer) {
        return Err(Invalid::Issuer(found("iss")));
    }
    let others = match claims.get("aud") {
        Some(Value::String(only)) if only == expected.client_id => false,
        Some(Value::Array(all)) if all.iter().any(|one| one.as_str() == Some(expected.client_id)) => {
            all.len() > 1
        }
        _ => return Err(Invalid::Audience(found("aud"))),
    };
    // Among several, one must be named for whom it was made.
    match claims.get("azp") {
        None if others => return Err(Invalid::Claim("azp")),
        None => {}
        Some(party) if party.as_str() == Some(expected.client_id) => {}
        Some(_) => return Err(Invalid::Party(found("azp"))),
    }
    let Expected { now, begun_at, .. } = *expected;
    if moment(claims, "exp")?.ok_or(Invalid::Claim("exp"))? <= now - LEEWAY {
        return Err(Invalid::Expired);
    }
    let made = moment(claims, "iat")?.ok_or(Invalid::Claim("iat"))?;
    let from = moment(claims, "nbf")?.unwrap_or(made);
    if made > now + LEEWAY || from > now + LEEWAY {
        return Err(Invalid::Early);
    }
    if made < begun_at - LEEWAY {
        return Err(Invalid::Old);
    }
    let nonce = text("nonce").unwrap_or_default();
    if !bool::from(nonce.as_bytes().ct_eq(expected.nonce.as_bytes())) {
        return Err(Invalid::Nonce);
    }
    let subject = text("sub").filter(|subject| !subject.is_empty() && subject.len() <= SUBJECT_BYTES_MAX);
    subject.map(str::to_owned).ok_or(Invalid::Claim("sub"))
}

/// A number of seconds, perhaps with a fraction. One that is no moment is as wrong as none.
fn moment(claims: &Map<String, Value>, claim: &'static str) -> Result<Option<OffsetDateTime>, Invalid> {
    let Some(value) = claims.get(claim) else { return Ok(None) };
    // A fraction of a second is less than anybody asks about; a number beyond all dates saturates, and is no date.
    let seconds = value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds as i64));
    let moment = seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    moment.map(Some).ok_or(Invalid::Claim(claim))
}

fn object(part: &str) -> Result<Map<String, Value>, Invalid> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Invalid::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| Invalid::Malformed)
}

#[cfg(test)]
mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{
            ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
            RsaPublicKeyComponents,
        },
    };
    use serde_json::json;

    use super::*;

    /// A key that signs nothing outside of tests.
    const RSA: &[u8] = include_bytes!("../../testdata/oidc-signing-key.pk8");

    #[test]
    fn a_sound_token_tells_who_it_is_by_either_kind_of_key() {
        let signers = Signers::new();
        for algorithm in ["ES256", "RS256"] {
            let token = signers.token(json!({"alg": algorithm, "kid": algorithm}), &sound());
            let verified = verify(&token, &signers.keys(), &expected()).unwrap();
            assert_eq!((verified.subject.as_str(), &verified.claims["name"]), ("1234", &json!("Anna")));
        }
    }

    #[test]
    fn a_token_that_names_no_key_may_be_any_keys() {
        let signers = Signers::new();
        let token = signers.token(json!({"alg": "ES256"}), &sound());
        verify(&token, &signers.keys(), &expected()).unwrap();
        assert_eq!(verify(&token, &Keys::default(), &expected()).unwrap_err(), Invalid::UnknownKey);
    }

    #[test]
    fn each_claim_that_is_not_as_it_must_be_is_refused_by_its_name() {
        let signers = Signers::new();
        let (keys, now) = (signers.keys(), NOW.unix_timestamp());
        let refused = |claim: &str, value: Value| {
            let mut claims = sound();
            claims[claim] = value.clone();
            if value.is_null() {
                claims.as_object_mut().unwrap().remove(claim);
            }
            let token = signers.token(json!({"alg": "ES256", "kid": "ES256"}), &claims);
            verify(&token, &keys, &expected()).map(drop)
        };
        let wrong = |value: Value| Found::of(Some(&value));
        for (claim, value, why) in [
            ("iss", json!("https://evil.example"), Invalid::Issuer(wrong(json!("https://evil.example")))),
            ("iss", json!("https://login.example/"), Invalid::Issuer(wrong(json!("https://login.example/")))),
            ("iss", Value::Null, Invalid::Issuer(Found::of(None))),
            ("aud", json!("other"), Invalid::Audience(wrong(json!("other")))),
            ("aud", json!(["other"]), Invalid::Audience(wrong(json!(["other"])))),
            ("aud", json!([]), Invalid::Audience(Found::of(None))),
            ("aud", Value::Null, Invalid::Audience(Found::of(None))),
            ("aud", json!(["postern", "other"]), Invalid::Claim("azp")),
            ("azp", json!("other"), Invalid::Party(wrong(json!("other")))),
            ("exp", json!(now - 61), Invalid::Expired),
            ("exp", json!("soon"), Invalid::Claim("exp")),
            ("exp", json!(1e300), Invalid::Claim("exp")),
            ("exp", Value::Null, Invalid::Claim("exp")),
            ("iat", json!(now + 61), Invalid::Early),
            ("iat", json!(now - 200), Invalid::Old),
            ("iat", Value::Null, Invalid::Claim("iat")),
            ("nbf", json!(now + 61), Invalid::Early),
            ("nonce", json!("another"), Invalid::Nonce),
            ("nonce", Value::Null, Invalid::Nonce),
            ("sub", json!(""), Invalid::Claim("sub")),
            ("sub", json!("x".repeat(256)), Invalid::Claim("sub")),
            ("sub", Value::Null, Invalid::Claim("sub")),
        ] {
            assert_eq!(refused(claim, value.clone()), Err(why), "{claim} {value}");
        }
        for (claim, value) in [
            ("exp", json!(now - 59)),
            ("exp", json!(now as f64 + 0.5)),
            ("iat", json!(now + 59)),
            ("aud", json!(["postern"])),
            ("azp", json!("postern")),
        ] {
            assert_eq!(refused(claim, value.clone()), Ok(()), "{claim} {value}");
        }
    }

    #[test]
    fn several_audiences_are_fine_where_the_token_was_made_for_us() {
        let signers = Signers::new();
        let mut claims = sound();
        claims["aud"] = json!(["other", "postern"]);
        claims["azp"] = json!("postern");
        let token = signers.token(json!({"alg": "ES256", "kid": "ES256"}), &claims);
        verify(&token, &signers.keys(), &expected()).unwrap();
    }

    #[test]
    fn what_is_not_signed_by_a_published_key_is_refused() {
        let signers = Signers::new();
        let keys = signers.keys();
        let refused = |token: &str| verify(token, &keys, &expected()).unwrap_err();
        let token = signers.token(json!({"alg": "ES256", "kid": "ES256"}), &sound());
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let payload = signed.split_once('.').unwrap().1;
        for alg in ["none", "None", "HS256", "RS384", "PS256", "EdDSA", ""] {
            let header = encoded(&json!({"alg": alg, "kid": "ES256"}));
            let expected = Invalid::Algorithm(Word::of(alg));
            assert_eq!(refused(&format!("{header}.{payload}.{signature}")), expected, "{alg}");
            assert_eq!(refused(&format!("{header}.{payload}.")), expected, "{alg}");
        }
        // The public key as the key of a HMAC is the oldest trick; here it is not even an algorithm.
        let other = Signers::new().token(json!({"alg": "ES256", "kid": "ES256"}), &sound());
        assert_eq!(refused(&other), Invalid::Signature);
        assert_eq!(refused(&format!("{signed}.")), Invalid::Signature);
        assert_eq!(refused(&format!("{}.{signature}", signed.replace('.', "A."))), Invalid::Malformed);
        let unknown = signers.token(json!({"alg": "ES256", "kid": "new"}), &sound());
        assert_eq!(refused(&unknown), Invalid::UnknownKey);
        // A key is of one kind: an RSA key's id does not make an elliptic signature.
        let crossed = signers.token(json!({"alg": "ES256", "kid": "RS256"}), &sound());
        assert_eq!(refused(&crossed), Invalid::UnknownKey);
        let critical = signers.token(json!({"alg": "ES256", "crit": ["b64"]}), &sound());
        assert_eq!(refused(&critical), Invalid::Critical);
        for odd in ["", "a", "a.b", "a.b.c", "..", "e30.e30", &"x".repeat(200_000), &format!("{token}.x")] {
            refused(odd);
        }
    }

    #[test]
    fn one_changed_letter_of_what_is_claimed_breaks_the_signature() {
        let signers = Signers::new();
        let sound = signers.token(json!({"alg": "RS256", "kid": "RS256"}), &sound());
        let parts: Vec<&str> = sound.split('.').collect();
        let mut claims = object(parts[1]).unwrap();
        claims.insert("sub".into(), json!("1235"));
        let forged = format!("{}.{}.{}", parts[0], encoded(&Value::Object(claims)), parts[2]);
        assert_eq!(verify(&forged, &signers.keys(), &expected()).unwrap_err(), Invalid::Signature);
    }

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH.saturating_add(Duration::seconds(1_767_323_045));

    fn expected() -> Expected<'static> {
        Expected {
            issuer: "https://login.example",
            client_id: "postern",
            nonce: "n-1",
            begun_at: NOW - Duration::seconds(100),
            now: NOW,
        }
    }

    fn sound() -> Value {
        let now = NOW.unix_timestamp();
        json!({
            "iss": "https://login.example", "aud": "postern", "sub": "1234", "nonce": "n-1",
            "exp": now + 300, "iat": now, "name": "Anna",
        })
    }

    fn encoded(value: &Value) -> String {
        URL_SAFE_NO_PAD.encode(value.to_string())
    }

    /// A provider's two keys, each under its algorithm's name.
    struct Signers {
        random: SystemRandom,
        elliptic: EcdsaKeyPair,
        rsa: RsaKeyPair,
    }

    impl Signers {
        fn new() -> Self {
            let random = SystemRandom::new();
            let elliptic = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
            let elliptic =
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, elliptic.as_ref(), &random)
                    .unwrap();
            Self { random, elliptic, rsa: RsaKeyPair::from_pkcs8(RSA).unwrap() }
        }

        fn keys(&self) -> Keys {
            let point = self.elliptic.public_key().as_ref();
            let RsaPublicKeyComponents::<Vec<u8>> { n, e } = self.rsa.public().into();
            let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
            Keys::read(&json!({"keys": [
                {"kty": "EC", "crv": "P-256", "kid": "ES256", "x": text(&point[1..33]), "y": text(&point[33..])},
                {"kty": "RSA", "kid": "RS256", "alg": "RS256", "use": "sig",
                    "n": text(&[&[0][..], &n].concat()), "e": text(&e)},
            ]}))
            .unwrap()
        }

        fn token(&self, header: Value, claims: &Value) -> String {
            let signed = format!("{}.{}", encoded(&header), encoded(claims));
            let signature = if header["alg"] == "RS256" {
                let mut signature = vec![0; self.rsa.public().modulus_len()];
                self.rsa.sign(&RSA_PKCS1_SHA256, &self.random, signed.as_bytes(), &mut signature).unwrap();
                signature
            } else {
                self.elliptic.sign(&self.random, signed.as_bytes()).unwrap().as_ref().to_vec()
            };
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
        }
    }
}
