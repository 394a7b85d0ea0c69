//! What reached the disk, and what a loss of power forgets.
//!
//! ```text
//!   write ──► unsynced, by inode ──── fsync of the file ──► durable
//!   create, rename, remove ────────── fsync of the folder ──► its names are durable
//! ```
//!
//! Files below a watched folder are real ones; what is written to them and not synced yet is remembered here, and so
//! is what each folder held when it was last synced, so that both can be taken back. Syncing costs nothing: how
//! long a disk takes is for the simulated clock to say.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::{OsString, c_int},
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::dice::Dice;

/// A host's disk.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
    /// Holds on to what a folder held when it was synced, by hard links.
    kept: PathBuf,
    kept_files: AtomicU64,
    /// Refuses what is written and synced.
    failing: AtomicBool,
    /// By inode.
    unsynced: Mutex<HashMap<u64, Vec<Written>>>,
    /// What each folder held when it was synced last.
    names: Mutex<BTreeMap<PathBuf, Names>>,
}

/// A write that no sync has followed, and what was there before.
#[derive(Debug, Clone)]
struct Written {
    at: u64,
    before: Vec<u8>,
    file_bytes: u64,
    after: Vec<u8>,
}

type Names = BTreeMap<OsString, Name>;

#[derive(Debug, Clone)]
enum Name {
    Folder,
    /// `held`: another name of the same file.
    File {
        inode: u64,
        held: PathBuf,
    },
}

static DISKS: Mutex<Vec<(PathBuf, Arc<Disk>)>> = Mutex::new(Vec::new());
/// By descriptor.
static FILES: Mutex<Option<HashMap<c_int, Watched>>> = Mutex::new(None);

/// Whose disk a file is on; `None`: it is none of ours.
type Watched = Option<Arc<Disk>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Watches what is written below `folder` from now on. What is there already is durable.
pub(crate) fn watch_disk(folder: &Path) -> io::Result<Arc<Disk>> {
    let mut kept = folder.as_os_str().to_owned();
    kept.push(".kept");
    fs::create_dir_all(folder)?;
    fs::create_dir_all(&kept)?;
    let disk = Arc::new(Disk {
        folder: folder.to_owned(),
        kept: kept.into(),
        kept_files: AtomicU64::default(),
        failing: AtomicBool::default(),
        unsynced: Mutex::default(),
        names: Mutex::default(),
    });
    for folder in folders(folder)? {
        disk.keep_names(&folder)?;
    }
    lock(&DISKS).push((folder.to_owned(), disk.clone()));
    Ok(disk)
}

impl Disk {
    pub(crate) fn set_failing(&self, failing: bool) {
        self.failing.store(failing, Ordering::Relaxed);
    }

    /// In `copy`, a copy of the disk. Of each file a prefix of what was not synced stays, the write after it is
    /// torn, and the rest was never there; of each folder what was done to its names since it was synced stays, or
    /// none of it.
    pub(crate) fn lose_power(&self, copy: &Path, dice: &mut Dice) -> io::Result<()> {
        let folders = folders(&self.folder)?;
        let unsynced = lock(&self.unsynced).clone();
        for folder in &folders {
            for (name, about) in entries(folder)? {
                let Some(writes) = unsynced.get(&about.ino()).filter(|_| about.is_file()) else { continue };
                forget_writes(&self.in_copy(folder, copy).join(name), writes, dice)?;
            }
        }
        for folder in folders {
            if dice.chance(0.5) {
                self.forget_names(&folder, copy)?;
            }
        }
        Ok(())
    }

    fn in_copy(&self, path: &Path, copy: &Path) -> PathBuf {
        path.strip_prefix(&self.folder).map_or_else(|_| copy.to_owned(), |inside| copy.join(inside))
    }

