//! Who does a database's input and output: a thread of its own, or whoever a simulation says.
//!
//! In a simulation only the simulated clock may decide when a disk answers; a thread would answer by the real one.

use std::{
    cell::RefCell,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Sender},
    },
    thread,
};

use crate::writer::{Job, Writer};

/// Runs a piece of work once, later than now.
pub type Runner = Arc<dyn Fn(Box<dyn FnOnce() + Send>) + Send + Sync>;

thread_local! {
    static RUNNER: RefCell<Option<Runner>> = const { RefCell::new(None) };
}

/// Databases that this thread opens from now on have their acknowledgements made by `runner` and get no thread
/// of their own. For simulations.
pub fn set_runner(runner: Option<Runner>) {
    RUNNER.with_borrow_mut(|place| *place = runner);
}

/// The way to whoever acknowledges.
pub(crate) enum Jobs {
    // Unbounded: each job stands for records its writer already holds in the database, so
    // refusing the job would save nothing, and blocking would stop an async thread on the disk.
    Thread(Sender<Job>),
    Runner { waiting: Arc<Mutex<Vec<Job>>>, writer: Arc<Writer>, runner: Runner },
}

impl Jobs {
    /// Starts the thread, unless this one has a runner.
    pub(crate) fn start(writer: Writer) -> std::io::Result<Self> {
        if let Some(runner) = RUNNER.with_borrow(Clone::clone) {
            return Ok(Self::Runner { waiting: Arc::default(), writer: Arc::new(writer), runner });
        }
        let (jobs, queue) = mpsc::channel();
        thread::Builder::new().name("durable-io".into()).spawn(move || writer.run(&queue))?;
        Ok(Self::Thread(jobs))
    }

    /// The job back, if nobody is there to do it.
    pub(crate) fn send(&self, job: Job) -> Result<(), Job> {
        match self {
            Self::Thread(jobs) => jobs.send(job).map_err(|mpsc::SendError(job)| job),
            Self::Runner { waiting, writer, runner } => {
                let lock = || waiting.lock().unwrap_or_else(PoisonError::into_inner);
                let first = {
                    let mut waiting = lock();
                    waiting.push(job);
                    waiting.len() == 1
                };
                if first {
                    let (waiting, writer) = (waiting.clone(), writer.clone());
                    runner(Box::new(move || {
                        let batch =
                            std::mem::take(&mut *waiting.lock().unwrap_or_else(PoisonError::into_inner));
                        writer.settle(batch);
                    }));
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;
    use crate::Durable;

    #[test]
    fn with_a_runner_nothing_is_acknowledged_before_it_runs() {
        let dir = tempfile::tempdir().unwrap();
        let work = Arc::<Mutex<Vec<Box<dyn FnOnce() + Send>>>>::default();
        let kept = work.clone();
        set_runner(Some(Arc::new(move |piece| {
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(piece);
        })));
        let db = Durable::open(dir.path()).unwrap();
        set_runner(None);
        let (tell, told) = mpsc::channel();
        for n in 0..3 {
            let tell = tell.clone();
            db.sync_then(move |result| tell.send((n, result.is_ok())).unwrap());
        }
        assert!(told.try_recv().is_err());
        let pieces = std::mem::take(&mut *work.lock().unwrap());
        assert_eq!(pieces.len(), 1, "they share one sync");
        pieces.into_iter().for_each(|piece| piece());
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [(0, true), (1, true), (2, true)]);
    }
}
