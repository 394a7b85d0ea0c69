//! Signing in through an OpenID Connect provider: who somebody is, by the word of a server that the operator named.
//!
//! ```text
//!   browser ──► begin: state, nonce, PKCE kept in `pending`, bound to this browser ──► the provider's page
//!   browser ◄── code ── provider
//!      └──► take: the state, once, by the same browser ──► person: code ─► `client` ─► ID token
//!                                                            `keys`, `id_token`: is it theirs, for us, of now?
//!                                                            `person`: which name, which role
//! ```
//!
//! What is told by the provider counts only once its signature was checked. Nothing is asked of it before somebody wants
//! to sign in, and what it answers is bounded in size, time and number. This room knows neither pages nor records:
//! a [`Person`] comes out, and `people` decides whether that is a user. Built with the feature `oidc`; without it
//! settings that name a provider are refused, and nobody has a [`Provider`].

mod refusal;
pub mod settings;

#[cfg(feature = "oidc")]
mod client;
#[cfg(feature = "oidc")]
mod discovery;
#[cfg(feature = "oidc")]
mod id_token;
#[cfg(feature = "oidc")]
mod keys;
#[cfg(feature = "oidc")]
mod pending;
#[cfg(feature = "oidc")]
mod person;
#[cfg_attr(not(feature = "oidc"), path = "absent.rs")]
mod provider;

use proto::Name;

pub use self::{
    provider::{OpenError, Pending, Provider},
    refusal::Refusal,
    settings::Settings,
};
use crate::people::{Account, Role, Secret};

/// Whether this program was built with a way to a provider.
pub const BUILT: bool = cfg!(feature = "oidc");

/// Where the browser goes now, and what it must bring back.
#[derive(Debug)]
pub struct Begun {
    /// The provider's page, with everything it is to be told.
    pub url: String,
    /// For a cookie: whoever finishes must have begun.
    pub browser: Secret,
}

/// What the browser brings back from the provider, as it stands in the address.
#[derive(Debug, Default, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Answer {
    #[serde(default)]
    pub state: String,
    #[serde(default)]
    pub code: Option<String>,
    /// Instead of a code.
    #[serde(default)]
    pub error: Option<String>,
    /// Who says so (RFC 9207).
    #[serde(default)]
    pub iss: Option<String>,
}

/// Somebody the provider vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// What to call them, made to fit the rules for names.
    pub name: Name,
    pub role: Role,
    /// Who they are, whatever they are called.
    pub account: Account,
}
