//! Makes a data directory of a backup, whole or not at all.
//!
//! A restored central does not know what was granted after the backup was made: epochs, generations, node ids. What it
//! knows of them may be an older past, and an agent of that past must not be admitted. So nothing that was ever granted
//! stays good: every number begins anew above a floor that no central before it can have reached, every gateway group is
//! dissolved, and candidates that come back found it anew under a generation above the floor. The floor is the wall
//! clock's milliseconds, so that two restores of one backup do not grant the same either.

use std::{
    fs,
    io::{self, BufRead},
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use durable::Durable;
use serde_json::Value;
use time::OffsetDateTime;

use super::{
    OpenError,
    content::{ContentError, Counted, Line, place, verify},
};
use crate::{
    enrolment::{secret_file, token},
    gateway::fence,
    people,
    process_server::group,
    store::{
        Dumped,
        sled::{OpenStoreError, Restoring},
    },
};

/// What must not come back: a session that was ended since, a token that was redeemed since.
const LEFT_OUT: [&str; 3] = [people::SESSIONS, people::ONE_TIME_LINKS, token::COLLECTION];

/// A backup that was restored.
#[derive(Debug)]
pub struct Restored {
    pub counted: Counted,
    /// Every epoch from now on is above this one's group.
    pub floor: u64,
}

/// Why nothing was restored. The data directory is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(
        "{path} is there and not empty: a backup is restored into a new data directory only; move the old one away, \
         and keep its central stopped for ever"
    )]
    NotEmpty { path: PathBuf },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error(
        "the record {0} of the backup is none that this version of central can raise above its past: {1}"
    )]
    Record(String, String),
    #[error("{path} could not be written")]
    Write { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Disk(#[from] durable::OpenError),
    #[error(transparent)]
    Store(#[from] OpenStoreError),
}

/// Restores `content` into `data_dir`, which must be empty or not there. Blocks.
///
/// Everything is written beside it under another name, and gets its name when the last line was verified.
pub fn restore(
    content: impl BufRead,
    data_dir: &Path,
    now: OffsetDateTime,
) -> Result<Restored, RestoreError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| RestoreError::Write { path, source }
    };
    match fs::read_dir(data_dir).map(Iterator::count) {
        Ok(0) => {}
        Ok(_) => return Err(RestoreError::NotEmpty { path: data_dir.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(data_dir)(error)),
    }
    let parent = match data_dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Removed with everything in it, but for the state inside that is given its name at the end.
    let building =
        tempfile::Builder::new().prefix(".restoring-").tempdir_in(parent).map_err(failed(parent))?;
    let state = building.path().join("state");
    secret_file::create_folder(&state).map_err(failed(&state))?;
    let restored = build(content, &state, now)?;
    let named = || {
        match fs::remove_dir(data_dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::rename(&state, data_dir)?;
        // The new name must survive a power cut too; elsewhere directories cannot be opened for that.
        #[cfg(unix)]
        fs::File::open(parent)?.sync_all()?;
        Ok(())
    };
    named().map_err(failed(data_dir))?;
    Ok(restored)
}

fn build(content: impl BufRead, folder: &Path, now: OffsetDateTime) -> Result<Restored, RestoreError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| RestoreError::Write { path, source }
    };
    for made in [folder.join("ca"), folder.join("guards")] {
        secret_file::create_folder(&made).map_err(failed(&made))?;
    }
    let disk = Durable::open(folder.join("db"))?;
    let mut store = Restoring::begin(&disk)?;
    let floor = u64::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
    let mut highest = floor;
    let counted = verify(content, |line| {
        match line {
            Line::Begin { revision, .. } => store.at_least(revision),
            Line::File { path, private, content } => {
                let (Some(at), Ok(bytes)) = (place(folder, &path), STANDARD.decode(&content)) else {
                    return Err(ContentError::Path(path).into());
                };
                let write = if private { secret_file::write } else { secret_file::write_public };
                write(&at, &bytes).map_err(failed(&at))?;
            }
            Line::Record(record) if LEFT_OUT.contains(&record.collection.as_str()) => {}
            Line::Record(record) => {
                let record = raised(record, floor, &mut highest)?;
                store.put(&record)?;
            }
            Line::End(_) => {}
        }
        Ok::<_, RestoreError>(())
    })?;
    store.finish(&folder.join("guards").join("store.guard"))?;
    Ok(Restored { counted, floor: highest })
}

