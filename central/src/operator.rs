//! The operator of this machine: whoever can read central's data directory. Administrators have roles in an
//! Environment each; what concerns central as a whole, all Environments and the CA's key, is the operator's alone.
//!
//! Each start writes a new token into the data directory, 0600. It proves nothing but that whoever shows it has read it
//! there, and who can do that has everything already.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use subtle::ConstantTimeEq;

use crate::{enrolment::secret_file, people::Secret};

const FILE: &str = "operator.token";

/// What the operator shows. Prints as `***`.
#[derive(Clone)]
pub struct OperatorToken(Secret);

impl OperatorToken {
    /// A new one, in the data directory.
    pub fn write(data_dir: &Path) -> io::Result<Self> {
        let secret = Secret::random();
        secret_file::write(&Self::file(data_dir), format!("{}\n", secret.reveal()).as_bytes())?;
        Ok(Self(secret))
    }

    /// One that lies nowhere.
    pub fn unwritten() -> Self {
        Self(Secret::random())
    }

    pub fn file(data_dir: &Path) -> PathBuf {
        data_dir.join(FILE)
    }

    /// Whether `shown` is it.
    pub fn is(&self, shown: &str) -> bool {
        self.0.reveal().as_bytes().ct_eq(shown.as_bytes()).into()
    }
}

impl fmt::Debug for OperatorToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_start_has_a_token_of_its_own_that_only_its_owner_may_read() {
        let folder = tempfile::tempdir().unwrap();
        let first = OperatorToken::write(folder.path()).unwrap();
        let file = OperatorToken::file(folder.path());
        let shown = std::fs::read_to_string(&file).unwrap();
        assert!(first.is(shown.trim()) && !first.is("") && !secret_file::is_open_to_others(&file).unwrap());
        assert!(!OperatorToken::write(folder.path()).unwrap().is(shown.trim()));
        assert_eq!(format!("{first:?}"), "***");
    }
}
