//! Whole groups in one process: see [`world`] for the stage, the other rooms for the plays.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking, their helpers too")]

mod failover;
mod membership;
mod on_disk;
mod timings;
mod world;
