//! Candidates come and go; the witness' vote follows.

use std::time::Duration;

use crate::world::{GENERATION, NEXT_WITNESS, WITNESS, World, boot, peer, roster};
use group::{ClaimError, ReconcileError, Reconciled};
use proto::{Fingerprint, NodeId};
use tokio::time::sleep;

#[tokio::test(start_paused = true)]
async fn a_founder_is_active_alone_and_founding_twice_changes_nothing() {
    let mut world = World::founded(1).await;
    assert_eq!(world.voters(1), [1]);
    world.claim(1).await;
    world.group(1).found(peer(1)).await.unwrap();
    assert_eq!(world.voters(1), [1]);
    world.kill(1).await;
    world.start(1).await;
    world.claim(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_member_of_a_group_founds_no_other() {
    let world = World::founded(2).await;
    assert!(world.group(2).is_initialized().await.unwrap());
    world.group(2).found(peer(2)).await.unwrap();
    world.claim(1).await;
    assert_eq!(world.voters(2), [1, 2, WITNESS]);
}

#[tokio::test(start_paused = true)]
async fn the_witness_votes_while_the_candidates_are_even() {
    let mut world = World::founded(2).await;
    assert_eq!(world.voters(1), [1, 2, WITNESS]);
    world.start(3).await;
    world.settle(&[1, 2, 3]).await;
    assert_eq!(world.voters(1), [1, 2, 3]);
    world.settle(&[1, 2]).await;
    assert_eq!(world.voters(1), [1, 2, WITNESS]);
    assert!(!world.group(1).members().borrow().peers.contains_key(&NodeId(3)));
    assert_eq!(world.group(1).members().borrow().peers[&NodeId(2)], peer(2));
}

#[tokio::test(start_paused = true)]
async fn a_witness_that_lost_its_records_comes_back_on_a_new_node_and_can_elect_again() {
    let mut world = World::founded(2).await;
    let first = world.claim(1).await;
    world.kill(WITNESS).await;
    world.witness = NEXT_WITNESS;
    world.start(NEXT_WITNESS).await;
    world.settle(&[1, 2]).await;
    assert_eq!(world.voters(1), [1, 2, NEXT_WITNESS]);
    assert!(world.group(1).members().borrow().learners.is_empty(), "the old node is gone for good");
    // It knows what was claimed before it came, which central's fence relies on.
    assert!(world.group(NEXT_WITNESS).has_applied(first.claim, Duration::from_secs(5)).await);
    assert_eq!(world.group(NEXT_WITNESS).claim_at(first.claim).unwrap().node, NodeId(1));

    world.kill(1).await;
    world.until_led_by(2).await;
    assert!(world.claim(2).await > first);
}

#[tokio::test(start_paused = true)]
async fn with_one_candidate_alive_a_new_witness_is_not_taken_in_and_nobody_leads_until_the_other_is_back() {
    let mut world = World::founded(2).await;
    world.claim(1).await;
    world.kill(2).await;
    world.kill(WITNESS).await;
    world.witness = NEXT_WITNESS;
    world.start(NEXT_WITNESS).await;
    world.until("node 1 stops leading", || world.leader().is_none()).await;
    sleep(Duration::from_secs(20)).await;
    assert_eq!((world.leader(), world.voters(NEXT_WITNESS)), (None, vec![]));
    world.start(2).await;
    world.settle(&[1, 2]).await;
    let leader = world.until_led_by_agent().await;
    assert_eq!(world.voters(leader), [1, 2, NEXT_WITNESS]);
}

#[tokio::test(start_paused = true)]
async fn a_leader_taken_off_the_roster_hands_over_and_is_replaced() {
    let world = World::founded(2).await;
    let first = world.claim(1).await;
    assert_eq!(world.reconcile(1, &[2]).await, Ok(Reconciled::HandOver(NodeId(2))));
    world.settle(&[2]).await;
    assert_eq!(world.leader(), Some(2));
    assert_eq!(world.voters(2), [2]);
    assert!(world.claim(2).await > first);
    assert!(matches!(world.group(1).claim(boot(1)).await, Err(ClaimError::NotLeader { .. })));
}

#[tokio::test(start_paused = true)]
async fn one_dead_of_three_loses_its_vote_after_a_minute_and_gets_it_back() {
    let mut world = World::founded(3).await;
    world.kill(3).await;
    sleep(Duration::from_secs(50)).await;
    world.settle(&[1, 2, 3]).await;
    assert_eq!(world.voters(1), [1, 2, 3]);
    sleep(Duration::from_secs(11)).await;
    assert_eq!(world.reconcile(1, &[1, 2, 3]).await, Ok(Reconciled::Stepped));
    assert_eq!(world.reconcile(1, &[1, 2, 3]).await, Ok(Reconciled::Waiting));
    assert_eq!(world.voters(1), [1, 2, WITNESS]);
    world.start(3).await;
    world.settle(&[1, 2, 3]).await;
    assert_eq!(world.voters(1), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_the_site_does_not_approve_gets_no_vote() {
    let mut world = World::founded(2).await;
    world.start(3).await;
    let stranger = Fingerprint::from_bytes([3; 32]);
    let approved = |key: &Fingerprint| *key != stranger;
    let step = world.group(1).reconcile(&roster(&[1, 2, 3]), &approved).await;
    assert_eq!(step, Ok(Reconciled::Settled));
    assert_eq!(world.voters(1), [1, 2, WITNESS]);
}

#[tokio::test(start_paused = true)]
async fn only_a_leader_reconciles_and_only_its_own_group() {
    let world = World::founded(2).await;
    let refused = world.reconcile(2, &[1, 2]).await;
    assert_eq!(refused, Err(ReconcileError::NotLeader { leader: Some(NodeId(1)) }));
    let mut foreign = roster(&[1, 2]);
    foreign.group += 1;
    let refused = world.group(1).reconcile(&foreign, &|_| true).await;
    assert_eq!(refused, Err(ReconcileError::OtherGroup { roster: GENERATION + 1, ours: GENERATION }));
}

/// openraft before alpha.25 could commit a membership change without the quorum of the old
/// voters (its issue 1802).
#[tokio::test(start_paused = true)]
async fn a_change_of_voters_without_the_old_quorum_is_never_in_force() {
    let mut world = World::founded(3).await;
    world.kill(2).await;
    world.start(4).await;
    let leader = world.until_led_by_agent().await;
    assert_eq!(leader, 1);
    // 1 can reach the newcomer only; 1 and 4 are a quorum of {1, 4, W} but not of {1, 2, 3}.
    world.cut(1, 3);
    world.cut(1, WITNESS);
    let _ = world.reconcile(1, &[1, 4]).await;
    world.until("3 alone cannot lead, 1 no longer does", || world.leader().is_none()).await;
    sleep(Duration::from_secs(20)).await;
    assert_eq!(world.leader(), None);
    world.heal();
    world.start(2).await;
    let leader = world.until_led_by_agent().await;
    let epoch = world.claim(leader).await;
    for node in [1, 2, 3] {
        assert!(world.group(node).has_applied(epoch.claim, Duration::from_secs(10)).await, "{node}");
    }
}
