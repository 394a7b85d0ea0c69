//! Whole agents and central in a simulated world: network, disk, clock and chance come from a seed.
//!
//! ```text
//!   history (faults from a seed) ──► World: whose turn is it, and when ──► hosts, each with its own tokio runtime
//!                                      │                                     central, agents: the real programs
//!                                      ▼                                     cloud, site: clients, destinations
//!                                   kernel: libc's sockets, clock, dice ◄────┘
//!                                      │
//!   oracle: what may never be ◄────────┘ every read and write, every admission, every answer
//! ```
//!
//! Nothing in the programs knows of it: the world stands where libc stands, in this test's executable alone. One
//! history runs on one thread, one host at a time, from event to event; the same seed gives the same faults, and but for
//! sled's own threads the same history.
//! For Linux with glibc; elsewhere this crate is empty.
#![cfg(all(target_os = "linux", target_env = "gnu", any(target_arch = "x86_64", target_arch = "aarch64")))]

mod dice;
mod faults;
mod history;
mod kernel;
mod log;
mod mutant;
mod oracle;
mod people;
mod programs;
mod world;

pub use self::{
    dice::Dice,
    history::{History, Report, play},
    log::log,
    mutant::Mutant,
};
