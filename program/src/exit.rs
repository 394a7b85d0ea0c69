//! How a program ends: 0 done, 1 it failed, 2 wrong usage or configuration, 3 nobody answered.

use std::{error::Error, process::ExitCode};

use crate::explain::explain;

/// Wrong usage or configuration: nothing was started.
pub const CONFIG: u8 = 2;

/// Runs `work` on a runtime of `threads` worker threads, or one per processor.
pub fn in_runtime(program: &str, threads: Option<usize>, work: impl Future<Output = ExitCode>) -> ExitCode {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    match builder.enable_all().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => failed(program, &error),
    }
}

/// Says why on standard error: code 1.
pub fn failed(program: &str, error: &(dyn Error + 'static)) -> ExitCode {
    eprintln!("{program}: {}", explain(error));
    ExitCode::FAILURE
}

/// Says where on standard error, in lines an editor can follow: code 2.
pub fn bad_config(error: &(dyn Error + 'static)) -> ExitCode {
    eprintln!("{}", explain(error));
    ExitCode::from(CONFIG)
}
