//! What happened in an Environment, for people: a bounded, numbered list.
//!
//! Numbers have no holes and never come back, so whoever has seen number n asks for what is behind it.
//! The oldest events make room for new ones.

use proto::EnvironmentName;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::store::{
    Collection, Owner, Precondition, Revision, SharedStore, StoreError, Transaction, Versioned, Write,
};

const EVENTS: Collection<Event> = Collection::new("events");
/// One record under [`HEAD_KEY`]: which numbers are in use.
const HEADS: Collection<Head> = Collection::new("events_head");
const HEAD_KEY: &str = "head";

/// How many events an Environment keeps.
pub const EVENTS_MAX: u64 = 100_000;
/// The longest text of an event, in bytes.
pub const TEXT_BYTES_MAX: usize = 1024;
/// How many old events one append clears away at most, so that it stays quick.
pub(crate) const CLEARED_PER_APPEND: u64 = 16;
/// As in [`Collection::update`]: this many conflicts in a row are a fault.
const ATTEMPTS_MAX: usize = 64;

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Info,
    Warning,
    Error,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    pub seq: u64,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// One word per kind of event, for programs: `gateway_up`.
    pub code: String,
    pub severity: Severity,
    /// One sentence, for people.
    pub text: String,
    /// Who says so: `gateway`, `enrolment`, a Process Server's name …
    pub sender: String,
}

/// An event that has no number yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    pub code: &'static str,
    pub severity: Severity,
    pub text: String,
    pub sender: String,
}

impl Event {
    fn unnumbered(new: NewEvent, at: OffsetDateTime) -> Self {
        let NewEvent { code, severity, text, sender } = new;
        Self { seq: 0, at, code: code.into(), severity, text: cut(text), sender: cut(sender) }
    }
}

/// The numbers in use: from `oldest` up to, without, `next`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    oldest: u64,
    next: u64,
}

/// The events of one Environment. Cheap to clone. Followers watch the store's changes and list again.
#[derive(Clone)]
pub struct Events {
    store: SharedStore,
    owner: Owner,
    keep: u64,
}

impl Events {
    pub fn new(store: SharedStore, environment: &EnvironmentName) -> Self {
        Self { store, owner: environment.into(), keep: EVENTS_MAX }
    }

    /// Appends an event that happened `at`, and returns it with its number. A text that is too long is cut.
    pub async fn append(&self, new: NewEvent, at: OffsetDateTime) -> Result<Event, StoreError> {
        let (mut appended, _) = self.append_with(vec![new], at, Vec::new()).await?;
        // As many come back as went in.
        appended.pop().ok_or_else(|| StoreError::Conflict(HEADS.key(&self.owner, HEAD_KEY)))
    }

