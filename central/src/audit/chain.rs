//! The chain itself: what is hashed, and whether records follow each other. Pure; `posternctl` uses it offline.
//!
//! `hash` is the SHA-256, in small hexadecimal digits, of the record's canonical JSON without `hash`: members sorted
//! by name, no white space, UTF-8, numbers whole. `prev` is the `hash` of the record before.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// What the first record of all follows.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A place in the chain: a record's number and hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    pub seq: u64,
    pub hash: String,
}

impl Default for Anchor {
    fn default() -> Self {
        Self { seq: 0, hash: GENESIS.into() }
    }
}

impl std::str::FromStr for Anchor {
    type Err = String;

    /// `SEQ:HASH`, as it is printed.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "a head is written SEQ:HASH, as posternctl audit --verify prints it".to_owned();
        let (seq, hash) = text.split_once(':').ok_or_else(wrong)?;
        let is_hash = hash.len() == GENESIS.len() && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        let seq = seq.parse().map_err(|_| wrong())?;
        if is_hash { Ok(Self { seq, hash: hash.to_ascii_lowercase() }) } else { Err(wrong()) }
    }
}

/// Where the chain breaks first, and how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {seq} {why}")]
pub struct Broken {
    pub seq: u64,
    pub why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    #[error("is missing: record {0} stands in its place")]
    Missing(u64),
    #[error("does not follow the one before: one of the two was changed or exchanged")]
    DoesNotFollow,
    #[error("was changed: its content has another hash")]
    Changed,
    #[error("has another hash than the head that was kept: the log was rewritten")]
    NotTheHead,
    #[error("is no record: {0}")]
    Unreadable(String),
    #[error("is missing: the log was cut off before it")]
    CutOff,
}

/// Reads records one after the other.
#[derive(Debug, Clone)]
pub struct Chain {
    first: u64,
    last: Anchor,
    /// Heads that somebody kept: the chain must pass through them.
    kept: Vec<Anchor>,
}

impl Chain {
    /// A chain whose first record follows `anchor`.
    pub fn behind(anchor: Anchor) -> Self {
        Self { first: anchor.seq + 1, last: anchor, kept: Vec::new() }
    }

    /// The same, and it must pass through `kept`. One from before the anchor can no longer be asked for.
    ///
    /// # Errors
    /// If `kept` is the anchor's own number with another hash.
    pub fn through(mut self, kept: Anchor) -> Result<Self, Broken> {
        if kept.seq == self.last.seq && kept.hash != self.last.hash {
            return Err(Broken { seq: kept.seq, why: Why::NotTheHead });
        }
        self.kept.push(kept);
        Ok(self)
    }

    /// The next record.
    ///
    /// # Errors
    /// Where the chain breaks; it does not go on from there.
    pub fn take(&mut self, record: &Value) -> Result<(), Broken> {
        let seq = self.last.seq + 1;
        let broken = |why| Broken { seq, why };
        let text = |field: &str| record.get(field).and_then(Value::as_str);
        let unreadable = |field: &str| broken(Why::Unreadable(format!("it has no {field}")));
        let found = record.get("seq").and_then(Value::as_u64).ok_or_else(|| unreadable("seq"))?;
        if found != seq {
            return Err(broken(Why::Missing(found)));
        }
        let prev = text("prev").ok_or_else(|| unreadable("prev"))?;
        let hash = text("hash").ok_or_else(|| unreadable("hash"))?;
        if prev != self.last.hash {
            return Err(broken(Why::DoesNotFollow));
        }
        if hash != hash_of(record) {
            return Err(broken(Why::Changed));
        }
        self.last = Anchor { seq, hash: hash.to_owned() };
        match self.kept.iter().any(|kept| kept.seq == seq && kept.hash != self.last.hash) {
            true => Err(broken(Why::NotTheHead)),
            false => Ok(()),
        }
    }

    /// Whether this is the chain's very first record that did not come: it may just have made room.
    pub fn is_beginning(&self, broken: &Broken) -> bool {
        broken.seq == self.first && matches!(broken.why, Why::Missing(_))
    }

    /// The last record; the anchor where none came.
    pub fn head(&self) -> &Anchor {
        &self.last
    }

    /// There are no more records.
    ///
    /// # Errors
    /// If a head that was kept did not come.
    pub fn end(self) -> Result<Anchor, Broken> {
        match self.kept.iter().any(|kept| kept.seq > self.last.seq) {
            true => Err(Broken { seq: self.last.seq + 1, why: Why::CutOff }),
            false => Ok(self.last),
        }
    }
}

