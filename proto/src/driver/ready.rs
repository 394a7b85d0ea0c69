//! Which joined sockets have become ready, told by whatever thread noticed it.
//!
//! A socket wakes its stream's number into one list, and the list wakes the lane once: a thousand ready sockets cost
//! one wake-up. The lock is a leaf: nothing else is ever locked under it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake, Waker};

use crate::mux::StreamId;

/// Streams whose sockets became ready since the lane last looked. Each stands in it at most once.
#[derive(Debug, Default)]
pub(super) struct Ready(Mutex<List>);

#[derive(Debug, Default)]
struct List {
    bells: Vec<Arc<Bell>>,
    lane: Option<Waker>,
}

impl Ready {
    /// Who is to be woken from now on.
    pub(super) fn watch(&self, cx: &Context<'_>) {
        super::remember(&mut self.lock().lane, cx);
    }

    /// Nobody watches any more. What rang unheard is forgotten: whoever watches next looks at every socket.
    pub(super) fn leave(&self) {
        let mut list = self.lock();
        list.lane = None;
        for bell in std::mem::take(&mut list.bells) {
            bell.rung.store(false, Ordering::Release);
        }
    }

    /// Moves what rang into `streams`.
    pub(super) fn take(&self, streams: &mut Vec<StreamId>) {
        let mut list = self.lock();
        for bell in list.bells.drain(..) {
            // Before its socket is looked at: what happens to it from here on rings again.
            bell.rung.store(false, Ordering::Release);
            streams.push(bell.stream);
        }
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        // Whole after any panic: each change is one push or take.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One socket's line to the list.
#[derive(Debug)]
struct Bell {
    ready: Arc<Ready>,
    stream: StreamId,
    /// It stands in the list.
    rung: AtomicBool,
}

/// A waker that puts `stream` into the list.
pub(super) fn bell(ready: &Arc<Ready>, stream: StreamId) -> Waker {
    Waker::from(Arc::new(Bell { ready: Arc::clone(ready), stream, rung: AtomicBool::new(false) }))
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.rung.swap(true, Ordering::AcqRel) {
            return;
        }
        let lane = {
            let mut list = self.ready.lock();
            list.bells.push(Arc::clone(self));
            // The first one wakes; the others find the lane woken.
            if list.bells.len() == 1 { list.lane.clone() } else { None }
        };
        if let Some(lane) = lane {
            lane.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Count(AtomicBool);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            assert!(!self.0.swap(true, Ordering::Relaxed), "woken twice");
        }
    }

    #[test]
    fn many_sockets_cost_one_wake_up_and_none_is_named_twice() {
        let ready = Arc::new(Ready::default());
        let count = Arc::new(Count(AtomicBool::new(false)));
        ready.watch(&Context::from_waker(&Waker::from(Arc::clone(&count))));
        let bells = [1, 3, 5].map(|id| bell(&ready, StreamId(id)));
        for bell in bells.iter().chain(&bells) {
            bell.wake_by_ref();
        }
        let mut streams = Vec::new();
        ready.take(&mut streams);
        assert_eq!(streams, [1, 3, 5].map(StreamId));
        assert!(count.0.load(Ordering::Relaxed));
    }

    #[test]
    fn a_socket_that_rang_for_nobody_can_ring_again() {
        let ready = Arc::new(Ready::default());
        let bell = bell(&ready, StreamId(1));
        bell.wake_by_ref();
        ready.leave();
        bell.wake_by_ref();
        let mut streams = Vec::new();
        ready.take(&mut streams);
        assert_eq!(streams, [StreamId(1)]);
    }
}
