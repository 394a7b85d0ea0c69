//! Decides the next step from the membership in force to the one the roster wants.
//!
//! ```text
//!   add learners ──► refresh what is known of them ──► ONE change of voters, the witness' vote
//!   included ──► hand over if the leader itself is to go ──► remove who is not wanted
//! ```
//!
//! Pure: the same view gives the same step, and every step done leads on to the next, so a new
//! leader continues where the old one stopped.
//!
//! * The witness votes while the number of voting candidates is even: as an odd voter it would
//!   raise the quorum for no gain.
//! * A newcomer votes only once it has caught up; a quorum that waits for it would stop.
//! * A candidate silent for a minute loses its vote, if two live voting candidates remain.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proto::NodeId;

use crate::members::{Peer, Site};

/// How long a candidate may be silent before its vote is taken.
pub(crate) const DEAD_AFTER: Duration = Duration::from_secs(60);

/// Live voting candidates that must remain when a dead one is demoted.
const LIVE_CANDIDATES_MIN: usize = 2;

/// How recently a node must have answered to be counted on.
const LIVE_WITHIN: Duration = Duration::from_secs(3);

/// How many entries a node may lag behind and still be given a vote or the lead.
pub(crate) const LAG_MAX: u64 = 16;

/// What the leader knows of a node's replication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Contact {
    /// Since the last answer, or since this node leads if there was none.
    pub(crate) silent_for: Duration,
    /// Whether it has answered at all since this node leads.
    pub(crate) answered: bool,
    /// Entries it is behind.
    pub(crate) lag: u64,
}

impl Contact {
    fn live(&self) -> bool {
        self.answered && self.silent_for <= LIVE_WITHIN
    }

    fn ready(&self) -> bool {
        self.live() && self.lag <= LAG_MAX
    }

    fn dead(&self) -> bool {
        self.silent_for >= DEAD_AFTER
    }
}

/// The group as its leader sees it now.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) me: NodeId,
    pub(crate) voters: BTreeSet<NodeId>,
    pub(crate) nodes: BTreeMap<NodeId, Site>,
    /// Every other node's contact.
    pub(crate) contacts: BTreeMap<NodeId, Contact>,
}

/// The group as central wants it, without the candidates this site does not approve.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) witness: NodeId,
    pub(crate) candidates: BTreeMap<NodeId, Peer>,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing is left to do.
    Settled,
    /// Nothing can be done until these nodes answer or catch up.
    Wait(BTreeSet<NodeId>),
    /// Add them as learners.
    Add(BTreeMap<NodeId, Site>),
    /// Renew what the membership says about them.
    Refresh(BTreeMap<NodeId, Site>),
    /// Let exactly these vote, in one change; who loses its vote stays as a learner.
    Vote(BTreeSet<NodeId>),
    /// The leader is to go: give the lead to this node, which then continues.
    HandOver(NodeId),
    /// Take these learners out.
    Remove(BTreeSet<NodeId>),
}

impl View {
    fn contact(&self, node: NodeId) -> Option<Contact> {
        match node == self.me {
            true => Some(Contact { silent_for: Duration::ZERO, answered: true, lag: 0 }),
            false => self.contacts.get(&node).copied(),
        }
    }

    fn is(&self, node: NodeId, what: impl Fn(&Contact) -> bool) -> bool {
        self.contact(node).as_ref().is_some_and(what)
    }
}

