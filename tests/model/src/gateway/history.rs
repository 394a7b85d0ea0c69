//! Histories: the same world, but in time. Everything under way takes a while, timers ring when they are due,
//! and faults come as a seed says; then they end, and a tunnel has to be up again within its bound.
//!
//! What a model cannot afford is here: long runs, many faults in one, the real [`Fences`] over a store beside the
//! decision alone, and an old active's writes under its real lease. What it gives up is completeness.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use ::central::{
    gateway::fence::Fences,
    store::{StoreError, memory::MemoryStore},
};
use proto::driver::Lease;
use stateright::{Expectation, Model};

use super::{
    Action, Bounds, COMES_BACK, Gateway, World,
    agent::{Lane, Life},
};
use crate::mutant::Mutant;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const DEAD_AFTER: Duration = Duration::from_secs(15);
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// While faults come.
const STORM: Duration = Duration::from_secs(300);
/// Afterwards. The outer bound is `gateway.connect_timeout` for each of two candidates and a little more.
const BACK_WITHIN: Duration = Duration::from_secs(520);
/// More steps than this without an end is a fault of its own.
const STEPS_MAX: usize = 200_000;

/// One history.
pub struct History {
    model: Gateway,
    world: World,
    chance: Chance,
    now: Duration,
    /// What is under way, and when it arrives.
    due: Vec<(Action, Duration)>,
    next_fault: Duration,
    fences: Fences,
    lines: Vec<Line>,
    /// When the faults were over and a tunnel was up.
    pub back_after: Option<Duration>,
    pub steps: usize,
}

/// What one agent knows of central's life, and the truth about it.
#[derive(Default)]
struct Line {
    lease: Lease,
    asked: u64,
    ask_at: Duration,
    /// The answer under way: its number, when central gave it, when it arrives.
    answer: Option<(u64, Duration, Duration)>,
    /// When central gave the newest answer that was read.
    heard: Option<Duration>,
    writes: u64,
}

/// SplitMix64: the same history from the same seed, whatever libraries do.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn between(&mut self, from: Duration, to: Duration) -> Duration {
        let span = u64::try_from((to - from).as_millis()).unwrap_or(u64::MAX);
        from + MS * u32::try_from(self.below(span + 1)).unwrap_or(u32::MAX)
    }
}

impl History {
    /// A history of two candidates (an even seed) or three.
    pub fn seeded(seed: u64) -> Self {
        let candidates = 2 + usize::try_from(seed % 2).unwrap_or_default();
        let bounds = Bounds { claims: u8::MAX, ..Bounds::default() };
        let model = Gateway { candidates, mutant: None, bounds };
        let world = World::with_first_active(&model);
        let store = Arc::new(MemoryStore::default());
        let environment: Result<proto::EnvironmentName, _> = "default".parse();
        let mut history = Self {
            model,
            world,
            chance: Chance(seed),
            // Later than any timer that rang before the first tunnel was up.
            now: SECOND * 60,
            due: Vec::new(),
            next_fault: SECOND * 61,
            #[expect(clippy::unwrap_used, reason = "a constant that is a name")]
            fences: Fences::new(store, &environment.unwrap()),
            lines: Vec::new(),
            back_after: None,
            steps: 0,
        };
        history.lines.resize_with(candidates, Line::default);
        history
    }

    /// The same with a seeded bug, from the first fault on.
    pub fn with(mut self, mutant: Mutant) -> Self {
        self.model.mutant = Some(mutant);
        self
    }

    /// # Errors
    /// Which rule was broken, and when.
    pub fn run(&mut self) -> Result<(), String> {
        self.adopt_fence()?;
        let storm_ends = self.now + STORM;
        while self.now < storm_ends + BACK_WITHIN {
            self.steps += 1;
            if self.steps > STEPS_MAX {
                return self.broken("a history ends");
            }
            let stormy = self.now < storm_ends;
            self.allow();
            self.plan();
            let until = if stormy { self.next_fault.min(storm_ends) } else { storm_ends + BACK_WITHIN };
            let action = self.advance(until);
            match action {
                Some(action) => self.act(action)?,
                None if stormy && self.now >= self.next_fault => self.fault()?,
                None => {}
            }
            self.lines()?;
            if !stormy {
                self.heal()?;
                if self.world.is_up() {
                    self.back_after = Some(self.now - storm_ends);
                    return Ok(());
                }
            }
        }
        self.broken(COMES_BACK)
    }

