//! Elections, claims and losses, under simulated time.

use std::time::Duration;

use crate::world::{WITNESS, World, boot};
use group::{ClaimError, TransferError};
use proto::NodeId;
use tokio::time::{Instant, sleep};

#[tokio::test(start_paused = true)]
async fn a_killed_leader_is_replaced_and_the_next_claim_is_higher() {
    let mut world = World::founded(2).await;
    let first = world.claim(1).await;
    world.kill(1).await;
    world.until_led_by(2).await;
    let second = world.claim(2).await;
    assert!(second > first);
    assert_eq!(world.group(2).claims().borrow().unwrap().epoch, second);
    assert!(world.group(WITNESS).has_applied(second.claim, Duration::from_secs(1)).await);
    let seen = world.group(WITNESS).claim_at(second.claim).unwrap();
    assert_eq!((seen.epoch, seen.node, seen.boot), (second, NodeId(2), boot(2)));
}

#[tokio::test(start_paused = true)]
async fn two_agents_and_the_witness_bear_the_loss_of_any_one() {
    for lost in [1, 2, WITNESS] {
        let mut world = World::founded(2).await;
        assert_eq!(world.group(1).members().borrow().losses_bearable(), 1);
        world.kill(lost).await;
        let leader = world.until_led_by_agent().await;
        world.claim(leader).await;
        world.start(lost).await;
        let index = world.claim(leader).await.claim;
        assert!(world.group(lost).has_applied(index, Duration::from_secs(5)).await, "{lost} catches up");
    }
}

#[tokio::test(start_paused = true)]
async fn the_witness_leads_briefly_where_only_it_has_the_newest_entry() {
    let mut world = World::founded(2).await;
    world.cut(1, 2); // 2 lags from here on
    let first = world.claim(1).await;
    assert!(!world.group(2).has_applied(first.claim, Duration::ZERO).await);
    world.kill(1).await;
    world.heal();
    world.until_led_by(2).await;
    // What was committed without 2 is there: only the witness can have brought it.
    assert_eq!(world.group(2).claim_at(first.claim).unwrap().node, NodeId(1));
    assert!(world.claim(2).await > first);
}

