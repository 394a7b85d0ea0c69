//! Why a command ends without success, and with which exit code.

use std::{io, process::ExitCode};

/// Each arm is one exit code; the text says what to do next.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// Central refused, or what was asked for did not succeed.
    #[error("{0}")]
    Failed(String),
    /// Arguments, environment or files are wrong; central was not asked.
    #[error("{0}")]
    Usage(String),
    /// Nobody answered whom we could trust.
    #[error("{0}")]
    NoAnswer(String),
    /// Whoever read our output has gone; nothing is left to say.
    #[error("the output was closed")]
    OutputClosed,
}

impl Failure {
    /// Says it on stderr and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if *self != Self::OutputClosed {
            eprintln!("posternctl: {self}");
        }
        ExitCode::from(self.exit_code())
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            // `posternctl events | head` did what it was asked.
            Self::OutputClosed => 0,
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::NoAnswer(_) => 3,
        }
    }
}

impl From<io::Error> for Failure {
    /// Writing to stdout failed.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Failed(format!("cannot write to stdout: {error}")),
        }
    }
}
