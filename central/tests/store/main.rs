//! What central remembers after a kill -9, and what it makes of files that end at any byte.
//!
//! Epochs and used tokens are what safety hangs on: a forgotten epoch would be a second active, a
//! forgotten redemption a second agent. `CENTRAL_ROUNDS=200` makes the long run.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking, their helpers too")]

mod crashes;
mod images;
mod memory;

/// How long to try: rounds of kill -9, and in proportion the bytes of a file's tail.
fn rounds() -> usize {
    std::env::var("CENTRAL_ROUNDS").map_or(5, |rounds| rounds.parse().unwrap())
}
