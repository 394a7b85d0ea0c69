//! Real central and agents on hosts of their own, on a network that fails in every way the emulator knows.
//!
//! Each fault has its number in docs/failover.md, and each test prints its figures as `figure F9 …`. Takes root.
//! `NETWORK_LONG=1` adds those that need minutes.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "panicking is how a test fails")]

mod talk;
mod world;

use std::time::{Duration, Instant};

use emulator::path::Impairment;
use postern_tests::holds_for;
use talk::Talk;
use world::{World, figure, rounds};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
/// `tunnel.dead_after` and a half, on a machine that may be busy. A bound against hanging, not a figure.
const SOON: Duration = Duration::from_secs(60);
/// Longer than everything that would happen by itself: silence, giving way, an election.
const A_WHILE: Duration = Duration::from_secs(25);

fn cut() -> Impairment {
    Impairment { cut: true, ..Impairment::default() }
}

#[tokio::test]
async fn f9_an_active_that_nobody_hears_is_replaced_and_its_streams_end_as_broken() {
    let world = World::up(&["alpha", "beta"]).await;
    let mut held = world.talk().await;
    let before = world.hosts.gateway().await;
    let cut_at = Instant::now();
    for other in ["cloud", "beta"] {
        world.network.impair_both("alpha", other, &cut()).unwrap();
    }

    let served = world.until_served(SOON).await;
    figure("F9", "black hole around the active: until a new connection is served", cut_at.elapsed());
    assert_eq!(world.hosts.until_active("beta").await.group_epoch, before.group_epoch);
    held.until_broken(SOON).await;
    drop(served);

    world.heal();
    world.hosts.until_group_is(&["alpha", "beta", "witness"]).await;
    assert_eq!(world.hosts.gateway().await.active.as_deref(), Some("beta"), "nobody takes it back");
    world.dialled_by_one().await;
}

#[tokio::test]
async fn f10_when_only_one_direction_is_cut_another_candidate_takes_over() {
    for (from, to) in [("alpha", "cloud"), ("cloud", "alpha")] {
        let world = World::up(&["alpha", "beta"]).await;
        let cut_at = Instant::now();
        world.network.impair(from, to, cut()).unwrap();
        world.hosts.until_active("beta").await;
        world.until_served(SOON).await;
        figure("F10", &format!("{from} -> {to} cut: until a new connection is served"), cut_at.elapsed());
        world.heal();
        world.hosts.until_connected("alpha").await;
        assert_eq!(world.hosts.gateway().await.active.as_deref(), Some("beta"));
        world.dialled_by_one().await;
    }
}

#[tokio::test]
async fn f11_candidates_that_cannot_see_each_other_stay_one_group_through_central() {
    let mut world = World::up(&["alpha", "beta"]).await;
    let mut talk = world.talk().await;
    let before = world.hosts.gateway().await;
    world.network.impair_both("alpha", "beta", &cut()).unwrap();

    holds_for(A_WHILE, async || {
        let now = world.hosts.gateway().await;
        assert_eq!((now.active, now.epoch), (before.active.clone(), before.epoch), "nothing happens");
    })
    .await;
    talk.says_on().await;
    let killed_at = Instant::now();
    world.hosts.kill("alpha");
    world.until_served(SOON).await;
    figure("F11", "active killed while candidates see each other through central only", killed_at.elapsed());
}

#[tokio::test]
async fn f12_a_leader_that_one_of_three_cannot_see_stays() {
    let world = World::up(&["alpha", "beta", "gamma"]).await;
    let before = world.hosts.gateway().await;
    world.network.impair_both("alpha", "gamma", &cut()).unwrap();
    holds_for(A_WHILE, async || {
        let now = world.hosts.gateway().await;
        assert_eq!((now.active, now.epoch), (before.active.clone(), before.epoch));
    })
    .await;
    world.until_served(SOON).await;
}

#[tokio::test]
async fn f13_an_active_with_its_quorum_and_without_central_hands_over() {
    let world = World::up(&["alpha", "beta"]).await;
    let cut_at = Instant::now();
    world.network.impair_both("alpha", "cloud", &cut()).unwrap();
    world.hosts.until_active("beta").await;
    world.until_served(SOON).await;
    figure(
        "F13",
        "active keeps its quorum, loses central: until a new connection is served",
        cut_at.elapsed(),
    );
    world.heal();
    world.dialled_by_one().await;
}

