//! Credit: how much may still be sent, and when the receiver grants more.
//!
//! A limit counts every byte since the stream (or the tunnel) began, so saying it twice does no harm, the newest
//! replaces all before it, and after a cut it is exact again. Limits never shrink.
//!
//! Who grants: what streams may still send us adds up to no more than the tunnel's own limit (a floor per stream
//! aside), so readers that stand still use up their own share and never the tunnel: a slow reader holds up its own
//! stream only.

use std::time::{Duration, Instant};

/// What the opener may send before the other end has answered, first bytes included; also the least any stream
/// is granted. Part of the wire format.
pub const OPEN_CREDIT_BYTES: u64 = 16 * 1024;
/// What each end may send in all before it has heard the tunnel's limit. Part of the wire format.
pub const TUNNEL_CREDIT_BYTES: u64 = 1024 * 1024;

/// So many streams are always expected to come yet, when a new one is granted its first credit.
const SHARE: u64 = 16;
/// What a stream whose reader keeps up may have of what the tunnel has left: enough for one alone on a long line.
const REFILL_SHARE: u64 = 4;

/// The sending half: what was sent, what may be.
#[derive(Clone, Debug)]
pub(super) struct Sending {
    pub(super) sent: u64,
    pub(super) limit: u64,
}

impl Sending {
    pub(super) fn new(limit: u64) -> Sending {
        Sending { sent: 0, limit }
    }

    pub(super) fn available(&self) -> u64 {
        self.limit.saturating_sub(self.sent)
    }

    /// Takes a new limit; false if it shrank. `Ok(true)` when there is more than before.
    pub(super) fn raise(&mut self, limit: u64) -> Result<bool, Shrank> {
        if limit < self.limit {
            return Err(Shrank { from: self.limit, to: limit });
        }
        let more = limit > self.limit;
        self.limit = limit;
        Ok(more)
    }
}

pub(super) struct Shrank {
    pub(super) from: u64,
    pub(super) to: u64,
}

pub(super) struct Overrun {
    pub(super) limit: u64,
    pub(super) reached: u64,
}

/// The receiving half: what came, what was taken by the reader, what was granted.
#[derive(Clone, Debug)]
pub(super) struct Receiving {
    received: u64,
    consumed: u64,
    limit: u64,
    window: u64,
    measured: Measured,
}

/// How fast a whole window was used up, to see whether the window is what limits the sender.
#[derive(Clone, Debug, Default)]
struct Measured {
    since: Option<Instant>,
    bytes: u64,
}

impl Receiving {
    /// `limit` has been granted; from now on the grant follows the reader with `window` bytes ahead of it.
    pub(super) fn new(limit: u64, window: u64) -> Receiving {
        Receiving { received: 0, consumed: 0, limit, window, measured: Measured::default() }
    }

    /// Bytes that arrived and wait for the reader, and those that still may arrive.
    pub(super) fn outstanding(&self) -> u64 {
        self.limit - self.consumed
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }

    pub(super) fn window(&self) -> u64 {
        self.window
    }

    pub(super) fn arrive(&mut self, bytes: u64) -> Result<(), Overrun> {
        let reached = self.received.saturating_add(bytes);
        if reached > self.limit {
            return Err(Overrun { limit: self.limit, reached });
        }
        self.received = reached;
        Ok(())
    }

    pub(super) fn consume(&mut self, bytes: u64) {
        self.consumed += bytes;
        debug_assert!(self.consumed <= self.received, "only what arrived can be taken");
    }

    /// No byte will come any more: what was granted and not used is free for others.
    pub(super) fn finish(&mut self) {
        self.limit = self.received;
    }

    /// The new limit to tell the sender, if it is worth a frame: a quarter of the grant is. Waiting longer would
    /// leave the sender idle on long lines, telling earlier would cost a frame per read.
    pub(super) fn refill(&mut self, grant: u64) -> Option<u64> {
        self.raise(grant, grant.div_ceil(4))
    }

    /// The same for the tunnel. Readers that stand still may sit on most of it, and then a quarter never comes
    /// together: whatever is more than the sender has left is worth a frame, too.
    pub(super) fn refill_tunnel(&mut self, grant: u64) -> Option<u64> {
        let left = self.limit - self.received;
        self.raise(grant, grant.div_ceil(4).min(left + 1))
    }

    fn raise(&mut self, grant: u64, worth: u64) -> Option<u64> {
        let limit = self.consumed.saturating_add(grant);
        if limit < self.limit.saturating_add(worth) {
            return None;
        }
        self.limit = limit;
        Some(limit)
    }

    /// Grants at least so much ahead of the reader, whatever it is worth.
    pub(super) fn grant_at_least(&mut self, grant: u64) {
        self.limit = self.limit.max(self.consumed.saturating_add(grant));
    }

