//! One history: a gateway comes up, things go wrong, everything is mended, and the gateway must be back.

use std::{fmt, net::Ipv4Addr, path::PathBuf, time::Duration};

use central::{admin::AppState, events::Events};
use proto::Name;

use crate::{
    dice::Dice,
    faults::{Fault, Planned, round, starved},
    kernel::{self, HostId, NANOS, Rules, Time},
    mutant::Mutant,
    oracle::Oracle,
    people::{self, Judge, judge},
    programs::{
        self, AGENTS, AgentHandle, CENTRAL, CLOUD, CentralHandle, Ended, HOSTS, SITE, environment, taken,
    },
    world::{State, World, seconds},
};

/// Certificates of the template are some seconds old then.
const BEGINS: Time = 1_000 * NANOS;
/// How long the first gateway may take.
const FIRST: Time = 60 * NANOS;
/// How long a gateway may take to be back once everything is mended: the longest of the waits that may follow each
/// other (a dead link is noticed, 15 s; a socket to nowhere is given up, 10 s; the longest wait between two attempts,
/// 30 s), with room for an election.
const BACK: Time = 75 * NANOS;
/// How many rounds are of the kind that [`starved`] plans.
const STARVED: f64 = 0.05;
/// What a service manager waits before it starts a program again.
const RESTART: Time = NANOS;

/// Which history.
#[derive(Debug, Clone, Copy)]
pub struct History {
    pub seed: u64,
    pub rounds: usize,
    /// Websockets that a tunnel consists of.
    pub lanes: u8,
    /// A bug put in on purpose.
    pub mutant: Option<Mutant>,
}

/// How it went.
#[derive(Debug, Default)]
pub struct Report {
    pub seed: u64,
    /// What was broken; empty is good.
    pub problems: Vec<String>,
    /// What went wrong, in words.
    pub faults: Vec<String>,
    pub simulated: Duration,
    pub took: Duration,
    /// From the last mending to the next answered connection, per round.
    pub back_after: Vec<Duration>,
    pub admissions: usize,
    pub streams_finished: u64,
    pub streams_broken: u64,
    pub notes_back: u64,
    pub outages_told: usize,
    /// Depends on everything that happened: the same seed gives the same.
    pub digest: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {:.1?} simulated in {:.2?}", self.seed, self.simulated, self.took)?;
        for fault in &self.faults {
            writeln!(f, "  {fault}")?;
        }
        for problem in &self.problems {
            writeln!(f, "  BROKEN: {problem}")?;
        }
        write!(
            f,
            "  once more: SEED={} cargo test -p postern-world --test histories one_history -- --nocapture",
            self.seed
        )
    }
}

/// Plays a history on a thread of its own, so that nothing of another is left on it.
pub fn play(history: History) -> Report {
    let began = kernel::real_nanos();
    let template = programs::template();
    let thread = std::thread::Builder::new().name(format!("history {}", history.seed)).stack_size(16 << 20);
    let dispatch = tracing::dispatcher::get_default(Clone::clone);
    let played = thread.spawn(move || {
        tracing::dispatcher::with_default(&dispatch, || Played::new(history, template).play())
    });
    let mut report = match played.map(std::thread::JoinHandle::join) {
        Ok(Ok(report)) => report,
        Ok(Err(panic)) => {
            let words = panic.downcast_ref::<String>().cloned();
            let words = words.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            let problem = format!("a panic: {}", words.unwrap_or_default());
            Report { seed: history.seed, problems: vec![problem], ..Report::default() }
        }
        Err(error) => panic!("no thread for a history: {error}"),
    };
    report.took = Duration::from_nanos(kernel::real_nanos() - began);
    report
}

struct Played {
    history: History,
    world: World,
    // Behind the world: the hosts' programs are gone before their disks are.
    _root: tempfile::TempDir,
    dice: Dice,
    judge: Judge,
    candidates: usize,
    central: CentralHandle,
    agents: [AgentHandle; 3],
    /// When a program that ended by itself is started again.
    restarts: Vec<(Time, HostId)>,
    /// Hosts that a fault keeps from being started.
    held: Vec<HostId>,
    /// What machines will be put back to.
    backups: Vec<(HostId, PathBuf)>,
    /// Hosts whose disk refuses or refused: they may end.
    excused: Vec<HostId>,
    report: Report,
}

