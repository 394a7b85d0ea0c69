//! The policy alone, in its own time.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::incident::{Context, Tried};

const HOLD_DOWN: Duration = Duration::from_secs(10);

#[test]
fn an_outage_is_told_once_it_has_lasted_and_once_more_when_it_is_over() {
    let mut site = Site::with_endpoint();
    site.down("a");
    assert_eq!(site.heard(), ["raised a"]);
    site.pass_ms(9_999);
    assert_eq!(site.heard(), [""; 0]);
    site.pass_ms(1);
    assert_eq!(site.heard(), ["DOWN a"]);
    site.pass_ms(3_600_000);
    site.up();
    assert_eq!(site.heard(), ["cleared a", "UP a"]);
}

#[test]
fn a_short_outage_raises_and_clears_the_event_and_alerts_nobody() {
    let mut site = Site::with_endpoint();
    site.down("a");
    site.pass_ms(9_999);
    site.up();
    site.pass_ms(60_000);
    assert_eq!(site.heard(), ["raised a", "cleared a"]);
}

#[test]
fn an_outage_that_lasted_is_told_even_when_the_timer_comes_after_its_end() {
    let mut site = Site::with_endpoint();
    site.down("a");
    site.now += HOLD_DOWN;
    site.up();
    assert_eq!(site.heard(), ["raised a", "cleared a", "DOWN a", "UP a"]);
}

#[test]
fn without_an_endpoint_nothing_is_raised() {
    let mut site = Site::new();
    site.down("a");
    site.pass_ms(60_000);
    site.up();
    assert_eq!(site.heard(), [""; 0]);
}

#[test]
fn the_first_endpoint_hears_of_the_outage_under_way() {
    let mut site = Site::new();
    site.down("a");
    site.pass_ms(60_000);
    site.endpoints(true);
    assert_eq!(site.heard(), ["raised a", "DOWN a"]);
}

#[test]
fn taking_the_last_endpoint_away_keeps_the_event_raised_until_it_works_again() {
    let mut site = Site::with_endpoint();
    site.down("a");
    site.endpoints(false);
    site.pass_ms(60_000);
    assert!(site.policy.is_raised());
    site.up();
    assert_eq!(site.heard(), ["raised a", "cleared a"]);
}

#[test]
fn another_failed_round_belongs_to_the_same_outage_and_freshens_what_will_be_told() {
    let mut site = Site::with_endpoint();
    site.down("a");
    site.pass_ms(5_000);
    site.policy.handle_down(site.now, incident("b", "round two"));
    site.pass_ms(5_000);
    site.policy.handle_down(site.now, incident("c", "round three"));

    let told = incident("a", "round two");
    assert_eq!(site.policy.poll_transmit(), Some(Transition::Down(told.clone())));
    assert_eq!(site.policy.incident(), Some(&told));
}

#[test]
fn a_restart_counts_the_time_away_and_tells_nothing_twice() {
    let mut site = Site::with_endpoint();
    site.down("a");
    site.pass_ms(4_000);
    site.restart_after_ms(5_000);
    site.pass_ms(999);
    assert_eq!(site.heard(), ["raised a"]);
    site.pass_ms(1);
    site.restart_after_ms(60_000);
    site.down("b");
    site.up();
    assert_eq!(site.heard(), ["DOWN a", "cleared a", "UP a"]);
}

#[test]
fn a_wall_clock_set_back_delays_the_alert_by_one_hold_down_at_most() {
    let incident = incident("a", "");
    let wall = SystemTime::UNIX_EPOCH;
    let stored = Snapshot::Raised { incident, due: wall + Duration::from_secs(86_400) };
    let now = Instant::now();
    let mut policy = Policy::restore(stored, HOLD_DOWN, now, wall);
    policy.set_endpoints_configured(true);
    assert_eq!(policy.poll_timeout(), Some(now + HOLD_DOWN));
}

