//! Who may do what: four roles, each with all rights of the one before.

use std::fmt;

use axum::{extract::FromRequestParts, http::request::Parts};
use proto::EnvironmentName;
use serde::{Deserialize, Serialize};

use super::problem::Problem;

/// A role within one Environment. Ordered: a larger role may do all that a smaller one may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Also restarts, switches and tests.
    Operator,
    /// Also changes destinations and API tokens.
    Administrator,
    /// Also marks candidates, removes Process Servers and lets new agents in.
    CloudAdministrator,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Operator, Self::Administrator, Self::CloudAdministrator];
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Viewer => "Viewer",
            Self::Operator => "Operator",
            Self::Administrator => "Administrator",
            Self::CloudAdministrator => "Cloud Administrator",
        })
    }
}

/// What a route asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: anyone who reaches the admin address may call it.
    Nothing,
    /// At least this role.
    Role(Role),
}

/// Who is calling, as proved by a token. Handlers take it as an argument; it exists only behind
/// a route that needs a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub environment: EnvironmentName,
    pub role: Role,
    /// The token's id, for logs and the audit: never its secret.
    pub token: String,
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // Refusing here too keeps a handler closed that was put on a route without a role.
        parts.extensions.get::<Self>().cloned().ok_or_else(Problem::unauthenticated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_has_the_rights_of_the_one_before() {
        assert!(Role::ALL.is_sorted());
        assert!(Role::CloudAdministrator > Role::Administrator && Role::Operator > Role::Viewer);
    }

    #[test]
    fn roles_are_written_in_snake_case() {
        assert_eq!(serde_json::to_string(&Role::CloudAdministrator).unwrap(), r#""cloud_administrator""#);
    }
}