    /// Appends events in one transaction with other writes: all of it happens, or nothing. Returns them with their
    /// numbers, and the version of everything that was written.
    ///
    /// # Errors
    /// Also where a precondition of `others` does not hold: that is the caller's to decide anew.
    pub async fn append_with(
        &self,
        new: Vec<NewEvent>,
        at: OffsetDateTime,
        others: Vec<Write>,
    ) -> Result<(Vec<Event>, Revision), StoreError> {
        let head_key = HEADS.key(&self.owner, HEAD_KEY);
        let mut events: Vec<Event> = new.into_iter().map(|new| Event::unnumbered(new, at)).collect();
        for _ in 0..ATTEMPTS_MAX {
            let before = HEADS.get(&*self.store, &self.owner, HEAD_KEY).await?;
            let mut head = before.as_ref().map_or(Head { oldest: 1, next: 1 }, |before| before.value);
            let mut transaction = others.iter().cloned().fold(Transaction::new(), Transaction::with);
            for event in &mut events {
                event.seq = head.next;
                head.next += 1;
                transaction = transaction.with(EVENTS.put(
                    &self.owner,
                    &key(event.seq),
                    Precondition::Absent,
                    event,
                )?);
            }
            let surplus = (head.next - head.oldest).saturating_sub(self.keep).min(CLEARED_PER_APPEND);
            for _ in 0..surplus {
                let delete = EVENTS.delete(&self.owner, &key(head.oldest), Precondition::Any);
                transaction = transaction.with(delete);
                head.oldest += 1;
            }
            let unchanged = before.as_ref().map_or(Precondition::Absent, Versioned::unchanged);
            let transaction = transaction.with(HEADS.put(&self.owner, HEAD_KEY, unchanged, &head)?);
            match self.store.commit(transaction).await {
                Ok(revision) => return Ok((events, revision)),
                // Somebody else appended.
                Err(StoreError::Conflict(key)) if key == head_key || key.collection == EVENTS.name() => {}
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Conflict(head_key))
    }

    /// Up to `limit` events with numbers above `after`, oldest first.
    pub async fn list(&self, after: u64, limit: usize) -> Result<Vec<Event>, StoreError> {
        let records = EVENTS.page(&*self.store, &self.owner, Some(&key(after)), limit).await?;
        Ok(records.into_iter().map(|record| record.value).collect())
    }

    /// The newest `limit` events, oldest first.
    pub async fn newest(&self, limit: usize) -> Result<Vec<Event>, StoreError> {
        let head = HEADS.get(&*self.store, &self.owner, HEAD_KEY).await?;
        let next = head.map_or(1, |head| head.value.next);
        let after = next.saturating_sub(1).saturating_sub(u64::try_from(limit).unwrap_or(u64::MAX));
        self.list(after, limit).await
    }
}

/// Twenty digits hold every `u64`, so that the keys' order is the numbers' order.
fn key(seq: u64) -> String {
    format!("{seq:020}")
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn events_are_numbered_without_holes_also_when_many_speak_at_once() {
        let events = events(100);
        let speakers = (0..20).map(|n| {
            let events = events.clone();
            tokio::spawn(async move { say(&events, &n.to_string()).await })
        });
        for speaker in speakers.collect::<Vec<_>>() {
            speaker.await.unwrap();
        }
        assert_eq!(seqs(&events.list(0, 100).await.unwrap()), (1..=20).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn events_and_what_belongs_to_them_are_written_together_or_not_at_all() {
        const NOTES: Collection<String> = Collection::new("notes");
        let events = events(100);
        let note = NOTES.put(&events.owner, "n", Precondition::Absent, &"x".to_owned()).unwrap();
        let two = || vec![new("a"), new("b")];
        events.append_with(two(), OffsetDateTime::UNIX_EPOCH, vec![note.clone()]).await.unwrap();
        let again = events.append_with(two(), OffsetDateTime::UNIX_EPOCH, vec![note]).await;
        assert!(matches!(again, Err(StoreError::Conflict(key)) if key.collection == "notes"));
        assert_eq!(seqs(&events.list(0, 100).await.unwrap()), [1, 2]);
    }

    #[tokio::test]
    async fn the_oldest_make_room_for_the_new() {
        let events = events(3);
        for n in 0..5 {
            say(&events, &n.to_string()).await;
        }
        assert_eq!(seqs(&events.list(0, 100).await.unwrap()), [3, 4, 5]);
    }

    #[tokio::test]
    async fn a_smaller_retention_catches_up_step_by_step() {
        let mut events = events(100);
        for n in 0..40 {
            say(&events, &n.to_string()).await;
        }
        events.keep = 2;
        for n in 0..3 {
            say(&events, &n.to_string()).await;
        }
        assert_eq!(seqs(&events.list(0, 100).await.unwrap()), [42, 43]);
    }

    #[tokio::test]
    async fn one_who_has_seen_a_number_asks_for_what_is_behind_it() {
        let events = events(100);
        for n in 0..5 {
            say(&events, &n.to_string()).await;
        }
        assert_eq!(seqs(&events.list(3, 100).await.unwrap()), [4, 5]);
        assert_eq!(seqs(&events.list(3, 1).await.unwrap()), [4]);
        assert_eq!(seqs(&events.newest(2).await.unwrap()), [4, 5]);
        assert_eq!(seqs(&events.newest(99).await.unwrap()), [1, 2, 3, 4, 5]);
    }

    #[tokio::test]
    async fn a_long_text_is_cut_at_a_character() {
        let event = say(&events(9), &"ä".repeat(5000)).await;
        assert_eq!(event.text.len(), TEXT_BYTES_MAX);
    }

    async fn say(events: &Events, text: &str) -> Event {
        events.append(new(text), OffsetDateTime::UNIX_EPOCH).await.unwrap()
    }

    fn new(text: &str) -> NewEvent {
        NewEvent { code: "test", severity: Severity::Info, text: text.into(), sender: "gateway".into() }
    }

    fn seqs(events: &[Event]) -> Vec<u64> {
        events.iter().map(|event| event.seq).collect()
    }

    fn events(keep: u64) -> Events {
        let environment = "default".parse().unwrap();
        Events { keep, ..Events::new(Arc::new(MemoryStore::default()), &environment) }
    }
}
