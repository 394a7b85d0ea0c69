//! The newest test of each destination, kept as evidence with its time.

use std::collections::BTreeMap;

use proto::{EnvironmentName, Name};

use super::{TestReport, TestSummary};
use crate::store::{Collection, Owner, Precondition, SharedStore, StoreError};

/// By the destination's name.
const TESTS: Collection<TestReport> = Collection::new("destination_tests");
/// The same records, read without their steps: a list of thousands has no use for those.
const SUMMARIES: Collection<TestSummary> = Collection::new("destination_tests");

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

    /// All of them without their steps, by destination.
    pub async fn summaries(&self) -> Result<BTreeMap<Name, TestSummary>, StoreError> {
        let records = SUMMARIES.all(&*self.store, &self.owner).await?;
        Ok(records.into_iter().map(|record| (record.value.destination.clone(), record.value)).collect())
    }

    /// The newest takes the place of the one before.
    pub async fn put(&self, report: &TestReport) -> Result<(), StoreError> {
        let put = TESTS.put(&self.owner, report.destination.as_str(), Precondition::Any, report)?;
        self.store.commit(put.into()).await.map(drop)
    }

    /// The destination is another now, or gone: what was seen of it says nothing any more.
    pub async fn forget(&self, destination: &Name) -> Result<(), StoreError> {
        let delete = TESTS.delete(&self.owner, destination.as_str(), Precondition::Any);
        self.store.commit(delete.into()).await.map(drop)
    }
}
