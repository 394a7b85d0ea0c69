//! A temporary folder for one server's or process' state.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Set to anything, it keeps the folders after the test, for a look around.
const KEEP: &str = "POSTERN_TESTS_KEEP";

/// Removed when dropped, unless `POSTERN_TESTS_KEEP` is set.
pub struct Folder(TempDir);

impl Folder {
    /// Servers that give up root's rights must still find their files, so everybody may enter.
    pub fn new(purpose: &str) -> Self {
        let mut folder = tempfile::Builder::new()
            .prefix(&format!("postern-{purpose}-"))
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .unwrap_or_else(|error| panic!("a temporary folder for {purpose} could not be made: {error}"));
        folder.disable_cleanup(std::env::var_os(KEEP).is_some());
        Self(folder)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A new sub-folder.
    pub fn make(&self, name: &str) -> PathBuf {
        let path = self.join(name);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{} could not be made: {error}", path.display()));
        path
    }

    /// A new file with `content`.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, content)
            .unwrap_or_else(|error| panic!("{} could not be written: {error}", path.display()));
        path
    }

    /// A new file that only its owner may read: for keys, tokens and passwords.
    pub fn write_private(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.write(name, "");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
            .and_then(|()| fs::write(&path, content))
            .unwrap_or_else(|error| panic!("{} could not be written: {error}", path.display()));
        path
    }
}
