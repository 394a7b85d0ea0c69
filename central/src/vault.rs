//! Keeps secrets that central must be able to read again: in the store they are sealed, and the key lies beside it.
//!
//! ```text
//!   secret ── seal(place) ──► "v1.BASE64" ──► store, and whatever copies of it there are
//!                 ▲
//!   DATA_DIR/secrets.key, 0600, or a file that the operator names (secrets_key_file)
//! ```
//!
//! A copy of the store without the key file gives nobody a secret; a copy of both does. What is sealed opens only in
//! the place it was sealed for, so that whoever can write into the store cannot have one secret sent where another
//! belongs. The text names its version, and the store remembers which key it was, so a lost or foreign key is told as
//! what it is and nothing is overwritten.

use std::{
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    enrolment::secret_file,
    store::{Collection, Owner, Precondition, SharedStore, StoreError, Transaction},
};

/// Which key the store's secrets are sealed with.
const KEYS: Collection<KeyRecord> = Collection::new("secrets_key");
const RECORD: &str = "key";
/// The name of the key file in the data directory.
pub(crate) const FILE: &str = "secrets.key";
/// What the file begins with; the key follows in base64.
const HEADER: &str = "postern-secrets-key-v1 ";
/// One line.
const FILE_BYTES_MAX: u64 = 256;
/// ChaCha20-Poly1305, under a random nonce of 96 bits: good for far more secrets than anybody types.
const V1: &str = "v1.";

#[derive(Serialize, Deserialize)]
struct KeyRecord {
    id: String,
}

/// Seals and opens. Cheap to clone; prints nothing of its key.
#[derive(Clone)]
pub struct Vault(Arc<Inside>);

struct Inside {
    key: LessSafeKey,
    id: String,
}

/// Why there is no vault. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("the key file {path} could not be read or written")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} may be read by other users: chmod 600 it")]
    Open { path: PathBuf },
    #[error("{path} holds no key of ours: put back the file that central wrote there")]
    Damaged { path: PathBuf },
    #[error(
        "secrets in the store are sealed with a key, but {path} is not there: put it back (a backup made by \
         posternctl has it)"
    )]
    Gone { path: PathBuf },
    #[error(
        "{path} holds another key than the one that secrets in the store are sealed with: put that one back"
    )]
    Foreign { path: PathBuf },
    #[error("no key could be made: this machine gives no random numbers")]
    NoRandom,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a text did not open. It never quotes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsealed {
    #[error("it was sealed by a newer version of central")]
    Version,
    #[error("it was changed, belongs somewhere else, or was sealed with another key")]
    Refused,
}

impl Vault {
    /// Opens the vault of `store`; its key is in `file`, or else in `data_dir`, where the first start makes one.
    pub async fn open(store: &SharedStore, data_dir: &Path, file: Option<&Path>) -> Result<Self, VaultError> {
        let path = Self::key_file(data_dir, file);
        let known = KEYS.get(&**store, &Owner::Central, RECORD).await?;
        let key = match (read(&path)?, &known) {
            (Some(key), _) => key,
            (None, Some(_)) => return Err(VaultError::Gone { path }),
            (None, None) => make(&path)?,
        };
        let vault = Self::with_key(&key);
        match known {
            Some(known) if known.value.id != vault.0.id => Err(VaultError::Foreign { path }),
            Some(_) => Ok(vault),
            None => {
                let record = KeyRecord { id: vault.0.id.clone() };
                let put = KEYS.put(&Owner::Central, RECORD, Precondition::Absent, &record)?;
                store.commit(Transaction::from(put)).await?;
                Ok(vault)
            }
        }
    }

    /// Where its key lies.
    pub fn key_file(data_dir: &Path, file: Option<&Path>) -> PathBuf {
        file.map_or_else(|| data_dir.join(FILE), Path::to_owned)
    }

    /// A vault with this key.
    pub fn with_key(key: &[u8; 32]) -> Self {
        #[expect(clippy::expect_used, reason = "the algorithm's keys have 32 bytes, as the type says")]
        let unbound = UnboundKey::new(&CHACHA20_POLY1305, key).expect("32 bytes");
        let mut hash = Sha256::new_with_prefix(b"postern secrets key id");
        hash.update(key);
        let id = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Self(Arc::new(Inside { key: LessSafeKey::new(unbound), id }))
    }

    /// Seals `secret` for `place`, which has to be named again to open it.
    pub fn seal(&self, place: &str, secret: &str) -> String {
        let nonce: [u8; NONCE_LEN] = rand::random();
        let mut bytes = secret.as_bytes().to_vec();
        let sealed = self.0.key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(place.as_bytes()),
            &mut bytes,
        );
        #[expect(clippy::expect_used, reason = "it fails beyond 256 GiB alone")]
        sealed.expect("a secret is short");
        format!("{V1}{}", STANDARD.encode([&nonce[..], &bytes].concat()))
    }

    /// Opens what was sealed for `place`.
    pub fn open_sealed(&self, place: &str, sealed: &str) -> Result<String, Unsealed> {
        let encoded = sealed.strip_prefix(V1).ok_or(Unsealed::Version)?;
        let mut bytes = STANDARD.decode(encoded).map_err(|_| Unsealed::Refused)?;
        let (nonce, rest) = bytes.split_at_mut_checked(NONCE_LEN).ok_or(Unsealed::Refused)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Unsealed::Refused)?;
        let opened = self.0.key.open_in_place(nonce, Aad::from(place.as_bytes()), rest);
        let opened = opened.map_err(|_| Unsealed::Refused)?;
        String::from_utf8(opened.to_vec()).map_err(|_| Unsealed::Refused)
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vault({})", self.0.id)
    }
}

