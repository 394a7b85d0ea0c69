//! Waiting for a state, never for time: every wait names what it waits for and ends.

use std::time::{Duration, Instant};

/// Between two looks: short beside every limit here, long beside the cost of a look.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Looks until `look` sees something, and answers with it.
///
/// # Panics
/// When `limit` has passed and `look` still sees nothing; the message names `what`.
pub async fn wait_until<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    let seen = tokio::time::timeout(limit, async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    match seen.await {
        Ok(seen) => seen,
        Err(_) => panic!("waited {:.1?} in vain until {what}", started.elapsed()),
    }
}

/// Looks again and again for as long as `span`; `look` panics when it sees what must not be.
/// For sentences of the form "… and it stays that way".
pub async fn holds_for(span: Duration, mut look: impl AsyncFnMut()) {
    let until = Instant::now() + span;
    while Instant::now() < until {
        look().await;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
