//! The provider's public keys (JWKS), and whether one of them made a signature: RS256 and ES256, no other.
//!
//! What cannot be one of these keys is passed over: providers publish keys for other purposes beside them.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde_json::Value;

/// More keys of a provider are not looked at.
const KEYS_MAX: usize = 64;
const KEY_ID_BYTES_MAX: usize = 512;
/// Half of a point of P-256.
const COORDINATE_BYTES: usize = 32;

/// How an ID token may be signed. Nothing symmetric, and never not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Es256,
}

impl Algorithm {
    pub(super) fn read(text: &str) -> Option<Self> {
        match text {
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            _ => None,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
        }
    }
}

/// Why no key vouches for a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unproved {
    /// There is no such key: there may be a newer list.
    UnknownKey,
    Signature,
}

/// All keys that sign ID tokens.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys(Vec<Key>);

#[derive(Debug, Clone)]
struct Key {
    id: Option<String>,
    material: Material,
}

#[derive(Debug, Clone)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// Uncompressed, with its leading 4.
    P256(Vec<u8>),
}

impl Keys {
    /// `None` for what is no list of keys at all.
    pub(super) fn read(document: &Value) -> Option<Self> {
        let all = document.get("keys")?.as_array()?;
        Some(Self(all.iter().take(KEYS_MAX).filter_map(Key::read).collect()))
    }

    /// Whether a key of this id made `signature` over `signed`; a token that names none may be any key's.
    pub(super) fn verify(
        &self,
        algorithm: Algorithm,
        id: Option<&str>,
        signed: &[u8],
        signature: &[u8],
    ) -> Result<(), Unproved> {
        let mut known = false;
        for key in self.0.iter().filter(|key| key.may(algorithm, id)) {
            known = true;
            if key.made(signed, signature) {
                return Ok(());
            }
        }
        Err(if known { Unproved::Signature } else { Unproved::UnknownKey })
    }
}

impl Key {
    fn read(key: &Value) -> Option<Self> {
        let text = |field: &str| key.get(field).and_then(Value::as_str);
        if text("use").is_some_and(|used| used != "sig") {
            return None;
        }
        let (material, algorithm) = match text("kty")? {
            "RSA" => {
                let number = |field| Some(without_zeros(decoded(text(field)?)?));
                (Material::Rsa { n: number("n")?, e: number("e")? }, Algorithm::Rs256)
            }
            "EC" if text("crv") == Some("P-256") => {
                let (x, y) = (decoded(text("x")?)?, decoded(text("y")?)?);
                if x.len() != COORDINATE_BYTES || y.len() != COORDINATE_BYTES {
                    return None;
                }
                (Material::P256([&[4][..], &x, &y].concat()), Algorithm::Es256)
            }
            _ => return None,
        };
        if text("alg").is_some_and(|alg| alg != algorithm.word()) {
            return None;
        }
        let id = text("kid").map(str::to_owned);
        if id.as_ref().is_some_and(|id| id.len() > KEY_ID_BYTES_MAX) {
            return None;
        }
        Some(Self { id, material })
    }

    fn may(&self, algorithm: Algorithm, id: Option<&str>) -> bool {
        let kind = match self.material {
            Material::Rsa { .. } => Algorithm::Rs256,
            Material::P256(_) => Algorithm::Es256,
        };
        kind == algorithm && id.is_none_or(|id| self.id.as_deref() == Some(id))
    }

    fn made(&self, signed: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Rsa { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, signed, signature).is_ok()
            }
            Material::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed, signature).is_ok()
            }
        }
    }
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// Some providers write numbers as their libraries hold them; ring wants them without leading zeros.
fn without_zeros(mut bytes: Vec<u8>) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.drain(..zeros);
    bytes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_for_other_purposes_are_passed_over() {
        let half = URL_SAFE_NO_PAD.encode([1; 32]);
        let ours = json!({"kty": "EC", "crv": "P-256", "x": half, "y": half, "kid": "a", "use": "sig"});
        let mut odd = Vec::new();
        for (field, value) in [
            ("kty", json!("oct")),
            ("kty", json!(7)),
            ("crv", json!("P-384")),
            ("use", json!("enc")),
            ("alg", json!("RS256")),
            ("alg", json!("ES384")),
            ("x", json!("!")),
            ("x", json!(URL_SAFE_NO_PAD.encode([1; 31]))),
            ("y", json!(null)),
            ("kid", json!("k".repeat(600))),
        ] {
            let mut key = ours.clone();
            key[field] = value;
            odd.push(key);
        }
        odd.push(json!("no key"));
        odd.push(ours);
        let keys = Keys::read(&json!({ "keys": odd })).unwrap();
        assert_eq!(keys.0.len(), 1);
    }

    #[test]
    fn what_is_no_list_of_keys_is_none_and_a_list_is_not_read_to_its_end() {
        assert!(Keys::read(&json!({"keys": {}})).is_none());
        assert!(Keys::read(&json!([])).is_none());
        let many = vec![json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"}); 1000];
        assert_eq!(Keys::read(&json!({ "keys": many })).unwrap().0.len(), KEYS_MAX);
    }

    #[test]
    fn a_key_that_is_none_proves_nothing() {
        let odd = json!({"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "a"}]});
        let keys = Keys::read(&odd).unwrap();
        assert_eq!(keys.verify(Algorithm::Rs256, Some("a"), b"x", b"y"), Err(Unproved::Signature));
        assert_eq!(keys.verify(Algorithm::Rs256, Some("b"), b"x", b"y"), Err(Unproved::UnknownKey));
        assert_eq!(keys.verify(Algorithm::Es256, Some("a"), b"x", b"y"), Err(Unproved::UnknownKey));
    }
}