impl Played {
    #[expect(clippy::expect_used, reason = "without a folder there is no history")]
    fn new(history: History, template: &std::path::Path) -> Self {
        let root = programs::scratch();
        let rules = Rules { dead_after: seconds(15) };
        let world =
            World::new(&HOSTS, BEGINS, rules, root.path(), Some(template), history.seed, history.mutant);
        let mut dice = Dice::new(history.seed ^ 0x5eed);
        let candidates = if dice.chance(0.4) { 2 } else { 3 };
        Self {
            history,
            world: world.expect("a world"),
            _root: root,
            dice,
            judge: Judge::default(),
            candidates,
            central: CentralHandle::default(),
            agents: Default::default(),
            restarts: Vec::new(),
            held: Vec::new(),
            backups: Vec::new(),
            excused: Vec::new(),
            report: Report { seed: history.seed, ..Report::default() },
        }
    }

    fn play(mut self) -> Report {
        self.lay_paths();
        let (oracle, people) = (self.judge.clone(), self.judge.clone());
        self.world.boot(SITE, people::echo(oracle));
        let mut dice = self.dice.split();
        self.world.boot(CLOUD, async move {
            for who in 1..=2 + dice.below(3) {
                tokio::spawn(people::talker(people.clone(), who, dice.split()));
            }
            tokio::spawn(people::on_call(people.clone()));
            people::prober(people, Duration::from_millis(250)).await;
        });
        self.start(CENTRAL);
        for agent in self.agents() {
            self.pass(Duration::from_millis(self.dice.clone().below(300)));
            self.start(agent);
        }
        if !self.until_answered(BEGINS, FIRST) {
            self.problem("no connection was answered in the first minute".into());
            return self.end();
        }
        for _ in 0..self.history.rounds {
            let pause = self.dice.between(Duration::from_millis(500), Duration::from_secs(8));
            self.pass(pause);
            // Who cut off an agent may do is seen only where it has something left to do.
            let lease =
                matches!(self.history.mutant, Some(Mutant::LeaseForgetsSleep | Mutant::LeaseNeverEnds));
            let round = match lease || self.dice.chance(STARVED) {
                true => starved(&mut self.dice, self.candidates),
                false => round(&mut self.dice, self.candidates),
            };
            self.go_through(&round);
            let mended = self.world.now;
            if !self.until_answered(mended, BACK) {
                self.problem(format!(
                    "no connection was answered within {} s after everything was mended",
                    BACK / NANOS
                ));
                break;
            }
            let answered = judge(&self.judge).answered_since(mended).unwrap_or(mended);
            self.report.back_after.push(Duration::from_nanos(answered - mended));
        }
        self.pass(Duration::from_secs(12));
        self.look_at_events();
        self.end()
    }

    fn agents(&self) -> Vec<HostId> {
        AGENTS[..self.candidates].to_vec()
    }

    /// Agents are near each other and their destinations; central is somewhere in the cloud, clients beside it.
    fn lay_paths(&mut self) {
        let far = self.dice.between(Duration::from_millis(1), Duration::from_millis(20)).as_nanos() as u64;
        kernel::with(|kernel| {
            for one in 0..HOSTS.len() {
                for other in 0..HOSTS.len() {
                    let inside = |host: HostId| host != CENTRAL && host != CLOUD;
                    if inside(one) != inside(other) {
                        let path = kernel.path(one, other);
                        (path.delay, path.jitter) = (far, far / 10);
                    }
                }
            }
        });
    }

    fn problem(&mut self, what: String) {
        judge(&self.judge).wrong(what);
    }

