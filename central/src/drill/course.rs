//! The course of one drill: what is done, in which order, and what makes it fail.

use std::time::Duration;

use proto::{EnvironmentName, Name};
use time::OffsetDateTime;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{
    DrillRefusal, Stage,
    report::{Leg, Outcome, Report, Tried},
};
use crate::{
    admin::DataPlane,
    destination::Destination,
    gateway::{GatewayView, view::GatewayState},
};

/// How long a switch may take. Half a second is usual; a candidate that needs a minute is no standby.
const LEG_LIMIT: Duration = Duration::from_secs(60);
/// How long a destination has to accept.
const OPEN_LIMIT: Duration = Duration::from_secs(20);
/// Destinations that are tried at once: a drill must not be a load test.
const TRIED_AT_ONCE: usize = 4;
/// How often a client connects while the gateway switches.
const CLIENT_EVERY: Duration = Duration::from_millis(50);
/// Added to `gateway.drain_timeout`, at whose end what still drains is ended.
const DRAIN_GRACE: Duration = Duration::from_secs(10);

impl Stage {
    /// Looks whether a drill may begin, and writes its report's first lines.
    pub(super) async fn begin(&self, to: Option<Name>, by: String) -> Result<Report, DrillRefusal> {
        let view = self.gateway.view();
        let (home, away) = plan(&view, to)?;
        let report = Report {
            id: self.drills.next_id().await?,
            outcome: Outcome::UnderWay,
            failures: Vec::new(),
            began_at: OffsetDateTime::now_utc(),
            ended_at: None,
            by,
            home,
            away,
            legs: Vec::new(),
            destinations: Vec::new(),
        };
        self.drills.write(&report).await?;
        Ok(report)
    }

    /// The whole drill. The report is finished, whatever happened.
    pub(super) async fn course(&self, mut report: Report) -> Report {
        if let Err(failure) = self.there_and_back(&mut report).await {
            report.failures.push(failure);
        }
        report.outcome = if report.failures.is_empty() { Outcome::Passed } else { Outcome::Failed };
        report.ended_at = Some(OffsetDateTime::now_utc());
        report
    }

    async fn there_and_back(&self, report: &mut Report) -> Result<(), String> {
        let (home, away) = (report.home.clone(), report.away.clone());
        let destinations = self.enabled().await?;
        for (name, result) in self.try_all(&destinations).await {
            let (before_ms, reason) = split(result);
            report.destinations.push(Tried { name, before_ms, through_ms: None, reason });
        }
        let client = report.destinations.iter().find(|tried| tried.before_ms.is_some());
        let client = client.and_then(|tried| destinations.iter().find(|one| one.name == tried.name));
        let leg = self.leg(&home, &away, client).await?;
        report.failures.extend(leg.what_failed());
        report.legs.push(leg);
        for (name, result) in self.try_all(&destinations).await {
            let via = result.as_ref().ok().map(|visit| visit.via.clone());
            let (through_ms, reason) = split(result);
            let Some(tried) = report.destinations.iter_mut().find(|tried| tried.name == name) else {
                continue;
            };
            if let (Some(_), Some(reason)) = (tried.before_ms, &reason) {
                report
                    .failures
                    .push(format!("{name} was reached through {home} and is not through {away}: {reason}"));
            }
            if via.as_ref().is_some_and(|via| *via != away) {
                report
                    .failures
                    .push(format!("{name} was not reached through {away}: it had ceased to be active"));
            }
            (tried.through_ms, tried.reason) = (through_ms, reason.or_else(|| tried.reason.take()));
        }
        self.until_drained().await?;
        let leg = self.leg(&away, &home, client).await?;
        report.failures.extend(leg.what_failed());
        report.legs.push(leg);
        Ok(())
    }

