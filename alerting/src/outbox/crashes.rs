//! A thousand outages, told by an owner that is killed at every kind of moment.
//!
//! The model: a store that takes whole transactions or nothing, an owner that keeps everything else in memory, and
//! receivers that fail, stay away for an hour, or take an alert just before the owner dies. An outage begins and ends
//! only before the eyes of a living owner, because the connection that ends it is made to the owner.

use std::{
    collections::BTreeMap,
    time::{Instant, SystemTime},
};

use time::macros::datetime;

use super::*;
use crate::{
    incident::{Context, Incident},
    policy::{Policy, Snapshot},
};

const HOLD_DOWN: Duration = Duration::from_secs(10);
const OUTAGES: usize = 1000;
const ENDPOINTS: [&str; 2] = ["pager", "chat"];

#[test]
fn each_outage_that_lasts_is_told_once_and_ended_once_whenever_the_owner_is_killed() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(5);
    let mut world = World::new(seed);
    for number in 0..OUTAGES {
        world.outage(number);
    }
    world.until_all_is_told();

    let expected: Vec<String> =
        world.lasting.iter().flat_map(|id| [format!("down {id}"), format!("up {id}")]).collect();
    assert!(expected.len() > OUTAGES, "seed {seed}: too few outages lasted to prove anything");
    assert!(world.crashes > OUTAGES, "seed {seed}: too few crashes to prove anything: {}", world.crashes);
    for endpoint in ENDPOINTS {
        let heard = &world.receivers[endpoint].heard;
        let of_one_outage_in_order = |id: &String| {
            let at = |what: &str| heard.iter().position(|line| *line == format!("{what} {id}"));
            at("down") < at("up")
        };
        let mut sorted = (heard.clone(), expected.clone());
        sorted.0.sort();
        sorted.1.sort();
        assert_eq!(sorted.0, sorted.1, "seed {seed}: {endpoint}");
        assert!(world.lasting.iter().all(of_one_outage_in_order), "seed {seed}: {endpoint}");
    }
}

struct World {
    dice: Dice,
    now: Duration,
    started: Instant,
    store: Store,
    owner: Policy,
    receivers: BTreeMap<&'static str, Receiver>,
    crashes: usize,
    /// When the outage under way was stored first, and under which id.
    known: Option<(Duration, String)>,
    /// The outages that lasted, by the owner's own clock.
    lasting: Vec<String>,
}

/// What survives a crash: text.
struct Store {
    snapshot: String,
    open: BTreeMap<DeliveryId, String>,
    /// Deliveries that are over stay in a real store too, for a while; here their ids are enough.
    over: BTreeSet<DeliveryId>,
}

#[derive(Default)]
struct Receiver {
    /// Each id once, when it came first.
    heard: Vec<String>,
    seen: BTreeSet<DeliveryId>,
    away_until: Duration,
}

/// The owner was killed; what it had not stored is gone.
struct Killed;

impl World {
    fn new(seed: u64) -> Self {
        let snapshot = serde_json::to_string(&Snapshot::Up).unwrap();
        let mut world = Self {
            dice: Dice(seed.max(1)),
            now: Duration::ZERO,
            started: Instant::now(),
            store: Store { snapshot, open: BTreeMap::new(), over: BTreeSet::new() },
            owner: Policy::new(HOLD_DOWN),
            receivers: ENDPOINTS.map(|name| (name, Receiver::default())).into(),
            crashes: 0,
            known: None,
            lasting: Vec::new(),
        };
        world.restart();
        world
    }

    fn outage(&mut self, number: usize) {
        let lasts =
            if self.dice.one_in(3) { self.dice.below_ms(10_000) } else { self.dice.below_ms(120_000) };
        if self.dice.one_in(50) {
            let away = *self.dice.pick(&ENDPOINTS);
            self.receivers.get_mut(away).unwrap().away_until = self.now + Duration::from_secs(3600);
        }
        let end = self.now + lasts;
        let mut declared = 0;
        // A killed owner forgets what it had not stored, sees the same again, and gives it another id.
        while self.known.is_none() && self.now <= end {
            declared += 1;
            let id = format!("{number}-{declared}");
            let now = self.instant();
            let incident = Incident::new(IncidentId::new(&id), self.wall(), Context::default());
            self.owner.handle_down(now, incident);
            let at = self.now;
            if self.commit().is_ok() || self.is_stored(&id) {
                self.known = Some((at, id));
            }
        }
        self.pass_until(end.max(self.now));
        loop {
            let at = self.now;
            let now = self.instant();
            self.owner.handle_up(now);
            let over = self.commit().is_ok() || matches!(self.snapshot(), Snapshot::Up);
            if over {
                if let Some((began, id)) = self.known.take()
                    && at - began >= HOLD_DOWN
                {
                    self.lasting.push(id);
                }
                break;
            }
        }
        let gap = self.dice.below_ms(300_000);
        self.pass_until(self.now + gap);
    }

    fn until_all_is_told(&mut self) {
        for _ in 0..1_000_000 {
            match next_due(&self.deliveries()) {
                Some(next) => self.pass_until(self.offset(next).max(self.now)),
                None => return,
            }
        }
        panic!("deliveries stay open for ever");
    }