    fn start(&mut self, host: HostId) {
        self.restarts.retain(|(_, waiting)| *waiting != host);
        let folder = self.world.folder(host);
        if host == CENTRAL {
            self.central = CentralHandle::default();
            self.world.boot(CENTRAL, programs::central(folder, self.history.lanes, self.central.clone()));
            let (handle, oracle) = (self.central.clone(), self.judge.clone());
            let agents = self.agents();
            self.world.spawn(CENTRAL, watch_gateway(handle, oracle, agents));
        } else if let Some(place) = AGENTS.iter().position(|agent| *agent == host) {
            self.agents[place] = AgentHandle::default();
            self.world.boot(host, programs::agent(folder, self.agents[place].clone()));
        }
    }

    /// Lets time pass, starting again what ended by itself.
    fn pass(&mut self, time: Duration) {
        let until = self.world.now + time.as_nanos() as u64;
        self.pass_until(until, |_| false);
    }

    fn pass_until(&mut self, until: Time, mut enough: impl FnMut(&Oracle) -> bool) -> bool {
        let (central, agents, oracle) = (self.central.ended.clone(), self.agents.clone(), self.judge.clone());
        let _ = (central, agents);
        loop {
            let next = self.restarts.iter().map(|(at, _)| *at).min().unwrap_or(until).min(until);
            let ends: Vec<_> = [(CENTRAL, self.central.ended.clone())]
                .into_iter()
                .chain(AGENTS.into_iter().zip(self.agents.iter().map(|agent| agent.ended.clone())))
                .collect();
            let mut satisfied = false;
            let stopped = self.world.run_until(next, |_| {
                satisfied = enough(&judge(&oracle));
                satisfied || ends.iter().any(|(_, end)| people_lock(end).is_some())
            });
            if satisfied {
                return true;
            }
            if stopped {
                for (host, end) in ends {
                    if let Some(ended) = taken(&end) {
                        self.ended(host, ended);
                    }
                }
                continue;
            }
            let now = self.world.now;
            let due: Vec<_> =
                self.restarts.iter().filter(|(at, _)| *at <= now).map(|(_, host)| *host).collect();
            for host in &due {
                self.start(*host);
            }
            if due.is_empty() && now >= until {
                return false;
            }
        }
    }

    /// A program ended by itself: its service manager starts it again.
    fn ended(&mut self, host: HostId, ended: Ended) {
        let wait = match ended {
            Ended::Stopped => RESTART,
            Ended::Restart => RESTART / 50,
            Ended::Failed(why) => {
                tracing::info!(host, why, "A program ended");
                if !self.excused.contains(&host) {
                    self.problem(format!("{} ended: {why}", HOSTS[host].0));
                }
                RESTART
            }
        };
        self.world.kill(host);
        if !self.held.contains(&host) {
            self.restarts.push((self.world.now + wait, host));
        }
    }

    fn until_answered(&mut self, since: Time, within: Time) -> bool {
        let until = self.world.now + within;
        self.pass_until(until, |oracle| oracle.answered_since(since).is_some())
    }

    fn go_through(&mut self, round: &[Planned]) {
        let began = self.world.now;
        let at = |after: Duration| began + after.as_nanos() as u64;
        let mut moments: Vec<(Time, bool, usize)> = Vec::new();
        for (place, planned) in round.iter().enumerate() {
            moments.push((at(planned.at), true, place));
            moments.push((at(planned.at + planned.lasts), false, place));
            self.report.faults.push(format!(
                "{:8.3} s for {:.1?}: {:?}",
                (at(planned.at) - BEGINS) as f64 / NANOS as f64,
                planned.lasts,
                planned.fault
            ));
        }
        moments.sort();
        for (at, begins, place) in moments {
            self.pass_until(at, |_| false);
            let fault = &round[place].fault;
            tracing::info!(?fault, begins, "FAULT");
            match begins {
                true => self.begin(fault),
                false => self.mend(fault),
            }
        }
        self.mend_all();
    }

