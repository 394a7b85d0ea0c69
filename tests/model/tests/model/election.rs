//! Votes and claims: what a crash may and may not forget.

use postern_model::{
    check::{breaks, holds},
    election::*,
    mutant::Mutant,
};

#[test]
fn two_candidates_and_the_witness_never_contradict_themselves() {
    println!("{:?}", holds(sound(true)).unwrap_or_else(|why| panic!("{why}")));
}

#[test]
fn a_group_recovers_from_the_loss_of_any_one_member() {
    for with_witness in [true, false] {
        let model = Election { recovery: true, ..small(with_witness) };
        println!("{:?}", holds(model).unwrap_or_else(|why| panic!("{why}")));
    }
}

#[test]
fn three_candidates_never_contradict_themselves() {
    println!("{:?}", holds(sound(false)).unwrap_or_else(|why| panic!("{why}")));
}

macro_rules! caught {
    ($($name:ident: $mutant:ident => $rule:ident;)*) => {$(
        #[test]
        fn $name() {
            println!("{}", breaks(Election { mutant: Some(Mutant::$mutant), recovery: true, ..small(true) }, $rule).expect("the model is blind"));
        }
    )*};
}

caught! {
    a_vote_answered_before_it_is_on_disk_is_given_twice: VoteBeforeSync => ONE_VOTE;
    an_entry_acknowledged_before_it_is_on_disk_is_lost: EntryAckedBeforeSync => CLAIMS_STAY;
    records_that_came_back_shorter_without_a_guard_vote_twice: NoGuard => ONE_VOTE;
    a_node_id_used_again_votes_twice: NodeReused => ONE_VOTE;
    a_shorter_log_elected_loses_a_claim: ShorterLogElected => CLAIMS_STAY;
    a_commit_without_a_quorum_is_lost: CommittedWithoutQuorum => CLAIMS_STAY;
    a_witness_that_proposes_claims: WitnessClaims => WITNESS_NEVER_CLAIMS;
    a_witness_that_never_leads_leaves_no_way_out: WitnessNeverLeads => RECOVERS;
    a_term_is_no_fence: FenceIsTerm => ONE_CLAIM_PER_TOKEN;
}

fn sound(with_witness: bool) -> Election {
    Election { terms: 3, ..small(with_witness) }
}

fn small(with_witness: bool) -> Election {
    Election { with_witness, mutant: None, terms: 2, entries: 2, crashes: 1, recovery: false }
}
