//! Links that work once: the set-up of the first administrator, and dev's way into the UI.

use proto::{EnvironmentName, Name};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::secret::Secret;
use crate::store::{Collection, Owner, Precondition, SharedStore, StoreError, Transaction, Versioned, Write};

/// By the secret's hash, under central itself.
pub(super) const LINKS: Collection<Link> = Collection::new("one_time_links");
/// Each start leaves one an Environment at most, and clears the old ones.
const CLEARED_AT_ONCE: usize = 100;

/// What a link is good for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Purpose {
    /// Making the Environment's first user.
    SetUp,
    /// Signing in as this user.
    SignIn { user: Name },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Link {
    pub(super) environment: EnvironmentName,
    pub(super) purpose: Purpose,
    #[serde(with = "time::serde::rfc3339")]
    expires_at: OffsetDateTime,
}

/// Makes one that works until `expires_at`.
pub(super) async fn make(
    store: &SharedStore,
    environment: &EnvironmentName,
    purpose: Purpose,
    expires_at: OffsetDateTime,
) -> Result<Secret, StoreError> {
    let secret = Secret::random();
    let link = Link { environment: environment.clone(), purpose, expires_at };
    let put = LINKS.put(&Owner::Central, &secret.key(), Precondition::Absent, &link)?;
    store.commit(put.into()).await?;
    Ok(secret)
}

/// The link, if it still works.
pub(super) async fn find(
    store: &SharedStore,
    secret: &Secret,
    now: OffsetDateTime,
) -> Result<Option<Versioned<Link>>, StoreError> {
    let link = LINKS.get(&**store, &Owner::Central, &secret.key()).await?;
    Ok(link.filter(|link| now < link.value.expires_at))
}

/// The write that uses a link up: whoever commits it first has had it.
pub(super) fn redemption(link: &Versioned<Link>) -> Write {
    LINKS.delete(&Owner::Central, &link.key, link.unchanged())
}

/// Makes all invalid: those of an earlier run lie in logs and files by now.
pub(super) async fn clear(store: &SharedStore) -> Result<(), StoreError> {
    loop {
        let some = LINKS.page(&**store, &Owner::Central, None, CLEARED_AT_ONCE).await?;
        if some.is_empty() {
            return Ok(());
        }
        let transaction = some.iter().fold(Transaction::new(), |transaction, link| {
            transaction.with(LINKS.delete(&Owner::Central, &link.key, Precondition::Any))
        });
        store.commit(transaction).await?;
    }
}
