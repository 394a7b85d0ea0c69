//! A clock that counts sleep.
//!
//! An agent that was suspended must know so when it wakes: until it has heard from central again it may write
//! nothing. [`std::time::Instant`] stands still on Linux while the machine sleeps.

use std::fmt;
use std::time::Duration;

/// Time since some fixed point, suspended time included.
pub trait BootClock: fmt::Debug + Send + Sync {
    fn now(&self) -> Duration;
}

/// The machine's own: `CLOCK_BOOTTIME` on Linux, the performance counter (which counts sleep) on Windows.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemBootClock;

#[cfg(target_os = "linux")]
impl BootClock for SystemBootClock {
    fn now(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        // Boot time begins at zero and only grows; a kernel that says otherwise would be read as "long ago".
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
        Duration::new(seconds, nanos)
    }
}

#[cfg(not(target_os = "linux"))]
impl BootClock for SystemBootClock {
    fn now(&self) -> Duration {
        use std::sync::OnceLock;
        use std::time::Instant;
        // On Windows Instant is QueryPerformanceCounter, which goes on through sleep and hibernation.
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }
}

/// Tokio's clock, for tests that pause it.
#[derive(Clone, Copy, Debug)]
pub struct TokioClock(tokio::time::Instant);

impl TokioClock {
    /// Starts now; needs a tokio runtime.
    pub fn start() -> TokioClock {
        TokioClock(tokio::time::Instant::now())
    }
}

impl BootClock for TokioClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}