/// The step that follows from `view` on the way to `wanted`.
pub(crate) fn next_step(view: &View, wanted: &Wanted) -> Step {
    let sites = wanted_sites(wanted);
    let missing = subset(&sites, |node, _| !view.nodes.contains_key(node));
    if !missing.is_empty() {
        return Step::Add(missing);
    }
    let outdated = subset(&sites, |node, site| view.nodes.get(node) != Some(site));
    if !outdated.is_empty() {
        return Step::Refresh(outdated);
    }
    let voters = voters_for(view, wanted);
    if voters != view.voters {
        return Step::Vote(voters);
    }
    if !wanted.candidates.contains_key(&view.me)
        && let Some(heir) = heir(view, wanted)
    {
        return Step::HandOver(heir);
    }
    let unwanted: BTreeSet<NodeId> = view
        .nodes
        .keys()
        .filter(|node| !sites.contains_key(node) && !view.voters.contains(node))
        .copied()
        .collect();
    if !unwanted.is_empty() {
        return Step::Remove(unwanted);
    }
    let mut awaited: BTreeSet<NodeId> = wanted.candidates.keys().copied().collect();
    if wanted.candidates.contains_key(&view.me) {
        awaited.retain(|node| !view.voters.contains(node));
    }
    match awaited.is_empty() {
        true => Step::Settled,
        false => Step::Wait(awaited),
    }
}

fn wanted_sites(wanted: &Wanted) -> BTreeMap<NodeId, Site> {
    let agents = wanted.candidates.iter().map(|(node, peer)| (*node, Site::Agent(peer.clone())));
    agents.chain([(wanted.witness, Site::Witness)]).collect()
}

fn subset(sites: &BTreeMap<NodeId, Site>, keep: impl Fn(&NodeId, &Site) -> bool) -> BTreeMap<NodeId, Site> {
    sites.iter().filter(|(node, site)| keep(node, site)).map(|(node, site)| (*node, site.clone())).collect()
}

/// Who should vote, given who can.
fn voters_for(view: &View, wanted: &Wanted) -> BTreeSet<NodeId> {
    let mut voting: BTreeSet<NodeId> = wanted
        .candidates
        .keys()
        .filter(|node| view.voters.contains(node) || view.is(**node, Contact::ready))
        .copied()
        .collect();
    // A leader that is to go votes until another one leads and replaces it.
    voting.insert(view.me);
    let live = voting.iter().filter(|node| view.is(**node, Contact::live)).count();
    if live >= LIVE_CANDIDATES_MIN {
        voting.retain(|node| !view.is(*node, Contact::dead));
    }
    if voting.len().is_multiple_of(2) {
        voting.insert(wanted.witness);
    }
    voting
}

/// The voting candidate that is furthest and answers.
fn heir(view: &View, wanted: &Wanted) -> Option<NodeId> {
    let able = wanted
        .candidates
        .keys()
        .filter(|node| **node != view.me && view.voters.contains(node) && view.is(**node, Contact::ready));
    able.min_by_key(|node| view.contact(**node).map_or(u64::MAX, |contact| contact.lag)).copied()
}

#[cfg(test)]
mod tests {
    use proto::{AgentId, Fingerprint};

    use super::*;

    const W: u64 = 100;

    #[test]
    fn a_founder_alone_takes_the_witness_in_as_a_learner() {
        let mut view = View { nodes: sites(&[1]), ..view(1, &[1], &[1]) };
        assert_eq!(
            steps(&mut view, &wanted(&[1])),
            [Step::Add(BTreeMap::from([(NodeId(W), Site::Witness)]))]
        );
        assert_eq!(voters(&view), [1]);
    }

    #[test]
    fn a_second_candidate_and_the_witness_get_their_votes_in_one_change() {
        let mut view = view(1, &[1], &[1]);
        let taken = steps(&mut view, &wanted(&[1, 2]));
        assert_eq!(taken, [Step::Add(sites_only(&[2])), Step::Vote(ids(&[1, 2, W]))]);
    }

    #[test]
    fn a_third_candidate_takes_the_witness_vote_in_the_same_change() {
        let mut view = view(1, &[1, 2, W], &[1, 2]);
        let taken = steps(&mut view, &wanted(&[1, 2, 3]));
        assert_eq!(taken, [Step::Add(sites_only(&[3])), Step::Vote(ids(&[1, 2, 3]))]);
    }

