//! An embedded database whose acknowledgements survive a power cut.
//!
//! ```text
//!   write to a tree ──► sync_then(ack) ──► one I/O thread: flush, fdatasync, guards ──► ack
//! ```
//!
//! sled's own `flush` does not reach the disk on Linux (it ends in `sync_file_range`), its
//! snapshot files can keep it from opening, what it writes beside its log (`conf`, large values) is never
//! synced, and damage at the tail of its file silently costs the newest records. This crate closes these gaps
//! and decides nothing else:
//!
//! * [`Durable`]: nothing is acknowledged before our own `fdatasync`; the first error is final.
//! * [`Durable::open`]: repairs what may be repaired, and says clearly what may not.
//! * [`record`]: every value carries a checksum that also covers its key.
//! * [`Guard`]: a small file that remembers how far the database had come, so that a database
//!   that opens *shorter* is noticed.
//!
//! Raft, stores and their meaning live elsewhere; this room only keeps bytes.

mod blobs;
mod folders;
mod guard;
mod open;
pub mod record;
mod runner;
mod writer;

pub use folders::{create_folders, create_private_folders};
pub use guard::{Guard, GuardError};
pub use open::{OpenError, quarantine};
pub use runner::{Runner, set_runner};
/// The database below; its trees, batches and transactions are used as they are.
pub use sled;
pub use writer::{Durable, Failure};
