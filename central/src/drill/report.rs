//! What came of a drill, as it is kept and shown.

use proto::Name;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// One drill. Times are milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Drill)]
pub struct Report {
    /// Counts drills; never comes back.
    pub id: u64,
    pub outcome: Outcome,
    /// Why it failed, one sentence each; empty when it passed.
    pub failures: Vec<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub began_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    pub ended_at: Option<OffsetDateTime>,
    /// `schedule`, or who ordered it.
    pub by: String,
    /// Who was active before, and is to be afterwards.
    #[schema(value_type = String)]
    pub home: Name,
    /// Who was tried.
    #[schema(value_type = String)]
    pub away: Name,
    /// There and back; shorter when it failed.
    pub legs: Vec<Leg>,
    /// Every enabled destination.
    pub destinations: Vec<Tried>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DrillOutcome)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    UnderWay,
    Passed,
    Failed,
    /// Central ended meanwhile.
    Interrupted,
}

/// One switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DrillLeg)]
pub struct Leg {
    #[schema(value_type = String)]
    pub from: Name,
    #[schema(value_type = String)]
    pub to: Name,
    /// From the order until new connections went through `to`.
    pub took_ms: u64,
    /// How long no tunnel lived; 0 in a planned switch that works.
    pub gap_ms: u64,
    /// The longest that a new connection waited meanwhile, and how many were made.
    pub longest_open_ms: u64,
    pub opened: u32,
    pub failed_to_open: u32,
    /// Streams that were on the old active when the switch was ordered; they end there.
    pub streams: usize,
}

/// A destination, before the switch and through the other candidate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DrillTried)]
pub struct Tried {
    #[schema(value_type = String)]
    pub name: Name,
    /// Through [`Report::home`]. One that was not reached before fails no drill.
    pub before_ms: Option<u64>,
    /// Through [`Report::away`].
    pub through_ms: Option<u64>,
    /// Why it was not reached, the last time.
    pub reason: Option<String>,
}

impl Report {
    /// The whole in one sentence.
    pub fn sentence(&self) -> String {
        let (home, away) = (&self.home, &self.away);
        let through = self.destinations.iter().filter(|tried| tried.through_ms.is_some()).count();
        let waited = self.legs.iter().map(|leg| leg.longest_open_ms).max().unwrap_or(0);
        let gap = self.legs.iter().map(|leg| leg.gap_ms).max().unwrap_or(0);
        match self.outcome {
            Outcome::Passed => format!(
                "Drill {} passed: {home} -> {away} -> {home}, {through} of {} destinations reached through {away}, \
                 {gap} ms without a tunnel, a new connection waited {waited} ms at most",
                self.id,
                self.destinations.len(),
            ),
            Outcome::Failed => {
                format!("Drill {} failed ({home} -> {away}): {}", self.id, self.failures.join("; "))
            }
            Outcome::UnderWay => format!("Drill {} ({home} -> {away}) is under way", self.id),
            Outcome::Interrupted => format!("Drill {} was interrupted: central ended", self.id),
        }
    }
}