    #[test]
    fn removing_one_of_three_gives_the_witness_its_vote_back_and_then_removes() {
        let mut view = view(1, &[1, 2, 3], &[1, 2, 3]);
        let taken = steps(&mut view, &wanted(&[1, 2]));
        assert_eq!(taken, [Step::Vote(ids(&[1, 2, W])), Step::Remove(ids(&[3]))]);
    }

    #[test]
    fn a_newcomer_that_is_silent_or_behind_is_waited_for_and_holds_nobody_up() {
        for contact in [SILENT, Contact { lag: 900, ..HEARD }] {
            let mut view = view(1, &[1], &[1, 2, 3]);
            view.contacts.insert(NodeId(3), contact);
            assert_eq!(next_step(&view, &wanted(&[1, 2, 3])), Step::Vote(ids(&[1, 2, W])));
            view.voters = ids(&[1, 2, W]);
            assert_eq!(next_step(&view, &wanted(&[1, 2, 3])), Step::Wait(ids(&[3])));
        }
    }

    #[test]
    fn a_dead_candidate_keeps_its_vote_unless_two_live_ones_remain() {
        let mut two = view(1, &[1, 2, W], &[1, 2]);
        two.contacts.insert(NodeId(2), DEAD);
        assert_eq!(next_step(&two, &wanted(&[1, 2])), Step::Settled);

        let mut three = view(1, &[1, 2, 3], &[1, 2, 3]);
        three.contacts.insert(NodeId(3), SILENT);
        assert_eq!(next_step(&three, &wanted(&[1, 2, 3])), Step::Settled);
        three.contacts.insert(NodeId(3), DEAD);
        assert_eq!(next_step(&three, &wanted(&[1, 2, 3])), Step::Vote(ids(&[1, 2, W])));
        three.voters = ids(&[1, 2, W]);
        assert_eq!(next_step(&three, &wanted(&[1, 2, 3])), Step::Wait(ids(&[3])));
        three.contacts.insert(NodeId(3), HEARD);
        assert_eq!(next_step(&three, &wanted(&[1, 2, 3])), Step::Vote(ids(&[1, 2, 3])));
    }

    #[test]
    fn a_leader_that_is_to_go_hands_over_first_and_its_heir_replaces_it() {
        let mut first = view(1, &[1, 2, W], &[1, 2]);
        assert_eq!(next_step(&first, &wanted(&[2])), Step::HandOver(NodeId(2)));
        first.me = NodeId(2);
        first.contacts.insert(NodeId(1), HEARD);
        assert_eq!(steps(&mut first, &wanted(&[2])), [Step::Vote(ids(&[2])), Step::Remove(ids(&[1]))]);
    }

    #[test]
    fn a_leader_that_is_to_go_waits_until_its_heir_has_a_vote() {
        let mut view = view(1, &[1], &[1, 2]);
        assert_eq!(next_step(&view, &wanted(&[2])), Step::Vote(ids(&[1, 2, W])));
        view.voters = ids(&[1, 2, W]);
        view.contacts.insert(NodeId(2), SILENT);
        assert_eq!(next_step(&view, &wanted(&[2])), Step::Wait(ids(&[2])));
    }

    #[test]
    fn a_witness_under_a_new_node_takes_the_place_of_the_old_one_in_one_change() {
        let anew = |candidates: &[u64]| Wanted { witness: NodeId(W + 1), ..wanted(candidates) };
        let add = Step::Add(BTreeMap::from([(NodeId(W + 1), Site::Witness)]));
        let mut two = view(1, &[1, 2, W], &[1, 2]);
        let vote = Step::Vote(ids(&[1, 2, W + 1]));
        assert_eq!(steps(&mut two, &anew(&[1, 2])), [add.clone(), vote, Step::Remove(ids(&[W]))]);
        let mut one = view(1, &[1], &[1]);
        assert_eq!(steps(&mut one, &anew(&[1])), [add, Step::Remove(ids(&[W]))]);
    }

