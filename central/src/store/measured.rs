//! A store that counts: how long each kind of access takes, and how many failed. For `/metrics`.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use prometheus_client::{
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};
use tokio::sync::watch;

use super::{Dumped, Key, Owner, Record, Revision, SharedStore, Store, StoreError, Transaction};

type Labels = [(&'static str, &'static str); 2];

/// From a read out of memory to a disk that is about to fail, seconds.
const DURATIONS: [f64; 8] = [0.000_1, 0.000_5, 0.002, 0.01, 0.05, 0.2, 1.0, 5.0];

/// What was counted. Clones are the same.
#[derive(Debug, Clone)]
pub struct StoreTimings {
    backend: &'static str,
    durations: Family<Labels, Histogram>,
    errors: Family<Labels, Counter>,
}

impl StoreTimings {
    /// Of a store of this kind: `sled`.
    pub fn of(backend: &'static str) -> Self {
        let begin: fn() -> Histogram = || Histogram::new(DURATIONS);
        let durations = Family::new_with_constructor(begin);
        Self { backend, durations, errors: Family::default() }
    }

    /// Puts what was counted where it is asked for.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "storage_op_duration_seconds",
            "Of one access to the store",
            self.durations.clone(),
        );
        registry.register("storage_errors", "Accesses that the store could not serve", self.errors.clone());
    }

    fn note<T>(
        &self,
        op: &'static str,
        began: Instant,
        result: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let labels = [("backend", self.backend), ("op", op)];
        self.durations.get_or_create(&labels).observe(began.elapsed().as_secs_f64());
        match &result {
            // Somebody else was faster: that is what versions are for.
            Ok(_) | Err(StoreError::Conflict(_) | StoreError::Refused { .. }) => {}
            Err(StoreError::Unreadable { .. } | StoreError::Failed(_)) => {
                self.errors.get_or_create(&labels).inc();
            }
        }
        result
    }
}

/// The same store, counted.
pub struct Measured {
    inner: SharedStore,
    timings: StoreTimings,
}

impl Measured {
    pub fn new(inner: SharedStore, timings: StoreTimings) -> Arc<Self> {
        Arc::new(Self { inner, timings })
    }
}

#[async_trait]
impl Store for Measured {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let began = Instant::now();
        self.timings.note("get", began, self.inner.get(key).await)
    }

    async fn scan(
        &self,
        owner: &Owner,
        collection: &'static str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        let began = Instant::now();
        self.timings.note("scan", began, self.inner.scan(owner, collection, after, limit).await)
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, StoreError> {
        let began = Instant::now();
        self.timings.note("commit", began, self.inner.commit(transaction).await)
    }

    async fn dump(&self) -> Result<(Revision, Vec<Dumped>), StoreError> {
        let began = Instant::now();
        self.timings.note("dump", began, self.inner.dump().await)
    }

    fn changes(&self) -> watch::Receiver<Revision> {
        self.inner.changes()
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;
    use crate::store::{contract, memory::MemoryStore};

    #[tokio::test]
    async fn a_counted_store_keeps_the_contract_and_tells_how_long_it_took() {
        let timings = StoreTimings::of("memory");
        contract::check(Measured::new(Arc::new(MemoryStore::default()), timings.clone())).await;
        let mut registry = Registry::default();
        timings.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(
            text.contains("storage_op_duration_seconds_count{backend=\"memory\",op=\"commit\"}"),
            "{text}"
        );
        assert!(!text.contains("storage_errors_total{"), "a conflict counts as an error: {text}");
    }
}
