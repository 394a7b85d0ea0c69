//! A gateway group's Raft: who leads, who claimed, who belongs to it.
//!
//! ```text
//!   agent ─┐                 ┌─ openraft ── log, state ── shelf ── durable (sled, guard)
//!          ├──► Group ───────┤
//! central ─┘    claims,      └─ network ── Transport (the caller's connections)
//!               leadership,
//!               members
//! ```
//!
//! This is the only room that has heard of openraft. Agents and central's witness run the same
//! core; a [`Member::Witness`] votes and stores, elects itself only where nobody else can lead,
//! hands over at once, and never claims.
//!
//! A leader is not yet active: active is the node of the newest applied [`Claim`], and only while
//! central's fence has admitted its epoch.

mod conductor;
mod core;
#[cfg(test)]
mod crashes;
mod error;
mod group;
mod hint;
mod log;
mod members;
mod memory;
mod network;
mod pace;
mod paths;
mod plan;
mod reconcile;
mod shelf;
mod sound;
mod standing;
mod state;
mod storage;
mod take_lead;
mod timings;
mod transfer;
mod types;
mod witness;

pub use conductor::Pacing;
pub use error::{ClaimError, GroupError, ReconcileError, StartError, TransferError};
pub use group::{Group, GroupConfig, Status};
pub use members::{Member, Members, Peer};
pub use network::{CallError, ServeError, Transport};
pub use reconcile::Reconciled;
pub use sound::Unsound;
pub use standing::Leadership;
pub use state::Claim;
pub use storage::{GroupStorage, Kept, StorageError};
pub use timings::Timings;
