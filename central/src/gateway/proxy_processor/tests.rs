//! The rules of the round, in virtual time.

use alerting::{Context, Event, Incident, IncidentId, Policy, Transition};

use super::*;

const MIN: Duration = Duration::from_secs(60);
const S: Duration = Duration::from_secs(1);

#[test]
fn four_candidates_fail_one_after_another_at_four_minutes_each_and_only_then_it_is_down() {
    let mut world = World::with_candidates([1, 2, 3, 4]);
    world.up(1);
    let lost_at = world.lose();

    assert_eq!(
        world.orders_and_downs_until(lost_at + 17 * MIN),
        [
            (4 * MIN, "order 2".to_owned()),
            (8 * MIN, "order 3".to_owned()),
            (12 * MIN, "order 4".to_owned()),
            (16 * MIN, "down".to_owned()),
            (16 * MIN, "order 1".to_owned()), // central keeps trying, round after round
        ]
    );
    assert_eq!(world.processor.state(), GatewayState::Down);
    assert_eq!(
        world.orders_and_downs_until(lost_at + 25 * MIN),
        [(20 * MIN, "order 2".to_owned()), (24 * MIN, "order 3".to_owned()),]
    );

    world.up(3);
    assert_eq!(world.processor.state(), GatewayState::Up);
    assert!(world.verdicts().contains(&Verdict::Up { node: NodeId(3) }));
}

