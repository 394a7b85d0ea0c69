//! One request's way into the log: who and what are noted as they become known, the record is written with the
//! request's first commit, or else behind its answer.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use proto::EnvironmentName;
use serde::Serialize;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{sync::watch, time::Instant};
use tracing::error;

use super::{
    log::AuditLog,
    refusals::Refusals,
    shown::{self, Change},
};
use crate::store::{Dumped, Key, Owner, Record, Revision, SharedStore, Store, StoreError, Transaction};

/// The longest text of one field, in bytes.
const TEXT_BYTES_MAX: usize = 512;

/// The logs of all Environments. Cheap to clone.
#[derive(Clone)]
pub struct Audit {
    store: SharedStore,
    refusals: Arc<Mutex<Refusals>>,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The change is written.
    Done,
    /// The request was wrong, or not its sender's to make.
    Refused,
    /// Central could not.
    Failed,
}

/// What is known of a request. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Trail(Arc<Inner>);

struct Inner {
    audit: Audit,
    action: String,
    target: Option<String>,
    from: Option<IpAddr>,
    request_id: String,
    state: Mutex<State>,
}

struct State {
    environment: EnvironmentName,
    /// As the record has it.
    who: Value,
    /// Under which name refusals are counted.
    whom: String,
    written: bool,
}

impl Audit {
    pub fn new(store: SharedStore) -> Self {
        Self { store, refusals: Arc::default() }
    }

    /// The log of one Environment.
    pub fn log(&self, environment: &EnvironmentName) -> AuditLog {
        AuditLog::new(self.store.clone(), environment)
    }

    /// Begins a request that may change something. Until [`Trail::by`] it is nobody's, and a matter of
    /// `environment`.
    pub fn begin(
        &self,
        environment: EnvironmentName,
        action: String,
        target: Option<String>,
        from: Option<IpAddr>,
        request_id: String,
    ) -> Trail {
        let state =
            State { environment, who: json!({ "kind": "nobody" }), whom: "nobody".into(), written: false };
        let target = target.map(cut);
        Trail(Arc::new(Inner {
            audit: self.clone(),
            action,
            target,
            from,
            request_id,
            state: Mutex::new(state),
        }))
    }
}

impl Trail {
    /// Says whose it is: `who` as it is shown, `whom` as refusals are counted.
    pub fn by(&self, environment: &EnvironmentName, who: Value, whom: String) {
        let mut state = self.state();
        state.environment = environment.clone();
        state.who = who;
        state.whom = whom;
    }

    /// A store whose first commit also writes this request's record.
    pub fn store(&self) -> SharedStore {
        Arc::new(TrailStore { inner: self.0.audit.store.clone(), trail: self.clone() })
    }

    /// The answer is decided: writes what the store has not written yet.
    pub async fn end(&self, status: u16, code: Option<&str>) {
        let outcome = match status {
            0..400 => Outcome::Done,
            400..500 => Outcome::Refused,
            _ => Outcome::Failed,
        };
        let (written, whom) = {
            let state = self.state();
            (state.written, format!("{}/{}", state.environment, state.whom))
        };
        let suppressed = match outcome {
            Outcome::Done if written => return,
            Outcome::Done => 0,
            Outcome::Refused | Outcome::Failed => {
                let mut refusals = self.0.audit.refusals.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(suppressed) = refusals.record(&whom, Instant::now()) else { return };
                suppressed
            }
        };
        let answer = Answer { outcome, status: Some(status), code: code.map(str::to_owned), suppressed };
        let record = self.record(&Change::default(), &answer);
        if let Err(error) = self.log().append(&record, &Transaction::new()).await {
            error!(%error, %record, "A request could not be written into the audit log");
        }
    }

    fn log(&self) -> AuditLog {
        self.0.audit.log(&self.state().environment)
    }

    fn record(&self, change: &Change, answer: &Answer) -> Value {
        let Inner { action, target, from, request_id, .. } = &*self.0;
        let state = self.state();
        // A date that cannot be written is none of ours; it would not stop a change.
        let at = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        json!({
            "at": at,
            "environment": state.environment,
            "who": state.who,
            "from": from,
            "action": action,
            "target": target.clone().or_else(|| change.target.clone().map(cut)),
            "before": change.before,
            "after": change.after,
            "outcome": answer.outcome,
            "status": answer.status,
            "code": answer.code,
            "request_id": request_id,
            "suppressed": answer.suppressed,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nobody panics with the lock held.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Two handles of the same request are equal.
impl PartialEq for Trail {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Trail {}

impl std::fmt::Debug for Trail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Trail({} {})", self.0.request_id, self.0.action)
    }
}

struct Answer {
    outcome: Outcome,
    status: Option<u16>,
    code: Option<String>,
    suppressed: u64,
}

/// The store, with a record beside the first commit. What else the request writes is part of the same action.
struct TrailStore {
    inner: SharedStore,
    trail: Trail,
}

#[async_trait]
impl Store for TrailStore {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        self.inner.get(key).await
    }

    async fn scan(
        &self,
        owner: &Owner,
        collection: &'static str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        self.inner.scan(owner, collection, after, limit).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, StoreError> {
        if self.trail.state().written {
            return self.inner.commit(transaction).await;
        }
        let change = shown::change_of(&*self.inner, &transaction).await?;
        // What the answer will be is not known yet; that the change is written is.
        let answer = Answer { outcome: Outcome::Done, status: None, code: None, suppressed: 0 };
        let record = self.trail.record(&change, &answer);
        let revision = self.trail.log().append(&record, &transaction).await?;
        self.trail.state().written = true;
        Ok(revision)
    }

    async fn dump(&self) -> Result<(Revision, Vec<Dumped>), StoreError> {
        self.inner.dump().await
    }

    fn changes(&self) -> watch::Receiver<Revision> {
        self.inner.changes()
    }
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}