/// The record as a restored central may have it.
fn raised(mut record: Dumped, floor: u64, highest: &mut u64) -> Result<Dumped, RestoreError> {
    let raise: fn(Value, u64) -> Result<(Value, u64), serde_json::Error> = match record.collection.as_str() {
        group::COLLECTION => group::restored,
        fence::COLLECTION => fence::restored,
        _ => return Ok(record),
    };
    let name = format!("{}/{}", record.collection, record.key);
    let (value, raised) =
        raise(record.value, floor).map_err(|error| RestoreError::Record(name, error.to_string()))?;
    *highest = raised.max(*highest);
    record.value = value;
    Ok(record)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        backup::Content,
        store::{Action, Key, Owner, Precondition, SharedStore, Transaction, Write, sled::SledStore},
    };

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-21 21:00 UTC);

    #[tokio::test]
    async fn a_store_comes_back_with_its_versions_and_without_what_must_not() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        let store = open(&old);
        let version = put(&store, "destinations", "db", json!({"url": "tcp://db:1"})).await;
        put(&store, "sessions", "somebody", json!({})).await;
        put(&store, "enrollment_tokens", "hash", json!({})).await;
        let group = json!({"generation": 3, "last_node": 9, "roster_revision": 4, "group": null});
        put(&store, "gateway_group", "gateway", group).await;
        fs::write(old.join("ca.pem"), "the CA").unwrap();
        let content = content(&store, &old).await;

        let restored = restore(&*content, &new, NOW).unwrap();
        assert_eq!((restored.counted.records, restored.counted.files), (4, 1));
        let store = open(&new);
        let db = store.get(&key("destinations", "db")).await.unwrap().unwrap();
        assert_eq!((db.version, db.value), (version, json!({"url": "tcp://db:1"})));
        for left_out in [key("sessions", "somebody"), key("enrollment_tokens", "hash")] {
            assert_eq!(store.get(&left_out).await.unwrap(), None);
        }
        let group = store.get(&key("gateway_group", "gateway")).await.unwrap().unwrap().value;
        assert_eq!(group["generation"], restored.floor);
        assert!(put(&store, "destinations", "more", json!({})).await > version, "versions go on");
        assert_eq!(fs::read_to_string(new.join("ca.pem")).unwrap(), "the CA");
        #[cfg(unix)]
        assert!(!secret_file::is_open_to_others(&new).unwrap());
    }

    #[tokio::test]
    async fn what_breaks_off_or_has_no_empty_place_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let old = folder.path().join("old");
        let store = open(&old);
        put(&store, "destinations", "db", json!({})).await;
        let content = content(&store, &old).await;
        drop(store);

        let new = folder.path().join("new");
        assert!(restore(&content[..content.len() - 2], &new, NOW).is_err());
        assert!(matches!(restore(&*content, &old, NOW), Err(RestoreError::NotEmpty { .. })));
        let left: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["old"]);
        fs::create_dir(&new).unwrap();
        restore(&*content, &new, NOW).unwrap();
    }

    fn open(data_dir: &Path) -> SharedStore {
        secret_file::create_folder(&data_dir.join("guards")).unwrap();
        let disk = Durable::open(data_dir.join("db")).unwrap();
        std::sync::Arc::new(SledStore::open(&disk, &data_dir.join("guards/store.guard")).unwrap())
    }

    async fn content(store: &SharedStore, data_dir: &Path) -> Vec<u8> {
        let content = Content::of(&**store, data_dir, &data_dir.join("secrets.key")).await.unwrap();
        content.flat_map(|line| line.unwrap()).collect()
    }

    async fn put(store: &SharedStore, collection: &'static str, name: &str, value: Value) -> u64 {
        let write =
            Write { key: key(collection, name), precondition: Precondition::Any, action: Action::Put(value) };
        store.commit(Transaction::from(write)).await.unwrap()
    }

    fn key(collection: &'static str, name: &str) -> Key {
        Key { owner: Owner::Environment("default".parse().unwrap()), collection, key: name.into() }
    }
}
