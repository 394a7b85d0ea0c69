//! `posternctl completion SHELL` and `posternctl man`: made from the arguments themselves; central is not asked.

use std::{io, path::Path};

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{args::Args, failure::Failure};

const NAME: &str = "posternctl";

/// Prints what the shell has to source.
pub(crate) fn completion(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), NAME, &mut script);
    Ok(io::Write::write_all(&mut io::stdout(), &script)?)
}

/// Writes a page for each command into a folder.
pub(crate) fn man(folder: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        Failure::Failed(format!("man pages cannot be written to {}: {error}", folder.display()))
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(Args::command(), folder).map_err(failed)
}