    /// One planned switch, while a client keeps connecting to `client`.
    async fn leg(&self, from: &Name, to: &Name, client: Option<&Destination>) -> Result<Leg, String> {
        let streams = self.gateway.view().streams.count();
        let mut views = self.gateway.watch();
        let started = Instant::now();
        let order = self.gateway.switch(Some(to.clone())).await;
        order.map_err(|error| format!("the switch to {to} was refused: {error}"))?;
        let mut visits = Visits::default();
        let carried = |view: &GatewayView| view.state == GatewayState::Up && view.active.as_ref() == Some(to);
        // A look at the view is let go of at once: whoever shows a new one waits for it.
        let until_moved = async {
            let moved = timeout(LEG_LIMIT, views.wait_for(|view| carried(view))).await;
            let gap = |view: &GatewayView| {
                view.last_switch.as_ref().filter(|last| last.to == *to).map_or(0, |last| last.gap_ms)
            };
            match moved {
                Ok(Ok(view)) => Ok(gap(&view)),
                Ok(Err(_)) => Err("central is stopping".to_owned()),
                Err(_) => {
                    Err(format!("the switch to {to} did not come about within {} s", LEG_LIMIT.as_secs()))
                }
            }
        };
        let gap_ms = tokio::select! {
            gap_ms = until_moved => gap_ms?,
            never = self.keep_visiting(client, &mut visits) => match never {},
        };
        let took_ms = ms(started.elapsed());
        if let Some(client) = client {
            // The first one through the new active counts, too.
            visits.note(self.open(client).await);
        }
        let Visits { longest, opened, failed } = visits;
        Ok(Leg {
            from: from.clone(),
            to: to.clone(),
            took_ms,
            gap_ms,
            longest_open_ms: ms(longest),
            opened,
            failed_to_open: failed,
            streams,
        })
    }

    /// A client that connects again and again, until it is dropped.
    async fn keep_visiting(
        &self,
        client: Option<&Destination>,
        visits: &mut Visits,
    ) -> std::convert::Infallible {
        let Some(client) = client else { return std::future::pending().await };
        let mut again = interval(CLIENT_EVERY);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            again.tick().await;
            visits.note(self.open(client).await);
        }
    }

    async fn enabled(&self) -> Result<Vec<Destination>, String> {
        let all = self.destinations.list().await.map_err(|error| error.to_string())?;
        Ok(all.into_iter().filter(|destination| destination.enabled).collect())
    }

    /// Opens a stream to each, a few at a time.
    async fn try_all(&self, destinations: &[Destination]) -> Vec<(Name, Result<Visit, String>)> {
        let mut results = Vec::with_capacity(destinations.len());
        let mut trying = JoinSet::new();
        for destination in destinations {
            if trying.len() == TRIED_AT_ONCE {
                results.extend(trying.join_next().await.and_then(Result::ok));
            }
            let (data_plane, environment) = (self.data_plane.clone(), self.environment.clone());
            let destination = destination.clone();
            trying.spawn(async move {
                let visit = open(&*data_plane, &environment, &destination).await;
                (destination.name, visit)
            });
        }
        while let Some(done) = trying.join_next().await {
            results.extend(done.ok());
        }
        results.sort_by(|(a, _), (b, _)| a.cmp(b));
        results
    }

    async fn open(&self, destination: &Destination) -> Result<Visit, String> {
        open(&*self.data_plane, &self.environment, destination).await
    }

    /// Waits until nothing drains any more: only then may the gateway switch again.
    async fn until_drained(&self) -> Result<(), String> {
        let limit = self.drain_timeout + DRAIN_GRACE;
        let mut views = self.gateway.watch();
        match timeout(limit, views.wait_for(|view| view.draining.is_empty())).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err("central is stopping".to_owned()),
            Err(_) => Err(format!(
                "the old active had not drained after {} s, so the gateway was not switched back",
                limit.as_secs()
            )),
        }
    }
}

/// From whom to whom, if everything is in order.
fn plan(view: &GatewayView, to: Option<Name>) -> Result<(Name, Name), DrillRefusal> {
    use crate::gateway::CommandError::{AlreadyActive, Draining, NotConfigured};
    let home = match &view.active {
        Some(active) if view.state == GatewayState::Up => active.clone(),
        Some(_) | None => return Err(DrillRefusal::NotUp),
    };
    if let Some(draining) = view.draining.first() {
        return Err(Draining(draining.process_server.clone()).into());
    }
    let mut ready = view
        .candidates
        .iter()
        .filter(|candidate| candidate.configured && candidate.connected && candidate.name != home);
    let away = match to {
        Some(to) if to == home => return Err(AlreadyActive(to).into()),
        Some(to) => ready.find(|candidate| candidate.name == to).ok_or(NotConfigured(to))?,
        None => ready.min_by_key(|candidate| &candidate.name).ok_or(DrillRefusal::NoStandby)?,
    };
    match view.can_lose {
        Some(losses) if losses > 0 => Ok((home, away.name.clone())),
        Some(_) | None => Err(DrillRefusal::NoTolerance),
    }
}

