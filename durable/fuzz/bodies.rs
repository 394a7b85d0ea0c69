//! What the fuzz targets do with their bytes. Also run over the committed corpus by an ordinary test
//! (`durable/tests/corpus.rs`), so each is compiled into several programs that use only a part.
#![allow(dead_code, reason = "each program uses a part")]
#![allow(clippy::expect_used, reason = "a panic is how a fuzz target says that something is wrong")]

use durable::{Guard, GuardError, record};
use serde_json::Value;

/// Stored bytes of any kind: read back as what was written, or known to be damaged. Two bytes say which bit flips,
/// one how long the key is; the rest is the value.
pub(crate) fn record(data: &[u8]) {
    // As bytes that nobody wrote: whatever they are, they are refused or read, and nothing worse.
    let _ = record::decode::<Value>(b"key", data);
    let Some((&[low, high, length], rest)) = data.split_first_chunk::<3>() else { return };
    let (key, json) = rest.split_at(usize::from(length).min(rest.len()));
    let Ok(value) = serde_json::from_slice::<Value>(json) else { return };
    // Nobody stores fractions, and JSON's do not read as they were written to the last bit.
    if has_fraction(&value) {
        return;
    }
    let mut stored = record::encode(key, &value).expect("JSON can be stored");
    assert_eq!(record::decode::<Value>(key, &stored).expect("what was stored is read"), value);
    let mut other = key.to_vec();
    other.push(0);
    assert!(record::decode::<Value>(&other, &stored).is_err(), "read under another key");
    let bit = usize::from(u16::from_le_bytes([low, high])) % (stored.len() * 8);
    if let Some(byte) = stored.get_mut(bit / 8) {
        *byte ^= 1 << (bit % 8);
    }
    assert!(record::decode::<Value>(key, &stored).is_err(), "a flipped bit was not noticed");
}

fn has_fraction(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(all) => all.iter().any(has_fraction),
        Value::Object(all) => all.values().any(has_fraction),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}

/// A guard file with these bytes over its own: its newest whole slot is read, or it is damaged. The first two bytes say
/// where they lie. One that opens can be written and remembers it.
pub(crate) fn guard(data: &[u8]) {
    let Some((&place, bytes)) = data.split_first_chunk::<2>() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("guard");
    let (guard, _) = Guard::<Value>::open(&path).expect("a new guard");
    let written = [Value::from(1), Value::from(2)];
    written.iter().for_each(|value| guard.write(value).expect("it is written"));
    drop(guard);
    let mut file = std::fs::read(&path).expect("the file");
    let start = usize::from(u16::from_le_bytes(place)) % file.len();
    let end = (start + bytes.len()).min(file.len());
    file[start..end].copy_from_slice(&bytes[..end - start]);
    std::fs::write(&path, &file).expect("the file");

    match Guard::<Value>::open(&path) {
        Ok((guard, held)) => {
            let held = held.expect("something was written before");
            assert!(written.contains(&held), "it remembers what nobody wrote: {held}");
            guard.write(&Value::from(3)).expect("it is written");
            drop(guard);
            let (_, held) = Guard::<Value>::open(&path).expect("it is whole again");
            assert_eq!(held, Some(Value::from(3)));
        }
        Err(GuardError::Damaged { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}