    fn begin(&mut self, fault: &Fault) {
        match *fault {
            Fault::Kill(host) | Fault::Power(host) => {
                self.hold(host);
                if matches!(fault, Fault::Kill(_)) {
                    self.world.kill(host);
                } else {
                    self.world.cut_power(host);
                }
            }
            Fault::Stop(host) => {
                self.hold(host);
                if host == CENTRAL {
                    self.central.stop.cancel();
                } else if let Some(place) = AGENTS.iter().position(|agent| *agent == host) {
                    self.agents[place].stop.soon.cancel();
                }
                self.world.spawn(host, async {});
            }
            Fault::Pause(host) => self.world.pause(host),
            Fault::Suspend(host) => self.world.suspend(host),
            Fault::Cut(one, other) => paths(one, other, |path| path.cut = true),
            Fault::CutOneWay(from, to) => {
                kernel::with(|kernel| kernel.path(from, to).cut = true);
            }
            Fault::Isolate(host) => {
                for other in 0..HOSTS.len() {
                    paths(host, other, |path| path.cut = true);
                }
            }
            Fault::Loss(one, other, share) => {
                paths(one, other, |path| path.loss = share as f64 / 1_000.0);
            }
            Fault::Delay(one, other, delay) => paths(one, other, |path| {
                path.delay = delay.as_nanos() as u64;
                path.jitter = path.delay / 3;
            }),
            Fault::Narrow(one, other, rate) => paths(one, other, |path| path.rate = rate),
            Fault::Reset(one, other) => {
                kernel::with(|kernel| kernel.reset_between(one, other));
            }
            Fault::Forget(one, other) => {
                kernel::with(|kernel| kernel.forget_between(one, other));
            }
            Fault::Spoil(from, to) => {
                kernel::with(|kernel| kernel.spoil_between(from, to));
            }
            Fault::SlowDisk(host, takes) => self.world.set_sync(host, Some(takes)),
            Fault::FullDisk(host) => {
                self.excused.push(host);
                self.world.set_disk_failing(host, true);
            }
            Fault::Clock(host, off) => self.world.set_wall_off(host, off * NANOS as i64),
            Fault::PutBack(host) => {
                let backup = self.world.back_up(host);
                self.backups.push((host, backup));
            }
            Fault::Switch => {
                if let Some(state) = self.state() {
                    self.world.spawn(CENTRAL, async move {
                        if let Some(gateway) = state.gateways.of(&environment()) {
                            let switched = gateway.switch(None).await;
                            tracing::info!(?switched, "An administrator asked for a switch");
                        }
                    });
                }
            }
        }
    }

    fn state(&self) -> Option<AppState> {
        people_lock(&self.central.state).clone()
    }

    fn hold(&mut self, host: HostId) {
        self.restarts.retain(|(_, waiting)| *waiting != host);
        self.held.push(host);
    }

    fn mend(&mut self, fault: &Fault) {
        match *fault {
            Fault::Kill(host) | Fault::Power(host) | Fault::Stop(host) => {
                if let Some(place) = self.held.iter().position(|held| *held == host) {
                    self.held.remove(place);
                }
                if !self.held.contains(&host) && self.world.hosts[host].state == State::Off {
                    self.start(host);
                }
            }
            Fault::Pause(host) | Fault::Suspend(host) => self.world.resume(host),
            Fault::SlowDisk(host, _) => self.world.set_sync(host, None),
            Fault::FullDisk(host) => self.world.set_disk_failing(host, false),
            Fault::Clock(host, _) => self.world.set_wall_off(host, 0),
            Fault::Cut(one, other)
            | Fault::CutOneWay(one, other)
            | Fault::Loss(one, other, _)
            | Fault::Delay(one, other, _)
            | Fault::Narrow(one, other, _) => self.mend_paths(&[one, other]),
            Fault::Isolate(host) => {
                for other in 0..HOSTS.len() {
                    self.mend_paths(&[host, other]);
                }
            }
            Fault::PutBack(host) => {
                if let Some(place) = self.backups.iter().position(|(backed_up, _)| *backed_up == host) {
                    let (_, backup) = self.backups.swap_remove(place);
                    self.world.put_back(host, &backup);
                    if !self.held.contains(&host) {
                        self.start(host);
                    }
                }
            }
            Fault::Reset(..) | Fault::Forget(..) | Fault::Spoil(..) | Fault::Switch => {}
        }
    }