#[test]
fn of_three_candidates_each_has_its_four_minutes_and_whoever_is_told_is_told_to_the_second() {
    let mut world = World::with_candidates([1, 2, 3]);
    let mut policy = alerted_after(10 * S);
    world.up(1);
    let told = world.told_within(13 * MIN, &mut policy);
    assert_eq!(
        told,
        [
            (4 * MIN, "order 2".to_owned()),
            (8 * MIN, "order 3".to_owned()),
            (12 * MIN, r#"Raised(IncidentId("incident"))"#.to_owned()),
            (12 * MIN, "order 1".to_owned()),
            (12 * MIN + 10 * S, "down alert".to_owned()),
        ]
    );

    world.up(3);
    policy.handle_up(world.now);
    assert!(matches!(policy.poll_transmit(), Some(Transition::Up(_))));
    assert!(policy.poll_transmit().is_none(), "one down, one up");
}

#[test]
fn the_event_is_raised_only_after_the_last_candidate_and_cleared_when_operational_again() {
    let mut world = World::with_candidates([1, 2, 3, 4]);
    let mut policy = alerted_after(10 * S);
    world.up(1);
    let mut told = world.told_within(17 * MIN, &mut policy);
    told.retain(|(_, what)| !what.starts_with("order"));
    assert_eq!(
        told,
        [
            (16 * MIN, r#"Raised(IncidentId("incident"))"#.to_owned()),
            (16 * MIN + 10 * S, "down alert".to_owned()),
        ]
    );

    world.up(2);
    policy.handle_up(world.now);
    assert!(matches!(policy.poll_event(), Some(Event::Cleared(_))));
    assert!(matches!(policy.poll_transmit(), Some(Transition::Up(_))));
    assert!(!policy.is_raised());
}

#[test]
fn the_candidate_whose_tunnel_was_lost_is_waited_for_first_and_without_an_order() {
    let mut world = World::with_candidates([1, 2]);
    world.up(2);
    world.lose();
    assert_eq!(world.processor.attempt().map(|(node, _)| node), Some(NodeId(2)));
    assert_eq!(world.processor.order(), None);
}

#[test]
fn a_candidate_that_leaves_is_skipped_at_once() {
    let mut world = World::with_candidates([1, 2]);
    world.up(1);
    world.lose();
    world.configured([2]);
    assert_eq!(world.processor.attempt().map(|(node, _)| node), Some(NodeId(2)));
    assert_eq!(
        world.verdicts().last(),
        Some(&Verdict::Order(Order { id: 1, node: NodeId(2), planned: false }))
    );
}

#[test]
fn with_nobody_configured_it_is_down_at_once_and_tries_whoever_comes() {
    let mut world = World::with_candidates([1]);
    world.up(1);
    world.lose();
    world.configured([]);
    assert_eq!(world.processor.state(), GatewayState::Down);
    world.configured([1]);
    assert_eq!(world.processor.state(), GatewayState::Down);
    assert_eq!(world.processor.order().map(|o| o.node), Some(NodeId(1)));
    world.up(1);
    assert_eq!(world.processor.state(), GatewayState::Up);
}

#[test]
fn coming_and_going_does_not_stretch_a_candidates_time() {
    let mut world = World::with_candidates([1, 2]);
    world.up(1);
    let lost_at = world.lose();
    for _ in 0..1000 {
        world.pass(S);
        world.configured([1]);
        world.pass(S);
        world.configured([2]);
        if world.processor.state() == GatewayState::Down {
            break;
        }
    }
    assert_eq!(world.processor.state(), GatewayState::Down);
    assert!(world.now - lost_at <= 8 * MIN + 2 * S);
}

#[test]
fn an_order_without_a_claim_is_nudged_every_five_seconds() {
    let mut world = World::with_candidates([1, 2]);
    world.up(1);
    world.lose();
    world.configured([2]);
    world.verdicts();
    world.pass(5 * S);
    assert_eq!(world.verdicts(), [Verdict::Nudge { node: NodeId(2) }]);
    world.pass(5 * S);
    assert_eq!(world.verdicts(), [Verdict::Nudge { node: NodeId(2) }]);
    world.processor.handle_claim(NodeId(2));
    world.pass(MIN);
    assert_eq!(world.verdicts(), []);
}

#[test]
fn a_claim_does_not_restart_the_four_minutes() {
    let mut world = World::with_candidates([1, 2]);
    world.up(1);
    let lost_at = world.lose();
    world.pass(3 * MIN);
    world.processor.handle_claim(NodeId(1));
    assert_eq!(world.orders_and_downs_until(lost_at + 5 * MIN), [(4 * MIN, "order 2".to_owned())]);
}

#[test]
fn whoever_comes_first_ends_the_waiting_also_a_stranger_to_the_order() {
    let mut world = World::with_candidates([1, 2, 3]);
    world.up(1);
    world.lose();
    world.configured([2, 3]);
    world.verdicts();
    world.up(3);
    assert_eq!(world.verdicts(), [Verdict::OrderDone, Verdict::Up { node: NodeId(3) }]);
    assert_eq!(world.processor.poll_timeout(), None);
}

#[test]
fn after_centrals_own_restart_agents_have_a_moment_to_come_back() {
    let start = Instant::now();
    let mut processor = ProxyProcessor::new(4 * MIN);
    processor.handle_restored(NodeId(1), 15 * S, start);
    processor.handle_configured(BTreeSet::new(), start + S);
    assert_eq!(processor.state(), GatewayState::Connecting);
    assert_eq!(processor.poll_timeout(), Some(start + 15 * S));
    processor.handle_timeout(start + 15 * S);
    assert_eq!(processor.state(), GatewayState::Down);
}

#[test]
fn a_planned_switch_that_does_not_come_about_leaves_the_active_alone() {
    let mut world = World::with_candidates([1, 2]);
    world.up(1);
    world.processor.handle_switch(NodeId(2), world.now);
    assert!(world.processor.order().is_some_and(|order| order.planned));
    world.processor.handle_claim(NodeId(2));
    world.verdicts();
    world.pass(4 * MIN);
    assert_eq!(world.verdicts(), [Verdict::OrderDone, Verdict::SwitchFailed { node: NodeId(2) }]);
    assert_eq!(world.processor.state(), GatewayState::Up);
}

#[test]
fn a_dissolved_group_is_idle_and_nobody_is_alarmed() {
    let mut world = World::with_candidates([1]);
    world.up(1);
    world.verdicts();
    world.processor.handle_dissolved();
    world.processor.handle_tunnel_lost(world.now);
    assert_eq!(world.processor.state(), GatewayState::Idle);
    assert_eq!(world.verdicts(), []);
}

fn alerted_after(hold_down: Duration) -> Policy {
    let mut policy = Policy::new(hold_down);
    policy.set_endpoints_configured(true);
    policy
}

struct World {
    processor: ProxyProcessor,
    now: Instant,
    lost_at: Instant,
}

impl World {
    fn with_candidates<const N: usize>(nodes: [u64; N]) -> Self {
        let now = Instant::now();
        let mut processor = ProxyProcessor::new(4 * MIN);
        processor.handle_founded(NodeId(nodes[0]), now);
        processor.handle_configured(nodes.into_iter().map(NodeId).collect(), now);
        Self { processor, now, lost_at: now }
    }

    fn up(&mut self, node: u64) {
        self.processor.handle_tunnel_up(NodeId(node));
    }

    fn lose(&mut self) -> Instant {
        self.verdicts();
        self.processor.handle_tunnel_lost(self.now);
        self.lost_at = self.now;
        self.now
    }

    fn configured<const N: usize>(&mut self, nodes: [u64; N]) {
        self.processor.handle_configured(nodes.into_iter().map(NodeId).collect(), self.now);
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.processor.poll_timeout().filter(|at| *at <= end) {
            self.now = at;
            self.processor.handle_timeout(at);
        }
        self.now = end;
    }

    fn verdicts(&mut self) -> Vec<Verdict> {
        std::iter::from_fn(|| self.processor.poll_verdict()).collect()
    }

    /// Loses the tunnel; answers with each order, event and alert, and how long after the loss it came.
    fn told_within(&mut self, time: Duration, policy: &mut Policy) -> Vec<(Duration, String)> {
        let incident =
            Incident::new(IncidentId::new("incident"), time::OffsetDateTime::UNIX_EPOCH, Context::default());
        let lost_at = self.lose();
        let mut told = Vec::new();
        while let Some(at) = self.processor.poll_timeout().into_iter().chain(policy.poll_timeout()).min() {
            if at > lost_at + time {
                break;
            }
            self.now = at;
            self.processor.handle_timeout(at);
            policy.handle_timeout(at);
            for verdict in self.verdicts() {
                match verdict {
                    Verdict::Down => policy.handle_down(at, incident.clone()),
                    Verdict::Order(order) => told.push((at - lost_at, format!("order {}", order.node))),
                    _ => {}
                }
                told.extend(policy.poll_event().map(|event| (at - lost_at, format!("{event:?}"))));
            }
            told.extend(policy.poll_transmit().map(|_down| (at - lost_at, "down alert".to_owned())));
        }
        told
    }

    fn orders_and_downs_until(&mut self, end: Instant) -> Vec<(Duration, String)> {
        let mut seen = Vec::new();
        while let Some(at) = self.processor.poll_timeout().filter(|at| *at <= end) {
            self.now = at;
            self.processor.handle_timeout(at);
            for verdict in self.verdicts() {
                match verdict {
                    Verdict::Order(order) => seen.push((at - self.lost_at, format!("order {}", order.node))),
                    Verdict::Down => seen.push((at - self.lost_at, "down".to_owned())),
                    _ => {}
                }
            }
        }
        self.now = end;
        seen
    }
}
