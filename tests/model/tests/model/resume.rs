//! Resume: every place at which a tunnel can be cut.

use postern_model::{
    check::{breaks, holds},
    mutant::Mutant,
    resume::*,
};

#[test]
fn no_byte_is_lost_doubled_or_reordered_wherever_the_tunnel_is_cut() {
    println!("{:?}", holds(sound()).unwrap_or_else(|why| panic!("{why}")));
}

macro_rules! caught {
    ($($name:ident: $mutant:ident => $rule:ident;)*) => {$(
        #[test]
        fn $name() {
            println!("{}", breaks(Resume { mutant: Some(Mutant::$mutant), ..sound() }, $rule).expect("the model is blind"));
        }
    )*};
}

caught! {
    a_forged_offset_believed_loses_bytes: ResumeOffsetUnchecked => COMES_TO_ITS_END;
    sending_again_what_arrived_breaks_the_tunnel: ResumeFromLastAck => CUT_BREAKS_NOTHING;
    forgetting_what_was_sent_breaks_the_tunnel: ForgottenWhenSent => CUT_BREAKS_NOTHING;
    another_session_gets_bytes_twice: SessionUnchecked => EVERY_BYTE_ONCE;
    an_old_websocket_still_read_breaks_the_tunnel: OldWebsocketStillRead => CUT_BREAKS_NOTHING;
    a_fin_for_a_reset_makes_a_torn_stream_look_whole: FinForReset => NO_FALSE_END;
}

fn sound() -> Resume {
    Resume { mutant: None, bytes: [3, 2], cuts: 2, ends: 1 }
}