    #[test]
    fn a_changed_address_is_refreshed_without_touching_votes() {
        let view = view(1, &[1, 2, W], &[1, 2]);
        let mut wanted = wanted(&[1, 2]);
        let moved = Peer { addrs: vec!["elsewhere:7".into()], ..peer(2) };
        wanted.candidates.insert(NodeId(2), moved.clone());
        let refresh = BTreeMap::from([(NodeId(2), Site::Agent(moved))]);
        assert_eq!(next_step(&view, &wanted), Step::Refresh(refresh));
    }

    #[test]
    fn every_view_leads_to_an_end_with_the_witness_parity_right() {
        for before in 1u64..16 {
            for after in 1u64..16 {
                let set = |bits: u64| (1..=4).filter(move |n| bits >> (n - 1) & 1 == 1).collect::<Vec<_>>();
                let (now, then) = (set(before), set(after));
                let mut votes = now.clone();
                if now.len() % 2 == 0 {
                    votes.push(W);
                }
                let mut view = view(now[0], &votes, &now);
                steps(&mut view, &wanted(&then));
                let mut expected = then.clone();
                if then.len() % 2 == 0 {
                    expected.push(W);
                }
                assert_eq!(voters(&view), expected, "{now:?} -> {then:?}");
            }
        }
    }

    const HEARD: Contact = Contact { silent_for: Duration::from_millis(50), answered: true, lag: 0 };
    const SILENT: Contact = Contact { silent_for: Duration::from_secs(20), answered: false, lag: 5 };
    const DEAD: Contact = Contact { silent_for: DEAD_AFTER, answered: true, lag: 5 };

    /// Does one step after another as the group would, until nothing changes any more.
    fn steps(view: &mut View, wanted: &Wanted) -> Vec<Step> {
        let mut taken = Vec::new();
        for _ in 0..20 {
            let step = next_step(view, wanted);
            match &step {
                Step::Settled | Step::Wait(_) => return taken,
                Step::Add(more) | Step::Refresh(more) => {
                    view.nodes.extend(more.clone());
                    view.contacts.extend(more.keys().map(|node| (*node, HEARD)));
                }
                Step::Vote(voters) => view.voters = voters.clone(),
                Step::HandOver(heir) => {
                    view.contacts.insert(view.me, HEARD);
                    view.me = *heir;
                }
                Step::Remove(gone) => view.nodes.retain(|node, _| !gone.contains(node)),
            }
            taken.push(step);
        }
        panic!("no end after {taken:?}");
    }

    fn view(me: u64, voters: &[u64], agents: &[u64]) -> View {
        let nodes = sites(&[agents, &[W]].concat());
        let contacts = nodes.keys().map(|node| (*node, HEARD)).collect();
        View { me: NodeId(me), voters: ids(voters), nodes, contacts }
    }

    fn wanted(candidates: &[u64]) -> Wanted {
        let candidates = candidates.iter().map(|node| (NodeId(*node), peer(*node))).collect();
        Wanted { witness: NodeId(W), candidates }
    }

    fn sites(nodes: &[u64]) -> BTreeMap<NodeId, Site> {
        let site = |node: &u64| if *node == W { Site::Witness } else { Site::Agent(peer(*node)) };
        nodes.iter().map(|node| (NodeId(*node), site(node))).collect()
    }

    fn sites_only(nodes: &[u64]) -> BTreeMap<NodeId, Site> {
        sites(nodes)
    }

    fn voters(view: &View) -> Vec<u64> {
        view.voters.iter().map(|node| node.0).collect()
    }

    fn ids(nodes: &[u64]) -> BTreeSet<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    fn peer(node: u64) -> Peer {
        Peer {
            node: NodeId(node),
            agent: AgentId::from_bytes([node as u8; 16]),
            name: format!("agent-{node}").parse().unwrap(),
            fingerprint: Fingerprint::from_bytes([node as u8; 32]),
            addrs: vec![format!("host-{node}:7000")],
        }
    }
}
