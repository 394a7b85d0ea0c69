//! Whether a call makes sense in itself. Raft's core takes its callers at their word: a gap between entries, a log
//! position at the end of all numbers or a group of nobody ends it, or ruins its records for good. A caller has proved
//! who it is, and may still be damaged, or somebody else's by now.
//!
//! What only the records could tell, whether what a leader says fits what was committed, is not judged here.

use openraft::{Membership, raft::AppendEntriesRequest, vote::RaftLeaderId};

use crate::{
    members::Site,
    state::State,
    types::{CommittedLeader, Id, Meta, Payload, TypeConfig, Vote},
};

/// Terms and positions up to here: more than any group lives to see, and far enough from the end to count on.
const MOST: u64 = 1 << 62;

/// What is wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsound {
    #[error("it names a term or a position that no group reaches")]
    Beyond,
    #[error("it speaks as what it is not: a candidate as a leader, or a leader as a candidate")]
    Standing,
    #[error("its entries do not follow each other")]
    Gap,
    #[error("it tells of entries from a later term than its own")]
    Later,
    #[error("it names a membership with nobody in it, or with voters that nobody knows")]
    Membership,
    #[error("its snapshot contradicts itself")]
    Snapshot,
}

/// A leader's entries.
pub(crate) fn append(call: &AppendEntriesRequest<TypeConfig>) -> Result<(), Unsound> {
    let term = leader(&call.vote)?;
    known_by(term, call.leader_commit.as_ref())?;
    known_by(term, call.prev_log_id.as_ref())?;
    let mut before = call.prev_log_id;
    for entry in &call.entries {
        let follows = match before {
            None => entry.log_id.index() == 0,
            Some(before) => {
                entry.log_id.index() == before.index() + 1
                    && entry.log_id.committed_leader_id() >= before.committed_leader_id()
            }
        };
        if !follows {
            return Err(Unsound::Gap);
        }
        known_by(term, Some(&entry.log_id))?;
        if let Payload::Membership(members) = &entry.payload {
            membership(members)?;
        }
        before = Some(entry.log_id);
    }
    Ok(())
}

/// A leader's snapshot.
pub(crate) fn snapshot(vote: &Vote, meta: &Meta, state: &State) -> Result<(), Unsound> {
    let term = leader(vote)?;
    known_by(term, meta.last_log_id.as_ref())?;
    let held_at = meta.last_membership.log_id();
    if meta.last_log_id.is_none() || *held_at > meta.last_log_id || !state.is_of(meta) {
        return Err(Unsound::Snapshot);
    }
    known_by(term, held_at.as_ref())?;
    membership(meta.last_membership.membership())
}

/// The word of a candidate whose log ends at `last`.
pub(crate) fn candidate(vote: &Vote, last: Option<&Id>) -> Result<(), Unsound> {
    if vote.is_committed() {
        return Err(Unsound::Standing);
    }
    known_by(bounded(vote)?, last)
}

/// A leader that hands over, its log ending at `last`.
pub(crate) fn transfer(vote: &Vote, last: Option<&Id>) -> Result<(), Unsound> {
    known_by(leader(vote)?, last)
}

/// The term of somebody who speaks as a leader.
fn leader(vote: &Vote) -> Result<CommittedLeader, Unsound> {
    if !vote.is_committed() {
        return Err(Unsound::Standing);
    }
    bounded(vote)
}

fn bounded(vote: &Vote) -> Result<CommittedLeader, Unsound> {
    if vote.leader_id().term > MOST { Err(Unsound::Beyond) } else { Ok(vote.leader_id().to_committed()) }
}

/// Whether somebody of this term can know of the entry.
fn known_by(term: CommittedLeader, id: Option<&Id>) -> Result<(), Unsound> {
    match id {
        Some(id) if id.index() > MOST => Err(Unsound::Beyond),
        Some(id) if *id.committed_leader_id() > term => Err(Unsound::Later),
        Some(_) | None => Ok(()),
    }
}

