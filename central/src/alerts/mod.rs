//! Alerts: what the crate `alerting` decides, kept in the store and carried to its receivers.
//!
//! ```text
//!   Keeper: Policy ──► Book.tell ── one transaction: events, policy, deliveries ──► store
//!                                                                                    │
//!   receivers ◄── HTTP, SMTP ── Dispatcher ◄── what is due ── deliveries ◄───────────┘
//!   administrator ── settings, test, send again ──► Book
//! ```
//!
//! Invariants: an alert is on disk before anybody hears of it, in the transaction of the event that it tells
//! of; a delivery changes by compare-and-set alone. So a crash anywhere loses none and doubles none.
//! A receiver that is slow or dead delays nobody: the Keeper only writes, the Dispatcher only sends.

mod book;
mod dispatch;
mod settings;

pub use book::{ALERTS_AT_ONCE, Book, EVENTS_AT_ONCE};
pub use dispatch::{Dispatcher, Nudge};
pub use settings::{Maintenance, Settings, SettingsError, settings_shown};
