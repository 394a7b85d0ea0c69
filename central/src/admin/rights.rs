//! Who is calling, and what a route asks of its caller.

use std::fmt;

use axum::{extract::FromRequestParts, http::request::Parts};
use proto::{EnvironmentName, Name};

use super::problem::Problem;
pub use crate::people::Role;
use crate::{audit::Trail, people::Session};

/// What a route asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: anyone who reaches the admin address may call it.
    Nothing,
    /// At least this role.
    Role(Role),
}

/// Who is calling, as proved by a token or a session. Handlers take it as an argument; it exists only behind
/// a route that needs a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub environment: EnvironmentName,
    pub role: Role,
    pub who: Who,
    /// Of a request that may change something: where that is noted.
    pub trail: Option<Trail>,
}

/// As whom. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    Token { id: String, name: Option<Name> },
    User(Box<Session>),
}

impl Who {
    /// The session, where it is one.
    pub fn session(&self) -> Option<&Session> {
        match self {
            Self::User(session) => Some(session),
            Self::Token { .. } => None,
        }
    }
}

/// The user's name, or the token's id and name.
impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(session) => write!(f, "{}", session.user),
            Self::Token { id, name: Some(name) } => write!(f, "token {name} ({id})"),
            Self::Token { id, name: None } => write!(f, "token {id}"),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // Refusing here too keeps a handler closed that was put on a route without a role.
        parts.extensions.get::<Self>().cloned().ok_or_else(Problem::unauthenticated)
    }
}
