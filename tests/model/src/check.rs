//! Runs a model to its end, and says how far that was.

use std::{
    collections::BTreeSet,
    fmt::{Debug, Write},
    hash::Hash,
    time::{Duration, Instant},
};

use stateright::{Checker, Expectation, HasDiscoveries, Model, Path};

/// Far beyond what any model here needs on a slow machine.
const LIMIT: Duration = Duration::from_secs(600);

/// How much was looked at.
#[derive(Debug, Clone, Copy)]
pub struct Explored {
    pub states: usize,
    pub depth: usize,
    pub took: Duration,
}

/// Explores every reachable state.
///
/// # Errors
/// The rule that was broken first, or is never met, and the way there.
pub fn holds<M>(model: M) -> Result<Explored, String>
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let began = Instant::now();
    let checker = model.checker().finish_when(HasDiscoveries::AnyFailures).timeout(LIMIT).spawn_bfs().join();
    let explored =
        Explored { states: checker.unique_state_count(), depth: checker.max_depth(), took: began.elapsed() };
    let found = checker.discoveries();
    for property in checker.model().properties() {
        match (property.expectation, found.get(property.name)) {
            (Expectation::Always, Some(path)) => {
                return Err(story(checker.model(), property.name, &explored, path.clone()));
            }
            (Expectation::Sometimes, None) => {
                return Err(format!("never met in {explored:?}: {}", property.name));
            }
            _ => {}
        }
    }
    if began.elapsed() >= LIMIT {
        return Err(format!("not at its end after {explored:?}"));
    }
    Ok(explored)
}

/// Explores until `rule` breaks, and says how. `None` when it holds.
pub fn breaks<M>(model: M, rule: &'static str) -> Option<String>
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let began = Instant::now();
    let until = HasDiscoveries::AnyOf(BTreeSet::from([rule]));
    let checker = model.checker().finish_when(until).timeout(LIMIT).spawn_bfs().join();
    let explored =
        Explored { states: checker.unique_state_count(), depth: checker.max_depth(), took: began.elapsed() };
    Some(story(checker.model(), rule, &explored, checker.discovery(rule)?))
}

/// How the rule was broken, up to the first state in which it is.
fn story<M>(model: &M, rule: &'static str, explored: &Explored, path: Path<M::State, M::Action>) -> String
where
    M: Model,
    M::Action: Debug,
{
    let condition = model.property(rule).condition;
    let mut story = format!("broken after {explored:?}: {rule}");
    for (state, action) in path.into_vec() {
        if !condition(model, &state) {
            break;
        }
        if let Some(action) = action {
            // Writing to a string cannot fail.
            let _ = write!(story, "\n  {action:?}");
        }
    }
    story
}
