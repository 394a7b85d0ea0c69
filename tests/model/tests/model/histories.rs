//! Long histories in virtual time, from seeds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postern_model::{gateway::History, mutant::Mutant};

/// How many; CI begins each time with other seeds.
const HISTORIES: u64 = 2_000;

#[test]
fn whatever_fails_one_is_active_and_a_tunnel_comes_back() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let today = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let first = number("MODEL_SEED").unwrap_or_else(today);
    let histories = number("MODEL_HISTORIES").unwrap_or(HISTORIES);
    let (mut take_overs, mut writes, mut steps) = (0, 0, 0);
    let mut back: Vec<Duration> = Vec::new();
    for seed in first..first + histories {
        let mut history = History::seeded(seed);
        if let Err(why) = history.run() {
            panic!("MODEL_SEED={seed} MODEL_HISTORIES=1 broke a rule: {why}");
        }
        take_overs += history.take_overs();
        writes += history.writes();
        steps += history.steps;
        back.extend(history.back_after);
    }
    back.sort_unstable();
    let at = |part: usize| back.get(back.len() * part / 1000).or(back.last()).copied().unwrap_or_default();
    println!(
        "{histories} histories from seed {first}: {steps} steps, {take_overs} take-overs, {writes} writes; back \
         after {:?} (median), {:?} (99.9 %), {:?} at most",
        at(500),
        at(999),
        at(1000),
    );
    // A storm in which nobody ever took over, or nothing was ever written, would have tested nothing.
    assert!(take_overs as u64 >= histories && writes > histories);
}

/// Histories look at less of each state than the models and meet rare orders rarely, so not every bug is theirs.
#[test]
fn seeded_bugs_are_met_by_some_history() {
    for mutant in [
        Mutant::AdmittedBeforeDurable,
        Mutant::FenceForgottenAtRestart,
        Mutant::StaleEpochAdmitted,
        Mutant::OldTunnelLeftOpen,
        Mutant::DrainNotRecorded,
        Mutant::DrainTakesStreams,
        Mutant::NoSelfFence,
        Mutant::AnswerDatedByArrival,
    ] {
        let met = (1..=MUTANT_SEEDS).find(|seed| History::seeded(*seed).with(mutant).run().is_err());
        println!("{mutant:?}: met by seed {}", met.unwrap_or_else(|| panic!("{mutant:?} was not met")));
    }
}

const MUTANT_SEEDS: u64 = 2_000;
