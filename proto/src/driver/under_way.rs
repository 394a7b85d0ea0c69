//! How much may be under way: sent, and not yet acknowledged.
//!
//! A line needs so much under way as it carries in one round trip. Whatever is more waits in the line itself, where nobody
//! can pass it, and with it every small request waits. What the line needs cannot be seen; that too much waits can: the
//! acknowledgements come late, all of them. Then a little less is tried, and kept if the line is as fast with it.
//!
//! ```text
//!             even the quickest acknowledgement is late
//!   no bound ──────────────────────────────────────────► less ─┬─ as fast as before ──► less again, if still late
//!      ▲                                                  ▲    └─ slower ──► back, and patience before the next try
//!      └── more than is ever used ◄── more ◄── the bound was met, and none is late or the line became slower
//! ```
//!
//! Judging by speed and not by delay alone is the point: where packets get lost, or where the peer waits for a processor,
//! acknowledgements are late too, and less under way would only make the line slower still.
//!
//! Absent on purpose: sockets, clocks. Time arrives as `now`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::mux::Progress;

/// What waits on a shorter line waits for a processor, and less under way would not help it.
const SHORT_LINE: Duration = Duration::from_millis(1);
/// Never less, or acknowledgements would come too seldom to go on.
const BOUND_MIN_BYTES: usize = 64 * 1024;
/// More than this is no bound.
const BOUND_MAX_BYTES: usize = 64 * 1024 * 1024;
/// What may wait: an acknowledgement itself waits for up to 2 ms, and a line that always has something waiting is used to
/// the full.
const WAIT_MIN: Duration = Duration::from_millis(3);
/// One look takes four round trips: the first of them still shows what was before.
const SPAN_MIN: Duration = Duration::from_millis(50);
const SPAN_ROUND_TRIPS: u32 = 4;
/// A line this much slower than at its best is slower; less is chance.
const SLOWER_PERCENT: u64 = 94;
/// After a try that made the line slower, so many spans pass before the next; twice as many each time.
const PATIENCE_MAX_SPANS: u32 = 16;
/// The line's speed and its round trip are forgotten after one to two of these: lines change.
const SPEED_MEMORY: Duration = Duration::from_secs(5);
const ROUND_TRIP_MEMORY: Duration = Duration::from_secs(15);
/// Messages whose way is timed, a millisecond apart at least.
const MARKS_MAX: usize = 512;
const MARK_EVERY: Duration = Duration::from_millis(1);

/// One websocket's line.
#[derive(Debug)]
pub(super) struct UnderWay {
    bound: Option<usize>,
    /// When the frame with this number went out.
    marks: VecDeque<(u64, Instant)>,
    acknowledged: u64,
    span: Span,
    /// The round trip without what waits, and the speed of the line.
    shortest: Lately<Duration>,
    speed: u64,
    best: Lately<u64>,
    /// Less is being tried; what the bound should be if that was wrong.
    trying: Option<Option<usize>>,
    patience: u32,
    /// Spans that pass before the next try.
    resting: u32,
    /// Half the bound, for a span now and then: what waits goes, and the line's own round trip is seen.
    draining: bool,
}

/// From one acknowledgement to another.
#[derive(Clone, Copy, Debug)]
struct Span {
    since: Instant,
    /// All that was acknowledged before.
    acknowledged_bytes: u64,
    /// The quickest acknowledgement.
    delay: Option<Duration>,
    /// The most that was under way.
    most: usize,
    /// The bound held something back.
    was_met: bool,
}

impl Span {
    fn begin(now: Instant, acknowledged_bytes: u64) -> Span {
        Span { since: now, acknowledged_bytes, delay: None, most: 0, was_met: false }
    }
}

/// The best of now and of a little earlier.
#[derive(Clone, Copy, Debug)]
struct Lately<T> {
    now: Option<T>,
    before: Option<T>,
    since: Instant,
}

impl<T: Copy> Lately<T> {
    fn new(now: Instant) -> Lately<T> {
        Lately { now: None, before: None, since: now }
    }

    fn add(&mut self, value: T, better: impl Fn(T, T) -> T) {
        self.now = Some(self.now.map_or(value, |now| better(now, value)));
    }

