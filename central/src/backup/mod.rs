//! Central's whole state in one file, and back.
//!
//! ```text
//!   running central: store + key files ──► content (JSON lines) ── TLS ──► posternctl ──► sealed (passphrase) ──► FILE
//!   FILE ──► opened ──► verified to its last byte ──► restore: epoch floor raised ──► a new data directory
//! ```
//!
//! In it is everything that central must not lose: the CA and its key, users, settings, destinations, alerts with their
//! key, the gateway groups, events and the audit. Not in it is what must never come back from the past: the
//! witness' Raft records (a vote given since could be given twice), sign-in sessions and one-time tokens.
//! `docs/backup.md` has the format to the byte.

mod content;
mod restore;
mod sealed;

pub use content::{Content, ContentError, Counted, FORMAT, Line, verify};
pub use restore::{RestoreError, Restored, restore};
pub use sealed::{OpenError, Opening, Passphrase, Sealing};