    /// Everything that falls due until then.
    fn pass_until(&mut self, end: Duration) {
        loop {
            let timeout = self.owner.poll_timeout().map(|at| at.saturating_duration_since(self.started));
            let delivery = next_due(&self.deliveries()).map(|at| self.offset(at));
            let Some(next) = timeout.into_iter().chain(delivery).min().filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            let now = self.instant();
            self.owner.handle_timeout(now);
            let _ = self.commit().and_then(|()| self.deliver());
        }
        self.now = self.now.max(end);
        let _ = self.deliver();
    }

    /// One transaction: what the policy decided, with the deliveries of it.
    fn commit(&mut self) -> Result<(), Killed> {
        let mut planned = Vec::new();
        while self.owner.poll_event().is_some() {}
        while let Some(transition) = self.owner.poll_transmit() {
            let alert = Alert::of(transition, self.wall());
            let nothing = BTreeSet::new();
            let to = ENDPOINTS.map(|endpoint| Recipient { endpoint, also: &nothing });
            let told =
                |id: &DeliveryId| self.is_planned(id) || planned.iter().any(|p: &Delivery| p.id == *id);
            let next = plan(&alert, to, told, self.wall());
            planned.extend(next.into_iter().filter(|delivery| !self.is_planned(&delivery.id)));
        }
        let snapshot = self.owner.snapshot(self.instant(), self.system_time());
        self.killed_sometimes()?;
        self.store.snapshot = serde_json::to_string(&snapshot).unwrap();
        for delivery in planned {
            self.put(&delivery);
        }
        self.killed_sometimes()
    }

    fn deliver(&mut self) -> Result<(), Killed> {
        loop {
            let (now, deliveries) = (self.wall(), self.deliveries());
            let due: Vec<Delivery> = due(&deliveries, now).into_iter().cloned().collect();
            if due.is_empty() {
                return Ok(());
            }
            for delivery in due {
                let Some(sending) = delivery.begin("owner", now) else { panic!("what is due can begin") };
                self.put(&sending);
                self.killed_sometimes()?;
                let attempt = self.receive(&sending);
                self.killed_sometimes()?;
                let (next, _) = sending.finish(attempt, now, self.dice.next());
                self.put(&next);
                self.killed_sometimes()?;
            }
        }
    }

    fn receive(&mut self, delivery: &Delivery) -> Attempt {
        let ill = self.dice.one_in(5);
        let receiver = self.receivers.get_mut(delivery.endpoint.as_str()).unwrap();
        let here = self.now >= receiver.away_until && !ill;
        if here && receiver.seen.insert(delivery.id.clone()) {
            receiver.heard.push(format!("{} {}", delivery.alert.kind.name(), delivery.alert.incident.id));
        }
        let status = if here { 200 } else { 503 };
        let outcome = Outcome::Answered { status, excerpt: String::new(), retry_after_s: None };
        Attempt { at: self.wall(), took_ms: 0, request: String::new(), remote: None, outcome }
    }

    fn killed_sometimes(&mut self) -> Result<(), Killed> {
        if !self.dice.one_in(12) {
            return Ok(());
        }
        self.crashes += 1;
        let away = self.dice.below_ms(30_000);
        self.now += away;
        self.restart();
        Err(Killed)
    }

    fn restart(&mut self) {
        self.owner = Policy::restore(self.snapshot(), HOLD_DOWN, self.instant(), self.system_time());
        self.owner.set_endpoints_configured(true);
        for delivery in self.deliveries() {
            self.put(&delivery.release(self.wall()));
        }
    }

    fn put(&mut self, delivery: &Delivery) {
        if delivery.is_open() {
            self.store.open.insert(delivery.id.clone(), serde_json::to_string(delivery).unwrap());
        } else {
            self.store.open.remove(&delivery.id);
            self.store.over.insert(delivery.id.clone());
        }
    }

    fn is_planned(&self, id: &DeliveryId) -> bool {
        self.store.open.contains_key(id) || self.store.over.contains(id)
    }

    fn deliveries(&self) -> Vec<Delivery> {
        self.store.open.values().map(|text| serde_json::from_str(text).unwrap()).collect()
    }

    fn snapshot(&self) -> Snapshot {
        serde_json::from_str(&self.store.snapshot).unwrap()
    }

    fn is_stored(&self, id: &str) -> bool {
        self.store.snapshot.contains(&format!("\"id\":\"{id}\""))
    }

    fn instant(&self) -> Instant {
        self.started + self.now
    }

    fn wall(&self) -> OffsetDateTime {
        START + self.now
    }

    fn system_time(&self) -> SystemTime {
        self.wall().into()
    }

    fn offset(&self, wall: OffsetDateTime) -> Duration {
        (wall - START).try_into().unwrap_or_default()
    }
}

const START: OffsetDateTime = datetime!(2026-11-21 03:00 UTC);

/// xorshift64*: enough chance for a model, and the same each time.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.next().is_multiple_of(sides)
    }

    fn below_ms(&mut self, ms: u64) -> Duration {
        Duration::from_millis(self.next() % ms)
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[(self.next() % from.len() as u64) as usize]
    }
}
