//! Opens a database, repairing what a crash may leave behind, and says clearly what it cannot.
//!
//! ```text
//!   create its folders ──► remove snap.*.generating ──► mend conf ──► open ──► read everything ──► fsync files, folder
//!                                                                       │ damaged: move snap.* aside, once more ──► Damaged
//!                                                                       │ locked: again for 2 s ──► InUse
//! ```
//!
//! sled's `snap.*` files are a cache of what the log holds; an empty or partial one makes it
//! refuse to open for ever, and without it the database opens with all of its data. Its `conf` is written once and
//! never synced: a loss of power soon after left a part of it, and the same refusal. It holds parameters that are the
//! same in all our databases, so it is written anew.

use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    blobs::Blobs,
    folders::{create_folders, sync_dir},
};

/// How long another holder of the lock may take to let go. sled releases it asynchronously,
/// so our own process' last handle may be the holder.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(25);

/// Memory for cached pages; our records are small and few are read twice.
const CACHE_BYTES: u64 = 16 << 20;

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds it.
    #[error(
        "the database {} is in use by another process; stop that process, or give this one a data directory of its own",
        path.display()
    )]
    InUse { path: PathBuf },
    /// Its files are damaged beyond repair. [`quarantine`] moves them out of the way.
    #[error("the database {} is damaged: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    /// The file system refused.
    #[error("the database {} could not be opened; check that the disk has space and the files belong to this user", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Opens the sled database in the directory `path`, whole and durable.
pub(crate) fn open(path: &Path) -> Result<sled::Db, OpenError> {
    let io = |source| OpenError::Io { path: path.to_path_buf(), source };
    create_folders(path).map_err(io)?;
    remove_unfinished_snapshots(path).map_err(io)?;
    mend_conf(path)?;
    let db = match open_patiently(path)? {
        Ok(db) => db,
        Err(reason) => {
            tracing::warn!(path = %path.display(), reason, "The database did not open; trying without its snapshot cache");
            move_snapshots_aside(path).map_err(io)?;
            open_patiently(path)?.map_err(|reason| OpenError::Damaged { path: path.to_path_buf(), reason })?
        }
    };
    sync_file(&path.join("conf")).map_err(io)?;
    sync_file(&path.join("db")).map_err(io)?;
    Blobs::of(path).sync().map_err(io)?;
    sync_dir(path).map_err(io)?;
    Ok(db)
}

/// One attempt, waiting for the lock. The inner `Err` says in words what is damaged.
fn open_patiently(path: &Path) -> Result<Result<sled::Db, String>, OpenError> {
    let give_up_at = Instant::now() + LOCK_PATIENCE;
    loop {
        // sled asserts where it should refuse: a panic here is damage, not a bug of ours.
        let attempt = catch_unwind(AssertUnwindSafe(|| open_and_read(path)));
        match attempt {
            Ok(Ok(db)) => return Ok(Ok(db)),
            Ok(Err(sled::Error::Io(error))) if is_lock(&error) => {
                if Instant::now() >= give_up_at {
                    return Err(OpenError::InUse { path: path.to_path_buf() });
                }
                thread::sleep(LOCK_RETRY);
            }
            Ok(Err(sled::Error::Io(error))) if !is_content(&error) => {
                return Err(OpenError::Io { path: path.to_path_buf(), source: error });
            }
            Ok(Err(error)) => return Ok(Err(error.to_string())),
            Err(panic) => return Ok(Err(panic_text(&*panic))),
        }
    }
}

/// Opens and reads every record once, so that damage in the middle shows now and not as a
/// panic while serving.
fn open_and_read(path: &Path) -> sled::Result<sled::Db> {
    let db = config(path).open()?;
    for name in db.tree_names() {
        for record in &db.open_tree(name)? {
            record?;
        }
    }
    Ok(db)
}

fn config(path: &Path) -> sled::Config {
    sled::Config::new().path(path).flush_every_ms(None).mode(sled::Mode::LowSpace).cache_capacity(CACHE_BYTES)
}

