//! The same groups with their records on disk, in real time.
//!
//! `GROUP_MEASURE=30` prints how long it takes from a kill to the other's committed claim.

use std::{env, sync::Arc, time::Duration};

use async_trait::async_trait;
use durable::{Durable, quarantine};
use group::{
    CallError, Group, GroupConfig, GroupStorage, Member, Peer, StartError, StorageError, Timings, Transport,
};
use proto::{NodeId, hello::Seat};
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::world::{GENERATION, WITNESS, World, boot, peer};

#[tokio::test]
async fn a_group_on_disk_comes_back_whole_after_all_of_it_was_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::founded_on_disk(2, dir.path().into()).await;
    let epoch = world.claim(1).await;
    for node in [1, 2, WITNESS] {
        world.kill(node).await;
    }
    for node in [1, 2, WITNESS] {
        world.start(node).await;
    }
    let leader = world.until_led_by_agent().await;
    world
        .until("the old claim is known again", || {
            world.group(leader).claim_at(epoch.claim).is_some_and(|claim| claim.boot == boot(1))
        })
        .await;
    assert!(world.claim(leader).await > epoch);
    assert_eq!(world.voters(leader), [1, 2, WITNESS]);
}

#[tokio::test]
async fn a_group_on_disk_changes_its_timings_without_losing_its_leader_or_a_claim() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::founded_on_disk(2, dir.path().into()).await;
    let rtt = Duration::from_millis(60);
    world.slow_down(rtt);
    let mut claims = vec![world.claim(1).await];
    let slower = Timings::for_round_trip(rtt);
    while [1, 2, WITNESS].iter().any(|node| world.status(*node).timings < slower) {
        claims.push(world.claim(1).await);
    }
    claims.push(world.claim(1).await);
    assert!(claims.is_sorted());
    for node in [1, 2, WITNESS] {
        world.kill(node).await;
    }
    for node in [1, 2, WITNESS] {
        world.start(node).await;
        assert!(world.status(node).timings >= slower, "{node}");
    }
    let leader = world.until_led_by_agent().await;
    assert!(world.claim(leader).await > claims[claims.len() - 1]);
}

#[tokio::test]
async fn a_database_put_back_to_an_older_state_is_refused_until_it_gets_a_new_seat() {
    let dir = tempfile::tempdir().unwrap();
    let (db, guard) = (dir.path().join("raft"), dir.path().join("guard"));
    let seat = |node| Seat { group: GENERATION, node: NodeId(node) };
    let storage = || GroupStorage::own(Durable::open(&db).unwrap(), &guard);

    let group = alone(seat(1), storage()).await.unwrap();
    group.found(peer(1)).await.unwrap();
    group.leadership().wait_for(|now| now.leads).await.unwrap();
    group.claim(boot(1)).await.unwrap();
    group.shutdown().await;
    assert_eq!(storage().kept().unwrap().map(|kept| kept.seat), Some(seat(1)));

    // Restored from a backup taken before anything was written.
    quarantine(&db).unwrap();
    let refused = alone(seat(1), storage()).await.err().unwrap();
    assert!(
        matches!(&refused, StartError::Storage(error @ StorageError::Regressed { .. })
        if error.needs_new_seat()),
        "{refused}"
    );

    let group = alone(seat(5), storage()).await.unwrap();
    group.found(peer(5)).await.unwrap();
    group.leadership().wait_for(|now| now.leads).await.unwrap();
    group.shutdown().await;
    assert!(alone(seat(1), storage()).await.is_err(), "a seat held before is not sat on again");

    storage().forget(seat(5)).await.unwrap();
    assert_eq!(storage().kept().unwrap(), None);
    assert!(alone(seat(5), storage()).await.is_err(), "nor one that was left");
}

#[tokio::test]
async fn one_database_serves_many_groups_without_mixing_them() {
    let dir = tempfile::tempdir().unwrap();
    let db = Arc::new(Durable::open(dir.path().join("db")).unwrap());
    let mut epochs = Vec::new();
    let open = |tag: &str| GroupStorage::shared(db.clone(), tag, dir.path().join(format!("guard-{tag}")));
    for round in 0..2 {
        for (n, tag) in ["acme", "acme2", "globex"].iter().enumerate() {
            let seat = Seat { group: n as u64 + 1, node: NodeId(1) };
            let group = alone(seat, open(tag)).await.unwrap();
            group.found(peer(1)).await.unwrap();
            group.leadership().wait_for(|now| now.leads).await.unwrap();
            epochs.push(group.claim(boot(round)).await.unwrap());
            group.shutdown().await;
        }
    }
    for n in 0..3 {
        assert_eq!(epochs[n].group, n as u64 + 1);
        assert!(epochs[n + 3] > epochs[n]);
    }
}

/// Prints, and judges nothing: figures belong into the documentation, not into a test.
#[tokio::test(flavor = "multi_thread")]
async fn measure_the_time_from_a_kill_to_the_next_claim() {
    let Ok(rounds) = env::var("GROUP_MEASURE") else { return };
    let rounds: usize = rounds.parse().unwrap();
    for hint in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::founded_on_disk(2, dir.path().into()).await;
        let mut took = Vec::new();
        for _ in 0..rounds {
            let leader = world.until_led_by_agent().await;
            world.claim(leader).await;
            let other = 3 - leader;
            let killed = Instant::now();
            world.close_sockets(leader);
            if hint {
                world.group(other).leader_gone();
                world.group(WITNESS).leader_gone();
            }
            world.claim(other).await;
            took.push(killed.elapsed().as_millis());
            world.kill(leader).await;
            world.start(leader).await;
            let index = world.claim(other).await.claim;
            assert!(world.group(leader).has_applied(index, Duration::from_secs(10)).await);
        }
        took.sort_unstable();
        let (median, max) = (took[rounds / 2], took[rounds - 1]);
        println!("hint {hint}: {rounds} rounds, median {median} ms, max {max} ms");
    }
}

async fn alone(seat: Seat, storage: GroupStorage) -> Result<Group, StartError> {
    let config = GroupConfig { seat, member: Member::Agent, timings: Timings::default() };
    Group::start(config, storage, Arc::new(Nobody)).await
}

struct Nobody;

#[async_trait]
impl Transport for Nobody {
    async fn call(
        &self,
        to: NodeId,
        _peer: Option<&Peer>,
        _body: Box<RawValue>,
        _ttl: Duration,
    ) -> Result<Box<RawValue>, CallError> {
        Err(CallError::Unreachable(format!("node {to} does not exist")))
    }
}
