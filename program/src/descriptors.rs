//! How many file descriptors this process may have, and how many of them the streams it carries may take: the rest
//! is for what keeps it alive, its connections to central, to peers, to administrators, and its records.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Where the system sets no limit of its own.
const STREAMS_MAX: usize = 100_000;
/// What a program holds by itself (at most 40 were counted) and what it opens for a moment: a name server, a file,
/// a handshake. Where the limit is low, streams have what is left.
const OWN_AT_LEAST: usize = 56;

/// Raises the soft limit to the hard one and answers with what holds now. A connection takes one, and the soft limit that
/// usually binds (1024) is a leftover of `select`. Where the system has no such limit, as on Windows: `usize::MAX`.
#[cfg(unix)]
pub fn raise() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let current = if raised.is_ok() { limit.maximum } else { limit.current };
    current.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// Its twin.
#[cfg(not(unix))]
pub fn raise() -> usize {
    usize::MAX
}

/// Is this the error of a process, or of a machine, that has no descriptor left?
#[cfg(unix)]
pub fn ran_out(error: &std::io::Error) -> bool {
    use rustix::io::Errno;

    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// Its twin.
#[cfg(not(unix))]
pub fn ran_out(_: &std::io::Error) -> bool {
    false
}

/// How many streams this process may carry at a time; shared by all who open one.
#[derive(Debug, Clone)]
pub struct Budget {
    taken: Arc<AtomicUsize>,
    streams: usize,
}

impl Budget {
    pub fn new(streams: usize) -> Self {
        Self { taken: Arc::default(), streams }
    }

    /// Three quarters of the file descriptors this process may have, which it raises; less where the last quarter
    /// would not do for everything else.
    pub fn of_this_process() -> Self {
        Self::new(for_streams(raise()))
    }

    pub fn streams(&self) -> usize {
        self.streams
    }

    /// Room for one stream until it is dropped, or `None`.
    pub fn take(&self) -> Option<Taken> {
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        // Made before the check, so that refusing gives back what was taken.
        let taken = Taken(Arc::clone(&self.taken));
        (before < self.streams).then_some(taken)
    }
}

/// Room for one stream.
#[derive(Debug)]
pub struct Taken(Arc<AtomicUsize>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn for_streams(limit: usize) -> usize {
    limit.saturating_sub(OWN_AT_LEAST.max(limit / 4)).min(STREAMS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leaves_makes_room() {
        let budget = Budget::new(1);
        let taken = budget.take().unwrap();
        assert!(budget.take().is_none());
        drop(taken);
        assert!(budget.take().is_some());
    }

    #[test]
    fn streams_have_most_of_many_descriptors_and_what_is_left_of_few() {
        assert_eq!(for_streams(262_144), STREAMS_MAX);
        assert_eq!(for_streams(1_024), 768);
        assert_eq!(for_streams(64), 8);
        assert_eq!(for_streams(32), 0);
    }

    #[test]
    #[cfg(unix)]
    fn what_is_raised_holds() {
        let said = raise();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        assert_eq!(limit.current.map_or(usize::MAX, |limit| limit as usize), said);
    }
}