    fn get(&self, better: impl Fn(T, T) -> T) -> Option<T> {
        match (self.now, self.before) {
            (Some(now), Some(before)) => Some(better(now, before)),
            (now, before) => now.or(before),
        }
    }

    /// What was before is forgotten, if it is time.
    fn age(&mut self, now: Instant, memory: Duration) -> bool {
        let due = now.saturating_duration_since(self.since) >= memory;
        if due {
            self.before = self.now.take().or(self.before);
            self.since = now;
        }
        due
    }
}

impl UnderWay {
    /// A line of which nothing is known, and no bound.
    pub(super) fn new(now: Instant) -> UnderWay {
        UnderWay {
            bound: None,
            marks: VecDeque::new(),
            acknowledged: 0,
            span: Span::begin(now, 0),
            shortest: Lately::new(now),
            speed: 0,
            best: Lately::new(now),
            trying: None,
            patience: 1,
            resting: 0,
            draining: false,
        }
    }

    /// What may be under way at most.
    pub(super) fn bound_bytes(&self) -> usize {
        match self.bound {
            Some(bound) if self.draining => (bound / 2).max(BOUND_MIN_BYTES),
            Some(bound) => bound,
            None => usize::MAX,
        }
    }

    /// Something went out. `was_met`: there was more, and the bound held it back.
    pub(super) fn sent(&mut self, progress: Progress, was_met: bool, now: Instant) {
        self.span.most = self.span.most.max(progress.under_way_bytes);
        self.span.was_met |= was_met;
        let (last, at) = self.marks.back().map_or((self.acknowledged, None), |(seq, at)| (*seq, Some(*at)));
        let rare = at.is_none_or(|at| now.saturating_duration_since(at) >= MARK_EVERY);
        if progress.sent > last && rare && self.marks.len() < MARKS_MAX {
            self.marks.push_back((progress.sent, now));
        }
    }

    /// Something came that may have acknowledged something.
    pub(super) fn heard(&mut self, progress: Progress, now: Instant) {
        if progress.acknowledged <= self.acknowledged {
            return;
        }
        self.acknowledged = progress.acknowledged;
        let mut sent_at = None;
        while let Some((_, at)) = self.marks.front().filter(|(seq, _)| *seq <= progress.acknowledged) {
            sent_at = Some(*at);
            self.marks.pop_front();
        }
        if let Some(at) = sent_at {
            let delay = now.saturating_duration_since(at);
            self.span.delay = Some(self.span.delay.map_or(delay, |least| least.min(delay)));
            self.shortest.add(delay, Duration::min);
        }
        let Some(shortest) = self.shortest.get(Duration::min) else { return };
        let span = SPAN_MIN.max(shortest * SPAN_ROUND_TRIPS);
        let elapsed = now.saturating_duration_since(self.span.since);
        if elapsed < span {
            return;
        }
        let seen = std::mem::replace(&mut self.span, Span::begin(now, progress.acknowledged_bytes));
        let drained = std::mem::take(&mut self.draining);
        // Over a pause there is nothing to be seen, unless it was we who held back.
        let is_pause = elapsed >= span * 2 && !seen.was_met;
        if shortest < SHORT_LINE {
            (self.bound, self.trying) = (None, None);
        } else if let Some(delay) = seen.delay.filter(|_| !is_pause && !drained) {
            let bytes = u128::from(progress.acknowledged_bytes - seen.acknowledged_bytes);
            let speed = u64::try_from(bytes * 1_000_000 / elapsed.as_micros().max(1)).unwrap_or(u64::MAX);
            self.judge(seen, speed, delay.saturating_sub(shortest), WAIT_MIN.max(shortest / 4));
        }
        self.best.age(now, SPEED_MEMORY);
        if self.shortest.age(now, ROUND_TRIP_MEMORY) {
            self.draining = self.bound.is_some();
        }
    }

