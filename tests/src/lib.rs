//! The stage on which Postern's scenarios play: real processes, real servers, breakable links.
//!
//! ```text
//!   suite ──► Route ──► server              the same suite, directly …
//!   (JDBC,     │
//!    SMTP,     └──► listener ─ central ═ Link ═ agent ──► server     … and through the gateway
//!    SOAP)
//! ```
//!
//! [`Dev`] is the gateway as a newcomer starts it; [`Site`] is the one an operator sets up host by
//! host, with a [`Link`] in front of each agent; [`Hosts`] takes each of an operator's steps when
//! told. The servers are the ones customers run, started on free loopback ports in temporary
//! folders. Nothing here waits for time to pass: it waits for a state, with a limit ([`wait_until`]).
//!
//! The stage fails by panicking, with a sentence: whatever it started is then stopped and the tail
//! of its log is shown. Linux only.
#![expect(clippy::expect_used, reason = "only tests stand on this stage, and panicking is how a test fails")]

mod api;
mod attempt;
pub mod browser;
mod central;
mod certificates;
mod cgroup;
mod conversation;
mod dev;
mod disk;
mod files;
mod folder;
mod host;
mod hosts;
mod link;
pub mod needs;
pub mod port;
mod process;
mod program;
mod route;
pub mod servers;
mod site;
pub mod suite;
mod wait;

pub use api::{Api, Gateway, ProcessServer};
pub use attempt::Attempt;
pub use central::Central;
pub use certificates::Certificates;
pub use cgroup::Cgroup;
pub use conversation::{Conversation, Dice, Fault, Partner};
pub use dev::{Dev, DevAgent};
pub use disk::SmallDisk;
pub use files::allow_files;
pub use folder::Folder;
pub use host::Host;
pub use hosts::{Hosts, Member, Place, Shown, Switch};
pub use link::{Connection, Link};
pub use process::{Launch, Process, Stop};
pub use program::program;
pub use route::Route;
pub use site::Site;
pub use wait::{holds_for, wait_until};
