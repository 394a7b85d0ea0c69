//! The four roles, each with all rights of the one before.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A role within one Environment. Ordered: a larger role may do all that a smaller one may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Also restarts, switches and tests.
    Operator,
    /// Also changes destinations, users and API tokens, and reads the audit log.
    Administrator,
    /// Also marks candidates, removes Process Servers, lets new agents in and decides who is alerted.
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
