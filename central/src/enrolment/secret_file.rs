//! Files that hold a private key: whole or not there, and nobody else's to read.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

/// Creates `folder`, for its owner only, under a durable name.
pub fn create_folder(folder: &Path) -> io::Result<()> {
    durable::create_private_folders(folder)
}

/// Puts `content` into `path`, for its owner only (mode 0600), whole and durable, replacing what was there.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    // The temporary file is created with mode 0600 and keeps it under its new name.
    replace(path, content, |_| Ok(()))
}

/// As [`write`], but for everybody to read.
pub fn write_public(path: &Path, content: &[u8]) -> io::Result<()> {
    replace(path, content, |file| {
        #[cfg(unix)]
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        #[cfg(not(unix))]
        let _ = file;
        Ok(())
    })
}

/// Whether others than the owner may read `path`. Where there are no such modes: no.
pub fn is_open_to_others(path: &Path) -> io::Result<bool> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        Ok(fs::metadata(path)?.mode() & 0o077 != 0)
    }
    #[cfg(not(unix))]
    {
        fs::metadata(path)?;
        Ok(false)
    }
}

/// Whoever owned the file before owns it after, if that is ours to say: root may do on a host what a service's own user has to read.
fn replace(path: &Path, content: &[u8], dress: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(content)?;
    dress(file.as_file())?;
    #[cfg(unix)]
    if let Ok(before) = fs::metadata(path) {
        use std::os::unix::fs::{MetadataExt, fchown};
        let mine = file.as_file().metadata()?;
        if (mine.uid(), mine.gid()) != (before.uid(), before.gid()) {
            // Only root may give a file away; anybody else owns what they write.
            match fchown(file.as_file(), Some(before.uid()), Some(before.gid())) {
                Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
                _ => {}
            }
        }
    }
    file.as_file().sync_all()?;
    file.persist(path)?;
    // The new name must survive a power cut too; elsewhere directories cannot be opened for that.
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_secret_is_its_owners_alone_and_a_public_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write_public(&path, b"old").unwrap();
        assert!(is_open_to_others(&path).unwrap());
        write(&path, b"new").unwrap();
        assert!(!is_open_to_others(&path).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }
}
