//! When things happened on a stream that we opened. Whoever holds a [`Meter`] may read it after the stream is gone.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// The times of one stream. Clones are the same meter.
#[derive(Clone, Default)]
pub struct Meter(Arc<Times>);

#[derive(Default)]
struct Times {
    opened: OnceLock<Instant>,
    first_byte: OnceLock<Instant>,
    /// Microseconds after `opened`.
    heard: AtomicU64,
}

impl Meter {
    /// When the peer accepted the stream.
    pub fn opened(&self) -> Option<Instant> {
        self.0.opened.get().copied()
    }

    /// When the peer's first byte came.
    pub fn first_byte(&self) -> Option<Instant> {
        self.0.first_byte.get().copied()
    }

    /// When anything of the stream was last heard: its acceptance, bytes, or room for ours.
    pub fn heard(&self) -> Option<Instant> {
        Some(self.opened()? + Duration::from_micros(self.0.heard.load(Ordering::Relaxed)))
    }

    pub(super) fn note_opened(&self, now: Instant) {
        // A second acceptance is refused before it comes here.
        let _ = self.0.opened.set(now);
    }

    pub(super) fn note_bytes(&self, now: Instant) {
        self.0.first_byte.get_or_init(|| now);
        self.note_heard(now);
    }

    pub(super) fn note_heard(&self, now: Instant) {
        if let Some(opened) = self.0.opened.get() {
            let micros = now.saturating_duration_since(*opened).as_micros();
            self.0.heard.store(u64::try_from(micros).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }
}

/// No times: two muxes that do the same are the same, whenever they did it.
impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meter")
    }
}
