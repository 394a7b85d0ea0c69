//! Folders whose names survive a loss of power.
//!
//! ```text
//!   a/b/c, nothing there:   create a, sync its parent ──► create a/b, sync a ──► create a/b/c, sync a/b
//! ```
//!
//! A new folder's name is content of the folder above, and only that one's sync makes it durable: what was synced
//! *inside* a folder whose name is lost is gone as a whole.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Creates `path` and what is missing above it, and makes their names durable, each before anything is created below
/// it. A folder that exists is left as it is; that its name is durable is seen to here too, for whoever made it may have
/// been killed before that.
///
/// # Errors
/// What the system says of the first folder that cannot be created or synced.
pub fn create_folders(path: &Path) -> io::Result<()> {
    create(path, &fs::DirBuilder::new())
}

/// As [`create_folders`], for their owner only (mode 0700). On Windows folders inherit the access list of the one above.
///
/// # Errors
/// As [`create_folders`].
pub fn create_private_folders(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        create(path, fs::DirBuilder::new().mode(0o700))
    }
    #[cfg(not(unix))]
    create(path, &fs::DirBuilder::new())
}

fn create(path: &Path, builder: &fs::DirBuilder) -> io::Result<()> {
    let path = std::path::absolute(path)?;
    let mut missing: Vec<PathBuf> =
        path.ancestors().take_while(|folder| !folder.is_dir()).map(Path::to_path_buf).collect();
    if missing.is_empty() {
        return sync_name(&path);
    }
    while let Some(folder) = missing.pop() {
        match builder.create(&folder) {
            // Somebody else was quicker.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
            result => result?,
        }
        sync_name(&folder)?;
    }
    Ok(())
}

/// Makes a folder's own name durable. The root has none; and a folder above ours that we may not read is for its owner
/// to sync, who made ours.
fn sync_name(folder: &Path) -> io::Result<()> {
    match folder.parent().map_or(Ok(()), sync_dir) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result,
    }
}

/// Makes created, renamed and removed names in `dir` durable.
#[cfg(unix)]
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    fs::File::open(dir)?.sync_all()
}

/// NTFS journals directory entries itself and offers no handle to flush.
#[cfg(not(unix))]
pub(crate) fn sync_dir(_dir: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_created_and_what_is_there_is_left() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b/c");
        create_folders(&path).unwrap();
        fs::write(path.join("file"), "kept").unwrap();
        create_folders(&path).unwrap();
        assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "kept");
    }

    #[test]
    fn a_file_in_the_way_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a"), "").unwrap();
        assert!(create_folders(&root.path().join("a/b")).is_err());
        assert!(create_folders(&root.path().join("a")).is_err());
    }

    #[test]
    #[cfg(unix)]
    fn private_ones_are_closed_to_others_at_each_level() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        create_private_folders(&root.path().join("a/b")).unwrap();
        for folder in ["a", "a/b"] {
            let mode = fs::metadata(root.path().join(folder)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{folder}");
        }
    }
}
