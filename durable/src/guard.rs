//! A small file that remembers how far a database had come.
//!
//! sled opens a damaged file silently with a shorter prefix of what was written. Whoever must not
//! forget (a Raft vote!) keeps the newest state's outline here as well and compares at start:
//! a database *below* its guard has lost acknowledged records.
//!
//! ```text
//!   slot 0 (4 KiB)   crc32 ‖ seq ‖ length ‖ JSON      written alternately, each write followed by
//!   slot 1 (4 KiB)   crc32 ‖ seq ‖ length ‖ JSON      fdatasync: one slot is whole at any moment
//! ```

use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    marker::PhantomData,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Serialize, de::DeserializeOwned};

use crate::folders::sync_dir;

/// One disk page on every file system we care about: a torn write spoils one slot only.
const SLOT_BYTES: usize = 4096;
const CRC_BYTES: usize = 4;
const HEAD_BYTES: usize = CRC_BYTES + 8 + 4;

/// Two slots on disk that hold the newest `T`.
#[derive(Debug)]
pub struct Guard<T> {
    path: PathBuf,
    inner: Mutex<Slots>,
    /// Of the newest slot that is durable; read without waiting for a write under way.
    written: AtomicU64,
    _holds: PhantomData<fn(T) -> T>,
}

#[derive(Debug)]
struct Slots {
    file: File,
    seq: u64,
}

/// Why a guard file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// Neither slot is whole: what it guarded cannot be trusted any more.
    #[error("the guard file {} is damaged in both of its slots", path.display())]
    Damaged { path: PathBuf },
    #[error("the guard file {} could not be read or written", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl<T: Serialize + DeserializeOwned> Guard<T> {
    /// Opens the guard and returns what it last held; `None` if it is new.
    ///
    /// A new guard is created whole and durable before this returns, so a missing file always
    /// means that somebody removed it. Blocks for a few disk writes.
    pub fn open(path: impl AsRef<Path>) -> Result<(Self, Option<T>), GuardError> {
        let path = path.as_ref().to_path_buf();
        let io = |source| GuardError::Io { path: path.clone(), source };
        if !path.try_exists().map_err(io)? {
            create(&path).map_err(io)?;
        }
        let mut file = File::options().read(true).write(true).open(&path).map_err(io)?;
        let mut bytes = Vec::new();
        Read::by_ref(&mut file).take(2 * SLOT_BYTES as u64).read_to_end(&mut bytes).map_err(io)?;
        let newest = bytes.chunks(SLOT_BYTES).filter_map(read_slot::<T>).max_by_key(|(seq, _)| *seq);
        let (seq, held) = newest.ok_or_else(|| GuardError::Damaged { path: path.clone() })?;
        let written = AtomicU64::new(seq);
        Ok((Self { path, inner: Mutex::new(Slots { file, seq }), written, _holds: PhantomData }, held))
    }

    /// Whether a guard file exists at `path`.
    pub fn exists(path: impl AsRef<Path>) -> bool {
        path.as_ref().exists()
    }

    /// Puts `value` on disk; when this returns it survives a power cut. Blocks for one write.
    pub fn write(&self, value: &T) -> io::Result<()> {
        // A panic while the lock was held can only have spoilt the slot not pointed to.
        let mut slots = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let seq = slots.seq + 1;
        let slot = fill_slot(seq, &Some(value))?;
        slots.file.seek(SeekFrom::Start((seq % 2) * SLOT_BYTES as u64))?;
        slots.file.write_all(&slot)?;
        slots.file.sync_data()?;
        slots.seq = seq;
        self.written.store(seq, Ordering::Release);
        Ok(())
    }

    /// How many values were ever written here: it only grows, so a copy put back from an earlier time shows a smaller
    /// number. Never waits for the disk.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Where the guard lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Both slots at once, under another name first: a crash leaves either no guard or a whole one.
fn create(path: &Path) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_os_string();
    fresh.push(".new");
    let mut file = File::create(&fresh)?;
    for seq in 0..2 {
        file.write_all(&fill_slot::<()>(seq, &None)?)?;
    }
    file.sync_all()?;
    drop(file);
    fs::rename(&fresh, path)?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

fn fill_slot<T: Serialize>(seq: u64, value: &Option<T>) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(value)?;
    if HEAD_BYTES + json.len() > SLOT_BYTES {
        let message = format!("{} bytes do not fit into a guard slot of {SLOT_BYTES}", json.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let mut slot = vec![0; CRC_BYTES];
    slot.extend(seq.to_le_bytes());
    slot.extend((json.len() as u32).to_le_bytes());
    slot.extend(json);
    slot.resize(SLOT_BYTES, 0);
    let crc = crc32fast::hash(&slot[CRC_BYTES..]);
    slot[..CRC_BYTES].copy_from_slice(&crc.to_le_bytes());
    Ok(slot)
}

fn read_slot<T: DeserializeOwned>(slot: &[u8]) -> Option<(u64, Option<T>)> {
    let (crc, rest) = slot.split_first_chunk::<CRC_BYTES>()?;
    if slot.len() != SLOT_BYTES || u32::from_le_bytes(*crc) != crc32fast::hash(rest) {
        return None;
    }
    let (seq, rest) = rest.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let json = rest.get(..u32::from_le_bytes(*length) as usize)?;
    Some((u64::from_le_bytes(*seq), serde_json::from_slice(json).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_holds_the_newest_value_across_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("guard");
        let (guard, held) = Guard::<u64>::open(&path).unwrap();
        assert_eq!(held, None);
        for value in 1..=5 {
            let before = guard.written();
            guard.write(&value).unwrap();
            let (again, held) = Guard::<u64>::open(&path).unwrap();
            assert_eq!((held, again.written()), (Some(value), before + 1));
        }
    }

    #[test]
    fn a_write_torn_at_any_byte_leaves_the_value_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("guard");
        let (guard, _) = Guard::<String>::open(&path).unwrap();
        guard.write(&"first".into()).unwrap();
        guard.write(&"second".into()).unwrap();
        let before = fs::read(&path).unwrap();
        guard.write(&"third".into()).unwrap();
        let after = fs::read(&path).unwrap();
        let slot = SLOT_BYTES; // where the third value went

        for cut in 0..SLOT_BYTES {
            let mut torn = before.clone();
            torn[slot..slot + cut].copy_from_slice(&after[slot..slot + cut]);
            fs::write(&path, &torn).unwrap();
            let held = Guard::<String>::open(&path).unwrap().1.unwrap();
            assert!(held == "second" || torn == after, "cut at {cut}: {held}");
        }
    }

    #[test]
    fn two_spoilt_slots_are_refused_and_not_taken_for_a_new_guard() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("guard");
        for content in [vec![], vec![0; 2 * SLOT_BYTES], vec![7; 100]] {
            fs::write(&path, content).unwrap();
            assert!(matches!(Guard::<u64>::open(&path), Err(GuardError::Damaged { .. })));
        }
    }

    #[test]
    fn a_value_too_large_for_a_slot_is_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("guard");
        let (guard, _) = Guard::<String>::open(&path).unwrap();
        guard.write(&"kept".into()).unwrap();
        assert!(guard.write(&"x".repeat(SLOT_BYTES)).is_err());
        assert_eq!(Guard::<String>::open(&path).unwrap().1.as_deref(), Some("kept"));
    }
}
