//! One thread acknowledges everything, after the disk has it.
//!
//! Writers put records into trees (readable at once) and then ask for an acknowledgement. The
//! thread drains its queue, flushes and `fdatasync`s once, writes the guards concerned, and gives
//! that one result to all of them, in the order they asked. After the first error nothing is ever
//! acknowledged again: a kernel that failed an fsync may have dropped the pages, so trying again
//! would acknowledge what is gone.

use std::{
    collections::HashMap,
    fs::File,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{self, Receiver},
    },
};

use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{oneshot, watch};

use crate::{
    Guard,
    blobs::Blobs,
    open::{OpenError, open},
    runner::Jobs,
};

/// How many requests share one flush at most, so that the first of them does not wait for ever.
const BATCH_MAX: usize = 4096;

/// An open database. Clones share it; it closes when the last of them is gone.
#[derive(Clone)]
pub struct Durable {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    db: sled::Db,
    jobs: Jobs,
    failed: watch::Receiver<Option<Failure>>,
}

/// What went wrong first. From then on nothing is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("storage failed: {what}; nothing is acknowledged any more until a restart")]
pub struct Failure {
    what: String,
    kind: io::ErrorKind,
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        Self::new(failure.kind, failure)
    }
}

type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

pub(crate) struct Job {
    guard: Option<GuardWrite>,
    done: Done,
}

/// A guard's next value, to be written once everything before it is durable.
struct GuardWrite {
    /// Tells guards apart: of several writes to one guard in a batch only the last is made.
    identity: usize,
    write: Box<dyn FnOnce() -> io::Result<()> + Send>,
}

impl Durable {
    /// Opens, or creates, the database in the directory `path`.
    ///
    /// Blocks: reads everything once, syncs, and waits up to 2 s for a lock to be released.
    ///
    /// # Errors
    /// [`OpenError`] says whether somebody else has it, its files are damaged, or the file
    /// system refused.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref().to_path_buf();
        let db = open(&path)?;
        let io = |source| OpenError::Io { path: path.clone(), source };
        let file = File::options().read(true).write(true).open(path.join("db")).map_err(io)?;
        let (report, failed) = watch::channel(None);
        let jobs =
            Jobs::start(Writer { db: db.clone(), file, blobs: Blobs::of(&path), report }).map_err(io)?;
        Ok(Self { inner: Arc::new(Inner { path, db, jobs, failed }) })
    }

    /// The tree called `name`, created if new.
    pub fn tree(&self, name: &str) -> io::Result<sled::Tree> {
        self.inner.db.open_tree(name).map_err(io::Error::from)
    }

    /// The names of all trees.
    pub fn tree_names(&self) -> Vec<String> {
        let names = self.inner.db.tree_names();
        names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    /// Removes the tree called `name` with all its records; nothing happens if there is none.
    pub fn remove_tree(&self, name: &str) -> io::Result<()> {
        self.inner.db.drop_tree(name).map(drop).map_err(io::Error::from)
    }

    /// Waits until everything written so far survives a power cut.
    ///
    /// Dropping the future gives up waiting; the sync itself is still made.
    pub async fn sync(&self) -> io::Result<()> {
        let (tell, told) = oneshot::channel();
        self.sync_then(move |result| {
            let _ = tell.send(result);
        });
        told.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// As [`Durable::sync`], for threads without a runtime.
    pub fn sync_blocking(&self) -> io::Result<()> {
        let (tell, told) = mpsc::channel();
        self.sync_then(move |result| {
            let _ = tell.send(result);
        });
        told.recv().unwrap_or_else(|_| Err(stopped()))
    }

    /// Calls `done` once everything written so far survives a power cut, or with the error.
    ///
    /// `done` runs on the I/O thread: it must be brief and must not wait for this database.
    pub fn sync_then(&self, done: impl FnOnce(io::Result<()>) + Send + 'static) {
        self.send(Job { guard: None, done: Box::new(done) });
    }

    /// As [`Durable::sync_then`], and puts `value` into `guard` between sync and `done`.
    ///
    /// Values for one guard that share a sync are written once, the last of them: `value` must
    /// describe everything written before this call.
    pub fn sync_guarded<T>(
        &self,
        guard: &Arc<Guard<T>>,
        value: T,
        done: impl FnOnce(io::Result<()>) + Send + 'static,
    ) where
        T: Serialize + DeserializeOwned + Send + 'static,
    {
        let guard = guard.clone();
        let identity = Arc::as_ptr(&guard).addr();
        let write = Box::new(move || guard.write(&value));
        self.send(Job { guard: Some(GuardWrite { identity, write }), done: Box::new(done) });
    }

    /// `Some` from the first storage error on. Whoever relies on this database must stop then.
    pub fn failed(&self) -> watch::Receiver<Option<Failure>> {
        self.inner.failed.clone()
    }

    /// The database's directory.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    fn send(&self, job: Job) {
        if let Err(job) = self.inner.jobs.send(job) {
            (job.done)(Err(stopped()));
        }
    }
}

