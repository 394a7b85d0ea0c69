//! What every [`Store`] must do, whatever it is made of. Each implementation's tests call [`check`]
//! with an empty store.

use std::sync::Arc;

use serde_json::json;

use super::*;

/// Runs the whole contract against an empty store.
pub async fn check(store: Arc<dyn Store>) {
    what_was_put_is_read_back(&*store).await;
    versions_never_repeat_even_across_a_deletion(&*store).await;
    a_transaction_is_all_or_nothing(&*store).await;
    a_conflict_names_the_key(&*store).await;
    scans_are_ordered_bounded_and_stay_in_their_collection(&*store).await;
    owners_do_not_see_each_other(&*store).await;
    what_is_too_large_is_refused(&*store).await;
    a_key_is_written_once_per_transaction(&*store).await;
    every_commit_is_announced(&*store).await;
    of_many_writers_with_one_version_exactly_one_wins(store).await;
}

async fn what_was_put_is_read_back(store: &dyn Store) {
    assert_eq!(store.get(&key("read", "a")).await.unwrap(), None);
    let value = json!({"n": u64::MAX, "text": "ä\u{0}\u{2028}", "list": [null, true, 1.5]});
    let version = store.commit(put("read", "a", Precondition::Absent, value.clone()).into()).await.unwrap();
    let expected = Record { key: "a".into(), version, value };
    assert_eq!(store.get(&key("read", "a")).await.unwrap(), Some(expected));
}

async fn versions_never_repeat_even_across_a_deletion(store: &dyn Store) {
    let first = store.commit(put("again", "a", Precondition::Absent, json!(1)).into()).await.unwrap();
    store.commit(delete("again", "a", Precondition::Version(first)).into()).await.unwrap();
    let second = store.commit(put("again", "a", Precondition::Absent, json!(1)).into()).await.unwrap();
    assert!(second > first);
    let stale = put("again", "a", Precondition::Version(first), json!(2));
    assert!(matches!(store.commit(stale.into()).await, Err(StoreError::Conflict(_))));
    // Deleting what is not there is no error, unless the precondition says so.
    store.commit(delete("again", "ghost", Precondition::Any).into()).await.unwrap();
}

async fn a_transaction_is_all_or_nothing(store: &dyn Store) {
    let version = store.commit(put("both", "a", Precondition::Absent, json!(1)).into()).await.unwrap();
    let half_wrong = Transaction::new()
        .with(put("both", "a", Precondition::Version(version), json!(2)))
        .with(put("both", "b", Precondition::Any, json!(2)))
        .with(put("both", "c", Precondition::Version(1), json!(2)));
    assert!(matches!(store.commit(half_wrong).await, Err(StoreError::Conflict(_))));
    assert_eq!(store.get(&key("both", "a")).await.unwrap().unwrap().value, json!(1));
    assert_eq!(store.get(&key("both", "b")).await.unwrap(), None);

    let right = Transaction::new()
        .with(put("both", "b", Precondition::Absent, json!(3)))
        .with(Write { action: Action::Check, ..put("both", "a", Precondition::Version(version), json!(0)) })
        .with(delete("both", "c", Precondition::Absent));
    let revision = store.commit(right).await.unwrap();
    assert_eq!(store.get(&key("both", "b")).await.unwrap().unwrap().version, revision);
    // A check writes nothing, so the version stays.
    assert_eq!(store.get(&key("both", "a")).await.unwrap().unwrap().version, version);
}

async fn a_conflict_names_the_key(store: &dyn Store) {
    store.commit(put("named", "a", Precondition::Any, json!(1)).into()).await.unwrap();
    let error = store.commit(put("named", "a", Precondition::Absent, json!(2)).into()).await.unwrap_err();
    assert!(error.to_string().starts_with("default/named/a was changed"), "{error}");
}

async fn scans_are_ordered_bounded_and_stay_in_their_collection(store: &dyn Store) {
    for text in ["b", "a", "ä", "aa", "c"] {
        store.commit(put("scan", text, Precondition::Absent, json!(text)).into()).await.unwrap();
    }
    for neighbour in ["sca", "scan2", "scanb"] {
        store.commit(put(neighbour, "a", Precondition::Absent, json!(0)).into()).await.unwrap();
    }
    let keys = async |after: Option<&str>, limit| {
        let records = store.scan(&owner(), "scan", after, limit).await.unwrap();
        records.into_iter().map(|record| record.key).collect::<Vec<_>>()
    };
    assert_eq!(keys(None, 100).await, ["a", "aa", "b", "c", "ä"]);
    assert_eq!(keys(None, 2).await, ["a", "aa"]);
    assert_eq!(keys(Some("aa"), 2).await, ["b", "c"]);
    assert_eq!(keys(Some("aaa"), 1).await, ["b"]);
    assert_eq!(keys(Some("ä"), 9).await, [""; 0]);
    assert_eq!(keys(None, 0).await, [""; 0]);
}