    fn mend_paths(&mut self, ends: &[HostId; 2]) {
        let [one, other] = *ends;
        paths(one, other, |path| {
            (path.cut, path.loss, path.rate) = (false, 0.0, 0);
            path.delay = path.delay.min(20_000_000);
            path.jitter = path.jitter.min(2_000_000);
        });
    }

    fn mend_all(&mut self) {
        for one in 0..HOSTS.len() {
            for other in 0..HOSTS.len() {
                self.mend_paths(&[one, other]);
            }
        }
        self.held.clear();
        for host in [CENTRAL].into_iter().chain(self.agents()) {
            self.world.resume(host);
            self.world.set_sync(host, None);
            self.world.set_disk_failing(host, false);
            self.world.set_wall_off(host, 0);
            if self.world.hosts[host].state == State::Off {
                self.start(host);
            }
        }
        self.world.resume(SITE);
    }

    /// The event of an outage is raised and cleared by turns.
    fn look_at_events(&mut self) {
        let Some(state) = self.state() else { return self.problem("central does not run in the end".into()) };
        let (tell, mut told) = tokio::sync::oneshot::channel();
        self.world.spawn(CENTRAL, async move {
            let events = Events::new(state.store.clone(), &environment());
            let _ = tell.send(events.newest(5_000).await);
        });
        let mut events = None;
        let until = self.world.now + seconds(5);
        self.world.run_until(until, |_| {
            events = told.try_recv().ok();
            events.is_some()
        });
        let Some(Ok(mut events)) = events else {
            return self.problem("the events cannot be read in the end".into());
        };
        events.sort_by_key(|event| event.seq);
        let mut raised = false;
        for event in &events {
            match event.code.as_str() {
                "event_raised" if raised => self.problem(format!("raised twice: {}", event.text)),
                "event_raised" => raised = true,
                "event_cleared" if !raised => self.problem(format!("cleared twice: {}", event.text)),
                "event_cleared" => raised = false,
                _ => {}
            }
        }
        if raised {
            self.problem("the event of an outage is still raised although the gateway is back".into());
        }
    }

    fn end(mut self) -> Report {
        let broken = kernel::with(|kernel| std::mem::take(&mut kernel.broken)).unwrap_or_default();
        let mut oracle = judge(&self.judge);
        self.report.outages_told = oracle.outages_told();
        self.report.problems = oracle.problems().iter().cloned().chain(broken.into_iter().take(5)).collect();
        self.report.simulated = Duration::from_nanos(self.world.now - BEGINS);
        self.report.admissions = oracle.admissions();
        self.report.streams_finished = oracle.streams_finished;
        self.report.streams_broken = oracle.streams_broken;
        self.report.notes_back = oracle.notes_back;
        self.report.digest = kernel::with(|kernel| kernel.digest()).unwrap_or_default();
        drop(oracle);
        self.report
    }
}

/// Both directions between two hosts.
fn paths(one: HostId, other: HostId, change: impl Fn(&mut kernel::Path)) {
    if one != other {
        kernel::with(|kernel| {
            change(kernel.path(one, other));
            change(kernel.path(other, one));
        });
    }
}

fn people_lock<T>(place: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    place.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Tells the oracle what central shows, from its first moment on.
async fn watch_gateway(handle: CentralHandle, oracle: Judge, agents: Vec<HostId>) {
    let state = loop {
        if let Some(state) = people_lock(&handle.state).clone() {
            break state;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    programs::mark(state.clone(), agents).await;
    let Some(gateway) = state.gateways.of(&environment()) else { return };
    let mut views = gateway.watch();
    drop(state);
    loop {
        {
            let view = views.borrow_and_update().clone();
            let draining: Vec<_> =
                view.draining.iter().filter_map(|drain| address_of(&drain.process_server)).collect();
            let active = view.active.as_ref().and_then(address_of);
            judge(&oracle).shown(kernel::now().unwrap_or(0), view.fence, active, &draining);
        }
        if views.changed().await.is_err() {
            return;
        }
    }
}

fn address_of(name: &Name) -> Option<Ipv4Addr> {
    HOSTS.iter().find(|(host, _, _)| *host == name.as_str()).map(|(_, ip, _)| *ip)
}
