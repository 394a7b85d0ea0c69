//! Who is active: with the product's own role machine, fence and proxy-processor.

use postern_model::{
    check::{breaks, holds},
    gateway::*,
    mutant::Mutant,
};

/// Two claims, one election that nobody ordered, and whatever a test adds.
const ONE_CHANGE: Bounds = Bounds {
    claims: 2,
    elections: 1,
    deaths: 0,
    pauses: 0,
    restarts: 0,
    cuts: 0,
    switches: 0,
    foundings: 0,
    timeouts: 0,
    impostors: 0,
    racing: false,
};

macro_rules! sound {
    ($($name:ident: $($bound:ident $count:expr),*;)*) => {$(
        #[test]
        fn $name() {
            let bounds = Bounds { $($bound: $count,)* ..ONE_CHANGE };
            println!("{:?}", holds(two_candidates(bounds)).unwrap_or_else(|why| panic!("{why}")));
        }
    )*};
}

sound! {
    one_is_active_while_one_dies_and_one_is_paused: deaths 1, pauses 1;
    one_is_active_while_one_is_paused_and_a_websocket_is_cut: pauses 1, cuts 1;
    one_is_active_while_one_dies_and_a_websocket_is_cut: deaths 1, cuts 1;
    one_is_active_while_central_restarts_and_one_dies: deaths 1, restarts 1;
    one_is_active_while_central_restarts_and_a_websocket_is_cut: elections 0, restarts 1, cuts 1;
    one_is_active_while_a_planned_switch_is_cut: switches 1, cuts 1;
    one_is_active_while_a_planned_switch_loses_an_agent: switches 1, deaths 1;
    one_is_active_while_a_planned_switch_loses_central: elections 0, switches 1, restarts 1;
    one_is_active_while_a_group_is_founded_anew_and_a_websocket_is_cut: foundings 1, cuts 1;
    one_is_active_while_two_hellos_are_judged_at_once: claims 3, elections 1, cuts 1, racing true;
    one_is_active_while_timers_ring_and_an_agent_is_dead: deaths 1, timeouts 1;
    one_is_active_while_impostors_knock: impostors 1, cuts 1, switches 1, elections 0;
}

#[test]
fn one_of_three_candidates_is_active_while_one_dies() {
    let bounds = Bounds { deaths: 1, ..ONE_CHANGE };
    let model = Gateway { candidates: 3, ..two_candidates(bounds) };
    println!("{:?}", holds(model).unwrap_or_else(|why| panic!("{why}")));
}

macro_rules! caught {
    ($($name:ident: $mutant:ident, $($bound:ident $count:expr),* => $rule:ident;)*) => {$(
        #[test]
        fn $name() {
            let bounds = Bounds { $($bound: $count,)* ..ONE_CHANGE };
            let model = Gateway { mutant: Some(Mutant::$mutant), ..two_candidates(bounds) };
            println!("{}", breaks(model, $rule).expect("the model is blind"));
        }
    )*};
}

caught! {
    an_admission_before_its_fence_is_durable: AdmittedBeforeDurable, restarts 1, cuts 1 => FENCE_GROWS;
    a_fence_written_without_comparing: NoCompareAndSet, claims 3, elections 2, cuts 1, racing true => FENCE_GROWS;
    a_fence_forgotten_at_a_restart: FenceForgottenAtRestart, restarts 1 => FENCE_GROWS;
    a_fence_without_the_generation: GenerationIgnored, foundings 1 => NEWEST_NOT_STALE;
    a_stale_epoch_admitted: StaleEpochAdmitted, cuts 1 => NO_BYTE_BELOW;
    another_boot_under_the_same_epoch: OtherBootAdmitted, impostors 1 => ONE_HOLDER;
    another_session_under_the_same_epoch: OtherSessionAdmitted, impostors 1 => ONE_HOLDER;
    a_claim_that_the_witness_has_not_applied: InventedClaimAdmitted, impostors 1 => CLAIMED;
    an_older_tunnel_left_open: OldTunnelLeftOpen, switches 1 => ONE_OPENS;
    a_drain_that_the_fence_does_not_name: DrainNotRecorded, switches 1 => NO_BYTE_BELOW;
    a_drain_that_takes_streams: DrainTakesStreams, switches 1, cuts 1 => DRAIN_OPENS_NOTHING;
}

fn two_candidates(bounds: Bounds) -> Gateway {
    Gateway { candidates: 2, mutant: None, bounds }
}
