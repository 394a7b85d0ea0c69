//! What the programs log, with the world's time and the host that speaks.

use std::fmt;

use tracing_subscriber::fmt::{format::Writer, time::FormatTime};

use crate::{
    kernel::{self, NANOS},
    programs::HOSTS,
};

struct WorldTime;

impl FormatTime for WorldTime {
    fn format_time(&self, to: &mut Writer<'_>) -> fmt::Result {
        let at = kernel::now().unwrap_or(0) as f64 / NANOS as f64;
        let host = kernel::running().and_then(|host| HOSTS.get(host)).map_or("", |(name, _, _)| *name);
        write!(to, "{at:10.4} {host:8}")
    }
}

/// Shows from now on what `filter` lets through (`RUST_LOG`'s words).
pub fn log(filter: &str) {
    // A second call finds it done.
    let _ =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_timer(WorldTime).try_init();
}
