//! The servers at the customer's site, and the proxies on its edge, real ones, each on a free loopback port with its state in a
//! temporary folder, gone with the test.

mod alertmanager;
mod identity;
mod mirror;
mod postfix;
mod postgres;
mod proxies;
mod receiver;
mod soap;

pub use alertmanager::Alertmanager;
pub use identity::IdentityProvider;
pub use mirror::{Mirror, Visit};
pub use postfix::Postfix;
pub use postgres::Postgres;
pub use proxies::{Squid, Tinyproxy};
pub use receiver::{Receiver, Webhook};
pub use soap::SoapService;

use std::process::Command;
use std::time::Duration;

use crate::process::run;

/// How long a server may take to accept connections; generous, for two busy cores.
const START_WITHIN: Duration = Duration::from_secs(60);

/// The numeric id of a system user that a Debian package made.
fn uid(user: &str) -> u32 {
    let id = run(Command::new("id").args(["-u", user]), None);
    id.trim().parse().expect("id -u prints a number")
}

fn gid(user: &str) -> u32 {
    let id = run(Command::new("id").args(["-g", user]), None);
    id.trim().parse().expect("id -g prints a number")
}