#[tokio::test]
async fn f14_loss_of_one_packet_in_twenty_moves_nothing_and_alters_nothing() {
    let world = World::up(&["alpha", "beta"]).await;
    for loss in [0.01, 0.05] {
        world.spoil_all(&Impairment { loss, delay: 5 * MS, ..Impairment::default() });
        let bytes = world.nothing_moves_for(A_WHILE).await;
        figure("F14", &format!("loss {} %: echoed bytes in 25 s, no flap: {bytes}", loss * 100.0), A_WHILE);
    }
}

#[tokio::test]
async fn f14_of_a_loss_of_one_packet_in_five_comes_no_storm_and_when_it_ends_everything_serves() {
    let world = World::up(&["alpha", "beta"]).await;
    world.spoil_all(&Impairment { loss: 0.2, delay: 5 * MS, ..Impairment::default() });
    let span = 10 * S * rounds(2, 6).try_into().unwrap();
    let moves = world.moves_in(span).await;
    println!("figure F14 loss 20 %: the active changed {moves} times in {span:?}");
    assert!(moves <= 1, "{moves} changes of the active in {span:?}");
    let healed_at = Instant::now();
    world.heal();
    world.until_served(SOON).await;
    figure("F14", "loss 20 % ends: until a new connection is served", healed_at.elapsed());
    world.dialled_by_one().await;
}

#[tokio::test]
async fn f15_of_a_way_of_600_ms_comes_no_storm_and_it_carries() {
    let world = World::up(&["alpha", "beta"]).await;
    let slow = Impairment { delay: 300 * MS, ..Impairment::default() };
    for agent in ["alpha", "beta"] {
        world.network.impair_both(agent, "cloud", &slow).unwrap();
    }
    let moves = world.moves_in(A_WHILE).await;
    println!("figure F15 round trip 600 ms: the active changed {moves} times in {A_WHILE:?}");
    assert!(moves <= 1, "{moves} changes of the active in {A_WHILE:?}");
    let mut talk = world.until_served(SOON).await;
    talk.says_on().await;
    world.dialled_by_one().await;
}

#[tokio::test]
async fn f15_a_slow_way_moves_nothing_up_to_400_ms_there_and_back() {
    let world = World::up(&["alpha", "beta"]).await;
    for round_trip in [50 * MS, 200 * MS, 400 * MS] {
        let slow = Impairment { delay: round_trip / 2, ..Impairment::default() };
        world.network.impair_both("alpha", "cloud", &slow).unwrap();
        world.network.impair_both("beta", "cloud", &slow).unwrap();
        let bytes = world.nothing_moves_for(A_WHILE).await;
        figure("F15", &format!("round trip {round_trip:?}: echoed bytes in 25 s, no flap: {bytes}"), A_WHILE);
    }
}

#[tokio::test]
async fn f16_what_is_reordered_doubled_and_damaged_below_tcp_arrives_unaltered() {
    let world = World::up(&["alpha", "beta"]).await;
    world.spoil_all(&Impairment {
        delay: 5 * MS,
        jitter: 5 * MS,
        duplicates: 0.02,
        corruption: 0.01,
        ..Impairment::default()
    });
    let bytes = world.nothing_moves_for(A_WHILE).await;
    figure(
        "F16",
        &format!("2 % doubled, 1 % damaged, reordered: echoed bytes in 25 s, all as sent: {bytes}"),
        A_WHILE,
    );
}

#[tokio::test]
async fn f17_bulk_on_a_narrow_line_never_passes_for_death() {
    let world = World::up(&["alpha", "beta"]).await;
    // 256 kbit/s, and a modem's queue.
    let narrow = Impairment { rate: Some(32_000), queue: 2 * S, ..Impairment::default() };
    world.network.impair_both("alpha", "cloud", &narrow).unwrap();
    let bytes = world.nothing_moves_for(40 * S).await;
    figure("F17", &format!("256 kbit/s under bulk: echoed bytes in 40 s, no flap: {bytes}"), 40 * S);
}

#[tokio::test]
async fn f18_large_packets_that_vanish_cost_no_stream_where_the_hosts_probe_their_path() {
    let world = World::up(&["alpha", "beta"]).await;
    // As docs/operations.md asks of hosts.
    world.probe_paths(&["cloud", "alpha", "beta"]);
    swallow_large_packets(&world, "hosts probe their paths").await;
}

#[tokio::test]
async fn f18_large_packets_that_vanish_cost_no_stream_where_the_hosts_know_nothing_of_it() {
    let world = World::up(&["alpha", "beta"]).await;
    swallow_large_packets(&world, "hosts as they are").await;
}

