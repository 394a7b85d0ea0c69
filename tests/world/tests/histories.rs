//! Histories of whole agents and central, each from a seed.
//!
//! * `cargo test -p postern-world` plays `WORLD_HISTORIES` of them from `WORLD_SEED` on (default: 500 from
//!   a fresh one, or what `WORLD_SECONDS` hold).
//! * Others have a tunnel of three lanes, for `WORLD_LANES_SECONDS` (60); with `WORLD_LANES=3` all have.
//! * `SEED=7 cargo test -p postern-world --test histories one_history -- --nocapture` plays one; with
//!   `RUST_LOG=info` it shows what the programs log, and when.
#![cfg(all(target_os = "linux", target_env = "gnu", any(target_arch = "x86_64", target_arch = "aarch64")))]

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use postern_world::{History, Mutant, Report, play};

/// Rounds of faults in one history.
const ROUNDS: usize = 2;
/// What a run plays unless it is told otherwise, or as much of it as fits into `SECONDS`.
const HISTORIES: u64 = 500;
const SECONDS: u64 = 240;
/// How long histories with several lanes are played beside the others.
const LANES_SECONDS: u64 = 60;
const LANES: u8 = 3;
/// A bug that was put in is to be noticed within so many histories.
const MUTANT_HISTORIES: u64 = 40;
/// A new active was shown only after the end of its predecessor's drain was on a slow disk; a follower that was put back
/// to an earlier day ended its leader.
const FOUND: [u64; 2] = [70_813_639_526, 20_261_171_138];

#[test]
fn whatever_goes_wrong_no_rule_is_broken_and_the_gateway_is_back_in_time() {
    let histories = number("WORLD_HISTORIES");
    let limit = if histories.is_some() { u64::MAX } else { number("WORLD_SECONDS").unwrap_or(SECONDS) };
    let histories = histories.unwrap_or(HISTORIES);
    let first = number("WORLD_SEED").unwrap_or_else(fresh);
    hold(first, histories, limit, lanes());
}

/// They fail again where what they found comes back, as long as the world deals them the same.
#[test]
fn histories_that_once_broke_a_rule_do_not_any_more() {
    for seed in FOUND {
        let report = play(History { seed, rounds: ROUNDS, lanes: 1, mutant: None });
        assert!(report.problems.is_empty(), "{report}");
    }
}

#[test]
fn with_several_lanes_no_rule_is_broken_either() {
    let limit = number("WORLD_LANES_SECONDS").unwrap_or(LANES_SECONDS);
    hold(number("WORLD_SEED").unwrap_or_else(fresh), HISTORIES, limit, LANES);
}

fn hold(first: u64, histories: u64, limit: u64, lanes: u8) {
    println!("WORLD_SEED={first} WORLD_HISTORIES={histories} WORLD_LANES={lanes}");
    let began = Instant::now();
    let reports = play_all(first, histories, limit, lanes);
    show(&reports, began.elapsed());
    let broken: Vec<_> = reports.iter().filter(|report| !report.problems.is_empty()).collect();
    for report in broken.iter().take(5) {
        println!("{report}");
    }
    let many = reports.len();
    assert!(broken.is_empty(), "{} of {many} histories broke a rule; the first: {}", broken.len(), broken[0]);
}

/// `WORLD_MUTANT=LeaseNeverEnds` looks for one alone.
#[test]
fn the_world_notices_each_bug_that_is_put_in() {
    let first = number("WORLD_SEED").unwrap_or_else(fresh);
    let chosen = std::env::var("WORLD_MUTANT").ok();
    println!("WORLD_SEED={first}");
    let mutants =
        Mutant::ALL.iter().filter(|mutant| chosen.as_ref().is_none_or(|name| *name == format!("{mutant:?}")));
    for mutant in mutants {
        let noticed = (0..MUTANT_HISTORIES).find_map(|place| {
            let seed = first.wrapping_add(place);
            let report = play(History { seed, rounds: ROUNDS, lanes: lanes(), mutant: Some(*mutant) });
            report.problems.first().map(|problem| (place + 1, problem.clone()))
        });
        let Some((histories, problem)) = noticed else {
            panic!("{MUTANT_HISTORIES} histories from {first} on did not notice {mutant:?}");
        };
        println!("{mutant:?} was noticed in history {histories}: {problem}");
    }
}

#[test]
fn one_history() {
    let seed = number("SEED").unwrap_or(1);
    if let Ok(filter) = std::env::var("RUST_LOG") {
        postern_world::log(&filter);
    }
    let report = play(History { seed, rounds: ROUNDS, lanes: lanes(), mutant: None });
    println!("{report}\n{report:?}");
    assert!(report.problems.is_empty(), "{report}");
}

/// On every core: a history has one thread.
fn play_all(first: u64, histories: u64, limit: u64, lanes: u8) -> Vec<Report> {
    let (next, reports) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    if place >= histories || began.elapsed() >= Duration::from_secs(limit) {
                        return;
                    }
                    let seed = first.wrapping_add(place);
                    let report = play(History { seed, rounds: ROUNDS, lanes, mutant: None });
                    if !report.problems.is_empty() {
                        // At once: a run that is stopped should have said it.
                        println!(
                            "SEED={} WORLD_LANES={lanes} breaks a rule: {}",
                            report.seed, report.problems[0]
                        );
                    }
                    reports.lock().unwrap_or_else(PoisonError::into_inner).push(report);
                }
            });
        }
    });
    reports.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn show(reports: &[Report], took: Duration) {
    let simulated: Duration = reports.iter().map(|report| report.simulated).sum();
    let mut back: Vec<_> = reports.iter().flat_map(|report| &report.back_after).copied().collect();
    back.sort();
    let at = |share: f64| back.get(((back.len() as f64 - 1.0) * share) as usize).copied().unwrap_or_default();
    let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
    println!(
        "{} histories in {took:.1?} ({:.2} a second), {simulated:.0?} simulated, {} faults, {} admissions",
        reports.len(),
        reports.len() as f64 / took.as_secs_f64(),
        sum(|report| report.faults.len() as u64),
        sum(|report| report.admissions as u64),
    );
    println!(
        "{} streams finished, {} broken, {} notes there and back, {} outages told; back after {:.1?} (median), \
         {:.1?} (99 %), {:.1?} (at most)",
        sum(|report| report.streams_finished),
        sum(|report| report.streams_broken),
        sum(|report| report.notes_back),
        sum(|report| report.outages_told as u64),
        at(0.5),
        at(0.99),
        at(1.0),
    );
    let mut slow: Vec<_> =
        reports.iter().filter_map(|report| Some((report.back_after.iter().max()?, report.seed))).collect();
    slow.sort();
    println!("the slowest to be back: {:.1?}", slow.iter().rev().take(5).collect::<Vec<_>>());
}

/// Websockets of a tunnel, where a test does not say it itself.
fn lanes() -> u8 {
    number("WORLD_LANES").map_or(1, |lanes| u8::try_from(lanes).unwrap_or(u8::MAX))
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

fn fresh() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64 % 1_000_000_000_000
}
