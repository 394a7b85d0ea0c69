//! Who did what: every change an administrator makes or is refused, in a chain of hashes.
//!
//! ```text
//!   request ─► Trail (who, what) ─┬─ the handler's first commit: change and record in one transaction
//!                                 └─ after the answer: refusals, failures, and what changed no record
//!
//!   anchor ◄─ record 1 ◄─ record 2 ◄─ … ◄─ head          each holds the hash of the one before
//! ```
//!
//! What is changed, removed, inserted or exchanged breaks the chain where it happened; what is cut off at the end is
//! missed by whoever kept an earlier head. The oldest records make room for new ones, and the anchor remembers the
//! last that went. Docs: `docs/audit.md` has the exact hash input.

pub mod chain;
mod export;
mod log;
mod refusals;
mod shown;
mod trail;

pub use chain::{Anchor, Broken, Chain, GENESIS};
pub use export::{ExportError, first_line, head_line, verify_export};
pub use log::{AuditLog, HeadView, RECORDS_MAX};
pub use trail::{Audit, Outcome, Trail};