fn membership(members: &Membership<u64, Site>) -> Result<(), Unsound> {
    let configs = members.get_joint_config();
    let known = |voter: &u64| members.get_node(voter).is_some();
    let sound = !configs.is_empty()
        && configs.iter().all(|voters| !voters.is_empty() && voters.iter().all(known))
        && members.nodes().all(|(id, site)| site.peer().is_none_or(|peer| peer.node.0 == *id));
    if sound { Ok(()) } else { Err(Unsound::Membership) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn entries_follow_what_was_before_them() {
        assert_eq!(appended(json!(null), &[entry(1, 0), entry(1, 1), entry(2, 2)]), Ok(()));
        assert_eq!(appended(id(1, 4), &[entry(1, 5)]), Ok(()));
        assert_eq!(appended(id(1, 4), &[]), Ok(()));
        assert_eq!(appended(json!(null), &[entry(1, 1)]), Err(Unsound::Gap));
        assert_eq!(appended(json!(null), &[entry(1, u64::MAX)]), Err(Unsound::Gap));
        assert_eq!(appended(id(1, 4), &[entry(1, 6)]), Err(Unsound::Gap));
        assert_eq!(appended(id(1, 4), &[entry(1, 5), entry(1, 5)]), Err(Unsound::Gap));
        assert_eq!(appended(id(2, 4), &[entry(1, 5)]), Err(Unsound::Gap));
    }

    #[test]
    fn nobody_knows_of_later_terms_or_of_the_end_of_all_numbers() {
        assert_eq!(appended(json!(null), &[entry(4, 0)]), Err(Unsound::Later));
        assert_eq!(appended(id(4, 0), &[]), Err(Unsound::Later));
        assert_eq!(appended(id(1, u64::MAX), &[]), Err(Unsound::Beyond));
        assert_eq!(candidate(&vote(MOST + 1, false), None), Err(Unsound::Beyond));
        assert_eq!(candidate(&vote(MOST, false), None), Ok(()));
    }

    #[test]
    fn leaders_speak_as_leaders_and_candidates_as_candidates() {
        assert_eq!(candidate(&vote(3, true), None), Err(Unsound::Standing));
        assert_eq!(transfer(&vote(3, false), None), Err(Unsound::Standing));
        assert_eq!(transfer(&vote(3, true), None), Ok(()));
    }

    #[test]
    fn a_membership_has_voters_that_are_known() {
        let of = |configs: Value, nodes: Value| {
            let payload = json!({ "Membership": { "configs": configs, "nodes": nodes } });
            appended(json!(null), &[json!({ "log_id": id(1, 0), "payload": payload })])
        };
        assert_eq!(of(json!([[100]]), json!({ "100": "witness" })), Ok(()));
        assert_eq!(of(json!([[100, 101]]), json!({ "100": "witness" })), Err(Unsound::Membership));
        assert_eq!(of(json!([[]]), json!({ "100": "witness" })), Err(Unsound::Membership));
        assert_eq!(of(json!([]), json!({ "100": "witness" })), Err(Unsound::Membership));
    }

    #[test]
    fn a_snapshot_is_what_it_says() {
        let meta = |last: Value| {
            let members = json!({ "log_id": null, "membership": { "configs": [[100]], "nodes": { "100": "witness" } } });
            let meta = json!({ "last_log_id": last, "last_membership": members, "snapshot_id": "" });
            (serde_json::from_value::<Meta>(meta).unwrap(), members)
        };
        let told = |last: Value, applied: Value| {
            let (meta, membership) = meta(last);
            let state = json!({ "applied": applied, "membership": membership, "claims": [] });
            snapshot(&vote(3, true), &meta, &serde_json::from_value(state).unwrap())
        };
        assert_eq!(told(id(3, 7), id(3, 7)), Ok(()));
        assert_eq!(told(id(3, 7), id(3, 6)), Err(Unsound::Snapshot));
        assert_eq!(told(json!(null), json!(null)), Err(Unsound::Snapshot));
        assert_eq!(told(id(4, 7), id(4, 7)), Err(Unsound::Later));
    }

    /// What is said of entries that a leader of term 3 sends.
    fn appended(before: Value, entries: &[Value]) -> Result<(), Unsound> {
        let call = json!({
            "vote": serde_json::to_value(vote(3, true)).unwrap(),
            "prev_log_id": before,
            "entries": entries,
            "leader_commit": null,
        });
        append(&serde_json::from_value(call).unwrap())
    }

    fn vote(term: u64, committed: bool) -> Vote {
        if committed { Vote::new_committed(term, 2) } else { Vote::new(term, 2) }
    }

    fn id(term: u64, index: u64) -> Value {
        json!({ "leader_id": term, "index": index })
    }

    fn entry(term: u64, index: u64) -> Value {
        json!({ "log_id": id(term, index), "payload": "Blank" })
    }
}
