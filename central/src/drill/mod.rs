//! Failover drills: a planned switch, every destination tried through the other candidate, and back.
//!
//! ```text
//!   order or schedule ──► ready? ──► try all ──► switch ──► try all ──► drained ──► switch back ──► report
//!                           └─ refused              └─ clients keep connecting, and are timed ─┘
//! ```
//!
//! A drill uses what any client and administrator uses: the gateway's planned switch and real streams to
//! real destinations. It is refused where it would cost redundancy instead of proving it. Like every planned
//! switch it ends streams that last longer than `gateway.drain_timeout`.

mod book;
mod course;
mod report;
pub mod schedule;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use proto::{EnvironmentName, Name};
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub use book::Drills;
pub use report::{Leg, Outcome, Report, Tried};

use crate::{
    admin::DataPlane,
    destination::Destinations,
    events::{Events, NewEvent, Severity},
    gateway::{CommandError, Gateway},
    store::StoreError,
};
use schedule::Schedule;

/// Orders that may wait; each is answered at once.
const ORDERS_MAX: usize = 8;
/// The wall clock is read at least this often: it may be corrected, or the machine asleep.
const CLOCK_LOOK: Duration = Duration::from_secs(60);
/// A scheduled drill that could not begin for so long, as on a machine that slept, is left out.
const LATE_MAX: time::Duration = time::Duration::minutes(10);

/// Why a drill did not begin. Nothing was switched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DrillRefusal {
    #[error("a drill is under way already: posternctl gateway drills")]
    UnderWay,
    #[error("the Secure Gateway is not up: there is nothing to switch from")]
    NotUp,
    #[error(
        "there is no other configured candidate to switch to: without a standby a drill only risks the active"
    )]
    NoStandby,
    #[error(
        "the group can bear no further loss, so a drill could cost the gateway: bring the missing member back first"
    )]
    NoTolerance,
    #[error(transparent)]
    Gateway(#[from] CommandError),
    #[error("central could not read or write its store: {0}")]
    Store(String),
    #[error("central is stopping")]
    Stopping,
}

impl From<StoreError> for DrillRefusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error.to_string())
    }
}

struct Order {
    to: Option<Name>,
    by: String,
    reply: oneshot::Sender<Result<u64, DrillRefusal>>,
}

/// Orders drills. Cheap to clone.
#[derive(Clone)]
pub struct Conductor(mpsc::Sender<Order>);

impl Conductor {
    /// Begins a drill through `to`, or the next configured candidate. Returns its number when it has begun;
    /// the report is in [`Drills`] from then on.
    pub async fn begin(&self, to: Option<Name>, by: String) -> Result<u64, DrillRefusal> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Order { to, by, reply }).await.map_err(|_| DrillRefusal::Stopping)?;
        answer.await.map_err(|_| DrillRefusal::Stopping)?
    }
}

/// The way to each Environment's drills.
pub type Conductors = BTreeMap<EnvironmentName, Conductor>;

/// What a drill works with.
pub struct Stage {
    pub environment: EnvironmentName,
    pub gateway: Gateway,
    pub data_plane: Arc<dyn DataPlane>,
    pub destinations: Destinations,
    pub drills: Drills,
    pub events: Events,
    /// How long an old active may drain before the switch back.
    pub drain_timeout: Duration,
}

/// Runs one Environment's drills, one at a time.
pub struct Driller {
    stage: Stage,
    schedule: Option<Schedule>,
    orders: mpsc::Receiver<Order>,
}

impl Driller {
    pub fn new(stage: Stage, schedule: Option<Schedule>) -> (Self, Conductor) {
        let (sender, orders) = mpsc::channel(ORDERS_MAX);
        (Self { stage, schedule, orders }, Conductor(sender))
    }

    /// Runs until `stop`. A drill under way is given up then: its report says interrupted, and whoever is
    /// active stays it.
    pub async fn run(mut self, stop: CancellationToken) {
        if let Err(error) = self.stage.drills.interrupt_unfinished().await {
            tracing::warn!(environment = %self.stage.environment, %error, "Reports of drills could not be read");
        }
        let mut due = self.next(OffsetDateTime::now_utc());
        loop {
            let order = tokio::select! {
                () = stop.cancelled() => return,
                Some(order) = self.orders.recv() => order,
                () = until(due) => {
                    let now = OffsetDateTime::now_utc();
                    let late = due.is_some_and(|due| now - due > LATE_MAX);
                    due = self.next(now);
                    if late {
                        continue;
                    }
                    let (reply, _) = oneshot::channel();
                    Order { to: None, by: "schedule".to_owned(), reply }
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.stage.carry_out(order) => {}
                () = refuse_meanwhile(&mut self.orders) => {}
            }
        }
    }

    fn next(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        self.schedule.as_ref().map(|schedule| schedule.after(now))
    }
}

/// Answers orders that come while a drill is under way. Never ends.
async fn refuse_meanwhile(orders: &mut mpsc::Receiver<Order>) {
    while let Some(order) = orders.recv().await {
        let _ = order.reply.send(Err(DrillRefusal::UnderWay));
    }
    std::future::pending().await
}

async fn until(due: Option<OffsetDateTime>) {
    let Some(due) = due else { return std::future::pending().await };
    while let Ok(wait) = Duration::try_from(due - OffsetDateTime::now_utc()) {
        if wait.is_zero() {
            return;
        }
        tokio::time::sleep(wait.min(CLOCK_LOOK)).await;
    }
}

impl Stage {
    async fn carry_out(&self, order: Order) {
        let scheduled = order.by == "schedule";
        let began = match self.begin(order.to, order.by).await {
            Ok(report) => report,
            Err(refusal) => {
                if scheduled {
                    let text = format!("The scheduled drill did not begin: {refusal}");
                    self.note("drill_refused", Severity::Warning, text).await;
                }
                return drop(order.reply.send(Err(refusal)));
            }
        };
        let _ = order.reply.send(Ok(began.id));
        let report = self.course(began).await;
        if let Err(error) = self.drills.write(&report).await {
            tracing::error!(environment = %self.environment, %error, "A drill's report could not be kept");
        }
        let text = report.sentence();
        match report.outcome {
            Outcome::Passed => self.note("drill_passed", Severity::Info, text).await,
            Outcome::Failed | Outcome::UnderWay | Outcome::Interrupted => {
                self.note("drill_failed", Severity::Error, text.clone()).await;
                if let Err(error) = self.gateway.tell_degraded(text).await {
                    tracing::warn!(environment = %self.environment, %error, "Nobody could be told of a failed drill");
                }
            }
        }
    }

    async fn note(&self, code: &'static str, severity: Severity, text: String) {
        tracing::info!(environment = %self.environment, code, "{text}");
        let event = NewEvent { code, severity, text, sender: "drill".to_owned() };
        if let Err(error) = self.events.append(event, OffsetDateTime::now_utc()).await {
            tracing::warn!(environment = %self.environment, %error, code, "A drill could not be noted as an event");
        }
    }
}