/// The key in the file at `path`, if there is one.
fn read(path: &Path) -> Result<Option<[u8; 32]>, VaultError> {
    let failed = |source| VaultError::Io { path: path.to_owned(), source };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if secret_file::is_open_to_others(path).map_err(failed)? {
        return Err(VaultError::Open { path: path.to_owned() });
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    let key = text.trim().strip_prefix(HEADER).and_then(|key| STANDARD.decode(key).ok());
    let key = key.and_then(|key| <[u8; 32]>::try_from(key).ok());
    key.map(Some).ok_or_else(|| VaultError::Damaged { path: path.to_owned() })
}

/// A new key, on disk before anything is sealed with it.
fn make(path: &Path) -> Result<[u8; 32], VaultError> {
    let mut key = [0; 32];
    let random = ring::rand::SystemRandom::new();
    ring::rand::SecureRandom::fill(&random, &mut key).map_err(|_| VaultError::NoRandom)?;
    let text = format!("{HEADER}{}\n", STANDARD.encode(key));
    secret_file::write(path, text.as_bytes())
        .map_err(|source| VaultError::Io { path: path.to_owned(), source })?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    #[test]
    fn what_is_sealed_opens_in_its_own_place_and_nowhere_else() {
        let vault = Vault::with_key(&[7; 32]);
        let sealed = vault.seal("pager/secret/0", "canary ü");
        assert!(sealed.starts_with("v1.") && !sealed.contains("canary"), "{sealed}");
        assert_eq!(vault.open_sealed("pager/secret/0", &sealed).unwrap(), "canary ü");
        assert_eq!(vault.open_sealed("thief/secret/0", &sealed), Err(Unsealed::Refused));
        assert_eq!(Vault::with_key(&[8; 32]).open_sealed("pager/secret/0", &sealed), Err(Unsealed::Refused));
        assert_ne!(
            vault.seal("pager/secret/0", "canary ü"),
            sealed,
            "the same secret looks different each time"
        );
    }

    #[test]
    fn what_was_changed_or_is_no_sealed_text_does_not_open() {
        let vault = Vault::with_key(&[7; 32]);
        let sealed = vault.seal("a", "canary");
        for at in V1.len()..sealed.len() {
            let mut changed = sealed.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(vault.open_sealed("a", &changed), Err(Unsealed::Refused), "{changed}");
        }
        assert_eq!(vault.open_sealed("a", "v2.AAAA"), Err(Unsealed::Version));
        for odd in ["v1.", "v1.AAAA", "v1.?"] {
            assert_eq!(vault.open_sealed("a", odd), Err(Unsealed::Refused), "{odd}");
        }
    }

    #[tokio::test]
    async fn the_first_start_makes_a_key_and_the_next_ones_find_it() {
        let (folder, store) = (tempfile::tempdir().unwrap(), store());
        let sealed = Vault::open(&store, folder.path(), None).await.unwrap().seal("a", "canary");
        let again = Vault::open(&store, folder.path(), None).await.unwrap();
        assert_eq!(again.open_sealed("a", &sealed).unwrap(), "canary");
        assert!(!secret_file::is_open_to_others(&folder.path().join(FILE)).unwrap());
    }

    #[tokio::test]
    async fn a_key_that_is_gone_foreign_damaged_or_open_is_told_and_never_replaced() {
        let (folder, store) = (tempfile::tempdir().unwrap(), store());
        Vault::open(&store, folder.path(), None).await.unwrap();
        let path = folder.path().join(FILE);
        let key = fs::read(&path).unwrap();

        fs::remove_file(&path).unwrap();
        assert!(matches!(Vault::open(&store, folder.path(), None).await, Err(VaultError::Gone { .. })));
        assert!(!path.exists());
        secret_file::write(&path, format!("{HEADER}{}", STANDARD.encode([9; 32])).as_bytes()).unwrap();
        assert!(matches!(Vault::open(&store, folder.path(), None).await, Err(VaultError::Foreign { .. })));
        secret_file::write(&path, b"postern-secrets-key-v1 short").unwrap();
        assert!(matches!(Vault::open(&store, folder.path(), None).await, Err(VaultError::Damaged { .. })));
        #[cfg(unix)]
        {
            secret_file::write_public(&path, &key).unwrap();
            assert!(matches!(Vault::open(&store, folder.path(), None).await, Err(VaultError::Open { .. })));
        }
        secret_file::write(&path, &key).unwrap();
        Vault::open(&store, folder.path(), None).await.unwrap();
    }

    #[tokio::test]
    async fn the_operator_may_keep_the_key_elsewhere() {
        let (folder, elsewhere, store) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), store());
        let file = elsewhere.path().join("key");
        Vault::open(&store, folder.path(), Some(&file)).await.unwrap();
        assert!(file.exists() && !folder.path().join(FILE).exists());
    }

    fn store() -> SharedStore {
        Arc::new(MemoryStore::default())
    }
}