    fn forget_names(&self, folder: &Path, copy: &Path) -> io::Result<()> {
        let to = self.in_copy(folder, copy);
        // Its own name may be gone.
        if !to.exists() {
            return Ok(());
        }
        let durable = lock(&self.names).get(folder).cloned().unwrap_or_default();
        let now: BTreeMap<_, _> = entries(folder)?.into_iter().collect();
        for (name, about) in &now {
            let same = match durable.get(name) {
                Some(Name::Folder) => about.is_dir(),
                Some(Name::File { inode, .. }) => about.ino() == *inode,
                None => false,
            };
            if !same && about.is_dir() {
                unless_gone(fs::remove_dir_all(to.join(name)))?;
            } else if !same {
                unless_gone(fs::remove_file(to.join(name)))?;
            }
        }
        for (name, was) in durable {
            match was {
                Name::Folder => fs::create_dir_all(to.join(name))?,
                Name::File { held, .. } => {
                    if !to.join(&name).exists() {
                        fs::copy(held, to.join(name))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// What `folder` holds is durable.
    fn keep_names(&self, folder: &Path) -> io::Result<()> {
        let mut names = Names::new();
        for (name, about) in entries(folder)? {
            let kept = if about.is_dir() {
                Name::Folder
            } else {
                let held = self.kept.join(self.kept_files.fetch_add(1, Ordering::Relaxed).to_string());
                let Some(()) = unless_gone(fs::hard_link(folder.join(&name), &held))? else { continue };
                Name::File { inode: about.ino(), held }
            };
            names.insert(name, kept);
        }
        let before = lock(&self.names).insert(folder.to_owned(), names);
        for name in before.into_iter().flatten() {
            if let (_, Name::File { held, .. }) = name {
                fs::remove_file(held)?;
            }
        }
        Ok(())
    }
}

fn forget_writes(file: &Path, writes: &[Written], dice: &mut Dice) -> io::Result<()> {
    let Some(file) = unless_gone(File::options().write(true).open(file))? else { return Ok(()) };
    let kept = dice.below(writes.len() as u64 + 1) as usize;
    for written in writes[kept..].iter().rev() {
        file.write_all_at(&written.before, written.at)?;
        file.set_len(written.file_bytes)?;
    }
    if let Some(torn) = writes.get(kept) {
        let bytes = dice.below(torn.after.len() as u64 + 1) as usize;
        file.write_all_at(&torn.after[..bytes], torn.at)?;
    }
    Ok(())
}

/// `folder` and all below it, each before what it holds.
fn folders(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![folder.to_owned()];
    let mut place = 0;
    while let Some(folder) = found.get(place).cloned() {
        let inside = entries(&folder)?.into_iter().filter(|(_, about)| about.is_dir());
        found.extend(inside.map(|(name, _)| folder.join(name)));
        place += 1;
    }
    Ok(found)
}

/// sled's threads remove files when they like, and a folder's copy is not made in one moment.
fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// By name, so that a seed finds them in the same order.
fn entries(folder: &Path) -> io::Result<Vec<(OsString, fs::Metadata)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        found.extend(unless_gone(entry.metadata())?.map(|about| (entry.file_name(), about)));
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(found)
}

/// Nobody is interested in what is below `folder` any more.
pub(crate) fn forget_disk(folder: &Path) {
    lock(&DISKS).retain(|(watched, disk)| {
        if watched == folder {
            let _ = fs::remove_dir_all(&disk.kept);
        }
        watched != folder
    });
}

pub(super) fn closed(fd: c_int) {
    if let Some(files) = lock(&FILES).as_mut() {
        files.remove(&fd);
    }
}

fn disk_of(fd: c_int) -> Watched {
    let mut files = lock(&FILES);
    let files = files.get_or_insert_default();
    files
        .entry(fd)
        .or_insert_with(|| {
            let path = fs::read_link(own(fd)).ok()?;
            let disks = lock(&DISKS);
            // The newest first: a host that came back has its folder anew.
            let (_, disk) = disks.iter().rev().find(|(folder, _)| path.starts_with(folder))?;
            Some(disk.clone())
        })
        .clone()
}

/// The file that a descriptor stands for, whatever it is called by now.
fn own(fd: c_int) -> PathBuf {
    format!("/proc/self/fd/{fd}").into()
}

/// `None`: let the kernel do it.
pub(super) fn write(fd: c_int, bytes: &[u8], at: Option<u64>) -> Option<Result<usize, c_int>> {
    if fd <= 2 || lock(&DISKS).is_empty() {
        return None;
    }
    let disk = disk_of(fd)?;
    if disk.failing.load(Ordering::Relaxed) {
        return Some(Err(libc::ENOSPC));
    }
    let at = match at {
        Some(at) => at,
        None => position(fd)?,
    };
    let file = File::open(own(fd)).ok()?;
    let about = file.metadata().ok()?;
    let file_bytes = about.len();
    let overwritten = file_bytes.saturating_sub(at).min(bytes.len() as u64);
    let mut before = vec![0; overwritten as usize];
    file.read_exact_at(&mut before, at).ok()?;
    let mut unsynced = lock(&disk.unsynced);
    let writes = unsynced.entry(about.ino()).or_default();
    if file_bytes == 0 {
        // A new file; its number may have been another's.
        writes.clear();
    }
    writes.push(Written { at, before, file_bytes, after: bytes.to_vec() });
    None
}

/// Where the next `write` goes.
fn position(fd: c_int) -> Option<u64> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("pos:"))?;
    line.trim().parse().ok()
}

/// `None`: not a file of ours.
pub(super) fn sync(fd: c_int) -> Option<Result<usize, c_int>> {
    if lock(&DISKS).is_empty() {
        return None;
    }
    let disk = disk_of(fd)?;
    if disk.failing.load(Ordering::Relaxed) {
        return Some(Err(libc::EIO));
    }
    let about = fs::metadata(own(fd)).ok()?;
    if about.is_dir() {
        let kept = fs::read_link(own(fd)).and_then(|folder| disk.keep_names(&folder));
        return Some(kept.map(|()| 0).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO)));
    }
    lock(&disk.unsynced).remove(&about.ino());
    Some(Ok(0))
}