    /// Doubles the window when a whole one was used up in less than so many of the shortest round trips: then the
    /// window, not the line, is what limits the sender. Two; on a long line four, because there packets get lost, and each
    /// holds up all behind it for another one or two.
    pub(super) fn measure(&mut self, bytes: u64, shortest_round_trip: Duration, max: u64, now: Instant) {
        let since = *self.measured.since.get_or_insert(now);
        self.measured.bytes += bytes;
        if self.measured.bytes < self.window {
            return;
        }
        let round_trips = if shortest_round_trip < LONG_ROUND_TRIP { 2 } else { 4 };
        if now.saturating_duration_since(since) < shortest_round_trip * round_trips {
            self.window = self.window.saturating_mul(2).min(max).max(self.window);
        }
        self.measured = Measured { since: Some(now), bytes: 0 };
    }
}

/// What a line within one building stays below.
const LONG_ROUND_TRIP: Duration = Duration::from_millis(20);

/// The line's round trip without what waits on it: the shortest of the last few. Not of all there ever were, because the
/// way between two hosts changes, and a line that has become longer needs larger windows.
#[derive(Clone, Debug, Default)]
pub(super) struct RecentRoundTrips {
    last: [Option<Duration>; RECENT_ROUND_TRIPS],
    next: usize,
}

/// With a ping every five seconds, those of the last minute.
const RECENT_ROUND_TRIPS: usize = 12;

impl RecentRoundTrips {
    pub(super) fn add(&mut self, round_trip: Duration) {
        self.last[self.next] = Some(round_trip);
        self.next = (self.next + 1) % RECENT_ROUND_TRIPS;
    }

    /// Zero before the first: then no window grows.
    pub(super) fn shortest(&self) -> Duration {
        self.last.iter().flatten().min().copied().unwrap_or_default()
    }
}

/// What a new stream is granted: the whole first window while streams are few, less when they are many, so that
/// thousands of idle ones cannot hold all there is. Those that are used are given more by [`refill_grant`].
pub(super) fn first_grant(window: u64, tunnel_window: u64, streams: usize) -> u64 {
    let share = tunnel_window / 4 / (streams as u64 + SHARE);
    window.min(share).max(OPEN_CREDIT_BYTES)
}

/// What a stream whose reader keeps reading may have ahead of it.
pub(super) fn refill_grant(window: u64, tunnel_window: u64, granted_to_others: u64) -> u64 {
    let share = tunnel_window.saturating_sub(granted_to_others) / REFILL_SHARE;
    window.min(share).max(OPEN_CREDIT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn thousands_of_idle_streams_leave_most_of_the_tunnel_free() {
        let tunnel_window = 64 * MIB;
        let mut granted = 0;
        for streams in 0..1000 {
            granted += first_grant(256 * 1024, tunnel_window, streams);
        }
        assert!(granted <= tunnel_window, "{granted}");
        assert_eq!(first_grant(256 * 1024, tunnel_window, 0), 256 * 1024);
    }

    #[test]
    fn greedy_streams_share_and_never_take_all() {
        let tunnel_window = 64 * MIB;
        let mut streams = vec![0u64; 500];
        for _ in 0..20 {
            for i in 0..streams.len() {
                let others = streams.iter().sum::<u64>() - streams[i];
                streams[i] = refill_grant(4 * MIB, tunnel_window, others);
            }
        }
        assert!(streams.iter().sum::<u64>() <= tunnel_window);
        assert!(streams.iter().all(|&granted| granted >= OPEN_CREDIT_BYTES));
    }

    #[test]
    fn credit_is_told_again_after_a_quarter_of_the_window_was_read() {
        let mut flow = Receiving::new(1000, 1000);
        flow.arrive(1000).ok().unwrap();
        flow.consume(249);
        assert_eq!(flow.refill(1000), None);
        flow.consume(1);
        assert_eq!(flow.refill(1000), Some(1250));
    }

    #[test]
    fn on_a_long_line_a_window_grows_although_packets_get_lost() {
        let start = Instant::now();
        let round_trip = Duration::from_millis(80);
        let mut flow = Receiving::new(1000, 1000);
        flow.measure(1, round_trip, 8000, start);
        flow.measure(1000, round_trip, 8000, start + round_trip * 3);
        assert_eq!(flow.window(), 2000);
        flow.measure(2000, round_trip, 8000, start + round_trip * 7);
        assert_eq!(flow.window(), 2000, "four round trips: the line is the limit");
    }

    #[test]
    fn a_line_that_has_become_longer_is_known_to_be_after_a_while() {
        let mut recent = RecentRoundTrips::default();
        assert_eq!(recent.shortest(), Duration::ZERO);
        let ms = Duration::from_millis;
        recent.add(ms(1));
        for _ in 1..RECENT_ROUND_TRIPS {
            recent.add(ms(80));
            assert_eq!(recent.shortest(), ms(1), "what waits on the line is not its length");
        }
        recent.add(ms(80));
        assert_eq!(recent.shortest(), ms(80));
    }

    #[test]
    fn a_window_grows_only_while_it_is_what_limits_the_sender() {
        let start = Instant::now();
        let round_trip = Duration::from_millis(10);
        let mut flow = Receiving::new(1000, 1000);
        flow.measure(1, round_trip, 8000, start);
        flow.measure(999, round_trip, 8000, start + Duration::from_millis(30));
        assert_eq!(flow.window(), 1000, "a full window took three round trips: the line is the limit");
        flow.measure(1000, round_trip, 8000, start + Duration::from_millis(41));
        assert_eq!(flow.window(), 2000, "and this one took one");
    }
}