    /// The store begins with what the world began with.
    fn adopt_fence(&mut self) -> Result<(), String> {
        let Some(fence) = self.world.central.disk else { return self.broken("the first active has a fence") };
        let hello = proto::hello::TunnelHello {
            versions: proto::hello::Versions::OURS,
            node: fence.node,
            epoch: fence.epoch,
            boot: fence.boot,
            session: fence.session,
            resume: None,
        };
        let seat = proto::hello::Seat { group: fence.epoch.group, node: fence.node };
        let at = self.world.central.circumstances(fence.agent, seat, &hello);
        self.ready(|fences| async move { fences.admit(&hello, &at).await })?;
        self.same_fence()
    }

    /// Everything may happen here; how often is chance's to say.
    fn allow(&mut self) {
        self.world.left = Bounds { claims: u8::MAX, ..Bounds::default() };
    }

    /// Gives everything newly under way the time it takes.
    fn plan(&mut self) {
        let mut enabled = Vec::new();
        self.model.actions(&self.world, &mut enabled);
        for who in 0..self.world.agents.len() {
            if !self.world.has_leader() && self.world.electable(who) {
                enabled.push(Action::Elect(who));
            }
            let agent = &self.world.agents[who];
            if agent.draining.is_some_and(|kept| kept.lane == Lane::Down) && agent.runs() {
                enabled.push(Action::Drained(who));
            }
        }
        self.due.retain(|(action, _)| enabled.contains(action));
        for action in enabled {
            if !self.due.iter().any(|(planned, _)| *planned == action) {
                let at = self.now + self.takes(action);
                self.due.push((action, at));
            }
        }
    }

    fn takes(&mut self, action: Action) -> Duration {
        let (from, to) = match action {
            Action::Elect(_) => (200 * MS, 900 * MS),
            Action::Knock { .. } => (MS, 5 * SECOND),
            Action::Connect(_) | Action::Restart(_) => (100 * MS, 20 * SECOND),
            Action::Wake(_) => (MS, 60 * SECOND),
            Action::GiveUpProposal(_) => (2 * SECOND, 2 * SECOND),
            // At once where the socket is closed, else by silence.
            Action::NoticedByCentral(_) | Action::NoticedByAgent { .. } | Action::LoseControl(_) => {
                if self.chance.below(2) == 0 { (MS, 50 * MS) } else { (10 * SECOND, DEAD_AFTER) }
            }
            Action::ResumeWindowEnds | Action::Drained(_) => (30 * SECOND, 30 * SECOND),
            Action::DrainEnds => (SECOND, 300 * SECOND),
            // Now and then something is slow.
            _ if self.chance.below(20) == 0 => (MS, 3 * SECOND),
            _ => (MS, 100 * MS),
        };
        self.chance.between(from, to)
    }

    /// To the next thing that happens, at most to `until`.
    fn advance(&mut self, until: Duration) -> Option<Action> {
        let after_begin = |at: std::time::Instant| at.saturating_duration_since(*super::agent::BEGIN);
        let running = self.world.agents.iter().enumerate().filter(|(_, agent)| agent.runs());
        let timers = running
            .filter_map(|(who, agent)| Some((Action::Timeout(who), after_begin(agent.role.poll_timeout()?))));
        let central = self.world.central.processor.poll_timeout();
        let central = central.map(|at| (Action::CentralTimeout, after_begin(at)));
        // Pings and writes are looked at this often, too.
        let look = self.now + SECOND;
        let next = self.due.iter().copied().chain(timers).chain(central).min_by_key(|(_, at)| *at);
        let at = next.map_or(look, |(_, at)| at).min(look).min(until).max(self.now);
        self.now = at;
        for agent in &mut self.world.agents {
            agent.set_clock(at);
        }
        self.world.central.set_clock(at);
        let (action, _) = next.filter(|(_, due)| *due <= at)?;
        self.due.retain(|(planned, _)| *planned != action);
        Some(action)
    }

    fn fault(&mut self) -> Result<(), String> {
        self.next_fault = self.now + self.chance.between(MS, 8 * SECOND);
        let who = usize::try_from(self.chance.below(self.world.agents.len() as u64)).unwrap_or_default();
        let agent = &self.world.agents[who];
        let tunnels = self.world.central.tunnels.len();
        let fault = match self.chance.below(9) {
            0 if agent.life != Life::Dead => Action::Die(who),
            1 if agent.runs() => Action::Pause(who),
            2 => Action::RestartCentral,
            3 | 4 if matches!(agent.kept.map(|kept| kept.lane), Some(Lane::Up(_))) => {
                Action::CutByAgent { agent: who, draining: false }
            }
            5 if matches!(agent.draining.map(|kept| kept.lane), Some(Lane::Up(_))) => {
                Action::CutByAgent { agent: who, draining: true }
            }
            6 if tunnels > 0 => {
                Action::CutByCentral(usize::try_from(self.now.as_millis()).unwrap_or(0) % tunnels)
            }
            7 if self.world.electable(who) => Action::Elect(who),
            8 if self.world.may_switch_to(who) => Action::Switch(who),
            _ => return Ok(()),
        };
        let one = Bounds { claims: u8::MAX, elections: 1, deaths: 1, pauses: 1, ..Bounds::default() };
        self.world.left = Bounds { restarts: 1, cuts: 1, switches: 1, ..one };
        self.act(fault)
    }

