//! Where log lines go: standard error, as text for people or JSON for machines.

use serde::Deserialize;
use tracing_subscriber::{EnvFilter, fmt::time::SystemTime, layer::SubscriberExt, util::SubscriberInitExt};

/// The `log` section of a program's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    /// A filter as `tracing` reads it, such as `info` or `info,agent::dialer=debug`.
    pub level: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    Text,
    Json,
}

/// Raft's own story is for those who ask for it: ours says who leads and who claimed. What is wanted
/// comes behind and wins.
const QUIET: &str = "openraft=error";

/// Starts logging. `POSTERN_LOG` overrides the configured filter. A second call changes nothing.
///
/// A filter that cannot be read falls back to `info`, and says so.
pub fn init(log: &Log) {
    let wanted = std::env::var("POSTERN_LOG").unwrap_or_else(|_| log.level.clone());
    let (filter, mistake) = match EnvFilter::try_new(format!("{QUIET},{wanted}")) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_timer(SystemTime).with_writer(std::io::stderr);
    // Fails only when logging was started before, as by a test.
    let _ = match log.format {
        LogFormat::Text => registry.with(lines.with_ansi(is_terminal())).try_init(),
        LogFormat::Json => registry.with(lines.json()).try_init(),
    };
    if let Some(mistake) = mistake {
        tracing::warn!(filter = wanted, %mistake, "The log filter cannot be read; logging at info");
    }
}

fn is_terminal() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none()
}
