//! What the fuzz targets do with their bytes. Also run over the committed corpus by an ordinary test
//! (`tests/tests/corpus.rs`), so each is compiled into several programs that use only a part.
#![allow(dead_code, unused_imports, reason = "each program uses a part")]
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a panic is how a fuzz target says that something is wrong"
)]

mod enrolment;
mod raft;
mod settings;
mod upgrade;

pub(crate) use enrolment::{enrol_answer, enrol_request};
pub(crate) use raft::{raft_call, raft_frame};
pub(crate) use settings::{agent_config, allow_list, central_config};
pub(crate) use upgrade::{upgrade_answer, upgrade_request};

/// Runs to the end on a clock that jumps to the next timer when nothing else is left to do: no input waits.
fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime")
        .block_on(future)
}
