//! Whole groups in one process: see [`world`] for the stage, the other rooms for the plays.

mod failover;
mod membership;
mod on_disk;
mod world;