    /// The storm is over: whoever is down or stopped is back within a moment.
    fn heal(&mut self) -> Result<(), String> {
        for who in 0..self.world.agents.len() {
            match self.world.agents[who].life {
                Life::Dead => self.act(Action::Restart(who))?,
                Life::Paused => self.act(Action::Wake(who))?,
                Life::Running => {}
            }
        }
        Ok(())
    }

    fn act(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Admit(agent) => self.ask_the_store(agent)?,
            Action::DrainEnds => {
                if let Some(epoch) = self.world.central.draining().map(|held| held.epoch) {
                    self.ready(|fences| async move { fences.end_drain(epoch).await })?;
                }
            }
            Action::Die(who) => self.lines[who] = Line { writes: self.lines[who].writes, ..Line::default() },
            _ => {}
        }
        self.world.act(action, &self.model);
        for rule in self.model.properties() {
            let judged = rule.expectation == Expectation::Always && rule.name != COMES_BACK;
            if judged && !(rule.condition)(&self.model, &self.world) {
                return self.broken(&format!("{} ({action:?})", rule.name));
            }
        }
        self.same_fence()
    }

    /// The same hello to the real compare-and-set.
    fn ask_the_store(&mut self, agent: usize) -> Result<(), String> {
        let Some((hello, at)) = self.world.knock_of(agent) else { return Ok(()) };
        self.ready(|fences| async move { fences.admit(&hello, &at).await }).map(drop)
    }

    /// What the store holds is what central's decision made of it.
    fn same_fence(&mut self) -> Result<(), String> {
        let stored = self.ready(|fences| async move { fences.current().await })?;
        if stored != self.world.central.disk {
            return self.broken(&format!("the store has {stored:?}, not {:?}", self.world.central.disk));
        }
        Ok(())
    }

    /// Every agent asks central now and then, and writes whenever its lease allows.
    fn lines(&mut self) -> Result<(), String> {
        let now = self.now;
        for who in 0..self.lines.len() {
            let (attached, answers) = self.world.line_of(who);
            let runs = self.world.agents[who].runs();
            let line = &mut self.lines[who];
            if !attached {
                line.answer = None;
                line.lease.forget_questions();
            }
            if runs && attached && line.answer.is_none() && line.ask_at <= now {
                line.asked += 1;
                line.ask_at = now + PING_INTERVAL;
                line.lease.asked(line.asked, now);
                let there = now + self.chance.between(MS, 500 * MS);
                let back = there + self.chance.between(MS, 500 * MS);
                line.answer = answers.then_some((line.asked, there, back));
            }
            // A stopped process reads it when it wakes.
            if let Some((nonce, given, _)) = line.answer.take_if(|(_, _, at)| runs && *at <= now) {
                if self.model.mutant == Some(Mutant::AnswerDatedByArrival) {
                    line.lease.forget_questions();
                    line.lease.asked(nonce, now);
                }
                line.lease.answered(nonce);
                line.heard = line.heard.max(Some(given));
            }
            let unfenced = self.model.mutant == Some(Mutant::NoSelfFence) && line.heard.is_some();
            if runs && (unfenced || line.lease.is_fresh(now, DEAD_AFTER)) {
                line.writes += 1;
                if line.heard.is_none_or(|heard| now - heard > DEAD_AFTER) {
                    return self.broken(crate::silence::NOTHING_LATE);
                }
            }
        }
        Ok(())
    }

    /// Something was written, so that the rule about writing was asked.
    pub fn writes(&self) -> u64 {
        self.lines.iter().map(|line| line.writes).sum()
    }

    /// Epochs admitted after the first.
    pub fn take_overs(&self) -> usize {
        self.world.epochs_admitted().saturating_sub(1)
    }

    fn broken<T>(&self, rule: &str) -> Result<T, String> {
        Err(format!("broken at {:?} after {} steps: {rule}\n{:#?}", self.now, self.steps, self.world))
    }

    /// A store in memory is never waited for.
    fn ready<T, F>(&self, ask: impl FnOnce(Fences) -> F) -> Result<T, String>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        match pin!(ask(self.fences.clone())).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => answer.map_err(|error| error.to_string()),
            Poll::Pending => Err("the store in memory made somebody wait".into()),
        }
    }
}
