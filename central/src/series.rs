//! What each Environment carried lately, in steps of ten seconds: what a sparkline is drawn from. Bounded, in memory,
//! and forgotten with the process; whoever wants more asks `/metrics` and keeps it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use proto::EnvironmentName;
use serde::Serialize;
use time::OffsetDateTime;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::admin::{DataPlane, data_plane::TrafficView};

/// How long one point stands for.
pub const STEP: Duration = Duration::from_secs(10);
/// Points that are kept: an hour.
pub const POINTS_MAX: usize = 360;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = TrafficPoint)]
pub struct Point {
    /// Its end.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Streams that were open then.
    pub open: usize,
    /// Streams that were opened meanwhile.
    pub opened: u64,
    /// Clients that got none meanwhile.
    pub refused: u64,
    pub bytes_to_site: u64,
    pub bytes_to_cloud: u64,
}

/// One Environment's points, oldest first. A machine without a clock.
#[derive(Debug, Default)]
struct Series {
    points: VecDeque<Point>,
    before: Option<TrafficView>,
}

impl Series {
    /// What has been counted until `at`. The first look only says where counting begins.
    fn handle_look(&mut self, now: TrafficView, at: OffsetDateTime) {
        if let Some(before) = &self.before {
            if self.points.len() >= POINTS_MAX {
                self.points.pop_front();
            }
            self.points.push_back(Point {
                at,
                open: now.open,
                opened: now.opened.saturating_sub(before.opened),
                refused: now.refused.saturating_sub(before.refused),
                bytes_to_site: since(before.bytes_to_site, now.bytes_to_site),
                bytes_to_cloud: since(before.bytes_to_cloud, now.bytes_to_cloud),
            });
        }
        self.before = Some(now);
    }
}

/// Bytes are counted by the tunnel, and a new one begins at 0.
fn since(before: u64, now: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

/// The series of all Environments. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Lately(Arc<BTreeMap<EnvironmentName, Mutex<Series>>>);

impl Lately {
    pub fn of_each(environments: impl IntoIterator<Item = EnvironmentName>) -> Self {
        Self(Arc::new(environments.into_iter().map(|name| (name, Mutex::default())).collect()))
    }

    /// The points of one, oldest first.
    pub fn points(&self, environment: &EnvironmentName) -> Vec<Point> {
        let Some(series) = self.0.get(environment) else { return Vec::new() };
        series.lock().unwrap_or_else(PoisonError::into_inner).points.iter().cloned().collect()
    }

    /// Looks once a [`STEP`] until `stop`. Dropping the future loses at most the step under way.
    pub async fn run(self, data_plane: Arc<dyn DataPlane>, stop: CancellationToken) {
        let mut clock = interval(STEP);
        // Steps that a busy machine missed are one longer step, not several empty ones.
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = clock.tick() => {}
            }
            for (name, series) in self.0.iter() {
                let now = data_plane.traffic(name);
                let mut series = series.lock().unwrap_or_else(PoisonError::into_inner);
                series.handle_look(now, OffsetDateTime::now_utc());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_what_came_since_the_one_before() {
        let mut series = Series::default();
        series.handle_look(view(5, 100), at(0));
        assert!(series.points.is_empty(), "nobody knows what was before the first look");
        series.handle_look(view(8, 250), at(10));
        let point = &series.points[0];
        assert_eq!((point.opened, point.bytes_to_site, point.open, point.at), (3, 150, 8, at(10)));
    }

    #[test]
    fn a_new_tunnel_that_counts_from_zero_takes_nothing_back() {
        let mut series = Series::default();
        series.handle_look(view(5, 1000), at(0));
        series.handle_look(view(5, 30), at(10));
        assert_eq!(series.points[0].bytes_to_site, 30);
    }

    #[test]
    fn the_oldest_make_room() {
        let mut series = Series::default();
        for n in 0..=(POINTS_MAX as u64 + 1) {
            series.handle_look(view(n, n), at(n as i64));
        }
        assert_eq!((series.points.len(), series.points[0].at), (POINTS_MAX, at(2)));
    }

    fn view(opened: u64, bytes_to_site: u64) -> TrafficView {
        TrafficView { open: opened as usize, opened, bytes_to_site, ..TrafficView::default() }
    }

    fn at(second: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(second).unwrap()
    }
}
