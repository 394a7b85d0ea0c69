//! Histories of whole agents and central, each from a seed.
//!
//! * `cargo test -p postern-world` plays `WORLD_HISTORIES` of them from `WORLD_SEED` on (default: fresh ones).
//! * `SEED=7 cargo test -p postern-world --test histories one_history -- --nocapture` plays one; with
//!   `RUST_LOG=info` it shows what the programs log, and when.
#![cfg(all(target_os = "linux", target_env = "gnu", any(target_arch = "x86_64", target_arch = "aarch64")))]

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use postern_world::{History, Report, play};

/// Rounds of faults in one history.
const ROUNDS: usize = 2;
const HISTORIES: usize = 60;

#[test]
fn whatever_goes_wrong_no_rule_is_broken_and_the_gateway_is_back_in_time() {
    let histories = number("WORLD_HISTORIES").map_or(HISTORIES, |many| many as usize);
    let first = number("WORLD_SEED").unwrap_or_else(fresh);
    println!("WORLD_SEED={first} WORLD_HISTORIES={histories}");
    let began = SystemTime::now();
    let reports = play_all(first, histories);
    show(&reports, began.elapsed().unwrap_or_default());
    let broken: Vec<_> = reports.iter().filter(|report| !report.problems.is_empty()).collect();
    for report in broken.iter().take(5) {
        println!("{report}");
    }
    assert!(
        broken.is_empty(),
        "{} of {histories} histories broke a rule; the first: {}",
        broken.len(),
        broken[0]
    );
}

#[test]
fn one_history() {
    let seed = number("SEED").unwrap_or(1);
    if let Ok(filter) = std::env::var("RUST_LOG") {
        postern_world::log(&filter);
    }
    let report = play(History { seed, rounds: ROUNDS });
    println!("{report}\n{report:?}");
    assert!(report.problems.is_empty(), "{report}");
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let seed = number("SEED").unwrap_or(2);
    let [one, other] = [(); 2].map(|()| play(History { seed, rounds: 1 }));
    assert_eq!((one.digest, one.notes_back), (other.digest, other.notes_back), "{one}\n{other}");
}

/// On every core: a history has one thread.
fn play_all(first: u64, histories: usize) -> Vec<Report> {
    let (next, reports) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    if place >= histories {
                        return;
                    }
                    let report = play(History { seed: first.wrapping_add(place as u64), rounds: ROUNDS });
                    if !report.problems.is_empty() {
                        // At once: a run that is stopped should have said it.
                        println!("SEED={} breaks a rule: {}", report.seed, report.problems[0]);
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
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

fn fresh() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64 % 1_000_000_000_000
}