#[cfg(test)]
mod tests {
    use durable::Durable;

    use super::*;
    use crate::world::copy_folder;

    #[test]
    fn what_a_database_acknowledged_is_there_after_a_loss_of_power() {
        for seed in 0..40 {
            let mut dice = Dice::new(seed);
            let folder = tempfile::tempdir().unwrap();
            let (before, after) = (folder.path().join("before"), folder.path().join("after"));
            let disk = watch_disk(&before).unwrap();
            // Neither folder was there before.
            let db = Durable::open(before.join("raft/db")).unwrap();
            let tree = db.tree("t").unwrap();
            let mut acknowledged = 0;
            // None at all, too: then it has to open.
            for record in 0..dice.below(4) * 8 {
                tree.insert(record.to_be_bytes(), content(record, &mut dice)).unwrap();
                if dice.chance(0.3) {
                    db.sync_blocking().unwrap();
                    acknowledged = record + 1;
                }
            }
            // What is on its way to the disk when the power goes.
            tree.flush().unwrap();
            copy_folder(&before, &after).unwrap();
            disk.lose_power(&after, &mut dice).unwrap();
            forget_disk(&before);

            let found = Durable::open(after.join("raft/db"));
            let tree = found.unwrap_or_else(|error| panic!("seed {seed}: {error}")).tree("t").unwrap();
            for record in 0..acknowledged {
                let value = tree.get(record.to_be_bytes()).unwrap();
                let value =
                    value.unwrap_or_else(|| panic!("seed {seed}: {record} of {acknowledged} is gone"));
                assert!(value.iter().all(|byte| *byte == record as u8), "seed {seed}: {record} differs");
            }
        }
    }

    #[test]
    fn a_name_is_durable_when_its_folder_is_synced_and_not_before() {
        let outcomes: Vec<_> = (0..60).map(after_a_rename_and_a_creation).collect();
        for (renamed, new) in &outcomes {
            assert!(
                ["old", "new"].contains(&renamed.as_str()),
                "synced content under a name, whichever: {renamed}"
            );
            assert!(new.as_ref().is_none_or(|content| "whole".starts_with(content)), "{new:?}");
        }
        for wanted in [("old", false), ("new", true)] {
            assert!(outcomes.iter().any(|(renamed, new)| (renamed.as_str(), new.is_some()) == wanted));
        }
        assert!(
            outcomes
                .iter()
                .any(|(_, new)| new.as_ref().is_some_and(|content| (1..5).contains(&content.len()))),
            "a file is torn under its new name too"
        );
    }

    /// What is in a file that was replaced, and in one that was made under another name, without a sync of their folder.
    fn after_a_rename_and_a_creation(seed: u64) -> (String, Option<String>) {
        let folder = tempfile::tempdir().unwrap();
        let (before, after) = (folder.path().join("before"), folder.path().join("after"));
        fs::create_dir(&before).unwrap();
        fs::write(before.join("file"), "old").unwrap();
        let disk = watch_disk(&before).unwrap();
        let replacement = before.join("file.new");
        fs::write(&replacement, "new").unwrap();
        File::open(&replacement).unwrap().sync_all().unwrap();
        fs::rename(&replacement, before.join("file")).unwrap();
        fs::write(before.join("created.new"), "whole").unwrap();
        fs::rename(before.join("created.new"), before.join("created")).unwrap();
        copy_folder(&before, &after).unwrap();
        disk.lose_power(&after, &mut Dice::new(seed)).unwrap();
        forget_disk(&before);
        assert!(!after.join("file.new").exists() || !after.join("created").exists());
        (fs::read_to_string(after.join("file")).unwrap(), fs::read_to_string(after.join("created")).ok())
    }

    /// Small ones, and some that do not fit into the database's log.
    fn content(record: u64, dice: &mut Dice) -> Vec<u8> {
        let bytes = if dice.chance(0.2) { 300_000 } else { dice.below(2000) };
        vec![record as u8; bytes as usize]
    }
}
