//! How long to wait before the next attempt.

use std::time::Duration;

const S: Duration = Duration::from_secs(1);
const MIN: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// After the first attempt, the second …; then the last one again and again. An alert is worth an attempt an hour
/// for as long as it is worth anything.
const DELAYS: [Duration; 6] = [
    Duration::from_secs(5),
    Duration::from_secs(15),
    MIN,
    Duration::from_secs(5 * 60),
    Duration::from_secs(15 * 60),
    HOUR,
];

/// Beyond this an alert is history, and nobody waits for it.
pub const AGE_MAX: Duration = Duration::from_secs(48 * 60 * 60);

/// Longer than our own slowest rhythm no receiver can make us wait.
const RETRY_AFTER_MAX: Duration = HOUR;

/// How long to wait after attempt number `tries`, counted from 1: the schedule give or take a fifth, chosen by
/// `dice`, and no less than the receiver asked for, up to an hour.
pub fn retry_delay(tries: u32, retry_after: Option<Duration>, dice: u64) -> Duration {
    let step = usize::try_from(tries).unwrap_or(usize::MAX).saturating_sub(1).min(DELAYS.len() - 1);
    // Thousandths from 800 to 1200; u32 holds them.
    let thousandths = 800 + (dice % 401) as u32;
    let delay = DELAYS[step] * thousandths / 1000;
    delay.max(retry_after.unwrap_or_default().min(RETRY_AFTER_MAX)).max(S)
}