async fn owners_do_not_see_each_other(store: &dyn Store) {
    let in_owner = |owner: Owner, value| Write {
        key: Key { owner, collection: "shared", key: "a".into() },
        precondition: Precondition::Absent,
        action: Action::Put(json!(value)),
    };
    let other = Owner::Environment("default.shared".parse().unwrap());
    let all = Transaction::new()
        .with(in_owner(owner(), 1))
        .with(in_owner(other.clone(), 2))
        .with(in_owner(Owner::Central, 3));
    store.commit(all).await.unwrap();
    for (owner, value) in [(owner(), 1), (other, 2), (Owner::Central, 3)] {
        let records = store.scan(&owner, "shared", None, 10).await.unwrap();
        assert_eq!(records.iter().map(|record| &record.value).collect::<Vec<_>>(), [&json!(value)]);
    }
}

async fn what_is_too_large_is_refused(store: &dyn Store) {
    let huge = put("large", "a", Precondition::Any, json!("x".repeat(VALUE_BYTES_MAX)));
    assert!(matches!(store.commit(huge.into()).await, Err(StoreError::Refused { .. })));
    let long = put("large", &"x".repeat(KEY_BYTES_MAX + 1), Precondition::Any, json!(1));
    assert!(matches!(store.commit(long.into()).await, Err(StoreError::Refused { .. })));
    let empty = put("large", "", Precondition::Any, json!(1));
    assert!(matches!(store.commit(empty.into()).await, Err(StoreError::Refused { .. })));
    let many = (0..=WRITES_MAX)
        .fold(Transaction::new(), |t, n| t.with(put("large", &n.to_string(), Precondition::Any, json!(n))));
    assert!(matches!(store.commit(many).await, Err(StoreError::Refused { .. })));
    assert_eq!(store.scan(&owner(), "large", None, 10).await.unwrap(), []);
}

async fn a_key_is_written_once_per_transaction(store: &dyn Store) {
    let twice = Transaction::new().with(put("twice", "a", Precondition::Absent, json!(1))).with(put(
        "twice",
        "a",
        Precondition::Absent,
        json!(2),
    ));
    assert!(matches!(store.commit(twice).await, Err(StoreError::Refused { .. })));
}

async fn every_commit_is_announced(store: &dyn Store) {
    let mut changes = store.changes();
    let before = *changes.borrow_and_update();
    let revision = store.commit(put("announced", "a", Precondition::Any, json!(1)).into()).await.unwrap();
    changes.changed().await.unwrap();
    assert_eq!(*changes.borrow_and_update(), revision);
    assert!(revision > before);
    // A refused transaction changes nothing and says nothing.
    store.commit(put("announced", "a", Precondition::Absent, json!(2)).into()).await.unwrap_err();
    assert!(!changes.has_changed().unwrap());
}

async fn of_many_writers_with_one_version_exactly_one_wins(store: Arc<dyn Store>) {
    for round in 0..8 {
        let name = round.to_string();
        let writers = (0..64).map(|n| {
            let (store, name) = (store.clone(), name.clone());
            tokio::spawn(async move {
                store.commit(put("race", &name, Precondition::Absent, json!(n)).into()).await
            })
        });
        let mut winners = 0;
        for writer in writers.collect::<Vec<_>>() {
            match writer.await.unwrap() {
                Ok(_) => winners += 1,
                Err(StoreError::Conflict(_)) => {}
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(winners, 1);
    }
}

fn owner() -> Owner {
    Owner::Environment("default".parse().unwrap())
}

fn key(collection: &'static str, key: &str) -> Key {
    Key { owner: owner(), collection, key: key.into() }
}

fn put(collection: &'static str, name: &str, precondition: Precondition, value: Value) -> Write {
    Write { key: key(collection, name), precondition, action: Action::Put(value) }
}

fn delete(collection: &'static str, name: &str, precondition: Precondition) -> Write {
    Write { key: key(collection, name), precondition, action: Action::Delete }
}
