//! Carries spans from the queue to the collector, in batches, and bears with it.
//!
//! ```text
//!   gather ─► deliver ─► taken, refused for good ─► gather
//!                └─► later ─► pause, longer each time ─► deliver again, for at most a minute
//! ```
//!
//! One batch is under way at a time; what comes meanwhile waits in the queue, and what finds no room there is dropped by
//! whoever offers it. Trouble is logged once when it begins and once when it is over; the counts tell the rest.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

pub use crate::collector::OpenError;
use crate::{
    Service, Settings, Span, Traces,
    collector::{Answer, Collect, Collector},
    json,
};

/// Spans of one request.
const BATCH_MAX: usize = 512;
/// How long a batch waits for more.
const BATCH_WAIT: Duration = Duration::from_secs(5);
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Then a batch is given up, and the next one tried: old spans must not keep new ones out for ever.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);
/// What is left at the end has so long to go.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Carries spans to the collector.
pub struct Exporter(Courier<Collector>);

struct Courier<C> {
    traces: Traces,
    queue: mpsc::Receiver<Span>,
    service: Service,
    collector: C,
    /// On its way.
    batch: Vec<Span>,
    /// Whether the last attempt failed; said when it changes.
    in_trouble: bool,
}

impl Exporter {
    /// Connects to nothing yet. `None` where no collector is named.
    ///
    /// # Errors
    /// Where TLS cannot be set up: whom to believe is not known.
    pub fn open(settings: &Settings, service: Service) -> Result<Option<(Traces, Self)>, OpenError> {
        let Some(endpoint) = &settings.endpoint else { return Ok(None) };
        let collector = Collector::new(endpoint, settings)?;
        let (traces, queue) = Traces::new(settings.sample);
        tracing::info!(collector = %endpoint, sample = %settings.sample, "Connections are traced");
        Ok(Some((traces.clone(), Self(Courier::new(collector, traces, queue, service)))))
    }

    /// Exports until `stop`, then what is left, for at most two seconds. Dropping the future loses what waits, and
    /// nothing else.
    pub async fn run(self, stop: CancellationToken) {
        self.0.run(stop).await;
    }
}

impl<C: Collect> Courier<C> {
    fn new(collector: C, traces: Traces, queue: mpsc::Receiver<Span>, service: Service) -> Self {
        Self { traces, queue, service, collector, batch: Vec::new(), in_trouble: false }
    }

