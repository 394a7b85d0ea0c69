//! One connection's way through both programs, as OpenTelemetry spans, and their way to a collector.
//!
//! ```text
//!   central: a client has ended ─┐                          ┌─► batch ─► OTLP/HTTP, JSON ─► collector
//!   agent: a stream has ended ───┴─► Traces::offer ─► queue ┤
//!                                    (never waits)          └─► full: dropped, and counted
//! ```
//!
//! Both ends know a connection's trace id, which crosses the tunnel in OPEN; it needs no second field for the parent,
//! because the span that central begins a trace with has the id that [`root`] makes of the trace's. Spans are made of
//! facts once something has ended: a stream that is open, and each of its bytes, costs nothing here.
//!
//! Whoever offers never waits and never learns how it went: a collector that is slow, away or mad costs its spans alone.

#[cfg_attr(not(feature = "otlp"), path = "absent.rs")]
mod exporter;
mod sampling;
pub mod settings;
mod span;

#[cfg(feature = "otlp")]
mod collector;
#[cfg(feature = "otlp")]
mod json;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::mpsc;

pub use self::{
    exporter::{Exporter, OpenError},
    sampling::Sample,
    settings::Settings,
    span::{Kind, Span, SpanId, TraceId, Value, random_id, root},
};

/// Whether this program was built with a way to a collector.
pub const BUILT: bool = cfg!(feature = "otlp");

/// Spans that may wait for the collector, about a kilobyte each.
#[cfg(feature = "otlp")]
const QUEUE_MAX: usize = 2048;

/// Who speaks: `service.name` and what else is said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub name: &'static str,
    pub version: &'static str,
    /// Such as `host.name`.
    pub attributes: Vec<(&'static str, String)>,
}

/// Where spans are offered. Clones are the same; the default takes none.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    sample: Sample,
    queue: mpsc::Sender<Span>,
    exported: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

/// What became of the spans since the program started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// The collector took them.
    pub exported: u64,
    /// There was no room for them: the collector is away or slow.
    pub dropped: u64,
    /// The collector did not want them, or could not be reached for too long.
    pub failed: u64,
}

impl Traces {
    #[cfg(feature = "otlp")]
    fn new(sample: Sample) -> (Self, mpsc::Receiver<Span>) {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let count = AtomicU64::default;
        let shared = Shared { sample, queue, exported: count(), dropped: count(), failed: count() };
        (Self(Some(Arc::new(shared))), waiting)
    }

    /// Whether spans of this trace are wanted. Both ends of a tunnel say the same where they sample alike, without a
    /// word between them. An id that no trace can have, as a stranger may send, is never wanted.
    pub fn wants(&self, trace: TraceId) -> bool {
        self.0.as_ref().is_some_and(|shared| root(trace).is_some() && shared.sample.takes(trace))
    }

    /// Puts a span into the queue, or drops and counts it. Of a trace that is not wanted it is ignored.
    pub fn offer(&self, span: Span) {
        let Some(shared) = self.0.as_ref().filter(|_| self.wants(span.trace)) else { return };
        if shared.queue.try_send(span).is_err() {
            shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Nothing where no spans are taken at all.
    pub fn counts(&self) -> Option<Counts> {
        self.0.as_ref().map(|shared| Counts {
            exported: shared.exported.load(Ordering::Relaxed),
            dropped: shared.dropped.load(Ordering::Relaxed),
            failed: shared.failed.load(Ordering::Relaxed),
        })
    }
}
