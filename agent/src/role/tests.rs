//! The rules of the role, without a socket or a clock.

use proto::control::LiveTunnel;

use super::*;

const S: Duration = Duration::from_secs(1);

#[test]
fn a_leader_claims_only_after_central_answered_that_no_tunnel_lives() {
    let mut agent = Agent::seated(1);
    agent.leads(true);
    assert_eq!(agent.actions(), [Action::Ask { id: 1 }]);
    agent.report(None, Report { tunnel: None, ..Report::default() });
    assert_eq!(agent.actions(), [], "a report that answers nothing is no fresh evidence");
    agent.report(Some(1), Report::default());
    assert_eq!(agent.actions(), [Action::Claim]);
    agent.claim(5, 1, ME);
    assert_eq!(agent.actions(), [Action::OpenTunnel { epoch: epoch(5) }]);
    assert_eq!(agent.machine.role(), Role::Active { epoch: epoch(5) });
}

#[test]
fn a_leader_change_under_a_healthy_tunnel_cuts_nothing() {
    let mut active = Agent::active(1, 5);
    active.leads(false);
    assert_eq!(active.actions(), []);
    assert_eq!(active.machine.role(), Role::Active { epoch: epoch(5) });

    let mut other = Agent::seated(2);
    other.claim(5, 1, YOU);
    other.leads(true);
    assert_eq!(other.actions(), [Action::Ask { id: 1 }]);
    other.report(Some(1), Report { tunnel: Some(1), ..Report::default() });
    assert_eq!(other.actions(), [Action::Transfer { to: NodeId(1) }]);
    assert_eq!(other.machine.role(), Role::Standby);
}

#[test]
fn an_active_re_elected_in_the_same_boot_keeps_its_epoch() {
    let mut agent = Agent::active(1, 5);
    agent.leads(false);
    agent.leads(true);
    assert_eq!(agent.actions(), [Action::Ask { id: 2 }]);
    agent.report(Some(2), Report::default());
    assert_eq!(agent.actions(), []);
    assert_eq!(agent.machine.role(), Role::Active { epoch: epoch(5) });
}

#[test]
fn after_a_restart_the_old_claim_is_not_mine() {
    let mut agent = Agent::seated(1);
    agent.claim(5, 1, YOU);
    assert_eq!(agent.machine.role(), Role::Standby);
    agent.leads(true);
    agent.report(Some(1), Report::default());
    assert_eq!(agent.actions(), [Action::Ask { id: 1 }, Action::Claim]);
}

#[test]
fn an_order_for_another_moves_the_leadership_and_is_tried_again() {
    let mut agent = Agent::active(1, 5);
    agent.report(None, Report { tunnel: Some(1), order: Some((2, true)) });
    assert_eq!(agent.actions(), [Action::Transfer { to: NodeId(2) }]);
    agent.pass(S);
    assert_eq!(agent.actions(), [Action::Transfer { to: NodeId(2) }]);
}

#[test]
fn one_that_was_ordered_asks_a_leader_that_does_not_follow_for_the_lead() {
    let mut agent = Agent::seated(2);
    agent.follows(1);
    agent.report(None, Report { order: Some((2, false)), ..Report::default() });
    assert_eq!(agent.actions(), [], "the leader has the order, too");
    assert_eq!(agent.machine.poll_timeout(), Some(agent.now + S));
    for _ in 0..2 {
        agent.pass(S);
        // Said again at every change, which is no reason to wait longer.
        agent.report(None, Report { order: Some((2, false)), ..Report::default() });
        assert_eq!(agent.actions(), [Action::AskForLead { leader: NodeId(1) }]);
    }
    agent.report(None, Report::default());
    agent.pass(60 * S);
    assert_eq!((agent.actions(), agent.machine.poll_timeout()), (vec![], None));
}

#[test]
fn nobody_asks_for_the_lead_without_an_order_of_its_own() {
    let mut agent = Agent::seated(2);
    agent.follows(1);
    agent.report(None, Report { order: Some((3, false)), ..Report::default() });
    agent.pass(60 * S);
    assert_eq!(agent.actions(), [], "another was ordered");
    agent.report(None, Report { order: Some((2, false)), ..Report::default() });
    agent.machine.handle_control_lost();
    agent.pass(60 * S);
    assert_eq!(agent.actions(), [], "what central said may be old");
}

#[test]
fn an_ordered_leader_claims_although_a_tunnel_lives() {
    let mut agent = Agent::seated(2);
    agent.claim(5, 1, YOU);
    agent.report(None, Report { tunnel: Some(1), order: Some((2, true)) });
    agent.leads(true);
    agent.report(Some(1), Report { tunnel: Some(1), order: Some((2, true)) });
    assert_eq!(agent.actions(), [Action::Ask { id: 1 }, Action::Claim]);
}

#[test]
fn a_newer_claim_leaves_the_end_of_the_tunnel_to_central() {
    let mut agent = Agent::active(1, 5);
    agent.claim(6, 2, YOU);
    assert_eq!(agent.actions(), [Action::DrainTunnel { epoch: epoch(5) }]);
    agent.machine.handle_drained(agent.now);
    assert_eq!(agent.machine.role(), Role::Standby);

    let mut agent = Agent::active(1, 5);
    agent.claim(6, 2, YOU);
    agent.machine.handle_refused(epoch(5), RefusalCode::StaleEpoch, agent.now);
    assert_eq!(agent.actions().last(), Some(&Action::CloseTunnel));
    assert_eq!(agent.machine.role(), Role::Standby);
}