    async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                // What either holds stays in `batch` and in the queue.
                () = async { self.gather().await; self.deliver().await; } => {}
            }
        }
        if timeout(FLUSH_LIMIT, self.flush()).await.is_err() || !self.batch.is_empty() {
            let lost = self.batch.len() + self.queue.len();
            tracing::warn!(lost, "The last spans did not reach the collector");
        }
    }

    /// Fills the batch, if it is not there already: cancel-safe.
    async fn gather(&mut self) {
        if self.batch.is_empty() {
            self.queue.recv_many(&mut self.batch, BATCH_MAX).await;
        }
        let full = sleep_until(Instant::now() + BATCH_WAIT);
        tokio::pin!(full);
        while self.batch.len() < BATCH_MAX {
            let room = BATCH_MAX - self.batch.len();
            tokio::select! {
                _ = self.queue.recv_many(&mut self.batch, room) => {}
                () = &mut full => break,
            }
        }
    }

    /// Until the batch is taken, refused or given up; it is empty then. Dropped before, the batch is kept.
    async fn deliver(&mut self) {
        let body = json::body(&self.service, &self.batch);
        let until = Instant::now() + GIVE_UP_AFTER;
        let mut pause = PAUSE_FIRST;
        loop {
            match self.collector.post(body.clone()).await {
                Answer::Later { why, after } => {
                    self.trouble(&why);
                    let wait = after.unwrap_or(pause).clamp(PAUSE_FIRST, PAUSE_MAX);
                    if Instant::now() + wait > until {
                        return self.done(self.batch.len());
                    }
                    sleep(wait).await;
                    pause *= 2;
                }
                Answer::Taken { refused } => {
                    self.well();
                    return self.done(usize::try_from(refused).unwrap_or(usize::MAX));
                }
                Answer::Never { why } => {
                    self.trouble(&why);
                    return self.done(self.batch.len());
                }
            }
        }
    }

    /// One attempt for each batch that is left; ends at the first that fails.
    async fn flush(&mut self) {
        loop {
            while self.batch.len() < BATCH_MAX
                && let Ok(span) = self.queue.try_recv()
            {
                self.batch.push(span);
            }
            if self.batch.is_empty() {
                return;
            }
            match self.collector.post(json::body(&self.service, &self.batch)).await {
                Answer::Taken { refused } => self.done(usize::try_from(refused).unwrap_or(usize::MAX)),
                Answer::Later { .. } | Answer::Never { .. } => return,
            }
        }
    }

    /// The batch is no more; so many of it failed.
    fn done(&mut self, failed: usize) {
        let failed = failed.min(self.batch.len());
        let exported = self.batch.len() - failed;
        self.batch.clear();
        if let Some(shared) = &self.traces.0 {
            shared.exported.fetch_add(exported as u64, Ordering::Relaxed);
            shared.failed.fetch_add(failed as u64, Ordering::Relaxed);
        }
    }

    fn trouble(&mut self, why: &str) {
        if !self.in_trouble {
            tracing::warn!(
                why,
                "Spans do not reach the collector; connections are not affected. Said once until they do"
            );
        }
        self.in_trouble = true;
    }

    fn well(&mut self) {
        if self.in_trouble {
            let counts = self.traces.counts().unwrap_or_default();
            tracing::info!(
                dropped = counts.dropped,
                failed = counts.failed,
                "Spans reach the collector again"
            );
        }
        self.in_trouble = false;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::{Arc, Mutex},
        time::SystemTime,
    };

    use bytes::Bytes;

    use super::*;
    use crate::{Counts, Kind, QUEUE_MAX, Sample};

    #[tokio::test(start_paused = true)]
    async fn spans_travel_together_a_few_seconds_after_the_first() {
        let stage = Stage::new([]);
        let began = Instant::now();
        stage.offer(3);
        stage.until(|counts| counts.exported == 3).await;
        assert_eq!(stage.requests(), [3]);
        assert_eq!(began.elapsed().as_secs(), BATCH_WAIT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_batch_waits_for_nobody() {
        let stage = Stage::new([]);
        let began = Instant::now();
        stage.offer(BATCH_MAX + 1);
        stage.until(|counts| counts.exported == BATCH_MAX as u64).await;
        assert_eq!(began.elapsed().as_secs(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_is_away_gets_the_batch_when_it_is_back() {
        let stage = Stage::new([later(None), later(None), later(Some(9))]);
        stage.offer(2);
        let began = Instant::now();
        stage.until(|counts| counts.exported == 2).await;
        assert_eq!(stage.requests(), [2, 2, 2, 2]);
        let pauses_s = 1 + 2 + 9;
        assert_eq!(began.elapsed().as_secs(), BATCH_WAIT.as_secs() + pauses_s);
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_stays_away_costs_its_spans_and_no_memory() {
        let stage = Stage::new(std::iter::repeat_n(later(Some(1)), 10_000));
        for _ in 0..100 {
            stage.offer(QUEUE_MAX);
            sleep(Duration::from_secs(30)).await;
        }
        let counts = stage.counts();
        assert_eq!(counts.exported, 0);
        assert!(counts.failed > 0 && counts.dropped > 0, "{counts:?}");
        let waiting = 100 * QUEUE_MAX as u64 - counts.failed - counts.dropped;
        assert!(waiting <= (QUEUE_MAX + BATCH_MAX) as u64, "{waiting} wait");
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_never_answers_holds_up_nobody_who_offers() {
        let stage = Stage::new([Step::Hang]);
        let began = Instant::now();
        stage.offer(QUEUE_MAX);
        sleep(BATCH_WAIT * 2).await;
        stage.offer(QUEUE_MAX + 7);
        assert_eq!(began.elapsed(), BATCH_WAIT * 2);
        // The batch that hangs made room for as many.
        assert_eq!(stage.counts().dropped, (QUEUE_MAX + 7 - BATCH_MAX) as u64);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_collector_refuses_is_not_tried_again() {
        let stage = Stage::new([Step::Answer(Answer::Never { why: "401".into() })]);
        stage.offer(2);
        stage.until(|counts| counts.failed == 2).await;
        stage.offer(1);
        stage.until(|counts| counts.exported == 1).await;
        assert_eq!(stage.requests(), [2, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_is_refused_is_counted_so() {
        let stage = Stage::new([Step::Answer(Answer::Taken { refused: 2 })]);
        stage.offer(3);
        stage.until(|counts| *counts == Counts { exported: 1, dropped: 0, failed: 2 }).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_at_the_end_is_sent_at_once() {
        let mut stage = Stage::new([]);
        stage.offer(BATCH_MAX * 2 + 5);
        let began = Instant::now();
        stage.stop().await;
        assert_eq!(stage.counts().exported, (BATCH_MAX * 2 + 5) as u64);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_hangs_at_the_end_is_left_behind() {
        let mut stage = Stage::new([Step::Hang, Step::Hang]);
        stage.offer(5);
        sleep(BATCH_WAIT * 2).await;
        let began = Instant::now();
        stage.stop().await;
        assert_eq!(began.elapsed(), FLUSH_LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn an_id_that_no_trace_has_and_a_trace_outside_the_sample_are_ignored() {
        let stage = Stage::new([]);
        stage.traces.offer(span([0; 16]));
        stage.traces.offer(span(*b"\0\0\0\0\0\0\0\0hostile!"));
        let (few, mut waiting) = Traces::new(Sample::new(0.0).unwrap());
        few.offer(span([1; 16]));
        assert!(waiting.try_recv().is_err());
        sleep(BATCH_WAIT * 2).await;
        assert_eq!(stage.requests(), [0; 0]);
        assert_eq!(stage.counts(), Counts::default());
    }

    /// An exporter whose collector answers by a list, and takes everything once that is used up.
    struct Stage {
        traces: Traces,
        stop: CancellationToken,
        task: tokio::task::JoinHandle<()>,
        heard: Arc<Mutex<Vec<usize>>>,
    }

    #[derive(Clone)]
    enum Step {
        Answer(Answer),
        Hang,
    }

    fn later(after_s: Option<u64>) -> Step {
        Step::Answer(Answer::Later { why: "busy".into(), after: after_s.map(Duration::from_secs) })
    }

    struct Listed {
        steps: Mutex<VecDeque<Step>>,
        heard: Arc<Mutex<Vec<usize>>>,
    }

    impl Collect for Listed {
        async fn post(&self, body: Bytes) -> Answer {
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let spans = body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().len();
            self.heard.lock().unwrap().push(spans);
            let step = self.steps.lock().unwrap().pop_front();
            match step {
                Some(Step::Answer(answer)) => answer,
                Some(Step::Hang) => std::future::pending().await,
                None => Answer::Taken { refused: 0 },
            }
        }
    }

    impl Stage {
        fn new(steps: impl IntoIterator<Item = Step>) -> Self {
            let (traces, queue) = Traces::new(Sample::EVERYTHING);
            let heard = Arc::default();
            let listed = Listed { steps: Mutex::new(steps.into_iter().collect()), heard: Arc::clone(&heard) };
            let service = Service { name: "test", version: "0", attributes: Vec::new() };
            let stop = CancellationToken::new();
            let exporter = Courier::new(listed, traces.clone(), queue, service);
            let task = tokio::spawn(exporter.run(stop.clone()));
            Self { traces, stop, task, heard }
        }

        fn offer(&self, spans: usize) {
            (0..spans).for_each(|_| self.traces.offer(span([1; 16])));
        }

        fn counts(&self) -> Counts {
            self.traces.counts().unwrap()
        }

        fn requests(&self) -> Vec<usize> {
            self.heard.lock().unwrap().clone()
        }

        /// Looks every millisecond.
        async fn until(&self, reached: impl Fn(&Counts) -> bool) {
            while !reached(&self.counts()) {
                sleep(Duration::from_millis(1)).await;
            }
        }

        async fn stop(&mut self) {
            self.stop.cancel();
            (&mut self.task).await.unwrap();
        }
    }

    fn span(trace: [u8; 16]) -> Span {
        let now = SystemTime::UNIX_EPOCH;
        Span::new(trace, [1; 8], None, ("x", Kind::Internal), (now, now))
    }
}
