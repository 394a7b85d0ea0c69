//! What becomes of a world in which nothing fails any more: everything under way arrives, everybody is back,
//! timers ring. Then a tunnel has to come up, from wherever it began.

use stateright::Model;

use super::{Action, Bounds, Gateway, agent::Life, world::World};

/// Rounds in which everybody does what he can. A take-over needs about ten.
const ROUNDS_MAX: usize = 60;
const ROUNDS_OF_A_TIMER: usize = 8;

pub(super) fn comes_up(world: &World, model: &Gateway) -> bool {
    if world.is_up() {
        return true;
    }
    settle(&mut world.clone(), model)
}

/// Goes on until a tunnel is up; `false` when none comes.
pub(super) fn settle(world: &mut World, model: &Gateway) -> bool {
    for number in 1..=ROUNDS_MAX {
        // Enough of what a healthy world does by itself; nothing of what breaks it.
        let left = Bounds { claims: u8::MAX, racing: world.left.racing, ..Bounds::default() };
        let left = std::mem::replace(&mut world.left, left);
        round(world, model, number);
        world.left = left;
        if world.is_up() {
            return true;
        }
    }
    false
}

fn round(world: &mut World, model: &Gateway, number: usize) {
    let agents = 0..world.agents.len();
    for who in agents.clone() {
        match world.agents[who].life {
            Life::Dead => drop(world.act(Action::Restart(who), model)),
            Life::Paused => drop(world.act(Action::Wake(who), model)),
            Life::Running => {}
        }
    }
    if let Some(who) = agents.clone().find(|who| !world.has_leader() && world.electable(*who)) {
        world.act(Action::Elect(who), model);
    }
    // One pass over all that is enabled; what it enables comes with the next round.
    let mut moved = false;
    let mut actions = Vec::new();
    model.actions(world, &mut actions);
    for action in actions.into_iter().filter(|action| goes_on(*action)) {
        let mut still = Vec::new();
        model.actions(world, &mut still);
        moved |= still.contains(&action) && world.act(action, model).is_some();
    }
    // Timers are slower than messages, but ring also while a refused tunnel knocks on and on.
    if !moved || number.is_multiple_of(ROUNDS_OF_A_TIMER) {
        for who in agents {
            world.act(Action::Timeout(who), model);
            world.act(Action::Drained(who), model); // the resume window has passed
        }
        world.act(Action::CentralTimeout, model);
    }
}

/// Not what only happens when something is given up.
fn goes_on(action: Action) -> bool {
    !matches!(
        action,
        Action::GiveUpProposal(_) | Action::DrainEnds | Action::ResumeWindowEnds | Action::Drained(_)
    )
}
