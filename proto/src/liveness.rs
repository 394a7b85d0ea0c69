//! Decides whether the other end of a websocket is alive: silence is death, on both ends.
//!
//! Whatever arrives counts as a sign of life. After `ping_interval` without one we ask; after
//! `dead_after` without one the link is dead, however busy our own sending is.

use std::time::{Duration, Instant};

/// Watches one link.
#[derive(Debug)]
pub struct Liveness {
    ping_interval: Duration,
    dead_after: Duration,
    heard_at: Instant,
    asked_at: Instant,
}

/// What a link needs now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing before the next [`Liveness::poll_timeout`].
    Quiet,
    /// Send a ping.
    Ask,
    /// Nothing was heard for this long: close the link.
    Dead { silent_for: Duration },
}

impl Liveness {
    /// A link that was alive at `now`.
    pub fn new(ping_interval: Duration, dead_after: Duration, now: Instant) -> Self {
        Self { ping_interval, dead_after, heard_at: now, asked_at: now }
    }

    /// Something arrived.
    pub fn heard(&mut self, now: Instant) {
        self.heard_at = self.heard_at.max(now);
    }

    /// Judges the link at `now`; [`Verdict::Ask`] comes once per interval.
    pub fn handle_timeout(&mut self, now: Instant) -> Verdict {
        let silent_for = now.saturating_duration_since(self.heard_at);
        if silent_for >= self.dead_after {
            return Verdict::Dead { silent_for };
        }
        if now >= self.ask_at() {
            self.asked_at = now;
            return Verdict::Ask;
        }
        Verdict::Quiet
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next.
    pub fn poll_timeout(&self) -> Instant {
        self.ask_at().min(self.heard_at + self.dead_after)
    }

    /// When the other end was last heard.
    pub fn heard_at(&self) -> Instant {
        self.heard_at
    }

    fn ask_at(&self) -> Instant {
        self.heard_at.max(self.asked_at) + self.ping_interval
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_silent_link_is_asked_and_then_dead() {
        let start = Instant::now();
        let mut link = Liveness::new(5 * S, 15 * S, start);
        assert_eq!(link.handle_timeout(start + 4 * S), Verdict::Quiet);
        assert_eq!(link.handle_timeout(start + 5 * S), Verdict::Ask);
        assert_eq!(link.handle_timeout(start + 6 * S), Verdict::Quiet);
        assert_eq!(link.handle_timeout(start + 10 * S), Verdict::Ask);
        assert_eq!(link.handle_timeout(start + 15 * S), Verdict::Dead { silent_for: 15 * S });
    }

    #[test]
    fn whatever_arrives_is_a_sign_of_life() {
        let start = Instant::now();
        let mut link = Liveness::new(5 * S, 15 * S, start);
        link.heard(start + 14 * S);
        assert_eq!(link.handle_timeout(start + 15 * S), Verdict::Quiet);
        assert_eq!(link.poll_timeout(), start + 19 * S);
    }
}
