//! A user of one Environment, and the rules of changing one.
//!
//! Nobody makes, changes or removes a user above his own role, and one enabled Cloud Administrator always
//! remains: without one nobody could ever mark a candidate again. All changes of an Environment's users go through
//! one record's version, so that two of them at once cannot break the second rule together.

use std::net::IpAddr;

use proto::Name;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    Role,
    password::{Busy, Weak},
};
use crate::store::{Collection, StoreError};

/// By the name in small letters: nobody signs in as `Anna` beside an `anna`.
pub(super) const USERS: Collection<User> = Collection::new("users");
/// One record under [`HEAD_KEY`], written with every change of a user.
pub(super) const HEADS: Collection<Head> = Collection::new("users_head");
pub(super) const HEAD_KEY: &str = "head";
/// By user, as [`USERS`]. Apart from the user, whose version a sign-in must not change.
pub(super) const SIGN_INS: Collection<SignIns> = Collection::new("sign_ins");

/// The most users of one Environment.
pub const USERS_MAX: usize = 500;
/// How many addresses a user is known by.
pub(super) const FAMILIAR_MAX: usize = 8;

/// A user as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub name: Name,
    pub role: Role,
    pub disabled: bool,
    /// An argon2id PHC string; without one nobody signs in with a password.
    pub(super) password: Option<String>,
    /// Whose account at an identity provider this is. Such a user has no password, and the role of the last sign-in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<Account>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Older sessions are none any more: moved on whenever role or password change. One field ends them all, also
    /// one that begins at the same moment, and also those of a user of the same name who was removed.
    #[serde(with = "time::serde::rfc3339")]
    pub(super) sessions_since: OffsetDateTime,
}

/// Who somebody is at an identity provider, whatever they are called: names are changed and given to others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub issuer: String,
    pub subject: String,
}

impl User {
    pub fn has_password(&self) -> bool {
        self.password.is_some()
    }

    /// When role, password or being disabled last changed.
    pub fn changed_at(&self) -> OffsetDateTime {
        self.sessions_since
    }

    /// One that central has by itself: what a provider gives it can take away.
    pub(super) fn is_enabled_cloud_administrator(&self) -> bool {
        self.role == Role::CloudAdministrator && !self.disabled && self.account.is_none()
    }
}

/// How many changes there were; only its version matters.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) changes: u64,
}

/// A user's successful sign-ins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SignIns {
    #[serde(with = "time::serde::rfc3339")]
    pub(super) last: OffsetDateTime,
    /// The networks they came from, newest first.
    pub(super) from: Vec<IpAddr>,
}

/// A user to be. Without a password only a one-time link signs in.
#[derive(Debug)]
pub struct NewUser {
    pub name: Name,
    pub role: Role,
    pub password: Option<super::Password>,
}

/// What is to change; `None` stays as it is.
#[derive(Debug, Default)]
pub struct UserChange {
    pub role: Option<Role>,
    pub disabled: Option<bool>,
    pub password: Option<super::Password>,
}

/// Why something about users or sessions was not done.
#[derive(Debug, thiserror::Error)]
pub enum PeopleError {
    #[error("no user is named {0}")]
    Unknown(Name),
    #[error("there is already a user named {0}")]
    Exists(Name),
    #[error("there are already {USERS_MAX} users: remove some first")]
    TooMany,
    #[error("this needs the role {needed}, and you have the role {has}")]
    Above { needed: Role, has: Role },
    #[error(
        "{0} is the last enabled Cloud Administrator: make another one first, or nobody could mark candidates"
    )]
    LastCloudAdministrator(Name),
    #[error(transparent)]
    Weak(#[from] Weak),
    #[error("somebody else changed {0} meanwhile: read it again, then decide")]
    Changed(Name),
    /// One sentence for every way it can be wrong.
    #[error("name or password is wrong")]
    WrongCredentials,
    #[error("the present password is wrong")]
    WrongPassword,
    #[error("{0} signs in through the identity provider and has no password")]
    NoPassword(Name),
    #[error(
        "a user named {0} is here already, with a password: whoever runs central removes that user, or gives you another name"
    )]
    Local(Name),
    #[error(
        "{0} belongs to another account at the identity provider: an administrator removes that user first"
    )]
    OtherAccount(Name),
    #[error("the user {0} is disabled")]
    Disabled(Name),
    #[error("too many attempts: try again in {}", humantime::format_duration(*.0))]
    TooManyAttempts(std::time::Duration),
    #[error("this link was used already, or has expired")]
    LinkGone,
    #[error(transparent)]
    Busy(#[from] Busy),
    #[error(transparent)]
    Store(#[from] StoreError),
}
