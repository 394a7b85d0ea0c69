//! Where dev keeps its state: a folder of the user's, which resumes, or a temporary one, which goes.
//!
//! ```text
//!   DIR/dev.json     the addresses of last time: enrolled agents dial that port again
//!   DIR/central/     central's data directory
//!   DIR/agents/NAME/ one per agent
//! ```

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::{app::Addresses, enrolment::secret_file};

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum FolderError {
    #[error("cannot {action} {path}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} is damaged: remove the folder to start afresh, or put the file back")]
    Damaged { path: PathBuf, source: serde_json::Error },
    #[error(
        "the agents in {folder} dial central at {known}: leave --tunnel-listen {wanted} away, or choose another --data-dir"
    )]
    Moved { folder: PathBuf, known: SocketAddr, wanted: SocketAddr },
}

/// dev's folder.
pub(super) struct Folder {
    path: PathBuf,
    temporary: Option<TempDir>,
    known: Option<Known>,
}

/// What is remembered from one start to the next.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Known {
    admin_listen: SocketAddr,
    tunnel_listen: SocketAddr,
}

impl Folder {
    /// The given folder, made if missing, or a temporary one.
    pub(super) fn open(given: Option<&Path>) -> Result<Self, FolderError> {
        let Some(path) = given else {
            let temporary = tempfile::Builder::new().prefix("postern-dev-").tempdir();
            let temporary = temporary.map_err(failed("make a temporary folder in", &std::env::temp_dir()))?;
            return Ok(Self { path: temporary.path().to_owned(), temporary: Some(temporary), known: None });
        };
        secret_file::create_folder(path).map_err(failed("create", path))?;
        let path = absolute(path)?;
        let file = path.join(KNOWN_FILE);
        let known = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| FolderError::Damaged { path: file, source })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed("read", &file)(error)),
        };
        Ok(Self { path, temporary: None, known })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_temporary(&self) -> bool {
        self.temporary.is_some()
    }

    pub(super) fn central(&self) -> PathBuf {
        self.path.join("central")
    }

    pub(super) fn agents(&self) -> PathBuf {
        self.path.join("agents")
    }

    /// Last time's address, where any will do.
    pub(super) fn admin_listen(&self, wanted: SocketAddr) -> SocketAddr {
        match self.known {
            Some(known) if fits(known.admin_listen, wanted) => known.admin_listen,
            Some(_) | None => wanted,
        }
    }

    /// Last time's address: agents that are enrolled know no other.
    pub(super) fn tunnel_listen(&self, wanted: SocketAddr) -> Result<SocketAddr, FolderError> {
        match self.known {
            None => Ok(wanted),
            Some(Known { tunnel_listen, .. }) if fits(tunnel_listen, wanted) => Ok(tunnel_listen),
            Some(Known { tunnel_listen: known, .. }) => {
                Err(FolderError::Moved { folder: self.path.clone(), known, wanted })
            }
        }
    }

    /// Keeps the addresses for the next time.
    pub(super) fn remember(&self, addresses: Addresses) -> Result<(), FolderError> {
        let known = Known { admin_listen: addresses.admin, tunnel_listen: addresses.tunnel };
        let file = self.path.join(KNOWN_FILE);
        let json = serde_json::to_vec(&known).map_err(io::Error::from).map_err(failed("write", &file))?;
        secret_file::write(&file, &json).map_err(failed("write", &file))
    }

    /// Removes it, if it is temporary.
    pub(super) fn close(self) -> Result<(), FolderError> {
        match self.temporary {
            Some(temporary) => temporary.close().map_err(failed("remove", &self.path)),
            None => Ok(()),
        }
    }
}

const KNOWN_FILE: &str = "dev.json";

/// Whether `known` is an answer to `wanted`, whose port 0 means any.
fn fits(known: SocketAddr, wanted: SocketAddr) -> bool {
    known.ip() == wanted.ip() && (wanted.port() == 0 || wanted.port() == known.port())
}

/// The path from the root, for whoever works in another folder.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, FolderError> {
    std::path::absolute(path).map_err(failed("find", path))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FolderError {
    let path = path.to_owned();
    move |source| FolderError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_folder_remembers_where_its_agents_find_central() {
        let kept = tempfile::tempdir().unwrap();
        let first = Folder::open(Some(kept.path())).unwrap();
        assert_eq!(first.tunnel_listen(ANY.parse().unwrap()).unwrap().port(), 0);
        first.remember(addresses()).unwrap();
        let again = Folder::open(Some(kept.path())).unwrap();
        assert_eq!(again.tunnel_listen(ANY.parse().unwrap()).unwrap(), addresses().tunnel);
        assert_eq!(again.admin_listen(ANY.parse().unwrap()), addresses().admin);
        let other = "127.0.0.1:9999".parse().unwrap();
        assert_eq!(again.admin_listen(other), other);
        let moved = again.tunnel_listen(other).unwrap_err().to_string();
        assert!(moved.contains("127.0.0.1:20002") && moved.contains("--data-dir"), "{moved}");
    }

    #[test]
    fn a_temporary_folder_goes_and_a_given_one_stays() {
        let temporary = Folder::open(None).unwrap();
        let path = temporary.path().to_owned();
        temporary.close().unwrap();
        assert!(!path.exists());

        let kept = tempfile::tempdir().unwrap();
        Folder::open(Some(kept.path())).unwrap().close().unwrap();
        assert!(kept.path().exists());
    }

    fn addresses() -> Addresses {
        Addresses { admin: "127.0.0.1:20001".parse().unwrap(), tunnel: "127.0.0.1:20002".parse().unwrap() }
    }

    const ANY: &str = "127.0.0.1:0";
}
