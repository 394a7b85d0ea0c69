//! The newest test of each destination, kept as evidence with its time.

use std::collections::BTreeMap;

use proto::{EnvironmentName, Name};

use super::{TestReport, TestSummary};
use crate::store::{Collection, Owner, Precondition, SharedStore, StoreError, Transaction};

/// By the destination's name.
const TESTS: Collection<TestReport> = Collection::new("destination_tests");
/// The same without their steps, in records of their own: reading thousands of steps that no list shows takes longer
/// than all the rest of it.
const SUMMARIES: Collection<TestSummary> = Collection::new("destination_test_summaries");

/// The tests of one Environment's destinations. Cheap to clone.
#[derive(Clone)]
pub struct TestRecords {
    store: SharedStore,
    owner: Owner,
}

impl TestRecords {
    pub fn new(store: SharedStore, environment: &EnvironmentName) -> Self {
        Self { store, owner: environment.into() }
    }

    pub async fn find(&self, destination: &Name) -> Result<Option<TestReport>, StoreError> {
        let record = TESTS.get(&*self.store, &self.owner, destination.as_str()).await?;
        Ok(record.map(|record| record.value))
    }

    /// Those of the destinations behind `after`, at most `limit`, without their steps.
    pub async fn summaries(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<BTreeMap<Name, TestSummary>, StoreError> {
        let records = SUMMARIES.page(&*self.store, &self.owner, after, limit).await?;
        Ok(records.into_iter().map(|record| (record.value.destination.clone(), record.value)).collect())
    }

    /// The newest takes the place of the one before.
    pub async fn put(&self, report: &TestReport) -> Result<(), StoreError> {
        let name = report.destination.as_str();
        let put = TESTS.put(&self.owner, name, Precondition::Any, report)?;
        let summary = SUMMARIES.put(&self.owner, name, Precondition::Any, &report.summarised())?;
        self.store.commit(Transaction::from(put).with(summary)).await.map(drop)
    }

    /// The destination is another now, or gone: what was seen of it says nothing any more.
    pub async fn forget(&self, destination: &Name) -> Result<(), StoreError> {
        let delete = TESTS.delete(&self.owner, destination.as_str(), Precondition::Any);
        let summary = SUMMARIES.delete(&self.owner, destination.as_str(), Precondition::Any);
        self.store.commit(Transaction::from(delete).with(summary)).await.map(drop)
    }
}