#[tokio::test(start_paused = true)]
async fn a_witness_hands_over_to_the_one_that_central_prefers() {
    for preferred in [1, 2] {
        let world = World::founded(2).await;
        world.group(WITNESS).prefer(Some(NodeId(preferred)));
        // Both agents fall silent for each other and the witness until it leads alone.
        world.group(1).transfer(NodeId(WITNESS), Duration::from_secs(2)).await.unwrap();
        world.until_led_by(preferred).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_witness_never_claims() {
    let world = World::founded(2).await;
    assert_eq!(world.group(WITNESS).claim(boot(9)).await, Err(ClaimError::Witness));
}

#[tokio::test(start_paused = true)]
async fn a_closed_socket_told_at_once_shortens_the_failover() {
    let mut took = Vec::new();
    for hint in [false, true] {
        let mut world = World::founded(2).await;
        world.claim(1).await;
        world.kill(1).await;
        let killed = Instant::now();
        if hint {
            world.group(2).leader_gone();
            world.group(WITNESS).leader_gone();
        }
        world.claim(2).await;
        took.push(killed.elapsed());
    }
    assert!(took[1] * 2 < took[0], "without, with: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn told_at_once_the_witness_steps_in_early_where_it_alone_has_the_newest_entry() {
    let mut world = World::founded(2).await;
    world.cut(1, 2);
    let first = world.claim(1).await;
    world.kill(1).await;
    world.heal();
    let killed = Instant::now();
    world.group(2).leader_gone();
    world.group(WITNESS).leader_gone();
    assert!(world.claim(2).await > first);
    assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_false_alarm_disturbs_nobody() {
    let world = World::founded(2).await;
    let before = world.status(1).term;
    for _ in 0..5 {
        world.group(2).leader_gone();
        world.group(WITNESS).leader_gone();
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!((world.leader(), world.status(1).term), (Some(1), before));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_ignores_its_order_loses_the_lead_to_the_one_that_was_ordered() {
    // Three vote among themselves; of two the witness takes the lead and hands it on.
    for (agents, taker) in [(3, 2), (2, WITNESS)] {
        let world = World::founded(agents).await;
        let first = world.claim(1).await;
        world.group(WITNESS).prefer(Some(NodeId(2)));
        let ordered = Instant::now();
        world.group(taker).take_lead();
        world.until_led_by(2).await;
        assert!(world.claim(2).await > first);
        assert!(ordered.elapsed() < Duration::from_secs(1), "{agents}: {:?}", ordered.elapsed());
        assert!(world.claim(2).await > first, "the lead stays");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_lags_or_is_cut_off_deposes_nobody_though_ordered() {
    for cut_off_from in [vec![1], vec![1, 3, WITNESS]] {
        let world = World::founded(3).await;
        for other in cut_off_from {
            world.cut(2, other);
        }
        world.claim(1).await; // 2 does not learn of it
        let before = world.status(1).term;
        world.group(2).take_lead();
        sleep(Duration::from_secs(2)).await;
        assert_eq!((world.leader(), world.status(1).term), (Some(1), before));
        assert_eq!(world.status(2).term, before);
    }
}

#[tokio::test(start_paused = true)]
async fn an_order_to_the_one_that_leads_or_only_learns_changes_nothing() {
    let world = World::founded(3).await;
    let before = world.status(1).term;
    for node in [1, WITNESS] {
        world.group(node).take_lead();
        sleep(Duration::from_secs(2)).await;
        assert_eq!((world.leader(), world.status(1).term), (Some(1), before), "{node}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_isolated_node_raises_no_term_and_deposes_nobody_on_return() {
    let world = World::founded(3).await;
    let before = world.status(1).term;
    world.isolate(3);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.status(3).term, before);
    world.heal();
    let index = world.claim(1).await.claim;
    assert!(world.group(3).has_applied(index, Duration::from_secs(5)).await);
    assert_eq!((world.leader(), world.status(1).term), (Some(1), before));
}

#[tokio::test(start_paused = true)]
async fn a_leader_without_its_quorum_says_so_and_gets_no_claim() {
    let world = World::founded(2).await;
    world.isolate(1);
    world.until("node 1 stops leading", || !world.group(1).leadership().borrow().leads).await;
    assert!(world.group(1).claim(boot(1)).await.is_err());
    let leader = world.until_led_by_agent().await;
    assert_eq!(leader, 2);
    let epoch = world.claim(2).await;
    world.heal();
    assert!(world.group(1).has_applied(epoch.claim, Duration::from_secs(5)).await);
    assert_eq!(world.leader(), Some(2));
    assert_eq!(world.group(1).claims().borrow().unwrap().epoch, epoch);
}

#[tokio::test(start_paused = true)]
async fn a_planned_transfer_takes_a_moment_and_raises_the_epoch() {
    let world = World::founded(2).await;
    let first = world.claim(1).await;
    let asked = Instant::now();
    world.group(1).transfer(NodeId(2), Duration::from_secs(2)).await.unwrap();
    assert!(asked.elapsed() < Duration::from_millis(100), "{:?}", asked.elapsed());
    assert!(world.claim(2).await > first);
}

#[tokio::test(start_paused = true)]
async fn a_transfer_to_a_node_out_of_reach_is_not_tried() {
    let mut world = World::founded(2).await;
    world.kill(2).await;
    sleep(Duration::from_secs(1)).await;
    let refused = world.group(1).transfer(NodeId(2), Duration::from_secs(1)).await;
    assert_eq!(refused, Err(TransferError::OutOfReach(NodeId(2))));
    let stranger = world.group(1).transfer(NodeId(7), Duration::from_secs(1)).await;
    assert_eq!(stranger, Err(TransferError::NotVoter(NodeId(7))));
    world.claim(1).await; // still leads, still writes
}

#[tokio::test(start_paused = true)]
async fn a_transfer_that_the_target_does_not_take_leaves_the_group_writable() {
    let mut world = World::founded(2).await;
    // Dead, but not yet missed: the check passes, the transfer cannot.
    world.kill(2).await;
    let failed = world.group(1).transfer(NodeId(2), Duration::from_secs(1)).await;
    assert!(matches!(failed, Err(TransferError::TimedOut { .. })), "{failed:?}");
    world.until_led_by(1).await; // through the witness and back
    world.claim(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_node_keeps_its_vote_and_log_and_leads_only_when_elected() {
    let mut world = World::founded(2).await;
    let epoch = world.claim(1).await;
    let before = world.status(1);
    world.kill(1).await;
    world.kill(2).await;
    world.kill(WITNESS).await;
    world.start(1).await;
    let after = world.status(1);
    assert!(after.term >= before.term && after.last_log >= before.last_log, "{after:?}");
    sleep(Duration::from_secs(5)).await;
    assert_eq!(world.leader(), None, "one of three is no quorum");
    world.start(WITNESS).await;
    world.until_led_by(1).await;
    assert!(world.status(1).term > before.term, "led again without an election");
    assert!(world.claim(1).await > epoch);
}

#[tokio::test(start_paused = true)]
async fn twenty_failovers_in_a_row_raise_the_epoch_each_time() {
    let mut world = World::founded(2).await;
    let mut newest = world.claim(1).await;
    for round in 0..20 {
        let leader = world.until_led_by_agent().await;
        world.kill(leader).await;
        let other = 3 - leader;
        let epoch = world.claim(other).await;
        assert!(epoch > newest, "round {round}");
        newest = epoch;
        world.start(leader).await;
        assert!(world.group(leader).has_applied(epoch.claim, Duration::from_secs(10)).await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_history_is_compacted_and_a_wiped_node_joins_by_snapshot() {
    let mut world = World::founded(2).await;
    for _ in 0..1200 {
        world.claim(1).await;
    }
    world.until("the log is purged", || world.status(1).purged.is_some()).await;
    world.start(3).await;
    world.settle(&[1, 2, 3]).await;
    let newest = world.group(1).claims().borrow().unwrap();
    world.until("node 3 knows the newest claim", || *world.group(3).claims().borrow() == Some(newest)).await;
    assert!(world.status(3).snapshot.is_some(), "it came by snapshot");
    world.kill(3).await;
    world.start(3).await;
    world.until("node 3 still knows it", || *world.group(3).claims().borrow() == Some(newest)).await;
}
