//! Notices when the process no longer does its work, says so, and ends it, so that the service
//! manager starts it anew.
//!
//! ```text
//!   own thread ── each second ──► a probe that the runtime has to run
//!       │  it ran:            tells the service manager "alive"
//!       └  ten in a row did not: says so in the log and aborts
//! ```
//!
//! Under systemd the manager watches this thread in turn (`WatchdogSec=` in the units): a process that
//! hangs as a whole is killed by it. Without a manager nothing is told and the rest holds all the same.
//!
//! Rounds are counted and not time: a process that was stopped or whose host slept has missed one round,
//! and gets the others to run its probes.

use std::{
    io,
    sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::Duration,
};

use tokio::runtime::Handle;

/// How long the runtime has for one probe.
const ROUND: Duration = Duration::from_secs(1);
/// So many probes in a row without an answer are no load any more.
const MISSED_MAX: u32 = 10;
/// How long the log has for the last word: the stuck thread may hold it.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Tells the service manager that the process has begun its work, and from then on watches the runtime
/// in which this is called, until the process ends.
///
/// # Errors
/// When the thread cannot be started. The process can do without it, and the caller says so.
pub fn start() -> io::Result<()> {
    let runtime = Handle::current();
    thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
        tell_manager(Word::Ready);
        watch(&runtime, ROUND, || tell_manager(Word::Alive));
        abort();
    })?;
    Ok(())
}

/// Tells the service manager that the process ends because it was asked to.
pub fn stopping() {
    tell_manager(Word::Stopping);
}

/// Returns once the runtime has missed [`MISSED_MAX`] probes in a row.
fn watch(runtime: &Handle, round: Duration, mut alive: impl FnMut()) {
    let mut missed = 0;
    while missed < MISSED_MAX {
        missed = if answers(runtime, round) { 0 } else { missed + 1 };
        if missed == 0 {
            alive();
        }
    }
}

/// Whether the runtime runs a task within `round`. Takes just as long.
fn answers(runtime: &Handle, round: Duration) -> bool {
    let (answer, answered): (SyncSender<()>, _) = sync_channel(1);
    // A probe that is too late finds nobody, and ends.
    runtime.spawn(async move { answer.send(()) });
    let ran = match answered.recv_timeout(round) {
        Ok(()) => true,
        // The runtime was shut down and dropped the task: the process is about to end.
        Err(RecvTimeoutError::Disconnected) => true,
        Err(RecvTimeoutError::Timeout) => false,
    };
    if ran {
        thread::sleep(round);
    }
    ran
}

/// Ends the process as a fault, with a core where the host keeps them: it shows where the threads hang.
fn abort() {
    let (said, heard) = sync_channel(1);
    thread::spawn(move || {
        tracing::error!(
            seconds = (ROUND * MISSED_MAX).as_secs(),
            "The runtime has run no task for this long: a thread hangs or the machine starves it. \
             The process ends itself so that its service manager starts it anew; please report the core dump"
        );
        said.send(())
    });
    let _ = heard.recv_timeout(LAST_WORD);
    std::process::abort();
}

#[derive(Debug, Clone, Copy)]
enum Word {
    Ready,
    Alive,
    Stopping,
}

/// Says a word to systemd, if it started this process; see sd_notify(3).
#[cfg(target_os = "linux")]
fn tell_manager(word: Word) {
    use sd_notify::NotifyState;
    let state = match word {
        Word::Ready => NotifyState::Ready,
        Word::Alive => NotifyState::Watchdog,
        Word::Stopping => NotifyState::Stopping,
    };
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, ?word, "The service manager could not be told");
    }
}

/// Other service managers watch the process alone.
#[cfg(not(target_os = "linux"))]
fn tell_manager(_word: Word) {}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    /// Ten of these in a row are longer than a loaded machine starves a thread.
    const SHORT: Duration = Duration::from_millis(50);

    #[test]
    fn a_runtime_whose_only_thread_hangs_is_noticed() {
        let runtime = one_thread();
        let hang = Hang::in_a_task_of(&runtime);
        watch(runtime.handle(), SHORT, || {});
        hang.end();
    }

    #[test]
    fn a_runtime_that_hangs_for_less_than_the_limit_is_left_alone() {
        let runtime = one_thread();
        let alive = Arc::new(AtomicU32::new(0));
        let told = alive.clone();
        let mut hang = Some(Hang::in_a_task_of(&runtime));
        assert!(!answers(runtime.handle(), SHORT), "it hangs");
        if let Some(hang) = hang.take() {
            hang.end();
        }
        // Healthy now: the manager hears of it, and nothing else would end this loop but a second hang.
        let handle = runtime.handle().clone();
        let watching = thread::spawn(move || {
            watch(&handle, SHORT, || {
                told.fetch_add(1, Ordering::Relaxed);
            });
        });
        while alive.load(Ordering::Relaxed) < MISSED_MAX * 2 {
            assert!(!watching.is_finished(), "a healthy runtime was given up");
            thread::yield_now();
        }
        let hang = Hang::in_a_task_of(&runtime);
        watching.join().unwrap();
        hang.end();
    }

    fn one_thread() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap()
    }

    /// A task that blocks its thread, as no task may.
    struct Hang {
        release: SyncSender<()>,
    }

    impl Hang {
        fn in_a_task_of(runtime: &tokio::runtime::Runtime) -> Self {
            let (release, released) = sync_channel(0);
            let (hangs, hanging) = sync_channel(0);
            runtime.spawn(async move {
                hangs.send(()).unwrap();
                let _ = released.recv();
            });
            hanging.recv().unwrap();
            Self { release }
        }

        fn end(self) {
            self.release.send(()).unwrap();
        }
    }
}