/// Writes a torn `conf` anew, as an empty database next to it gets it.
fn mend_conf(path: &Path) -> Result<(), OpenError> {
    let io = |source| OpenError::Io { path: path.to_path_buf(), source };
    let conf = path.join("conf");
    match fs::read(&conf) {
        Ok(bytes) if is_whole(&bytes) => return Ok(()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
    }
    tracing::warn!(path = %conf.display(), "A part of the database's parameters was lost with the power; writing them anew");
    let model = path.join("conf.model");
    remove_dir_if_there(&model).map_err(io)?;
    let damaged =
        |error: sled::Error| OpenError::Damaged { path: path.to_path_buf(), reason: error.to_string() };
    drop(config(&model).open().map_err(damaged)?);
    let new = path.join("conf.new");
    fs::copy(model.join("conf"), &new).map_err(io)?;
    sync_file(&new).map_err(io)?;
    fs::rename(&new, &conf).map_err(io)?;
    remove_dir_if_there(&model).map_err(io)
}

/// sled's own checksum: CRC32 of what comes before, at the end, little-endian.
fn is_whole(conf: &[u8]) -> bool {
    let Some((parameters, crc)) = conf.split_last_chunk::<4>() else { return false };
    !parameters.is_empty() && u32::from_le_bytes(*crc) == crc32fast::hash(parameters)
}

fn remove_dir_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn is_lock(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.to_string().contains("could not acquire lock")
}

/// Errors that speak of what the file holds, not of the file system around it.
fn is_content(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    matches!(error.kind(), InvalidData | InvalidInput | Other | UnexpectedEof)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".into())
}

fn snapshots(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn remove_unfinished_snapshots(path: &Path) -> io::Result<()> {
    for file in snapshots(path)? {
        let unfinished = file.extension().is_some_and(|e| e == "generating");
        if unfinished || fs::metadata(&file)?.len() == 0 {
            fs::remove_file(&file)?;
        }
    }
    Ok(())
}

fn move_snapshots_aside(path: &Path) -> io::Result<()> {
    for file in snapshots(path)? {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        fs::rename(&file, path.join(format!("aside.{name}")))?;
    }
    Ok(())
}

/// Moves a damaged database out of the way and returns where it is kept for inspection.
///
/// Nothing may hold the database open any more; a holder that is just letting go is waited for.
pub fn quarantine(path: impl AsRef<Path>) -> io::Result<PathBuf> {
    let path = path.as_ref();
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let aside = (0u32..)
        .map(|n| path.with_file_name(format!("{name}.damaged-{seconds}-{n}")))
        .find(|candidate| !candidate.exists())
        .unwrap_or_else(|| path.with_extension("damaged"));
    let give_up_at = Instant::now() + LOCK_PATIENCE;
    loop {
        match fs::rename(path, &aside) {
            Ok(()) => break,
            // Windows renames no directory in which a file is still open.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && Instant::now() < give_up_at => {
                thread::sleep(LOCK_RETRY);
            }
            Err(error) => return Err(error),
        }
    }
    sync_dir(path.parent().unwrap_or(Path::new(".")))?;
    Ok(aside)
}

fn sync_file(path: &Path) -> io::Result<()> {
    fs::File::options().read(true).write(true).open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_or_empty_snapshot_costs_nothing() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path());
        fs::write(dir.path().join("snap.FFFFFFFFFFFFFFFF.generating"), b"").unwrap();
        fs::write(dir.path().join("snap.FFFFFFFFFFFFFFFE"), b"").unwrap();
        assert_eq!(open(dir.path()).unwrap().get("k").unwrap().unwrap(), "v");
    }

    #[test]
    fn a_half_written_snapshot_is_moved_aside_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path());
        fs::write(dir.path().join("snap.FFFFFFFFFFFFFFFE"), b"half a snapshot").unwrap();
        assert_eq!(open(dir.path()).unwrap().get("k").unwrap().unwrap(), "v");
        assert!(dir.path().join("aside.snap.FFFFFFFFFFFFFFFE").exists());
    }

    #[test]
    fn torn_parameters_cost_nothing() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path());
        let conf = dir.path().join("conf");
        let whole = fs::read(&conf).unwrap();
        for bytes in 0..=whole.len() {
            fs::write(&conf, &whole[..bytes]).unwrap();
            let db = open(dir.path()).unwrap_or_else(|error| panic!("{bytes} bytes: {error}"));
            assert_eq!(db.get("k").unwrap().unwrap(), "v", "{bytes} bytes");
            drop(db);
            assert_eq!(fs::read(&conf).unwrap(), whole);
            assert!(!dir.path().join("conf.model").exists());
        }
    }

    #[test]
    fn a_database_in_use_is_named_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let holder = open(dir.path()).unwrap();
        let error = open(dir.path()).unwrap_err();
        assert!(matches!(&error, OpenError::InUse { path } if path == dir.path()), "{error}");
        drop(holder);
        open(dir.path()).unwrap();
    }

    #[test]
    fn a_file_that_is_no_database_is_damaged_and_can_be_quarantined() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("raft");
        written(&path);
        // With a checksum that holds, so it is not a torn one.
        let foreign = b"this is no configuration of a database";
        let crc = crc32fast::hash(foreign).to_le_bytes();
        fs::write(path.join("conf"), [&foreign[..], &crc].concat()).unwrap();
        let refused = open(&path);
        assert!(matches!(refused, Err(OpenError::Damaged { .. })), "{refused:?}");
        let aside = quarantine(&path).unwrap();
        assert!(aside.join("db").exists());
        assert!(open(&path).unwrap().is_empty());
    }

    #[test]
    fn a_path_below_a_file_is_an_io_error_and_not_damage() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), b"").unwrap();
        assert!(matches!(open(&dir.path().join("file/db")), Err(OpenError::Io { .. })));
    }

    fn written(path: &Path) {
        let db = open(path).unwrap();
        db.insert("k", "v").unwrap();
        db.flush().unwrap();
    }
}
