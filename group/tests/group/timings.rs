//! Slow paths: the group changes its timings to them, and back.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::world::{GENERATION, WITNESS, World, boot};
use group::{Leadership, Timings};
use proto::NodeId;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

#[tokio::test(start_paused = true)]
async fn a_group_whose_links_become_slower_and_slower_follows_and_still_fails_over() {
    let mut world = World::founded(2).await;
    let mut newest = world.claim(1).await;
    // 75 ms and more cannot even be measured by calls that end with the first heartbeat; at 240 ms
    // and more nobody could be elected with the first set.
    for rtt in [40, 80, 150, 240, 380, 780].map(Duration::from_millis) {
        world.slow_down(rtt);
        world.until_paced_for(rtt).await;
        let leader = world.until_led_by_agent().await;
        world.claim(leader).await;
        world.kill(leader).await;
        let epoch = world.claim(3 - leader).await;
        assert!(epoch > newest, "{rtt:?}");
        newest = epoch;
        world.start(leader).await;
        assert!(world.group(leader).has_applied(epoch.claim, Duration::from_secs(30)).await, "{rtt:?}");
        assert_eq!(
            world.status(leader).timings,
            Timings::for_round_trip(rtt),
            "it comes back with the group's set"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_that_suddenly_could_elect_and_commit_nothing_slows_down_all_the_same() {
    for agents in [2, 3] {
        for rtt in [120, 300, 780].map(Duration::from_millis) {
            let mut world = World::founded(agents).await;
            world.claim(1).await;
            world.slow_down(rtt);
            world.kill(1).await;
            world.claim_of_any(&[2, 3][..agents as usize - 1]).await;
            world.until_paced_for(rtt).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_can_be_founded_over_slow_links() {
    for rtt in [60, 120, 500].map(Duration::from_millis) {
        let world = World::founded_over(2, rtt).await;
        assert_eq!(world.voters(1), [1, 2, WITNESS]);
        world.until_paced_for(rtt).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_path_that_only_followers_have_counts_too() {
    let world = World::founded(2).await;
    world.claim(1).await;
    world.slow_down_between(2, WITNESS, Duration::from_millis(180));
    let mut pacing = world.group(1).pacing();
    world.until_paced_for(Duration::from_millis(180)).await;
    // Told to those who wait for it, not only to those who ask.
    let shown = pacing.wait_for(|now| now.timings == world.status(1).timings).await.unwrap();
    assert!(shown.slowest_path > Some(Duration::from_millis(170)));
    drop(shown);
    assert!(world.status(1).worst_round_trip > Some(Duration::from_millis(170)));
}

#[tokio::test(start_paused = true)]
async fn a_group_returns_to_the_fast_set_when_its_links_have_been_fast_for_long() {
    let world = World::founded(2).await;
    let epoch = world.claim(1).await;
    let slow = Duration::from_millis(150);
    world.slow_down(slow);
    world.until_paced_for(slow).await;
    world.slow_down(Duration::ZERO);
    let since = Instant::now();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.status(1).timings, Timings::for_round_trip(slow), "not yet");
    world.until_paced_for(Duration::ZERO).await;
    assert!(since.elapsed() < Duration::from_secs(120), "{:?}", since.elapsed());
    assert_eq!(world.group(1).claims().borrow().unwrap().epoch, epoch, "nothing else changed");
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_slow_for_two_seconds_changes_nothing() {
    let world = World::founded(2).await;
    for _ in 0..3 {
        world.slow_down(Duration::from_millis(150));
        sleep(Duration::from_secs(2)).await;
        world.slow_down(Duration::ZERO);
        for _ in 0..600 {
            for node in [1, 2, WITNESS] {
                assert_eq!(world.status(node).timings, Timings::default(), "{node}");
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_changes_its_timings_stays_leader_and_loses_no_claim() {
    let world = World::founded(2).await;
    let before = world.status(1);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let watched = tokio::spawn(note_each(world.group(1).leadership(), seen.clone()));
    // Slow enough for another set, fast enough for every call of the first.
    let rtt = Duration::from_millis(60);
    world.slow_down(rtt);
    let mut newest = world.claim(1).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        let epoch = world.group(1).claim(boot(1)).await.unwrap();
        assert!(epoch > newest);
        newest = epoch;
    }
    world.until_paced_for(rtt).await;
    let after = world.status(1);
    assert_eq!((after.state, after.term), (before.state, before.term));
    assert!(world.group(WITNESS).has_applied(newest.claim, Duration::from_secs(5)).await);
    watched.abort();
    let steadily = Leadership { leader: Some(NodeId(1)), leads: true, running: true };
    assert!(seen.lock().unwrap().iter().all(|now| *now == steadily), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_group_restarted_whole_comes_up_with_the_set_of_its_log() {
    let mut world = World::founded(2).await;
    let rtt = Duration::from_millis(150);
    world.slow_down(rtt);
    world.until_paced_for(rtt).await;
    for node in [1, 2, WITNESS] {
        world.kill(node).await;
    }
    for node in [1, 2, WITNESS] {
        world.start(node).await;
        assert_eq!(world.status(node).timings, Timings::for_round_trip(rtt), "{node}");
        assert_ne!(world.status(node).state, "leader", "not without an election");
    }
    let leader = world.until_led_by_agent().await;
    world.claim(leader).await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_carries_the_set() {
    let mut world = World::founded(2).await;
    let rtt = Duration::from_millis(150);
    world.slow_down(rtt);
    world.until_paced_for(rtt).await;
    world.slow_down(Duration::ZERO); // for less than the calm minute
    for _ in 0..1200 {
        world.claim(1).await;
    }
    world.until("the log is purged", || world.status(1).purged.is_some()).await;
    world.start(3).await;
    world.settle(&[1, 2, 3]).await;
    assert!(world.status(3).snapshot.is_some(), "it came by snapshot");
    assert_eq!(world.status(3).timings, Timings::for_round_trip(rtt));
    assert_eq!(world.group(3).seat().group, GENERATION);
    world.kill(3).await;
    world.start(3).await;
    assert_eq!(world.status(3).timings, Timings::for_round_trip(rtt), "also after its own restart");
}

#[tokio::test(start_paused = true)]
async fn a_dead_candidate_is_no_slow_one() {
    let mut world = World::founded(2).await;
    world.kill(2).await;
    sleep(Duration::from_secs(30)).await;
    world.isolate(2); // from a closed socket to silence
    sleep(Duration::from_secs(60)).await;
    world.claim(1).await;
    assert_eq!(world.status(1).timings, Timings::default());
}

async fn note_each(mut leadership: watch::Receiver<Leadership>, seen: Arc<Mutex<Vec<Leadership>>>) {
    while leadership.changed().await.is_ok() {
        seen.lock().unwrap().push(*leadership.borrow_and_update());
    }
}
