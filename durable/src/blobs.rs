//! Values too large for sled's log (some 128 KiB) lie in files of their own below `blobs`, which sled never syncs.
//!
//! Their pointers in the log are durable with the log; without this, the value itself would be left to chance.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use crate::folders::sync_dir;

/// The files of one database, and how much of each the disk has.
pub(crate) struct Blobs {
    folder: PathBuf,
    synced: Mutex<HashMap<OsString, u64>>,
}

impl Blobs {
    /// Those of the database in the directory `path`.
    pub(crate) fn of(path: &Path) -> Self {
        Self { folder: path.join("blobs"), synced: Mutex::default() }
    }

    /// Returns once the disk has every file that was complete when this began.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        let mut present = HashMap::new();
        let mut news = false;
        for entry in entries {
            let entry = entry?;
            // A file is written once, by whoever inserts; one still growing is not yet asked for and comes again.
            let Some(bytes) = unless_gone(entry.metadata())?.map(|about| about.len()) else { continue };
            if synced.get(&entry.file_name()) != Some(&bytes) {
                let file = File::options().read(true).write(true).open(entry.path());
                let Some(file) = unless_gone(file)? else { continue };
                file.sync_all()?;
                news = true;
            }
            present.insert(entry.file_name(), bytes);
        }
        if news {
            sync_dir(&self.folder)?;
        }
        *synced = present;
        Ok(())
    }
}

/// sled removes values that nothing points to any more, at any moment.
fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_value_lies_in_a_file_and_is_synced_once() {
        let folder = tempfile::tempdir().unwrap();
        let db = crate::open::open(folder.path()).unwrap();
        let blobs = Blobs::of(folder.path());
        db.insert("large", vec![1; 300_000]).unwrap();
        blobs.sync().unwrap();
        let synced = blobs.synced.lock().unwrap().clone();
        assert_eq!(synced.len(), 1, "sled keeps large values elsewhere now: see to them there");
        assert!(synced.values().all(|bytes| *bytes > 300_000));
        blobs.sync().unwrap();
        assert_eq!(*blobs.synced.lock().unwrap(), synced);
    }

    #[test]
    fn a_database_without_large_values_has_nothing_to_sync() {
        Blobs::of(Path::new("/nowhere")).sync().unwrap();
    }
}
