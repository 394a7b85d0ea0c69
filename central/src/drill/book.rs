//! The reports, durable: the newest [`KEPT_MAX`] of an Environment.

use proto::EnvironmentName;
use time::OffsetDateTime;

use super::report::{Outcome, Report};
use crate::store::{Collection, Owner, Precondition, SharedStore, StoreError, Transaction};

const REPORTS: Collection<Report> = Collection::new("gateway_drills");
/// Weekly drills of a year.
const KEPT_MAX: usize = 52;

/// An Environment's reports. Cheap to clone.
#[derive(Clone)]
pub struct Drills {
    store: SharedStore,
    owner: Owner,
}

impl Drills {
    pub fn new(store: SharedStore, environment: &EnvironmentName) -> Self {
        Self { store, owner: environment.into() }
    }

    /// The newest first.
    pub async fn list(&self) -> Result<Vec<Report>, StoreError> {
        let all = REPORTS.all(&*self.store, &self.owner).await?;
        Ok(all.into_iter().rev().map(|record| record.value).collect())
    }

    /// The number of the next drill.
    pub(super) async fn next_id(&self) -> Result<u64, StoreError> {
        Ok(self.list().await?.first().map_or(1, |newest| newest.id + 1))
    }

    /// Writes a report, new or further on, and clears the oldest away.
    pub(super) async fn write(&self, report: &Report) -> Result<(), StoreError> {
        let put = REPORTS.put(&self.owner, &key(report.id), Precondition::Any, report)?;
        let mut transaction = Transaction::new().with(put);
        let all = REPORTS.all(&*self.store, &self.owner).await?;
        let others: Vec<_> = all.iter().filter(|record| record.value.id != report.id).collect();
        // As many as are too many: one, unless the bound was lowered.
        for old in &others[..others.len().saturating_sub(KEPT_MAX - 1).min(KEPT_MAX)] {
            transaction = transaction.with(REPORTS.delete(&self.owner, &old.key, Precondition::Any));
        }
        self.store.commit(transaction).await.map(drop)
    }

    /// What was under way when central ended is so no longer.
    pub(super) async fn interrupt_unfinished(&self) -> Result<(), StoreError> {
        for report in self.list().await?.into_iter().filter(|report| report.outcome == Outcome::UnderWay) {
            let ended_at = Some(OffsetDateTime::now_utc());
            self.write(&Report { outcome: Outcome::Interrupted, ended_at, ..report }).await?;
        }
        Ok(())
    }
}

/// In the order of the numbers.
fn key(id: u64) -> String {
    format!("{id:020}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn the_newest_come_first_and_the_oldest_make_room() {
        let drills = drills();
        for _ in 0..60 {
            let id = drills.next_id().await.unwrap();
            drills.write(&report(id)).await.unwrap();
        }
        let ids: Vec<u64> = drills.list().await.unwrap().iter().map(|report| report.id).collect();
        assert_eq!((ids.len(), ids[0], ids[51]), (KEPT_MAX, 60, 9));
    }

    #[tokio::test]
    async fn a_drill_that_central_did_not_outlive_was_interrupted() {
        let drills = drills();
        drills.write(&report(1)).await.unwrap();
        drills.interrupt_unfinished().await.unwrap();
        let [report] = &drills.list().await.unwrap()[..] else { panic!("one report") };
        assert_eq!(report.outcome, Outcome::Interrupted);
        assert!(report.ended_at.is_some());
    }

    fn drills() -> Drills {
        Drills::new(Arc::new(MemoryStore::default()), &"default".parse().unwrap())
    }

    fn report(id: u64) -> Report {
        Report {
            id,
            outcome: Outcome::UnderWay,
            failures: Vec::new(),
            began_at: OffsetDateTime::UNIX_EPOCH,
            ended_at: None,
            by: "schedule".into(),
            home: "a".parse().unwrap(),
            away: "b".parse().unwrap(),
            legs: Vec::new(),
            destinations: Vec::new(),
        }
    }
}
