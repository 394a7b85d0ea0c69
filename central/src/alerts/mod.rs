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
//! The policy's state is replaced only by whoever read it last. So of several owners that see one outage, nodes of
//! central one day, one tells of its beginning and one of its end; the others find the incident taken and follow.

mod book;
mod dispatch;
mod pages;
mod settings;
mod tally;

pub use book::{ALERTS_AT_ONCE, Book, EVENTS_AT_ONCE};
pub use dispatch::{Dispatcher, Nudge};
pub use pages::Pages;
pub use settings::{Maintenance, Settings, SettingsError, settings_shown};
pub use tally::Tally;
