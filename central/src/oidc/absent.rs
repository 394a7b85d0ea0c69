//! In the provider's place where the feature `oidc` is off: there is none, and nobody can come by one.

use std::convert::Infallible;

use proto::EnvironmentName;
use time::OffsetDateTime;

use super::{Answer, Begun, Person, Refusal, Settings, settings::NotBuilt};
use crate::people::Secret;

/// Why nobody can be asked.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    NotBuilt(#[from] NotBuilt),
}

/// Nobody has one.
#[derive(Debug, Clone)]
pub struct Provider(Infallible);

/// Nobody began.
#[derive(Debug)]
pub struct Pending(Infallible);

impl Pending {
    pub fn next(&self) -> &str {
        match self.0 {}
    }
}

impl Provider {
    /// # Errors
    /// Always.
    pub fn open(_: &Settings) -> Result<Self, OpenError> {
        Err(NotBuilt.into())
    }

    pub fn environment(&self) -> &EnvironmentName {
        match self.0 {}
    }

    pub fn host(&self) -> &str {
        match self.0 {}
    }

    pub async fn begin(&self, _: &str, _: Option<Secret>, _: OffsetDateTime) -> Result<Begun, Refusal> {
        match self.0 {}
    }

    pub fn take(&self, _: &str, _: Option<&Secret>, _: OffsetDateTime) -> Result<Pending, Refusal> {
        match self.0 {}
    }

    pub async fn person(&self, _: &Pending, _: &Answer, _: OffsetDateTime) -> Result<Person, Refusal> {
        match self.0 {}
    }
}
