//! How large the segments of a connection to central may be.
//!
//! A path may swallow large packets without a word (RFC 2923, section 2.1: "black hole"). Connections begin and small
//! signs of life pass, but behind the first large segment everything waits, as TCP delivers in order. No program sees its
//! packets. It sees connections that stand still one after the other although each could be opened, and then it can ask
//! for small segments when it opens the next: the SYN says so to the other end too (RFC 9293, section 3.7.1).
//!
//! ```text
//!   whole ── stood still, twice in a short time ──► small ── stood still, or an hour later ──► whole
//! ```

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// What every path in use lets pass, with room for what tunnels below put in front (RFC 4821, section 7.2, begins its
/// search there). Costs a large transfer some four more bytes in a hundred.
const SMALL_BYTES: u32 = 1024;
/// Two connections that stood still within this time are no accident. Longer than central is silent before an end is
/// believed (15 s by default), and a handshake on top.
const TOGETHER: Duration = Duration::from_secs(90);
/// Then the path may have been mended.
const KEPT_FOR: Duration = Duration::from_secs(3600);

/// What is known of the path to central. Clones know the same.
#[derive(Debug, Clone, Default)]
pub struct Segments(Arc<Mutex<Known>>);

/// What one connection was opened with.
#[derive(Debug, Clone)]
pub struct Line {
    segments: Segments,
    small: bool,
}

#[derive(Debug, Default)]
struct Known {
    stood_still_at: Option<Instant>,
    small_since: Option<Instant>,
}

impl Segments {
    /// For a connection that is to be opened now.
    pub fn line(&self) -> Line {
        let mut known = self.known();
        if known.small_since.is_some_and(|since| since.elapsed() >= KEPT_FOR) {
            *known = Known::default();
        }
        Line { segments: self.clone(), small: known.small_since.is_some() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// The largest segment in bytes; nothing: what the hosts find out by themselves.
    pub fn largest(&self) -> Option<u32> {
        self.small.then_some(SMALL_BYTES)
    }

    /// The connection was open, and then nothing more came through it.
    pub fn stood_still(&self) {
        let mut known = self.segments.known();
        if self.small {
            // Then it was not their size.
            *known = Known::default();
            return;
        }
        let before = known.stood_still_at.replace(Instant::now());
        if known.small_since.is_none() && before.is_some_and(|before| before.elapsed() < TOGETHER) {
            *known = Known { stood_still_at: None, small_since: Some(Instant::now()) };
            tracing::warn!(
                segment_bytes = SMALL_BYTES,
                "Two connections to central stood still soon after each other although both could be opened: something on \
                 the way may swallow large packets. For an hour new ones use small segments. To be mended on the way: let \
                 ICMP \"fragmentation needed\" pass, or lower the MTU; or set net.ipv4.tcp_mtu_probing = 1 on both hosts"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_connection_that_stands_still_is_an_accident_and_two_are_the_path() {
        let segments = Segments::default();
        segments.line().stood_still();
        assert_eq!(segments.line().largest(), None);
        advance(TOGETHER).await;
        segments.line().stood_still();
        assert_eq!(segments.line().largest(), None, "the first one was long ago");
        advance(TOGETHER / 2).await;
        segments.line().stood_still();
        assert_eq!(segments.line().largest(), Some(1024));
    }

    #[tokio::test(start_paused = true)]
    async fn small_segments_that_do_not_help_are_given_up() {
        let segments = small();
        segments.line().stood_still();
        assert_eq!(segments.line().largest(), None);
        segments.line().stood_still();
        assert_eq!(segments.line().largest(), None, "and it begins from nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_connection_says_nothing_of_small_segments() {
        let segments = Segments::default();
        let older = segments.line();
        for _ in 0..2 {
            segments.line().stood_still();
        }
        older.stood_still();
        assert_eq!(segments.line().largest(), Some(1024));
    }

    #[tokio::test(start_paused = true)]
    async fn after_an_hour_the_path_is_tried_as_it_is() {
        let segments = small();
        advance(KEPT_FOR - Duration::from_secs(1)).await;
        assert_eq!(segments.line().largest(), Some(1024));
        advance(Duration::from_secs(1)).await;
        assert_eq!(segments.line().largest(), None);
    }

    fn small() -> Segments {
        let segments = Segments::default();
        for _ in 0..2 {
            segments.line().stood_still();
        }
        assert_eq!(segments.line().largest(), Some(1024));
        segments
    }
}
