//! Silence: the last moment at which an active may write.

use postern_model::{
    check::{breaks, holds},
    mutant::Mutant,
    silence::*,
};

#[test]
fn nothing_is_written_after_dead_after_whatever_is_lost_late_or_paused() {
    println!("{:?}", holds(sound()).unwrap_or_else(|why| panic!("{why}")));
}

macro_rules! caught {
    ($($name:ident: $mutant:ident => $rule:ident;)*) => {$(
        #[test]
        fn $name() {
            println!("{}", breaks(Silence { mutant: Some(Mutant::$mutant), ..sound() }, $rule).expect("the model is blind"));
        }
    )*};
}

caught! {
    an_agent_without_a_lease_writes_late: NoSelfFence => NOTHING_LATE;
    a_clock_that_stops_while_paused_writes_late: ClockStopsWhilePaused => NOTHING_LATE;
    an_answer_dated_by_its_arrival_writes_late: AnswerDatedByArrival => NOTHING_LATE;
}

fn sound() -> Silence {
    Silence { mutant: None, steps: 7, questions: 2, cuts: 1, pauses: 2 }
}