impl std::fmt::Debug for Durable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Durable").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

fn stopped() -> io::Error {
    io::Error::other("the database's I/O thread has stopped")
}

/// The I/O thread. It ends when the last [`Durable`] is gone and its queue is drained.
pub(crate) struct Writer {
    db: sled::Db,
    file: File,
    blobs: Blobs,
    report: watch::Sender<Option<Failure>>,
}

impl Writer {
    pub(crate) fn run(self, queue: &Receiver<Job>) {
        while let Ok(first) = queue.recv() {
            let mut batch = vec![first];
            batch.extend(queue.try_iter().take(BATCH_MAX - 1));
            self.settle(batch);
        }
    }

    pub(crate) fn settle(&self, batch: Vec<Job>) {
        let mut guards = HashMap::new();
        let mut waiting = Vec::with_capacity(batch.len());
        for job in batch {
            if let Some(guard) = job.guard {
                guards.insert(guard.identity, guard.write); // the last one wins
            }
            waiting.push(job.done);
        }
        let result = self.make_durable(guards);
        for done in waiting {
            let result = result.clone().map_err(io::Error::from);
            if catch_unwind(AssertUnwindSafe(|| done(result))).is_err() {
                tracing::error!("A storage acknowledgement panicked");
            }
        }
    }

    fn make_durable(
        &self,
        guards: HashMap<usize, Box<dyn FnOnce() -> io::Result<()> + Send>>,
    ) -> Result<(), Failure> {
        if let Some(failure) = &*self.report.borrow() {
            return Err(failure.clone());
        }
        // sled panics on some I/O errors; that is a failed disk like any other.
        let attempt = catch_unwind(AssertUnwindSafe(|| {
            self.db.flush().map_err(io::Error::from)?;
            self.blobs.sync()?; // before the log that points to them
            self.file.sync_data()?;
            guards.into_values().try_for_each(|write| write())
        }));
        let error = match attempt {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => io::Error::other("the database panicked while flushing"),
        };
        let failure = Failure { what: error.to_string(), kind: error.kind() };
        tracing::error!(error = %failure, "The disk refused");
        self.report.send_replace(Some(failure.clone()));
        Err(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_acknowledged_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let db = Durable::open(dir.path()).unwrap();
        db.tree("t").unwrap().insert("k", "v").unwrap();
        db.sync().await.unwrap();
        drop(db);
        let db = Durable::open(dir.path()).unwrap();
        assert_eq!(db.tree("t").unwrap().get("k").unwrap().unwrap(), "v");
    }

    #[test]
    fn acknowledgements_come_in_the_order_they_were_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let db = Durable::open(dir.path()).unwrap();
        let (tell, told) = mpsc::channel();
        for n in 0..200 {
            let tell = tell.clone();
            db.sync_then(move |result| tell.send((n, result.is_ok())).unwrap());
        }
        drop(tell);
        assert_eq!(told.iter().collect::<Vec<_>>(), (0..200).map(|n| (n, true)).collect::<Vec<_>>());
    }

    #[test]
    fn a_guard_holds_its_value_before_the_acknowledgement() {
        let dir = tempfile::tempdir().unwrap();
        let db = Durable::open(dir.path().join("db")).unwrap();
        let path = dir.path().join("guard");
        let guard = Arc::new(Guard::<u64>::open(&path).unwrap().0);
        let (tell, told) = mpsc::channel();
        for n in 1..=50 {
            let (tell, path) = (tell.clone(), path.clone());
            db.sync_guarded(&guard, n, move |result| {
                let held = Guard::<u64>::open(&path).unwrap().1.unwrap();
                tell.send(result.is_ok() && held >= n).unwrap();
            });
        }
        drop(tell);
        assert_eq!(told.iter().collect::<Vec<_>>(), [true; 50]);
    }

    #[test]
    fn the_first_error_is_final() {
        let dir = tempfile::tempdir().unwrap();
        let db = Durable::open(dir.path().join("db")).unwrap();
        let guard = Arc::new(Guard::<String>::open(dir.path().join("guard")).unwrap().0);
        let (tell, told) = mpsc::channel();
        // A value that fits no slot stands for a disk that refuses.
        db.sync_guarded(&guard, "x".repeat(10_000), move |result| tell.send(result).unwrap());
        assert!(told.recv().unwrap().is_err());
        assert!(db.failed().borrow().is_some());
        let error = db.sync_blocking().unwrap_err();
        assert!(error.to_string().contains("nothing is acknowledged any more"), "{error}");
    }

    #[test]
    fn a_panicking_acknowledgement_does_not_stop_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let db = Durable::open(dir.path()).unwrap();
        db.sync_then(|_| panic!("on purpose"));
        db.sync_blocking().unwrap();
    }
}
