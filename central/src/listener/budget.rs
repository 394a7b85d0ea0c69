//! How many clients central may hold at all, so that its listeners never take the last file descriptor from the
//! tunnel, the control websockets or the store.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Where the system sets no limit of its own.
const CLIENTS_MAX: usize = 100_000;

/// Shared by all listeners of this process.
#[derive(Debug, Clone)]
pub struct Budget {
    taken: Arc<AtomicUsize>,
    clients: usize,
}

impl Budget {
    pub fn new(clients: usize) -> Self {
        Self { taken: Arc::default(), clients }
    }

    /// Three quarters of the file descriptors this process may have; the rest is for everything else.
    pub fn of_this_process() -> Self {
        Self::new((program::descriptors::raise() / 4 * 3).min(CLIENTS_MAX))
    }

    pub fn clients(&self) -> usize {
        self.clients
    }

    /// Room for one client until it is dropped, or `None`.
    pub fn take(&self) -> Option<Taken> {
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        // Made before the check, so that refusing gives back what was taken.
        let taken = Taken(Arc::clone(&self.taken));
        (before < self.clients).then_some(taken)
    }
}

/// Room for one client.
#[derive(Debug)]
pub struct Taken(Arc<AtomicUsize>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
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
    fn this_process_may_have_some_clients() {
        assert!((1..=CLIENTS_MAX).contains(&Budget::of_this_process().clients()));
    }
}
