//! The agent's folder on disk: who may read it, how a file in it is replaced, and that only one
//! process lives in it.
//!
//! ```text
//!   DATA_DIR/            0700
//!     lock, agent.pid    held by the one process that runs here, and its number for people
//!     identity/          key, certificate, CA: see `identity`
//!     agent.toml, allow-list.toml, agent.sock
//! ```

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// A data directory this process has locked. Dropping it lets another process in.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    // Held open for its lock; the operating system lets go of it when the process dies, however it dies.
    _lock: File,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error(
        "the data directory {path} is in use by process {pid}: stop that agent first, or choose another --data-dir"
    )]
    InUse { path: PathBuf, pid: String },
    #[error("cannot {action} {path}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

impl DataDir {
    /// Creates the folder where it is missing, closed to other users, and locks it.
    ///
    /// # Errors
    /// Names the process that holds the folder, or the file and what could not be done to it.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| DataDirError::Io { action, path, source }
        };
        create_private_dir(path).map_err(failed("create", path))?;
        let lock_path = path.join("lock");
        let lock = private_file_options()
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(failed("open", &lock_path))?;
        // The number stands in a file of its own: on Windows nobody can read a locked one.
        let pid_path = path.join("agent.pid");
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let pid = read_bounded(&pid_path, 32).unwrap_or_default();
                let pid = String::from_utf8_lossy(&pid).trim().to_owned();
                let pid = if pid.is_empty() { "unknown".to_owned() } else { pid };
                return Err(DataDirError::InUse { path: path.to_owned(), pid });
            }
            Err(fs::TryLockError::Error(source)) => return Err(failed("lock", &lock_path)(source)),
        }
        replace_file(&pid_path, std::process::id().to_string().as_bytes())
            .map_err(failed("write", &pid_path))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file or folder inside.
    pub fn join(&self, inside: impl AsRef<Path>) -> PathBuf {
        self.path.join(inside)
    }
}

/// Creates a folder, and its parents, that only this user may enter, under durable names. One that exists is left as
/// it is, but refused when other users may write into it: they could swap key or allow-list.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    // On Windows a folder inherits its parent's access list; the installer puts the data
    // directory under %ProgramData%\Postern, which is closed to ordinary users.
    durable::create_private_folders(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        if fs::metadata(path)?.permissions().mode() & 0o022 != 0 {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("other users may write into it: run 'chmod go-w {}'", path.display()),
            ));
        }
    }
    Ok(())
}

/// Replaces a file, readable by this user only, so that after a crash at any point either the
/// old or the new content is there, whole.
pub fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or_else(|| io::Error::other("a file needs a folder"))?;
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    let mut file = private_file_options().create(true).truncate(true).open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&draft, path)?;
    sync_folder(folder)
}

/// Makes renames and removals in a folder durable.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    // Windows has no such call and needs none: NTFS journals its metadata.
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

/// Reads a whole file of at most `bytes_max`; a longer one is an error, not a short read.
pub fn read_bounded(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut content)?;
    if content.len() as u64 > bytes_max {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is larger than {bytes_max} bytes"),
        ));
    }
    Ok(content)
}

/// Opens for reading and writing; a file created this way is readable by this user only.
fn private_file_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_refused_and_told_who_is_in() {
        let folder = tempfile::tempdir().unwrap();
        let first = DataDir::open(folder.path()).unwrap();

        let refused = DataDir::open(folder.path()).unwrap_err().to_string();

        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(first);
        DataDir::open(folder.path()).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_may_read_the_folder_or_its_files() {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("agent");
        let _dir = DataDir::open(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;

        assert_eq!(mode(&path), 0o700);
        for file in ["lock", "agent.pid"] {
            assert_eq!(mode(&path.join(file)), 0o600, "{file}");
        }
    }

    #[test]
    fn a_replaced_file_holds_the_new_content_and_leaves_no_draft() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        replace_file(&path, b"a longer first version").unwrap();
        replace_file(&path, b"second").unwrap();

        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_longer_than_the_bound_is_refused_not_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        replace_file(&path, &[b'x'; 11]).unwrap();

        assert_eq!(read_bounded(&path, 11).unwrap().len(), 11);
        assert_eq!(read_bounded(&path, 10).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