#[derive(Default)]
struct Visits {
    longest: Duration,
    opened: u32,
    failed: u32,
}

impl Visits {
    fn note(&mut self, visit: Result<Visit, String>) {
        match visit {
            Ok(visit) => {
                self.opened += 1;
                self.longest = self.longest.max(visit.took);
            }
            Err(_) => self.failed += 1,
        }
    }
}

impl Leg {
    fn what_failed(&self) -> Option<String> {
        let Self { from, to, failed_to_open, opened, gap_ms, .. } = self;
        if *failed_to_open > 0 {
            let all = opened + failed_to_open;
            return Some(format!(
                "{failed_to_open} of {all} new connections failed while {from} handed over to {to}"
            ));
        }
        (*gap_ms > 0).then(|| format!("no tunnel lived for {gap_ms} ms between {from} and {to}"))
    }
}

/// A stream that came to be, and said its first words.
struct Visit {
    via: Name,
    took: Duration,
}

async fn open(
    data_plane: &dyn DataPlane,
    environment: &EnvironmentName,
    destination: &Destination,
) -> Result<Visit, String> {
    match timeout(OPEN_LIMIT, data_plane.try_out(environment, destination)).await {
        Ok(Ok(tried)) => match tried.words.iter().find(|step| step.failed()) {
            Some(step) => Err(step.detail.clone()),
            None => Ok(Visit { via: tried.via, took: Duration::from_millis(tried.ms) }),
        },
        Ok(Err(failure)) => Err(failure.to_string()),
        Err(_) => Err(format!("nobody answered within {} s", OPEN_LIMIT.as_secs())),
    }
}

fn split(result: Result<Visit, String>) -> (Option<u64>, Option<String>) {
    match result {
        Ok(visit) => (Some(ms(visit.took)), None),
        Err(reason) => (None, Some(reason)),
    }
}

fn ms(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proto::AgentId;

    use super::*;
    use crate::gateway::view::{CandidateView, DrainingView};

    #[test]
    fn a_drill_goes_to_the_next_ready_candidate_or_the_one_that_was_named() {
        let view = up(&["a", "b", "c"]);
        assert_eq!(plan(&view, None).unwrap(), (name("a"), name("b")));
        assert_eq!(plan(&view, Some(name("c"))).unwrap(), (name("a"), name("c")));
    }

    #[test]
    fn it_is_refused_where_it_would_cost_redundancy() {
        let why = |change: fn(&mut GatewayView), to: Option<&str>| {
            let mut view = up(&["a", "b"]);
            change(&mut view);
            plan(&view, to.map(name)).unwrap_err().to_string()
        };
        assert!(why(|view| view.state = GatewayState::Connecting, None).contains("not up"));
        assert!(why(|view| view.candidates[1].configured = false, None).contains("no other configured"));
        assert!(why(|view| view.candidates[1].connected = false, None).contains("no other configured"));
        assert!(why(|view| view.can_lose = Some(0), None).contains("no further loss"));
        assert!(why(|_| {}, Some("a")).contains("already the active"));
        assert!(why(|_| {}, Some("z")).contains("not a configured candidate"));
        let draining = |view: &mut GatewayView| {
            let until = OffsetDateTime::UNIX_EPOCH;
            view.draining = vec![DrainingView { process_server: name("b"), until, streams: 1 }];
        };
        assert!(why(draining, None).contains("still drains"));
    }

    fn up(names: &[&str]) -> GatewayView {
        let candidate = |text: &&str| CandidateView {
            name: name(text),
            agent: AgentId::random(),
            node: None,
            connected: true,
            configured: true,
            active: *text == names[0],
            restart_required: false,
        };
        GatewayView {
            state: GatewayState::Up,
            active: Some(name(names[0])),
            candidates: names.iter().map(candidate).collect(),
            can_lose: Some(1),
            ..GatewayView::idle()
        }
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }
}
