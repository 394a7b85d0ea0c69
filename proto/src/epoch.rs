//! The fencing token.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Proof that a quorum chose this agent. A larger epoch wins; equal means the same claim.
///
/// `group` is the generation granted when the group was founded, `claim` the log index of the
/// committed claim. Compared in that order, so an epoch of a group founded anew beats every
/// epoch of the group before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch {
    pub group: u64,
    pub claim: u64,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.group, self.claim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_founded_anew_beats_every_claim_of_the_old_one() {
        assert!(Epoch { group: 2, claim: 1 } > Epoch { group: 1, claim: 900 });
        assert!(Epoch { group: 1, claim: 3 } > Epoch { group: 1, claim: 2 });
    }
}