/// The hash that `record` should have.
pub fn hash_of(record: &Value) -> String {
    let mut input = String::new();
    match record {
        Value::Object(members) => {
            let without =
                members.iter().filter(|(name, _)| *name != "hash").map(|(n, v)| (n.clone(), v.clone()));
            write_canonical(&Value::Object(without.collect()), &mut input);
        }
        other => write_canonical(other, &mut input),
    }
    Sha256::digest(input).iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a string does not fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Sorted here and not trusted to the JSON library, whose maps keep their order if some crate asks it to.
fn write_canonical(value: &Value, into: &mut String) {
    match value {
        Value::Array(items) => {
            into.push('[');
            for (number, item) in items.iter().enumerate() {
                if number > 0 {
                    into.push(',');
                }
                write_canonical(item, into);
            }
            into.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            into.push('{');
            for (number, (name, item)) in members.into_iter().enumerate() {
                if number > 0 {
                    into.push(',');
                }
                into.push_str(&Value::String(name.clone()).to_string());
                into.push(':');
                write_canonical(item, into);
            }
            into.push('}');
        }
        plain => into.push_str(&plain.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_hash_is_the_one_that_is_documented() {
        let record = json!({
            "seq": 1, "prev": GENESIS, "action": "users.create", "target": "änna\n\"x\"\u{7}",
            "after": {"role": "viewer", "b": [true, null, 7]}, "hash": "does not count"
        });
        // sha256sum of the line in docs/audit.md.
        assert_eq!(hash_of(&record), "2bcf9cfe7fc06ea66b1031cfe7ab5986b970931b64f109414d1146467fe23004");
    }

    #[test]
    fn an_untouched_chain_is_whole() {
        assert_eq!(verify(&chain_of(20), None).unwrap().seq, 20);
        assert_eq!(verify(&[], None).unwrap(), Anchor::default());
    }

    #[test]
    fn each_kind_of_tampering_is_found_where_it_happened() {
        let whole = chain_of(20);
        let tampered = |tamper: &dyn Fn(&mut Vec<Value>)| {
            let mut records = whole.clone();
            tamper(&mut records);
            verify(&records, None).unwrap_err()
        };
        let broken = |seq, why| Broken { seq, why };
        assert_eq!(tampered(&|all| all[6]["action"] = "nothing".into()), broken(7, Why::Changed));
        assert_eq!(tampered(&|all| all[6]["extra"] = 1.into()), broken(7, Why::Changed));
        assert_eq!(tampered(&|all| drop(all.remove(6))), broken(7, Why::Missing(8)));
        assert_eq!(tampered(&|all| all.swap(6, 7)), broken(7, Why::Missing(8)));
        assert_eq!(tampered(&|all| all.insert(6, all[5].clone())), broken(7, Why::Missing(6)));
        // Whoever also mends the hash breaks the next one.
        let mended = tampered(&|all| {
            all[6]["action"] = "nothing".into();
            all[6]["hash"] = hash_of(&all[6]).into();
        });
        assert_eq!(mended, broken(8, Why::DoesNotFollow));
        let renumbered = tampered(&|all| {
            all.remove(6);
            for record in &mut all[6..] {
                record["seq"] = (record["seq"].as_u64().unwrap() - 1).into();
            }
        });
        assert_eq!(renumbered, broken(7, Why::DoesNotFollow));
        let no_number = tampered(&|all| all[6] = json!({}));
        assert!(matches!(no_number, Broken { seq: 7, why: Why::Unreadable(_) }));
    }

    #[test]
    fn what_is_cut_off_at_the_end_is_missed_by_whoever_kept_the_head() {
        let whole = chain_of(20);
        let head = verify(&whole, None).unwrap();
        assert_eq!(verify(&whole, Some(head.clone())), Ok(head.clone()));
        assert_eq!(verify(&whole[..12], None).unwrap().seq, 12, "nobody can see it without a head");
        let cut = verify(&whole[..12], Some(head.clone())).unwrap_err();
        assert_eq!(cut, Broken { seq: 13, why: Why::CutOff });
        // A log that was written anew from record 5 on holds together, but does not pass through the head.
        let mut anew = whole[..5].to_vec();
        extend(&mut anew, 20, "forged");
        assert_eq!(verify(&anew, None).unwrap().seq, 20);
        assert_eq!(verify(&anew, Some(head)).unwrap_err(), Broken { seq: 20, why: Why::NotTheHead });
    }

    #[test]
    fn a_log_whose_beginning_went_is_whole_behind_its_anchor_and_behind_no_other() {
        let whole = chain_of(20);
        let anchor = Anchor { seq: 8, hash: whole[7]["hash"].as_str().unwrap().to_owned() };
        let behind = |anchor: Anchor| {
            let mut chain = Chain::behind(anchor);
            whole[8..].iter().try_for_each(|record| chain.take(record)).map(|()| chain.head().seq)
        };
        assert_eq!(behind(anchor.clone()), Ok(20));
        let other = Anchor { hash: GENESIS.into(), ..anchor };
        assert_eq!(behind(other), Err(Broken { seq: 9, why: Why::DoesNotFollow }));
    }

    proptest! {
        #[test]
        fn one_changed_byte_anywhere_is_found(line in 0_usize..20, at in 0_usize..1000, byte in 32_u8..127) {
            let mut lines: Vec<String> = chain_of(20).iter().map(Value::to_string).collect();
            let at = at % lines[line].len();
            prop_assume!(lines[line].as_bytes()[at] != byte && lines[line].is_char_boundary(at + 1));
            lines[line].replace_range(at..=at, &char::from(byte).to_string());
            let read: Result<Vec<Value>, _> = lines.iter().map(|line| serde_json::from_str(line)).collect();
            // No JSON any more is found too.
            if let Ok(records) = read {
                prop_assert!(verify(&records, None).is_err());
            }
        }
    }

    fn verify(records: &[Value], kept: Option<Anchor>) -> Result<Anchor, Broken> {
        let mut chain = Chain::behind(Anchor::default());
        if let Some(kept) = kept {
            chain = chain.through(kept)?;
        }
        records.iter().try_for_each(|record| chain.take(record))?;
        chain.end()
    }

    fn chain_of(length: u64) -> Vec<Value> {
        let mut records = Vec::new();
        extend(&mut records, length, "users.create");
        records
    }

    fn extend(records: &mut Vec<Value>, length: u64, action: &str) {
        for seq in records.len() as u64 + 1..=length {
            let prev = records.last().map_or(GENESIS.into(), |last| last["hash"].clone());
            let mut record = json!({"seq": seq, "action": action, "target": seq.to_string(), "prev": prev});
            record["hash"] = hash_of(&record).into();
            records.push(record);
        }
    }
}
