//! What goes wrong, drawn from a seed.

use std::time::Duration;

use crate::{
    dice::Dice,
    kernel::HostId,
    programs::{AGENTS, CENTRAL, SITE},
};

/// One thing that goes wrong, or that somebody does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fault {
    /// `kill -9`, and started again at the end.
    Kill(HostId),
    /// Power lost, and back at the end.
    Power(HostId),
    /// Asked to end (`SIGTERM`), and started again at the end.
    Stop(HostId),
    /// `SIGSTOP`, `SIGCONT`.
    Pause(HostId),
    /// The whole machine sleeps.
    Suspend(HostId),
    /// No way between two hosts.
    Cut(HostId, HostId),
    /// No way from one to the other.
    CutOneWay(HostId, HostId),
    /// No way to anybody.
    Isolate(HostId),
    /// So many of 1000 pieces are lost, both ways.
    Loss(HostId, HostId, u64),
    /// Each way takes so long, give or take a third.
    Delay(HostId, HostId, Duration),
    /// Bytes a second, each way.
    Narrow(HostId, HostId, u64),
    /// Something between resets their connections.
    Reset(HostId, HostId),
    /// Something between forgets their connections.
    Forget(HostId, HostId),
    /// A byte of what is under way is damaged.
    Spoil(HostId, HostId),
    /// Each sync takes so long.
    SlowDisk(HostId, Duration),
    /// Nothing can be written.
    FullDisk(HostId),
    /// The wall clock is off by so many seconds.
    Clock(HostId, i64),
    /// An administrator switches to another candidate.
    Switch,
    /// An agent's machine is put back, at the end, to what was on its disk at the beginning.
    PutBack(HostId),
}

/// How many rounds have a machine that is put back.
const PUT_BACK: f64 = 0.12;

/// A fault with its time.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub(crate) fault: Fault,
    /// After the round's beginning.
    pub(crate) at: Duration,
    pub(crate) lasts: Duration,
}

/// A round of one to five faults, which may overlap.
pub(crate) fn round(dice: &mut Dice, candidates: usize) -> Vec<Planned> {
    let agents = &AGENTS[..candidates];
    let many = 1 + dice.below(5);
    let mut round = Vec::new();
    for _ in 0..many {
        let fault = draw(dice, agents);
        let at = dice.between(Duration::ZERO, Duration::from_secs(12));
        let lasts = match &fault {
            Fault::Pause(_) | Fault::Suspend(_) if dice.chance(0.1) => {
                dice.between(Duration::from_secs(60), Duration::from_secs(300))
            }
            // Most are short; what is longer than `dead_after` is another world.
            _ if dice.chance(0.6) => dice.between(Duration::from_millis(100), Duration::from_secs(8)),
            _ => dice.between(Duration::from_secs(8), Duration::from_secs(40)),
        };
        round.push(Planned { fault, at, lasts });
    }
    if dice.chance(PUT_BACK) {
        let at = dice.between(Duration::ZERO, Duration::from_secs(4));
        let lasts = dice.between(Duration::from_secs(1), Duration::from_secs(20));
        round.push(Planned { fault: Fault::PutBack(*dice.pick(agents)), at, lasts });
    }
    round.sort_by_key(|planned| planned.at);
    round
}

/// A round in which agents are cut off or asleep while they still have bytes for a destination: because it takes none
/// and takes them again too late, or because they stood still before they fell asleep.
pub(crate) fn starved(dice: &mut Dice, candidates: usize) -> Vec<Planned> {
    let mut at = |least, most| dice.between(Duration::from_millis(least), Duration::from_millis(most));
    let (stands, begins) = (at(0, 1_000), at(8_000, 14_000));
    let (wakes, lasts) = (begins + at(14_000, 20_000), at(17_000, 30_000));
    let plan = |fault, at, lasts| Planned { fault, at, lasts };
    let agents = &AGENTS[..candidates];
    if dice.chance(0.5) {
        let cut = agents.iter().map(|agent| plan(Fault::Cut(*agent, CENTRAL), begins, lasts));
        return [plan(Fault::Pause(SITE), stands, wakes - stands)].into_iter().chain(cut).collect();
    }
    // What arrives while it stands still waits in its kernel, and is old when it wakes.
    let asleep = begins + Duration::from_secs(4);
    let sleeps = agents.iter().flat_map(|agent| {
        [plan(Fault::Pause(*agent), begins, lasts * 2), plan(Fault::Suspend(*agent), asleep, lasts)]
    });
    sleeps.collect()
}

fn draw(dice: &mut Dice, agents: &[HostId]) -> Fault {
    let agent = *dice.pick(agents);
    let other = *dice.pick(agents);
    let program = if dice.chance(0.25) { CENTRAL } else { agent };
    // Two ends: mostly an agent and central, sometimes two agents or an agent and its destination.
    let (one, two) = match dice.below(10) {
        0..=5 => (agent, CENTRAL),
        6..=7 if other != agent => (agent, other),
        8 => (agent, SITE),
        _ => (agent, CENTRAL),
    };
    let (from, to) = if dice.chance(0.5) { (one, two) } else { (two, one) };
    match dice.below(100) {
        0..=15 => Fault::Kill(program),
        16..=20 => Fault::Power(program),
        21..=25 => Fault::Stop(program),
        26..=37 => Fault::Pause(program),
        38..=41 => Fault::Suspend(program),
        42..=50 => Fault::Cut(one, two),
        51..=58 => Fault::CutOneWay(from, to),
        59..=62 => Fault::Isolate(program),
        63..=66 => Fault::Loss(one, two, 10 + dice.below(140)),
        67..=70 => {
            Fault::Delay(one, two, dice.between(Duration::from_millis(10), Duration::from_millis(200)))
        }
        71..=73 => Fault::Narrow(one, two, 32_000),
        74..=78 => Fault::Reset(one, two),
        79..=82 => Fault::Forget(one, two),
        // Between an agent and its destination nobody could tell.
        83..=84 if two == SITE => Fault::Spoil(agent, CENTRAL),
        83..=84 => Fault::Spoil(from, to),
        85..=87 => {
            Fault::SlowDisk(program, dice.between(Duration::from_millis(20), Duration::from_millis(800)))
        }
        88..=89 => Fault::FullDisk(agent),
        90..=91 => Fault::Clock(agent, *dice.pick(&[-3_600, 3_600, -200_000, 200_000])),
        92 => Fault::Pause(SITE),
        _ => Fault::Switch,
    }
}