async fn swallow_large_packets(world: &World, hosts: &str) {
    let mut talk = world.talk().await;
    let before = world.hosts.gateway().await;
    let hole_at = Instant::now();
    let hole = Impairment { largest: Some(1_200), ..Impairment::default() };
    world.network.impair_both("alpha", "cloud", &hole).unwrap();
    talk.says_much_within(2 * SOON).await;
    figure(
        "F18",
        &format!(
            "packets above 1200 bytes vanish, {hosts}: until 256 KiB have come back over the same stream"
        ),
        hole_at.elapsed(),
    );
    assert_eq!(world.hosts.gateway().await.active, before.active);
}

#[tokio::test]
async fn f19_a_nat_that_forgets_costs_no_byte_and_no_stream() {
    let world = World::up(&["alpha", "beta"]).await;
    let mut talk = world.talk().await;
    let before = world.hosts.gateway().await;
    world.network.forget_flows("alpha", "cloud").unwrap();
    let forgot_at = Instant::now();
    talk.says_on_within(SOON).await;
    figure("F19", "NAT restarted: until the same stream goes on, nothing lost", forgot_at.elapsed());
    let now = world.hosts.gateway().await;
    assert_eq!((&now.active, now.fence()), (&before.active, before.fence()), "the same active came back");

    // Its own pings hold a flow open behind a NAT that forgets idle ones after ten seconds.
    let forgetful = Impairment { idle_limit: Some(10 * S), ..Impairment::default() };
    world.network.impair_both("alpha", "cloud", &forgetful).unwrap();
    holds_for(A_WHILE, async || {
        assert_eq!(world.hosts.gateway().await.active, before.active);
    })
    .await;
    talk.says_on().await;
}

#[tokio::test]
async fn f22_hosts_blocked_and_released_in_turn_leave_a_gateway_that_serves() {
    let world = World::up(&["alpha", "beta", "gamma"]).await;
    let mut before = world.hosts.gateway().await;
    let pairs =
        [("alpha", "cloud"), ("beta", "gamma"), ("beta", "cloud"), ("alpha", "gamma"), ("gamma", "cloud")];
    for round in 0..rounds(2, 20) {
        for (one, other) in pairs {
            world.network.impair_both(one, other, &cut()).unwrap();
            let seen = world.hosts.gateway().await;
            assert!(seen.fence() >= before.fence(), "the fence fell: {seen:?} after {before:?}");
            before = seen;
        }
        for (one, other) in pairs {
            world.network.impair_both(one, other, &Impairment::default()).unwrap();
        }
        let released_at = Instant::now();
        world.until_served(SOON).await;
        figure(
            "F22",
            &format!("round {round}: after the last was released, until served"),
            released_at.elapsed(),
        );
    }
    world.hosts.until_group_is(&["alpha", "beta", "gamma"]).await;
    world.dialled_by_one().await;
}

#[tokio::test]
async fn f7_an_active_that_stood_still_for_longer_than_dead_after_writes_nothing_when_it_wakes() {
    let world = World::up(&["alpha", "beta"]).await;
    let mut held = world.talk().await;
    let stopped_at = Instant::now();
    world::pause(world.hosts.pid("alpha"), true);
    // On its way when it fell asleep; it must not reach the destination afterwards.
    held.push_late().await;
    world.hosts.until_active("beta").await;
    world.until_served(SOON).await;
    figure("F7", "active stands still: until a new connection is served", stopped_at.elapsed());
    held.until_broken(SOON).await;
    // Until then it may still write what it holds: that is what the bound says.
    tokio::time::sleep((16 * S).saturating_sub(stopped_at.elapsed())).await;
    let heard = world.heard_at_the_destination();
    world::pause(world.hosts.pid("alpha"), false);
    world.hosts.until_role("alpha", "standby").await;
    assert_eq!(world.heard_at_the_destination(), heard, "woken, it wrote what it still held");
    world.hosts.until_group_is(&["alpha", "beta", "witness"]).await;
}

#[tokio::test]
async fn f8_a_pause_of_the_standby_or_of_central_moves_nothing() {
    let world = World::up(&["alpha", "beta"]).await;
    let mut talk = world.talk().await;
    let before = world.hosts.gateway().await;
    for pid in [world.hosts.pid("beta"), world.hosts.central_pid()] {
        world::pause(pid, true);
        // The fault's own length, below tunnel.dead_after; central cannot be asked meanwhile.
        tokio::time::sleep(5 * S).await;
        world::pause(pid, false);
        talk.says_on().await;
    }
    let now = world.hosts.gateway().await;
    assert_eq!((&now.active, now.fence()), (&before.active, before.fence()));
}
