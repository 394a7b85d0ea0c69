//! A program run to its end, whatever that is: for tests of what somebody is told who made a mistake.

use std::process::Command;
use std::time::Duration;

use tokio::process::Command as AsyncCommand;
use tokio::time::timeout;

/// Mistakes are found before anything is waited for; only a network's silence takes a while.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// How a program ended, and what it said.
#[derive(Debug)]
pub struct Attempt {
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Attempt {
    /// Runs `command` to its end.
    ///
    /// # Panics
    /// When it cannot be started, or runs on as if nothing were wrong.
    pub async fn at(command: Command) -> Self {
        let what = format!("{command:?}");
        let running =
            AsyncCommand::from(command).stdin(std::process::Stdio::null()).kill_on_drop(true).output();
        let output = timeout(ENDS_WITHIN, running)
            .await
            .unwrap_or_else(|_| panic!("{what} still ran after {ENDS_WITHIN:?}"))
            .unwrap_or_else(|error| panic!("{what} could not be started: {error}"));
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// It failed with this code and said each of these on stderr.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn failed(&self, code: i32, said: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for part in said {
            assert!(self.stderr.contains(part), "{part:?} is missing in what it said: {}", self.stderr);
        }
    }
}
