//! What reached the disk, and what a loss of power forgets.
//!
//! Files below a watched folder are real ones; what is written to them and not synced yet is remembered here, so
//! that it can be taken back. Syncing costs nothing: how long a disk takes is for the simulated clock to say.

use std::{
    collections::HashMap,
    ffi::c_int,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::dice::Dice;

/// A host's disk.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// Refuses what is written and synced.
    failing: AtomicBool,
    unsynced: Mutex<HashMap<PathBuf, Vec<Written>>>,
}

/// A write that no sync has followed, and what was there before.
#[derive(Debug, Clone)]
struct Written {
    at: u64,
    before: Vec<u8>,
    file_bytes: u64,
    after: Vec<u8>,
}

static DISKS: Mutex<Vec<(PathBuf, Arc<Disk>)>> = Mutex::new(Vec::new());
/// By descriptor.
static FILES: Mutex<Option<HashMap<c_int, Watched>>> = Mutex::new(None);

/// A file's disk and path; `None`: it is none of ours.
type Watched = Option<(Arc<Disk>, PathBuf)>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Watches what is written below `folder` from now on.
pub(crate) fn watch_disk(folder: &Path) -> Arc<Disk> {
    let disk = Arc::<Disk>::default();
    lock(&DISKS).push((folder.to_owned(), disk.clone()));
    disk
}

impl Disk {
    pub(crate) fn set_failing(&self, failing: bool) {
        self.failing.store(failing, Ordering::Relaxed);
    }

    /// In `copy`, a copy of `folder`: a prefix of what was not synced stays, the write after it is torn, and the
    /// rest was never there.
    pub(crate) fn lose_power(&self, folder: &Path, copy: &Path, dice: &mut Dice) -> io::Result<()> {
        let mut files: Vec<_> = lock(&self.unsynced).clone().into_iter().collect();
        files.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (path, writes) in files {
            let Ok(inside) = path.strip_prefix(folder) else { continue };
            let Ok(file) = File::options().write(true).open(copy.join(inside)) else { continue };
            let kept = dice.below(writes.len() as u64 + 1) as usize;
            for written in writes[kept..].iter().rev() {
                file.write_all_at(&written.before, written.at)?;
                file.set_len(written.file_bytes)?;
            }
            if let Some(torn) = writes.get(kept) {
                let bytes = dice.below(torn.after.len() as u64 + 1) as usize;
                file.write_all_at(&torn.after[..bytes], torn.at)?;
            }
        }
        Ok(())
    }
}

/// Nobody is interested in what is below `folder` any more.
pub(crate) fn forget_disk(folder: &Path) {
    lock(&DISKS).retain(|(watched, _)| watched != folder);
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
            let path = std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
            let disks = lock(&DISKS);
            // The newest first: a host that came back has its folder anew.
            let (_, disk) = disks.iter().rev().find(|(folder, _)| path.starts_with(folder))?;
            Some((disk.clone(), path))
        })
        .clone()
}

/// `None`: let the kernel do it.
pub(super) fn write(fd: c_int, bytes: &[u8], at: Option<u64>) -> Option<Result<usize, c_int>> {
    if fd <= 2 || lock(&DISKS).is_empty() {
        return None;
    }
    let (disk, path) = disk_of(fd)?;
    if disk.failing.load(Ordering::Relaxed) {
        return Some(Err(libc::ENOSPC));
    }
    let at = match at {
        Some(at) => at,
        None => position(fd)?,
    };
    let file = File::open(&path).ok()?;
    let file_bytes = file.metadata().ok()?.len();
    let overwritten = file_bytes.saturating_sub(at).min(bytes.len() as u64);
    let mut before = vec![0; overwritten as usize];
    file.read_exact_at(&mut before, at).ok()?;
    let written = Written { at, before, file_bytes, after: bytes.to_vec() };
    lock(&disk.unsynced).entry(path).or_default().push(written);
    None
}

/// Where the next `write` goes.
fn position(fd: c_int) -> Option<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("pos:"))?;
    line.trim().parse().ok()
}

/// `None`: not a file of ours.
pub(super) fn sync(fd: c_int) -> Option<Result<usize, c_int>> {
    if lock(&DISKS).is_empty() {
        return None;
    }
    let (disk, path) = disk_of(fd)?;
    if disk.failing.load(Ordering::Relaxed) {
        return Some(Err(libc::EIO));
    }
    lock(&disk.unsynced).remove(&path);
    Some(Ok(0))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "panicking is how a test fails")]

    use durable::Durable;

    use super::*;
    use crate::world::copy_folder;

    #[test]
    fn what_a_database_acknowledged_is_there_after_a_loss_of_power() {
        for seed in 0..40 {
            let mut dice = Dice::new(seed);
            let folder = tempfile::tempdir().unwrap();
            let (before, after) = (folder.path().join("before"), folder.path().join("after"));
            let disk = watch_disk(&before);
            let db = Durable::open(before.join("db")).unwrap();
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
            disk.lose_power(&before, &after, &mut dice).unwrap();
            forget_disk(&before);

            let found = Durable::open(after.join("db"));
            let tree = found.unwrap_or_else(|error| panic!("seed {seed}: {error}")).tree("t").unwrap();
            for record in 0..acknowledged {
                let value = tree.get(record.to_be_bytes()).unwrap();
                let value =
                    value.unwrap_or_else(|| panic!("seed {seed}: {record} of {acknowledged} is gone"));
                assert!(value.iter().all(|byte| *byte == record as u8), "seed {seed}: {record} differs");
            }
        }
    }

    /// Small ones, and some that do not fit into the database's log.
    fn content(record: u64, dice: &mut Dice) -> Vec<u8> {
        let bytes = if dice.chance(0.2) { 300_000 } else { dice.below(2000) };
        vec![record as u8; bytes as usize]
    }
}