#[test]
fn one_that_becomes_active_again_lets_its_old_tunnel_drain_on() {
    let mut agent = Agent::active(1, 5);
    agent.claim(6, 2, YOU);
    agent.claim(7, 1, ME);
    assert_eq!(
        agent.actions(),
        [Action::DrainTunnel { epoch: epoch(5) }, Action::OpenTunnel { epoch: epoch(7) }]
    );
}

#[test]
fn a_question_that_got_lost_is_asked_again_whatever_else_is_heard() {
    let mut agent = Agent::seated(1);
    agent.leads(true);
    agent.actions();
    agent.report(None, Report { order: Some((2, false)), ..Report::default() });
    agent.pass(S);
    assert_eq!(agent.actions(), [Action::Ask { id: 2 }]);
}

#[test]
fn a_leader_that_does_not_hear_central_gives_way() {
    let mut agent = Agent::seated(1);
    agent.leads(true);
    agent.actions();
    agent.machine.handle_central(false, agent.now);
    agent.pass(9 * S);
    assert_eq!(agent.actions(), []);
    agent.pass(S);
    assert_eq!(agent.actions(), [Action::GiveWay]);
    agent.machine.handle_central(true, agent.now);
    agent.pass(S);
    assert_eq!(agent.actions(), [Action::Ask { id: 2 }]);
}

#[test]
fn a_refused_epoch_is_given_up_and_claimed_anew_on_new_evidence() {
    let mut agent = Agent::active(1, 5);
    agent.machine.handle_refused(epoch(5), RefusalCode::Busy, agent.now);
    assert_eq!(agent.machine.role(), Role::Active { epoch: epoch(5) });
    agent.machine.handle_refused(epoch(5), RefusalCode::OtherSession, agent.now);
    assert_eq!(agent.actions(), [Action::CloseTunnel]);
    agent.pass(S);
    assert_eq!(agent.actions(), [Action::Ask { id: 2 }]);
}

#[test]
fn one_that_is_leaving_carries_on_and_claims_nothing_new() {
    let mut agent = Agent::active(1, 5);
    agent.machine.handle_leaving(agent.now);
    assert_eq!((agent.actions(), agent.machine.role()), (vec![], Role::Active { epoch: epoch(5) }));
    agent.report(None, Report { tunnel: Some(1), order: Some((2, true)) });
    assert_eq!(agent.actions(), [Action::Transfer { to: NodeId(2) }]);
    agent.claim(6, 2, YOU);
    assert_eq!(agent.actions(), [Action::DrainTunnel { epoch: epoch(5) }]);
    // Its successor is lost while it drains, and it happens to lead: somebody else is to claim.
    agent.report(None, Report::default());
    assert_eq!(agent.actions(), [Action::GiveWay]);
}

#[test]
fn without_a_seat_nothing_is_done_whatever_happens() {
    let mut agent = Agent::active(1, 5);
    agent.machine.handle_seat(None, agent.now);
    assert_eq!(agent.actions(), [Action::CloseTunnel]);
    agent.leads(true);
    agent.report(Some(1), Report::default());
    agent.pass(60 * S);
    assert_eq!(agent.actions(), []);
    assert_eq!(agent.machine.role(), Role::Unseated);
}

const ME: BootId = BootId::from_bytes([1; 16]);
const YOU: BootId = BootId::from_bytes([2; 16]);

fn epoch(claim: u64) -> Epoch {
    Epoch { group: 1, claim }
}

#[derive(Default)]
struct Report {
    tunnel: Option<u64>,
    order: Option<(u64, bool)>,
}

struct Agent {
    machine: RoleMachine,
    node: u64,
    now: Instant,
}

impl Agent {
    /// A standby that hears central.
    fn seated(node: u64) -> Self {
        let now = Instant::now();
        let mut machine = RoleMachine::new(ME, 10 * S, now);
        machine.handle_central(true, now);
        machine.handle_seat(Some(Seat { group: 1, node: NodeId(node) }), now);
        Self { machine, node, now }
    }

    /// The leader and active under claim `index`, its tunnel up.
    fn active(node: u64, index: u64) -> Self {
        let mut agent = Self::seated(node);
        agent.leads(true);
        agent.report(Some(1), Report::default());
        agent.claim(index, node, ME);
        agent.report(None, Report { tunnel: Some(node), ..Report::default() });
        agent.actions();
        agent
    }

    fn leads(&mut self, leads: bool) {
        let leader = leads.then_some(NodeId(self.node));
        self.machine.handle_leadership(Leadership { leader, leads }, self.now);
    }

    fn follows(&mut self, node: u64) {
        let leadership = Leadership { leader: Some(NodeId(node)), leads: false };
        self.machine.handle_leadership(leadership, self.now);
    }

    fn report(&mut self, answers: Option<u64>, report: Report) {
        let report = GatewayReport {
            answers,
            tunnel: report.tunnel.map(|node| LiveTunnel { node: NodeId(node), epoch: epoch(5), boot: YOU }),
            order: report.order.map(|(node, planned)| Order { id: 1, node: NodeId(node), planned }),
            fence: None,
        };
        self.machine.handle_report(report, self.now);
    }

    fn claim(&mut self, index: u64, node: u64, boot: BootId) {
        self.machine.handle_claim(Claim { epoch: epoch(index), node: NodeId(node), boot }, self.now);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.machine.handle_timeout(self.now);
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.machine.poll_action()).collect()
    }
}