    fn judge(&mut self, seen: Span, speed: u64, waited: Duration, may_wait: Duration) {
        // One span may have been lucky: the best is that of several.
        self.speed = if self.speed == 0 { speed } else { self.speed / 4 * 3 + speed / 4 };
        self.best.add(self.speed, u64::max);
        let slower = speed < self.best.get(u64::max).unwrap_or(speed) / 100 * SLOWER_PERCENT;
        if let Some(before) = self.trying.take() {
            if slower {
                self.bound = before;
                self.patience = (self.patience * 2).min(PATIENCE_MAX_SPANS);
                self.resting = self.patience;
                return;
            }
            self.patience = 1;
        }
        self.resting = self.resting.saturating_sub(1);
        if waited > may_wait && !slower && self.resting == 0 {
            let less = (seen.most / 8 * 7).max(BOUND_MIN_BYTES);
            if self.bound.is_none_or(|bound| less < bound) {
                // What was under way may have been less than the least, for want of anything to send.
                let before = (seen.most / 8 * 9).max(BOUND_MIN_BYTES);
                self.trying = Some(self.bound.map(|bound| bound.min(before)));
                self.bound = Some(less);
            }
        } else if (waited < may_wait / 2 || slower) && seen.was_met {
            // Nothing waits; or the line has changed, and late is what it always will be.
            self.bound = self.bound.map(|bound| bound / 8 * 9).filter(|bound| *bound < BOUND_MAX_BYTES);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn on_a_narrow_line_little_waits_and_all_of_its_speed_is_used() {
        let line = Line { bytes_per_ms: 25_000, round_trip_ms: 10, ..Line::default() };
        let with = line.carry(Bound::Followed, 10_000);
        let without = line.carry(Bound::None, 10_000);
        assert!(with.bytes * 100 >= without.bytes * 99, "{with:?} {without:?}");
        assert!(without.late_ms > 20, "{without:?}");
        assert!(with.late_ms <= 6, "{with:?}");
    }

    #[test]
    fn a_line_on_which_only_the_processor_is_waited_for_has_no_bound() {
        let line = Line {
            bytes_per_ms: 100_000,
            round_trip_ms: 0,
            stands_ms: 9,
            every_ms: 10,
            seed: 7,
            ..Line::default()
        };
        let [with, without] = [Bound::Followed, Bound::None].map(|bound| line.carry(bound, 10_000).bytes);
        assert_eq!(with, without);
    }

    #[test]
    fn a_line_that_becomes_faster_is_used_to_the_full_again() {
        let mut carried = Vec::new();
        for bound in [Bound::Followed, Bound::None] {
            let line =
                Line { bytes_per_ms: 2_500, round_trip_ms: 10, faster_after_ms: 3_000, ..Line::default() };
            carried.push(line.carry(bound, 10_000).bytes);
        }
        assert!(carried[0] * 100 >= carried[1] * 93, "{carried:?}");
    }

    #[test]
    fn a_line_that_has_become_longer_is_used_to_the_full_again() {
        let line = Line { bytes_per_ms: 5_000, round_trip_ms: 10, longer_after_ms: 3_000, ..Line::default() };
        let [with, without] = [Bound::Followed, Bound::None].map(|bound| line.carry(bound, 60_000).bytes);
        assert!(with * 100 >= without * 93, "{with} {without}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        /// Whether packets get lost or the peer waits for a processor: the line stands still, then all comes at once.
        #[test]
        fn a_line_that_stumbles_is_no_slower_for_the_bound(
            bytes_per_ms in 1_000..100_000u64,
            round_trip_ms in 1..100u64,
            stands_ms in 0..120u64,
            every_ms in 5..200u64,
            seed in any::<u64>(),
        ) {
            let line = Line { bytes_per_ms, round_trip_ms, stands_ms, every_ms, seed, ..Line::default() };
            let [with, without] = [Bound::Followed, Bound::None].map(|bound| line.carry(bound, 20_000));
            prop_assert!(with.bytes * 100 >= without.bytes * 85, "{with:?} {without:?}");
        }

        #[test]
        fn the_bound_never_falls_below_its_least_and_nothing_is_kept_for_ever(
            heard in proptest::collection::vec((1..5u64, 0..200_000u64, 0..80u64), 1..400),
        ) {
            let mut now = Instant::now();
            let mut under_way = UnderWay::new(now);
            let mut progress = Progress::default();
            for (frames, bytes, ms) in heard {
                progress.sent += frames;
                progress.under_way_bytes = bytes as usize;
                under_way.sent(progress, bytes % 2 == 0, now);
                now += MS * ms as u32;
                progress.acknowledged += frames.min(progress.sent - progress.acknowledged);
                progress.acknowledged_bytes += bytes;
                under_way.heard(progress, now);
                prop_assert!(under_way.bound_bytes() >= BOUND_MIN_BYTES);
                prop_assert!(under_way.marks.len() <= MARKS_MAX);
            }
        }
    }

    #[derive(Clone, Copy)]
    enum Bound {
        Followed,
        None,
    }

    /// A line with a buffer that holds whatever comes, a sender that always has something, and windows of 1.5 MB.
    #[derive(Clone, Copy, Default)]
    struct Line {
        bytes_per_ms: u64,
        round_trip_ms: u64,
        /// Ten times as fast after so long, or as long, where it is not zero.
        faster_after_ms: u64,
        longer_after_ms: u64,
        /// Stands still for up to so long, about so often.
        stands_ms: u64,
        every_ms: u64,
        seed: u64,
    }

    #[derive(Debug)]
    struct Carried {
        bytes: u64,
        /// By how much an acknowledgement was later than the line's round trip, in the second half, at the median.
        late_ms: u64,
    }

    const WINDOWS_BYTES: u64 = 1_500_000;
    const FRAME_BYTES: u64 = 16_000;

    impl Line {
        fn carry(self, bound: Bound, for_ms: u64) -> Carried {
            let start = Instant::now();
            let mut under_way = UnderWay::new(start);
            let mut progress = Progress::default();
            let (mut on_line, mut on_way) = (VecDeque::new(), VecDeque::new());
            let (mut carried, mut stands_until, mut dice) = (0, 0, self.seed | 1);
            let mut late = Vec::new();
            for ms in 0..for_ms {
                let now = start + MS * ms as u32;
                let times = |after: u64| if after > 0 && ms >= after { 10 } else { 1 };
                let round_trip = self.round_trip_ms * times(self.longer_after_ms);
                while let Some((_, sent_at)) = on_way.pop_front_if(|(at, _): &mut (u64, u64)| *at <= ms) {
                    progress.acknowledged += 1;
                    progress.acknowledged_bytes += FRAME_BYTES;
                    progress.under_way_bytes -= FRAME_BYTES as usize;
                    under_way.heard(progress, now);
                    if ms > for_ms / 2 {
                        late.push((ms - sent_at).saturating_sub(round_trip));
                    }
                }
                let most = match bound {
                    Bound::Followed => under_way.bound_bytes().min(WINDOWS_BYTES as usize),
                    Bound::None => WINDOWS_BYTES as usize,
                };
                while progress.under_way_bytes < most {
                    progress.sent += 1;
                    progress.under_way_bytes += FRAME_BYTES as usize;
                    on_line.push_back(ms);
                    under_way.sent(progress, false, now);
                }
                under_way.sent(progress, true, now);
                carried += self.bytes_per_ms * times(self.faster_after_ms);
                carried = carried.min(on_line.len() as u64 * FRAME_BYTES);
                if ms >= stands_until && self.stands_ms > 0 && roll(&mut dice).is_multiple_of(self.every_ms) {
                    stands_until = ms + roll(&mut dice) % self.stands_ms;
                }
                while carried >= FRAME_BYTES
                    && let Some(sent_at) = on_line.pop_front()
                {
                    carried -= FRAME_BYTES;
                    let least = on_way.back().map_or(0, |(at, _)| *at);
                    on_way.push_back(((ms + round_trip).max(stands_until).max(least), sent_at));
                }
            }
            late.sort_unstable();
            Carried {
                bytes: progress.acknowledged_bytes,
                late_ms: late.get(late.len() / 2).copied().unwrap_or(0),
            }
        }
    }

    fn roll(dice: &mut u64) -> u64 {
        *dice ^= *dice << 13;
        *dice ^= *dice >> 7;
        *dice ^= *dice << 17;
        *dice
    }
}
