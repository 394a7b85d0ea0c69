//! What the audit shows of a record that was changed: the fields named here and no others, so that no secret, and
//! no hash of one, gets into a log that is exported.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{
    alerts,
    store::{Action, Store, StoreError, Transaction, Write},
};

/// A longer one is recorded by its size and hash.
const SHOWN_BYTES_MAX: usize = 8 * 1024;

/// What became of one record.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Change {
    /// Its name, or its public id.
    pub(super) target: Option<String>,
    pub(super) before: Option<Value>,
    pub(super) after: Option<Value>,
}

/// The change a transaction is about: its first record of a kind that is shown. What is written counts before what
/// is deleted, which may be old things that make room.
pub(super) async fn change_of(store: &dyn Store, transaction: &Transaction) -> Result<Change, StoreError> {
    let put = |write: &&Write| matches!(write.action, Action::Put(_));
    let deleted = |write: &&Write| matches!(write.action, Action::Delete);
    let writes = transaction.writes().iter();
    for write in writes.clone().filter(put).chain(writes.filter(deleted)) {
        let Some(shown) = shown(write.key.collection) else { continue };
        let after = match &write.action {
            Action::Put(value) => Some(value.clone()),
            Action::Delete | Action::Check => None,
        };
        let before = store.get(&write.key).await?.map(|record| record.value);
        return Ok(change(shown, before, after));
    }
    Ok(Change::default())
}

/// How a collection is shown.
type Shown = fn(&Value) -> Value;

fn shown(collection: &str) -> Option<Shown> {
    Some(match collection {
        "destinations" => Value::clone,
        "process_servers" => |value| fields(value, &["name", "candidate"]),
        "users" => |value| fields(value, &["name", "role", "disabled"]),
        "api_tokens" => |value| fields(value, &["id", "name", "role", "expires_at"]),
        "enrollment_tokens" => |value| fields(value, &["id", "name", "expires_at"]),
        "sessions" => |value| fields(value, &["id", "user", "expires_at"]),
        "alert_settings" => alerts::settings_shown,
        "alert_deliveries" => |value| fields(value, &["id", "endpoint", "kind", "state"]),
        _ => return None,
    })
}

fn change(shown: Shown, before: Option<Value>, after: Option<Value>) -> Change {
    let (mut old, mut new) = (before.as_ref().map(shown), after.as_ref().map(shown));
    let named = |value: &Option<Value>| {
        let text = |field| value.as_ref()?.get(field)?.as_str().map(str::to_owned);
        text("name").or_else(|| text("id"))
    };
    let target = named(&new).or_else(|| named(&old));
    if let (Some(Value::Object(old)), Some(Value::Object(new))) = (&mut old, &mut new) {
        // What stays the same says nothing.
        let same: Vec<_> = old.iter().filter(|(field, value)| new.get(*field) == Some(*value)).collect();
        let same: Vec<String> = same.into_iter().map(|(field, _)| field.clone()).collect();
        for field in &same {
            old.remove(field);
            new.remove(field);
        }
    }
    // That a password is another one may be known; neither of the two may.
    if let (Some(before), Some(after), Some(Value::Object(new))) = (&before, &after, &mut new)
        && before.get("password") != after.get("password")
    {
        new.insert("password".into(), "changed".into());
    }
    Change { target, before: old.map(bounded), after: new.map(bounded) }
}

fn fields(value: &Value, names: &[&str]) -> Value {
    let pick = |name: &&str| value.get(*name).map(|value| ((*name).to_owned(), value.clone()));
    Value::Object(names.iter().filter_map(pick).collect::<Map<_, _>>())
}

/// Whole numbers only, as the hash wants it, and not too much of anything.
fn bounded(value: Value) -> Value {
    let text = value.to_string();
    if text.len() > SHOWN_BYTES_MAX {
        let hash: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
        return json!({ "bytes": text.len(), "sha256": hash });
    }
    whole(value)
}

fn whole(value: Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => Value::String(number.to_string()),
        Value::Array(items) => items.into_iter().map(whole).collect(),
        Value::Object(members) => {
            Value::Object(members.into_iter().map(|(name, value)| (name, whole(value))).collect())
        }
        plain => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_shown_and_never_a_password() {
        let user = |role: &str, password: &str| {
            Some(json!({"name": "anna", "role": role, "disabled": false, "password": password, "x": 1}))
        };
        let shown = shown("users").unwrap();
        let made = change(shown, None, user("viewer", "$argon2id$1"));
        assert_eq!(made.target.as_deref(), Some("anna"));
        assert_eq!(made.after, Some(json!({"name": "anna", "role": "viewer", "disabled": false})));
        let raised = change(shown, user("viewer", "$argon2id$1"), user("operator", "$argon2id$1"));
        assert_eq!(raised.target.as_deref(), Some("anna"));
        assert_eq!(
            (raised.before, raised.after),
            (Some(json!({"role": "viewer"})), Some(json!({"role": "operator"})))
        );
        let renewed = change(shown, user("viewer", "$argon2id$1"), user("viewer", "$argon2id$2"));
        assert_eq!(renewed.after, Some(json!({"password": "changed"})));
        let removed = change(shown, user("viewer", "$argon2id$1"), None);
        assert!(removed.after.is_none() && !removed.before.unwrap().to_string().contains("argon2"));
    }

    #[test]
    fn a_collection_that_nobody_described_is_not_shown() {
        assert!(shown("gateway_fence").is_none() && shown("one_time_links").is_none());
    }

    #[test]
    fn what_is_too_large_is_known_by_its_hash_and_fractions_are_text() {
        let large = bounded(json!({"x": "y".repeat(10_000)}));
        assert_eq!(large["bytes"], 10_008);
        assert_eq!(bounded(json!({"a": [1.5, 2]})), json!({"a": ["1.5", 2]}));
    }
}