/// Stored by one version and read by the next: a change here needs a migration.
#[test]
fn the_stored_form_of_a_snapshot_is_pinned() {
    let mut site = Site::with_endpoint();
    site.down("a");
    let incident = r#""incident":{"id":"a","key":"a","opened_at":"1970-01-01T00:00:00Z","context":{"environment":"acme","summary":"a","tried":[{"name":"one","outcome":"refused"}]}}"#;
    let due = r#""due":{"secs_since_epoch":10,"nanos_since_epoch":0}"#;
    assert_eq!(site.stored(), format!(r#"{{"state":"raised",{incident},{due}}}"#));
    site.pass_ms(10_000);
    assert_eq!(site.stored(), format!(r#"{{"state":"told",{incident}}}"#));
    site.up();
    assert_eq!(site.stored(), r#"{"state":"up"}"#);
}

#[derive(Debug, Clone)]
enum Step {
    Down,
    Up,
    Timeout,
    PassMs(u64),
    Endpoints(bool),
    RestartAfterMs(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::Down),
        3 => Just(Step::Up),
        1 => Just(Step::Timeout),
        4 => (0..12_000_u64).prop_map(Step::PassMs),
        1 => any::<bool>().prop_map(Step::Endpoints),
        1 => (0..12_000_u64).prop_map(Step::RestartAfterMs),
    ];
    vec(step, 0..80)
}

proptest! {
    #[test]
    fn whatever_happens_alerts_alternate_down_first_each_pair_about_one_incident(steps in steps()) {
        let mut site = Site::with_endpoint();
        for (i, step) in steps.into_iter().enumerate() {
            match step {
                Step::Down => site.down(&i.to_string()),
                Step::Up => site.up(),
                Step::Timeout => site.policy.handle_timeout(site.now),
                Step::PassMs(ms) => site.pass_ms(ms),
                Step::Endpoints(configured) => site.endpoints(configured),
                Step::RestartAfterMs(ms) => site.restart_after_ms(ms),
            }
            site.hear();
        }
        site.up();
        let heard = site.heard();
        prop_assert_eq!(paired(&heard, "raised ", "cleared "), Ok(()));
        prop_assert_eq!(paired(&heard, "DOWN ", "UP "), Ok(()));
    }

    #[test]
    fn with_an_endpoint_exactly_the_outages_that_outlast_hold_down_are_told(
        lengths in vec((0..20_000_u64, 0..20_000_u64, any::<bool>()), 0..20),
    ) {
        let mut site = Site::with_endpoint();
        let mut expected = Vec::new();
        for (i, (down_ms, up_ms, restarts)) in lengths.into_iter().enumerate() {
            site.down(&i.to_string());
            if restarts { site.restart_after_ms(down_ms) } else { site.pass_ms(down_ms) }
            site.up();
            site.pass_ms(up_ms);
            if down_ms >= 10_000 {
                expected.extend([format!("DOWN {i}"), format!("UP {i}")]);
            }
        }
        let mut heard = site.heard();
        heard.retain(|line| line.starts_with(['D', 'U']));
        prop_assert_eq!(heard, expected);
    }
}

/// A gateway's policy, the time around it, and what came out of it so far.
struct Site {
    policy: Policy,
    started: Instant,
    now: Instant,
    heard: Vec<String>,
}

impl Site {
    fn new() -> Self {
        let started = Instant::now();
        Self { policy: Policy::new(HOLD_DOWN), started, now: started, heard: Vec::new() }
    }

    fn with_endpoint() -> Self {
        let mut site = Self::new();
        site.endpoints(true);
        site
    }

    fn down(&mut self, id: &str) {
        self.policy.handle_down(self.now, incident(id, id));
    }

    fn up(&mut self) {
        self.policy.handle_up(self.now);
    }

    fn endpoints(&mut self, configured: bool) {
        self.policy.set_endpoints_configured(configured);
        self.pass_ms(0);
    }

    /// Time passes, and a timer that is due in it fires exactly then.
    fn pass_ms(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        if let Some(due) = self.policy.poll_timeout().filter(|due| *due <= end) {
            self.policy.handle_timeout(due.max(self.now));
            assert_eq!(self.policy.poll_timeout(), None, "a timer that never rests is a busy loop");
        }
        self.now = end;
    }

    fn restart_after_ms(&mut self, away_ms: u64) {
        self.hear();
        let stored = self.stored();
        self.now += Duration::from_millis(away_ms);
        let stored = serde_json::from_str(&stored).unwrap();
        let endpoints_configured = self.policy.endpoints_configured;
        self.policy = Policy::restore(stored, HOLD_DOWN, self.now, self.wall());
        self.policy.set_endpoints_configured(endpoints_configured);
    }

    fn stored(&self) -> String {
        serde_json::to_string(&self.policy.snapshot(self.now, self.wall())).unwrap()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + (self.now - self.started)
    }

    fn hear(&mut self) {
        while let Some(event) = self.policy.poll_event() {
            self.heard.push(match event {
                Event::Raised(id) => format!("raised {id}"),
                Event::Cleared(id) => format!("cleared {id}"),
            });
        }
        while let Some(alert) = self.policy.poll_transmit() {
            self.heard.push(match alert {
                Transition::Down(incident) => format!("DOWN {}", incident.id),
                Transition::Up(incident) => format!("UP {}", incident.id),
            });
        }
    }

    /// Everything since the last call.
    fn heard(&mut self) -> Vec<String> {
        self.hear();
        std::mem::take(&mut self.heard)
    }
}

fn incident(id: &str, summary: &str) -> Incident {
    let tried = vec![Tried { name: "one".into(), outcome: "refused".into() }];
    let context =
        Context { environment: "acme".into(), summary: summary.into(), tried, ..Context::default() };
    Incident::new(IncidentId::new(id), time::OffsetDateTime::UNIX_EPOCH, context)
}

/// Lines come as open, close, open, close …, each close about what the open before it was about, and no
/// incident twice.
fn paired(lines: &[String], open: &str, close: &str) -> Result<(), String> {
    let mut open_about = None;
    let mut seen = Vec::new();
    for line in lines {
        if let Some(about) = line.strip_prefix(open) {
            if open_about.is_some() || seen.contains(&about) {
                return Err(format!("{line} again in {lines:?}"));
            }
            open_about = Some(about);
            seen.push(about);
        } else if let Some(about) = line.strip_prefix(close)
            && open_about.take() != Some(about)
        {
            return Err(format!("{line} closes nothing in {lines:?}"));
        }
    }
    open_about.map_or(Ok(()), |about| Err(format!("{open}{about} never ended in {lines:?}")))
}
